"""Runs with folds: every photo is answered by a model that was trained without it, and each figure
says so.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file as save_torch
from scaling import FlooredScaler
from scipy import stats
from scipy.optimize import brentq
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from statsmodels.stats.contingency_tables import mcnemar

import tintype
from tintype import api
from tintype.data import open_data
from tintype.data.source import DataSpec
from tintype.data.split import fold_numbers
from tintype.data.targets import Classes
from tintype.errors import Interrupted, UserError
from tintype.models import build_model
from tintype.progress import Watcher
from tintype.recipe import Recipe
from tintype.runs.folder import RunFolder
from tintype.statistics import folds_interval, wilson_interval
from tintype.tasks import heads
from tintype.tasks.folds import RidgeWithout, nested_of_features
from tintype.tasks.heads import fit_head
from tintype.tasks.linear_heads import Rows, discriminant
from tintype.verbs.compare import compare
from tintype.verbs.study import study
from tintype.verbs.tune import tune

pytestmark = pytest.mark.usefixtures("short_pages")

FOLDS = 3
CALLED = f"estimated by {FOLDS} folds"


@pytest.fixture(scope="module")
def recipe(tiny: Callable[..., Recipe]) -> Recipe:
    """Four epochs on digits in folds, of which the best one is kept."""
    return tiny(folds=FOLDS, test_fraction=0, epochs=4, keep="best", rules=2)


@pytest.fixture(scope="module")
def folded(tmp_path_factory, recipe) -> api.Run:
    """A finished run with folds. Tests must not change it."""
    return api.train(recipe, out=tmp_path_factory.mktemp("runs"), name="all", watcher=Watcher())


def by_fold(run: api.Run) -> dict[str, int]:
    return {row["name"]: int(row["fold"]) for row in run.read_table("folds.csv")}


def test_each_fold_is_an_ordinary_run_that_never_saw_its_photos(folded):
    member = by_fold(folded)
    assert len(member) == 1797
    for fold in range(1, FOLDS + 1):
        rows = RunFolder(folded.path / "folds" / str(fold)).read_table("splits.csv")
        tested = {row["name"] for row in rows if row["split"] == "test"}
        assert tested == {name for name, number in member.items() if number == fold}
        assert {row["name"] for row in rows} == set(member)
    whole = {row["name"]: row["split"] for row in folded.read_table("splits.csv")}
    assert set(whole.values()) == {"train", "val"}


def test_the_answers_are_those_of_the_folds_own_models(folded):
    """The model of a fold, opened as any other run, answers its photos as the whole run says."""
    member = by_fold(folded)
    pooled = load_file(folded.path / "folds.safetensors")
    fold = api.load(folded.path / "folds" / "2")
    test = open_data("digits", folds=FOLDS, fold=2).test
    assert all(member[name] == 2 for name in test.names)

    place = {name: i for i, name in enumerate(member)}
    answered = pooled["logits"][[place[name] for name in test.names]]
    pixels = test.take(torch.arange(len(test))).images.permute(0, 2, 3, 1).numpy()
    assert (fold.predict_proba(pixels).argmax(1) == answered.argmax(1)).mean() > 0.995


def test_figures_agree_with_scikit_learn(folded):
    pooled = load_file(folded.path / "folds.safetensors")
    figures = folded.metrics["folds"]
    targets = pooled["targets"]
    assert figures["num_images"] == len(targets) == 1797
    accuracy = accuracy_score(targets, pooled["logits"].argmax(1))
    assert figures["accuracy"] == pytest.approx(accuracy)

    rows = folded.read_table("predictions.csv")
    assert {row["split"] for row in rows} == {"folds"}
    right = [row["prediction"] == row["target"] for row in rows]
    assert np.mean(right) == pytest.approx(accuracy)
    assert np.mean([float(row["loss"]) for row in rows]) == pytest.approx(figures["loss"], abs=1e-4)
    raw = np.exp(pooled["logits"] - pooled["logits"].max(1, keepdims=True))
    assert figures["loss"] <= log_loss(targets, raw / raw.sum(1, keepdims=True)) + 1e-3

    said = folded.read("evaluation.json")["folds"]
    assert (said["count"], said["interval"]) == (FOLDS, "naive")
    weights = [each["num_images"] for each in said["figures"]]
    of_folds = [each["accuracy"] for each in said["figures"]]
    assert np.average(of_folds, weights=weights) == pytest.approx(accuracy)


def test_every_place_says_that_folds_estimate_it(folded, tt):
    evaluation = folded.read("evaluation.json")
    assert evaluation["tested"] is False
    assert {"kind": "folds", "name": "folds"} in evaluation["evaluations"]
    assert evaluation["test_looks"] == {"run": 1, "data": 1}
    assert CALLED in evaluation["verdict"]["text"]
    assert "validation" not in evaluation["verdict"]["text"]

    page = folded.report().read_text(encoding="utf-8")
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert f"Accuracy {CALLED}" in text
    assert "The folds have been looked at once" in text
    card = str(folded.card("-"))
    assert f"accuracy {CALLED}" in card
    assert "the test set" not in card.lower()
    assert "no test figure of its own" in card

    code, output, _ = tt("list", "runs", "--out", folded.path.parent)
    assert (code, f"accuracy {CALLED}" in " ".join(output.split())) == (0, True)
    assert output.count("finished") == 1  # the runs of single folds are parts of it
    assert CALLED in folded._repr_html_()


def test_runs_with_equal_folds_are_compared_over_them_and_photo_by_photo(
    folded, recipe, tmp_path_factory
):
    shorter = recipe.replace(epochs=1)
    other = api.train(shorter, out=tmp_path_factory.mktemp("runs"), name="short", watcher=Watcher())
    comparison = compare([folded, other])
    assert comparison.split == "folds"
    (group,) = comparison.groups
    (pair,) = group.pairs
    right = [
        np.array([row["prediction"] == row["target"] for row in run.read_table("predictions.csv")])
        for run in (folded, other)
    ]
    fold_of = np.array(list(by_fold(folded).values()))
    differences = right[0].astype(float) - right[1]
    means = [differences[fold_of == fold].mean() for fold in (1, 2, 3)]
    t = np.mean(means) / np.sqrt((1 / 3 + 1 / 2) * np.var(means, ddof=1))
    expected = 2 * stats.t.sf(abs(t), 2)
    assert pair.more["folds"]["p"] == pytest.approx(expected)
    only = (right[0] & ~right[1]).sum(), (right[1] & ~right[0]).sum()
    assert pair.more["p_images"] == pytest.approx(mcnemar(np.diag(only)[::-1]).pvalue)
    assert pair.p == max(pair.more["p_images"], pair.more["folds"]["p"])

    lines = " ".join(map(str, comparison.lines()))
    assert f"Accuracy {CALLED}" in lines
    assert "Nadeau and Bengio 2003" in lines
    assert "accuracy by folds" in lines


def test_a_run_with_folds_is_not_ranked_beside_one_with_a_test_part(folded, finished_run):
    with pytest.raises(UserError, match=f"It is {CALLED}: compare runs with folds"):
        compare([finished_run, folded])


def test_a_run_with_folds_is_measured_again_as_it_was_divided(folded):
    with pytest.raises(UserError, match=f"no test part: .* its figures are {CALLED}"):
        folded.evaluate(split="test")
    assert folded.evaluate(split="val")["num_images"] == 180

    fold = api.load(folded.path / "folds" / "2")
    again = fold.evaluate(split="test")
    assert again["accuracy"] == fold.metrics["test"]["accuracy"]


class StopAt(Watcher):
    """Raises what a signal raises, when a fold has reached a step."""

    def __init__(self, fold: int, step: int) -> None:
        self.at = (f"training fold {fold} of {FOLDS}", step)

    def on_work(self, what: str, done: int, total: int) -> None:
        if (what, done) >= self.at and what == self.at[0]:
            raise Interrupted(2, Path("elsewhere"))


@pytest.mark.machines
def test_a_run_that_is_stopped_in_a_fold_goes_on_bit_equal(
    monkeypatch, recipe, folded, tmp_path, train_in
):
    monkeypatch.setattr("tintype.training.engine.CHECKPOINT_SECONDS", 0)
    with pytest.raises(Interrupted, match=r"/all'\)$"):
        train_in(tmp_path / "all", recipe, StopAt(2, 20))
    assert RunFolder(tmp_path / "all").status["state"] == "stopped"
    assert RunFolder(tmp_path / "all" / "folds" / "1").status["state"] == "finished"

    run = train_in(tmp_path / "all", recipe)
    assert run.status["state"] == "finished"
    same = ("model.safetensors", "folds.safetensors", "folds.csv", "predictions.csv")
    for name in (*same, "folds/2/model.safetensors", "folds/2/metrics.csv", "folds/3/metrics.csv"):
        assert (run.path / name).read_bytes() == (folded.path / name).read_bytes(), name
    assert run.read("evaluation.json") == folded.read("evaluation.json")


def test_broken_answers_of_a_fold_name_the_folder_to_delete(recipe, folded, tmp_path, train_in):
    run = RunFolder(tmp_path / "all")
    shutil.copytree(folded.path, run.path)
    (run.path / "folds" / "1" / "answers.safetensors").write_bytes(b"no")
    run.set_status("stopped")
    with pytest.raises(Exception, match=r"answers.safetensors is broken .* Delete the folder"):
        train_in(run.path, recipe)
    shutil.rmtree(run.path / "folds" / "1")
    train_in(run.path, recipe)
    assert run.read("evaluation.json")["splits"] == folded.read("evaluation.json")["splits"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits", "--folds", "1"], "folds: input should be greater than or equal to 2 (got 1)"),
        (["digits", "--folds", "2000"], "folds: 2000 folds need at least as many images"),
        (["digits", "--folds", "200"], "too few for 200 folds"),
        (["digits", "--folds", "5", "--test", "0.2"], "Leave --test out, or --folds"),
        (["digits", "--set", "fold=2"], "fold is 2, and there are no folds"),
        (["digits-gan", "--folds", "5"], "folds are for tasks with labels"),
        (["t91-fast-x2", "--folds", "5"], "folds are for tasks with labels"),
    ],
)
def test_folds_that_cannot_be_are_refused_before_a_folder_is_made(tt, arguments, message, tmp_path):
    code, _, errors = tt("train", *arguments)
    assert (code, message in errors, errors.strip().count("\n") < 2) == (2, True, True), errors
    assert not Path("runs").exists()


def test_studies_and_tunings_take_no_folds(tmp_path):
    recipe = {"data": "digits", "model": "ann", "folds": 5}
    grid = {"recipe": recipe, "question": "Which rate?", "vary": {"lr": [0.1, 0.2]}}
    with pytest.raises(UserError, match="the runs of a study are measured on one test part"):
        study(grid, out=tmp_path, name="rates", watcher=Watcher())
    with pytest.raises(UserError, match="trials of a tuning are compared on validation"):
        tune("digits", folds=5, trials=1, out=tmp_path, watcher=Watcher())
    assert not list(tmp_path.iterdir())


def test_a_given_split_is_refused(tt, digit_files, tmp_path):
    lines = ["path,label,split"]
    for digit in "01":
        for number, photo in enumerate(sorted((digit_files / digit).iterdir())):
            lines.append(f"{photo},{digit},{'test' if number < 3 else 'train'}")
    table = tmp_path / "given.csv"
    table.write_text("\n".join(lines), encoding="utf-8")
    code, _, errors = tt("train", table, "--folds", "3")
    assert code == 2
    assert "brings a split of its own (test, train)" in errors
    assert not Path("runs").exists()


def test_numbers_are_estimated_by_folds_too(tmp_path, tt):
    code, output, errors = tt(
        "train", "digits-number", "--folds", "2", "--epochs", "1", "--name", "n", "--json"
    )
    assert code == 0, errors
    run = api.load("runs/n")
    rows = run.read_table("predictions.csv")
    assert {row["split"] for row in rows} == {"folds"}
    assert json.loads(output)["folds"]["num_images"] == len(rows)
    assert "estimated by 2 folds" in run.read("evaluation.json")["verdict"]["text"]
    assert "MAE estimated by 2 folds" in str(run.card("-"))


# ---- heads on cached features ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def grouped_digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features, classes, groups and folds of 400 digits."""
    found = load_digits()
    features, targets = found.data[:400], found.target[:400]
    groups = np.array([f"g{i // 4}" if i % 3 else "" for i in range(400)])
    names = [str(i) for i in range(400)]
    fold_of = fold_numbers(targets, names, groups, folds=5, seed=0)
    return features, targets, groups, fold_of


