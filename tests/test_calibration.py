"""The temperature and the thresholds for abstaining, against closed forms, searches by SciPy and simulations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import softmax

from tintype.statistics import wilson_interval, wilson_lower
from tintype.tasks.classify.calibration import abstain_threshold, fit_temperature, risk_coverage

# ---- temperature ----------------------------------------------------------------------------------------------------


@pytest.mark.machines
@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_temperature_finds_the_scale_of_simulated_logits(scale: float) -> None:
    """Classes drawn from softmax(z), logits scale * z: the temperature is the scale, within three
    standard errors.
    """
    rng = np.random.default_rng(0)
    z = rng.normal(scale=2.0, size=(8000, 6))
    targets = np.array([rng.choice(6, p=p) for p in softmax(z, axis=1)])
    assert fit_temperature(scale * z, targets).value == pytest.approx(scale, rel=0.06)


@given(st.integers(20, 400), st.floats(0.05, 8.0), st.data())
def test_temperature_of_two_classes_has_a_closed_form(
    n: int, margin: float, data: st.DataObject
) -> None:
    """With the same margin m everywhere and k of n right the log loss is least at T = m / log(k /
    (n - k)).
    """
    right = data.draw(st.integers(n // 2 + 1, n - 1))
    targets = np.array([0] * right + [1] * (n - right))
    expected = margin / np.log(right / (n - right))
    found = fit_temperature(np.tile([margin, 0.0], (n, 1)), targets).value
    assert found == pytest.approx(np.clip(expected, 0.05, 20), rel=1e-3)


@pytest.mark.machines
def test_temperature_agrees_with_a_search_by_scipy() -> None:
    rng = np.random.default_rng(1)
    logits, targets = rng.normal(scale=3, size=(300, 4)), rng.integers(0, 4, 300)
    targets[:200] = logits[:200].argmax(1)

    def loss(t: float) -> float:
        return float(-np.log(softmax(logits / t, axis=1)[np.arange(300), targets]).mean())

    grid = np.geomspace(0.05, 20, 4001)
    assert fit_temperature(logits, targets).value == pytest.approx(
        grid[np.argmin([loss(t) for t in grid])], rel=2e-3
    )
    assert fit_temperature(logits + rng.normal(size=(300, 1)), targets).value == pytest.approx(
        fit_temperature(logits, targets).value, rel=1e-4
    )


def test_temperature_where_the_log_loss_says_nothing() -> None:
    few = fit_temperature(np.eye(3)[[0, 1, 2] * 6], [0, 1, 2] * 6)
    assert few.value == 1.0
    assert "18 validation images are too few" in few.reason
    # Without a mistake the loss would fall for ever; the mean confidence becomes (N + 1) / (N + 2).
    targets = np.arange(3).repeat(60)
    perfect = fit_temperature(2 * np.eye(3)[targets], targets)
    confidence = softmax(2 * np.eye(3)[targets] / perfect.value, axis=1).max(1).mean()
    assert confidence == pytest.approx(181 / 182, abs=1e-6)
    assert "rule of succession" in perfect.reason
    assert fit_temperature(1e-3 * np.eye(3)[targets], targets).value == pytest.approx(0.05)
    assert fit_temperature(1e6 * np.eye(3)[targets], targets).value == pytest.approx(20)
    # Answers no better than chance: the confidence goes as low as the bound lets it.
    worthless = fit_temperature(
        np.random.default_rng(0).normal(size=(900, 3)), targets[np.arange(900) % 180]
    )
    assert worthless.value > 5
    with pytest.raises(ValueError, match="finite"):
        fit_temperature([[np.nan, 0.0]] * 30, [0] * 30)


# ---- abstaining -----------------------------------------------------------------------------------------------------

answers = st.lists(
    st.tuples(st.integers(0, 12).map(lambda c: c / 12), st.booleans()), min_size=1, max_size=120
)


@given(answers, st.sampled_from([0.3, 0.5, 0.8, 0.9]))
def test_an_abstain_threshold_is_a_confidence_that_was_given_and_passes_a_single_test(
    pairs: list[tuple[float, bool]], wish: float
) -> None:
    confidence, right = np.array([c for c, _ in pairs]), np.array([r for _, r in pairs])
    threshold = abstain_threshold(confidence, right, wish)
    if threshold is None:
        return
    answered = confidence >= threshold
    assert threshold == 0.0 or threshold in confidence
    assert threshold > 0 or answered.all()
    outside = stats.binomtest(
        int(right[answered].sum()), int(answered.sum()), wish, alternative="greater"
    )
    assert outside.pvalue <= 0.05


def test_few_answers_promise_what_they_can() -> None:
    """With every answer right, 14 images show 80 %, 59 show 95 % and 299 show 99 %: wish ** n <= 5
    %.
    """
    for wish, fewest in ((0.8, 14), (0.95, 59), (0.99, 299)):
        for n in (fewest - 1, fewest):
            threshold = abstain_threshold(np.linspace(0.5, 1, n), np.ones(n, bool), wish)
            assert threshold == (0.0 if n == fewest else None)
    assert abstain_threshold([], [], 0.9) is None


@pytest.mark.parametrize(
    ("wish", "n"), [(0.8, 60), (0.8, 1000), (0.9, 200), (0.95, 2000), (0.99, 1000)]
)
def test_the_level_of_many_thresholds_is_that_of_simulated_walks(wish: float, n: int) -> None:
    """The surest answers are right as often as all others, just as often as wished: 5 % may pass
    any of the tests.
    """
    draw, tries = np.random.default_rng(n), 2000
    confidence = np.linspace(1, 0.5, n)
    broken = sum(
        abstain_threshold(confidence, row, wish) is not None
        for row in draw.random((tries, n)) < wish
    )
    tolerance = 3 * np.sqrt(0.05 * 0.95 / tries)
    assert broken / tries < 0.05 + tolerance
    assert broken / tries > 0.01  # the level is used and not wasted


@pytest.mark.parametrize(("wish", "power", "n"), [(0.9, 1.0, 400), (0.95, 2.0, 2000)])
def test_the_promise_of_abstaining_is_kept(wish: float, power: float, n: int) -> None:
    """500 runs with n validation images: the true accuracy among the answered falls short in at
    most 5 of 100.
    """
    rng = np.random.default_rng(3)
    confidence = np.sort(rng.beta(4, 1, 200_000))[::-1]
    # of all answers at least this sure
    truth = np.cumsum(0.3 + 0.7 * confidence**power) / np.arange(1, 200_001)
    broken = answered = 0
    for _ in range(500):
        c = rng.choice(confidence, n)
        threshold = abstain_threshold(c, rng.random(n) < 0.3 + 0.7 * c**power, wish)
        if threshold is not None:
            answered += 1
            broken += truth[np.searchsorted(-confidence, -threshold, side="right") - 1] < wish
    assert answered > 200
    assert broken <= 25


@given(answers)
def test_risk_coverage_counts_answers(pairs: list[tuple[float, bool]]) -> None:
    confidence, right = np.array([c for c, _ in pairs]), np.array([r for _, r in pairs])
    curve = risk_coverage(confidence, right)
    assert curve.threshold.tolist() == sorted(set(confidence), reverse=True)
    for t, n, k in zip(curve.threshold, curve.num_answered, curve.num_right, strict=True):
        assert (n, k) == ((confidence >= t).sum(), right[confidence >= t].sum())
    lower = wilson_lower(curve.num_right, curve.num_answered)
    assert lower == pytest.approx(
        [
            wilson_interval(int(k), int(n))[0]
            for k, n in zip(curve.num_right, curve.num_answered, strict=True)
        ]
    )
