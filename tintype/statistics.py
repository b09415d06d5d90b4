"""Intervals for proportions and differences, paired comparisons, the verdict on a fit, its
temperature, when to abstain.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, bdtrc, chdtrc, gammaln, log_softmax, ndtr, ndtri, stdtr, stdtrit

# The rule of `fit_verdict`, in parts of one: a gap up to this size is ordinary optimism, ...
ORDINARY_GAP = 0.05
# ... a model that learned less than this part of what lies between chance and perfection underfits,
# ...
LEARNED_PART = 0.75
# ... and a gap known less exactly than this (width of its interval) is called uncertain.
UNCERTAIN_WIDTH = 0.20
# A class of which so many validation images are all missed is called never recognised.
FEWEST_MISSED = 5

# Temperatures outside of these bounds say that the fit has nothing to hold on to.
TEMPERATURES = (0.05, 20.0)
# One parameter of a curve needs some images; with fewer the temperature stays at one.
FEWEST_TO_CALIBRATE = 20
# How often the promise of a threshold for abstaining may be broken, and how many thresholds are
# tried.
ABSTAIN_RISK = 0.05
THRESHOLDS_TRIED = 20
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
    """How much less images tell that come in groups (several of one object, frames of one clip) than as many alone.

    `design_effect` is the variance of a mean of theirs by that of as many independent images: n of
    them tell as much as n / design_effect. `num_groups` counts a group for each image that stands
    alone.
    """

    num_groups: int
    design_effect: float

    def quantile(self, confidence: float = 0.95) -> float:
        """Return Student's quantile with one degree of freedom less than there are groups; infinite
        for one group.
        """
        return (
            float(stdtrit(self.num_groups - 1, 0.5 + confidence / 2))
            if self.num_groups > 1
            else math.inf
        )

    def share_interval(
        self, successes: float, n: float, confidence: float = 0.95
    ) -> tuple[float, float]:
        """Return Wilson's interval (low, high) for a share at the effective number of images, with
        Student's quantile.
        """
        quantile = self.quantile(confidence)
        if n == 0 or math.isinf(quantile):
            return 0.0, 1.0
        return _score_interval(successes / self.design_effect, n / self.design_effect, quantile)


def clusters_of(values: ArrayLike, groups: ArrayLike, spread: float | None = None) -> Clusters:
    """Return the clusters of `values` (N,), of which those with the same number in `groups` (N,) may be alike.

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
    """Return the interval (low, high) for the share of `right` (N,) among images in `groups` (N,), alike in each group.

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
    """Return the interval (low, high) for the difference s1/n1 - s2/n2 of two independent proportions.

    (-1, 1) when either has no trials.

    Of images in groups, `clusters1` and `clusters2` say how much less they tell; the intervals of
    the proportions, which are joined, are then those of clusters.

    Raises:
        ValueError: a count of successes is not between 0 and its number of trials.

    Source: Newcombe, "Interval estimation for the difference between independent proportions",
    Statistics in Medicine 17 (1998), method 10.
    """
    low1, high1 = _share_interval(s1, n1, clusters1, confidence)
    low2, high2 = _share_interval(s2, n2, clusters2, confidence)
    if n1 == 0 or n2 == 0:
        return -1.0, 1.0
    p1, p2 = s1 / n1, s2 / n2
    below = math.hypot(p1 - low1, high2 - p2)
    above = math.hypot(high1 - p1, p2 - low2)
    return max(-1.0, p1 - p2 - below), min(1.0, p1 - p2 + above)


def _share_interval(
    successes: int, n: int, clusters: Clusters | None, confidence: float = 0.95
) -> tuple[float, float]:
    if clusters is None:
        return wilson_interval(successes, n, confidence)
    _check_counts(successes, n)
    return clusters.share_interval(successes, n, confidence)


@dataclass(frozen=True)
class Verdict:
    """What the train/validation gap says of the fit: one word, a text for the user, and the numbers behind it.

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
    """For each class (K,) how many images of it were measured, and how many of those were recognised.

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
        """Return the counts of images of classes `targets` (N,), `right` (N,) or not, in `groups` (N,) or each alone.

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
        """Return the balanced accuracy and its interval (value, low, high), over the classes that occur.

        The interval joins Wilson's of each class (MOVER: Zou and Donner, Statistics in Medicine 27,
        2008).
        """
        occurs = np.flatnonzero(self.num_images)
        counted = [(int(self.num_right[k]), int(self.num_images[k])) for k in occurs]
        recalls = np.array([right / n for right, n in counted])
        ends = np.array(
            [_share_interval(right, n, self.clusters_of_recall, confidence) for right, n in counted]
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
) -> Verdict:
    """Say whether a classifier underfits, fits or overfits, by a stated rule.

    Training accuracy must have been measured on clean training images by the final model. In this
    order:

    1. "underfits": the upper end of the training accuracy's 95 % Wilson interval is below chance +
        0.75 (1 - chance),
       where chance is the share of the commonest class among the training images (1 / num_classes
       without `train_classes`). Or the upper end of the balanced accuracy's is, where chance is 1 /
       num_classes: a model that always answers with the commonest class has not learned the others.
       A gap as in 2 is then stated beside it.
    2. "overfits": the 95 % Newcombe interval of (training accuracy - validation accuracy) lies
        wholly above 5 points,
       or that of the balanced accuracies does.
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

    Raises:
        ValueError: counts that do not fit each other, no training or no validation images, or fewer
            than two classes.
    """
    if train_n == 0 or val_n == 0 or num_classes < 2:
        raise ValueError(
            f"no verdict on {train_n} training and {val_n} validation images of {num_classes} classes"
        )
    train_accuracy, val_accuracy = train_correct / train_n, val_correct / val_n
    of_train = None if train_classes is None else train_classes.clusters
    of_val = None if val_classes is None else val_classes.clusters
    interval = newcombe_interval(
        train_correct, train_n, val_correct, val_n, clusters1=of_train, clusters2=of_val
    )
    chance = (
        1 / num_classes
        if train_classes is None
        else max(1 / num_classes, train_classes.commonest_share)
    )
    enough = chance + LEARNED_PART * (1 - chance)
    overfits = interval[0] > ORDINARY_GAP
    width = f"{_points(interval[0])} to {_points(interval[1])}"
    gap = f"the gap of {_points(train_accuracy - val_accuracy)} points ({width})"
    by_class = _verdict_by_class(train_classes, val_classes, num_classes)

    ordinary = f"{100 * ORDINARY_GAP:g} points"
    trained, validated = _percent(train_accuracy), _percent(val_accuracy)
    seen = f"{trained} right on training images and {validated} on validation images"

    if _share_interval(train_correct, train_n, of_train)[1] < enough:
        word = "underfits"
        why = (
            ""
            if chance < 1.5 / num_classes
            else f"; always answering with the commonest class gives {_percent(chance)}"
        )
        reason = f"only {trained} right even on training images ({_percent(enough)} expected{why})"
        reason += f", and {validated} on validation images"
        if overfits:
            reason += f"; and yet {gap} is more than the usual {ordinary}"
    elif by_class and by_class[0] == "underfits":
        word, reason = "underfits", f"{seen}; {by_class[1]}"
    elif overfits:
        word, reason = "overfits", f"{seen}: {gap} is more than the usual {ordinary}"
    elif by_class:
        word, reason = by_class[0], f"{seen}; {by_class[1]}"
    elif interval[1] <= ORDINARY_GAP:
        word, reason = (
            "fits",
            f"no sign of overfitting: {seen}, and {gap} is within the usual {ordinary}",
        )
    elif train_accuracy <= val_accuracy:
        word, reason = (
            "fits",
            f"no sign of overfitting: {seen}, so validation is as good as training (gap {width} points)",
        )
    else:
        word, reason = (
            "fits",
            f"no clear sign of overfitting: {seen}, and {gap} may be within the usual {ordinary}",
        )

    text = f"{word}: {reason}."
    never, remark = _never_recognised(train_classes, val_classes, class_names)
    text += remark
    if word == "underfits":
        balanced = "class_weights=balanced, sampling=balanced, " if never else ""
        text += f" Try: {balanced}more epochs, a larger model, a higher learning rate, less augmentation."
    elif word == "overfits":
        text += " Try: more augmentation, weight decay, fewer epochs."
    if interval[1] - interval[0] > UNCERTAIN_WIDTH:
        in_groups = [f" in {each.num_groups} groups" if each else "" for each in (of_train, of_val)]
        text += (
            f" Uncertain: {train_n} training{' images' if of_train else ''}{in_groups[0]} and {val_n} validation images"
            f"{in_groups[1]} are too few to measure the gap well."
        )
    return Verdict(word, text, train_accuracy - val_accuracy, interval, never)


