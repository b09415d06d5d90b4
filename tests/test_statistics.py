"""Intervals, tests and temperatures against SciPy, published tables and exact coverage; rules
against their statement.
"""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.linear_model import RidgeClassifier
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from tintype.statistics import (
    Clusters,
    NestedFolds,
    bootstrap_counts,
    clustered_interval,
    clustered_mean_interval,
    clustered_pair,
    clustered_paired_p,
    clusters_of,
    corrected_resampled,
    folds_interval,
    heterogeneity_p,
    holm,
    mcnemar_p,
    mean_interval,
    more_cases_of_mean,
    more_cases_of_proportions,
    nested_folds,
    newcombe_interval,
    paired_interval,
    paired_p,
    percentile_interval,
    rank_correlation,
    sign_flip_p,
    wilson_interval,
)
from tintype.tasks.classify.verdict import (
    AGAINST_OVERFITTING,
    ClassCounts,
    Verdict,
    fit_verdict,
    is_settled,
)

pytestmark = pytest.mark.usefixtures("short_pages")


@st.composite
def counts(draw: st.DrawFn, largest: int = 5000) -> tuple[int, int]:
    n = draw(st.integers(1, largest))
    return draw(st.integers(0, n)), n


@pytest.mark.machines
@given(counts(), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_wilson_agrees_with_scipy(trial: tuple[int, int], confidence: float) -> None:
    reference = stats.binomtest(*trial).proportion_ci(confidence, method="wilson")
    assert wilson_interval(*trial, confidence) == pytest.approx(
        (reference.low, reference.high), abs=1e-12
    )


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
def test_newcombe_agrees_with_the_paper(
    table: tuple[int, int, int, int], interval: tuple[float, float]
) -> None:
    assert newcombe_interval(*table) == pytest.approx(interval, abs=6e-5)


@given(counts(), counts())
def test_newcombe_holds_the_difference_and_mirrors(
    one: tuple[int, int], two: tuple[int, int]
) -> None:
    low, high = newcombe_interval(*one, *two)
    assert -1 <= low <= one[0] / one[1] - two[0] / two[1] <= high <= 1
    assert newcombe_interval(*two, *one) == pytest.approx((-high, -low), abs=1e-12)


@pytest.mark.parametrize(
    ("n1", "p1", "n2", "p2"), [(300, 0.95, 60, 0.9), (200, 0.7, 50, 0.5), (150, 0.99, 100, 0.8)]
)
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
        "overfits: 99.7 % right on training images and 83.1 % on validation images: the gap of 16.6 points"
    )
    assert "Try: more augmentation" in over.text
    other = fit_verdict(997, 1000, 831, 1000, 10, against_overfitting="more photos")
    assert other.text == over.text.replace(AGAINST_OVERFITTING, "more photos") != over.text
    under = fit_verdict(5600, 10_000, 550, 1000, 10)
    assert under.word == "underfits"
    assert (
        "only 56.0 % right even on training images (77.5 % expected), and 55.0 % on validation"
        in under.text
    )
    assert "Try: more epochs" in under.text
    fits = fit_verdict(9500, 10_000, 940, 1000, 10)
    assert fits.word == "fits"
    assert fits.gap == pytest.approx(0.01)
    assert fits.text.startswith("fits: no sign of overfitting: 95.0 % right on training images")
    assert "is within the usual 5 points" in fits.text
    assert "Try" not in fits.text


def test_verdict_that_is_uncertain_or_double_says_so() -> None:
    few = fit_verdict(100, 100, 17, 20, 10)
    assert few.word == "fits"
    assert "no clear sign of overfitting" in few.text
    assert "may be within the usual 5 points" in few.text
    assert "Uncertain" in few.text
    both = fit_verdict(600, 1000, 300, 1000, 10)
    assert both.word == "underfits"
    assert "the gap of 30.0 points" in both.text
    assert "100.0 %" not in fit_verdict(59_999, 60_000, 9000, 10_000, 10).text
    better = fit_verdict(95, 100, 20, 20, 10)
    assert "no sign of overfitting" in better.text
    assert "validation is as good as training" in better.text
    assert "99.99 % right on training" in fit_verdict(59_999, 60_000, 9000, 10_000, 10).text


