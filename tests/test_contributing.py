"""What CONTRIBUTING.md promises: each kind of thing is added in one place, and is then there to be used.

A copy of the package gets one of each, and another process lists them and trains with them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent

# Files that are added, by their place in the package.
ADDED = {
    "models/one_layer.py": '''
"""One linear layer on the flattened image."""

from torch import nn


def build(spec, *, bias: bool = True) -> nn.Module:
    inputs = spec.channels * spec.height * spec.width
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, spec.num_classes, bias=bias))
''',
    "data/sets/stripes.py": '''
"""200 drawn stripes, 8x8 grey, 2 classes; needs no network"""

import numpy as np

from tintype.data.source import Images
from tintype.data.targets import Classes


def load(name="stripes", *, data_root=None, image_size=None, channels=None, resize="crop", progress=None):
    targets = np.arange(200) % 2
    noise = np.random.default_rng(0).integers(0, 60, (200, 8, 8, 1))
    rows = np.broadcast_to((np.arange(8) % 2 * 190)[:, None, None], (8, 8, 1))
    pixels = np.stack([rows if target else rows.transpose(1, 0, 2) for target in targets])
    names = [f"{i:03d}" for i in range(200)]
    images = (pixels + noise).astype(np.uint8)
    return Images(images, targets.astype(np.int64), names, Classes(("standing", "lying")))
''',
    "tracking/lines.py": '''
"""Lines: one line of JSON for each thing that happens, in lines.jsonl of the run folder."""

import json

from tintype.tracking.tracker import Tracker, numbers

NEEDS = "json"


def start(info):
    return Lines(info)


class Lines(Tracker):
    def __init__(self, info):
        self.file_of_lines = info.folder / "lines.jsonl"
        self.id = "lines"
        self.where = str(self.file_of_lines)

    def _write(self, **line):
        with self.file_of_lines.open("a", encoding="utf-8") as file:
            print(json.dumps(line), file=file)

    def rows(self, rows):
        for row in rows:
            self._write(row=numbers(row))

    def picture(self, name, path, step): ...

    def figures(self, figures, step):
        self._write(figures=dict(figures))

    def file(self, path): ...

    def finish(self, state):
        self._write(state=state)
''',
    "recipes/stripes-quick.yaml": """
# One layer on drawn stripes, in two steps.
# `tintype train stripes-quick`
data: stripes
model: one-layer
steps: 2
batch_size: 16
""",
    "recipes/digits-brier.yaml": """
# Digits by the Brier score, in two steps.
# `tintype train digits-brier`
task: brier
data: digits
model: one-layer
steps: 2
batch_size: 16
""",
    "studies/bias.yaml": """
# One layer on drawn stripes, with and without a bias.
# `tintype study bias`
question: Does a bias help?
recipe: stripes-quick
vary:
  bias:
    with a bias: {}
    without: {model.bias: false}
seeds: 1
""",
    "tasks/brier/__init__.py": '"""Classify with the Brier score."""\n',
    "tasks/brier/options.py": '''
"""Settings of the task brier."""

from tintype.recipe import TaskOptions


class Options(TaskOptions):
    """It has none."""
''',
    "tasks/brier/task.py": '''
"""Brier: one network whose probabilities are trained and measured by their squared error."""

import torch
import torch.nn.functional as F

from tintype.models import build_model
from tintype.tasks.task import Evaluation, Phase, Summary, Task


def make(splits, *, device, dtype, model, model_options, seed):
    network = build_model(model, splits.spec, model_options, seed)
    return Brier(network.to(device), splits.spec, device)


def restore(network, spec, description, *, device, dtype):
    return Brier(network, spec, device)


class Brier(Task):
    score_name = "brier"
    higher_is_better = False
    watched = ("brier",)

    def __init__(self, network, spec, device):
        self.networks = {"network": network}
        self.main = "network"
        self.phases = [Phase("train", "network")]
        self.spec = spec
        self.device = device

    def _score(self, network, batch):
        images = batch.images.to(self.device).float() / 255
        truth = F.one_hot(batch.targets.to(self.device), self.spec.num_classes)
        return (network(images).softmax(1) - truth).square().sum(1)

    def loss(self, phase, batch, context):
        return self._score(self.networks[self.main], batch).mean(), {}

    @torch.no_grad()
    def evaluate(self, network, source, on_progress=None):
        network.eval()
        scores = self._score(network, source.take(torch.arange(len(source))))
        return Evaluation({"brier": float(scores.mean()), "num_images": len(source)})

    def summarise(self, evaluations, sources):
        splits = {split: evaluation.figures for split, evaluation in evaluations.items()}
        return Summary({"task": "brier", "splits": splits}, (["split"], []), {})
''',
}

# What is added to a file that exists: a function or a row at its end, or a line in a table.
APPENDED = {
    "augment/operations.py": '''

def darken(canvas: Canvas, *, strength: Strength = 0.5) -> None:
    """Make each image darker by a factor drawn from 1 - strength to 1."""
    factor = canvas.uniform(1 - strength, 1).view(-1, 1, 1, 1)
    canvas.images = canvas.colours() * factor
''',
    "tasks/losses.py": """