def test_answers_out_of_fold_are_those_of_scikit_learn(grouped_digits, monkeypatch):
    """Of the same folds and features: cross_val_predict of a logistic regression.

    A calibration by the other folds multiplies the logits of each fold by one factor.
    """
    features, targets, _, fold_of = grouped_digits
    monkeypatch.setattr(heads, "PATH", (0.1,))
    monkeypatch.setattr(heads, "COMPARED", 1e-6)
    monkeypatch.setattr(heads, "SIMPLEST_FIRST", (heads.LOGISTIC,))
    found = fit_head(features, targets, 10, fold_of=fold_of, strict=True).out_of_fold
    expected: Any = cross_val_predict(
        LogisticRegression(C=0.1, tol=1e-9, max_iter=10_000),
        FlooredScaler().fit_transform(features),
        targets,
        cv=PredefinedSplit(fold_of),
        method="decision_function",
    )
    for fold in np.unique(fold_of):
        inside = fold_of == fold
        known = expected[inside] - expected[inside].mean(1, keepdims=True)
        answered = found[inside] - found[inside].mean(1, keepdims=True)
        factor = (known * answered).sum() / (known**2).sum()
        np.testing.assert_allclose(answered / factor, known, atol=2e-3)


def test_a_photo_has_no_part_in_the_head_that_answers_it(grouped_digits):
    """Other labels in a fold change the answers of the others, and not its own."""
    few = np.flatnonzero(grouped_digits[1] < 3)[:60]
    features, targets, groups, fold_of = (each[few] for each in grouped_digits)
    inside = fold_of == 2
    other = np.where(inside, (targets + 1) % 3, targets)
    how: Any = {"groups": groups, "fold_of": fold_of, "strict": True}
    given = fit_head(features, targets, 3, **how).out_of_fold
    changed = fit_head(features, other, 3, **how).out_of_fold
    assert (given[inside] == changed[inside]).all()
    assert not np.allclose(given[~inside], changed[~inside])


