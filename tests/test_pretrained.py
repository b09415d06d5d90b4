"""Pretrained weights: read without running code, checked against the network, downloaded once; and own preprocessing."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from tintype import pretrained
from tintype.data.decode import fit
from tintype.data.source import DataSpec
from tintype.errors import UserError
from tintype.models import build_model
from tintype.models.backbone import backbone_parts
from tintype.models.torchvision_zoo import NAMES
from tintype.pretrained import (
    fetch_weights,
    is_backbone,
    load_pretrained,
    model_of_weights,
    own_preprocessing,
    weights_available,
)

SMALL = "shufflenet_v2_x0_5"  # 1.4 million parameters


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("TINTYPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("TINTYPE_WEIGHTS_MIRROR", raising=False)


def spec(classes: int = 4, side: int = 32, channels: int = 3) -> DataSpec:
    names = tuple(f"class {k}" for k in range(classes))
    return DataSpec("made", channels, side, side, names, (0.5,) * channels, (0.25,) * channels, "")


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
        a, b = (backbone_parts(network.eval()).features(x) for network in (one, other))
    return torch.allclose(a, b, rtol=1e-3, atol=tolerance * float(b.abs().max()))


# ---- files ------------------------------------------------------------------------------------------------------------


def as_safetensors(network: nn.Module, path: Path) -> Path:
    save_file(network.state_dict(), path, {"licence": "BSD", "source": "a test", "format": "pt"})
    return path


def as_half_safetensors(network: nn.Module, path: Path) -> Path:
    halved = {k: v.half() if v.ndim > 1 else v for k, v in network.state_dict().items() if "num_batches" not in k}
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


@pytest.mark.parametrize("write", [as_safetensors, as_half_safetensors, as_pth, as_old_pth, as_checkpoint])
def test_a_file_is_loaded_and_its_head_dropped(tmp_path, write):
    source, network = theirs(), ours()
    path = write(source, tmp_path / "any name.weights")
    head = {key: value.clone() for key, value in network.state_dict().items() if key.startswith("fc.")}
    info = load_pretrained(network, SMALL, str(path))
    assert same_features(network, source, 1e-2 if write is as_half_safetensors else 1e-5)
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert all(torch.equal(network.state_dict()[key], value) for key, value in head.items())
    assert info["file"] == path.name
    assert info["head"] == "new"
    assert info["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert info.get("licence") == ("BSD" if write is as_safetensors else None)


def test_a_head_for_as_many_classes_is_loaded(tmp_path):
    source, network = theirs(), ours(classes=1000)
    info = load_pretrained(network, SMALL, str(as_safetensors(source, tmp_path / "w.safetensors")))
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert info["head"] == "loaded"
    assert torch.equal(network.eval()(x), source.eval()(x))


def test_the_folder_of_a_run_is_as_good_as_its_file(tmp_path):
    as_safetensors(theirs(num_classes=7), tmp_path / "model.safetensors")
    network = ours(classes=7)
    assert load_pretrained(network, SMALL, str(tmp_path))["head"] == "loaded"


def test_none_leaves_the_network_as_it_is():
    network, fresh = ours(), ours()
    assert load_pretrained(network, SMALL, "none") == {"source": "none"}
    assert all(torch.equal(network.state_dict()[key], value) for key, value in fresh.state_dict().items())


def test_old_names_of_densenet_are_understood(tmp_path):
    source, network = (torchvision.models.DenseNet(4, (2, 2), 8, num_classes=4) for _ in range(2))
    state = {
        re.sub(r"(denselayer\d\.(?:norm|conv))(\d\.)", r"\1.\2", key): value
        for key, value in source.state_dict().items()
        if "num_batches" not in key
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in state
    torch.save(state, tmp_path / "old.pth")
    load_pretrained(network, "densenet121", str(tmp_path / "old.pth"))
    assert same_features(network, source)


def test_auxiliary_heads_are_left_out(tmp_path):
    source = theirs("googlenet", aux_logits=True, init_weights=False, transform_input=True)
    path = as_pth(source, tmp_path / "googlenet.pth")
    network = ours("googlenet")
    load_pretrained(network, "googlenet", str(path))
    assert same_features(network, source)


def test_the_backbone_of_squeezenet_is_loaded(tmp_path):
    source, network = theirs("squeezenet1_1"), ours("squeezenet1_1")
    assert load_pretrained(network, "squeezenet1_1", str(as_pth(source, tmp_path / "w.pth")))["head"] == "new"
    assert torch.equal(network.features[0].weight, source.features[0].weight)


def test_position_embeddings_are_brought_to_the_image_size(tmp_path):
    small = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=4)
    large = torchvision.models.VisionTransformer(64, 8, 2, 2, 16, 32, num_classes=4)
    nn.init.normal_(small.encoder.pos_embedding)
    load_pretrained(large, "vit_b_16", str(as_pth(small, tmp_path / "w.pth")))
    found, before = large.encoder.pos_embedding, small.encoder.pos_embedding
    assert found.shape == (1, 65, 16)
    assert torch.equal(found[0, 0], before[0, 0]), "the class token keeps its own"
    for corner, there in ((1, 1), (8, 4), (57, 13), (64, 16)):
        torch.testing.assert_close(found[0, corner], before[0, there])


# ---- what does not fit ------------------------------------------------------------------------------------------------


def test_weights_of_another_model_are_refused_with_names_counts_and_that_model(tmp_path):
    path = as_safetensors(theirs("shufflenet_v2_x1_0"), tmp_path / "w.safetensors")
    with pytest.raises(UserError) as error:
        load_pretrained(ours(), SMALL, str(path))
    message = str(error.value)
    assert f"the weights in {path} do not fit model {SMALL}:" in message
    assert "of another shape (" in message
    assert " more)" in message
    assert "58 instead of 24" in message
    assert message.endswith("They fit shufflenet_v2_x1_0: --model shufflenet_v2_x1_0")
    assert "\n" not in message


@pytest.mark.parametrize("name", ["squeezenet1_1", "mnasnet0_5", "mobilenet_v3_small"])
@pytest.mark.parametrize("classes", [1000, 7])
def test_the_model_is_guessed_by_its_parameters_whatever_the_head(tmp_path, name, classes):
    path = as_safetensors(theirs(name, num_classes=classes), tmp_path / "best.safetensors")
    assert model_of_weights(path) == name
    with pytest.raises(UserError, match=rf"\d+ missing \(conv1.*\d+ unexpected \(.* They fit {name}: --model {name}"):
        load_pretrained(ours(), SMALL, str(path))


def test_missing_tensors_are_named(tmp_path):
    state = theirs().state_dict()
    for key in ("conv1.0.weight", "conv5.1.bias"):
        del state[key]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(
        UserError, match=r"2 missing \(conv1\.0\.weight, conv5\.1\.bias\)\. Give the weights of that model"
    ):
        load_pretrained(ours(), SMALL, str(tmp_path / "w.pth"))


def test_a_refused_file_leaves_the_network_as_it_is(tmp_path):
    network, fresh = ours(), ours()
    path = as_pth(theirs("shufflenet_v2_x1_0"), tmp_path / "w.pth")
    with pytest.raises(UserError):
        load_pretrained(network, SMALL, str(path))
    assert all(torch.equal(network.state_dict()[key], value) for key, value in fresh.state_dict().items())


def test_weights_that_are_not_finite_are_refused(tmp_path):
    source = theirs()
    source.conv1[0].weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(UserError, match=r"not finite: 1 tensors \(conv1\.0\.weight\)"):
        load_pretrained(ours(), SMALL, str(as_pth(source, tmp_path / "w.pth")))


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
            load_pretrained(ours(), SMALL, str(tmp_path / "w.pth"))
        assert "\n" not in str(error.value)
    assert not (tmp_path / "made by the file").exists()


@pytest.mark.parametrize("write", [as_safetensors, as_pth, as_old_pth])
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.9999])
def test_a_truncated_file_is_told(tmp_path, write, kept):
    path = write(theirs(), tmp_path / "w")
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(UserError, match=r"w is damaged, not complete, or not weights \(.*Get it again") as error:
        load_pretrained(ours(), SMALL, str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1234\n", "a link or a web page, not weights"),
        (b"<!doctype html><html>", "a link or a web page, not weights"),
        (b"weights\n" * 100, "is damaged, not complete, or not weights"),
        (b"PK\x03\x04" + bytes(100), "is damaged, not complete, or not weights"),
        (b"\x80\x02" + bytes(100), "is damaged, not complete, or not weights"),
    ],
)
def test_a_file_of_another_kind_is_told(tmp_path, content, message):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_pretrained(ours(), SMALL, str(tmp_path / "w.pth"))


def test_a_file_without_tensors_is_told(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="holds no weights: expected a state dict"):
        load_pretrained(ours(), SMALL, str(tmp_path / "w.pth"))


def test_weights_that_are_not_there_are_told(tmp_path):
    with pytest.raises(UserError, match=rf"no weight file '{tmp_path}/no\.pth'.*default, IMAGENET1K_V1"):
        load_pretrained(ours(), SMALL, f"{tmp_path}/no.pth")
    with pytest.raises(UserError, match=r"no pretrained weights 'default' for model cnn.*--weights none"):
        load_pretrained(build_model("cnn", spec(), {}, seed=0), "cnn", "default")


def test_our_own_models_take_files_too(tmp_path):
    source, network = build_model("resnet", spec(7), {}, seed=1), build_model("resnet", spec(), {}, seed=0)
    assert load_pretrained(network, "resnet", str(as_pth(source, tmp_path / "w.pth")))["head"] == "new"
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
    """Return a function that makes the default weights of a model come from the server, under a name with their hash."""

    def serve(network: nn.Module, sent: float = 1.0, hash_of: bytes | None = None) -> tuple[str, bytes]:
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
    info = load_pretrained(network, SMALL, "default", lambda *call: calls.append(call))
    assert same_features(network, source)
    assert info["url"] == f"{server.url}/models/{name}"
    assert info["training"] == "there"
    assert info["sha256"].startswith(name.split("-")[1].removesuffix(".pth"))
    assert {call[0] for call in calls} == {f"downloading {SMALL}"}
    assert [call[1] for call in calls] == sorted(call[1] for call in calls)
    assert calls[-1][1:] == (len(content), len(content))
    assert [path.name for path in (tmp_path / "cache" / "weights").iterdir()] == [name]
    assert weights_available(SMALL)
    load_pretrained(ours(), SMALL, "default")
    assert fetch_weights(SMALL) == tmp_path / "cache" / "weights" / name
    assert server.asked == [name]


def test_what_torch_has_downloaded_is_used(tmp_path, server, served):
    name, content = served(theirs())
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(content)
    assert weights_available(SMALL)
    load_pretrained(ours(), SMALL, "default")
    assert server.asked == []


def test_a_mirror_is_asked_in_place_of_torchvisions_server(server, monkeypatch):
    monkeypatch.setenv("TINTYPE_WEIGHTS_MIRROR", f"{server.url}/copies/")
    with pytest.raises(UserError, match=rf"from {server.url}/copies/{SMALL[:-5].replace('_v2', 'v2')}\S+\.pth \("):
        load_pretrained(ours(), SMALL, "default")
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
        UserError, match=rf"could not be downloaded from http\S+ \(({reason}).*--weights FILE, .*--weights none"
    ):
        load_pretrained(ours(), SMALL, "default")
    assert list((tmp_path / "cache" / "weights").iterdir()) == []
    assert not weights_available(SMALL)


@pytest.mark.parametrize("gone", ["file", "server"])
def test_offline_is_one_clear_line(server, served, gone):
    served(theirs())
    server.files.clear()
    if gone == "server":
        server.close()  # from now on the connection is refused
    with pytest.raises(UserError) as error:
        load_pretrained(ours(), SMALL, "default")
    message = str(error.value)
    assert message.startswith(f"the weights of {SMALL} could not be downloaded from {server.url}/models/{SMALL}-")
    assert ("Not there" if gone == "file" else "refused") in message
    assert "Download that file elsewhere and give --weights FILE, or start without: --weights none" in message
    assert "\n" not in message


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
    side, mean, std = own.image_size, torch.tensor(own.mean).view(3, 1, 1), torch.tensor(own.std).view(3, 1, 1)
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
    assert own_preprocessing("mobilenet_v2", "/any/mobilenet_v2-b0353104.pth").crop_fraction == 224 / 256
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
    info = load_pretrained(network, "timm/resnet10t", "default")
    assert asked == [True]
    assert info["source"].startswith("timm resnet10t.")
    assert torch.equal(network.fc.weight, head)
    assert not torch.equal(network.conv1[0].weight, first)
    path = as_pth(create("resnet10t"), tmp_path / "w.pth")
    assert load_pretrained(network, "timm/resnet10t", str(path))["head"] == "new"
    own = own_preprocessing("timm/resnet10t")
    assert own is not None
    assert (own.image_size, own.crop_fraction) == (176, 0.875)

    def refuse(*_: Any, **__: Any) -> nn.Module:
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(UserError, match=r"timm/resnet10t could not be loaded from \S+ \(no network\).*--weights FILE"):
        load_pretrained(network, "timm/resnet10t", "default")