@pytest.mark.machines
@given(counts(), counts(), st.integers(2, 100))
def test_verdict_follows_its_rule(
    train: tuple[int, int], val: tuple[int, int], num_classes: int
) -> None:
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


def by_class(right: list[int], images: list[int]) -> ClassCounts:
    return ClassCounts(np.array(right), np.array(images))


def verdict_by_class(train: ClassCounts, val: ClassCounts, names: tuple[str, ...]) -> Verdict:
    sums = [
        int(counts.sum()) for side in (train, val) for counts in (side.num_right, side.num_images)
    ]
    return fit_verdict(*sums, len(names), train_classes=train, val_classes=val, class_names=names)


@pytest.mark.parametrize(
    ("images", "val_images"),
    [([950, 50], [95, 5]), ([95, 5], [9, 1]), ([210, 3], [30, 1]), ([60, 60, 4], [6, 6, 1])],
)
def test_a_model_that_never_says_one_class_does_not_fit(
    images: list[int], val_images: list[int]
) -> None:
    names = (*("common", "other", "rare")[: len(images) - 1], "rare")
    verdict = verdict_by_class(
        by_class([*images[:-1], 0], images), by_class([*val_images[:-1], 0], val_images), names
    )
    assert verdict.word == "underfits"
    assert verdict.never_recognised == ("rare",)
    assert (
        f"Class 'rare' ({images[-1] + val_images[-1]} images) is never recognised." in verdict.text
    )


def test_the_share_of_the_commonest_class_is_chance() -> None:
    """94 % where 90 % are of one class: less than half of what there was to learn."""
    verdict = verdict_by_class(
        by_class([890, 50], [900, 100]), by_class([89, 5], [90, 10]), ("a", "b")
    )
    assert verdict.word == "underfits"
    assert "97.5 %" in verdict.text
    assert "the commonest class gives 90.0 %" in verdict.text
    assert verdict.never_recognised == ()


def test_a_rare_class_that_is_known_by_heart_overfits() -> None:
    """Accuracy falls by 4.5 points only; the rare class is lost."""
    verdict = verdict_by_class(
        by_class([1900, 100], [1900, 100]), by_class([190, 1], [190, 10]), ("a", "b")
    )
    assert verdict.word == "overfits"
    assert "averaged over the classes, 100.0 %" in verdict.text
    lost = verdict_by_class(
        by_class([1900, 100], [1900, 100]), by_class([190, 0], [190, 10]), ("a", "b")
    )
    assert "is never recognised in validation" in lost.text


def test_balanced_classes_change_nothing_and_one_missed_image_is_no_class_unseen() -> None:
    balanced = verdict_by_class(
        by_class([95] * 10, [100] * 10), by_class([18] * 10, [20] * 10), tuple("abcdefghij")
    )
    assert balanced.word == fit_verdict(950, 1000, 180, 200, 10).word == "fits"
    assert balanced.text == fit_verdict(950, 1000, 180, 200, 10).text
    missed = verdict_by_class(
        by_class([95] * 10, [100] * 10), by_class([1] * 9 + [0], [1] * 10), tuple("abcdefghij")
    )
    assert missed.never_recognised == ()


@pytest.mark.machines
def test_the_interval_of_the_balanced_accuracy_covers_it() -> None:
    """95 % within sampling error of 1,000 draws, for classes of very different size and recall."""
    rng = np.random.default_rng(0)
    images, recall = np.array([400, 60, 12]), np.array([0.95, 0.7, 0.5])
    ends = [ClassCounts(rng.binomial(images, recall), images).mean_recall() for _ in range(1000)]
    covered = np.mean([low <= recall.mean() <= high for _, low, high in ends])
    assert 0.93 <= covered <= 0.975


def test_verdict_rarely_accuses_a_model_without_a_gap() -> None:
    """With equal true accuracies "overfits" must stay far below the 2.5 % that a bare 95 % interval
    would allow.
    """
    rng = np.random.default_rng(0)
    train, val = rng.binomial(1000, 0.9, 400), rng.binomial(200, 0.9, 400)
    words = [
        fit_verdict(int(t), 1000, int(v), 200, 10).word for t, v in zip(train, val, strict=True)
    ]
    assert words.count("overfits") <= 2


