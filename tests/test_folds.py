"""Runs with folds: every photo is answered by a model that was trained without it, and each figure
says so.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from sklearn.metrics import accuracy_score, log_loss

from tintype import api
from tintype.data import open_data
from tintype.errors import Interrupted
from tintype.progress import Watcher
from tintype.recipe import Recipe
from tintype.runs.folder import RunFolder

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
