"""Tell the kinds of data in memory apart, and read each as pixels or paths with labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from tintype.data.layout import listed, split_of
from tintype.data.memory.arrays import pixels_of
from tintype.data.memory.datasets import HuggingFace, Items, items_of_hugging_face, items_of_torch
from tintype.data.memory.labels import is_missing, labels_of
from tintype.data.memory.pictures import Pixels, is_picture, pixels_of_each
from tintype.data.memory.tables import columns_of, is_frame, is_path, labels_as_columns
from tintype.data.targets import Classes
from tintype.errors import UserError

EXPECTED = (
    "Expected (images, labels) as arrays, tensors or lists, a list of (path, label), a data frame "
    "with the columns path and label, a torch Dataset or DataLoader, or a Hugging Face Dataset."
)
LABEL_COLUMNS = (*Classes().columns[0], "labels", "value")


@dataclass(frozen=True)
class Read:
    """Data in memory, as they were given.

    Attributes:
        name: what they are called.
        pixels: (N, H, W, C) uint8, or (H, W, C) each, or None for paths, a column then.
        labels: (N,) or (N, K), or None; those of paths stand in columns.
        label_names: what the labels 0, 1, 2, ... stand for, where that is known.
        notes: lines for the user.
        columns: further values of each image, by the name of their column.
    """

    name: str
    pixels: Pixels | None
    labels: np.ndarray | None = None
    label_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    columns: dict[str, list[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.columns["path"] if self.pixels is None else self.pixels)


def read(data: Any, names: Mapping[str, str]) -> Read:
    """Read data in memory.

    Args:
        data: see `EXPECTED`; or a dict of these by split.
        names: what the columns path (or image) and label are called, for data that have columns.

    Raises:
        UserError: they are of no known kind, or something in them is wrong.
    """
    if isinstance(data, Mapping):
        return _together(data, names)
    if is_frame(data):
        return _read_frame(data, names)
    if isinstance(data, Dataset | DataLoader):
        name = type(data.dataset if isinstance(data, DataLoader) else data).__name__
        return _read_items(items_of_torch(data), name)
    if isinstance(data, HuggingFace):
        return _read_items(items_of_hugging_face(data, names), "dataset")

    images, labels = _divided(data)
    return _read_images(images, labels)


def _divided(data: Any) -> tuple[Any, Any]:
    """Return images and labels (None without any) of a pair of both, or of pairs."""
    if isinstance(data, tuple) and len(data) == 2 and not is_path(data[0]):
        return data
    if isinstance(data, list | tuple) and data and all(map(_is_pair, data)):
        images, labels = zip(*data, strict=True)
        return list(images), list(labels)
    return data, None


def _is_pair(item: Any) -> bool:
    if not isinstance(item, list | tuple) or len(item) != 2:
        return False
    return is_path(item[0]) or is_picture(item[0])


def _read_images(images: Any, labels: Any) -> Read:
    """Read images of any kind with their labels."""
    if isinstance(images, torch.Tensor):
        pixels, note = pixels_of(images)
        return _with_labels("tensors", pixels, labels, note)
    if not isinstance(images, Sequence) and hasattr(images, "__array__"):
        array = np.asarray(images)
        if array.dtype.kind not in "OUS":
            pixels, note = pixels_of(array)
            return _with_labels("arrays", pixels, labels, note)
        images = array.tolist() if array.dtype.kind != "O" else list(array)

    if not isinstance(images, Sequence) or isinstance(images, str | bytes):
        raise UserError(f"the images are a {type(images).__name__}. {EXPECTED}")
    if len(images) == 0:
        raise UserError("there is no image in the data. Expected some.")
    if is_path(images[0]):
        _refuse_other_than_paths(images)
        found = None if labels is None else labels_of(labels, len(images))
        return Read("paths", None, columns={"path": list(images), **labels_as_columns(found)})
    if not is_picture(images[0]):
        raise UserError(f"image 0 is a {type(images[0]).__name__}. {EXPECTED}")

    pixels, note = pixels_of_each(images)
    return _with_labels("pictures", pixels, labels, note)


def _with_labels(name: str, pixels: Pixels, labels: Any, note: str) -> Read:
    found = None if labels is None else labels_of(labels, len(pixels))
    return Read(name, pixels, found, notes=(note,))


def _refuse_other_than_paths(images: Sequence[Any]) -> None:
    missing = next((i for i, image in enumerate(images) if is_missing(image)), None)
    if missing is not None:
        raise UserError(f"the path of image {missing} is missing. Add it, or leave it out.")
    other = next((i for i, image in enumerate(images) if not is_path(image)), None)
    if other is not None:
        raise UserError(
            f"image {other} is a {type(images[other]).__name__}, and image 0 is a path. "
            "Expected one kind."
        )


def _read_items(items: Items, name: str) -> Read:
    pixels, note = (
        pixels_of(items.pictures)
        if isinstance(items.pictures, torch.Tensor)
        else pixels_of_each(items.pictures)
    )
    labels = None if items.labels is None else labels_of(items.labels, len(pixels))
    notes = (note, *items.notes)
    return Read(name, pixels, labels, items.label_names, notes, dict(items.columns))


def _read_frame(frame: Any, names: Mapping[str, str]) -> Read:
    columns = columns_of(frame, names)
    if not columns["path"]:
        raise UserError("the frame has no rows. Expected some images.")
    if is_path(columns["path"][0]) or is_missing(columns["path"][0]):
        _refuse_other_than_paths(columns["path"])
        return Read("frame", None, columns=columns)

    pictures = columns.pop("path")
    label = next((name for name in LABEL_COLUMNS if name in columns), None)
    pixels, note = pixels_of_each(pictures)
    found = None if label is None else labels_of(columns.pop(label), len(pixels))
    return Read("frame", pixels, found, notes=(note,), columns=columns)


def _together(data: Mapping[Any, Any], names: Mapping[str, str]) -> Read:
    """Read data of several splits as one, with a column that says which image is in which."""
    splits = {key: split_of(str(key)) for key in data}
    known = list(splits.values())
    if not data or "" in known or len(set(known)) < len(known):
        raise UserError(
            f"the data are a dict of {listed(map(str, data)) or 'nothing'}. Expected "
            f"(images, labels), or splits: {{'train': ..., 'val': ..., 'test': ...}}."
        )

    parts = [read(part, names) for part in data.values()]
    first = parts[0]
    for key, part in zip(data, parts, strict=True):
        alike = (part.pixels is None) == (first.pixels is None)
        alike &= (part.labels is None) == (first.labels is None)
        if not alike or part.label_names != first.label_names:
            raise UserError(f"the split {key} is of another kind than the first, or has others "
                            "names of classes. Expected one kind.")  # fmt: skip

    shared = [name for name in first.columns if all(name in part.columns for part in parts)]
    columns = {name: [value for part in parts for value in part.columns[name]] for name in shared}
    columns["split"] = [
        split for split, part in zip(known, parts, strict=True) for _ in range(len(part))
    ]
    pixels = None
    if first.pixels is not None:
        pixels = _joined([part.pixels for part in parts if part.pixels is not None])
    labels = None
    if first.labels is not None:
        labels = np.concatenate([part.labels for part in parts if part.labels is not None])
    return replace(first, pixels=pixels, labels=labels, columns=columns)


def _joined(parts: Sequence[Pixels]) -> Pixels:
    """Return pixels of several splits as one array where all are of one size, else as a list."""
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    if len(arrays) == len(parts) and len({part.shape[1:] for part in arrays}) == 1:
        return np.concatenate(arrays)
    return [picture for part in parts for picture in part]