@pytest.mark.parametrize("bad", [(0, 0, 1, 2, 10), (1, 2, 0, 0, 10), (1, 2, 1, 2, 1)])
def test_verdict_without_images_is_refused(bad: tuple[int, int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="no verdict"):
        fit_verdict(*bad)


# ---- images in groups -------------------------------------------------------------------------------------------------


def grouped_images(
    draw: np.random.Generator, tries: int, groups: int, size: int, share: float, alike: float
) -> np.ndarray:
    """Return (tries, groups, size) of right or wrong, with the correlation `alike` in a group
    (beta-binomial).
    """
    strength = 1 / alike - 1
    own = draw.beta(share * strength, (1 - share) * strength, (tries, groups, 1))
    return draw.random((tries, groups, size)) < own


NINE = [
    (groups, size, alike)
    for groups, size in ((40, 5), (100, 3), (100, 5))
    for alike in (0.2, 0.5, 0.8)
]


@pytest.mark.parametrize(("groups", "size", "alike"), NINE)
def test_the_interval_of_images_in_groups_covers_95_percent(
    groups: int, size: int, alike: float
) -> None:
    tries, numbers = 1500, np.arange(groups).repeat(size)
    right = grouped_images(np.random.default_rng(groups), tries, groups, size, 0.85, alike).reshape(
        tries, -1
    )
    ends = [clustered_interval(each, numbers) for each in right]
    tolerance = 3 * np.sqrt(0.05 * 0.95 / tries)
    assert (
        0.93 - tolerance < np.mean([low <= 0.85 <= high for low, high in ends]) < 0.97 + tolerance
    )
    alone = [wilson_interval(int(each.sum()), len(each)) for each in right]
    # of images as if each stood alone
    assert np.mean([low <= 0.85 <= high for low, high in alone]) < 0.93


@pytest.mark.parametrize(("groups", "size", "alike"), NINE)
def test_the_paired_interval_of_images_in_groups_covers_95_percent(
    groups: int, size: int, alike: float
) -> None:
    """Two models, each right for 80 % of the images; the p-value agrees with the interval."""
    draw, tries, numbers = np.random.default_rng(size), 500, np.arange(groups).repeat(size)
    a, b = (
        grouped_images(draw, tries, groups, size, 0.8, alike).reshape(tries, -1) for _ in range(2)
    )
    covered = 0
    for one, other in zip(a, b, strict=True):
        (low, high), p = clustered_pair(one & ~other, other & ~one, numbers)
        covered += low <= 0 <= high
        assert (p < 0.05) == (not low <= 0 <= high)
    tolerance = 3 * np.sqrt(0.05 * 0.95 / tries)
    assert 0.93 - tolerance < covered / tries < 0.97 + tolerance


def test_groups_of_one_change_nothing_and_one_group_tells_nothing() -> None:
    right = np.arange(50) % 5 > 0
    assert clustered_interval(right, np.arange(50)) == wilson_interval(40, 50)
    assert clustered_interval(right, np.zeros(50)) == (0.0, 1.0)
    assert clustered_mean_interval(right, np.zeros(50)) is None
    assert clustered_pair(right, ~right, np.zeros(50)) == ((-1.0, 1.0), 1.0)


def test_copies_of_images_tell_no_more_than_the_images() -> None:
    right = np.arange(60) % 4 > 0
    effect = clusters_of(np.repeat(right, 5), np.arange(60).repeat(5)).design_effect
    assert effect == pytest.approx(5, rel=0.03)
    low, high = clustered_interval(np.repeat(right, 5), np.arange(60).repeat(5))
    assert (low, high) == pytest.approx(wilson_interval(45, 60), abs=0.01)


@pytest.mark.parametrize(("groups", "size", "alike"), NINE)
def test_the_gap_of_images_in_groups_covers_95_percent(
    groups: int, size: int, alike: float
) -> None:
    """Training is right for 95 % and validation for 80 %, both in groups."""
    draw, tries = np.random.default_rng(groups + size), 400
    train = grouped_images(draw, tries, 2 * groups, size, 0.95, alike).reshape(tries, -1)
    val = grouped_images(draw, tries, groups, size, 0.80, alike).reshape(tries, -1)
    zeros = np.zeros(train.shape[1], np.int64)

    covered = alone = 0
    for one, other in zip(train, val, strict=True):
        counts = int(one.sum()), len(one), int(other.sum()), len(other)
        of_train = ClassCounts.of(one, zeros, 2, np.arange(2 * groups).repeat(size))
        of_val = ClassCounts.of(other, zeros[: len(other)], 2, np.arange(groups).repeat(size))
        low, high = fit_verdict(
            *counts, 2, train_classes=of_train, val_classes=of_val, class_names="ab"
        ).gap_ci95
        covered += low <= 0.15 <= high
        low, high = newcombe_interval(*counts)
        alone += low <= 0.15 <= high
    tolerance = 3 * np.sqrt(0.05 * 0.95 / tries)
    assert 0.93 - tolerance < covered / tries < 0.97 + tolerance
    assert alone < covered


@pytest.mark.parametrize(
    "across", [False, True], ids=["one class a group", "all classes in each group"]
)
@pytest.mark.parametrize(("groups", "size", "alike"), NINE)
def test_the_balanced_accuracy_of_images_in_groups_covers_95_percent(
    groups: int, size: int, alike: float, across: bool
) -> None:
    """Three classes, of which one is three times as common as each other."""
    draw, tries, numbers = np.random.default_rng(groups * size), 400, np.arange(groups).repeat(size)
    right = grouped_images(draw, tries, groups, size, 0.8, alike).reshape(tries, -1)
    targets = np.array([0, 1, 2, 0, 0])[np.arange(len(numbers)) % 5 if across else numbers % 5]

    covered = 0
    for each in right:
        _, low, high = ClassCounts.of(each, targets, 3, numbers).mean_recall()
        covered += low <= 0.8 <= high
    tolerance = 3 * np.sqrt(0.05 * 0.95 / tries)
    assert 0.93 - tolerance < covered / tries < 0.98 + tolerance


def test_the_gap_and_the_balanced_accuracy_agree_with_a_bootstrap_over_groups() -> None:
    draw, groups, size = np.random.default_rng(3), 300, 5
    numbers = np.arange(groups).repeat(size)
    targets = draw.choice(3, len(numbers), p=[0.6, 0.2, 0.2])
    train, val = (
        grouped_images(draw, 1, groups, size, share, 0.5).reshape(-1) for share in (0.9, 0.75)
    )
    sides = [ClassCounts.of(right, targets, 3, numbers) for right in (train, val)]
    counts = int(train.sum()), len(train), int(val.sum()), len(val)
    low, high = fit_verdict(
        *counts, 3, train_classes=sides[0], val_classes=sides[1], class_names="abc"
    ).gap_ci95

    gaps, recalls = [], []
    for _ in range(2000):
        one, other = draw.integers(groups, size=(2, groups))
        gaps.append(
            train.reshape(groups, size)[one].mean() - val.reshape(groups, size)[other].mean()
        )
        of_class = targets.reshape(groups, size)[other]
        right = val.reshape(groups, size)[other]
        recalls.append(np.mean([right[of_class == k].mean() for k in range(3)]))

    assert (low, high) == pytest.approx(np.quantile(gaps, [0.025, 0.975]), abs=0.1 * (high - low))
    _, low, high = sides[1].mean_recall()
    assert (low, high) == pytest.approx(
        np.quantile(recalls, [0.025, 0.975]), abs=0.1 * (high - low)
    )


def test_a_mean_over_groups_agrees_with_statsmodels() -> None:
    import statsmodels.api as sm

    draw, groups, size = np.random.default_rng(5), 200, 4
    numbers = np.arange(groups).repeat(size)
    values = 0.2 + (draw.normal(size=(groups, 1)) + draw.normal(size=(groups, size))).reshape(-1)
    robust = sm.OLS(values, np.ones(len(values))).fit(
        cov_type="cluster", cov_kwds={"groups": numbers}, use_t=True
    )

    interval = clustered_mean_interval(values, numbers)
    assert interval == pytest.approx(robust.conf_int()[0], abs=0.005)
    assert clustered_paired_p(values, numbers) == pytest.approx(robust.pvalues[0], rel=0.05)
    assert interval is not None
    edge = clustered_paired_p(values - interval[0], numbers)
    assert edge == pytest.approx(0.05, rel=1e-6)  # the interval ends where the p-value is 5 %


def test_a_verdict_on_copies_is_that_on_the_images() -> None:
    """Of 40 validation images in 5 copies each as much is known as of the 40."""
    train, val = np.arange(400) % 50 > 0, np.arange(40) % 8 > 0
    copies, numbers = val.repeat(5), np.arange(40).repeat(5)
    of_train = ClassCounts.of(train, np.arange(400) // 50 % 2, 2)
    targets = np.arange(40) // 8 % 2

    def verdict(right: np.ndarray, groups: np.ndarray | None) -> Verdict:
        of_val = ClassCounts.of(right, targets.repeat(len(right) // 40), 2, groups)
        counts = int(train.sum()), 400, int(right.sum()), len(right)
        return fit_verdict(*counts, 2, train_classes=of_train, val_classes=of_val, class_names="ab")

    alone, grouped, as_if_alone = (
        verdict(val, None),
        verdict(copies, numbers),
        verdict(copies, None),
    )
    assert grouped.gap_ci95 == pytest.approx(alone.gap_ci95, abs=0.02)
    assert (alone.word, grouped.word, as_if_alone.word) == ("fits", "fits", "overfits")
    assert "200 validation images in 40 groups are too few" in grouped.text


def test_a_class_is_never_recognised_only_where_several_groups_of_it_are_missed() -> None:
    right, targets = np.arange(80) >= 8, (np.arange(80) >= 8).astype(np.int64)
    train = ClassCounts.of(np.ones(80, bool), targets, 2)
    for groups, missed in ((np.where(targets == 0, 0, np.arange(80)), ()), (np.arange(80), ("a",))):
        val = ClassCounts.of(right, targets, 2, groups)
        found = fit_verdict(
            80, 80, 72, 80, 2, train_classes=train, val_classes=val, class_names="ab"
        )
        assert found.never_recognised == missed


# ---- differences between groups -------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(6, 60), st.integers(6, 60)), min_size=2, max_size=6))
def test_heterogeneity_agrees_with_scipy(table: list[tuple[int, int]]) -> None:
    reference = stats.chi2_contingency(np.array(table), correction=False)
    found = heterogeneity_p([a for a, _ in table], [a + b for a, b in table])
    if reference.expected_freq.min() < 5:
        assert found is None
    else:
        assert found == pytest.approx(reference.pvalue, abs=1e-12)


def test_heterogeneity_of_too_few_is_not_told() -> None:
    assert heterogeneity_p([1, 2], [100, 100]) is None
    assert heterogeneity_p([50], [100]) is None


def test_holm_is_that_of_the_books() -> None:
    # as R's p.adjust gives them
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.6, 0.7]) == [1.0, 1.0]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=40))
def test_rank_correlation_agrees_with_scipy(points: list[tuple[int, int]]) -> None:
    x, y = zip(*points, strict=True)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert rank_correlation(x, y) == (0.0, 1.0)
        return
    reference: Any = stats.spearmanr(x, y)
    rho, p = rank_correlation(x, y)
    assert rho == pytest.approx(reference.statistic, abs=1e-12)
    assert p == pytest.approx(reference.pvalue, abs=1e-7)


