"""Figures and intervals of regression against scikit-learn, SciPy and theory."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from tintype.tasks.regress import conformal, metrics


def _numbers(n: int = 400, columns: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    targets = draw.normal(1000, 30, (n, columns)) * np.arange(1, columns + 1)
    return targets + draw.normal(2, 11, (n, columns)), targets


def test_figures_are_those_of_scikit_learn_and_scipy() -> None:
    predictions, targets = _numbers()
    baseline = targets[:100].mean(0)
    figures = metrics.regression_figures(predictions, targets, ["age", "size"], baseline)

    assert figures["mae"] == pytest.approx(
        sklearn_metrics.mean_absolute_error(targets, predictions)
    )
    assert figures["r2"] == pytest.approx(sklearn_metrics.r2_score(targets, predictions))
    rmse = sklearn_metrics.root_mean_squared_error(targets, predictions)
    assert figures["rmse"] == pytest.approx(rmse)
    for k, column in enumerate(figures["per_column"]):
        one, other = predictions[:, k], targets[:, k]
        assert column["r2"] == pytest.approx(sklearn_metrics.r2_score(other, one))
        assert column["spearman"] == pytest.approx(stats.spearmanr(one, other)[0])
        assert column["bias"] == pytest.approx((one - other).mean())
        always = sklearn_metrics.mean_absolute_error(other, np.full(len(other), baseline[k]))
        assert column["baseline_mae"] == pytest.approx(always)


def test_figures_of_targets_that_are_all_alike_are_those_of_scikit_learn() -> None:
    targets = np.full((20, 1), 7.0)
    for predictions in (targets, targets + 1):
        figures = metrics.regression_figures(predictions, targets, ["age"], np.array([7.0]))
        assert figures["r2"] == sklearn_metrics.r2_score(targets, predictions)
        assert all(math.isfinite(end) for end in figures["r2_ci95"])


def test_bootstrap_is_that_of_scipy() -> None:
    predictions, targets = _numbers(columns=1)
    figures = metrics.regression_figures(predictions, targets, ["age"], targets.mean(0))
    errors = abs(predictions - targets)[:, 0]
    reference = stats.bootstrap(
        (errors,), np.mean, n_resamples=4000, method="percentile", random_state=1
    ).confidence_interval

    width = reference.high - reference.low
    assert figures["mae_ci95"][0] == pytest.approx(reference.low, abs=width / 10)
    assert figures["mae_ci95"][1] == pytest.approx(reference.high, abs=width / 10)


def test_interval_of_copies_in_groups_is_that_of_the_originals() -> None:
    predictions, targets = _numbers(80, 1)
    once = metrics.regression_figures(predictions, targets, ["age"], targets.mean(0))
    copies = np.repeat(np.arange(80), 9)
    args = (predictions[copies], targets[copies], ["age"], targets.mean(0))
    grouped = metrics.regression_figures(*args, groups=copies)

    assert grouped["mae_ci95"] == pytest.approx(once["mae_ci95"])
    assert grouped["r2_ci95"] == pytest.approx(once["r2_ci95"])
    assert grouped["num_groups"] == 80
    alone = metrics.regression_figures(*args)
    assert np.ptp(alone["mae_ci95"]) < 0.5 * np.ptp(once["mae_ci95"])


def test_quantile_is_the_finite_sample_one() -> None:
    scores = np.arange(1.0, 20.0)  # 19 scores: ceil(20 * 0.9) = 18
    assert conformal.conformal_quantile(scores, 0.9) == 18
    assert conformal.conformal_quantile(scores[:9], 0.9) == 9
    assert conformal.conformal_quantile(scores[:8], 0.9) is None
    assert [conformal.fewest_for(level) for level in (0.5, 0.8, 0.9, 0.95)] == [1, 4, 9, 19]
    alone = np.arange(19)
    assert conformal.conformal_quantile(scores, 0.9, alone) == 18


def test_coverage_of_new_images_is_what_theory_says() -> None:
    """The coverage of one calibration is Beta((n + 1) level, ...), so its mean is known exactly."""
    draw = np.random.default_rng(0)
    n, level, trials = 39, 0.9, 3000
    spread = draw.uniform(0.5, 4, (trials, n + 50))
    residuals = draw.standard_t(4, (trials, n + 50)) * spread
    # normalised by a scale that is wrong by a factor and noisy: the coverage holds all the same
    scales = 3 * spread * draw.lognormal(0, 0.4, spread.shape)
    scores = abs(residuals) / scales

    quantiles = [conformal.conformal_quantile(trial[:n], level) for trial in scores]
    held = (scores[:, n:] <= np.array(quantiles, np.float64)[:, None]).mean(1)
    k = math.ceil((n + 1) * level)
    expected = stats.beta(k, n + 1 - k)
    error = math.sqrt((expected.var() + expected.mean() * (1 - expected.mean()) / 50) / trials)
    assert expected.mean() == pytest.approx(0.9)
    assert held.mean() == pytest.approx(expected.mean(), abs=4 * error)


def test_coverage_of_new_groups_holds_where_images_of_a_group_are_alike() -> None:
    draw = np.random.default_rng(1)
    groups = np.repeat(np.arange(60), 10)
    held = []
    for _ in range(400):
        size = draw.exponential(1, 61)
        scores = size[:60][groups] * draw.uniform(0.9, 1.1, 600)
        q = conformal.conformal_quantile(scores, 0.9, groups)
        assert q is not None
        held.append(float((size[60] * draw.uniform(0.9, 1.1, 20) <= q).mean()))
    assert np.mean(held) == pytest.approx(0.9, abs=4 * float(np.std(held)) / math.sqrt(400))


def test_intervals_differ_between_photos_and_hold_their_share() -> None:
    draw = np.random.default_rng(2)
    scales = draw.uniform(0.5, 5, (4000, 1))
    targets = draw.normal(0, 1, (4000, 1)) * scales
    predictions = np.zeros((4000, 1))
    quantiles = conformal.calibrate(predictions[:2000], scales[:2000], targets[:2000], 0.8)
    low, high = conformal.interval_ends(predictions[2000:], scales[2000:], quantiles)
    found = conformal.interval_figures(low[:, 0], high[:, 0], targets[2000:, 0])

    assert found["coverage_ci95"][0] < 0.8 < found["coverage_ci95"][1]
    assert quantiles[0] == pytest.approx(stats.norm.ppf(0.9), rel=0.06)
    assert found["width_deciles"][2] > 3 * found["width_deciles"][0]
    ends = conformal.interval_ends(predictions, scales, [None])
    assert np.isinf(ends).all()


@pytest.mark.parametrize(
    ("train", "val", "word"),
    [
        (0.1, 0.11, "fits"),
        (0.1, 0.3, "overfits"),
        (0.7, 0.75, "underfits"),
        (0.1, 1.0, "underfits"),
    ],
)
def test_verdict(train: float, val: float, word: str) -> None:
    draw = np.random.default_rng(0)
    targets = draw.normal(50, 10, (500, 1))
    baseline = targets.mean(0)
    noise = draw.normal(0, 10, (500, 1))
    of_train, of_val = (
        metrics.regression_figures(targets + part * noise, targets, ["age"], baseline)
        for part in (train, val)
    )
    drawn = [
        metrics.replicates(targets + part * noise, targets, baseline, seed=seed)["relative_mae"]
        for seed, part in enumerate((train, val))
    ]
    low, high = np.quantile(drawn[1] - drawn[0], [0.025, 0.975])
    verdict = metrics.fit_verdict(of_train, of_val, (float(low), float(high)))

    assert verdict["word"] == word
    assert "always saying the mean" in verdict["text"]


def test_numbers_are_written_in_three_digits() -> None:
    values = (0.0, 12.345, 0.00123456, 123456.0, 1.5e9, 9.0)
    assert [metrics.in_digits(value) for value in values] == [
        "0", "12.3", "0.00123", "123,456", "1.5e+09", "9.00",
    ]  # fmt: skip
