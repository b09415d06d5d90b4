"""Every figure against scikit-learn, on the digits with a logistic regression and on random cases."""

from __future__ import annotations

import json
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from tintype import api
from tintype.data import open_data
from tintype.tasks.classify import metrics
from tintype.tasks.restoring import load_task

Case = tuple[NDArray[Any], NDArray[Any]]


@pytest.fixture(scope="module")
def digits() -> Case:
    """Return probabilities and targets of 897 digits that a regression, fitted briefly, has not
    seen.
    """
    images, targets = load_digits(return_X_y=True)
    pixels = images / 16
    model = LogisticRegression(C=0.25, max_iter=500).fit(pixels[:900], targets[:900])
    return model.predict_proba(pixels[900:]), np.asarray(targets[900:])


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Return random probabilities without ties; classes may be absent from targets, predictions or
    both.
    """
    num_classes, n = draw(st.integers(2, 14)), draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    probabilities = rng.dirichlet(np.full(num_classes, draw(st.sampled_from([0.1, 1.0, 10.0]))), n)
    return probabilities, rng.integers(0, draw(st.integers(1, num_classes)), n)


def assert_agrees(probabilities: NDArray[Any], targets: NDArray[Any]) -> None:
    n, num_classes = probabilities.shape
    labels, predictions = range(num_classes), probabilities.argmax(1)
    figures = metrics.classification_figures(probabilities, targets)
    confusion = metrics.confusion_matrix(predictions, targets, num_classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of absent classes
        expected = {
            "accuracy": reference.accuracy_score(targets, predictions),
            "loss": reference.log_loss(targets, probabilities, labels=labels),
            "balanced_accuracy": reference.balanced_accuracy_score(targets, predictions),
            "macro_f1": reference.f1_score(targets, predictions, average="macro"),
            "num_images": n,
            "num_correct": reference.accuracy_score(targets, predictions, normalize=False),
        }
        if num_classes > 10:
            top5 = reference.top_k_accuracy_score(targets, probabilities, k=5, labels=labels)
            expected["top5_accuracy"] = top5
        report: Any = reference.classification_report(
            targets, predictions, labels=labels, output_dict=True
        )
        assert (confusion == reference.confusion_matrix(targets, predictions, labels=labels)).all()
    assert {name: figures[name] for name in expected} == pytest.approx(
        expected, rel=1e-9, abs=1e-12
    )
    assert ("top5_accuracy" in figures) == ("top5_accuracy_ci95" in figures) == (num_classes > 10)
    interval = stats.binomtest(figures["num_correct"], n).proportion_ci(method="wilson")
    assert figures["accuracy_ci95"] == pytest.approx([interval.low, interval.high])
    for k, row in enumerate(metrics.per_class(confusion, [f"class {k}" for k in labels])):
        theirs = report[str(k)]
        assert row["name"] == f"class {k}"
        assert [row[name] for name in ("precision", "recall", "f1", "support")] == pytest.approx(
            [theirs[name] for name in ("precision", "recall", "f1-score", "support")]
        )
    assert figures["expected_calibration_error"] == pytest.approx(
        slow_calibration_error(probabilities, targets)
    )


def slow_calibration_error(probabilities: NDArray[Any], targets: NDArray[Any]) -> float:
    """Follow the definition of Guo et al. (2017), equations 2, 3 and 5, bin by bin."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == targets
    error = 0.0
    for m in range(15):
        inside = (confidence > m / 15) & (confidence <= (m + 1) / 15)
        if inside.any():
            error += (
                inside.sum() / len(targets) * abs(right[inside].mean() - confidence[inside].mean())
            )
    return error


@pytest.mark.machines
def test_figures_of_digits_agree_with_scikit_learn(digits: Case) -> None:
    assert_agrees(*digits)
    assert 0.85 < metrics.classification_figures(*digits)["accuracy"] < 1


@given(cases())
@settings(deadline=None, max_examples=60)
def test_random_figures_agree_with_scikit_learn(case: Case) -> None:
    assert_agrees(*case)