# ---- two models on the same images ----------------------------------------------------------------------------------


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=9))
def test_flips_of_signs_agree_with_scipys_permutation_test(values: list[int]) -> None:
    outside = stats.permutation_test(
        (values,), np.sum, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    )  # which flips signs where there is one sample
    assert sign_flip_p(values) == pytest.approx(min(1.0, float(outside.pvalue)), rel=1e-9)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 30))
def test_flips_of_single_signs_are_mcnemars_exact_test(
    only_a: int, only_b: int, neither: int
) -> None:
    values = [1] * only_a + [-1] * only_b + [0] * neither
    expected = float(mcnemar([[0, only_a], [only_b, 0]], exact=True).pvalue)
    assert sign_flip_p(values) == pytest.approx(expected, rel=1e-9)


@given(st.lists(st.tuples(st.integers(-2, 2), st.integers(0, 5)), min_size=1, max_size=30))
def test_signs_of_a_group_are_flipped_together(cases: list[tuple[int, int]]) -> None:
    values, groups = (np.array(column) for column in zip(*cases, strict=True))
    sums = [int(values[groups == group].sum()) for group in np.unique(groups)]
    assert sign_flip_p(values, groups) == pytest.approx(sign_flip_p(sums), rel=1e-9)


def test_flips_of_many_signs_join_the_normal_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).integers(-2, 3, 4000) + (np.arange(4000) % 40 == 0)
    exact = sign_flip_p(values)
    monkeypatch.setattr("tintype.statistics.MOST_EXACT", 100)
    assert sign_flip_p(values) == pytest.approx(exact, rel=0.05)
    with pytest.raises(ValueError, match="whole"):
        sign_flip_p([0.5])


