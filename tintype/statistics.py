"""Intervals for proportions and their differences, and the verdict on the fit of a classifier."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.special import ndtri

# The rule of `fit_verdict`, in parts of one: a gap up to this size is ordinary optimism, ...
ORDINARY_GAP = 0.05
# ... a model that learned less than this part of what lies between chance and perfection underfits, ...
LEARNED_PART = 0.75
# ... and a gap known less exactly than this (width of its interval) is called uncertain.
UNCERTAIN_WIDTH = 0.20


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the score interval (low, high) for a proportion of `successes` in `n` trials.

    (0, 1) when there are no trials.

    Raises:
        ValueError: `successes` is not between 0 and `n`, or `confidence` not between 0 and 1.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    z = _normal_quantile(confidence)
    _check_counts(successes, n)
    if n == 0:
        return 0.0, 1.0
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half_width = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # At the ends the interval reaches 0 or 1 exactly, which rounding would miss by 1e-17.
    low = 0.0 if successes == 0 else max(0.0, centre - half_width)
    high = 1.0 if successes == n else min(1.0, centre + half_width)
    return low, high


def newcombe_interval(s1: int, n1: int, s2: int, n2: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the interval (low, high) for the difference s1/n1 - s2/n2 of two independent proportions.

    (-1, 1) when either has no trials.

    Raises:
        ValueError: a count of successes is not between 0 and its number of trials.

    Source: Newcombe, "Interval estimation for the difference between independent proportions", Statistics in
    Medicine 17 (1998), method 10.
    """
    low1, high1 = wilson_interval(s1, n1, confidence)
    low2, high2 = wilson_interval(s2, n2, confidence)
    if n1 == 0 or n2 == 0:
        return -1.0, 1.0
    p1, p2 = s1 / n1, s2 / n2
    below = math.hypot(p1 - low1, high2 - p2)
    above = math.hypot(high1 - p1, p2 - low2)
    return max(-1.0, p1 - p2 - below), min(1.0, p1 - p2 + above)


@dataclass(frozen=True)
class Verdict:
    """What the train/validation gap says of the fit: one word, a text for the user, and the numbers behind it.

    `gap` is the training accuracy less the validation accuracy, with its 95 % interval; both are parts of one.
    """

    word: str  # "underfits", "fits" or "overfits"
    text: str
    gap: float
    gap_ci95: tuple[float, float]


def fit_verdict(train_correct: int, train_n: int, val_correct: int, val_n: int, num_classes: int) -> Verdict:
    """Say whether a classifier underfits, fits or overfits, by a stated rule.

    Training accuracy must have been measured on clean training images by the final model. In this order:

    1. "underfits": the upper end of the training accuracy's 95 % Wilson interval is below chance + 0.75 (1 - chance),
       where chance is 1 / num_classes. A gap as in 2 is then told in the text beside it.
    2. "overfits": the 95 % Newcombe interval of (training accuracy - validation accuracy) lies wholly above 5 points.
    3. "fits": neither was shown.

    Where the gap's interval is wider than 20 points, the word stays and the text says that it is uncertain.

    Raises:
        ValueError: counts that do not fit each other, no training or no validation images, or fewer than two classes.
    """
    if train_n == 0 or val_n == 0 or num_classes < 2:
        raise ValueError(f"no verdict on {train_n} training and {val_n} validation images of {num_classes} classes")
    train_accuracy, val_accuracy = train_correct / train_n, val_correct / val_n
    interval = newcombe_interval(train_correct, train_n, val_correct, val_n)
    chance = 1 / num_classes
    enough = chance + LEARNED_PART * (1 - chance)
    underfits = wilson_interval(train_correct, train_n)[1] < enough
    overfits = interval[0] > ORDINARY_GAP

    gap = (
        f"the gap of {_points(train_accuracy - val_accuracy)} points ({_points(interval[0])} to {_points(interval[1])})"
    )
    ordinary = f"{100 * ORDINARY_GAP:g} points"
    if underfits:
        word, advice = "underfits", " Try: more epochs, a larger model, a higher learning rate, less augmentation."
        reason = f"the first is below {_percent(enough)}, three quarters of the way from chance to perfect"
        if overfits:
            reason += f", and yet {gap} is more than the {ordinary} that chance and ordinary optimism explain"
    elif overfits:
        word, advice = "overfits", " Try: more augmentation, weight decay, fewer epochs."
        reason = f"{gap} is more than the {ordinary} that chance and ordinary optimism explain"
    else:
        word, advice = "fits", ""
        reason = f"{gap} {'is within' if interval[1] <= ORDINARY_GAP else 'cannot be told from'} the usual {ordinary}"
    seen = f"{_percent(train_accuracy)} on training images, {_percent(val_accuracy)} on validation images"
    text = f"{word}: {seen}; {reason}.{advice}"
    if interval[1] - interval[0] > UNCERTAIN_WIDTH:
        text += f" Uncertain: {train_n} training and {val_n} validation images are too few to know the gap well."
    return Verdict(word, text, train_accuracy - val_accuracy, interval)


def _normal_quantile(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    return float(ndtri(0.5 + confidence / 2))


def _check_counts(successes: int, n: int) -> None:
    if not 0 <= successes <= n:
        raise ValueError(f"expected 0 <= successes <= n, got {successes} and {n}")


def _percent(part: float) -> str:
    shown = f"{100 * part:.1f}"
    if shown == "100.0" and part < 1:  # a model that errs is not called perfect by rounding
        shown = f"{math.floor(10000 * part) / 100:.2f}"
    return f"{shown} %"


def _points(part: float) -> str:
    return f"{100 * part:.1f}"
