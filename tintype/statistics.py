"""Intervals for proportions, means and differences; paired comparisons; images in groups; folds."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

# Sums of whole differences up to this size are tested exactly; beyond, the normal distribution
# differs by nothing.
MOST_EXACT = 20_000
# The chi-square approximation holds for about 5 expected cases in each cell (Cochran 1954).
FEWEST_EXPECTED = 5.0


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the score interval (low, high) for a proportion of `successes` in `n` trials.

    (0, 1) when there are no trials.

    Raises:
        ValueError: `successes` is not between 0 and `n`, or `confidence` not between 0 and 1.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22
    (1927).
    """
    z = _normal_quantile(confidence)
    _check_counts(successes, n)
    if n == 0:
        return 0.0, 1.0
    return _score_interval(successes, n, z)


@dataclass(frozen=True)
class Clusters:
    """How much less information images in groups hold than as many independent ones.

    Groups are several photos of one object, say, or the frames of one clip.

    `design_effect` is the variance of a mean of theirs by that of as many independent images: n of
    them tell as much as n / design_effect. `num_groups` counts a group for each image that stands
    alone.
    """

    num_groups: int
    design_effect: float

    def quantile(self, confidence: float = 0.95) -> float:
        """Return Student's quantile, infinite for one group.

        It has one degree of freedom less than there are groups.
        """
        return (
            float(scipy.special.stdtrit(self.num_groups - 1, 0.5 + confidence / 2))
            if self.num_groups > 1
            else math.inf
        )

    def share_interval(
        self, successes: float, n: float, confidence: float = 0.95
    ) -> tuple[float, float]:
        """Return Wilson's interval (low, high) for a share, at the effective number of images."""
        quantile = self.quantile(confidence)
        if n == 0 or math.isinf(quantile):
            return 0.0, 1.0
        return _score_interval(successes / self.design_effect, n / self.design_effect, quantile)


def clusters_of(values: ArrayLike, groups: ArrayLike, spread: float | None = None) -> Clusters:
    """Return the clusters of `values` (N,).

    Images with the same number in `groups` (N,) may be alike.

    Where few groups differ, or no value does, the variance between groups is hardly known. One
    further group of the usual size counts, whose values are all alike; `spread` is its variance, by
    default that of the values.

    Source: Kish, "Survey sampling" (1965); linearised variance as in Korn and Graubard, Survey
    Methodology 24 (1998).
    """
    values = np.asarray(values, dtype=np.float64)
    _, number, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    n, num_groups = len(values), len(sizes)
    usual = float((sizes**2).sum() / n)  # of the group of an image
    simple = float(values.var())
    spread = simple if spread is None else spread
    if num_groups < 2 or simple + spread == 0:
        return Clusters(num_groups, usual)

    off = np.bincount(number, weights=values - values.mean())
    between = float((off**2).sum()) * num_groups / (num_groups - 1) / n
    effect = (between + spread * usual**2 / n) / (simple + spread * usual / n)

    return Clusters(num_groups, max(1.0, effect))