@pytest.mark.machines
@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_agrees_with_statsmodels(only_a: int, only_b: int) -> None:
    ours = mcnemar_p(only_a, only_b)
    assert ours == pytest.approx(
        float(mcnemar([[0, only_a], [only_b, 0]], exact=True).pvalue), rel=1e-9
    )
    assert ours == mcnemar_p(only_b, only_a)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_holm_agrees_with_statsmodels(p_values: list[float]) -> None:
    with patch("gc.collect"):  # which it calls each time, and which takes a second late in a suite
        expected = multipletests(p_values, method="holm")[1]
    assert holm(p_values) == pytest.approx(expected.tolist(), abs=1e-12)


def word(train: ClassCounts, val: ClassCounts) -> str:
    counts = [
        int(each.sum()) for side in (train, val) for each in (side.num_right, side.num_images)
    ]
    names = [str(k) for k in range(10)]
    return fit_verdict(*counts, 10, train_classes=train, val_classes=val, class_names=names).word


def test_more_training_images_do_not_change_a_verdict_that_is_settled() -> None:
    """A short form of `benchmarks/coverage.py sample`."""
    draw = np.random.default_rng(0)
    num_settled, others = 0, 0
    for _ in range(150):
        strength, gap = draw.uniform(0.5, 5), draw.choice([0, 0.5, 1.0, 1.5])
        easy = 0.5 * draw.normal(size=10)
        targets = draw.integers(0, 10, 10_000)
        right = draw.random(10_000) < 1 / (1 + np.exp(-strength - easy[targets]))
        val_targets = targets[:2000]
        val_right = draw.random(2000) < 1 / (1 + np.exp(gap - strength - easy[val_targets]))

        val = ClassCounts.of(val_right, val_targets, 10)
        few, many = (ClassCounts.of(right[:n], targets[:n], 10) for n in (2_000, 10_000))
        same = word(few, val) == word(many, val)
        others += not same
        if is_settled(few, val, 10_000):
            num_settled += 1
            assert same
    assert num_settled > 90
    assert others  # so it is worth asking


