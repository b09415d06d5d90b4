"""What chooses the weights does not calibrate: halves, folds, small sets, earlier rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tintype import api
from tintype.data.pixels import ResidentPixels
from tintype.data.source import DataSpec, StoredSource
from tintype.data.targets import Classes
from tintype.progress import Watcher
from tintype.recipe import NEW_RULES
from tintype.tasks.classify.calibration import FEWEST_TO_CALIBRATE, fit_temperature
from tintype.tasks.classify.classifier import Classify
from tintype.tasks.restoring import load_task
from tintype.tasks.validation import NUM_FOLDS, ValidationUse, use_validation


def images(targets: list[int]) -> StoredSource:
    spec = DataSpec("made", 1, 2, 2, Classes(("a", "b", "c")), (0.5,), (0.5,), "")
    names = [f"{i:04d}.png" for i in range(len(targets))]
    pixels = torch.zeros(len(targets), 2, 2, 1, dtype=torch.uint8)
    return StoredSource(spec, ResidentPixels(pixels), torch.tensor(targets), names)


def used(val: StoredSource, groups: dict[str, str] | None = None, **changes: Any) -> ValidationUse:
    usual = {"rules": 2, "seed": 0, "chose": ["the best weights"], "fewest_to_calibrate": 20}
    return use_validation(val, groups or {}, **{**usual, **changes})


@given(
    st.lists(st.integers(0, 2), min_size=60, max_size=200),
    st.integers(0, 5),
    st.integers(1, 4),
)
def test_halves_share_no_image_and_no_group(targets: list[int], seed: int, size: int) -> None:
    val = images(targets)
    groups = {name: f"group {i // size}" for i, name in enumerate(val.names)} if size > 1 else {}
    use = used(val, groups, seed=seed)
    if use.how == "all":  # a class in few groups may leave too little on one side
        assert "too few groups" in use.reason
        return
    assert use.selecting is not None
    assert use.calibrating is not None

    both = [*use.selecting.tolist(), *use.calibrating.tolist()]
    assert sorted(both) == list(range(len(targets)))
    sides = [
        {groups.get(str(val.names[i]), val.names[i]) for i in part.tolist()}
        for part in (use.selecting, use.calibrating)
    ]
    assert not sides[0] & sides[1]
    if size == 1:
        of_class = np.bincount(targets, minlength=3)
        calibrating = np.bincount(np.array(targets)[use.calibrating], minlength=3)
        assert (np.abs(calibrating - of_class / 2) <= 1).all()

    again = used(images(targets), groups, seed=seed)
    assert again.selecting is not None
    assert again.selecting.tolist() == use.selecting.tolist()
    assert use.selecting_part(val).names == [val.names[i] for i in use.selecting]


@given(st.lists(st.integers(0, 2), min_size=5, max_size=60), st.integers(1, 3))
def test_folds_keep_groups_together(targets: list[int], size: int) -> None:
    val = images(targets)
    groups = {name: f"group {i // size}" for i, name in enumerate(val.names)} if size > 1 else {}
    use = used(val, groups, chose=[], chose_in_task="the head")
    if use.how == "all":
        assert len(targets) < size * NUM_FOLDS
        return
    assert use.how == "out-of-fold"
    assert use.folds is not None
    assert set(use.folds.tolist()) == set(range(NUM_FOLDS))
    for start in range(0, len(targets), size):
        assert len(set(use.folds[start : start + size].tolist())) == 1
    assert (use.num_selecting, use.num_calibrating) == (len(targets), len(targets))


def test_what_cannot_be_set_apart_is_said() -> None:
    few = used(images([0, 1] * (FEWEST_TO_CALIBRATE - 1)))
    assert (few.how, few.selecting, few.calibrating) == ("all", None, None)
    assert "too few to be halved" in str(few.choices()[0])
    assert "both chose the best weights and calibrated" in few.text

    earlier = used(images([0, 1] * 100), rules=1)
    assert (earlier.how, earlier.selecting) == ("all", None)
    assert "the rule of earlier versions" in earlier.text

    nothing = used(images([0, 1] * 100), chose=[])
    assert nothing.choices() == []
    assert (
        nothing.text
        == "All 200 validation images calibrated the confidence; nothing was chosen on them."
    )
    assert (
        used(images([0, 1]), fewest_to_calibrate=0).text
        == "All 2 validation images chose the best weights."
    )
    assert used(images([0, 1]), chose=[], fewest_to_calibrate=0).text == ""

    halves = used(images([0, 1] * 100))
    assert halves.text == (
        "Of 200 validation images, 100 chose the best weights, and the other 100 calibrated the confidence."
    )


@pytest.mark.machines
def test_one_half_chooses_the_weights_and_the_other_calibrates(tiny: Any, tmp_path: Path) -> None:
    recipe = tiny(epochs=4, keep="best", val_fraction=0.3)
    run = api.train(recipe, out=tmp_path, name="run", watcher=Watcher())
    assert run.recipe.rules == NEW_RULES
    written = run.read("evaluation.json")["validation"]
    assert (written["how"], written["chose"]) == ("halves", ["the best weights"])
    total = written["num_selecting"] + written["num_calibrating"]
    assert total == run.metrics["val"]["num_images"]
    assert written["text"] in (run.path / "report.html").read_text(encoding="utf-8")
    assert written["text"] in Path(run.card()).read_text(encoding="utf-8")

    prepared = api.plan(run.recipe, watcher=Watcher())
    use, val = prepared.task.validation, prepared.splits.val
    assert any(choice.name == "validation" for choice in prepared.choices)
    task, _ = load_task(run, "cpu")
    assert isinstance(task, Classify)
    assert use.calibrating is not None
    task.temperature = 1.0

    # What metrics.csv shows, and what kept the best weights, is the half that chooses.
    best = max(
        float(row["val_accuracy"]) for row in run.read_table("metrics.csv") if row["val_accuracy"]
    )
    chosen = task.evaluate(task.networks[task.main], use.selecting_part(val))
    assert chosen.figures["accuracy"] == pytest.approx(best)

    # The temperature is that of the other half.
    other = task.evaluate(task.networks[task.main], val.subset(use.calibrating)).details
    fitted = fit_temperature(other["logits"], other["targets"]).value
    assert run.read("model.json")["temperature"] == pytest.approx(fitted, rel=1e-3)
    evaluated = {
        (each["kind"], each["name"]): each for each in run.read("evaluation.json")["evaluations"]
    }
    splits = {("split", name) for name in ("train", "val", "test")}
    assert evaluated.keys() == splits | {("part", "val, the calibrating half")}
    half = evaluated["part", "val, the calibrating half"]["figures"]
    assert half["num_images"] == len(use.calibrating)
    assert half["accuracy"] == np.mean(other["logits"].argmax(1) == other["targets"])
    assert run.evaluate()["kind"] == "split"
    for entry in run.read("evaluation.json")["abstain"]:
        assert "val" not in entry or entry["val"]["num_images"] == len(use.calibrating)


def test_a_run_without_the_field_goes_on_by_the_rules_of_its_time(
    tiny: Any, train_in: Any, tmp_path: Path
) -> None:
    run = train_in(tmp_path / "run", tiny(epochs=2, keep="best"))
    assert "rules" in run.read("evaluation.json")["validation"]
    assert run.read("evaluation.json")["validation"]["how"] == "all"
    assert run.recipe.rules == 1
