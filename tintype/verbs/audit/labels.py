"""Find labels that look wrong: confident learning on out-of-sample probabilities.

See Northcutt, Jiang and Chuang 2021.

A classifier that has not seen an image says what it would be; where it is as sure of another class
as it usually is when that class is right, and less sure of the label, the label is worth a look.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from threadpoolctl import threadpool_limits

from tintype.tasks.linear_heads import Rows, discriminant, log_losses

FOLDS = 5
# images that the head of a fold learns from; more add time and little else
MOST_TRAINING = 20_000


@dataclass(frozen=True)
class LabelIssues:
    """Images whose label looks wrong, the most doubtful first.

    `rows` (K,) positions, `suggested` (K,) the class that looks right, `given_probability` and
    `suggested_probability` (K,). `accuracy` is what the classifier reached on images that it had
    not seen: the lower, the less this says. `probabilities` (N, C) of all images, NaN where one was
    not judged; `others` holds the positions of the images whose label does not look wrong, again
    the most doubtful first.
    """

    rows: np.ndarray
    suggested: np.ndarray
    given_probability: np.ndarray
    suggested_probability: np.ndarray
    accuracy: float
    probabilities: np.ndarray = field(default_factory=lambda: np.empty((0, 0)), repr=False)
    others: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64), repr=False)


def find_label_issues(
    features: np.ndarray,
    targets: np.ndarray,
    groups: np.ndarray | None = None,
    seed: int = 0,
    *,
    only_very_sure: bool = False,
) -> LabelIssues:
    """Assess every label by a linear head on features, cross-validated.

    Args:
        features: (N, F) float; one row for each image.
        targets: (N,) int64.
        groups: (N,) int; images of one group are in the same fold, so that a copy cannot vouch for
            its twin.
        seed: decides on the folds.
        only_very_sure: as of `assess`.
    """
    num_labels = int(targets.max()) + 1
    probabilities = out_of_sample(features, targets, num_labels, groups, seed)
    return assess(probabilities, targets, only_very_sure=only_very_sure)


def assess(
    probabilities: np.ndarray, targets: np.ndarray, *, only_very_sure: bool = False
) -> LabelIssues:
    """Assess every label by what a classifier that has not seen the image says.

    As many labels look wrong as confident learning counts; which ones, the probability of the label
    decides. What the classifier says counts only where it is sure: the other class must lead by at
    least the share of images that it gets wrong while their labels look right.

    Args:
        probabilities: (N, C), out of sample; NaN where an image is not judged.
        targets: (N,) int64.
        only_very_sure: of a weak classifier: count all that differs from the labels as its mistake.
    """
    judged = np.flatnonzero(~np.isnan(probabilities[:, 0]))
    p, given = probabilities[judged], targets[judged]
    rows = np.arange(len(judged))
    best, own = p.argmax(1), p[rows, given]
    accuracy = float((best == given).mean()) if len(judged) else 0.0

    order = np.argsort(own, kind="stable")
    differing = order[best[order] != given[order]]
    found = differing[: confident_count(p, given)]
    mistakes = 1 - accuracy if only_very_sure else 1 - accuracy - len(found) / max(1, len(judged))
    found = found[p[found, best[found]] - own[found] >= mistakes]
    others = order[~np.isin(order, found)]
    return LabelIssues(
        judged[found],
        best[found],
        own[found],
        p[found, best[found]],
        accuracy,
        probabilities,
        judged[others],
    )


def confident_count(probabilities: np.ndarray, targets: np.ndarray) -> int:
    """Return how many labels confident learning counts as wrong.

    The confident joint is scaled to the number of images of each label (equation 3); what stands
    off its diagonal is wrong. Which labels these are follows elsewhere: "prune by noise rate"
    (section 4) takes those with the largest margin of the other class, and on labels that people
    gave to CIFAR-10 and CIFAR-100 the least probable labels are more often the wrong ones
    (benchmarks/labels.py).

    Args:
        probabilities: (N, C), out of sample.
        targets: (N,) int.
    """
    joint = confident_joint(probabilities, targets)
    counts = np.bincount(targets, minlength=len(joint))
    scaled = np.rint(joint * (counts / joint.sum(1).clip(1))[:, None])
    return int(scaled.sum() - np.trace(scaled))


def confident_joint(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return (C, C) counts: images labelled i that are confidently of class j.

    The confident joint counts an image for the most probable of the classes whose threshold it
    reaches; the threshold of a class is the mean probability of that class over the images labelled
    so (Northcutt et al. 2021, equations 1 and 2).
    """
    num_labels = probabilities.shape[1]
    own = probabilities[np.arange(len(targets)), targets]
    counts = np.bincount(targets, minlength=num_labels)
    sums = np.bincount(targets, weights=own, minlength=num_labels)
    thresholds = np.where(counts > 0, sums / counts.clip(1), np.inf)
    reached = np.where(probabilities >= thresholds, probabilities, -1.0)
    confident = reached.max(1) >= 0
    joint = np.zeros((num_labels, num_labels), np.int64)
    np.add.at(joint, (targets[confident], reached.argmax(1)[confident]), 1)
    return joint


def out_of_sample(
    features: np.ndarray,
    targets: np.ndarray,
    num_labels: int,
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Return (N, C) probabilities from heads that did not see the image; NaN where a class has too
    few images.

    Linear discriminant analysis takes a second where the choice among all heads takes ten, and
    ranks wrong labels as well (benchmarks/labels.py). Its logits are calibrated by one factor.
    """
    fold = _folds(targets, np.arange(len(targets)) if groups is None else groups, seed)
    usable = np.flatnonzero(fold >= 0)
    if len(np.unique(targets[usable])) < 2:
        return np.full((len(targets), num_labels), np.nan)

    logits = np.full((len(targets), num_labels), np.nan)
    # One thread: on matrices of this size the threads of BLAS wait for each other more than they
    # work.
    with threadpool_limits(1):
        for k in range(FOLDS):
            train, held_out = usable[fold[usable] != k], usable[fold[usable] == k]
            if len(train) > MOST_TRAINING:
                train = np.random.default_rng([seed, k]).permutation(train)[:MOST_TRAINING]
            rows = Rows(features[train].astype(np.float64), targets[train], num_labels)
            logits[held_out] = discriminant(rows).logits(features[held_out])
    probabilities = np.full((len(targets), num_labels), np.nan)
    probabilities[usable] = calibrated(logits[usable], targets[usable])
    return probabilities


def calibrated(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return probabilities (N, C) of logits times the factor that makes their log loss least."""

    def loss(exponent: float) -> float:
        return float(log_losses(math.exp(exponent) * logits, targets).mean())

    exponent: float = minimize_scalar(loss, bounds=(-7, 3), method="bounded").x  # pyright: ignore
    return softmax(math.exp(exponent) * logits, axis=1)


def _folds(targets: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """Return the fold of each image, even in each class; -1 where a class has fewer groups than
    there are folds.
    """
    fold = np.full(len(targets), -1)
    firsts, index = np.unique(groups, return_index=True)
    for label in np.unique(targets):
        rows = index[targets[index] == label]
        if len(rows) >= FOLDS:
            rows = np.random.default_rng([seed, int(label)]).permutation(rows)
            fold[rows] = np.arange(len(rows)) % FOLDS
    return fold[index][np.searchsorted(firsts, groups)]