def test_images_in_groups_settle_nothing() -> None:
    alone = ClassCounts.of(np.ones(400), np.arange(400) % 2, 2)
    grouped = ClassCounts.of(np.ones(400), np.arange(400) % 2, 2, np.arange(400) // 2)
    assert is_settled(alone, alone, 2_000)
    assert not is_settled(grouped, alone, 2_000)


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=60))
def test_paired_t_agrees_with_scipy(values: list[int]) -> None:
    p, interval = paired_p(values), mean_interval(values)
    if len(set(values)) == 1:
        assert p == (1.0 if values[0] == 0 else 0.0)
        return
    reference = stats.ttest_1samp(values, 0.0)
    assert p == pytest.approx(float(reference.pvalue), rel=1e-9)
    assert interval == pytest.approx(tuple(reference.confidence_interval(0.95)), rel=1e-9, abs=1e-9)


def test_one_difference_tells_nothing() -> None:
    assert paired_p([1.0]) is None
    assert more_cases_of_mean([1.0]) is None


def constrained_score(only_a: int, only_b: int, n: int, difference: float) -> float:
    """Return Tango's statistic by maximising the likelihood under the given difference numerically."""
    from scipy.optimize import minimize_scalar

    def minus_log_likelihood(share_b: float) -> float:
        share_a, rest = share_b + difference, 1 - 2 * share_b - difference
        return -(
            only_a * np.log(share_a)
            + only_b * np.log(share_b)
            + (n - only_a - only_b) * np.log(rest)
        )

    low, high = max(0.0, -difference) + 1e-12, (1 - difference) / 2 - 1e-12
    found: Any = minimize_scalar(
        minus_log_likelihood, bounds=(low, high), method="bounded", options={"xatol": 1e-13}
    )
    share = float(found.x)
    return (only_a - only_b - n * difference) / np.sqrt(
        n * (2 * share + difference * (1 - difference))
    )


