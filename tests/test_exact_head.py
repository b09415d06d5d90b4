"""A head that is fitted exactly: a run without steps, and what is said of its validation images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tintype import api
from tintype.data.source import DataSpec
from tintype.data.targets import Classes
from tintype.errors import UserError
from tintype.models import build_model
from tintype.progress import Watcher
from tintype.recipe import Recipe, build
from tintype.tasks.classify.transfer import ExactHead
from tintype.tasks.heads import fit_head
from tintype.training.run import resume

BACKBONE = "mobilenet_v3_small"


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Weights of a small backbone, drawn at random; stands for pretrained ones."""
    spec = DataSpec(
        "", 3, 32, 32, Classes(tuple(map(str, range(1000)))), (0.5,) * 3, (0.25,) * 3, ""
    )
    path = tmp_path_factory.mktemp("weights") / f"{BACKBONE}.safetensors"
    save_file(build_model(BACKBONE, spec, {}, seed=1).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def photos(digit_files, weights):
    """Return a function that makes a recipe; its arguments are fields."""

    def make(**changes: object) -> Recipe:
        fields = {
            "data": str(digit_files), "model": BACKBONE, "weights": str(weights), "image_size": 32,
            "tune": "head", "solver": "exact", "precision": "fp32", "device": "cpu", "val_fraction": 0.2,
            "tta": "flip",
        }  # fmt: skip
        return build({**fields, **changes}, where="")

    return make


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory) -> api.Run:
    return api.train(photos(), out=tmp_path_factory.mktemp("runs"), name="run", watcher=Watcher())


def test_a_run_without_steps_writes_one_row_and_one_checkpoint(run):
    rows = run.read_table("metrics.csv")
    assert [row["step"] for row in rows] == ["1"]
    assert {"loss", "train_accuracy", "val_loss", "val_accuracy"} <= set(rows[0])
    assert len(list((run.path / "checkpoints").glob("step-*.safetensors"))) == 1

    status = run.read("status.json")
    assert (status["state"], status["step"], status["total_steps"]) == ("finished", 1, 1)
    assert (run.path / "report.html").exists()


def test_validation_is_measured_out_of_fold_and_is_said_to_be(run, photos):
    prepared = api.plan(photos(), watcher=Watcher())
    task = prepared.task
    assert isinstance(task, ExactHead)
    seen = task.sources(prepared.splits)
    task.groups = prepared.splits.groups
    task.start(seen.train)

    both = [seen.train, seen.val]
    features = np.concatenate([part.features.numpy() for part in both])  # pyright: ignore
    targets = np.concatenate([part.targets.numpy() for part in both])
    names = [name for part in both for name in part.names]
    groups = [prepared.splits.groups.get(name, "") for name in names]
    fitted = fit_head(features, targets, 10, groups=groups, seed=0)
    wanted = fitted.out_of_fold[len(seen.train) :].argmax(1) == seen.val.targets.numpy()

    evaluation = run.read("evaluation.json")
    assert evaluation["splits"]["val"]["accuracy"] == pytest.approx(wanted.mean())
    own = task.logits(task.networks["head"], seen.val.take(torch.arange(len(seen.val))).images)
    assert (own.argmax(1).numpy() == seen.val.targets.numpy()).mean() > wanted.mean()

    kinds = {each["name"]: each["kind"] for each in evaluation["evaluations"]}
    assert kinds == {"train": "split", "val": "out-of-fold", "test": "split"}
    assert "out of fold" in evaluation["validation"]["text"]
    assert "chosen_by_validation" not in evaluation
    assert "epochs" not in evaluation["verdict"]["text"]  # which it has not


def test_the_report_shows_every_candidate(run):
    heads = run.read("evaluation.json")["heads"]
    page = (run.path / "report.html").read_text(encoding="utf-8")
    for each in heads["candidates"]:
        assert each["name"].capitalize() in page
        low, high = each["accuracy_ci95"]
        assert low <= each["accuracy"] <= high
    assert heads["chosen"] in {each["name"] for each in heads["candidates"]}
    assert heads["reason"] in page


