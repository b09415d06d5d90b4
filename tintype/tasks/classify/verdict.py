"""The verdict on a classifier, from the gap between training and validation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tintype.statistics import Clusters, clusters_of, newcombe_interval, percent, share_interval

# The rule of `fit_verdict`, in parts of one: a gap up to this size is ordinary optimism, ...
ORDINARY_GAP = 0.05
# ... a model that learned less than this part of what lies between chance and perfection underfits,
# ...
LEARNED_PART = 0.75
# ... and a gap known less exactly than this (width of its interval) is called uncertain.
UNCERTAIN_WIDTH = 0.20
# A class of which so many validation images are all missed is called never recognised.
FEWEST_MISSED = 5
# Standard errors of a sample's accuracy between which that of all images is taken to lie.
SURELY = 3.5
AGAINST_OVERFITTING = "more augmentation, weight decay, fewer epochs"


@dataclass(frozen=True)
class Verdict:
    """What the gap between training and validation says of the fit.

    One word, a text for the user, and the numbers behind it.

    `gap` is the training accuracy less the validation accuracy, with its 95 % interval; both are
    parts of one. `never_recognised` names the classes of which no image, or no validation image, is
    recognised.
    """

    word: str  # "underfits", "fits" or "overfits"
    text: str
    gap: float
    gap_ci95: tuple[float, float]
    never_recognised: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClassCounts:
    """How many images of each class (K,) were measured, and how many were recognised.

    Of images in groups, `num_groups` (K,) counts those of each class, `clusters` says how much less
    the images tell of the accuracy, and `clusters_of_recall` of the balanced one.
    """

    num_right: NDArray[np.int64]
    num_images: NDArray[np.int64]
    num_groups: NDArray[np.int64] | None = None
    clusters: Clusters | None = None
    clusters_of_recall: Clusters | None = None

    @classmethod
    def of(
        cls, right: ArrayLike, targets: ArrayLike, num_classes: int, groups: ArrayLike | None = None
    ) -> ClassCounts:
        """Return the counts of images of the classes `targets` (N,).

        `right` (N,) says which are recognised; those of one of `groups` (N,) may be alike.

        The balanced accuracy is a mean of images that weigh by one over the size of their class;
        what a group adds to its variance is what it adds to that of the mean, linearised (Korn and
        Graubard 1998, as in `clusters_of`).
        """
        right, targets = np.asarray(right, dtype=bool), np.asarray(targets)
        num_images = np.bincount(targets, minlength=num_classes)
        num_right = np.bincount(targets[right], minlength=num_classes)
        if groups is None:
            return cls(num_right, num_images)

        numbers = np.asarray(groups)
        num_groups = np.array([len(np.unique(numbers[targets == k])) for k in range(num_classes)])
        weight = len(targets) / np.count_nonzero(num_images) / num_images[targets]
        recall = num_right[targets] / num_images[targets]
        spread = float((weight**2).mean()) / 4
        of_recall = clusters_of(weight * (right - recall), numbers, spread)
        return cls(num_right, num_images, num_groups, clusters_of(right, numbers, 0.25), of_recall)

    @property
    def commonest_share(self) -> float:
        """The accuracy of always answering with the commonest class."""
        return float(self.num_images.max() / self.num_images.sum())

    def mean_recall(self, confidence: float = 0.95) -> tuple[float, float, float]:
        """Return the balanced accuracy and its interval (value, low, high).

        It is over the classes that occur.

        The interval joins Wilson's of each class (MOVER: Zou and Donner, Statistics in Medicine 27,
        2008).
        """
        occurs = np.flatnonzero(self.num_images)
        counted = [(int(self.num_right[k]), int(self.num_images[k])) for k in occurs]
        recalls = np.array([right / n for right, n in counted])
        ends = np.array(
            [share_interval(right, n, self.clusters_of_recall, confidence) for right, n in counted]
        )
        below, above = np.linalg.norm(recalls - ends[:, 0]), np.linalg.norm(ends[:, 1] - recalls)
        mean, num = float(recalls.mean()), len(occurs)
        return mean, max(0.0, mean - float(below) / num), min(1.0, mean + float(above) / num)


def fit_verdict(
    train_correct: int,
    train_n: int,
    val_correct: int,
    val_n: int,
    num_classes: int,
    *,
    train_classes: ClassCounts | None = None,
    val_classes: ClassCounts | None = None,
    class_names: Sequence[str] = (),
    against_overfitting: str = AGAINST_OVERFITTING,
) -> Verdict:
    """Say whether a classifier underfits, fits or overfits, by a stated rule.

    Training accuracy must have been measured on clean training images by the final model. In this
    order:

    1. "underfits": the upper end of the training accuracy's 95 % Wilson interval is below chance +
       0.75 (1 - chance), where chance is the share of the commonest class among the training images
       (1 / num_classes without `train_classes`). Or the upper end of the balanced accuracy's is,
       where chance is 1 / num_classes: a model that always answers with the commonest class has
       not learned the others. A gap as in 2 is then stated as well.
    2. "overfits": the 95 % Newcombe interval of (training accuracy - validation accuracy) lies
       wholly above 5 points, or that of the balanced accuracies does.
    3. "fits": neither was shown.

    Classes that are never recognised are named in any case. Where the gap's interval is wider than
    20 points, the word stays and the text says that it is uncertain. Of images in groups, all
    intervals are those of clusters.

    Args:
        train_correct: training images that were answered rightly, of `train_n`.
        train_n: how many were measured.
        val_correct: the same of validation.
        val_n: the same.
        num_classes: how many classes the model tells apart.
        train_classes: the same counts by class.
        val_classes: those of validation.
        class_names: how the classes are called.
        against_overfitting: what to try where the model overfits.

    Raises:
        ValueError: counts that do not fit each other, no training or no validation images, or fewer
            than two classes.
    """
    if train_n == 0 or val_n == 0 or num_classes < 2:
        raise ValueError(
            f"no verdict on {train_n} training and {val_n} "
            f"validation images of {num_classes} classes"
        )
    of_train = None if train_classes is None else train_classes.clusters
    of_val = None if val_classes is None else val_classes.clusters
    commonest = 0.0 if train_classes is None else train_classes.commonest_share
    gap = _Gap(
        train=train_correct / train_n,
        train_highest=share_interval(train_correct, train_n, of_train)[1],
        val=val_correct / val_n,
        interval=newcombe_interval(
            train_correct, train_n, val_correct, val_n, clusters1=of_train, clusters2=of_val
        ),
        chance=max(1 / num_classes, commonest),
        has_commonest=commonest >= 1.5 / num_classes,
    )

    word, reason = _word_and_reason(gap, _verdict_by_class(train_classes, val_classes, num_classes))
    never, remark = _never_recognised(train_classes, val_classes, class_names)
    advice = _advice(word, against_overfitting, balance=bool(never))
    doubt = _doubt(gap, (train_n, of_train), (val_n, of_val))
    text = f"{word}: {reason}.{remark}{advice}{doubt}"

    return Verdict(word, text, gap.value, gap.interval, never)


def is_settled(train: ClassCounts, val: ClassCounts, num_images: int) -> bool:
    """Say whether the word would be the same if `num_images` training images were measured.

    The accuracy of all training images is taken to lie within three and a half standard errors of
    that of these: where the word is the same at both ends, it is. More of the training images then
    make no difference; `benchmarks/coverage.py sample` counts how often they would.

    Args:
        train: counts of a random sample of the training images.
        val: those of all validation images.
        num_images: how many training images would be measured otherwise.
    """
    if train.clusters is not None or val.clusters is not None:
        return False
    words = set()
    for sign in (-1, 1):
        there = _shifted(train, sign * SURELY, num_images)
        found = fit_verdict(
            int(there.num_right.sum()),
            int(there.num_images.sum()),
            int(val.num_right.sum()),
            int(val.num_images.sum()),
            len(val.num_images),
            train_classes=there,
            val_classes=val,
            class_names=[""] * len(val.num_images),
        )
        words.add(found.word)
    return len(words) == 1


def _shifted(sample: ClassCounts, deviations: float, num_images: int) -> ClassCounts:
    """Return counts of so many images, where all recalls are so many standard errors higher.

    The error is that of the balanced accuracy or of the accuracy, whichever is larger. Laplace's
    rule gives classes and samples without a mistake an error as well.
    """
    total = sample.num_images.sum()
    occurs = sample.num_images > 0
    recall = (sample.num_right + 1) / (sample.num_images + 2)
    variance = recall * (1 - recall) / np.maximum(sample.num_images, 1)
    share = (sample.num_right.sum() + 1) / (total + 2)
    error = max(
        math.sqrt(share * (1 - share) / total),
        math.sqrt(float(variance[occurs].sum())) / np.count_nonzero(occurs),
    )
    counts = np.maximum(occurs, np.rint(sample.num_images * num_images / total)).astype(np.int64)
    shares = np.clip(sample.num_right / np.maximum(sample.num_images, 1) + deviations * error, 0, 1)
    return ClassCounts(np.rint(shares * counts).astype(np.int64), counts)


@dataclass(frozen=True)
class _Gap:
    """What was measured, in parts of one: both accuracies, their difference, and chance.

    `train_highest` is the upper end of the training accuracy's interval; `has_commonest` says
    whether one class is so common that chance lies above that of equal classes.
    """

    train: float
    train_highest: float
    val: float
    interval: tuple[float, float]
    chance: float
    has_commonest: bool

    @property
    def value(self) -> float:
        return self.train - self.val

    @property
    def enough(self) -> float:
        """The accuracy from which on a model counts as having learned."""
        return self.chance + LEARNED_PART * (1 - self.chance)

    @property
    def shown(self) -> bool:
        """Whether the gap is larger than usual beyond doubt."""
        return self.interval[0] > ORDINARY_GAP

    @property
    def width(self) -> str:
        return f"{_points(self.interval[0])} to {_points(self.interval[1])}"

    def __str__(self) -> str:
        return f"the gap of {_points(self.value)} points ({self.width})"


def _word_and_reason(gap: _Gap, by_class: tuple[str, str] | None) -> tuple[str, str]:
    """Apply the rule of `fit_verdict`; `by_class` is what the balanced accuracy says."""
    trained, validated = percent(gap.train), percent(gap.val)
    seen = f"{trained} right on training images and {validated} on validation images"
    ordinary = f"the usual {100 * ORDINARY_GAP:g} points"

    if gap.train_highest < gap.enough:
        return "underfits", _why_underfits(gap, ordinary)
    if by_class and by_class[0] == "underfits":
        return "underfits", f"{seen}; {by_class[1]}"
    if gap.shown:
        return "overfits", f"{seen}: {gap} is more than {ordinary}"
    if by_class:
        return by_class[0], f"{seen}; {by_class[1]}"

    if gap.interval[1] <= ORDINARY_GAP:
        return "fits", f"no sign of overfitting: {seen}, and {gap} is within {ordinary}"
    if gap.train <= gap.val:
        why = f"so validation is as good as training (gap {gap.width} points)"
        return "fits", f"no sign of overfitting: {seen}, {why}"
    return "fits", f"no clear sign of overfitting: {seen}, and {gap} may be within {ordinary}"


def _why_underfits(gap: _Gap, ordinary: str) -> str:
    expected = f"{percent(gap.enough)} expected"
    if gap.has_commonest:
        expected += f"; always answering with the commonest class gives {percent(gap.chance)}"

    reason = f"only {percent(gap.train)} right even on training images ({expected})"
    reason += f", and {percent(gap.val)} on validation images"
    return f"{reason}; and yet {gap} is more than {ordinary}" if gap.shown else reason


def _advice(word: str, against_overfitting: str, *, balance: bool) -> str:
    """Return what to try next, with a space before it; `balance` where classes are missed."""
    if word == "underfits":
        first = "class_weights=balanced, sampling=balanced, " if balance else ""
        return (
            f" Try: {first}more epochs, a larger model, a higher learning rate, less augmentation."
        )
    return f" Try: {against_overfitting}." if word == "overfits" else ""


def _doubt(gap: _Gap, train: tuple[int, Clusters | None], val: tuple[int, Clusters | None]) -> str:
    """Return that a gap is not known well, with a space before it, or an empty text.

    `train` and `val` hold the number of images and how those are grouped.
    """
    if gap.interval[1] - gap.interval[0] <= UNCERTAIN_WIDTH:
        return ""

    (train_n, of_train), (val_n, of_val) = train, val
    trained = f"{train_n} training images in {of_train.num_groups} groups" if of_train else ""
    validated = f"{val_n} validation images"
    if of_val:
        validated += f" in {of_val.num_groups} groups"
    both = f"{trained or f'{train_n} training'} and {validated}"
    return f" Uncertain: {both} are too few to measure the gap well."


def _verdict_by_class(
    train: ClassCounts | None, val: ClassCounts | None, num_classes: int
) -> tuple[str, str] | None:
    """Return word and reason where the balanced accuracy speaks against the model.

    None where it does not.
    """
    if train is None or val is None:
        return None
    trained, train_low, train_high = train.mean_recall()
    enough = 1 / num_classes + LEARNED_PART * (1 - 1 / num_classes)
    if train_high < enough:
        return "underfits", (
            f"averaged over the classes, only {percent(trained)} of the training images are right "
            f"({percent(enough)} expected)"
        )

    validated, _val_low, val_high = val.mean_recall()
    lowest_gap = trained - validated - math.hypot(trained - train_low, val_high - validated)
    if lowest_gap > ORDINARY_GAP:
        return "overfits", (
            f"averaged over the classes, {percent(trained)} of the training images and "
            f"{percent(validated)} of the validation images are right, a gap of more than the "
            f"usual {100 * ORDINARY_GAP:g} points"
        )

    return None


def _never_recognised(
    train: ClassCounts | None, val: ClassCounts | None, class_names: Sequence[str]
) -> tuple[tuple[str, ...], str]:
    """Return the classes that are never recognised, and a sentence about them.

    The sentence begins with a space.
    """
    if train is None or val is None:
        return (), ""
    measured, right = train.num_images + val.num_images, train.num_right + val.num_right
    nowhere = (measured > 0) & (right == 0)
    # One or two validation images may be missed by chance, and so may those of one or two groups.
    independent = val.num_images if val.num_groups is None else val.num_groups
    not_in_val = ~nowhere & (independent >= FEWEST_MISSED) & (val.num_right == 0)

    sentences = []
    for missed, where in (
        (nowhere, "is never recognised"),
        (not_in_val, "is never recognised in validation"),
    ):
        classes = np.flatnonzero(missed)
        if not len(classes):
            continue
        shown = ", ".join(
            f"'{class_names[k]}' ({measured[k]:,} images)" for k in classes[:3].tolist()
        )
        if len(classes) == 1:
            sentences.append(f" Class {shown} {where}.")
        else:
            more = f" and {len(classes) - 3} more" if len(classes) > 3 else ""
            sentences.append(f" Classes {shown}{more} are {where.removeprefix('is ')}.")

    return tuple(
        str(class_names[k]) for k in np.flatnonzero(nowhere | not_in_val).tolist()
    ), "".join(sentences)


def _points(part: float) -> str:
    return f"{100 * part:.1f}"