def test_everything_is_plain_json(digits: Case) -> None:
    probabilities, targets = digits
    names = [str(k) for k in range(10)]
    confusion = metrics.confusion_matrix(probabilities.argmax(1), targets, 10)
    for value in (
        metrics.classification_figures(probabilities.astype(np.float32), targets),
        metrics.per_class(confusion, names),
        metrics.most_confused(confusion, names),
        metrics.reliability_bins(probabilities, targets),
        confusion.tolist(),
    ):
        assert json.loads(json.dumps(value, allow_nan=False)) == value


@pytest.mark.machines
def test_float32_gives_the_same_figures(digits: Case) -> None:
    probabilities, targets = digits
    exact = metrics.classification_figures(probabilities, targets)
    rounded = metrics.classification_figures(probabilities.astype(np.float32), targets)
    assert rounded.pop("accuracy_ci95") == exact.pop("accuracy_ci95")
    assert rounded == pytest.approx(exact, rel=1e-5)


def test_log_loss_of_certainty() -> None:
    certain = np.eye(3)
    assert str(metrics.log_loss(certain, [0, 1, 2])) == "0.0"
    assert metrics.log_loss(certain, [1, 2, 0]) == pytest.approx(-np.log(2.0**-52))


def test_ties_go_to_the_lower_class() -> None:
    even = np.full((12, 12), 1 / 12)
    targets = np.arange(12)
    figures = metrics.classification_figures(even, targets)
    assert figures["num_correct"] == 1
    assert figures["top5_accuracy"] == pytest.approx(5 / 12)
    assert metrics.target_ranks(even, targets).tolist() == targets.tolist()


@given(cases())
@settings(deadline=None, max_examples=40)
def test_rank_zero_means_right(case: Case) -> None:
    probabilities, targets = case
    ranks = metrics.target_ranks(probabilities, targets)
    assert ((ranks == 0) == (probabilities.argmax(1) == targets)).all()
    # Rounding brings ties: the rule must still hold.
    coarse = np.round(probabilities, 1) + 1e-9
    coarse /= coarse.sum(1, keepdims=True)
    assert ((metrics.target_ranks(coarse, targets) == 0) == (coarse.argmax(1) == targets)).all()


def test_most_confused_names_the_worst_pairs_first() -> None:
    confusion = np.array([[90, 7, 3], [7, 3, 0], [0, 1, 9]])
    rows = metrics.most_confused(confusion, ["cat", "dog", "cow"], k=3)
    assert rows == [
        {"target": "dog", "prediction": "cat", "count": 7, "share": 0.7},
        {"target": "cat", "prediction": "dog", "count": 7, "share": 0.07},
        {"target": "cat", "prediction": "cow", "count": 3, "share": 0.03},
    ]
    assert len(metrics.most_confused(confusion, ["cat", "dog", "cow"])) == 4
    assert metrics.most_confused(np.eye(3, dtype=int), ["cat", "dog", "cow"]) == []


@given(cases())
@settings(deadline=None, max_examples=40)
def test_reliability_bins_hold_every_image(case: Case) -> None:
    probabilities, targets = case
    bins = metrics.reliability_bins(probabilities, targets)
    assert sum(b["count"] for b in bins) == len(targets)
    assert max(b["count"] for b in bins) - min(b["count"] for b in bins) <= 1
    assert all(b["low"] - 1e-12 <= b["confidence"] <= b["high"] + 1e-12 for b in bins)
    accuracy = sum(b["count"] * b["accuracy"] for b in bins) / len(targets)
    assert accuracy == pytest.approx(
        metrics.classification_figures(probabilities, targets)["accuracy"]
    )


def test_reliability_bins_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    probabilities = rng.dirichlet(np.full(5, 0.3), 1000)
    targets = rng.integers(0, 5, 1000)
    right, confidence = probabilities.argmax(1) == targets, probabilities.max(1)
    accuracy, mean = calibration_curve(right, confidence, n_bins=10, strategy="quantile")
    bins = metrics.reliability_bins(probabilities, targets)
    np.testing.assert_allclose([b["accuracy"] for b in bins], accuracy)
    np.testing.assert_allclose([b["confidence"] for b in bins], mean)