def _verdict_by_class(
    train: ClassCounts | None, val: ClassCounts | None, num_classes: int
) -> tuple[str, str] | None:
    """Return the word and the reason that balanced accuracy gives where it accuses the model, else
    None.
    """
    if train is None or val is None:
        return None
    trained, train_low, train_high = train.mean_recall()
    enough = 1 / num_classes + LEARNED_PART * (1 - 1 / num_classes)
    if train_high < enough:
        return "underfits", (
            f"averaged over the classes, only {_percent(trained)} of the training images are right "
            f"({_percent(enough)} expected)"
        )

    validated, _val_low, val_high = val.mean_recall()
    lowest_gap = trained - validated - math.hypot(trained - train_low, val_high - validated)
    if lowest_gap > ORDINARY_GAP:
        return "overfits", (
            f"averaged over the classes, {_percent(trained)} of the training images and {_percent(validated)} of the "
            f"validation images are right, a gap of more than the usual {100 * ORDINARY_GAP:g} points"
        )

    return None


def _never_recognised(
    train: ClassCounts | None, val: ClassCounts | None, class_names: Sequence[str]
) -> tuple[tuple[str, ...], str]:
    """Return the classes that are never recognised, and a sentence about them (with a space before
    it).
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


@dataclass(frozen=True)
class Temperature:
    """What logits are divided by before the softmax so that confidence agrees with accuracy, and
    how it was found.
    """

    value: float
    reason: str


def fit_temperature(logits: ArrayLike, targets: ArrayLike) -> Temperature:
    """Return the temperature that minimises the log loss of softmax(logits / T), between 0.05 and 20.

    `logits` (N, K) may be log probabilities as well, since a constant in a row changes nothing;
    `targets` (N,) are true classes. Two cases in which the log loss says nothing are ruled apart:

    - fewer than 20 images: T stays 1;
    - no mistake among them: the log loss would fall for ever as T goes to 0. Then T is the one at which the mean
      confidence is (N + 1) / (N + 2), which is Laplace's rule of succession for N successes in N
      trials.

    Raises:
        ValueError: shapes that do not fit, or logits that are not finite.

    Source: Guo et al., "On calibration of modern neural networks" (2017), section 4.2.
    """
    from scipy.optimize import brentq, minimize_scalar

    scores, classes = np.asarray(logits, dtype=np.float64), np.asarray(targets)
    if scores.ndim != 2 or classes.shape != scores.shape[:1] or not np.isfinite(scores).all():
        raise ValueError(
            f"expected finite logits (N, K) and targets (N,), got {scores.shape} and {classes.shape}"
        )
    n, bounds = len(scores), (math.log(TEMPERATURES[0]), math.log(TEMPERATURES[1]))
    if n < FEWEST_TO_CALIBRATE:
        return Temperature(
            1.0, f"{n} validation images are too few to fit it (fewer than {FEWEST_TO_CALIBRATE})"
        )
    if (scores.argmax(1) == classes).all():
        wanted = (n + 1) / (n + 2)

        def excess(log_t: float) -> float:
            return (
                float(np.exp(log_softmax(scores / math.exp(log_t), axis=1).max(1)).mean()) - wanted
            )

        low, high = (excess(bound) for bound in bounds)
        log_t = (
            bounds[0]
            if low <= 0
            else bounds[1]
            if high >= 0
            else float(brentq(excess, bounds[0], bounds[1]))
        )  # pyright: ignore[reportArgumentType]
        reason = f"no mistake on {n} validation images: mean confidence set to {_percent(wanted)} by the rule of succession"
        return Temperature(math.exp(log_t), reason)

    def loss(log_t: float) -> float:
        return -float(log_softmax(scores / math.exp(log_t), axis=1)[np.arange(n), classes].mean())

    # As a function of log T the loss has one minimum: it is convex in 1 / T.
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return Temperature(math.exp(float(found.x)), f"least log loss on {n} validation images")


def abstain_threshold(
    confidence: ArrayLike, right: ArrayLike, wish: float, design_effect: float = 1.0
) -> float | None:
    """Return the lowest confidence from which on answers are right often enough, or None where there is none.

    0.0 where all images may be answered. Up to 20 thresholds are tried, evenly by how many images
    they answer; the first answers no fewer than could show anything. At each, the hypothesis that
    fewer than `wish` of the answers are right is tested by the binomial distribution. All tests
    share one level, at which a model whose confidence tells nothing, and of whose answers just
    `wish` are right, passes any of them in at most 5 % of the cases. That level is computed from
    the joint distribution of the counts, since the images of one threshold are among those of the
    next. Of images in groups (see `clusters_of`), counts are divided by `design_effect`.

    Raises:
        ValueError: shapes that differ, or a wish that is not between 0 and 1.

    Source: Angelopoulos et al., "Learn then test" (2021); one level for all looks at a growing
    count is Pocock's, Biometrika 64 (1977).
    """
    confidence, right = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=bool)
    if confidence.ndim != 1 or confidence.shape != right.shape or not 0 < wish < 1:
        raise ValueError(
            f"expected (N,) and (N,), and 0 < wish < 1, got {confidence.shape}, {right.shape}, {wish}"
        )
    if not len(right):
        return None

    curve = risk_coverage(confidence, right)
    # Fewer answers than these would not be enough, even if all of them were right.
    fewest = min(len(right), math.ceil(design_effect * math.log(ABSTAIN_RISK / 3) / math.log(wish)))
    wanted = np.linspace(fewest, len(right), THRESHOLDS_TRIED).round()
    tried = np.unique(np.searchsorted(curve.num_answered, wanted))
    told = np.floor(curve.num_answered[tried] / design_effect).astype(np.int64)
    told_right = np.floor(told * curve.num_right[tried] / curve.num_answered[tried] + 1e-9)
    level = _level_of_looks(tuple(np.unique(told[told > 0]).tolist()), wish)
    passed = tried[(told > 0) & (_p_of_at_least(told_right, np.maximum(told, 1), wish) <= level)]
    if not len(passed):
        return None

    return 0.0 if passed[-1] == len(curve.threshold) - 1 else float(curve.threshold[passed[-1]])


@lru_cache(maxsize=64)
def _level_of_looks(counts: tuple[int, ...], p: float) -> float:
    """Return the level at which tests after `counts` trials of probability `p` reject once or more
    in 5 % of the cases.
    """
    if not counts:
        return 0.0
    low, high = math.log(ABSTAIN_RISK / len(counts)), math.log(ABSTAIN_RISK)
    if _crossing(counts, p, math.exp(high)) <= ABSTAIN_RISK:
        return ABSTAIN_RISK

    for _ in range(8):
        middle = (low + high) / 2
        if _crossing(counts, p, math.exp(middle)) <= ABSTAIN_RISK:
            low = middle
        else:
            high = middle

    return math.exp(low)


def _crossing(counts: Sequence[int], p: float, level: float) -> float:
    """Return the probability that any of the tests after `counts` trials rejects at `level`,
    exactly but for 1e-12.
    """
    # shares[i]: that first + i are right, none rejected so far
    shares, first, before, crossed = np.ones(1), 0, 0, 0.0
    for count in counts:
        more = count - before
        reach = 8 * math.sqrt(more * p * (1 - p)) + 8
        lowest, highest = (
            max(0, math.floor(more * p - reach)),
            min(more, math.ceil(more * p + reach)),
        )
        added = np.arange(lowest, highest + 1)
        logs = gammaln(more + 1) - gammaln(added + 1) - gammaln(more - added + 1)
        shares = np.convolve(
            shares, np.exp(logs + added * math.log(p) + (more - added) * math.log1p(-p))
        )
        first, before = first + lowest, count
        rejected = _p_of_at_least(first + np.arange(len(shares)), count, p) <= level
        crossed += float(shares[rejected].sum())
        shares = shares[~rejected]  # which are the highest counts
        likely = np.flatnonzero(shares > 1e-16)
        if not len(likely):
            break
        first, shares = first + int(likely[0]), shares[likely[0] : likely[-1] + 1]

    return crossed


def _p_of_at_least(successes: ArrayLike, n: ArrayLike, p: float) -> NDArray[np.float64]:
    """Return the probability of at least so many successes in `n` trials of probability `p`."""
    successes = np.asarray(successes, dtype=np.float64)
    return np.where(successes <= 0, 1.0, bdtrc(successes - 1, n, p))


@dataclass(frozen=True)
class RiskCoverage:
    """How many images are answered, and how many of those rightly, at each distinct confidence, the
    highest first.
    """

    threshold: NDArray[np.float64]
    num_answered: NDArray[np.int64]
    num_right: NDArray[np.int64]


def risk_coverage(confidence: ArrayLike, right: ArrayLike) -> RiskCoverage:
    """Return the counts behind the risk-coverage curve (El-Yaniv & Wiener, JMLR 11, 2010).

    `confidence` and `right` are (N,). Images of equal confidence are answered together or not at
    all.
    """
    confidence, right = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=bool)
    order = np.argsort(-confidence, kind="stable")
    ordered = confidence[order]
    ends = (
        np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
        if len(ordered)
        else np.zeros(0, np.int64)
    )
    return RiskCoverage(ordered[ends], ends + 1, np.cumsum(right[order])[ends])


def wilson_lower(
    successes: ArrayLike, n: ArrayLike, confidence: float = 0.95
) -> NDArray[np.float64]:
    """Return the lower ends of the Wilson intervals of many proportions at once; each n must be at
    least 1.
    """
    z = _normal_quantile(confidence)
    successes, n = np.asarray(successes, dtype=np.float64), np.asarray(n, dtype=np.float64)
    p = successes / n
    centre, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return np.where(successes == 0, 0.0, np.maximum(0.0, (centre - half) / (1 + z * z / n)))


def heterogeneity_p(successes: ArrayLike, n: ArrayLike) -> float | None:
    """Return the p-value of the hypothesis that groups share one proportion: Pearson's chi-square on a (groups, 2) table.

    None where it cannot be told: fewer than two groups, or fewer than 5 successes or failures
    expected in one of them.
    """
    successes, n = np.asarray(successes, dtype=np.float64), np.asarray(n, dtype=np.float64)
    if len(n) < 2:
        return None
    p = successes.sum() / n.sum()
    if min(p, 1 - p) * n.min() < FEWEST_EXPECTED:
        return None
    statistic = float(((successes - n * p) ** 2 / (n * p * (1 - p))).sum())
    return float(chdtrc(len(n) - 1, statistic))


def rank_correlation(x: ArrayLike, y: ArrayLike) -> tuple[float, float]:
    """Return Spearman's rank correlation of x and y (N,), ties by mean rank, and its two-sided p-value by Student's t.

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
    return rho, float(2 * stdtr(n - 2, -t))


