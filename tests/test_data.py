"""Data sets by name: digits, torchvision's formats, shape, statistics, fingerprint, memory."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import pickle
import re
import tarfile
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torchvision import datasets

from tintype import plugins
from tintype.data import cache, open_data, opening
from tintype.data.sets import torchvision_sets
from tintype.errors import UserError
from tintype.tasks.upscale.sets.pairs import open_pairs

pytestmark = pytest.mark.usefixtures("short_pages")

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TINTYPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TINTYPE_DATA_ROOT", raising=False)


def everything(splits) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """All images (N, H, W, C), targets and names, ordered by name."""
    batches = [splits[s].take(torch.arange(len(splits[s]))) for s in ("train", "val", "test")]
    names = [name for s in ("train", "val", "test") for name in splits[s].names]
    order = np.argsort(names)
    images = torch.cat([batch.images for batch in batches]).permute(0, 2, 3, 1).numpy()
    return (
        images[order],
        torch.cat([batch.targets for batch in batches]).numpy()[order],
        sorted(names),
    )


# --- digits --------------------------------------------------------------------------------------------------------


def test_digits_are_scikit_learns():
    splits = open_data("digits")
    images, targets, _ = everything(splits)
    reference = load_digits()
    assert images.shape == (1797, 8, 8, 1)
    assert (np.rint(images[..., 0] * (16 / 255)) == reference.images).all()
    assert images.max() == 255
    assert (targets == reference.target).all()
    assert [len(splits[s]) for s in ("train", "val", "test")] == [1258, 180, 359]
    assert splits.spec.class_names == tuple("0123456789")
    assert splits.train.kind == "resident"
    assert any(note.startswith("resident, 115 kB of ") for note in splits.notes)


def test_mean_and_deviation_are_of_the_training_split():
    splits = open_data("digits")
    pixels = splits.train.take(torch.arange(len(splits.train))).images.numpy() / 255
    assert splits.spec.mean == pytest.approx([pixels.mean()], rel=1e-12)
    assert splits.spec.std == pytest.approx([pixels.std()], rel=1e-9)


def test_statistics_of_a_large_set_are_sampled_evenly_and_noted(monkeypatch):
    monkeypatch.setattr(opening, "STATISTICS_SAMPLE", 64_000)
    splits = open_data("digits")
    assert "mean and deviation: measured on 1,000 of 1,258 training images" in splits.notes
    assert splits.spec.mean == pytest.approx([0.305], abs=0.005)


def test_a_channel_without_variation_has_a_deviation_above_zero():
    mean, std, _ = opening._statistics(np.full((5, 4, 4, 3), 7, np.uint8), np.arange(5))
    assert mean == pytest.approx([7 / 255] * 3)
    assert std == pytest.approx([1 / 255] * 3)


def test_fingerprint_follows_pixels_labels_and_membership(monkeypatch):
    base = open_data("digits").spec.fingerprint
    assert open_data("digits").spec.fingerprint == base
    assert open_data("digits", split_seed=1).spec.fingerprint != base
    assert open_data("digits", test_fraction=0.21).spec.fingerprint != base
    assert open_data("digits", image_size=9).spec.fingerprint != base
    module = plugins.find("data", "digits")
    load = module.load

    def changed(what):
        def load_changed(name, **how):
            images = load(name, **how)
            if what == "pixel":
                images.pixels[5, 0, 0, 0] ^= 1
            else:
                images.targets[[0, 1]] = images.targets[[1, 0]]
            return images

        return load_changed

    for what in ("pixel", "label"):
        monkeypatch.setattr(module, "load", changed(what))
        assert open_data("digits").spec.fingerprint != base


@pytest.mark.parametrize(
    ("size", "channels", "shape"),
    [(16, None, (16, 16, 1)), ((6, 10), 3, (6, 10, 3)), (None, 3, (8, 8, 3))],
)
def test_arrays_are_fitted_to_the_wished_shape(size, channels, shape):
    splits = open_data("digits", image_size=size, channels=channels)
    images, targets, names = everything(splits)
    assert images.shape == (1797, *shape)
    original, original_targets, original_names = everything(open_data("digits"))
    assert names == original_names
    assert (targets == original_targets).all()
    if channels == 3:
        assert (images[..., 0] == images[..., 2]).all()
    if size is None:
        assert (images == original).all()
    assert (splits.spec.height, splits.spec.width, splits.spec.channels) == shape


def test_memory_decides_between_resident_and_mapped(monkeypatch):
    monkeypatch.setattr(opening, "_free_memory", lambda: 200_000)
    splits = open_data("digits")
    assert splits.train.kind == "mapped"
    assert "mapped from disk, 115 kB is more than half of 200 kB free" in splits.notes
    monkeypatch.setattr(opening, "_free_memory", lambda: 300_000)
    assert open_data("digits").train.kind == "resident"
    assert open_data("digits", memory_limit=100_000).train.kind == "mapped"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"channels": 2}, "expected 1"),
        ({"resize": "corp"}, "Did you mean 'crop'"),
        ({"test_fraction": 1797}, "leave nothing"),
    ],
)
def test_wrong_wishes_are_refused(how, message):
    with pytest.raises(UserError, match=message):
        open_data("digits", **how)


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (9_984, "10.0 kB"),
        (184_320_000, "184 MB"),
        (20_000_000_000, "20 GB"),
        (3e12, "3.0 TB"),
    ],
)
def test_bytes_for_people(num_bytes, text):
    assert cache.format_bytes(num_bytes) == text


# --- torchvision's formats -------------------------------------------------------------------------------------------

rng = np.random.default_rng(0)


def idx(array: np.ndarray) -> bytes:
    return (
        bytes((0, 0, 8, array.ndim))
        + b"".join(n.to_bytes(4, "big") for n in array.shape)
        + array.tobytes()
    )


def plant_idx(raw: Path, prefixes=("train", "t10k"), num_classes: int = 10, packed: bool = False):
    """Write the four files of an MNIST-like set; return what they hold."""
    raw.mkdir(parents=True)
    held = {}
    for split, prefix, count in (
        ("train", prefixes[0], 6 * num_classes),
        ("test", prefixes[1], 2 * num_classes),
    ):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % num_classes).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            path = raw / f"{prefix}-{kind}-ubyte"
            content = idx(array)
            (raw / f"{path.name}.gz").write_bytes(
                gzip.compress(content)
            ) if packed else path.write_bytes(content)
        held[split] = images, labels
    return held


def expect(splits, held, transpose=(0, 1, 2, 3)):
    """Check that the splits hold what was planted: {"train": (images, labels), "test": ...}."""
    images, targets, names = everything(splits)
    for split, (pixels, labels) in held.items():
        rows = [i for i, name in enumerate(names) if name.startswith(f"{split}/")]
        pixels = pixels.reshape(*pixels.shape, 1) if pixels.ndim == 3 else pixels
        assert (images[rows] == pixels.transpose(transpose)).all()
        assert (targets[rows] == labels).all()
    assert len(splits.test) == len(held["test"][1])
    assert {name.split("/")[0] for name in splits.val.names} == {"train"}
    assert len(splits.val)


@pytest.mark.parametrize(
    ("name", "folder"),
    [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST"), ("kmnist", "KMNIST")],
)
@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_are_read_packed_or_not(tmp_path, name, folder, packed):
    held = plant_idx(tmp_path / "root" / folder / "raw", packed=packed)
    before = sorted((tmp_path / "root").rglob("*"))
    for inner in ("", folder, f"{folder}/raw"):
        expect(open_data(name, data_root=str(tmp_path / "root" / inner)), held)
    # nothing is written into the user's folder
    assert sorted((tmp_path / "root").rglob("*")) == before
    assert open_data(name, data_root=str(tmp_path / "root")).spec.class_names[0] in (
        "0",
        "T-shirt/top",
        "o",
    )


def test_idx_files_of_another_set_are_not_taken(tmp_path):
    plant_idx(tmp_path / "FashionMNIST" / "raw")
    for inner in ("", "FashionMNIST", "FashionMNIST/raw"):
        with pytest.raises(UserError, match="mnist is not in"):
            open_data("mnist", data_root=str(tmp_path / inner))


def test_emnist_is_turned_upright(tmp_path):
    held = plant_idx(
        tmp_path / "EMNIST" / "raw", ("emnist-balanced-train", "emnist-balanced-test"), 47
    )
    splits = open_data("emnist", data_root=str(tmp_path))
    expect(splits, held, transpose=(0, 2, 1, 3))
    assert splits.spec.num_classes == 47
    assert splits.spec.class_names[:11] == (*"0123456789", "A")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("which", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_truncated_idx_files_are_told(tmp_path, packed, which):
    plant_idx(tmp_path / "MNIST" / "raw", packed=packed)
    cut(tmp_path / "MNIST" / "raw" / (which + ".gz" * packed))
    with pytest.raises(UserError, match=r"mnist in .* cannot be read"):
        open_data("mnist", data_root=str(tmp_path))


def test_a_missing_idx_file_is_named(tmp_path):
    plant_idx(tmp_path / "MNIST" / "raw")
    os.remove(tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte")
    with pytest.raises(UserError, match=r"not complete: .*t10k-labels-idx1-ubyte"):
        open_data("mnist", data_root=str(tmp_path))


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def plant_cifar(root: Path, monkeypatch, kind) -> dict:
    """Write small files in CIFAR's format and let torchvision expect their checksums."""
    fine = kind is datasets.CIFAR100
    num_classes = 100 if fine else 10
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    held, checksums = {}, {}
    for split, files in (("train", kind.train_list), ("test", kind.test_list)):
        parts = []
        for file, _ in files:
            images = rng.integers(0, 256, (2 * num_classes, 3, 32, 32), dtype=np.uint8)
            labels = list(range(num_classes)) * 2
            entry = {
                "data": images.reshape(len(images), -1),
                "fine_labels" if fine else "labels": labels,
            }
            (folder / file).write_bytes(pickle.dumps(entry))
            checksums[file] = md5(folder / file)
            parts.append((images.transpose(0, 2, 3, 1), np.array(labels)))
        held[split] = tuple(np.concatenate(part) for part in zip(*parts, strict=True))
    names = [f"class{i:02d}" for i in range(num_classes)]
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps({kind.meta["key"]: names}))
    for attribute in ("train_list", "test_list"):
        files = [[file, checksums[file]] for file, _ in getattr(kind, attribute)]
        monkeypatch.setattr(kind, attribute, files)
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(folder / kind.meta["filename"])})
    return held