def test_the_saved_network_answers_as_the_head_did(run):
    rows = [row for row in run.read_table("predictions.csv") if row["split"] == "test"]
    answers = run.predict([Path(run.recipe.data) / row["name"] for row in rows])
    for row, answer in zip(rows, answers, strict=True):
        assert answer.confidence == pytest.approx(float(row["confidence"]), abs=2e-3)
    assert run.read("model.json")["head"] == []


def test_a_run_that_was_stopped_ends_with_the_same_bits(run, photos, tmp_path, monkeypatch):
    def stopped(*_args, **_more):
        raise KeyboardInterrupt

    monkeypatch.setattr("tintype.training.run.measure_run", stopped)
    with pytest.raises(KeyboardInterrupt):
        api.train(photos(), out=tmp_path, name="run", watcher=Watcher())
    monkeypatch.undo()
    resume(tmp_path / "run", Watcher(), command="")

    for file in ("model.safetensors", "metrics.csv", "predictions.csv"):
        assert (tmp_path / "run" / file).read_bytes() == (run.path / file).read_bytes()
    one, other = (
        json.loads((path / "evaluation.json").read_text(encoding="utf-8"))
        for path in (tmp_path / "run", run.path)
    )
    assert one["heads"] == other["heads"]


def test_without_validation_images_the_head_is_fitted_to_training_alone(photos, tmp_path):
    recipe = photos(val_fraction=0, measure="none")
    run = api.train(recipe, out=tmp_path, name="run", watcher=Watcher())
    assert (run.path / "model.safetensors").exists()
    assert len(run.read_table("metrics.csv")) == 1


def test_what_steps_are_needed_for_is_refused(photos):
    with pytest.raises(UserError, match=r"head: \[8\] has hidden layers"):
        api.plan(photos(head=[8]), watcher=Watcher())


def test_patience_has_nothing_to_wait_for(photos):
    choices = api.plan(photos(patience=3), watcher=Watcher()).choices
    (said,) = [choice for choice in choices if choice.name == "patience"]
    assert said.choice == "without effect"


def test_too_many_features_are_fitted_in_single_precision(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("tintype.tasks.heads.MOST_NUMBERS", 100.0)
    run = api.train(photos(), out=tmp_path, name="run", watcher=Watcher())
    evaluation = run.read("evaluation.json")
    assert "heads" not in evaluation
    assert {each["kind"] for each in evaluation["evaluations"]} == {"split"}
    assert any(
        "are too many to compare" in each["reason"]
        for each in run.read("environment.json")["choices"]
    )


def test_photos_get_an_exact_head_unless_the_user_speaks_of_steps(digit_files, weights):
    fields = {"weights": str(weights), "image_size": 32, "watcher": Watcher()}

    def chosen(**changes: Any) -> dict[str, Any]:
        return api.plan(str(digit_files), **fields, **changes).recipe.fields()

    plain = chosen()
    assert (plain["tune"], plain["solver"], plain["views"]) == ("head", "exact", 0)
    assert chosen(epochs=2)["solver"] == "steps"
    assert chosen(head=[8])["solver"] == "steps"
    assert chosen(solver="steps")["solver"] == "steps"


def test_the_weights_of_classes_and_draws_count(photos):
    prepared = api.plan(photos(sampling="balanced", class_weights="balanced"), watcher=Watcher())
    task = prepared.task
    assert isinstance(task, ExactHead)
    seen = task.sources(prepared.splits)
    weights = task._weights([seen.train, seen.val])  # pyright: ignore
    targets = torch.cat([seen.train.targets, seen.val.targets])
    counts, drawn = targets.bincount(), seen.train.targets.bincount()
    ratio = weights * (counts * drawn)[targets].numpy()
    np.testing.assert_allclose(ratio / ratio[0], 1, rtol=1e-5)
