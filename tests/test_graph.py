"""Runs with a network of the user's own are used without its code, by their graph."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import tintype as tt
from tintype import api, own_code
from tintype.errors import UserError
from tintype.progress import Watcher
from tintype.recipe import build
from tintype.runs import graph
from tintype.runs.graph import GraphNetwork, keep_graph, open_graph
from tintype.runs.model import load_model
from tintype.tasks.restoring import load_task
from tintype.verbs.serve.loading import load as load_served

pytestmark = pytest.mark.usefixtures("short_pages")

NET = """
from pathlib import Path
from torch import nn

with open(Path(__file__).with_name("executed.txt"), "a") as log:
    log.write(f"{__file__}\\n")

def build(num_outputs, channels, height, width, filters=8):
    return nn.Sequential(
        nn.Conv2d(channels, filters, 3, padding=1), nn.BatchNorm2d(filters), nn.ReLU(),
        nn.Dropout(0.1), nn.Flatten(), nn.Linear(filters * height * width, OUTPUTS),
    )
"""
SMALL = {"device": "cpu", "precision": "fp32", "batch_size": 128, "optimizer": "adamw", "lr": 0.01}
CPU = torch.device("cpu")


def write_net(folder: Path, outputs: str) -> Path:
    file = folder / "my_net.py"
    file.write_text(NET.replace("OUTPUTS", outputs), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def own_run(tmp_path_factory) -> api.Run:
    """A classifier whose network is in a file; tests must not change it."""
    folder = tmp_path_factory.mktemp("own")
    file = write_net(folder, "num_outputs")
    return tt.train(
        "digits", model=str(file), epochs=4, out=folder / "runs", watcher=Watcher(), **SMALL
    )


@pytest.fixture
def without_code(monkeypatch):
    """Let this process know no code, as a new one does, and none of the files that it executed."""
    monkeypatch.setattr(own_code, "_given", {})
    monkeypatch.setattr(own_code, "_trusted", {})


@pytest.fixture
def stranger(own_run, without_code, tmp_path) -> api.Run:
    """The run as somebody else has it."""
    return api.Run(shutil.copytree(own_run.path, tmp_path / "runs" / "theirs"))


def executed(run: api.Run) -> int:
    """Return how often code of the run was executed, by the original or by a copy."""
    logs = [run.path / "code/executed.txt"]
    logs.append(Path(run.recipe.model).with_name("executed.txt"))
    return sum(len(log.read_text("utf-8").split()) for log in logs if log.exists())


# ---- what is kept ------------------------------------------------------------------------------


def test_the_graph_holds_no_weights_and_any_runtime_opens_it(own_run):
    choice = next(c for c in own_run.read("environment.json")["choices"] if c["name"] == "graph")
    assert choice["choice"] == "kept in graph.onnx"
    assert "on 64 images its answers differ from the network's by" in choice["reason"]
    sizes = [(own_run.path / name).stat().st_size for name in (graph.FILE, graph.WEIGHTS)]
    assert sizes[0] < sizes[1] / 4

    network, _, _ = load_model(own_run, CPU, whole=True)
    images = torch.randn(7, 1, 8, 8)
    session = onnxruntime.InferenceSession(str(own_run.path / graph.FILE))
    got = session.run(None, {"images": images.numpy()})[0]
    np.testing.assert_allclose(got, network(images).detach().numpy(), atol=1e-5)
    text = (own_run.path / graph.FILE).read_bytes()
    assert str(Path(torch.__file__).parent).encode() not in text
    assert str(own_run.path.parent).encode() not in text


def test_a_network_of_the_package_keeps_no_graph(finished_run):
    assert not (finished_run.path / graph.FILE).exists()


class Chooses(nn.Module):
    """Takes another way where the images are bright."""

    def __init__(self) -> None:
        super().__init__()
        self.dark, self.bright = nn.Linear(64, 10), nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        flat = images.flatten(1)
        return self.bright(flat) if images.mean() > 0 else self.dark(flat)


class Draws(nn.Module):
    """Answers by chance."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(nn.functional.dropout(images.flatten(1), 0.5, training=True))