@pytest.mark.parametrize(
    ("name", "kind"), [("cifar10", datasets.CIFAR10), ("cifar100", datasets.CIFAR100)]
)
def test_cifar_batches_are_read_and_checked(tmp_path, monkeypatch, name, kind):
    held = plant_cifar(tmp_path, monkeypatch, kind)
    for inner in ("", kind.base_folder):
        splits = open_data(name, data_root=str(tmp_path / inner))
        expect(splits, held)
    assert splits.spec.class_names[3] == "class03"
    path = tmp_path / kind.base_folder / kind.test_list[0][0]
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(UserError, match=f"{name} in .* cannot be read: .*corrupted"):
        open_data(name, data_root=str(tmp_path))


def test_cifar_as_folders_of_classes(tmp_path, monkeypatch):
    classes = [f"c{i}" for i in range(10)]
    for split, count in (("train", 4), ("test", 2)):
        for label in classes:
            (tmp_path / "cifar10" / split / label).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "cifar10" / split / label / f"{i}.png")
    for root in (tmp_path, tmp_path / "cifar10"):
        splits = open_data("cifar10", data_root=str(root))
        assert splits.spec.class_names == tuple(classes)
        assert (splits.spec.name, splits.spec.height, splits.spec.channels) == ("cifar10", 32, 3)
        assert [len(splits[s]) for s in ("train", "val", "test")] == [30, 10, 20]
    monkeypatch.setenv("TINTYPE_DATA_ROOT", str(tmp_path))
    assert open_data("cifar10").spec == splits.spec
    assert open_data("cifar10", image_size=16, channels=1).spec.channels == 1
    with pytest.raises(UserError, match="100 class folders"):
        open_data("cifar100", data_root=str(tmp_path / "cifar10"))