RESTORATION["fourth-power"] = lambda pictures, originals: (pictures - originals).pow(4).mean()

ADVERSARIAL["least-squares"] = AdversarialLoss(  # Mao et al., 2017
    lambda real, fake: (real - 1).square().mean() + fake.square().mean(),
    lambda _, fake: (fake - 1).square().mean(),
)
""",
    "tasks/classify/metrics.py": '''

def cohen_kappa(confusion: NDArray[np.int64]) -> float:
    """Return how far the answers agree with the truth beyond chance (Cohen, 1960)."""
    total = confusion.sum()
    chance = float(confusion.sum(0) @ confusion.sum(1)) / total**2
    return (np.trace(confusion) / total - chance) / (1 - chance)
''',
}
METRIC_LINE = '"macro_f1": macro_f1(self.confusion),'

SHORT = ["--steps", "2", "--batch", "16", "--threads", "1", "--device", "cpu"]
COMMANDS = {
    "models": ["list", "models", "--json"],
    "data": ["list", "data", "--json"],
    "augmentations": ["list", "augmentations", "--json"],
    "tracking": ["list", "tracking", "--json"],
    "tasks": ["list", "tasks", "--json"],
    "recipes": ["list", "recipes", "--json"],
    "studies": ["list", "studies", "--json"],
    "recipe": ["train", "stripes-quick", "--augment", "darken=0.3", "--track", "lines",
               "--threads", "1", "--name", "recipe", "--json"],
    "gan": ["train", "digits-gan", *SHORT, "--set", "loss=least-squares",
            "--set", "num_samples=10", "--name", "gan", "--json"],
    "x2": ["train", "photos-x2", *SHORT, "--model", "espcn", "--set", "loss=fourth-power",
           "--name", "x2", "--json"],
    "study": ["study", "bias", "--json"],
    "task": ["train", "digits-brier", "--threads", "1", "--name", "task", "--json"],
}  # fmt: skip

DRIVER = """
import contextlib, io, json, sys
import tintype
from tintype import api, cli
from tintype.pages import print_figures

