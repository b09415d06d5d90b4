"""Pretrained weights: read without running code, checked against the network, downloaded once; and
own preprocessing.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import threading
import warnings
import zipfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
import torchvision
import yaml
from PIL import Image
from psutil import Process
from safetensors.torch import save_file
from torch import nn

from tintype.data.decode import fit
from tintype.data.source import DataSpec
from tintype.data.targets import Classes
from tintype.errors import UserError
from tintype.models import build_model
from tintype.models.parts.backbone import backbone_parts
from tintype.models.parts.weights import read_weights
from tintype.models.torchvision_zoo import NAMES
from tintype.runs import pretrained
from tintype.runs.pretrained import (
    fetch_weights,
    is_backbone,
    load_pretrained,
    model_of_weights,
    own_preprocessing,
    weights_available,
)
from tintype.tasks.upscale.perceptual import PerceptualDistance
from tintype.verbs import tune as tuning
from tintype.verbs.study import declare

pytestmark = pytest.mark.usefixtures("short_pages")

SMALL = "shufflenet_v2_x0_5"  # 1.4 million parameters


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("TINTYPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("TINTYPE_WEIGHTS_MIRROR", raising=False)


def spec(classes: int = 4, side: int = 32, channels: int = 3) -> DataSpec:
    names = tuple(f"class {k}" for k in range(classes))
    return DataSpec(
        "made", channels, side, side, Classes(names), (0.5,) * channels, (0.25,) * channels, ""
    )


def theirs(name: str = SMALL, **options: Any) -> nn.Module:
    """Return torchvision's own network with random weights, other ones than build_model's."""
    with torch.random.fork_rng():
        torch.manual_seed(99)
        return torchvision.models.get_model(name, **options)


def ours(name: str = SMALL, classes: int = 4) -> nn.Module:
    return build_model(name, spec(classes), {}, seed=0)


def same_features(one: nn.Module, other: nn.Module, tolerance: float = 1e-5) -> bool:
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        a, b = (backbone_parts(network.eval(), spec()).features(x) for network in (one, other))
    return torch.allclose(a, b, rtol=1e-3, atol=tolerance * float(b.abs().max()))


# ---- files ------------------------------------------------------------------------------------------------------------


def as_safetensors(network: nn.Module, path: Path) -> Path:
    save_file(network.state_dict(), path, {"licence": "BSD", "source": "a test", "format": "pt"})
    return path


def as_half_safetensors(network: nn.Module, path: Path) -> Path:
    halved = {
        k: v.half() if v.ndim > 1 else v
        for k, v in network.state_dict().items()
        if "num_batches" not in k
    }
    save_file(halved, path)
    return path


def as_pth(network: nn.Module, path: Path) -> Path:
    torch.save(network.state_dict(), path)
    return path


def as_old_pth(network: nn.Module, path: Path) -> Path:
    torch.save(network.state_dict(), path, _use_new_zipfile_serialization=False)
    return path


def as_checkpoint(network: nn.Module, path: Path) -> Path:
    state = {f"module.{key}": value for key, value in network.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, path)
    return path


@pytest.mark.parametrize(
    "write", [as_safetensors, as_half_safetensors, as_pth, as_old_pth, as_checkpoint]
)
def test_a_file_is_loaded_and_its_head_dropped(tmp_path, write):
    source, network = theirs(), ours()
    path = write(source, tmp_path / "any name.weights")
    head = {
        key: value.clone() for key, value in network.state_dict().items() if key.startswith("fc.")
    }
    info = load_pretrained(network, SMALL, spec(), str(path))
    assert same_features(network, source, 1e-2 if write is as_half_safetensors else 1e-5)
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert all(torch.equal(network.state_dict()[key], value) for key, value in head.items())
    assert info["file"] == path.name
    assert info["head"] == "new"
    assert info["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert info.get("licence") == ("BSD" if write is as_safetensors else None)


def test_a_head_for_as_many_classes_is_loaded(tmp_path):
    source, network = theirs(), ours(classes=1000)
    info = load_pretrained(
        network, SMALL, spec(), str(as_safetensors(source, tmp_path / "w.safetensors"))
    )
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert info["head"] == "loaded"
    assert torch.equal(network.eval()(x), source.eval()(x))


def test_the_folder_of_a_run_is_as_good_as_its_file(tmp_path):
    as_safetensors(theirs(num_classes=7), tmp_path / "model.safetensors")
    network = ours(classes=7)
    assert load_pretrained(network, SMALL, spec(), str(tmp_path))["head"] == "loaded"


def test_none_leaves_the_network_as_it_is():
    network, fresh = ours(), ours()
    assert load_pretrained(network, SMALL, spec(), "none") == {"source": "none"}
    assert all(
        torch.equal(network.state_dict()[key], value) for key, value in fresh.state_dict().items()
    )


def test_old_names_of_densenet_are_understood(tmp_path):
    source, network = (torchvision.models.DenseNet(4, (2, 2), 8, num_classes=4) for _ in range(2))
    state = {
        re.sub(r"(denselayer\d\.(?:norm|conv))(\d\.)", r"\1.\2", key): value
        for key, value in source.state_dict().items()
        if "num_batches" not in key
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in state
    torch.save(state, tmp_path / "old.pth")
    load_pretrained(network, "densenet121", spec(), str(tmp_path / "old.pth"))
    assert same_features(network, source)


def test_auxiliary_heads_are_left_out(tmp_path):
    source = theirs("googlenet", aux_logits=True, init_weights=False, transform_input=True)
    path = as_pth(source, tmp_path / "googlenet.pth")
    network = ours("googlenet")
    load_pretrained(network, "googlenet", spec(), str(path))
    assert same_features(network, source)


def test_the_backbone_of_squeezenet_is_loaded(tmp_path):
    source, network = theirs("squeezenet1_1"), ours("squeezenet1_1")
    assert (
        load_pretrained(network, "squeezenet1_1", spec(), str(as_pth(source, tmp_path / "w.pth")))[
            "head"
        ]
        == "new"
    )
    assert torch.equal(network.features[0].weight, source.features[0].weight)


def test_position_embeddings_are_brought_to_the_image_size(tmp_path):
    small = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=4)
    large = torchvision.models.VisionTransformer(64, 8, 2, 2, 16, 32, num_classes=4)
    nn.init.normal_(small.encoder.pos_embedding)
    load_pretrained(large, "vit_b_16", spec(side=64), str(as_pth(small, tmp_path / "w.pth")))
    found, before = large.encoder.pos_embedding, small.encoder.pos_embedding
    assert found.shape == (1, 65, 16)
    assert torch.equal(found[0, 0], before[0, 0]), "the class token keeps its own"
    for corner, there in ((1, 1), (8, 4), (57, 13), (64, 16)):
        torch.testing.assert_close(found[0, corner], before[0, there])


# ---- what else a file holds, and how it names it -----------------------------------------------------------------------


def written(content: Any, path: Path) -> str:
    torch.save(content, path)
    return str(path)


@pytest.mark.parametrize("start", [b"\x80", b"PK"])
def test_a_file_is_known_by_more_than_its_first_bytes(tmp_path, start):
    # A safetensors file begins with the length of its header, which may look like another kind.
    path = tmp_path / "weights.safetensors"
    save_file({"weight": torch.ones(2)}, path, {"about": ""})
    length = int.from_bytes(path.read_bytes()[:8], "little")
    missing = (int.from_bytes(start, "little") - length) % 256 ** len(start)
    save_file({"weight": torch.ones(2)}, path, {"about": "x" * missing})

    assert path.read_bytes().startswith(start)
    assert read_weights(path).tensors["weight"].tolist() == [1, 1]


@pytest.mark.parametrize(
    "prefix", ["model.", "net.", "encoder.", "module._orig_mod.", "student.backbone.body."]
)
@pytest.mark.parametrize(
    "beside", [{}, {"criterion.weight": torch.ones(3), "head.mean": torch.ones(2)}]
)
def test_a_prefix_before_all_keys_is_no_part_of_the_network(tmp_path, prefix, beside):
    source, network = theirs(), ours()
    state = {f"{prefix}{key}": value for key, value in source.state_dict().items()}
    info = load_pretrained(
        network,
        SMALL,
        spec(),
        written({"state_dict": {**state, **beside}, "epoch": 3}, tmp_path / "w.ckpt"),
    )
    assert same_features(network, source)
    wrapper = prefix.startswith("module.") and not beside
    assert info.get("prefix", "") == ("" if wrapper else prefix)
    assert info.get("left_out", 0) == len(beside)


def test_the_model_is_guessed_behind_a_prefix(tmp_path):
    state = {f"model.{key}": value for key, value in theirs("squeezenet1_1").state_dict().items()}
    assert model_of_weights(written(state, tmp_path / "last.ckpt")) == "squeezenet1_1"


def test_of_two_networks_in_one_file_none_is_taken_by_chance(tmp_path):
    one, other = theirs().state_dict(), ours(classes=1000).state_dict()
    state = {
        **{f"query.{k}": v for k, v in one.items()},
        **{f"key.{k}": v for k, v in other.items()},
    }
    with pytest.raises(UserError, match="several networks of this kind: query, key"):
        load_pretrained(ours(), SMALL, spec(), written(state, tmp_path / "w.pth"))
    with pytest.raises(UserError, match="several state dicts: left, right"):
        load_pretrained(
            ours(), SMALL, spec(), written({"left": one, "right": other}, tmp_path / "w.pth")
        )


def _timm(last: dict, mean: dict) -> dict:
    return {
        "state_dict": last,
        "state_dict_ema": {f"module.{k}": v for k, v in mean.items()},
        "arch": SMALL,
    }


def _torchvision_references(last: dict, mean: dict) -> dict:
    averaged = {"n_averaged": torch.tensor(7), **{f"module.{k}": v for k, v in mean.items()}}
    return {
        "model": last,
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}},
        "model_ema": averaged,
    }


def _parameters_alone(last: dict, mean: dict) -> dict:
    return {"model": last, "ema": {k: v for k, v in mean.items() if k.endswith(("weight", "bias"))}}


def _ema_pytorch(last: dict, mean: dict) -> dict:
    online = {f"online_model.{k}": v for k, v in last.items()}
    return {"initted": torch.tensor(1), **online, **{f"ema_model.{k}": v for k, v in mean.items()}}


@pytest.mark.parametrize("keep", [_timm, _torchvision_references, _parameters_alone, _ema_pytorch])
def test_averaged_weights_are_taken_and_told(tmp_path, keep):
    source = theirs()
    mean, last = source.state_dict(), dict(source.state_dict())
    for key in last:
        if key.endswith(("weight", "bias")):
            last[key] = last[key] * float("nan")
    network = ours()
    info = load_pretrained(
        network, SMALL, spec(), written(keep(last, mean), tmp_path / "best.pth.tar")
    )
    assert same_features(network, source)
    assert "ema" in info.get("averaged", "") + info.get("prefix", "")


def test_averages_without_names_are_told_and_left(tmp_path):
    source, network = theirs(), ours()
    content = {
        "model": source.state_dict(),
        "ema": {"decay": 0.99, "shadow_params": [torch.ones(3)]},
    }
    info = load_pretrained(network, SMALL, spec(), written(content, tmp_path / "w.pth"))
    assert same_features(network, source)
    assert "ema holds averaged weights without names" in info["remark"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_tensor_may_have_another_precision_even_counters(tmp_path, dtype):
    source, network = theirs(), ours()
    source.conv1[1].num_batches_tracked.fill_(100_000)  # infinite in float16
    before = network.conv1[1].num_batches_tracked.clone()
    info = load_pretrained(
        network,
        SMALL,
        spec(),
        written({k: v.to(dtype) for k, v in source.state_dict().items()}, tmp_path / "w.pth"),
    )
    assert info["head"] == "new"
    expected = ours().state_dict()
    for key, value in network.state_dict().items():
        assert value.dtype == expected[key].dtype
    assert torch.equal(network.conv1[0].weight, source.conv1[0].weight.to(dtype).float())
    assert int(network.conv1[1].num_batches_tracked) == (
        before if dtype is torch.float16 else 99_840 if dtype is torch.bfloat16 else 100_000
    )


def test_quantised_weights_are_refused_with_their_type(tmp_path):
    state = {key: value.to(torch.int8) for key, value in theirs().state_dict().items()}
    with pytest.raises(UserError, match=r"conv1\.0\.weight 24x3x3x3 int8 instead of 24x3x3x3"):
        load_pretrained(ours(), SMALL, spec(), written(state, tmp_path / "w.pth"))


def test_settings_beside_the_weights_do_no_harm(tmp_path):
    source, network = theirs(), ours()
    content = {
        "state_dict": source.state_dict(),
        "args": Namespace(lr=0.1, data=Path("there")),
        "epoch": 3,
    }
    load_pretrained(network, SMALL, spec(), written(content, tmp_path / "w.pth"))
    assert same_features(network, source)


# ---- what does not fit ------------------------------------------------------------------------------------------------


def test_weights_of_another_model_are_refused_with_names_counts_and_that_model(tmp_path):
    path = as_safetensors(theirs("shufflenet_v2_x1_0"), tmp_path / "w.safetensors")
    with pytest.raises(UserError) as error:
        load_pretrained(ours(), SMALL, spec(), str(path))
    message = str(error.value)
    assert f"the weights in {path} do not fit model {SMALL}:" in message
    assert "of another shape (" in message
    assert " more)" in message
    assert "58 instead of 24" in message
    assert message.endswith("They fit shufflenet_v2_x1_0: model='shufflenet_v2_x1_0'")
    assert "\n" not in message


@pytest.mark.parametrize("name", ["squeezenet1_1", "mnasnet0_5", "mobilenet_v3_small"])
@pytest.mark.parametrize("classes", [1000, 7])
def test_the_model_is_guessed_by_its_parameters_whatever_the_head(tmp_path, name, classes):
    path = as_safetensors(theirs(name, num_classes=classes), tmp_path / "best.safetensors")
    assert model_of_weights(path) == name
    with pytest.raises(
        UserError,
        match=rf"\d+ missing \(conv1.*\d+ unexpected \(.* They fit {name}: model='{name}'",
    ):
        load_pretrained(ours(), SMALL, spec(), str(path))


def test_missing_tensors_are_named(tmp_path):
    state = theirs().state_dict()
    for key in ("conv1.0.weight", "conv5.1.bias"):
        del state[key]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(
        UserError,
        match=r"2 missing \(conv1\.0\.weight, conv5\.1\.bias\)\. Give the weights of that model",
    ):
        load_pretrained(ours(), SMALL, spec(), str(tmp_path / "w.pth"))


def test_a_refused_file_leaves_the_network_as_it_is(tmp_path):
    network, fresh = ours(), ours()
    path = as_pth(theirs("shufflenet_v2_x1_0"), tmp_path / "w.pth")
    with pytest.raises(UserError):
        load_pretrained(network, SMALL, spec(), str(path))
    assert all(
        torch.equal(network.state_dict()[key], value) for key, value in fresh.state_dict().items()
    )


def test_weights_that_are_not_finite_are_refused(tmp_path):
    source = theirs()
    source.conv1[0].weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(UserError, match=r"not finite: 1 tensors \(conv1\.0\.weight\)"):
        load_pretrained(ours(), SMALL, spec(), str(as_pth(source, tmp_path / "w.pth")))


class Hostile:
    def __reduce__(self):
        return os.mkdir, (os.environ["TINTYPE_HOSTILE"],)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_needs_code_is_refused_and_runs_none(tmp_path, monkeypatch, zipped):
    monkeypatch.setenv("TINTYPE_HOSTILE", str(tmp_path / "made by the file"))
    for thing in (Hostile(), nn.Linear(2, 2), {"state_dict": {"fc.weight": Hostile()}}):
        torch.save(thing, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
        with pytest.raises(
            UserError, match=r"w\.pth can only be read by running code .*, which tintype never does"
        ) as error:
            load_pretrained(ours(), SMALL, spec(), str(tmp_path / "w.pth"))
        assert "\n" not in str(error.value)
    assert not (tmp_path / "made by the file").exists()


@pytest.mark.parametrize("write", [as_safetensors, as_pth, as_old_pth])
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.9999])
def test_a_truncated_file_is_told(tmp_path, write, kept):
    path = write(theirs(), tmp_path / "w")
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(
        UserError, match=r"w is damaged, not complete, or not weights \(.*Get it again"
    ) as error:
        load_pretrained(ours(), SMALL, spec(), str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:1234\n",
            "a link or a web page, not weights",
        ),
        (b"<!doctype html><html>", "a link or a web page, not weights"),
        (b"weights\n" * 100, "is text. Expected a state dict"),
        (b"\xfe\x01weights" * 100, "is damaged, not complete, or not weights"),
        (b"PK\x03\x04" + bytes(100), "is damaged, not complete, or not weights"),
        (b"\x80\x02" + bytes(100), "is damaged, not complete, or not weights"),
    ],
)
def test_a_file_of_another_kind_is_told(tmp_path, content, message):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_pretrained(ours(), SMALL, spec(), str(tmp_path / "w.pth"))


def _torchscript(path: Path) -> None:
    with warnings.catch_warnings():  # torch deprecates what people have many files of
        warnings.simplefilter("ignore")
        torch.jit.trace(nn.Conv2d(3, 3, 3), torch.rand(1, 3, 8, 8)).save(str(path))


def _exported(path: Path) -> None:
    torch.export.save(torch.export.export(nn.Conv2d(3, 3, 3), (torch.rand(1, 3, 8, 8),)), path)


def _onnx(path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    graph = onnx.helper.make_graph([], "empty", [], [])
    onnx.save(onnx.helper.make_model(graph), path)


def _keras(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", b"")


def _arrays(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=np.zeros(3))


def _plain_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"conv1.weight": [1.0, 2.0]}))


def _starting_with(start: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(start + bytes(300))


@pytest.mark.parametrize("ending", ["pt", "pth", "safetensors", "bin"])
@pytest.mark.parametrize(
    ("write", "kind"),
    [
        (_torchscript, "is a TorchScript archive"),
        (_exported, r"is a program of torch\.export"),
        (_onnx, "is an ONNX graph"),
        (_keras, "is a Keras file"),
        (_arrays, "is an archive of NumPy arrays"),
        (_plain_pickle, r"is a pickle that torch\.save did not write"),
        (_starting_with(b"\x89HDF\r\n\x1a\n"), "is an HDF5 file, as Keras"),
        (_starting_with(b"GGUF\x03"), "is a GGUF file"),
        (_starting_with(b"\x1c\0\0\0TFL3"), "is a TensorFlow Lite model"),
        (_starting_with(b"\x1f\x8b\x08"), "is packed by gzip; unpack it first"),
        (_starting_with(b"\x81\xa6params\x82"), "is a MessagePack file, as Flax"),
        (
            lambda path: path.write_bytes(bytes(300) + bytes.fromhex("57fb808b247547db")),
            "of a TensorFlow checkpoint",
        ),
        (lambda path: path.write_text('{"weight_map": {}}', encoding="utf-8"), r"is text \(JSON\)"),
        (lambda path: path.write_text("step,loss\n1,0.5\n", encoding="utf-8"), "is text"),
    ],
)
def test_another_kind_of_file_is_named_whatever_it_is_called(tmp_path, write, kind, ending):
    path = tmp_path / f"w.{ending}"
    write(path)
    with pytest.raises(UserError, match=kind) as error:
        load_pretrained(ours(), SMALL, spec(), str(path))
    assert "Expected a state dict" in str(error.value)
    assert "Get it again" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_without_tensors_is_told(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="holds no weights: expected a state dict"):
        load_pretrained(ours(), SMALL, spec(), str(tmp_path / "w.pth"))


def test_weights_that_are_not_there_are_told(tmp_path):
    with pytest.raises(
        UserError, match=rf"no weight file '{tmp_path}/no\.pth'.*default, IMAGENET1K_V1"
    ):
        load_pretrained(ours(), SMALL, spec(), f"{tmp_path}/no.pth")
    with pytest.raises(
        UserError, match=r"no pretrained weights 'default' for model cnn.*weights='none'"
    ):
        load_pretrained(build_model("cnn", spec(), {}, seed=0), "cnn", spec(), "default")


def test_our_own_models_take_files_too(tmp_path):
    source, network = (
        build_model("resnet", spec(7), {}, seed=1),
        build_model("resnet", spec(), {}, seed=0),
    )
    assert (
        load_pretrained(network, "resnet", spec(), str(as_pth(source, tmp_path / "w.pth")))["head"]
        == "new"
    )
    assert same_features(network, source)


# ---- downloads --------------------------------------------------------------------------------------------------------


class Server:
    """A web server on this machine: `files` are served; a tuple is (bytes sent, length promised)."""

    def __init__(self) -> None:
        self.files: dict[str, bytes | tuple[bytes, int]] = {}
        self.asked: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.rsplit("/", 1)[-1]
                server.asked.append(name)
                if name not in server.files:
                    self.send_error(404, "Not there")
                    return
                found = server.files[name]
                content, length = found if isinstance(found, tuple) else (found, len(found))
                self.send_response(200)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        if not self.thread.is_alive():
            return
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    started = Server()
    yield started
    started.close()


@pytest.fixture
def served(server, tmp_path, monkeypatch) -> Callable[..., tuple[str, bytes]]:
    """Return a function that makes the default weights of a model come from the server, under a
    name with their hash.
    """

    def serve(
        network: nn.Module, sent: float = 1.0, hash_of: bytes | None = None
    ) -> tuple[str, bytes]:
        content = as_pth(network, tmp_path / "origin.pth").read_bytes()
        name = f"{SMALL}-{hashlib.sha256(hash_of or content).hexdigest()[:8]}.pth"
        server.files[name] = (content[: int(sent * len(content))], len(content))
        entry = SimpleNamespace(url=f"{server.url}/models/{name}", meta={"recipe": "there"})
        monkeypatch.setattr(pretrained, "_entries", lambda _: {"default": entry})
        return name, content

    return serve


def test_default_weights_are_downloaded_once_with_progress(tmp_path, server, served):
    source, network = theirs(), ours()
    name, content = served(source)
    assert not weights_available(SMALL)
    calls: list[tuple[str, int, int]] = []
    info = load_pretrained(network, SMALL, spec(), "default", lambda *call: calls.append(call))
    assert same_features(network, source)
    assert info["url"] == f"{server.url}/models/{name}"
    assert info["training"] == "there"
    assert info["sha256"].startswith(name.split("-")[1].removesuffix(".pth"))
    assert {call[0] for call in calls} == {f"downloading {SMALL}"}
    assert [call[1] for call in calls] == sorted(call[1] for call in calls)
    assert calls[-1][1:] == (len(content), len(content))
    assert [path.name for path in (tmp_path / "cache" / "weights").iterdir()] == [name]
    assert weights_available(SMALL)
    load_pretrained(ours(), SMALL, spec(), "default")
    assert fetch_weights(SMALL) == tmp_path / "cache" / "weights" / name
    assert server.asked == [name]


def test_what_torch_has_downloaded_is_used(tmp_path, server, served):
    name, content = served(theirs())
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(content)
    assert weights_available(SMALL)
    load_pretrained(ours(), SMALL, spec(), "default")
    assert server.asked == []


def test_a_mirror_is_asked_in_place_of_torchvisions_server(server, monkeypatch):
    monkeypatch.setenv("TINTYPE_WEIGHTS_MIRROR", f"{server.url}/copies/")
    with pytest.raises(
        UserError, match=rf"from {server.url}/copies/{SMALL[:-5].replace('_v2', 'v2')}\S+\.pth \("
    ):
        load_pretrained(ours(), SMALL, spec(), "default")
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"sent": 0.5}, "the connection broke after|IncompleteRead"),
        ({"hash_of": b"other"}, "it is not the file expected: its SHA-256 differs"),
    ],
)
def test_a_broken_download_is_told_and_leaves_nothing(tmp_path, served, broken, reason):
    served(theirs(), **broken)
    with pytest.raises(
        UserError,
        match=rf"could not be downloaded from http\S+ \(({reason}).*weights='FILE', .*weights='none'",
    ):
        load_pretrained(ours(), SMALL, spec(), "default")
    assert list((tmp_path / "cache" / "weights").iterdir()) == []
    assert not weights_available(SMALL)


@pytest.mark.parametrize("gone", ["file", "server"])
def test_offline_is_one_clear_line(server, served, gone):
    served(theirs())
    server.files.clear()
    port = urlsplit(server.url).port
    if gone == "server":
        server.close()  # from now on the connection is refused
    with pytest.raises(UserError) as error:
        load_pretrained(ours(), SMALL, spec(), "default")
    message = str(error.value)
    assert message.startswith(
        f"the weights of {SMALL} could not be downloaded from {server.url}/models/{SMALL}-"
    )
    assert ("Not there" if gone == "file" else "refused") in message
    assert (
        "Download that file elsewhere and give weights='FILE', or start without: weights='none'"
        in message
    )
    assert "\n" not in message
    assert not [
        line for line in Process().net_connections() if line.raddr and line.raddr.port == port
    ], "left open"


@pytest.fixture
def no_network(monkeypatch):
    """No weights are at hand, and the server refuses the connection."""
    monkeypatch.setenv("TINTYPE_WEIGHTS_MIRROR", "http://127.0.0.1:9")


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("train DATA --model mobilenet_v2", ""),
        ("train DATA --model mobilenet_v2 --tune head", "tune: all"),
        ("train garbage-tuned --data DATA", ""),
        ("train garbage-frozen --data DATA", "tune: all"),
        ("train pets-x2 --data LARGE --set task.patch=64", "loss: mse"),
        ("study garbage-two-by-two --data DATA", ""),
    ],
)
def test_where_weights_none_is_advised_it_works_as_typed(
    tt, digit_files, large_photos, command, said
):
    places = {"DATA": digit_files, "LARGE": large_photos}
    typed = [*(places.get(word, word) for word in command.split()), "--steps", 1, "--dry-run"]
    typed += [] if "pets" in command else ["--set", "image_size=32"]
    code, _, errors = tt(*typed)
    assert (code, "could not be downloaded" in errors) == (2, True)
    assert "--weights none" in errors

    code, output, errors = tt(*typed, "--weights", "none")
    assert code == 0, errors
    assert said in errors + output


@pytest.fixture(scope="module")
def large_photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    pixels = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), np.uint8)
    for number, photo in enumerate(pixels):
        Image.fromarray(photo).save(folder / f"{number}.png")
    return folder


def test_a_tuning_and_a_study_with_a_perceptual_loss_take_weights_none(tt, tmp_path, monkeypatch):
    given = {}

    def told(what: str, **changes: Any) -> None:
        given.update(changes)
        raise UserError("enough")

    monkeypatch.setattr(tuning, "tune", told)
    tt("tune", "digits", "--weights", "none")
    assert given["weights"] == "none"

    fields = {
        "task": "upscale",
        "data": "photos",
        "task_options": {"colour": "rgb", "loss": "perceptual"},
    }
    (tmp_path / "s.yaml").write_text(
        yaml.safe_dump({**fields, "vary": {"lr": [0.1, 0.2]}}), encoding="utf-8"
    )
    runs = declare(str(tmp_path / "s.yaml")).replace(weights="none").runs()
    assert {run.recipe.weights for run in runs} == {"none"}


@pytest.mark.usefixtures("no_network")
def test_only_a_perceptual_loss_needs_weights(tt):
    code, _, errors = tt(
        "train",
        "pets-x2",
        "--data",
        "photos",
        "--set",
        "task.loss=perceptual",
        "--weights",
        "none",
        "--dry-run",
    )
    assert code == 2
    assert "no other loss. Add one, as in --set task.loss=mse." in errors


@pytest.mark.usefixtures("no_network")
def test_offline_lpips_advises_what_lpips_takes():
    pytest.importorskip("lpips")
    with pytest.raises(
        UserError, match="name that file in place of alexnet, or measure without LPIPS"
    ) as error:
        PerceptualDistance("alexnet", torch.device("cpu"))
    assert "weights=" not in str(error.value)


# ---- names and preprocessing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("mobilenet_v2.safetensors", "mobilenet_v2"),
        ("resnet18-f37072fd.pth", "resnet18"),
        ("wide_resnet50_2-9ba9bcbe.pth", "wide_resnet50_2"),
        ("shufflenetv2_x0.5-f707e7126e.pth", "shufflenet_v2_x0_5"),
        ("mnasnet1.0_top1_73.512-f206786ef8.pth", "mnasnet1_0"),
        ("efficientnet_b0_rwightman-7f5810bc.pth", "efficientnet_b0"),
        ("my MobileNet-v3-large, best.pt", "mobilenet_v3_large"),
        ("regnet_x_1_6gf.safetensors", "regnet_x_1_6gf"),
        ("resnet50d.safetensors", None),
        ("best.pth", None),
    ],
)
def test_a_model_is_told_by_the_name_of_its_file(tmp_path, file, name):
    assert model_of_weights(tmp_path / file) == name


def test_every_file_of_torchvision_is_recognised():
    for name in NAMES:
        for entry in torchvision.models.get_model_weights(name):
            assert model_of_weights(entry.url.rsplit("/", 1)[-1]) == name


def test_backbones_are_known_and_our_own_models_have_no_preprocessing():
    assert is_backbone("resnet18")
    assert is_backbone("timm/any")
    assert not is_backbone("fast-cnn")
    assert own_preprocessing("cnn") is None
    assert not weights_available("cnn")


def pictures() -> list[Image.Image]:
    from sklearn.datasets import load_sample_images

    found = [Image.fromarray(array) for array in load_sample_images().images]
    return [found[0], found[1].rotate(90, expand=True).resize((333, 500))]


@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_b0", "inception_v3", "swin_v2_t"])
def test_own_preprocessing_gives_what_torchvisions_gives(name):
    own = own_preprocessing(name)
    assert own is not None
    transforms = torchvision.models.get_model_weights(name)["DEFAULT"].transforms()
    side, mean, std = (
        own.image_size,
        torch.tensor(own.mean).view(3, 1, 1),
        torch.tensor(own.std).view(3, 1, 1),
    )
    for picture in pictures():
        pixels = fit(picture, height=side, width=side, channels=3, resize=own.resize)
        expected = transforms(picture) * std + mean
        found = torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255
        assert found.shape == expected.shape
        differences = (found - expected).abs()
        assert float(differences.mean()) < 0.25 / 255
        assert float(differences.max()) < 6 / 255  # two passes, each rounded; bicubic overshoots


def test_preprocessing_of_weights_follows_their_name():
    assert own_preprocessing("mobilenet_v2").crop_fraction == 224 / 232
    assert own_preprocessing("mobilenet_v2", "IMAGENET1K_V1").crop_fraction == 224 / 256
    assert (
        own_preprocessing("mobilenet_v2", "/any/mobilenet_v2-b0353104.pth").crop_fraction
        == 224 / 256
    )
    assert own_preprocessing("mobilenet_v2", "/any/best.pth").crop_fraction == 224 / 232
    assert own_preprocessing("efficientnet_b0").interpolation == "bicubic"


def test_normalising_gives_the_spec_the_means_of_the_weights():
    own = own_preprocessing("resnet18")
    assert own.normalising(spec()).mean == (0.485, 0.456, 0.406)
    grey = own.normalising(spec(channels=1))
    assert grey.mean == pytest.approx([0.449])
    assert grey.std == pytest.approx([0.226])


# ---- timm -------------------------------------------------------------------------------------------------------------


def test_weights_of_timm(monkeypatch, tmp_path):
    timm = pytest.importorskip("timm")
    create, asked = timm.create_model, []

    def offline(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
        asked.append(pretrained)
        return create(name, pretrained=False, **options)

    network = build_model("timm/resnet10t", spec(), {}, seed=0)
    monkeypatch.setattr(pretrained, "weights_available", lambda _: True)
    monkeypatch.setattr(timm, "create_model", offline)
    head = network.fc.weight.clone()
    first = network.conv1[0].weight.clone()
    info = load_pretrained(network, "timm/resnet10t", spec(), "default")
    assert asked == [True]
    assert info["source"].startswith("timm resnet10t.")
    assert torch.equal(network.fc.weight, head)
    assert not torch.equal(network.conv1[0].weight, first)
    path = as_pth(create("resnet10t"), tmp_path / "w.pth")
    assert load_pretrained(network, "timm/resnet10t", spec(), str(path))["head"] == "new"
    own = own_preprocessing("timm/resnet10t")
    assert own is not None
    assert (own.image_size, own.crop_fraction) == (176, 0.875)

    def refuse(*_: Any, **__: Any) -> nn.Module:
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(
        UserError,
        match=r"timm/resnet10t could not be loaded from \S+ \(no network\).*weights='FILE'",
    ):
        load_pretrained(network, "timm/resnet10t", spec(), "default")