@pytest.mark.parametrize("single", [True, False])
def test_folds_without_rows_of_weight_or_a_class_are_borne(grouped_digits, single):
    few = np.flatnonzero(grouped_digits[1] < 3)[:60]
    features, targets, _, fold_of = (each[few] for each in grouped_digits)
    weights = np.ones(60)
    if single:  # only in one fold
        fold_of = np.where(targets == 1, 1, 1 + np.arange(60) % 4)
    else:
        weights[fold_of != 1] = 0
        weights[:5] = 1
    how: Any = {"fold_of": fold_of, "weights": weights, "strict": True}
    found = fit_head(features, targets, 3, **how)
    assert np.isfinite(found.out_of_fold).all()


def test_ridge_without_images_is_ridge_that_was_fitted_without_them(grouped_digits):
    features, targets, _, fold_of = grouped_digits
    without = RidgeWithout(features, targets, 10)
    x = (features - features.mean(0)) / np.maximum(features.std(0), 1e-6)
    gram = x @ x.T
    one_hot = np.eye(10)[targets] - np.eye(10)[targets].mean(0)
    # the hat matrix is G (G + a I)^-1, so that its trace tells the penalty
    penalty: Any = brentq(
        lambda a: np.trace(np.linalg.solve(gram + a * np.eye(400), gram)) - np.trace(without.hat),
        1e-3,
        1e7,
    )
    for left_out in (fold_of == 1, (fold_of == 2) | (fold_of == 5)):
        model = Ridge(alpha=penalty, fit_intercept=False).fit(x[~left_out], one_hot[~left_out])
        answers = (model.predict(x) + np.eye(10)[targets].mean(0)).argmax(1)
        wrong = without(left_out)
        assert (wrong[left_out] == (answers != targets)[left_out]).mean() > 0.99
        assert not wrong[~left_out].any()