print_figures.DPI = 40  # most of a page's time goes into these dots
assert tintype.__file__.startswith(sys.argv[1]), tintype.__file__
said = {}
for name, arguments in json.loads(sys.argv[2]).items():
    output = io.StringIO()
    code = 0
    with contextlib.redirect_stdout(output):
        try:
            cli.main(arguments)
        except SystemExit as end:
            code = end.code or 0
    said[name] = [code, output.getvalue()]
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what each command printed, run by a package that has one more of each kind."""
    folder = tmp_path_factory.mktemp("contributing")
    package = folder / "code" / "tintype"
    shutil.copytree(ROOT / "tintype", package)  # with what was compiled of files that stay

    for place, text in ADDED.items():
        assert not (package / place).exists()
        (package / place).parent.mkdir(exist_ok=True)
        (package / place).write_text(text.lstrip("\n"), encoding="utf-8")
    for place, text in APPENDED.items():
        with (package / place).open("a", encoding="utf-8") as file:
            file.write(text)
    metrics = package / "tasks/classify/metrics.py"
    source = metrics.read_text(encoding="utf-8")
    assert METRIC_LINE in source
    row = f'{METRIC_LINE}\n        "cohen_kappa": cohen_kappa(self.confusion),'
    metrics.write_text(source.replace(METRIC_LINE, row), encoding="utf-8")

    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(package.parent), json.dumps(COMMANDS)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(package.parent)},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    assert {name: code for name, (code, _) in answers.items() if code} == {}, done.stderr
    return {"folder": folder, **{name: output for name, (_, output) in answers.items()}}


def result(said: dict[str, Any], name: str) -> dict[str, Any]:
    """Return what a run wrote into evaluation.json."""
    path = said["folder"] / "runs" / name / "evaluation.json"
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("kind", "name", "description"),
    [
        ("models", "one-layer", "One linear layer on the flattened image."),
        ("data", "stripes", "200 drawn stripes, 8x8 grey, 2 classes; needs no network"),
        ("augmentations", "darken", "Make each image darker by a factor drawn from 1 - strength to 1."),
        ("tracking", "lines", "Lines: one line of JSON for each thing that happens"),
        ("tasks", "brier", "Brier: one network whose probabilities are trained"),
        ("recipes", "stripes-quick", "One layer on drawn stripes, in two steps."),
        ("studies", "bias", "One layer on drawn stripes, with and without a bias."),
    ],
)  # fmt: skip
def test_what_is_added_is_listed(
    said: dict[str, Any], kind: str, name: str, description: str
) -> None:
    rows = {row["name"]: row["description"] for row in json.loads(said[kind])}
    assert rows[name].startswith(description)


def test_model_data_set_recipe_and_augmentation_train_together(said: dict[str, Any]) -> None:
    run = said["folder"] / "runs" / "recipe"
    recipe = (run / "recipe.yaml").read_text(encoding="utf-8")
    assert all(word in recipe for word in ("one-layer", "stripes", "darken"))
    assert result(said, "recipe")["splits"]["test"]["num_images"] == 40
    assert (run / "report.html").is_file()


def test_a_tracker_hears_of_the_run(said: dict[str, Any]) -> None:
    text = (said["folder"] / "runs/recipe/lines.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    assert {"row", "figures", "state"} == {key for line in lines for key in line}
    assert lines[-1] == {"state": "finished"}


def test_a_metric_stands_in_every_evaluation(said: dict[str, Any]) -> None:
    from sklearn.metrics import cohen_kappa_score

    found = result(said, "recipe")
    confusion = found["confusion"]["test"]
    cells = [(t, p) for t, row in enumerate(confusion) for p, n in enumerate(row) for _ in range(n)]
    truth, answers = zip(*cells, strict=True)
    expected = cohen_kappa_score(truth, answers)
    assert found["splits"]["test"]["cohen_kappa"] == pytest.approx(expected)


def test_a_gan_objective_and_a_loss_train(said: dict[str, Any]) -> None:
    for name, loss in (("gan", "least-squares"), ("x2", "fourth-power")):
        run = said["folder"] / "runs" / name
        assert loss in (run / "recipe.yaml").read_text(encoding="utf-8")
        assert (run / "model.safetensors").is_file()
        assert (run / "report.html").is_file()


def test_a_study_compares_its_variants(said: dict[str, Any]) -> None:
    found = json.loads(said["study"])
    assert len(found["runs"]) == 2
    assert (said["folder"] / "runs" / "bias" / "study.html").is_file()


def test_a_task_trains_measures_and_writes_its_report(said: dict[str, Any]) -> None:
    run = said["folder"] / "runs" / "task"
    assert result(said, "task")["task"] == "brier"
    assert 0 < result(said, "task")["splits"]["test"]["brier"] < 2
    assert (run / "report.html").is_file()


def test_contributing_names_the_places_that_are_tested_here() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    folders = {f"tintype/{place.rpartition('/')[0]}/" for place in ADDED if "brier/" not in place}
    assert all(folder in text for folder in folders)
    assert all(f"tintype/{place}" in text for place in APPENDED)
    for path in re.findall(r"`(tintype/[\w/.]+)`", text):
        assert (ROOT / path).exists(), path