@pytest.mark.parametrize(("images", "bins"), [(1, 1), (40, 3), (180, 7), (359, 10), (10_000, 10)])
def test_the_number_of_reliability_bins_follows_the_images(images: int, bins: int) -> None:
    assert len(metrics.reliability_bins(np.full((images, 2), 0.5), np.zeros(images, int))) == bins


def test_calibrated_and_boastful_predictions_differ() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.full(4, 0.5), 20_000)
    # drawn as the model says
    targets = (probabilities.cumsum(1) < rng.random((20_000, 1))).sum(1).clip(max=3)
    assert metrics.expected_calibration_error(probabilities, targets) < 0.015
    boastful = probabilities**3 / (probabilities**3).sum(1, keepdims=True)
    assert metrics.expected_calibration_error(boastful, targets) > 0.1


@pytest.mark.parametrize("n", [50, 359, 5000])
def test_the_calibration_error_is_debiased(n: int) -> None:
    """Simulated: answers are right as often as their confidence less `error` says, which is then
    the true error.
    """
    rng = np.random.default_rng(n)
    read: dict[float, list[metrics.CalibrationErrors]] = {0.0: [], 0.05: [], 0.1: []}
    for error, found in read.items():
        for _ in range(200):
            confidence = 0.2 + 0.8 * rng.beta(2, 1.3, n)
            found.append(metrics.calibration_errors(confidence, rng.random(n) < confidence - error))
    means = {
        error: {
            key: np.mean([getattr(each, key) for each in found])
            for key in ("plain", "debiased", "if_perfect")
        }
        for error, found in read.items()
    }
    # What a perfect model reads is known without a simulation, and is what it does read.
    assert means[0.0]["if_perfect"] == pytest.approx(means[0.0]["plain"], rel=0.08)
    assert means[0.0]["debiased"] < 0.4 * means[0.0]["plain"]
    assert np.median([each.debiased for each in read[0.0]]) < 0.3 * means[0.0]["plain"]
    for error in (0.05, 0.1):
        assert abs(means[error]["debiased"] - error) < 0.025
        assert abs(means[error]["debiased"] - error) < max(
            0.003, abs(means[error]["plain"] - error)
        )


@given(cases())
def test_debiasing_takes_away_and_never_more_than_there_is(case: Case) -> None:
    probabilities, targets = case
    errors = metrics.calibration_errors(probabilities.max(1), probabilities.argmax(1) == targets)
    assert errors.plain == pytest.approx(metrics.expected_calibration_error(probabilities, targets))
    assert 0 <= errors.debiased <= errors.plain


GOOD = [[0.5, 0.5]]
REFUSED = [
    (np.zeros((0, 3)), np.zeros(0, dtype=int), "at least one image"),
    ([0.5, 0.5], [0], "at least one image"),
    (GOOD, [0, 1], "1 rows of probabilities for 2 targets"),
    (GOOD, [2], "0..1"),
    (GOOD, [-1], "0..1"),
    (GOOD, [0.0], "integers"),
    (GOOD, [[0, 1]], "integers"),
    ([[2.0, -1.0]], [0], "softmax"),
    ([[3.0, 4.0]], [0], "softmax"),
    ([[np.nan, 1.0]], [0], "softmax"),
]


@pytest.mark.parametrize(("probabilities", "targets", "message"), REFUSED)
def test_what_is_no_prediction_is_refused(probabilities: Any, targets: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.classification_figures(probabilities, targets)


def test_predictions_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="2 predictions for 1 targets"):
        metrics.confusion_matrix([0, 1], [0], 2)


@pytest.mark.parametrize("seed", range(5))
def test_averages_over_the_classes_are_those_of_scikit_learn(seed):
    generator = np.random.default_rng(seed)
    num_classes = 6
    # the last class never occurs, and may be predicted
    targets = generator.integers(0, num_classes - 1, 40)
    predictions = np.where(
        generator.random(40) < 0.5, targets, generator.integers(0, num_classes - seed % 2, 40)
    )

    found = metrics.averages(metrics.confusion_matrix(predictions, targets, num_classes))
    report: Any = reference.classification_report(
        targets, predictions, output_dict=True, zero_division=0
    )  # pyright: ignore[reportArgumentType]
    for kind in ("macro", "weighted"):
        expected = report[f"{kind} avg"]
        assert found[kind]["precision"] == pytest.approx(expected["precision"])
        assert found[kind]["recall"] == pytest.approx(expected["recall"])
        assert found[kind]["f1"] == pytest.approx(expected["f1-score"])
        assert found[kind]["support"] == expected["support"]


