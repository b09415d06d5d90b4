"""Networks of the user's own: a module, a class or a function, from Python and from a file."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import tintype as tt
from tintype import own_code
from tintype.errors import UserError
from tintype.progress import Watcher
from tintype.runs.folder import RunFolder
from tintype.runs.model import load_model

NET = """
from torch import nn

def build(num_classes, channels, height, width, filters=8, **kwargs):
    return nn.Sequential(
        nn.Conv2d(channels, filters, 3, padding=1), nn.BatchNorm2d(filters), nn.ReLU(),
        nn.Dropout(0.1), nn.Flatten(), nn.Linear(filters * height * width, num_classes),
    )
"""
SMALL = {"device": "cpu", "precision": "fp32", "batch_size": 128, "optimizer": "adamw", "lr": 0.01}


class Net(nn.Module):
    """A network as most people write one."""

    def __init__(self, num_classes: int, in_channels: int, hidden: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, hidden, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(num_classes)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.body(images)


@pytest.fixture
def forgotten(monkeypatch):
    """Return a function that makes this process forget the code that it knows, as a new one does."""

    def forget() -> None:
        monkeypatch.setattr(own_code, "_given", {})
        monkeypatch.setattr(own_code, "_trusted", {})

    forget()
    return forget


@pytest.fixture
def net(tmp_path, monkeypatch, forgotten):
    file = tmp_path / "my_net.py"
    file.write_text(NET, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return file


def train(folder, **changes):
    fields = {**SMALL, "epochs": 2, **changes}
    return tt.train("digits", out=folder, watcher=Watcher(), **fields)


def test_a_class_is_built_from_facts_and_options(tmp_path, forgotten):
    run = train(tmp_path, model=Net, model_options={"hidden": 4}, epochs=4)
    assert run.metrics["test"]["accuracy"] > 0.5
    assert run.recipe.model == "python:Net"
    assert run.read("model.json")["architecture"] == {
        "name": "python:Net",
        "options": {"hidden": 4},
    }
    network, _, _ = load_model(run, torch.device("cpu"))
    shapes = {name: tuple(weight.shape) for name, weight in network.state_dict().items()}
    assert shapes["body.0.weight"] == (4, 1, 3, 3)
    assert shapes["body.3.weight"] == (10, 4 * 6 * 6)


def test_the_code_of_a_file_is_kept_with_its_hash(net, say):
    code, _, errors = say("train", "digits", "--model", "my_net.py", "--epochs", "1", "--set",
                          "model.filters=3", "--out", "runs")  # fmt: skip
    assert code == 0, errors
    run = RunFolder("runs/digits")
    assert run.recipe.model == str(net)
    row = {
        "field": "model",
        "reference": str(net),
        "sha256": own_code.code_of(str(net)).sha256,
        "copy": "code/my_net.py",
    }
    assert json.loads((run.path / "code.json").read_text(encoding="utf-8")) == {"code": [row]}
    assert run.read("model.json")["code"] == [row]
    assert (run.path / "code/my_net.py").read_text(encoding="utf-8") == NET


def test_a_stored_run_does_not_run_its_code(net, tmp_path, forgotten):
    run = train(tmp_path, model="my_net.py")
    forgotten()
    with pytest.raises(UserError, match=r"opening a run executes no code.*--trust .*my_net.py"):
        load_model(run, torch.device("cpu"))

    own_code.trust(run.path / "code/my_net.py")
    load_model(run, torch.device("cpu"))
