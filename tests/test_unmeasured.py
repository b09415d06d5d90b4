"""Runs that are not measured (measure: none), and runs that hold nothing out (val_fraction: 0)."""

from __future__ import annotations

import json

import pytest

from tintype import UserError, api
from tintype.progress import Watcher
from tintype.training.prepare import prepare


def test_a_run_without_figures_trains_on_everything_and_says_so(tiny, tmp_path, say):
    recipe = tiny(measure="none", val_fraction=0, test_fraction=0, epochs=1)
    run = api.train(recipe, out=tmp_path, name="bare", watcher=Watcher())
    assert run.read("data.json")["num_images"] == {"train": 1797, "val": 0, "test": 0}
    assert run.status["state"] == "finished"
    assert not (run.path / "evaluation.json").exists()
    assert not (run.path / "report.html").exists()
    assert "accuracy" not in run.result()

    for ask in (lambda: run.metrics, run.evaluate, run.pack, run.card):
        with pytest.raises(UserError, match=r"measure|images"):
            ask()
    code, output, _ = say("train", "--resume", run.path)
    assert (code, "not measured" in output) == (0, True)


def test_a_run_without_figures_is_measured_on_what_it_held_out(tiny, tmp_path, say):
    fields = ["--steps", 5, "--set", "measure=none", "--out", tmp_path, "--name", "bare", "--json"]
    code, output, _ = say("train", "digits-ann", *fields)
    assert code == 0
    assert "test" not in json.loads(output)
    assert api.Run(tmp_path / "bare").evaluate()["num_images"] == 359


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"measure": "val"},
        {"measure": "none", "patience": 2},
        {"measure": "none", "keep": "best"},
    ],
)
def test_validation_images_are_left_out_only_where_nothing_needs_them(tiny, changes):
    with pytest.raises(UserError, match="val_fraction"):
        prepare(tiny(val_fraction=0, **changes), Watcher())


class Stopped(Exception):
    """Stands for whatever ends a process."""


class Stopper(Watcher):
    """Raises at a step, before its checkpoint is written."""

    def on_step(self, step: int, total_steps: int, loss: float, images_per_second: float) -> None:
        if step >= 7:
            raise Stopped


def test_a_resumed_run_without_validation_ends_bit_equal(tiny, train_in, tmp_path, monkeypatch):
    monkeypatch.setattr("tintype.training.engine.CHECKPOINT_SECONDS", 0.0)
    recipe = tiny(measure="none", val_fraction=0, test_fraction=0, epochs=1, patience=None)
    whole = train_in(tmp_path / "whole", recipe)
    with pytest.raises(Stopped):
        train_in(tmp_path / "stopped", recipe, Stopper())
    stopped = train_in(tmp_path / "stopped", recipe)
    for file in ("model.safetensors", "metrics.csv"):
        assert (stopped.path / file).read_bytes() == (whole.path / file).read_bytes()
