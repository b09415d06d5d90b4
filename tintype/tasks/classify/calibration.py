"""The temperature of a classifier, and from which confidence on it may answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from tintype.statistics import clustered_interval, clusters_of, percent
from tintype.tasks.task import Evaluation

# For each of these, a threshold is looked for above which answers are right that often.
TARGET_ACCURACIES = (0.8, 0.9, 0.95, 0.98, 0.99)
# Temperatures outside of these bounds say that the fit has nothing to hold on to.
TEMPERATURES = (0.05, 20.0)
# One parameter of a curve needs some images; with fewer the temperature stays at one.
FEWEST_TO_CALIBRATE = 20
# How often a promise may be broken, and how many thresholds are tried for it.
ABSTAIN_RISK = 0.05
THRESHOLDS_TRIED = 20


@dataclass(frozen=True)
class Temperature:
    """What logits are divided by so that confidence agrees with accuracy, and why."""

    value: float
    reason: str


def fit_temperature(logits: ArrayLike, targets: ArrayLike) -> Temperature:
    """Return the temperature T of least log loss of softmax(logits / T).

    It lies between 0.05 and 20.

    `logits` (N, K) may be log probabilities as well, since a constant in a row changes nothing;
    `targets` (N,) are true classes. Two cases in which the log loss says nothing are ruled apart:

    - fewer than 20 images: T stays 1;
    - no mistake among them: the log loss would fall for ever as T goes to 0. Then T is the one at
    which the mean
      confidence is (N + 1) / (N + 2), which is Laplace's rule of succession for N successes in N
      trials.

    Raises:
        ValueError: shapes that do not fit, or logits that are not finite.

    Source: Guo et al., "On calibration of modern neural networks" (2017), section 4.2.
    """
    from scipy.optimize import minimize_scalar

    scores, classes = np.asarray(logits, dtype=np.float64), np.asarray(targets)
    if scores.ndim != 2 or classes.shape != scores.shape[:1] or not np.isfinite(scores).all():
        raise ValueError(
            "expected finite logits (N, K) and targets (N,), "
            f"got {scores.shape} and {classes.shape}"
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
                float(
                    np.exp(
                        scipy.special.log_softmax(scores / math.exp(log_t), axis=1).max(1)
                    ).mean()
                )
                - wanted
            )

        log_t = _root_within(excess, *bounds)
        reason = (
            f"no mistake on {n} validation images: "
            f"mean confidence set to {percent(wanted)} by the rule of succession"
        )
        return Temperature(math.exp(log_t), reason)

    def loss(log_t: float) -> float:
        return -float(
            scipy.special.log_softmax(scores / math.exp(log_t), axis=1)[
                np.arange(n), classes
            ].mean()
        )

    # As a function of log T the loss has one minimum: it is convex in 1 / T.
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return Temperature(math.exp(float(found.x)), f"least log loss on {n} validation images")


def _root_within(falling: Callable[[float], float], low: float, high: float) -> float:
    """Return where a falling function is zero, or the bound beyond which that lies."""
    from scipy.optimize import brentq

    if falling(low) <= 0:
        return low
    if falling(high) >= 0:
        return high
    return float(brentq(falling, low, high))  # pyright: ignore[reportArgumentType]


def abstain_threshold(
    confidence: ArrayLike, right: ArrayLike, target: float, design_effect: float = 1.0
) -> float | None:
    """Return the lowest confidence from which answers are right often enough.

    None where there is none.

    0.0 where all images may be answered. Up to 20 thresholds are tried, evenly by how many images
    they answer; the first answers no fewer than could show anything. At each, the hypothesis that
    fewer than `target` of the answers are right is tested by the binomial distribution. All tests
    share one level, at which a model whose confidence tells nothing, and of whose answers just
    `target` are right, passes any of them in at most 5 % of the cases. That level is computed from
    the joint distribution of the counts, since the images of one threshold are among those of the
    next. Of images in groups (see `clusters_of`), counts are divided by `design_effect`.

    Raises:
        ValueError: shapes that differ, or a target that is not between 0 and 1.

    Source: Angelopoulos et al., "Learn then test" (2021); one level for all looks at a growing
    count is Pocock's, Biometrika 64 (1977).
    """
    confidence = np.asarray(confidence, dtype=np.float64)
    right = np.asarray(right, dtype=bool)
    if confidence.ndim != 1 or confidence.shape != right.shape or not 0 < target < 1:
        shapes = f"{confidence.shape}, {right.shape}, {target}"
        raise ValueError(f"expected (N,) and (N,), and 0 < target < 1, got {shapes}")
    if not len(right):
        return None

    curve = risk_coverage(confidence, right)
    # Fewer answers than these would not be enough, even if all of them were right.
    fewest = math.ceil(design_effect * math.log(ABSTAIN_RISK / 3) / math.log(target))
    wanted = np.linspace(min(len(right), fewest), len(right), THRESHOLDS_TRIED).round()
    tried = np.unique(np.searchsorted(curve.num_answered, wanted))

    # The numbers of independent images that tell as much.
    n = np.floor(curve.num_answered[tried] / design_effect).astype(np.int64)
    num_right = np.floor(n * curve.num_right[tried] / curve.num_answered[tried] + 1e-9)

    level = _level_of_looks(tuple(np.unique(n[n > 0]).tolist()), target)
    rejected = _p_of_at_least(num_right, np.maximum(n, 1), target) <= level
    passed = tried[(n > 0) & rejected]
    if not len(passed):
        return None
    return 0.0 if passed[-1] == len(curve.threshold) - 1 else float(curve.threshold[passed[-1]])


@lru_cache(maxsize=64)
def _level_of_looks(counts: tuple[int, ...], p: float) -> float:
    """Return the level at which looks at a growing count reject in 5 % of the cases.

    The tests come after `counts` trials of probability `p`.
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
    """Return the probability that any of the tests after `counts` trials rejects.

    It is exact but for 1e-12.
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
        logs = (
            scipy.special.gammaln(more + 1)
            - scipy.special.gammaln(added + 1)
            - scipy.special.gammaln(more - added + 1)
        )
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
    return np.where(successes <= 0, 1.0, scipy.special.bdtrc(successes - 1, n, p))


@dataclass(frozen=True)
class RiskCoverage:
    """How many images are answered at each distinct confidence, and how many rightly.

    The highest confidence comes first.
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