# ---- answers that come in parts ---------------------------------------------------------------------------------------

COUNTS = ("num_images", "num_correct", "accuracy", "balanced_accuracy", "macro_f1", "num_groups")


@st.composite
def parts(draw: st.DrawFn, n: int) -> list[list[int]]:
    """Return the positions of `n` images, shuffled and cut into parts, none of them empty."""
    order = draw(st.permutations(range(n)))
    cuts = sorted(draw(st.sets(st.integers(1, n - 1), max_size=6))) if n > 1 else []
    return [order[low:high] for low, high in zip([0, *cuts], [*cuts, n], strict=True)]


@settings(deadline=None)
@given(cases(), st.booleans(), st.data())
def test_parts_in_any_order_and_grouping_give_the_figures_of_the_whole(
    case: Case, grouped: bool, data: st.DataObject
) -> None:
    probabilities, targets = case
    n, num_classes = probabilities.shape
    names = (
        data.draw(st.lists(st.sampled_from("abcd"), min_size=n, max_size=n)) if grouped else None
    )
    numbers = None if names is None else np.unique(names, return_inverse=True)[1]
    whole = metrics.classification_figures(probabilities, targets, numbers)

    tallies = []
    for part in data.draw(parts(n)):
        tally = metrics.Tally(num_classes)
        tally.update(probabilities[part], targets[part], names and [names[i] for i in part])
        tallies.append(tally)
    while len(tallies) > 1:  # merged as a tree that Hypothesis draws
        other = tallies.pop(data.draw(st.integers(0, len(tallies) - 1)))
        tallies[data.draw(st.integers(0, len(tallies) - 1))].merge(other)
    found = tallies[0].compute()

    assert found.keys() == whole.keys()
    for key, value in whole.items():
        if key in COUNTS:
            assert found[key] == value
        else:
            assert found[key] == pytest.approx(value, rel=1e-12, abs=1e-12)


def test_a_tally_of_nothing_changes_nothing_and_has_no_figures(digits: Case) -> None:
    tally = metrics.Tally(10)
    with pytest.raises(ValueError, match="at least one image"):
        tally.compute()
    tally.update(*digits)
    before = tally.compute()
    tally.merge(metrics.Tally(10))
    assert tally.compute() == before == metrics.classification_figures(*digits)
    with pytest.raises(ValueError, match="cannot be merged"):
        tally.merge(metrics.Tally(3))


def test_images_that_stand_alone_may_have_no_group(digits: Case) -> None:
    probabilities, targets = digits
    numbers = np.arange(len(targets)) // 2  # pairs; then the last hundred stand alone
    names = [f"pair {k}" if i < len(targets) - 100 else None for i, k in enumerate(numbers)]
    numbers[-100:] = np.arange(100) + len(targets)
    tally = metrics.Tally(10)
    tally.update(probabilities, targets, names)
    expected = metrics.classification_figures(probabilities, targets, numbers)
    found = tally.compute()
    assert found.keys() == expected.keys()
    assert all(found[key] == pytest.approx(expected[key], rel=1e-12) for key in found)


def test_a_network_is_measured_batch_by_batch_as_at_once(finished_run: api.Run) -> None:
    task, _ = load_task(finished_run, "cpu")
    splits = open_data("digits")
    assert len(splits.train) > 1000  # more than one batch
    task.groups = {name: f"row {i // 3}" for i, name in enumerate(splits.train.names) if i % 5}

    network = task.networks[task.main]
    found = task.figures(network, splits.train)
    whole = task.evaluate(network, splits.train).figures
    assert found.keys() == whole.keys()
    assert found["num_correct"] == whole["num_correct"]
    assert found["num_groups"] == whole["num_groups"]
    assert all(found[key] == pytest.approx(whole[key], rel=1e-12) for key in found)