def test_svhn_is_read_with_the_right_axes(tmp_path, monkeypatch):
    held, entries = {}, {}
    for split, count in (("train", 40), ("test", 20)):
        images = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        labels = np.arange(count) % 10
        path = tmp_path / f"{split}_32x32.mat"
        # the file calls the digit 0 "10"
        stored = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
        scipy.io.savemat(path, {"X": images.transpose(1, 2, 3, 0), "y": stored})
        held[split] = images, labels
        entries[split] = ["", path.name, md5(path)]
    monkeypatch.setattr(datasets.SVHN, "split_list", entries)
    expect(open_data("svhn", data_root=str(tmp_path)), held)
    cut(tmp_path / "test_32x32.mat")
    with pytest.raises(UserError, match=r"svhn in .* corrupted"):
        open_data("svhn", data_root=str(tmp_path))


def test_stl10_is_read_without_its_unlabelled_images(tmp_path, monkeypatch):
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    held, checksums = {}, {}
    for split, count in (("train", 20), ("test", 10)):
        images = rng.integers(0, 256, (count, 96, 96, 3), dtype=np.uint8)
        labels = np.arange(count) % 10
        # column by column
        (folder / f"{split}_X.bin").write_bytes(images.transpose(0, 3, 2, 1).tobytes())
        (folder / f"{split}_y.bin").write_bytes((labels + 1).astype(np.uint8).tobytes())
        held[split] = images, labels
        checksums |= {f"{split}_{part}.bin": md5(folder / f"{split}_{part}.bin") for part in "Xy"}
    for attribute in ("train_list", "test_list"):
        entries = [
            [file, checksums.get(file, checksum)]
            for file, checksum in getattr(datasets.STL10, attribute)
        ]
        monkeypatch.setattr(datasets.STL10, attribute, entries)
    for inner in ("", "stl10_binary"):
        splits = open_data("stl10", data_root=str(tmp_path / inner))
        expect(splits, held)
    assert splits.spec.class_names[2] == "car"


