"""Heads on fixed features, out of fold: their answers, and how far to widen the interval of these.

Features are computed once, so that each fold is a fit of seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tintype.seeds import fold
from tintype.statistics import NestedFolds, nested_folds
from tintype.tasks.heads import FittedHead, fit_head, stratified_folds

# Ways to cut the folds by which nested cross-validation measures.
REPETITIONS = 10
# Images beyond which it takes too long; its matrix has as many rows and columns.
MOST_NESTED = 6000
PENALTIES = np.logspace(-3, 3, 13)  # of ridge regression, times the number of images


def heads_out_of_fold(
    features: ArrayLike,
    targets: ArrayLike,
    num_classes: int,
    fold_of: NDArray[np.integer],
    *,
    groups: Sequence[str] | ArrayLike | None = None,
    weights: ArrayLike | None = None,
    clean: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    fit: Callable[..., FittedHead] = fit_head,
    **how: Any,
) -> NDArray[np.float32]:
    """Return logits (N, K) of images, each by the head that is chosen and fitted without its fold.

    Args:
        features: (N, F), or (N, V, F) of V views of each image.
        targets: (N,) in 0..K-1.
        num_classes: K.
        fold_of: (N,) the fold of each image.
        groups: (N,) names of images that belong together within a fold; "" belongs to none.
        weights: (N,) of the images.
        clean: how many of the first views a head answers; by default all.
        progress: called as progress(what, done, total).
        fit: chooses and fits a head, as `fit_head` does.
        how: further arguments of it.
    """
    views = np.asarray(features)
    views = views[:, None] if views.ndim == 2 else views
    targets = np.asarray(targets)
    answered = views[:, : clean or views.shape[1]].mean(1)

    logits = np.zeros((len(targets), num_classes), np.float32)
    folds = np.unique(fold_of)
    for number, each in enumerate(folds, start=1):
        kept = fold_of != each
        fitted = fit(
            views[kept],
            targets[kept],
            num_classes,
            groups=None if groups is None else np.asarray(groups)[kept],
            weights=None if weights is None else np.asarray(weights)[kept],
            clean=clean,
            **how,
        )
        logits[~kept] = fitted.head.logits(answered[~kept])
        if progress:
            progress("fitting without each fold", number, len(folds))
    return logits


def nested_of_features(
    features: ArrayLike,
    targets: ArrayLike,
    num_classes: int,
    num_folds: int,
    *,
    groups: Sequence[str] | None = None,
    seed: int = 0,
    repetitions: int = REPETITIONS,
) -> NestedFolds | None:
    """Return how far to widen the naive interval of heads on these features.

    It is measured on ridge regression, which any images can be left out of in closed form; the head
    that is chosen is as linear in the same features. None for more than MOST_NESTED images.

    Args:
        features: (N, F).
        targets: (N,) in 0..K-1.
        num_classes: K.
        num_folds: as many as those of the estimate.
        groups: (N,) names of images that stay in one fold; "" belongs to none.
        seed: of the ways to cut the folds.
        repetitions: how many.
    """
    targets = np.asarray(targets)
    if len(targets) > MOST_NESTED:
        return None
    groups = groups if groups is not None and any(groups) else None
    ways = [
        stratified_folds(targets, groups, num_folds, fold(seed, "nested", repetition))
        for repetition in range(repetitions)
    ]
    without = RidgeWithout(np.asarray(features, np.float64), targets, num_classes)
    numbers = None
    if groups is not None:
        units = [group or f"\0{row}" for row, group in enumerate(groups)]
        numbers = np.unique(units, return_inverse=True)[1]
    return nested_folds(without, ways, numbers)


class RidgeWithout:
    """Which images ridge regression to one-hot targets gets wrong that is fitted without them.

    Each set of images that is left out takes one system of equations, and no further fit: of the
    residuals r of all images and their hat matrix H, those of images S that took no part are
    (I - H_SS)^-1 r_S (Cook and Weisberg, "Residuals and influence in regression", 1982). The
    penalty is that of least error where one image is left out at a time.

    Args:
        features: (N, F), standardised here.
        targets: (N,) in 0..K-1.
        num_classes: K.
    """

    def __init__(
        self, features: NDArray[np.float64], targets: NDArray[np.integer], num_classes: int
    ) -> None:
        self.targets = targets
        x = features - features.mean(0)
        x /= np.maximum(x.std(0), 1e-6)
        one_hot = np.eye(num_classes)[targets]
        self.mean = one_hot.mean(0)
        self.wanted = one_hot - self.mean

        left, singular, _ = np.linalg.svd(x, full_matrices=False)
        along = left.T @ self.wanted
        errors = []
        for penalty in PENALTIES:
            kept = singular**2 / (singular**2 + penalty * len(x))
            off = self.wanted - left @ (kept[:, None] * along)
            leverage = (left**2) @ kept
            errors.append(float(((off / (1 - leverage)[:, None]) ** 2).mean()))

        best = PENALTIES[int(np.argmin(errors))] * len(x)
        kept = singular**2 / (singular**2 + best)
        self.hat = (left * kept) @ left.T
        self.residuals = self.wanted - left @ (kept[:, None] * along)

    def __call__(self, left_out: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return for each image under the mask (N,) whether it is wrong, elsewhere 0."""
        rows = np.flatnonzero(left_out)
        system = np.eye(len(rows)) - self.hat[np.ix_(rows, rows)]
        off = np.linalg.solve(system, self.residuals[rows])
        answers = (self.wanted[rows] - off + self.mean).argmax(1)
        wrong = np.zeros(len(left_out))
        wrong[rows] = answers != self.targets[rows]
        return wrong