def _mean_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, number, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[number]


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number: those below 0.05 may be claimed together with 5 % risk in all.

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
    """Return Student's interval (low, high) for the mean of `values` (N,), or None of fewer than two.

    Of differences on the same images it is the paired interval; of images in `groups` (N,) that of
    clusters.
    """
    if groups is not None:
        return clustered_mean_interval(values, groups, confidence)
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2:
        return None
    half_width = float(
        stdtrit(len(values) - 1, 0.5 + confidence / 2) * values.std(ddof=1) / math.sqrt(len(values))
    )
    return float(values.mean()) - half_width, float(values.mean()) + half_width


@dataclass(frozen=True)
class BlockError:
    """How far the difference of two levels' means lies from the truth: its standard error, and the
    degrees of freedom.
    """

    standard_error: float
    df: float

    def interval(self, difference: float, confidence: float = 0.95) -> tuple[float, float]:
        """Return Student's interval (low, high) for a difference."""
        half_width = float(stdtrit(self.df, 0.5 + confidence / 2)) * self.standard_error
        return difference - half_width, difference + half_width

    def p(self, difference: float) -> float:
        """Return the two-sided p-value of no difference."""
        if self.standard_error == 0:
            return 1.0 if difference == 0 else 0.0
        return float(2 * stdtr(self.df, -abs(difference) / self.standard_error))


