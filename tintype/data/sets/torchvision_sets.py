"""The usual data sets through torchvision: downloaded and checked, or read from a folder."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import os
import pickle
import shutil
import socket
import struct
import tarfile
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tintype.data.cache import cache_folder, remove_abandoned
from tintype.data.decode import Resize
from tintype.data.sets.folder import find_photos, read_photos
from tintype.data.source import Images
from tintype.data.targets import CLASSES, Classes, TargetKind
from tintype.errors import UserError
from tintype.files.system import rename
from tintype.hardware.vision import torchvision
from tintype.progress import Progress

NAMES = {
    "mnist": "70,000 handwritten digits, 28x28 grey, 10 classes",
    "fashion-mnist": "70,000 pieces of clothing, 28x28 grey, 10 classes",
    "kmnist": "70,000 cursive Japanese characters, 28x28 grey, 10 classes",
    "emnist": "131,600 handwritten letters and digits (balanced), 28x28 grey, 47 classes",
    "cifar10": "60,000 photos of animals and vehicles, 32x32 colour, 10 classes",
    "cifar100": "60,000 photos of things, 32x32 colour, 100 classes",
    "svhn": "99,289 house numbers in the street, 32x32 colour, 10 classes",
    "stl10": "13,000 labelled photos of animals and vehicles, 96x96 colour, 10 classes",
}

Arrays = tuple[np.ndarray, np.ndarray]  # pixels (N, H, W, C) uint8, targets (N,) int
Content = tuple[dict[str, Arrays], Sequence[str]]  # {"train": arrays, "test": arrays}, class names


@dataclass(frozen=True)
class _Set:
    """How torchvision lays a set out, and its shape.

    `inner` is the folder below its root, `marker` a file in it.
    """

    inner: str
    marker: str
    read: Callable[[Path], Content]
    download: Callable[[Path], object]
    classes: int
    size: int
    channels: int


class _Damaged(Exception):
    """A file that is not what its format or its checksum says."""


def glance(name: str, *, data_root: str | None = None, target: TargetKind = CLASSES) -> None:
    """Say nothing of a set before it is read, but that a root is no folder.

    Raises:
        UserError: it is none.
    """
    del name, target
    if given := data_root or os.environ.get("TINTYPE_DATA_ROOT"):
        _root(given)


def load(
    name: str,
    *,
    data_root: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    resize: str | Resize = "crop",
    progress: Progress | None = None,
) -> Images:
    """Return a data set with its own train and test splits.

    Looked for in `data_root` (torchvision's layout, or folders {train,test}/CLASS), else in the
    folder that TINTYPE_DATA_ROOT names, else in the cache, into which it is downloaded if need be.

    Raises:
        UserError: not in `data_root`, damaged, or the download failed.
    """
    described = _describe(name)
    given = data_root or os.environ.get("TINTYPE_DATA_ROOT")
    if given:
        root = _root(given)
        found = _torchvision_root(root, described, name)
        if found is not None:
            return _images(name, described, found)
        photos = _class_folders(root, described, name)
        if photos is not None:
            size = image_size or described.size
            return read_photos(
                find_photos(photos),
                name,
                image_size=size,
                channels=channels or described.channels,
                resize=resize,
                progress=progress,
            )
        if data_root:
            raise UserError(
                f"{name} is not in {given}: neither {described.inner}/{described.marker} as "
                "torchvision lays it out, "
                f"nor {{train,test}}/CLASS with {described.classes} class folders."
            )

    store = cache_folder() / "datasets" / name
    if not store.exists():
        _download(name, described.download, store, progress)

    return _images(name, described, store)


def _root(given: str) -> Path:
    root = Path(given).expanduser()
    if not root.is_dir():
        raise UserError(f"the data root '{given}' is not a folder.")
    return root


def fetch_pets(progress: Progress | None = None) -> Path:
    """Return a folder with Oxford-IIIT Pet as torchvision lays it out, downloaded if need be.

    Raises:
        UserError: the download failed.
    """
    store = cache_folder() / "datasets" / "oxford-pets"
    if not store.exists():
        # The files of both splits come at once; a list of names tells them apart.
        _download(
            "oxford-pets",
            lambda root: torchvision.datasets.OxfordIIITPet(root, download=True),
            store,
            progress,
            at_hand="photos",
        )
    return store


def _describe(name: str) -> _Set:
    idx = {
        "mnist": torchvision.datasets.MNIST,
        "fashion-mnist": torchvision.datasets.FashionMNIST,
        "kmnist": torchvision.datasets.KMNIST,
    }
    if name in idx:
        return _idx_set(idx[name])
    if name in ("cifar10", "cifar100"):
        return _cifar_set(
            torchvision.datasets.CIFAR10 if name == "cifar10" else torchvision.datasets.CIFAR100
        )
    return {"emnist": _emnist, "svhn": _svhn, "stl10": _stl10}[name]()


def _images(name: str, described: _Set, root: Path) -> Images:
    """Read a set from torchvision's layout below `root`."""
    try:
        splits, titles = described.read(root)
    except FileNotFoundError as error:
        raise UserError(
            f"{name} in {root} is not complete: {error.filename or error} is missing."
        ) from None
    except (
        _Damaged,
        RuntimeError,
        EOFError,
        OSError,
        zlib.error,
        ValueError,
        pickle.UnpicklingError,
    ) as error:
        reason = str(error).split("\n")[0].replace(" You can use download=True to download it", "")
        again = f" Remove {root} to download it again." if cache_folder() in root.parents else ""
        raise UserError(f"{name} in {root} cannot be read: {reason}.{again}") from None

    classes = tuple(title.split(" - ")[0] for title in titles)
    for split, (pixels, targets) in splits.items():
        if (
            len(pixels) != len(targets)
            or not len(targets)
            or targets.min() < 0
            or targets.max() >= len(classes)
        ):
            raise UserError(
                f"{name} in {root} cannot be read: "
                f"images and labels of '{split}' do not belong together."
            )

    return Images(
        pixels=np.concatenate([pixels for pixels, _ in splits.values()]),
        targets=np.concatenate([targets for _, targets in splits.values()]).astype(np.int64),
        names=[
            f"{split}/{i:05d}"
            for split, (_, targets) in splits.items()
            for i in range(len(targets))
        ],
        target=Classes(classes),
        split=np.concatenate(
            [np.full(len(targets), split) for split, (_, targets) in splits.items()]
        ),
    )


def _torchvision_root(root: Path, described: _Set, name: str) -> Path | None:
    """Return the folder that torchvision takes, from that folder, one inside or one around it.

    The files of MNIST, Fashion-MNIST and KMNIST have the same names: inside a folder of another set
    nothing is taken.
    """
    markers = (described.marker, described.marker + ".gz")
    inner = Path(described.inner)
    candidates = [root, root / "torchvision", root / name]
    resolved = root.resolve()
    for depth in range(1, len(inner.parts) + 1):  # the user named …/MNIST, or …/MNIST/raw
        if resolved.parts[-depth:] == inner.parts[:depth]:
            candidates.append(resolved.parents[depth - 1])
    for candidate in candidates:
        if any((candidate / inner / marker).is_file() for marker in markers):
            return candidate
    return None


def _class_folders(root: Path, described: _Set, name: str) -> Path | None:
    """Return a folder with {train,test}/CLASS that has the right number of classes."""
    for candidate in (root / name, root):
        if all((candidate / split).is_dir() for split in ("train", "test")):
            classes = [folder for folder in (candidate / "train").iterdir() if folder.is_dir()]
            if len(classes) == described.classes:
                return candidate
    return None


def _read_idx(raw: Path, train: str, test: str) -> dict[str, Arrays]:
    return {
        split: (
            _idx_file(raw / f"{prefix}-images-idx3-ubyte", 3)[..., None],
            _idx_file(raw / f"{prefix}-labels-idx1-ubyte", 1),
        )
        for split, prefix in (("train", train), ("test", test))
    }


def _idx_file(path: Path, num_dimensions: int) -> np.ndarray:
    """Return the uint8 array in an idx file, or in the same file with .gz added."""
    packed = path.with_name(path.name + ".gz")
    content = path.read_bytes() if path.exists() else gzip.decompress(packed.read_bytes())
    header = 4 + 4 * num_dimensions
    if len(content) < header or content[:4] != bytes((0, 0, 8, num_dimensions)):
        raise _Damaged(f"{path.name} is not an idx file")
    shape = struct.unpack(f">{num_dimensions}I", content[4:header])
    if len(content) != header + int(np.prod(shape, dtype=np.int64)):
        raise _Damaged(f"{path.name} is cut short or too long")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _idx_set(kind: type[torchvision.datasets.MNIST]) -> _Set:
    return _Set(
        inner=f"{kind.__name__}/raw",
        marker="train-images-idx3-ubyte",
        read=lambda root: (_read_idx(root / kind.__name__ / "raw", "train", "t10k"), kind.classes),
        download=lambda root: kind(root, download=True),
        classes=10,
        size=28,
        channels=1,
    )


def _emnist() -> _Set:
    def read(root: Path) -> Content:
        splits = _read_idx(root / "EMNIST" / "raw", "emnist-balanced-train", "emnist-balanced-test")
        # The files hold every picture mirrored at the diagonal.
        upright = {
            split: (pixels.transpose(0, 2, 1, 3), targets)
            for split, (pixels, targets) in splits.items()
        }
        return upright, torchvision.datasets.EMNIST.classes_split_dict["balanced"]

    return _Set(
        inner="EMNIST/raw",
        marker="emnist-balanced-train-images-idx3-ubyte",
        read=read,
        download=lambda root: torchvision.datasets.EMNIST(root, split="balanced", download=True),
        classes=47,
        size=28,
        channels=1,
    )


def _cifar_set(kind: type[torchvision.datasets.CIFAR10]) -> _Set:
    def read(root: Path) -> Content:
        with warnings.catch_warnings():  # NumPy, on the age of the pickles
            warnings.simplefilter("ignore")
            # checks the MD5 first
            parts = {split: kind(root, train=split == "train") for split in ("train", "test")}
        return {split: (part.data, np.array(part.targets)) for split, part in parts.items()}, parts[
            "train"
        ].classes

    return _Set(
        inner=kind.base_folder,
        marker=kind.train_list[0][0],
        read=read,
        download=lambda root: kind(root, download=True),
        classes=100 if kind is torchvision.datasets.CIFAR100 else 10,
        size=32,
        channels=3,
    )


def _svhn() -> _Set:
    def read(root: Path) -> Content:
        parts = {split: torchvision.datasets.SVHN(root, split=split) for split in ("train", "test")}
        return {
            split: (part.data.transpose(0, 2, 3, 1), part.labels) for split, part in parts.items()
        }, "0123456789"

    def download(root: Path) -> None:
        for split in ("train", "test"):
            torchvision.datasets.SVHN(root, split=split, download=True)

    return _Set("", "train_32x32.mat", read, download, classes=10, size=32, channels=3)


def _stl10() -> _Set:
    class Labelled(torchvision.datasets.STL10):
        """The set without its unlabelled images, which need not be there."""

        train_list = [  # noqa: RUF012
            entry for entry in torchvision.datasets.STL10.train_list if "unlabeled" not in entry[0]
        ]

    def read(root: Path) -> Content:
        parts = {split: Labelled(root, split=split) for split in ("train", "test")}
        arrays = {
            split: (part.data.transpose(0, 2, 3, 1), np.asarray(part.labels))
            for split, part in parts.items()
        }
        names = "airplane bird car cat deer dog horse monkey ship truck"
        return arrays, names.split()

    return _Set(
        inner=Labelled.base_folder,
        marker="train_X.bin",
        read=read,
        download=lambda root: Labelled(root, download=True),
        classes=10,
        size=96,
        channels=3,
    )


def _download(
    name: str,
    download: Callable[[Path], object],
    store: Path,
    progress: Progress | None,
    *,
    at_hand: str = "digits",
) -> None:
    """Download a set into `store`, which appears only when everything is there and checked.

    Args:
        name: of the set.
        download: given an empty folder, downloads the files into it and checks them.
        store: the folder that is to hold them.
        progress: called as progress(what, done, total), in bytes.
        at_hand: a set for the same tasks that needs no download.

    Raises:
        UserError: the folder cannot be written, or the download failed.
    """
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(store.parent)
        temporary = Path(tempfile.mkdtemp(prefix=f"tmp-{os.getpid()}-", dir=store.parent))
    except OSError as error:
        raise UserError(
            f"{store.parent} cannot be written ({error.strerror}). "
            "Set TINTYPE_CACHE to another folder."
        ) from None

    failures = (
        OSError,
        RuntimeError,
        EOFError,
        http.client.HTTPException,
        zlib.error,
        tarfile.TarError,
        zipfile.BadZipFile,
    )
    try:
        with _progress_into(progress, f"downloading {name}"), _patience(seconds=60):
            download(temporary)
        _remove_archives(temporary)
        with contextlib.suppress(OSError):  # another process was faster
            rename(temporary, store)
    except failures as error:
        raise UserError(
            f"{name} could not be downloaded ({_brief(error)}). Try again with a network, or give "
            "--data-root DIR, a folder that holds the files already. "
            f"(`{at_hand}` needs no download.)"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _brief(error: Exception) -> str:
    lines = [line for line in str(error).split("\n") if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:150]


def _remove_archives(root: Path) -> None:
    """Remove what was unpacked already: it takes as much space again."""
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.name.endswith((".gz", ".zip")):
            path.unlink()


@contextlib.contextmanager
def _progress_into(progress: Progress | None, what: str) -> Iterator[None]:
    """Let torchvision report its downloads here instead of drawing a bar of its own on stderr."""

    class Bar:
        def __init__(self, *_: Any, total: int | None = None, **__: Any) -> None:
            self.done = 0
            self.total = total or 0

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, num_bytes: int) -> None:
            self.done += num_bytes
            if progress:
                progress(what, self.done, max(self.total, self.done))

    own_bar = getattr(torchvision.datasets.utils, "tqdm", None)
    if own_bar is None:
        yield
        return
    # Not part of the declared interface.
    setattr(torchvision.datasets.utils, "tqdm", Bar)  # noqa: B010
    try:
        yield
    finally:
        setattr(torchvision.datasets.utils, "tqdm", own_bar)  # noqa: B010


@contextlib.contextmanager
def _patience(seconds: float) -> Iterator[None]:
    """Let a connection that stalls fail: torchvision sets no time limit."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
