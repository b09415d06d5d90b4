"""Exported models where torch is not installed: the same answers, and clear lines for what is not
one of ours.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tintype import cli
from tintype.errors import UserError
from tintype.tasks.contract.exported import FORMAT
from tintype.verbs.export import export_run
from tintype.verbs.predict.opening import open_exported

# Imports of what is not to be needed fail, as where it is not installed.
WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
from tintype.cli import main
main(sys.argv[1:])
"""
HEAVY = (
    "torch",
    "torchvision",
    "scipy",
    "sklearn",
    "safetensors",
    "psutil",
    "matplotlib",
    "plotly",
    "onnx",
    "yaml",
)


@pytest.fixture(scope="module")
def model(finished_run, tmp_path_factory) -> Path:
    return export_run(finished_run, out=tmp_path_factory.mktemp("exported") / "digits.onnx").path


def without(
    missing: tuple[str, ...], *arguments: object, folder: Path
) -> subprocess.CompletedProcess[str]:
    script = WITHOUT.format(missing=set(missing))
    root = str(Path(__file__).parent.parent)
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True, text=True, cwd=folder, env={**os.environ, "PYTHONPATH": root}, timeout=120, encoding="utf-8",
    )  # fmt: skip


def test_predicting_needs_no_torch(model, finished_run, digit_files, tmp_path):
    answers = tmp_path / "answers.jsonl"
    done = without(
        HEAVY, "predict", model, digit_files, "--out", answers, "--top", 10, folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]
    expected = finished_run.predict([Path(row["file"]) for row in rows])
    assert len(rows) == 120
    for row, prediction in zip(rows, expected, strict=True):
        assert row["prediction"] == prediction.top1
        assert row["confidence"] == pytest.approx(prediction.confidence, abs=1e-5)
        assert sum(entry["probability"] for entry in row["top"]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("exported", [True, False])
def test_a_service_imports_only_what_its_models_need(
    model, finished_run, digit_files, tmp_path, exported
):
    served = model if exported else finished_run.path
    missing = {"torchvision", "sklearn", "matplotlib", "plotly", "pandas", "sympy", "onnx"}
    missing |= {"torch", "safetensors"} if exported else set()
    photo = next((digit_files / "3").iterdir())

    command = [sys.executable, "-c", WITHOUT.format(missing=missing)]
    with subprocess.Popen(
        [*command, "serve", str(served), "--port", "0"], stdout=subprocess.PIPE, text=True,
        encoding="utf-8", cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    ) as service:  # fmt: skip
        try:
            assert service.stdout is not None
            lines = iter(service.stdout.readline, "")
            address = next(line for line in lines if line.startswith("serving at ")).split()[2]
            asked = urllib.request.Request(
                f"{address.rstrip('/')}/v1/predict",
                photo.read_bytes(),
                {"Content-Type": "image/png"},
            )
            with urllib.request.urlopen(asked, timeout=60) as answer:
                top = json.load(answer)["predictions"][0]["top"]
        finally:
            service.terminate()

    assert top[0]["class"] == finished_run.predict(photo).top1


def test_the_thresholds_travel_along(model, finished_run):
    stored = finished_run.read("model.json")["abstain"]
    assert open_exported(model).abstain == stored


def test_without_onnx_runtime_it_says_so(model, digit_files, tmp_path):
    done = without(("onnxruntime",), "predict", model, digit_files / "1", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install onnxruntime" in done.stderr


def edited(model: Path, target: Path, **changes: Any) -> Path:
    """Write a copy that says other things of itself; None takes everything out."""
    proto = onnx.load(model)
    about = json.loads(proto.metadata_props[0].value)
    del proto.metadata_props[:]
    if changes:
        onnx.helper.set_model_props(proto, {"tintype": json.dumps({**about, **changes})})
    onnx.save(proto, target)
    return target


def broken(_: Path, target: Path) -> Path:
    target.write_bytes(b"this is no model" * 100)
    return target


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda m, t: edited(m, t, format=FORMAT + 1),
            "was made by a newer tintype (format 2, this one reads 1)",
        ),
        (
            lambda m, t: edited(m, t, task="generate"),
            "runs of task generate cannot be used to predict.",
        ),
        (lambda m, t: edited(m, t, preprocessing={}), "is incomplete or broken ('channels')"),
        (lambda m, t: edited(m, t, format="one"), "is broken. Export it again"),
        (lambda m, t: edited(m, t), "but not one of `tintype export`"),
        (broken, "cannot be read as an ONNX model"),
        (lambda m, t: t, "there is no file"),
    ],
)
def test_a_file_that_is_no_classifier_of_ours(model, digit_files, tmp_path, capsys, make, said):
    file = make(model, tmp_path / "model.onnx")
    with pytest.raises(SystemExit) as end:
        cli.main(["predict", str(file), str(digit_files / "1")])
    assert end.value.code == 2
    errors = capsys.readouterr().err
    assert said in errors
    assert errors.count("\n") == 1


def test_heat_maps_need_the_run(model, digit_files, tmp_path):
    with pytest.raises(UserError, match="heat maps need the gradients of the run"):
        open_exported(model).heat_maps(np.zeros((1, 8, 8, 1), np.uint8))