def test_an_image_without_a_group_stands_alone(grouped_digits):
    features, targets, groups, _ = grouped_digits
    few = (features[:200], targets[:200], 10, 5)
    alone = nested_of_features(*few, repetitions=2)
    assert nested_of_features(*few, groups=[""] * 200, repetitions=2) == alone
    assert nested_of_features(*few, groups=groups[:200].tolist(), repetitions=2) != alone


def test_widened_intervals_hold_the_truth_more_often_than_naive_ones():
    """A short form of `benchmarks/coverage.py folds`, whose figures docs/folds.md has."""
    draw = np.random.default_rng(1)
    centres = draw.normal(size=(3, 30)) * 0.35
    held = {"naive": 0, "widened": 0}
    for _ in range(40):
        targets = draw.integers(3, size=(2, 2000))
        features = centres[targets] + draw.normal(size=(2, 2000, 30))
        some, classes = features[0, :120], targets[0, :120]
        fold_of = fold_numbers(classes, [str(i) for i in range(120)], folds=5, seed=0)
        right = np.zeros(120, bool)
        for fold in range(1, 6):
            out = fold_of == fold
            head = discriminant(Rows(some[~out], classes[~out], 3))
            right[out] = head.logits(some[out]).argmax(1) == classes[out]

        final = discriminant(Rows(some, classes, 3))
        truth = (final.logits(features[1]).argmax(1) == targets[1]).mean()
        nested = nested_of_features(some, classes, 3, 5, repetitions=4)
        for name, each in (("naive", None), ("widened", nested)):
            low, high = folds_interval(right, None, each)
            held[name] += low <= truth <= high
    assert held["widened"] >= max(36, held["naive"])