# --- downloads -------------------------------------------------------------------------------------------------------


class Response(io.BytesIO):
    """What urlopen returns."""

    def __init__(self, content: bytes, url: str) -> None:
        super().__init__(content)
        self.length, self.url = len(content), url


def serve(monkeypatch, files: dict[str, bytes]) -> list[str]:
    """Stand in for the network: files by the last part of their address.

    Returns the addresses asked for.
    """
    asked = []

    def urlopen(request, *_, **__):
        asked.append(request.full_url)
        name = request.full_url.rsplit("/", 1)[1]
        if name not in files:
            raise urllib.error.URLError("Name or service not known")
        return Response(files[name], request.full_url)

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    return asked


def served_mnist(tmp_path, monkeypatch) -> dict[str, bytes]:
    plant_idx(tmp_path / "origin", packed=True)
    files = {path.name: path.read_bytes() for path in (tmp_path / "origin").iterdir()}
    checksums = [
        (name, hashlib.md5(files[name]).hexdigest()) for name, _ in datasets.MNIST.resources
    ]
    monkeypatch.setattr(datasets.MNIST, "resources", checksums)
    return files


def test_download_once_with_progress(tmp_path, monkeypatch, capsys):
    files = served_mnist(tmp_path, monkeypatch)
    asked = serve(monkeypatch, files)
    calls = []
    first = open_data("mnist", progress=lambda *call: calls.append(call))
    assert {call[0] for call in calls} == {"downloading mnist"}
    assert calls[-1][1] == calls[-1][2] > 0
    assert asked
    asked.clear()
    assert open_data("mnist").spec == first.spec
    assert asked == []
    assert capsys.readouterr() == ("", "")
    assert not list((tmp_path / "cache").rglob("*.gz"))


@pytest.mark.parametrize("name", list(torchvision_sets.NAMES))
def test_offline_is_told_clearly_and_leaves_nothing(tmp_path, monkeypatch, name):
    serve(monkeypatch, {})
    with pytest.raises(
        UserError, match=rf"{name} could not be downloaded \(.*not known.*data_root='DIR'"
    ):
        open_data(name)
    assert list((tmp_path / "cache" / "datasets").iterdir()) == []


def test_an_interrupted_download_is_told_and_can_be_repeated(tmp_path, monkeypatch):
    files = served_mnist(tmp_path, monkeypatch)
    name = "t10k-images-idx3-ubyte.gz"
    serve(monkeypatch, {**files, name: files[name][:1000]})
    with pytest.raises(UserError, match="mnist could not be downloaded"):
        open_data("mnist")
    assert list((tmp_path / "cache" / "datasets").iterdir()) == []
    serve(monkeypatch, files)
    assert len(open_data("mnist").test) == 20


