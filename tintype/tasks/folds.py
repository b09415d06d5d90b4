"""How far to widen the interval of what heads on fixed features answer out of fold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from tintype.seeds import fold
from tintype.statistics import NestedFolds, nested_folds
from tintype.tasks.heads import stratified_folds

# Ways to cut the folds by which nested cross-validation measures.
REPETITIONS = 10
# Images beyond which it takes too long; its matrix has as many rows and columns.
MOST_NESTED = 6000
PENALTIES = np.logspace(-3, 3, 13)  # of ridge regression, times the number of images


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

        # The squares of the singular values and the left vectors, in half of the time of an SVD;
        # what is lost of the smallest ones no penalty lets through.
        smaller = x @ x.T if len(x) < x.shape[1] else x.T @ x
        squares, vectors = np.linalg.eigh(smaller)
        kept = squares > squares[-1] * 1e-10
        squares = squares[kept]
        left = vectors[:, kept]
        if len(x) >= x.shape[1]:
            left = x @ (left / np.sqrt(squares))
        along = left.T @ self.wanted
        squared = left**2
        errors = []
        for penalty in PENALTIES:
            kept = squares / (squares + penalty * len(x))
            off = self.wanted - left @ (kept[:, None] * along)
            leverage = squared @ kept
            errors.append(float(((off / (1 - leverage)[:, None]) ** 2).mean()))

        best = PENALTIES[int(np.argmin(errors))] * len(x)
        kept = squares / (squares + best)
        half = left * np.sqrt(kept)
        self.hat = half @ half.T  # of a product with itself only half is computed
        self.residuals = self.wanted - left @ (kept[:, None] * along)

    def __call__(self, left_out: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return for each image under the mask (N,) whether it is wrong, elsewhere 0."""
        rows = np.flatnonzero(left_out)
        system = np.eye(len(rows)) - self.hat[np.ix_(rows, rows)]
        off = scipy.linalg.cho_solve(
            scipy.linalg.cho_factor(system, overwrite_a=True), self.residuals[rows]
        )
        answers = (self.wanted[rows] - off + self.mean).argmax(1)
        wrong = np.zeros(len(left_out))
        wrong[rows] = answers != self.targets[rows]
        return wrong