@pytest.mark.parametrize(
    "table", [(12, 5, 100), (40, 22, 359), (150, 90, 10_000), (3, 1, 60), (30, 60, 100)]
)
def test_the_score_interval_ends_where_the_score_is_the_quantile(
    table: tuple[int, int, int],
) -> None:
    low, high = paired_interval(*table)
    assert low < (table[0] - table[1]) / table[2] < high
    assert constrained_score(*table, low) == pytest.approx(1.959964, abs=1e-3)
    assert constrained_score(*table, high) == pytest.approx(-1.959964, abs=1e-3)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 500))
def test_the_score_interval_decides_as_mcnemars_score_test(
    only_a: int, only_b: int, rest: int
) -> None:
    n = only_a + only_b + rest
    low, high = paired_interval(only_a, only_b, n)
    assert -1 <= low <= high <= 1
    assert paired_interval(only_b, only_a, n) == pytest.approx((-high, -low), abs=1e-6)
    if only_a != only_b:
        p = float(mcnemar([[0, only_a], [only_b, 0]], exact=False, correction=False).pvalue)
        assert (low > 0 or high < 0) == (p < 0.05)


def test_models_that_never_differ_leave_an_interval() -> None:
    low, high = paired_interval(0, 0, 100)
    assert high == pytest.approx(1.959964**2 / (100 + 1.959964**2), abs=1e-5)
    assert low == pytest.approx(-high, abs=1e-6)
    assert paired_interval(0, 0, 0) == (-1.0, 1.0)
    with pytest.raises(ValueError, match="expected"):
        paired_interval(60, 50, 100)


@pytest.mark.parametrize(
    ("n", "only_a", "only_b"),
    [(100, 0.1, 0.06), (359, 0.03, 0.02), (1000, 0.02, 0.02), (200, 0.3, 0.1)],
)
def test_the_paired_interval_covers_95_percent(n: int, only_a: float, only_b: float) -> None:
    """Summed over all tables that can come, so that no luck is in it."""
    coverage = 0.0
    for a in np.flatnonzero(stats.binom.pmf(np.arange(n + 1), n, only_a) > 1e-4).tolist():
        weights = stats.binom.pmf(a, n, only_a) * stats.binom.pmf(
            np.arange(n - a + 1), n - a, only_b / (1 - only_a)
        )
        for b in np.flatnonzero(weights > 1e-6).tolist():
            low, high = paired_interval(a, b, n)
            coverage += weights[b] * (low <= only_a - only_b <= high)
    assert 0.93 <= coverage <= 0.97


@pytest.mark.machines
def test_the_paired_bootstrap_is_scipys() -> None:
    draw = np.random.default_rng(0)
    differences = draw.choice([-1, 0, 1], size=300, p=[0.05, 0.85, 0.1])
    replicates = (
        np.concatenate([block @ differences for block in bootstrap_counts(300, 4000, seed=1)]) / 300
    )
    reference = stats.bootstrap(
        (differences,), np.mean, n_resamples=4000, method="percentile", random_state=0
    )
    assert percentile_interval(replicates) == pytest.approx(
        tuple(reference.confidence_interval), abs=0.004
    )
    again = (
        np.concatenate([block @ differences for block in bootstrap_counts(300, 4000, seed=1)]) / 300
    )
    assert np.array_equal(replicates, again)


def test_bootstrap_blocks_are_bounded_and_draw_all_cases() -> None:
    blocks = list(bootstrap_counts(1_500_000, 5, seed=0))
    assert [len(block) for block in blocks] == [2, 2, 1]
    assert all((block.sum(1) == 1_500_000).all() for block in blocks)


def test_the_paired_bootstrap_covers_95_percent() -> None:
    """Simulated: 600 test sets of 400 images, of which one model alone gets 8 % right and the other
    alone 4 %.
    """
    draw, hits = np.random.default_rng(7), 0
    for number in range(600):
        a, b, _ = draw.multinomial(400, [0.08, 0.04, 0.88])
        images = np.repeat([1, -1, 0], [a, b, 400 - a - b])
        replicates = (
            np.concatenate([block @ images for block in bootstrap_counts(400, 200, seed=number)])
            / 400
        )
        low, high = percentile_interval(replicates)
        hits += low <= 0.04 <= high
    assert 0.93 <= hits / 600 <= 0.97


