"""Networks of the user's own: a module, a class or a function, from Python and from a file."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.nn.utils.parametrizations import weight_norm

import tintype as tt
from tintype import own_code
from tintype.data.source import DataSpec
from tintype.data.targets import Classes
from tintype.errors import UserError
from tintype.models import build_model
from tintype.progress import Watcher
from tintype.runs.folder import RunFolder
from tintype.runs.model import load_model
from tintype.training.prepare import prepare
from tintype.verbs.share.hub import write_repository

pytestmark = pytest.mark.usefixtures("short_pages")

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

    def forward(self, images: Tensor) -> torch.Tensor:
        return self.body(images)


@pytest.fixture(autouse=True)
def _short(short_reports):
    """Leave the pages of runs short."""


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
    with pytest.raises(UserError, match=r"opening a run executes no code.*trust=.*my_net.py"):
        load_model(run, torch.device("cpu"), whole=True)

    net.write_text(NET + "x = 1\n", encoding="utf-8")
    own_code.trust(net)
    with pytest.raises(UserError, match=r"its text is another.*trust=.*code/my_net.py"):
        load_model(run, torch.device("cpu"), whole=True)

    again = tt.load(run.path, trust=run.path / "code/my_net.py")
    before = run.metrics["test"]["accuracy"]
    assert again.evaluate()["accuracy"] == before


def test_an_edited_file_is_not_what_the_process_trusted(net, tmp_path):
    run = train(tmp_path, model="my_net.py")
    net.write_text(NET + "raise SystemExit\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"its text is another.*trust=.*code/my_net.py"):
        load_model(run, torch.device("cpu"), whole=True)


class Stop(Exception):
    """Stands for whatever ends a process."""


class Stopper(Watcher):
    """Raises at a step, of which there then is no checkpoint."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_step(self, step: int, total_steps: int, loss: float, images_per_second: float) -> None:
        if step >= self.at:
            raise Stop


@pytest.mark.machines
@pytest.mark.parametrize(("kind", "at"), [("file", 9), ("class", 9), ("module", 1)])
def test_a_run_goes_on_bit_equal(net, tmp_path, forgotten, monkeypatch, kind, at):
    monkeypatch.setattr("tintype.training.engine.CHECKPOINT_SECONDS", 0.0 if at > 1 else 1e9)
    model = {"file": "my_net.py", "class": Net, "module": Net(10, 1)}[kind]
    whole = train(tmp_path, name="whole", model=model)
    with pytest.raises(Stop):
        tt.train("digits", model=model, out=tmp_path, name="part", watcher=Stopper(at),
                 epochs=2, **SMALL)  # fmt: skip

    forgotten()
    part = tmp_path / "part"
    with pytest.raises(UserError, match="executes no code"):
        tt.train(resume=part, watcher=Watcher())
    trust = {"file": part / "code/my_net.py", "class": Net, "module": Net(10, 1)}[kind]
    if kind == "module":  # lazy weights have no values yet; another that does
        trust.load_state_dict(load_file(whole.path / "model.safetensors"))
    tt.train(resume=part, trust=trust, watcher=Watcher())
    for file in ("model.safetensors", "metrics.csv", "predictions.csv"):
        assert (part / file).read_bytes() == (whole.path / file).read_bytes(), file


# ---- what people hand over -----------------------------------------------------------------------


class View(nn.Module):
    """Code that takes contiguous memory."""

    def __init__(self) -> None:
        super().__init__()
        self.filters = nn.Conv2d(1, 4, 3)
        self.head = nn.Linear(4 * 36, 10)

    def forward(self, images: Tensor) -> Any:
        return self.head(self.filters(images).relu().view(-1, 4 * 36))


class WithAid(View):
    """As GoogLeNet, it answers twice while it trains."""

    def forward(self, images: Tensor) -> Any:
        answer = super().forward(images)
        return (answer, -answer) if self.training else answer


class Mapped(View):
    def forward(self, images: Tensor) -> Any:
        return {"logits": super().forward(images)}


class Tied(nn.Module):
    """Two layers share their weights, and there is a buffer."""

    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)
        self.second.weight = self.first.weight
        self.head = nn.Linear(64, 10)
        self.register_buffer("shift", torch.full((64,), 0.1))

    def forward(self, images: Tensor) -> Tensor:
        return self.head((self.second(self.first(images.flatten(1)).relu()) + self.shift).relu())