def test_a_hostile_archive_is_not_unpacked(tmp_path, monkeypatch):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("../../escaped"), io.BytesIO(b""))
    serve(monkeypatch, {"cifar-10-python.tar.gz": packed.getvalue()})
    # the checksum is wrong before anything else matters
    with pytest.raises(UserError, match="corrupted"):
        open_data("cifar10")
    assert not list(tmp_path.rglob("escaped"))


def test_data_root_that_is_no_folder_is_told(tmp_path):
    with pytest.raises(UserError, match="is not a folder"):
        open_data("mnist", data_root=str(tmp_path / "nowhere"))


def test_listing_names_every_set():
    names = plugins.names("data")
    assert {"digits", "folder", "csv-file", *torchvision_sets.NAMES} <= names.keys()
    assert all(names.values())


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real files are not here")
def test_the_real_mnist():
    splits = open_data("mnist", data_root=str(SHARED))
    assert [len(splits[s]) for s in ("train", "val", "test")] == [54_000, 6_000, 10_000]
    assert splits.spec.mean == pytest.approx([0.1307], abs=2e-4)
    assert splits.spec.std == pytest.approx([0.3081], abs=3e-4)


def packed(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return content.getvalue()


def served_pets(monkeypatch) -> dict[str, bytes]:
    """Return two archives as those of Oxford-IIIT Pet: four photos to train on, two to test on, and
    one of neither.
    """
    names = {"trainval": [f"Bombay_{n}" for n in range(4)], "test": ["beagle_1", "beagle_2"]}
    pixels = np.random.default_rng(0).integers(0, 256, (7, 64, 72, 3), np.uint8)
    photos = {}
    for name, photo in zip([*names["trainval"], *names["test"], "beagle_3"], pixels, strict=True):
        content = io.BytesIO()
        Image.fromarray(photo).save(content, "JPEG")
        photos[f"images/{name}.jpg"] = content.getvalue()
    lists = {
        f"annotations/{k}.txt": "".join(f"{name} 1 1 1\n" for name in some).encode()
        for k, some in names.items()
    }

    files = {"images.tar.gz": packed(photos), "annotations.tar.gz": packed(lists)}
    addresses = [
        (url, hashlib.md5(files[url.rsplit("/", 1)[1]]).hexdigest())
        for url, _ in datasets.OxfordIIITPet._RESOURCES
    ]
    monkeypatch.setattr(datasets.OxfordIIITPet, "_RESOURCES", addresses)
    return files


PETS_X2 = (
    "train",
    "pets-x2",
    "--weights",
    "none",
    "--set",
    "task.patch=32",
    "--set",
    "image_size=48",
    "--steps",
    "1",
)


def test_pets_are_downloaded_once_into_the_splits_that_they_have(tmp_path, monkeypatch, tt):
    asked = serve(monkeypatch, served_pets(monkeypatch))
    code, output, errors = tt(*PETS_X2, "--dry-run", "--json")
    assert code == 0, errors
    assert json.loads(output)["data"]["num_images"]["test"] == 2
    assert len(set(asked)) == 2

    asked.clear()
    monkeypatch.setenv("TINTYPE_DATA_ROOT", str(tmp_path))  # holds other sets
    splits = open_pairs("oxford-pets", patch=32)
    assert asked == []
    assert sorted(splits.test.names) == ["beagle_1.jpg", "beagle_2.jpg"]
    assert sorted({p.name for p in splits.train.photos} | set(splits.val.names)) == [
        f"Bombay_{n}.jpg" for n in range(4)
    ]
    assert not list((tmp_path / "cache").rglob("*.gz"))


@pytest.mark.parametrize("broken", ["images.tar.gz", "annotations.tar.gz", None])
def test_pets_that_cannot_be_downloaded_are_one_line_that_names_the_data_root(
    tmp_path, monkeypatch, tt, broken
):
    files = served_pets(monkeypatch)
    serve(monkeypatch, {} if broken is None else {**files, broken: files[broken][:100]})
    code, _, errors = tt(*PETS_X2)
    assert code == 2
    line = errors.strip().splitlines()[-1]
    assert re.match(
        r"error: oxford-pets could not be downloaded \(.*give --data-root DIR.*`photos` needs no download",
        line,
    )
    assert list((tmp_path / "cache" / "datasets").iterdir()) == []

    serve(monkeypatch, files)
    assert len(open_pairs("oxford-pets", patch=32).test) == 2
