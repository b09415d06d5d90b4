"""Intervals against SciPy, published tables and exact coverage; the verdict against its stated rule."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tintype.statistics import fit_verdict, newcombe_interval, wilson_interval


@st.composite
def counts(draw: st.DrawFn, largest: int = 5000) -> tuple[int, int]:
    n = draw(st.integers(1, largest))
    return draw(st.integers(0, n)), n


@given(counts(), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_wilson_agrees_with_scipy(trial: tuple[int, int], confidence: float) -> None:
    reference = stats.binomtest(*trial).proportion_ci(confidence, method="wilson")
    assert wilson_interval(*trial, confidence) == pytest.approx((reference.low, reference.high), abs=1e-12)


@given(counts())
def test_wilson_holds_the_estimate_and_mirrors(trial: tuple[int, int]) -> None:
    successes, n = trial
    low, high = wilson_interval(successes, n)
    assert 0 <= low <= successes / n <= high <= 1
    assert low < high
    assert wilson_interval(n - successes, n) == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_wilson_at_the_ends() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(0, 20)[0] == 0.0
    assert wilson_interval(20, 20)[1] == 1.0


def exact_coverage(n: int, p: float) -> float:
    """Return the probability of all counts whose interval holds the truth."""
    successes = np.arange(n + 1)
    covers = [low <= p <= high for low, high in (wilson_interval(int(s), n) for s in successes)]
    return float(stats.binom.pmf(successes, n, p)[covers].sum())


@pytest.mark.parametrize(("n", "p"), [(n, p) for n in (360, 1000) for p in (0.5, 0.8, 0.9, 0.95)])
def test_wilson_covers_95_percent(n: int, p: float) -> None:
    assert 0.93 <= exact_coverage(n, p) <= 0.97


@pytest.mark.parametrize("n", [10, 30, 60])
def test_wilson_covers_95_percent_of_few_on_the_average(n: int) -> None:
    """Counts are whole, so that the coverage of few images jumps with p; its mean over p must hold."""
    assert 0.94 <= np.mean([exact_coverage(n, p) for p in np.linspace(0.02, 0.98, 97)]) <= 0.96


# Newcombe (1998), table II, method 10: the eight contrasts and their intervals.
PUBLISHED = [
    ((56, 70, 48, 80), (0.0524, 0.3339)),
    ((9, 10, 3, 10), (0.1705, 0.8090)),
    ((6, 7, 2, 7), (0.0582, 0.8062)),
    ((5, 56, 0, 29), (-0.0381, 0.1926)),
    ((0, 10, 0, 20), (-0.1611, 0.2775)),
    ((0, 10, 0, 10), (-0.2775, 0.2775)),
    ((10, 10, 0, 20), (0.6791, 1.0)),
    ((10, 10, 0, 10), (0.6075, 1.0)),
]


@pytest.mark.parametrize(("table", "interval"), PUBLISHED)
def test_newcombe_agrees_with_the_paper(table: tuple[int, int, int, int], interval: tuple[float, float]) -> None:
    assert newcombe_interval(*table) == pytest.approx(interval, abs=6e-5)


@given(counts(), counts())
def test_newcombe_holds_the_difference_and_mirrors(one: tuple[int, int], two: tuple[int, int]) -> None:
    low, high = newcombe_interval(*one, *two)
    assert -1 <= low <= one[0] / one[1] - two[0] / two[1] <= high <= 1
    assert newcombe_interval(*two, *one) == pytest.approx((-high, -low), abs=1e-12)


@pytest.mark.parametrize(("n1", "p1", "n2", "p2"), [(300, 0.95, 60, 0.9), (200, 0.7, 50, 0.5), (150, 0.99, 100, 0.8)])
def test_newcombe_covers_95_percent(n1: int, p1: float, n2: int, p2: float) -> None:
    one, two = np.arange(n1 + 1), np.arange(n2 + 1)
    weight1, weight2 = stats.binom.pmf(one, n1, p1), stats.binom.pmf(two, n2, p2)
    coverage = 0.0
    for s1 in one[weight1 > 1e-6].tolist():
        for s2 in two[weight2 > 1e-6].tolist():
            low, high = newcombe_interval(s1, n1, s2, n2)
            coverage += weight1[s1] * weight2[s2] * (low <= p1 - p2 <= high)
    assert 0.93 <= coverage <= 0.97


@pytest.mark.parametrize("bad", [(3, 2), (-1, 2), (0, -1)])
def test_impossible_counts_are_refused(bad: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(*bad)
    with pytest.raises(ValueError, match="confidence"):
        wilson_interval(1, 2, 95)
    assert newcombe_interval(0, 0, 1, 2) == (-1.0, 1.0)


def test_verdict_on_the_three_cases() -> None:
    over = fit_verdict(997, 1000, 831, 1000, 10)
    assert over.word == "overfits"
    assert over.text.startswith(
        "overfits: 99.7 % on training images, 83.1 % on validation images; the gap of 16.6 points"
    )
    assert "Try: more augmentation" in over.text
    under = fit_verdict(5600, 10_000, 550, 1000, 10)
    assert under.word == "underfits"
    assert "77.5 %" in under.text
    assert "Try: more epochs" in under.text
    fits = fit_verdict(9500, 10_000, 940, 1000, 10)
    assert fits.word == "fits"
    assert fits.gap == pytest.approx(0.01)
    assert "is within" in fits.text
    assert "Try" not in fits.text


def test_verdict_that_is_uncertain_or_double_says_so() -> None:
    few = fit_verdict(100, 100, 17, 20, 10)
    assert few.word == "fits"
    assert "cannot be told from" in few.text
    assert "Uncertain" in few.text
    both = fit_verdict(600, 1000, 300, 1000, 10)
    assert both.word == "underfits"
    assert "the gap of 30.0 points" in both.text
    assert "100.0 %" not in fit_verdict(59_999, 60_000, 9000, 10_000, 10).text
    assert "99.99 % on training" in fit_verdict(59_999, 60_000, 9000, 10_000, 10).text


@given(counts(), counts(), st.integers(2, 100))
def test_verdict_follows_its_rule(train: tuple[int, int], val: tuple[int, int], num_classes: int) -> None:
    verdict = fit_verdict(*train, *val, num_classes)
    low, high = newcombe_interval(*train, *val)
    enough = 1 / num_classes + 0.75 * (1 - 1 / num_classes)
    if stats.binomtest(*train).proportion_ci(method="wilson").high < enough:
        expected = "underfits"
    else:
        expected = "overfits" if low > 0.05 else "fits"
    assert verdict.word == expected
    assert verdict.gap_ci95 == (low, high)
    assert ("Uncertain" in verdict.text) == (high - low > 0.2)
    assert verdict.text.startswith(expected + ": ")


def test_verdict_rarely_accuses_a_model_without_a_gap() -> None:
    """With equal true accuracies "overfits" must stay far below the 2.5 % that a bare 95 % interval would allow."""
    rng = np.random.default_rng(0)
    train, val = rng.binomial(1000, 0.9, 400), rng.binomial(200, 0.9, 400)
    words = [fit_verdict(int(t), 1000, int(v), 200, 10).word for t, v in zip(train, val, strict=True)]
    assert words.count("overfits") <= 2


@pytest.mark.parametrize("bad", [(0, 0, 1, 2, 10), (1, 2, 0, 0, 10), (1, 2, 1, 2, 1)])
def test_verdict_without_images_is_refused(bad: tuple[int, int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="no verdict"):
        fit_verdict(*bad)