@pytest.mark.parametrize("network", [Chooses(), Draws()])
def test_a_network_that_cannot_be_a_graph_says_so_and_keeps_none(network, tmp_path, capfd):
    (tmp_path / graph.FILE).write_bytes(b"of an earlier time")
    save_file(network.state_dict(), tmp_path / graph.WEIGHTS)
    choice = keep_graph(tmp_path, network, torch.randn(8, 1, 8, 8))
    assert choice.choice == "none"
    assert "Opening the run will need its code: --trust FILE" in choice.reason
    expected = "data-dependent" if isinstance(network, Chooses) else "gives other answers"
    assert expected in choice.reason
    assert capfd.readouterr().err == ""
    assert "\n" not in str(choice)
    assert [path.name for path in tmp_path.iterdir()] == [graph.WEIGHTS]


def test_a_run_whose_network_cannot_be_a_graph_is_finished(tmp_path, without_code):
    run = tt.train("digits", model=Chooses, epochs=1, out=tmp_path, watcher=Watcher(), **SMALL)
    choice = next(c for c in run.read("environment.json")["choices"] if c["name"] == "graph")
    assert choice["choice"] == "none"
    assert run.status["state"] == "finished"
    assert 0 < run.metrics["test"]["accuracy"] < 1


def test_without_a_package_the_run_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    choice = keep_graph(tmp_path, nn.Linear(4, 4), torch.randn(2, 4))
    assert "needs onnxscript" in choice.reason
    assert "pip install 'tintype[export]'" in choice.reason