def test_so_many_more_images_show_a_difference_four_times_in_five() -> None:
    """The number that is told is tried: with it, McNemar's test finds the difference with a
    probability of 80 %.
    """
    n = 300 + (more_cases_of_proportions(24, 15, 300) or 0)
    draws = np.random.default_rng(3).multinomial(n, [24 / 300, 15 / 300, 261 / 300], size=2000)
    share = np.mean([mcnemar_p(int(a), int(b)) < 0.05 for a, b, _ in draws])
    assert 0.75 < share < 0.84  # the exact test is a little cautious
    assert more_cases_of_proportions(7, 7, 300) is None
    stricter = more_cases_of_proportions(24, 15, 300, alpha=0.05 / 10)
    assert stricter is not None
    assert stricter > n - 300


def test_so_many_more_pictures_as_statsmodels_says() -> None:
    values = np.random.default_rng(0).normal(0.05, 0.4, size=50)
    size = abs(values.mean()) / values.std(ddof=1)
    solved: Any = TTestPower().solve_power(effect_size=size, alpha=0.05, power=0.8)
    assert 50 + (more_cases_of_mean(values) or 0) == pytest.approx(float(solved), rel=0.02)


# ---- folds --------------------------------------------------------------------------------------


def test_the_corrected_resampled_test_is_that_of_nadeau_and_bengio():
    values = np.array([0.02, 0.035, -0.01, 0.03, 0.015])
    plain = stats.ttest_1samp(values, 0)
    interval, p = corrected_resampled(values, 0.0)
    assert p == pytest.approx(plain.pvalue)
    assert interval == pytest.approx(tuple(plain.confidence_interval()))

    t = values.mean() / np.sqrt((1 / 5 + 1 / 4) * values.var(ddof=1))
    interval, corrected = corrected_resampled(values, 1 / 4)
    assert corrected == pytest.approx(2 * stats.t.sf(t, 4))
    assert p < corrected
    assert (interval[0] < 0 < interval[1]) == (corrected > 0.05)
    assert corrected_resampled([0.0, 0.0], 1) == ((0, 0), 1)
    assert corrected_resampled([0.1], 1) is None


def test_nested_folds_widen_as_the_published_algorithm_does():
    """Written once more with models of scikit-learn, one fit for each pair of folds."""
    draw = np.random.default_rng(0)
    targets = draw.integers(2, size=60)
    features = draw.normal(size=(60, 8)) + 0.5 * targets[:, None]
    repetitions = [draw.permutation(60) % 5 for _ in range(2)]

    def losses_without(mask: np.ndarray) -> np.ndarray:
        model = RidgeClassifier().fit(features[~mask], targets[~mask])
        return (np.asarray(model.predict(features)) != targets).astype(np.float64)

    off, errors, naive, inner, outer = [], [], [], [], []
    for numbers in repetitions:
        pooled = np.zeros(60)
        for one in range(5):
            rest = [k for k in range(5) if k != one]
            answers = [
                losses_without((numbers == one) | (numbers == k))[numbers == k] for k in rest
            ]
            held_out = losses_without(numbers == one)[numbers == one]
            pooled[numbers == one] = held_out
            inner.append(np.concatenate(answers).mean())
            off.append(inner[-1] - held_out.mean())
            errors.append(held_out.var(ddof=1) / len(held_out))
        naive.append(pooled.var(ddof=1) / 60)
        outer.append(pooled.mean())
    squared = 0.8 * max(0, np.var(off, ddof=1) - np.mean(errors))
    found = nested_folds(losses_without, repetitions)
    expected = np.clip(np.sqrt(squared / np.mean(naive)), 1, np.sqrt(5))
    assert found.inflation == pytest.approx(expected)
    assert found.gain == pytest.approx(0.6 * (np.mean(inner) - np.mean(outer)))


def test_the_interval_of_folds_is_wilsons_until_it_is_widened():
    right = np.arange(200) % 10 > 0
    assert folds_interval(right) == wilson_interval(180, 200)
    assert folds_interval(right, nested=NestedFolds(1.0, 0.0)) == pytest.approx(
        Clusters(200, 1.0).share_interval(180, 200)
    )
    low, high = folds_interval(right, nested=NestedFolds(2.0, 0.01))
    assert (low, high) == pytest.approx(Clusters(200, 4.0).share_interval(182, 200))
    groups = np.repeat(np.arange(20), 10)
    assert folds_interval(right, groups) == clustered_interval(right, groups)