def test_the_audit_doubts_labels_by_what_folds_say(folded, tt, finished_run):
    pooled = load_file(folded.path / "folds.safetensors")
    found = tintype.audit("digits", run=folded.path)
    assert found.doubted is not None
    assert set(found.names) == set(by_fold(folded))
    place = {name: i for i, name in enumerate(by_fold(folded))}
    logits = pooled["logits"][[place[name] for name in found.names]]
    logs = np.log(found.doubted.issues.probabilities)
    factor = np.ptp(logs, axis=1) / np.ptp(logits, axis=1)
    assert np.allclose(factor, factor[0], rtol=1e-3)
    assert found.doubted.issues.accuracy == pytest.approx(folded.metrics["folds"]["accuracy"])
    for row in found.doubts():
        assert row["suggested"] == str(logits[found.names.index(row["name"])].argmax())

    code, _, errors = tt("audit", "digits", "--run", finished_run.path)
    assert (code, "has no answers of folds" in errors) == (2, True)


def test_a_run_on_other_photos_judges_no_labels(folded, tt, digit_files):
    code, _, errors = tt("audit", digit_files, "--run", folded.path)
    assert (code, "was trained on other photos" in errors) == (2, True)


@pytest.fixture(scope="module")
def of_heads(tmp_path_factory, digit_files) -> tuple[api.Run, dict[str, Any]]:
    """A run with folds whose head is fitted exactly to features of a backbone drawn at random, and
    its fields.
    """
    spec = DataSpec(
        "", 3, 32, 32, Classes(tuple(map(str, range(1000)))), (0.5,) * 3, (0.25,) * 3, ""
    )
    folder = tmp_path_factory.mktemp("heads")
    for digit in "013":
        shutil.copytree(digit_files / digit, folder / "photos" / digit)
    weights = folder / "mobilenet_v3_small.safetensors"
    save_torch(build_model("mobilenet_v3_small", spec, {}, seed=1).state_dict(), weights)
    fields = {
        "model": "mobilenet_v3_small",
        "weights": str(weights),
        "tune": "head",
        "solver": "exact",
        "image_size": 32,
        "precision": "fp32",
        "device": "cpu",
        "watcher": Watcher(),
        "folds": FOLDS,
    }
    return api.train(str(folder / "photos"), out=folder, name="all", **fields), fields


def test_heads_answer_out_of_fold_as_a_run_of_one_fold_does(of_heads, tmp_path):
    run, fields = of_heads
    photos = str(run.path.parent / "photos")
    assert not (run.path / "folds").exists()  # fits of seconds, which need no runs
    member = by_fold(run)
    pooled = load_file(run.path / "folds.safetensors")
    said = dict(zip(member, pooled["logits"].argmax(1).tolist(), strict=True))

    alone = api.train(photos, out=tmp_path, name="one", fold=1, **fields)
    tested = [row["name"] for row in alone.read_table("splits.csv") if row["split"] == "test"]
    assert set(tested) == {name for name, fold in member.items() if fold == 1}
    answers = load_file(alone.path / "answers.safetensors")["logits"].argmax(1)
    # the order of the images decides which of them choose the head
    assert (
        np.mean([said[name] == answer for name, answer in zip(tested, answers, strict=True)]) > 0.8
    )


def test_the_interval_of_heads_is_widened_and_the_model_trained_on_everything(of_heads):
    run, _ = of_heads
    evaluation = run.read("evaluation.json")
    figures = evaluation["splits"]["folds"]
    assert evaluation["folds"]["interval"] == "nested"
    assert "widened by nested cross-validation" in evaluation["folds"]["text"]
    assert "The final model was trained on all of them" in evaluation["folds"]["text"]
    (low, high), (naive_low, naive_high) = figures["accuracy_ci95"], figures["accuracy_ci95_naive"]
    right = figures["num_correct"], figures["num_images"]
    assert [naive_low, naive_high] == pytest.approx(wilson_interval(*right), abs=0.02)
    assert (low, high) != (naive_low, naive_high)
    assert low < figures["accuracy"] <= high