class Tied(nn.Module):
    """Uses one weight twice, and holds numbers of several types."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)
        self.second.weight = self.first.weight
        self.register_buffer("order", torch.arange(64).flip(0))
        self.register_buffer("exact", torch.full((1,), 0.5, dtype=torch.float64))
        self.register_buffer("short", torch.ones(64, dtype=torch.bfloat16))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(images.flatten(1)[:, self.order] * self.short.float()))
        return (self.second(x).double() * self.exact).float()


def test_weights_of_every_type_are_found_again(tmp_path):
    network = Tied().eval()
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    save_file(state, tmp_path / graph.WEIGHTS)
    images = torch.randn(5, 1, 8, 8)
    choice = keep_graph(tmp_path, network, images)
    assert choice.choice == "kept in graph.onnx", choice.reason
    got = open_graph(tmp_path, (1, 8, 8), [])(images)
    torch.testing.assert_close(got, network(images), atol=1e-5, rtol=1e-5)


# ---- what works without the code ---------------------------------------------------------------


def test_a_stranger_uses_the_run_and_executes_nothing(
    own_run, stranger, digit_files, tmp_path, say, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    expected = own_run.read("evaluation.json")["splits"]["test"]
    before = executed(stranger)
    assert isinstance(load_model(stranger, CPU)[0], GraphNetwork)

    # its own split, other data
    figures = stranger.evaluate(split="test")
    assert figures["accuracy"] == expected["accuracy"]
    assert figures["loss"] == pytest.approx(expected["loss"], abs=1e-5)
    assert stranger.evaluate(data=str(digit_files))["num_images"] == 120
    # one photo, a list, a folder to a file
    photos = sorted((digit_files / "3").iterdir())
    one, many = stranger.predict(photos[0]), stranger.predict(photos)
    np.testing.assert_allclose(one.probs, many[0].probs, atol=1e-6)
    assert say("predict", stranger.path, digit_files / "3", "--out", "p.csv")[0] == 0
    # the other commands
    for command in (
        ["report", stranger.path],
        ["card", stranger.path, "--out", "card.md"],
        ["export", stranger.path, "--out", "theirs.onnx"],
        ["pack", stranger.path, "--out", "theirs.zip"],
        ["predict", "theirs.zip", photos[0]],
    ):
        code, _, errors = say(*command)
        assert code == 0, errors
    load_served("theirs", stranger.path).warm_up()

    # an export needs neither the code nor the run
    exported = onnxruntime.InferenceSession("theirs.onnx")
    rgb = np.stack([np.asarray(Image.open(photo).convert("RGB")) for photo in photos])
    got = exported.run(None, {"images": rgb})[0]
    np.testing.assert_allclose(got, np.stack([answer.probs for answer in many]), atol=1e-5)
    assert {node.domain for node in onnx.load("theirs.onnx").graph.node} <= {""}
    assert executed(stranger) == before


def test_a_graph_computes_with_the_threads_of_torch(stranger):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        network, _, _ = load_model(stranger, CPU)
    finally:
        torch.set_num_threads(before)
    assert isinstance(network, GraphNetwork)
    assert network.session.get_session_options().intra_op_num_threads == 2


@pytest.mark.slow
def test_runs_are_compared_and_quantised_without_their_code(own_run, stranger, tmp_path, say):
    before = executed(stranger)
    for command in (
        ["compare", stranger.path, own_run.path],
        ["export", stranger.path, "--int8", "--max-loss", "100", "--out", tmp_path / "8.onnx"],
    ):
        code, _, errors = say(*command)
        assert code == 0, errors
    operators = {node.op_type for node in onnx.load(tmp_path / "8.onnx").graph.node}
    assert "QuantizeLinear" in operators
    assert executed(stranger) == before


@pytest.mark.parametrize(
    "use",
    [
        lambda run, photo: run.model,
        lambda run, photo: run.embed(photo),
        lambda run, photo: run.export(format="pt2"),
        lambda run, photo: run.export(format="torchscript"),
        lambda run, photo: run.export(fp16=True),
    ],
    ids=["model", "embed", "pt2", "torchscript", "fp16"],
)
def test_what_needs_the_network_itself_says_how_to_trust_it(use, stranger, digit_files):
    before = executed(stranger)
    with pytest.raises(UserError, match=r"trust='.*/code/my_net\.py'") as error:
        use(stranger, sorted((digit_files / "3").iterdir())[0])
    assert "\n" not in str(error.value)
    assert executed(stranger) == before


def test_features_come_as_soon_as_the_code_is_trusted(stranger, digit_files, own_run):
    photos = sorted((digit_files / "3").iterdir())[:3]
    answers = stranger.predict_proba(photos)
    with pytest.raises(UserError, match="trust="):
        stranger.embed(photos)
    own_code.trust(stranger.path / "code/my_net.py")
    with torch.no_grad():
        features = torch.from_numpy(stranger.embed(photos))
        head = [layer for layer in stranger.model.modules() if isinstance(layer, nn.Linear)][-1]
        shown = torch.stack([stranger.preprocess(photo) for photo in photos])
        torch.testing.assert_close(head(features), stranger.model(shown))
    np.testing.assert_allclose(stranger.predict_proba(photos), answers, atol=1e-5)


def test_heat_maps_say_how_to_trust_the_code_and_are_drawn_with_it(
    stranger, digit_files, tmp_path, say
):
    command = ["predict", stranger.path, digit_files / "3", "--heatmaps", tmp_path / "maps"]
    code, _, errors = say(*command)
    assert code == 2
    assert "a heat map cannot be had from graph.onnx" in errors
    copied = stranger.path / "code/my_net.py"
    assert f"--trust {copied}" in errors
    shutil.rmtree(tmp_path / "maps", ignore_errors=True)

    code, _, errors = say(*command, "--trust", copied)
    assert code == 0, errors
    assert len(list((tmp_path / "maps").iterdir())) == 12
    assert isinstance(stranger.model, nn.Sequential)


def test_a_regression_is_used_without_its_code(tmp_path, without_code, monkeypatch):
    file = write_net(tmp_path, "num_outputs")
    recipe = build(
        {"task": "regress", "data": "digits", "model": str(file), "epochs": 2, **SMALL}, ""
    )
    run = api.train(recipe, out=tmp_path / "runs", name="number", watcher=Watcher())
    before = executed(run)
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8), np.uint8)
    expected = run.predict(pixels)
    monkeypatch.setattr(own_code, "_trusted", {})
    found = api.Run(run.path).predict(pixels)
    assert isinstance(load_model(run, CPU)[0], GraphNetwork)
    np.testing.assert_allclose(found.values, expected.values, atol=1e-5)
    assert executed(run) == before


# ---- a graph that is broken, or another one ----------------------------------------------------


def model(nodes: list[onnx.NodeProto], *initializers: onnx.TensorProto) -> bytes:
    """Return an ONNX model from images (N, 1, 8, 8) to an output."""
    helper = onnx.helper
    body = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("images", 1, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("output", 1, None)],
        initializers,
    )
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(body, opset_imports=opset, ir_version=10).SerializeToString()


def outside(location: str) -> onnx.TensorProto:
    """Return a weight whose values are in another file."""
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[64], data_location=1)
    for key, value in (("location", location), ("offset", "0"), ("length", "256")):
        tensor.external_data.add(key=key, value=value)
    return tensor


node = onnx.helper.make_node
FLAT = node("Flatten", ["images"], ["flat"])
MUL = node("Mul", ["flat", "w"], ["output"])
HUGE = onnx.helper.make_tensor("shape", 7, [2], [2**31, 2**31])
BROKEN = {
    "nothing": b"",
    "garbage": bytes(range(256)),
    "a part": model([FLAT, MUL])[:-9],
    "another kind of file": b"PK\x03\x04" + bytes(100),
    "no batch": model([node("ReduceMean", ["images"], ["output"], keepdims=0)]),
    "another number of classes": model([node("Flatten", ["images"], ["output"])]),
    "an unknown operator": model([node("Evil", ["images"], ["output"], domain="com.example")]),
    "a file above": model([FLAT, MUL], outside("../../etc/passwd")),
    "an absolute path": model([FLAT, MUL], outside("/etc/passwd")),
    "a file beside": model([FLAT, MUL], outside("data.json")),
    "in a node": model([node("Constant", [], ["w"], value=outside("../secret")), FLAT, MUL]),
    "gigantic": model(
        [
            node("ConstantOfShape", ["shape"], ["large"]),
            node("ReduceSum", ["large"], ["w"], keepdims=0), FLAT, MUL,
        ], HUGE),
    "gigantic weights": model(
        [FLAT, MUL], onnx.TensorProto(name="w", data_type=1, dims=[2**40], raw_data=bytes(16))),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_graph_is_one_line(kind, stranger, digit_files, tmp_path, say):
    (tmp_path / "runs" / "secret").write_bytes(bytes(256))
    (stranger.path / graph.FILE).write_bytes(BROKEN[kind])
    for command in (["predict", stranger.path, digit_files / "3"], ["evaluate", stranger.path]):
        code, output, errors = say(*command)
        assert code == 2, output
        assert errors.startswith("error: ")
        assert errors.count("\n") == 1
    assert executed(stranger) == executed(stranger)


def test_weights_that_the_graph_does_not_find_are_one_line(stranger, say, digit_files):
    state = load_file(stranger.path / graph.WEIGHTS)
    for changed in (
        {name: value for name, value in state.items() if name != "0.weight"},
        {**state, "0.weight": torch.zeros(3)},
    ):
        save_file(changed, stranger.path / graph.WEIGHTS)
        code, _, errors = say("predict", stranger.path, digit_files / "3")
        assert code == 2
        assert errors.count("\n") == 1
        assert "--trust" in errors or "weights" in errors


def test_weights_are_found_by_their_names_wherever_they_are(stranger, own_run):
    state = load_file(stranger.path / graph.WEIGHTS)
    backwards = dict(reversed(state.items()))
    save_file({"more": torch.zeros(99), **backwards}, stranger.path / graph.WEIGHTS)
    images = torch.randn(3, 1, 8, 8)
    network, _, _ = load_model(stranger, CPU)
    expected = open_graph(own_run.path, (1, 8, 8), [])(images)
    torch.testing.assert_close(network(images), expected, rtol=0, atol=0)


def test_a_run_without_a_graph_says_how_to_trust_its_code(stranger):
    (stranger.path / graph.FILE).unlink()
    with pytest.raises(UserError, match=r"opening a run executes no code.*trust="):
        load_task(stranger, "cpu")


def test_a_run_from_a_hub_is_used_without_the_text_of_its_code(stranger, digit_files):
    shutil.rmtree(stranger.path / "code")
    assert len(stranger.predict(str(digit_files / "3"))) == 12
    with pytest.raises(UserError, match="If you trust it: trust='FILE'"):
        _ = stranger.model


def test_a_packed_run_carries_the_graph_and_the_code(stranger, tmp_path):
    stranger.pack(tmp_path / "x.zip")
    opened = tt.load(str(tmp_path / "x.zip"))
    assert (opened.path / graph.FILE).read_bytes() == (stranger.path / graph.FILE).read_bytes()
    assert (opened.path / "code/my_net.py").read_text("utf-8") == (
        stranger.path / "code/my_net.py"
    ).read_text("utf-8")
    assert json.loads((opened.path / "code.json").read_text("utf-8"))["code"]
    own_code.trust(opened.path / "code/my_net.py")
    assert isinstance(opened.model, nn.Sequential)