def block_error(values: ArrayLike, contexts: Sequence[Hashable] | None = None) -> BlockError | None:
    """Return the error of the difference of two levels' means, from figures (B, L): B blocks, each at all L levels.

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
    """Return the two-sided p-value of a mean of zero by Student's t, of differences `values` (N,); None of fewer than two.

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
    return float(2 * stdtr(len(values) - 1, -abs(mean) / error))


def mcnemar_p(only_a: int, only_b: int) -> float:
    """Return the exact two-sided p-value of McNemar's test that two classifiers are right equally often.

    `only_a` and `only_b` count the images that one of them alone gets right; the others say nothing
    of a difference.

    Raises:
        ValueError: a negative count.

    Source: McNemar, Psychometrika 12 (1947); exact by the binomial distribution (Dietterich, Neural
    Computation 10, 1998).
    """
    _check_counts(only_a, only_a + only_b)
    return min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5)))


def sign_flip_p(values: ArrayLike, groups: ArrayLike | None = None) -> float:
    """Return the exact two-sided p-value that differences are as likely of one sign as of the other.

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
        return float(2 * ndtr(-seen / math.sqrt(float((sizes.astype(np.float64) ** 2).sum()))))

    # The sum of all sizes with random signs, shifted so that it begins at zero and counted in steps
    # of two.
    chances = np.ones(1)
    for size, count in zip(*np.unique(sizes[sizes > 0], return_counts=True), strict=True):
        of_size = np.zeros(int(size * count) + 1)
        below = bdtr(np.arange(count + 1), count, 0.5)
        of_size[:: int(size)] = np.diff(below, prepend=0.0)
        chances = np.convolve(chances, of_size)
    tail = (largest - seen) // 2
    return min(1.0, 2 * float(chances[: tail + 1].sum()))


def clustered_pair(
    only_a: ArrayLike, only_b: ArrayLike, groups: ArrayLike
) -> tuple[tuple[float, float], float]:
    """Return the interval of a difference of proportions on the same images in `groups` (N,), and its p-value.

    `only_a` and `only_b` (N,) say which images one of the two alone gets right. Tango's score
    interval at the effective number of images, with Student's quantile; the p-value is that of the
    same score, so that both agree.
    """
    only_a, only_b = np.asarray(only_a, dtype=np.float64), np.asarray(only_b, dtype=np.float64)
    found = clusters_of(only_a - only_b, groups)
    if found.num_groups < 2:
        return (-1.0, 1.0), 1.0

    confidence = 1 - 2 * float(ndtr(-found.quantile()))
    a, b, n = (
        total / found.design_effect
        for total in (float(only_a.sum()), float(only_b.sum()), len(only_a))
    )
    interval = paired_interval(a, b, n, confidence)

    return interval, 1.0 if a + b == 0 else float(
        2 * stdtr(found.num_groups - 1, -abs(a - b) / math.sqrt(a + b))
    )


def clustered_mean_interval(
    values: ArrayLike, groups: ArrayLike, confidence: float = 0.95
) -> tuple[float, float] | None:
    """Return Student's interval for the mean of `values` (N,) of images in `groups` (N,); None of
    fewer than two groups.
    """
    values = np.asarray(values, dtype=np.float64)
    found = clusters_of(values, groups)
    if found.num_groups < 2:
        return None
    error = math.sqrt(found.design_effect) * float(values.std(ddof=1)) / math.sqrt(len(values))
    mean, half_width = float(values.mean()), found.quantile(confidence) * error
    return mean - half_width, mean + half_width


def clustered_paired_p(values: ArrayLike, groups: ArrayLike) -> float | None:
    """Return the two-sided p-value of a mean of zero of differences `values` (N,) on images in `groups` (N,).

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
    return float(2 * stdtr(found.num_groups - 1, -abs(mean) / error))