def abstaining(
    val: Evaluation, test: Evaluation | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Choose thresholds for abstaining on `val`, and measure them on both.

    `val` holds the validation images that calibrate.

    Returns:
        What the model keeps: `accuracy` (the target) and `threshold`, None where validation cannot
        promise it. What the run reports: the same with the counts, coverage and accuracy of both
        splits, and 95 % intervals.
    """
    kept: list[dict[str, Any]] = []
    reported: list[dict[str, Any]] = []
    both = {"val": val} if test is None else {"val": val, "test": test}
    sides = {split: _sureness(each) for split, each in both.items()}

    groups = val.details.get("groups")
    effect = 1.0
    if groups is not None:
        effect = clusters_of(sides["val"][1], groups, spread=0.25).design_effect

    for target in TARGET_ACCURACIES:
        threshold = abstain_threshold(*sides["val"], target, effect)
        kept.append({"accuracy": target, "threshold": threshold})
        reported.append(dict(kept[-1]))
        if threshold is None:
            continue
        for split, each in both.items():
            measured = _answered(*sides[split], threshold, each.details.get("groups"))
            reported[-1][split] = measured

    return kept, reported


def _sureness(evaluation: Evaluation) -> tuple[np.ndarray, np.ndarray]:
    """Return how sure each answer is, and whether it is right, each (N,)."""
    probabilities = evaluation.details["probabilities"]
    return probabilities.max(1), probabilities.argmax(1) == evaluation.details["targets"]


def _answered(
    confidence: np.ndarray, right: np.ndarray, threshold: float, groups: np.ndarray | None = None
) -> dict[str, Any]:
    answered = confidence >= threshold
    # An image that stands alone is a group of its own.
    numbers = np.arange(len(right)) if groups is None else groups
    n, k = int(answered.sum()), int(right[answered].sum())

    return {
        "num_images": len(right),
        "num_answered": n,
        "num_correct": k,
        "coverage": n / len(right),
        "coverage_ci95": list(clustered_interval(answered, numbers)),
        "accuracy": k / n if n else None,
        "accuracy_ci95": list(clustered_interval(right[answered], numbers[answered]))
        if n
        else [0.0, 1.0],
    }