def clustered_interval(
    right: ArrayLike, groups: ArrayLike, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the interval (low, high) for a share among images in groups.

    `right` (N,) says which images count; those with the same number in `groups` (N,) may be alike.

    Wilson's interval at the effective number of images, with Student's quantile. Where each image
    is its own group, it is Wilson's.
    """
    right = np.asarray(right, dtype=np.float64)
    found = clusters_of(right, groups, spread=0.25)
    if found.num_groups == len(right):
        return wilson_interval(int(right.sum()), len(right), confidence)
    return found.share_interval(float(right.sum()), len(right), confidence)


def _score_interval(successes: float, n: float, z: float) -> tuple[float, float]:
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half_width = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # At the ends the interval reaches 0 or 1 exactly, which rounding would miss by 1e-17.
    low = 0.0 if successes == 0 else max(0.0, centre - half_width)
    high = 1.0 if successes == n else min(1.0, centre + half_width)
    return low, high


def newcombe_interval(
    s1: int,
    n1: int,
    s2: int,
    n2: int,
    confidence: float = 0.95,
    *,
    clusters1: Clusters | None = None,
    clusters2: Clusters | None = None,
) -> tuple[float, float]:
    """Return the interval (low, high) for the difference s1/n1 - s2/n2.

    Both proportions are independent.

    (-1, 1) when either has no trials.

    Of images in groups, `clusters1` and `clusters2` say how much less they tell; the intervals of
    the proportions, which are joined, are then those of clusters.

    Raises:
        ValueError: a count of successes is not between 0 and its number of trials.

    Source: Newcombe, "Interval estimation for the difference between independent proportions",
    Statistics in Medicine 17 (1998), method 10.
    """
    low1, high1 = share_interval(s1, n1, clusters1, confidence)
    low2, high2 = share_interval(s2, n2, clusters2, confidence)
    if n1 == 0 or n2 == 0:
        return -1.0, 1.0
    p1, p2 = s1 / n1, s2 / n2
    below = math.hypot(p1 - low1, high2 - p2)
    above = math.hypot(high1 - p1, p2 - low2)
    return max(-1.0, p1 - p2 - below), min(1.0, p1 - p2 + above)


def share_interval(
    successes: int, n: int, clusters: Clusters | None, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the interval (low, high) of a proportion: Wilson's, or that of clusters."""
    if clusters is None:
        return wilson_interval(successes, n, confidence)
    _check_counts(successes, n)
    return clusters.share_interval(successes, n, confidence)


def wilson_lower(
    successes: ArrayLike, n: ArrayLike, confidence: float = 0.95
) -> NDArray[np.float64]:
    """Return the lower ends of the Wilson intervals of many proportions at once.

    Each n must be at least 1.
    """
    z = _normal_quantile(confidence)
    successes, n = np.asarray(successes, dtype=np.float64), np.asarray(n, dtype=np.float64)
    p = successes / n
    centre, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return np.where(successes == 0, 0.0, np.maximum(0.0, (centre - half) / (1 + z * z / n)))


def heterogeneity_p(successes: ArrayLike, n: ArrayLike) -> float | None:
    """Return the p-value of the hypothesis that groups share one proportion.

    Pearson's chi-square on a (groups, 2) table.

    None where it is not known: fewer than two groups, or fewer than 5 successes or failures
    expected in one of them.
    """
    successes, n = np.asarray(successes, dtype=np.float64), np.asarray(n, dtype=np.float64)
    if len(n) < 2:
        return None
    p = successes.sum() / n.sum()
    if min(p, 1 - p) * n.min() < FEWEST_EXPECTED:
        return None
    statistic = float(((successes - n * p) ** 2 / (n * p * (1 - p))).sum())
    return float(scipy.special.chdtrc(len(n) - 1, statistic))


def rank_correlation(x: ArrayLike, y: ArrayLike) -> tuple[float, float]:
    """Return Spearman's rank correlation of x and y (N,) and its two-sided p-value.

    Ties have their mean rank; the p-value is by Student's t.

    (0, 1) for fewer than three values, or where all of one are equal.
    """
    ranks = [_mean_ranks(np.asarray(values, dtype=np.float64)) for values in (x, y)]
    n = len(ranks[0])
    if n < 3 or min(np.ptp(each) for each in ranks) == 0:
        return 0.0, 1.0
    rho = float(np.clip(np.corrcoef(ranks[0], ranks[1])[0, 1], -1, 1))
    if abs(rho) == 1:
        return rho, 0.0
    t = abs(rho) * math.sqrt((n - 2) / (1 - rho * rho))
    return rho, float(2 * scipy.special.stdtr(n - 2, -t))


def _mean_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, number, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[number]


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number.

    Those below 0.05 may be claimed together, at a risk of 5 % in all.

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6
    (1979).
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def mean_interval(
    values: ArrayLike, confidence: float = 0.95, groups: ArrayLike | None = None
) -> tuple[float, float] | None:
    """Return Student's interval (low, high) for the mean of `values` (N,).

    None for fewer than two.

    Of differences on the same images it is the paired interval; of images in `groups` (N,) that of
    clusters.
    """
    if groups is not None:
        return clustered_mean_interval(values, groups, confidence)
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2:
        return None
    half_width = float(
        scipy.special.stdtrit(len(values) - 1, 0.5 + confidence / 2)
        * values.std(ddof=1)
        / math.sqrt(len(values))
    )
    return float(values.mean()) - half_width, float(values.mean()) + half_width


@dataclass(frozen=True)
class BlockError:
    """How far the difference of two levels' means may lie from the truth.

    That is its standard error, and the degrees of freedom.
    """

    standard_error: float
    df: float

    def interval(self, difference: float, confidence: float = 0.95) -> tuple[float, float]:
        """Return Student's interval (low, high) for a difference."""
        half_width = (
            float(scipy.special.stdtrit(self.df, 0.5 + confidence / 2)) * self.standard_error
        )
        return difference - half_width, difference + half_width

    def p(self, difference: float) -> float:
        """Return the two-sided p-value of no difference."""
        if self.standard_error == 0:
            return 1.0 if difference == 0 else 0.0
        return float(2 * scipy.special.stdtr(self.df, -abs(difference) / self.standard_error))


def block_error(values: ArrayLike, contexts: Sequence[Hashable] | None = None) -> BlockError | None:
    """Return the error of the difference between the means of two levels.

    `values` (B, L) are figures of B blocks, each at all L levels.

    The spread that is left after blocks and levels is pooled over all levels, so that few blocks
    tell more than by pairs; it is taken to be the same at each level. Of two levels it is the
    paired t-test. None of fewer than two blocks or levels.

    Blocks of one context may agree with each other more than with those of another: an effect
    differs between the combinations of the other factors, which several seeds in each of them do
    not average out. `contexts` names that of each block. The variance between contexts is then a
    component of its own, as in a mixed model with a random effect of the context: estimated by REML
    (of equal numbers of blocks; by the method of moments of unequal ones), zero where the contexts
    differ no more than their blocks do. The degrees of freedom are Satterthwaite's.

    Source: randomised blocks, Fisher, "The design of experiments" (1935), chapter 4; Searle,
    Casella and McCulloch, "Variance components" (1992), section 3.6; Satterthwaite, Biometrics
    Bulletin 2 (1946).
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or min(values.shape) < 2:
        return None
    blocks, levels = values.shape
    in_all = _sum_of_residuals(values)
    df = (blocks - 1) * (levels - 1)
    pooled = BlockError(math.sqrt(2 * in_all / df / blocks), df)
    names = [None] * blocks if contexts is None else list(contexts)
    members = [np.array([name == one for name in names]) for one in dict.fromkeys(names)]
    sizes = np.array([each.sum() for each in members])
    df_between = (len(members) - 1) * (levels - 1)
    df_within = df - df_between
    if not df_between or not df_within:
        return pooled

    in_contexts = sum(_sum_of_residuals(values[each]) for each in members)
    between, within = (in_all - in_contexts) / df_between, in_contexts / df_within
    if between <= within:
        return pooled
    # A mean of all blocks varies by `share` of the variance between contexts; `usual` is the size
    # of a context.
    share = float((sizes**2).sum()) / blocks**2
    usual = (blocks - blocks * share) / (len(members) - 1)
    of_between, of_within = between * share / usual, within * (1 / blocks - share / usual)
    variance = of_between + of_within
    df_of_sum = variance**2 / (of_between**2 / df_between + of_within**2 / df_within)
    return BlockError(math.sqrt(2 * variance), df_of_sum)


def _sum_of_residuals(values: NDArray[np.float64]) -> float:
    """Return the sum of squares that is left in figures (B, L) after blocks and levels."""
    residuals = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
    return float((residuals**2).sum())


def paired_p(values: ArrayLike, groups: ArrayLike | None = None) -> float | None:
    """Return the two-sided p-value, by Student's t, of a mean difference of zero.

    `values` (N,) are differences; None for fewer than two.

    1 where all differences are zero, 0 where all are equal and not zero. Of images in `groups` (N,)
    it is that of clusters.
    """
    if groups is not None:
        return clustered_paired_p(values, groups)
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2:
        return None
    mean, error = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values))
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * scipy.special.stdtr(len(values) - 1, -abs(mean) / error))


def mcnemar_p(only_a: int, only_b: int) -> float:
    """Return McNemar's exact two-sided p-value: are two classifiers right equally often?

    `only_a` and `only_b` count the images that one of them alone gets right; the others say nothing
    of a difference.

    Raises:
        ValueError: a negative count.

    Source: McNemar, Psychometrika 12 (1947); exact by the binomial distribution (Dietterich, Neural
    Computation 10, 1998).
    """
    _check_counts(only_a, only_a + only_b)
    return min(1.0, 2 * float(scipy.special.bdtr(min(only_a, only_b), only_a + only_b, 0.5)))


def sign_flip_p(values: ArrayLike, groups: ArrayLike | None = None) -> float:
    """Return the exact two-sided p-value of differences that are as likely + as -.

    `values` (N,) are whole numbers, such as how often more one side was right on an image; values
    of one of `groups` (N,) keep their signs together. Where all are -1, 0 or 1, this is McNemar's
    exact test. From a sum of absolute values of 20,000 on, the distribution of the sum is taken as
    normal.

    Raises:
        ValueError: a value that is not whole.

    Source: Fisher, "The Design of Experiments" (1935), section 21; by convolution of the binomial
    distributions.
    """
    given = np.asarray(values, dtype=np.float64)
    whole = np.rint(given).astype(np.int64)
    if (whole != given).any():
        raise ValueError("differences must be whole numbers")
    if groups is not None:
        _, numbers = np.unique(np.asarray(groups), return_inverse=True)
        whole = np.rint(np.bincount(numbers, weights=whole)).astype(np.int64)
    sizes = np.abs(whole)
    seen, largest = abs(int(whole.sum())), int(sizes.sum())
    if seen == 0:
        return 1.0
    if largest > MOST_EXACT:
        return float(
            2 * scipy.special.ndtr(-seen / math.sqrt(float((sizes.astype(np.float64) ** 2).sum())))
        )

    # The sum of all sizes with random signs, shifted so that it begins at zero and counted in steps
    # of two.
    chances = np.ones(1)
    for size, count in zip(*np.unique(sizes[sizes > 0], return_counts=True), strict=True):
        of_size = np.zeros(int(size * count) + 1)
        below = scipy.special.bdtr(np.arange(count + 1), count, 0.5)
        of_size[:: int(size)] = np.diff(below, prepend=0.0)
        chances = np.convolve(chances, of_size)
    tail = (largest - seen) // 2
    return min(1.0, 2 * float(chances[: tail + 1].sum()))


def clustered_pair(
    only_a: ArrayLike, only_b: ArrayLike, groups: ArrayLike
) -> tuple[tuple[float, float], float]:
    """Return the interval and the p-value of a difference of proportions.

    Both are measured on the same images, in `groups` (N,).

    `only_a` and `only_b` (N,) say which images one of the two alone gets right. Tango's score
    interval at the effective number of images, with Student's quantile; the p-value is that of the
    same score, so that both agree.
    """
    only_a, only_b = np.asarray(only_a, dtype=np.float64), np.asarray(only_b, dtype=np.float64)
    found = clusters_of(only_a - only_b, groups)
    if found.num_groups < 2:
        return (-1.0, 1.0), 1.0

    confidence = 1 - 2 * float(scipy.special.ndtr(-found.quantile()))
    a, b, n = (
        total / found.design_effect
        for total in (float(only_a.sum()), float(only_b.sum()), len(only_a))
    )
    interval = paired_interval(a, b, n, confidence)

    return interval, 1.0 if a + b == 0 else float(
        2 * scipy.special.stdtr(found.num_groups - 1, -abs(a - b) / math.sqrt(a + b))
    )


def clustered_mean_interval(
    values: ArrayLike, groups: ArrayLike, confidence: float = 0.95
) -> tuple[float, float] | None:
    """Return Student's interval for the mean of `values` (N,) of images in groups.

    None for fewer than two of `groups` (N,).
    """
    values = np.asarray(values, dtype=np.float64)
    found = clusters_of(values, groups)
    if found.num_groups < 2:
        return None
    error = math.sqrt(found.design_effect) * float(values.std(ddof=1)) / math.sqrt(len(values))
    mean, half_width = float(values.mean()), found.quantile(confidence) * error
    return mean - half_width, mean + half_width


def clustered_paired_p(values: ArrayLike, groups: ArrayLike) -> float | None:
    """Return the two-sided p-value of a mean difference of zero on images in groups.

    `values` (N,) are differences; those with the same number in `groups` (N,) may be alike.

    That of `clustered_mean_interval`, so that both agree; None of fewer than two groups.
    """
    values = np.asarray(values, dtype=np.float64)
    found = clusters_of(values, groups)
    if found.num_groups < 2:
        return None
    mean = float(values.mean())
    error = math.sqrt(found.design_effect) * float(values.std(ddof=1)) / math.sqrt(len(values))
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * scipy.special.stdtr(found.num_groups - 1, -abs(mean) / error))


def paired_interval(
    only_a: float, only_b: float, n: float, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the score interval (low, high) for (only_a - only_b) / n.

    It is a difference of proportions on the same `n` cases.

    The bootstrap and Wald's interval shrink to a point where the two never differ; this one keeps
    its coverage there. (-1, 1) when there are no cases.

    Raises:
        ValueError: counts that cannot be.

    Source: Tango, "Equivalence test and confidence interval for the difference in proportions for
    the paired-sample design", Statistics in Medicine 17 (1998).
    """
    from scipy.optimize import brentq

    z = _normal_quantile(confidence)
    _check_counts(only_a, n)
    _check_counts(only_b, n - only_a)
    if n == 0:
        return -1.0, 1.0

    def score(difference: float) -> float:
        # The most likely share of `only_b` cases, given the difference, solves a q^2 + b q + c = 0.
        a, b = 2 * n, (2 * n - only_a + only_b) * difference - only_a - only_b
        c = -only_b * difference * (1 - difference)
        share = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
        variance = n * (2 * share + difference * (1 - difference))
        excess = only_a - only_b - n * difference

        if variance > 0:
            return excess / math.sqrt(variance)
        return math.copysign(math.inf, excess) if excess else 0.0

    def root(function: Callable[[float], float], low: float, high: float) -> float:
        return float(brentq(function, low, high))  # pyright: ignore[reportArgumentType]

    estimate = (only_a - only_b) / n
    inside = 1 - 1e-12
    low = -1.0 if only_b == n else root(lambda d: min(score(d), 1e9) - z, -inside, estimate)
    high = 1.0 if only_a == n else root(lambda d: max(score(d), -1e9) + z, estimate, inside)

    return low, high


def bootstrap_counts(n: int, resamples: int = 1000, seed: int = 0) -> Iterator[NDArray[np.int64]]:
    """Yield blocks (R, n) of how often each of `n` cases is drawn.

    There are `resamples` draws with replacement, R of them in a block.

    A figure of each draw, of two models on the same draws, gives the paired bootstrap of their
    difference (Efron 1979; see `percentile_interval`). Blocks bound the memory: one has about four
    million cells.
    """
    generator = np.random.default_rng(seed)
    block = max(1, min(resamples, 4_000_000 // max(1, n)))
    for start in range(0, resamples, block):
        draws = generator.integers(n, size=(min(block, resamples - start), n))
        yield np.stack([np.bincount(draw, minlength=n) for draw in draws])


def percentile_interval(values: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Return the middle part (low, high) of bootstrap replicates `values` (R,)."""
    low, high = np.quantile(
        np.asarray(values, dtype=np.float64), [0.5 - confidence / 2, 0.5 + confidence / 2]
    )
    return float(low), float(high)


def more_cases_of_proportions(
    only_a: int,
    only_b: int,
    n: int,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    design_effect: float = 1.0,
) -> int | None:
    """Return how many cases beyond `n` McNemar's test needs.

    It is to show a difference as large as the one that was seen.

    It is then shown with probability `power` at level `alpha`. None where no difference was seen.
    Of images in groups so many more are needed as `design_effect` says (see `clusters_of`).

    Source: Connor, "Sample size for testing differences in proportions for the paired-sample
    design", Biometrics 43 (1987): N = (z_alpha/2 sqrt(psi) + z_power sqrt(psi - d^2))^2 / d^2, psi
    the share of cases in which the two differ.
    """
    if only_a == only_b:
        return None
    psi, d = (only_a + only_b) / n, abs(only_a - only_b) / n
    needed = (
        _z(1 - alpha / 2) * math.sqrt(psi) + _z(power) * math.sqrt(max(0.0, psi - d * d))
    ) ** 2 / d**2
    return max(1, math.ceil(needed * design_effect) - n)


def more_cases_of_mean(
    values: ArrayLike, *, alpha: float = 0.05, power: float = 0.8, design_effect: float = 1.0
) -> int | None:
    """Return how many differences beyond `values` (N,) the paired t-test needs.

    It is to show a mean as large as theirs.

    It is then shown with probability `power` at level `alpha`. None of fewer than two, or of a mean
    of zero. Of images in groups so many more are needed as `design_effect` says (see
    `clusters_of`).

    Source: the normal approximation N = ((z_alpha/2 + z_power) s / d)^2 (Chow et al., "Sample size
    calculations in clinical research", 2008, section 3.1).
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2 or values.mean() == 0:
        return None
    ratio = float(values.std(ddof=1) / abs(values.mean()))
    needed = ((_z(1 - alpha / 2) + _z(power)) * ratio) ** 2
    return max(1, math.ceil(needed * design_effect) - len(values))


def swap_p(taken: int, n: int, kept: int, other_n: int) -> float:
    """Return the one-sided p-value, by Fisher's exact test, that a change swaps two classes.

    The hypothesis is that changed images of class A are called B no more often than those of B
    still are: `taken` of `n` changed images of A are called B, and `kept` of `other_n` of B still
    are. The p-value is small where the change turns A into B and B into something else; where it
    merely spoils the images, both shares are alike.

    Raises:
        ValueError: counts that cannot be.
    """
    from scipy.stats import hypergeom

    _check_counts(taken, n)
    _check_counts(kept, other_n)
    return float(hypergeom.sf(taken - 1, n + other_n, taken + kept, n))


def corrected_resampled(
    differences: ArrayLike, tested: float, confidence: float = 0.95
) -> tuple[tuple[float, float], float] | None:
    """Return the interval and the two-sided p-value of a mean difference over folds.

    The corrected resampled t-test: trainings of folds share most of their images, so that their
    differences are no independent draws and the plain t-test claims too much.

    Args:
        differences: (J,) of two models, one for each fold (of each repetition).
        tested: images of a fold by those that its models were trained on: 1 / (K - 1) of K folds.
        confidence: of the interval.

    Returns:
        None for fewer than two differences; a p-value of 1 where all are zero, 0 where all are
        equal and not zero.

    Source: Nadeau and Bengio, "Inference for the generalization error", Machine Learning 52 (2003).
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2:
        return None
    mean = float(values.mean())
    error = math.sqrt(1 / len(values) + tested) * float(values.std(ddof=1))
    half_width = float(scipy.special.stdtrit(len(values) - 1, 0.5 + confidence / 2)) * error
    if error == 0:
        return (mean, mean), 1.0 if mean == 0 else 0.0
    p = float(2 * scipy.special.stdtr(len(values) - 1, -abs(mean) / error))
    return (mean - half_width, mean + half_width), p


@dataclass(frozen=True)
class NestedFolds:
    """What nested cross-validation says of an estimate by folds.

    Attributes:
        inflation: how many times wider than the naive one its interval has to be, from 1 to the
            root of the number of folds.
        gain: how much lower the mean loss is of a model that is trained on all images than that of
            the folds, which lack one part in K.
    """

    inflation: float
    gain: float


def nested_folds(
    losses_without: Callable[[NDArray[np.bool_]], NDArray[np.float64]],
    repetitions: Sequence[ArrayLike],
    groups: ArrayLike | None = None,
) -> NestedFolds:
    """Return how far the naive interval of an estimate by folds has to be widened.

    Each model of a fold errs in its own way, and all share most of their training images, so that
    the pooled answers are no independent draws: their naive interval holds the truth too rarely.
    Nested cross-validation leaves two folds out at a time. The mean loss on one of them, by models
    that never saw it, is an unbiased measure of how far the estimate by the other folds is off.

    Args:
        losses_without: for a mask (N,) of images, the losses (N,) of a model that is trained
            without them; only those under the mask are looked at.
        repetitions: the fold (N,) of each image, for each of several ways to cut the folds.
        groups: (N,) equal for images that may be alike.

    Source: Bates, Hastie and Tibshirani, "Cross-validation: what does it estimate and how well does
    it do it?", arXiv 2104.00673 (2021), algorithm 1 with the bounds and the correction of bias of
    sections 4.2 and 4.3.
    """
    off, naive_of_fold, naive, inner_means, outer_means = [], [], [], [], []
    num_folds = 2
    for numbers in repetitions:
        fold_of = np.asarray(numbers)
        folds = np.unique(fold_of)
        num_folds = len(folds)

        outer = np.empty(len(fold_of))
        inner = {fold: np.full(len(fold_of), np.nan) for fold in folds}
        for i, one in enumerate(folds):
            outer[fold_of == one] = losses_without(fold_of == one)[fold_of == one]
            for other in folds[i + 1 :]:
                losses = losses_without((fold_of == one) | (fold_of == other))
                inner[one][fold_of == other] = losses[fold_of == other]
                inner[other][fold_of == one] = losses[fold_of == one]

        for fold in folds:
            estimate = float(np.nanmean(inner[fold]))
            held_out = outer[fold_of == fold]
            of_fold = None if groups is None else np.asarray(groups)[fold_of == fold]
            off.append(estimate - float(held_out.mean()))
            naive_of_fold.append(_squared_error(held_out, of_fold))
            inner_means.append(estimate)
        naive.append(_squared_error(outer, groups))
        outer_means.append(float(outer.mean()))

    # The mean of `off` is what fewer training images cost, which `gain` corrects; their spread is
    # that of an estimate by all folds but one.
    excess = float(np.var(off, ddof=1) - np.mean(naive_of_fold))
    squared = max(0.0, excess) * (num_folds - 1) / num_folds
    usual = float(np.mean(naive))
    inflation = 1.0 if usual == 0 else math.sqrt(squared / usual)
    gain = (num_folds - 2) / num_folds * float(np.mean(inner_means) - np.mean(outer_means))
    return NestedFolds(min(max(1.0, inflation), math.sqrt(num_folds)), gain)


def _squared_error(values: NDArray[np.float64], groups: ArrayLike | None) -> float:
    """Return the squared standard error of the mean of `values` (N,), as of clusters."""
    simple = float(values.var(ddof=1)) / len(values) if len(values) > 1 else 0.0
    return simple if groups is None else simple * clusters_of(values, groups).design_effect


def folds_interval(
    right: ArrayLike,
    groups: ArrayLike | None = None,
    nested: NestedFolds | None = None,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Return the interval (low, high) of an accuracy that was estimated by folds.

    Wilson's interval (of images in `groups` (N,) that of clusters), at an effective number of
    images that is smaller by the squared inflation of nested cross-validation, around the share
    that a model of all images reaches. Without `nested` it is the naive one, as though all answers
    were those of one model.

    Args:
        right: (N,) whether each image was answered rightly out of its fold.
        groups: (N,) equal for images that may be alike.
        nested: of the shares that are wrong.
        confidence: of the interval.
    """
    right = np.asarray(right, dtype=np.float64)
    together = np.arange(len(right)) if groups is None else np.asarray(groups)
    if nested is None:
        return clustered_interval(right, together, confidence)

    found = clusters_of(right, together, spread=0.25)
    effect = found.design_effect if found.num_groups < len(right) else 1.0
    share = min(1.0, max(0.0, float(right.mean()) + nested.gain))
    widened = Clusters(found.num_groups, effect * nested.inflation**2)
    return widened.share_interval(share * len(right), len(right), confidence)


def _z(probability: float) -> float:
    return float(scipy.special.ndtri(probability))


def _normal_quantile(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    return float(scipy.special.ndtri(0.5 + confidence / 2))


def _check_counts(successes: float, n: float) -> None:
    if not 0 <= successes <= n:
        raise ValueError(f"expected 0 <= successes <= n, got {successes} and {n}")


def percent(part: float) -> str:
    """Write a share as a percentage: one decimal, or two where that would round to 100 %."""
    shown = f"{100 * part:.1f}"
    if shown == "100.0" and part < 1:  # a model that errs is not called perfect by rounding
        shown = f"{math.floor(10000 * part) / 100:.2f}"
    return f"{shown} %"