def paired_interval(
    only_a: float, only_b: float, n: float, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the score interval (low, high) for (only_a - only_b) / n, a difference of proportions on the same `n` cases.

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

        return (
            excess / math.sqrt(variance)
            if variance > 0
            else math.copysign(math.inf, excess)
            if excess
            else 0.0
        )

    estimate, inside = (only_a - only_b) / n, 1 - 1e-12
    low = (
        -1.0 if only_b == n else float(brentq(lambda d: min(score(d), 1e9) - z, -inside, estimate))
    )  # pyright: ignore[reportArgumentType]
    high = (
        1.0 if only_a == n else float(brentq(lambda d: max(score(d), -1e9) + z, estimate, inside))
    )  # pyright: ignore[reportArgumentType]
    return low, high


def bootstrap_counts(n: int, resamples: int = 1000, seed: int = 0) -> Iterator[NDArray[np.int64]]:
    """Yield blocks (R, n) that tell how often each of `n` cases is drawn in each of `resamples` draws with replacement.

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
    """Return the middle part (low, high) of bootstrap replicates `values` (R,) that holds
    `confidence` of them.
    """
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
    """Return how many cases beyond `n` McNemar's test needs to show a difference as large as the one that was seen.

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
    """Return how many differences beyond `values` (N,) the paired t-test needs to show a mean as large as theirs.

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
    """Return the one-sided p-value that images of one class are called by another's name no more often than its own are.

    Fisher's exact test: `taken` of `n` changed images of class A are called B, and `kept` of
    `other_n` changed images of class B still are. Small where the change turns A into B and B into
    something else; where it merely spoils the images, both shares are alike.

    Raises:
        ValueError: counts that cannot be.
    """
    from scipy.stats import hypergeom

    _check_counts(taken, n)
    _check_counts(kept, other_n)
    return float(hypergeom.sf(taken - 1, n + other_n, taken + kept, n))


def _z(probability: float) -> float:
    return float(ndtri(probability))


def _normal_quantile(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    return float(ndtri(0.5 + confidence / 2))


def _check_counts(successes: float, n: float) -> None:
    if not 0 <= successes <= n:
        raise ValueError(f"expected 0 <= successes <= n, got {successes} and {n}")


def _percent(part: float) -> str:
    shown = f"{100 * part:.1f}"
    if shown == "100.0" and part < 1:  # a model that errs is not called perfect by rounding
        shown = f"{math.floor(10000 * part) / 100:.2f}"
    return f"{shown} %"


def _points(part: float) -> str:
    return f"{100 * part:.1f}"