def transposed() -> nn.Module:
    """Return a network whose weights are not contiguous."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    network[1].weight = nn.Parameter(torch.randn(64, 10).t() / 8)
    return network


def frozen_below() -> nn.Module:
    network = View()
    network.filters.requires_grad_(False)
    return network


ODD: dict[str, Callable[[], Any]] = {
    "view": View,
    "a class": lambda: View,
    "several answers": WithAid,
    "a mapping": Mapped,
    "tied weights": Tied,
    "weights out of order": transposed,
    "a frozen part": frozen_below,
    "eval mode": lambda: View().eval(),
    "float64": lambda: View().double(),
    "compiled": lambda: torch.compile(View()),
    "data parallel": lambda: nn.DataParallel(View()),
    "lazy": lambda: nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(),
                                  nn.LazyLinear(10)),
    "parametrised": lambda: nn.Sequential(nn.Flatten(), weight_norm(nn.Linear(64, 10))),
    "three dimensions": lambda: nn.Sequential(nn.Unflatten(1, (1, 1)), nn.Conv3d(1, 2, 1),
                                              nn.Flatten(), nn.Linear(128, 10)),
    "a partial": lambda: partial(Net, hidden=4),
    "a function": lambda: lambda spec: nn.Sequential(nn.Flatten(), nn.Linear(64, spec.num_outputs)),
}  # fmt: skip


@pytest.mark.parametrize("kind", ODD)
def test_odd_networks_train_and_come_back(tmp_path, forgotten, tiny, train_in, kind):
    given = ODD[kind]()
    before = copied_state(given)
    recipe = tiny(model=given, model_options={}, epochs=1)
    run = train_in(tmp_path / "run", recipe)
    assert copied_state(given) == before, "the user's own module is as it was"

    network, _, _ = load_model(run, torch.device("cpu"))
    assert not network.training
    figures = tt.load(run.path).evaluate()
    assert figures["accuracy"] == run.read("evaluation.json")["splits"]["test"]["accuracy"]
    trained = load_file(run.path / "model.safetensors")
    assert {k: tuple(v.shape) for k, v in network.state_dict().items()} == {
        k: tuple(v.shape) for k, v in trained.items()
    }
    if kind == "a frozen part":
        assert torch.equal(trained["filters.weight"], given.filters.weight)
    if kind == "tied weights":
        assert torch.equal(trained["first.weight"], trained["second.weight"])


def copied_state(given: Any) -> str:
    """Return the values, memory and mode of a module as a text, "" for other things."""
    if not isinstance(given, nn.Module):
        return ""
    lazy = (UninitializedBuffer, UninitializedParameter)
    values = [
        (name, None if isinstance(t, lazy) else (t.tolist(), t.dtype, t.stride()))
        for name, t in given.state_dict().items()
    ]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in given.modules()]
    return repr((values, given.training, hooks))


def test_a_module_starts_from_its_own_weights(tmp_path, forgotten):
    run = train(tmp_path, model=(given := View()), steps=1, epochs=None, lr=1e-12)
    trained = load_file(run.path / "model.safetensors")
    assert all(torch.allclose(trained[k], v, atol=1e-6) for k, v in given.state_dict().items())


def test_weights_are_drawn_from_the_seed(tmp_path, forgotten):
    spec = DataSpec("", 1, 8, 8, Classes(("a", "b")), (0.5,), (0.5,), "")
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    reference = own_code.give(Net)
    one, same, other = (build_model(reference, spec, {}, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not torch.equal(one["body.3.weight"], other["body.3.weight"])
    assert torch.equal(torch.random.get_rng_state(), before)


# ---- what cannot be trained ----------------------------------------------------------------------


class ByNumpy(View):
    def forward(self, images: Tensor) -> Any:
        return super().forward(images) * (1 + np.random.rand())


class Remembers(View):
    calls = 0

    def forward(self, images: Tensor) -> Any:
        self.calls += 1
        return super().forward(images) * self.calls


class Fails(View):
    def forward(self, images: Tensor) -> Any:
        raise KeyError("no such key")


class InPlace(View):
    def forward(self, images: Tensor) -> Any:
        seen = self.filters(images).sigmoid()
        answer = seen * seen
        seen.mul_(2)
        return self.head(answer.flatten(1))


def needs_more(num_classes: int, depth: int) -> nn.Module:
    raise AssertionError


BAD: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "other classes": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 7)), {},
        r"answers 2 images with shape \(2, 7\)\. Expected .* shape \(2, 10\): a score",
    ),
    "a number": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 1), nn.Flatten(0)), {},
        r"shape \(2,\)\. Expected",
    ),
    "no parameters": (nn.Flatten, {}, "has no parameters that can be trained"),
    "all frozen": (lambda: View().requires_grad_(False), {}, "no parameters that can be trained"),
    "fails": (Fails, {}, r"model Fails on images of shape \(2, 1, 8, 8\) fails with KeyError"),
    "fails backwards": (InPlace, {}, "the backward pass of model InPlace fails with RuntimeError"),
    "numpy": (ByNumpy, {}, "answers the same images differently the second time"),
    "remembers": (Remembers, {}, "no memory outside parameters and buffers"),
    "an unknown option": (lambda: Net, {"hiden": 3}, "option of model Net: 'hiden'.*'hidden'"),
    "options of a module": (View, {"hidden": 3}, "is built already, and takes no options"),
    "an option too few": (lambda: needs_more, {}, r"asks for depth.*model_options={'depth'"),
    "no module": (lambda: lambda spec: 3, {}, r"returns int. Expected a torch.nn.Module"),
    "no values": (lambda: nn.Linear(64, 10, device="meta"), {}, "on device meta"),
    "no plain option": (lambda: Net, {"hidden": nn.ReLU}, "hidden is .*Expected plain values"),
    "a fit of no sort": (lambda: 3, {}, "model: "),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_line_says_what_cannot_be_trained(tmp_path, forgotten, kind):
    make, options, says = BAD[kind]
    with pytest.raises(UserError, match=says) as error:
        tt.train("digits", model=make(), model_options=options, out=tmp_path / "runs",
                 watcher=Watcher())  # fmt: skip
    assert "\n" not in str(error.value)
    assert not (tmp_path / "runs").exists()


def test_a_network_that_fails_shows_its_own_traceback(net, say):
    net.write_text(NET.replace("nn.ReLU()", "nn.ReLU(), nn.Linear(3, 3)"), encoding="utf-8")
    code, _, errors = say("train", "digits", "--model", "my_net.py")
    assert code == 2
    assert errors.startswith("Traceback")
    last = errors.splitlines()[-1]
    assert last.startswith("error: model my_net on images of shape (2, 1, 8, 8) fails with Runtime")

    net.write_text(NET.replace("filters=8", "filters=8 / 0"), encoding="utf-8")
    code, _, errors = say("train", "digits", "--model", "my_net.py:build")
    assert code == 2
    assert "my_net.py" in errors
    assert "ZeroDivisionError" in errors.splitlines()[-1]


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("absent.py", "there is no file"),
        ("my_net.py:Missing", "unknown model in .*my_net.py: 'Missing'"),
        ("no_such.package:Net", "there is no module no_such.package"),
    ],
)
def test_a_factory_that_is_not_there(net, say, model, says):
    code, _, errors = say("train", "digits", "--model", model)
    assert code == 2
    assert re.search(says, errors)
    assert not (net.parent / "runs").exists()


def test_probabilities_and_several_answers_are_remarked(tmp_path, forgotten, tiny):
    for model, name, choice in (
        (WithAid, "answer", "the first"),
        (Soft, "answer", "probabilities"),
    ):
        prepared = prepare(tiny(model=model, model_options={}), Watcher())
        assert (name, choice) in [(each.name, each.choice) for each in prepared.choices]


class Soft(View):
    def forward(self, images: Tensor) -> Any:
        return super().forward(images).softmax(1)


# ---- further training, studies, sharing ----------------------------------------------------------


def test_weights_of_such_a_run_need_its_code(net, tmp_path, forgotten):
    first = train(tmp_path, model="my_net.py", model_options={"filters": 4}, name="first")
    forgotten()
    with pytest.raises(UserError, match="executes no code"):
        train(tmp_path, weights=str(first.path))

    copy = first.path / "code/my_net.py"
    by_copy = train(tmp_path, weights=str(first.path), trust=copy, epochs=1, name="by-copy")
    assert by_copy.recipe.model == str(copy)
    assert by_copy.recipe.model_options == {"filters": 4}
    forgotten()
    named = train(tmp_path, weights=str(first.path), model="my_net.py", epochs=1, name="named")
    assert named.recipe.model == str(net)
    assert named.recipe.model_options == {"filters": 4}
    for run in (by_copy, named):
        assert run.read("model.json")["pretrained"]["run"] == "first"

    net.write_text(NET + "x = 1\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"its text is another|the network of .* is"):
        train(tmp_path, weights=str(first.path), model="my_net.py")


def test_a_study_takes_files_and_no_objects(net, tmp_path, forgotten):
    base = {"recipe": {"data": "digits", "steps": 2, **SMALL}, "seeds": 1}
    study = tt.study(
        {**base, "vary": {"model": ["my_net.py", "ann"]}}, out=tmp_path, watcher=Watcher()
    )
    runs = [RunFolder(path.parent) for path in sorted(study.path.glob("*/model.json"))]
    assert [run.recipe.model for run in runs] == ["ann", str(net)]
    assert all(run.status["state"] == "finished" for run in runs)
    with pytest.raises(UserError, match=r"model Net is an object of this process.*FILE.py:Net"):
        tt.study({**base, "vary": {"lr": [0.1, 0.2]}}, model=Net, out=tmp_path / "other")
    with pytest.raises(UserError, match="model Net is an object of this process"):
        tt.tune("digits", model=Net, trials=1, out=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_card_says_which_code_it_needs(net, tmp_path):
    run = train(tmp_path, model="my_net.py:build")
    card = str(run.card("-"))
    sha256 = run.read("model.json")["code"][0]["sha256"]
    assert "- Network: `my_net.py:build`" in card
    assert f"`my_net.py:build`: the copy in `code/my_net.py`, SHA-256 {sha256[:16]}" in card
    assert str(tmp_path) not in card

    (pushed := tmp_path / "pushed").mkdir()
    write_repository(run, pushed)
    assert (pushed / "code/my_net.py").read_text(encoding="utf-8") == NET
    assert str(tmp_path) not in (pushed / "code.json").read_text(encoding="utf-8")
    assert str(tmp_path) not in (pushed / "model.json").read_text(encoding="utf-8")


def test_runs_with_own_networks_are_compared(net, tmp_path):
    one = train(tmp_path, model="my_net.py")
    other = train(tmp_path, model=Net)
    comparison = tt.compare([one, other], latency=False)
    assert len(comparison.frame()) == 2


@pytest.mark.slow
def test_the_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(Path(__file__).parent.parent / "examples" / "own_code.py"))
    said = capsys.readouterr().out
    assert "the first picture is a 0" in said
    fields = [line.partition(":")[0] for line in said.splitlines() if ": python:" in line]
    assert fields[-4:] == ["model", "loss", "augment", "metrics"]


class Enlarges(nn.Module):
    """Enlarges pictures by a shuffle of pixels."""

    def __init__(self, channels: int, scale: int, filters: int = 4) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, filters, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(filters, channels * scale**2, 3, padding=1),
            nn.PixelShuffle(scale),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images)


def test_photos_are_enlarged_by_an_own_network(tmp_path, forgotten):
    fields = {"steps": 2, "batch_size": 4, "device": "cpu", "precision": "fp32"}
    run = tt.train("photos-x2", model=Enlarges, out=tmp_path, watcher=Watcher(), **fields)
    assert run.read("model.json")["architecture"]["options"] == {"scale": 2}
    picture = np.zeros((10, 12, 3), np.uint8)
    assert run.upscale(picture).shape == (20, 24, 3)

    with pytest.raises(UserError, match=r"answers 2 images with shape .* 2 times as wide"):
        tt.train("photos-x2", model=lambda channels, scale: nn.Conv2d(channels, channels, 3,
                 padding=1), out=tmp_path, watcher=Watcher(), **fields)  # fmt: skip


def test_a_generator_has_to_be_one(forgotten):
    with pytest.raises(UserError, match=r"makes no images.*latent_shape and conditional"):
        tt.train("digits-gan", model=View, watcher=Watcher())
