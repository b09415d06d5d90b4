"""`tintype doctor --speed`: figures of a machine, and how long usual trainings take on it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tintype.errors import UserError
from tintype.training.engine import Plan
from tintype.verbs import speed
from tintype.verbs.speed import PHOTO, Prediction, Speed, Steps, matrix_speed


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look as shortly as can be."""
    monkeypatch.setattr(speed, "LOOK_SECONDS", 0.0)


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_doctor_measures_and_predicts(tt):
    code, output, _ = tt("doctor", "--speed", "--json")
    found = json.loads(output)
    assert code == (1 if found["problems"] else 0)
    measured, predictions = found["speed"]["measured"], found["speed"]["predictions"]
    assert all(value > 0 for value in measured.values())
    assert {"fp32", "bf16"} <= {word for name in measured for word in name.split(", ")}
    assert [prediction["command"] for prediction in predictions] == [
        "tintype train digits",
        "tintype train cifar10",
    ]
    for prediction in predictions:
        assert all(seconds >= 0 for seconds in prediction["parts"].values())
        assert prediction["seconds"] == pytest.approx(sum(prediction["parts"].values()))


def test_a_prediction_counts_steps_evaluations_and_the_final_figures():
    plan = Plan(num_images=1000, batch_size=100, total_steps=25, evaluation_steps=10)
    steps = Steps(step=2.0, evaluation=0.01, plan=plan, num_val=200, num_final=500)
    found = steps.prediction("tintype train it", around=7.0)
    assert found.parts == {"around": 7.0, "training": 25 * 2.0 + 3 * 2.0, "measuring": 5.0}
    assert found.seconds == 68.0


def test_the_usual_sizes_of_cifar10_are_predicted_from_made_images(tmp_path):
    steps = speed._steps("cifar10", tmp_path)
    assert steps.plan.num_images == speed.CIFAR10["train"]
    assert steps.plan.total_steps == round(3 * 48_000 / 500)
    assert steps.num_val == 2_000
    assert steps.num_final == 10_000 + 2_000 + 10_000
    assert steps.step > 0
    assert steps.evaluation > 0


def test_made_photos_are_photos_and_no_two_alike():
    photos = [speed._made_photo(number) for number in range(2)]
    assert photos[0] != photos[1]
    for photo in photos:
        assert Image.open(io.BytesIO(photo)).size == PHOTO
        assert 50_000 < len(photo) < 500_000


def test_a_machine_on_which_nothing_trains_is_said(tmp_path: Path):
    with pytest.raises(UserError, match=r"no-such-model.*`tintype doctor` says what is broken"):
        speed._around("digits", "--model", "no-such-model", folder=tmp_path, name="run")


@pytest.mark.parametrize("busy", [0.0, 1.5])
def test_what_is_printed(busy):
    measured: dict[str, float] = {"memory, copied, GB/s": 20.25}
    found = Speed(measured, [Prediction.of("tintype train digits", around=3.0, training=4.4)], busy)
    lines = found.lines()
    assert lines[0].split() == ["memory,", "copied,", "GB/s", "20.2"]
    assert lines[-1].split()[:5] == ["tintype", "train", "digits", "7", "s"]
    assert any("1.5 cores busy" in line for line in lines) == bool(busy)
    as_json: dict[str, Any] = json.loads(json.dumps(found.to_dict()))
    assert as_json["predictions"][0]["parts"] == {"around": 3.0, "training": 4.4}


def test_products_of_matrices_are_measured_in_both_precisions(monkeypatch):
    monkeypatch.setattr(speed, "LOOK_SECONDS", 0.0)
    for dtype in (torch.float32, torch.bfloat16):
        assert matrix_speed(dtype, side=64) > 0
