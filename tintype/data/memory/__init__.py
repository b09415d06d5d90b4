"""Images that were given in Python: arrays, tensors, lists, frames, data sets of other libraries.

`take` checks them, reads them once into pixels, and returns a reference that stands in the recipe
as the name of a data set does. The reference holds a hash of pixels, labels, splits, groups and
weights: the same data are the same in another process, where they have to be given again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from tintype import own_code
from tintype.data.decode import Resize, as_resize
from tintype.data.memory.arrays import pixels_of
from tintype.data.memory.labels import cells_of, groups_of, labels_of, splits_of, weights_of
from tintype.data.sets.folder import Photo
from tintype.data.source import Images
from tintype.data.targets import CLASSES, TargetKind
from tintype.errors import UserError
from tintype.progress import Progress

DIGEST = 6  # bytes, of a hash in a reference


@dataclass(frozen=True, eq=False)
class Memory:
    """Images in memory with what the user says of them, all checked.

    Attributes:
        name: what they are called: "arrays", "tensors".
        pixels: (N, H, W, C) uint8.
        labels: (N,) or (N, K) of text or numbers, or None.
        label_names: what the labels 0, 1, 2, ... stand for, where that is known.
        split: (N,) "train", "val" or "test", or "" for an image in none, or None.
        groups: (N,) text, or None.
        weights: (N,) float32, or None.
        notes: lines for the user on how they were read.
    """

    name: str
    pixels: np.ndarray
    labels: np.ndarray | None = None
    label_names: tuple[str, ...] = ()
    split: np.ndarray | None = None
    groups: np.ndarray | None = None
    weights: np.ndarray | None = None
    notes: tuple[str, ...] = field(default=())

    @cached_property
    def pixel_digest(self) -> str:
        """A hash of the pixels."""
        content = np.ascontiguousarray(self.pixels).data
        return hashlib.blake2b(content, digest_size=16).hexdigest()

    @property
    def reference(self) -> str:
        """What stands for it in a recipe.

        That is its name, with a hash of images and labels, and one of splits, groups and weights if
        there are any.
        """
        images = _digest(self.pixel_digest, self.pixels.shape, self.label_names, self.labels)
        said = (self.split, self.groups, self.weights)
        more = "" if all(each is None for each in said) else f"_{_digest(*said)}"
        return f"{own_code.IN_PYTHON}{self.name}_{images}{more}"


def is_memory(data: Any) -> bool:
    """Return whether `data` is no name and no path, so that `take` has to look at it."""
    return data is not None and not isinstance(data, str) and not hasattr(data, "__fspath__")


def take(
    data: Any,
    *,
    splits: Any = None,
    groups: Any = None,
    sample_weight: Any = None,
) -> str:
    """Check data that were given in Python, keep them for this process, and return their reference.

    Args:
        data: (images, labels), or images alone.
        splits: see `labels.splits_of`.
        groups: a group for each image; those of one group stay on one side of a split.
        sample_weight: a weight for each image in the loss.

    Raises:
        UserError: they cannot be read as images with labels, or do not fit each other.
    """
    memory = _read(data)
    num_images = len(memory.pixels)
    memory = replace(
        memory,
        split=None if splits is None else splits_of(splits, num_images),
        groups=None if groups is None else groups_of(groups, num_images),
        weights=None if sample_weight is None else weights_of(sample_weight, num_images),
    )

    reference = memory.reference
    if not own_code.is_given(reference):
        own_code.give(memory, title(reference))
    return reference


def fields_of(
    data: Any = None, *, splits: Any = None, groups: Any = None, sample_weight: Any = None
) -> dict[str, Any]:
    """Return the fields of a recipe for what `train` was given: data, splits, groups and weights.

    Args:
        data: a name, a path, or what `take` reads; None leaves the data of the recipe.
        splits: fractions of any data, as in (0.7, 0.1, 0.2), or else as in `take`.
        groups: how to see groups in the names of any data, or else as in `take`.
        sample_weight: as in `take`.

    Raises:
        UserError: they cannot be read, or are for images in memory and there are none.
    """
    fields: dict[str, Any] = {}
    fractions = _fractions(splits)
    if fractions:
        fields |= fractions
        splits = None
    if isinstance(groups, str):
        fields["groups"] = groups
        groups = None

    if is_memory(data):
        said = {"splits": splits, "groups": groups, "sample_weight": sample_weight}
        return {"data": take(data, **said), **fields}

    for name, value in (("splits", splits), ("groups", groups), ("sample_weight", sample_weight)):
        if value is not None:
            raise UserError(
                f"{name} names images by their position, which is for data in memory. "
                "Of files, a CSV says so, in columns path,label,split,group,sample_weight."
            )
    return fields if data is None else {"data": str(data), **fields}


def _fractions(splits: Any) -> dict[str, float]:
    """Return the fractions of validation and test, or nothing where `splits` is something else.

    Raises:
        UserError: fractions that are no three parts of a whole.
    """
    if isinstance(splits, Mapping):
        parts = {str(name): value for name, value in splits.items()}
    elif isinstance(splits, list | tuple) and len(splits) in (2, 3):
        parts = dict(zip(("train", "val", "test"), splits, strict=False))
    else:
        return {}
    if not all(isinstance(value, int | float | np.number) for value in parts.values()):
        return {}

    val = float(parts.get("val", 0))
    test = float(parts.get("test", 0))
    train = float(parts.get("train", 1 - val - test))
    whole = abs(train + val + test - 1) < 1e-6
    if not parts.keys() <= {"train", "val", "test"} or min(train, val) <= 0 or not whole:
        raise UserError(
            f"splits {splits} are no parts of a whole. Expected those of train, val and test, such "
            "as (0.7, 0.1, 0.2); test may be 0."
        )
    return {"val_fraction": val, "test_fraction": test}


def load(
    name: str,
    *,
    data_root: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    resize: str | Resize = "crop",
    progress: Progress | None = None,
    target: TargetKind = CLASSES,
) -> Images:
    """Return the images of a reference that `take` or `own_code.given` gave.

    Raises:
        UserError: this process does not have them, or their labels are of another kind.
    """
    if not own_code.is_given(name):
        raise UserError(
            f"the images {title(name)} were given in Python, and this process does not have them. "
            "Give them again: tt.train(resume=RUN, data=(images, labels)), or "
            "run.evaluate(data=(images, labels), split='test')."
        )
    memory: Any = own_code.find(name, "data", "data")
    if callable(memory):  # which reads the images itself, as those of an estimator do
        how = {"channels": channels, "resize": as_resize(resize), "progress": progress}
        return memory(image_size=image_size, **how)  # pyright: ignore[reportReturnType]
    assert isinstance(memory, Memory)

    rows = np.arange(len(memory.pixels))
    notes = list(memory.notes)
    if memory.split is not None:
        rows = np.flatnonzero(memory.split != "")
        if len(rows) < len(memory.pixels):
            left_out = len(memory.pixels) - len(rows)
            notes.append(f"{left_out:,} images are in no split, and are left out")

    cells = cells_of(memory.labels, target, memory.label_names) or [()] * len(memory.pixels)
    digits = len(str(len(memory.pixels) - 1))
    photos = [
        Photo("", f"{i:0{digits}d}", cells[i], *_split_and_group(memory, i)) for i in rows.tolist()
    ]
    notes += target.remarks(photos)
    kind, targets = target.collect(photos, photos, memory.name, notes)

    whole = len(rows) == len(memory.pixels)
    return Images(
        pixels=memory.pixels if whole else memory.pixels[rows],
        targets=targets,
        names=[photo.name for photo in photos],
        target=kind,
        split=None if memory.split is None else memory.split[rows],
        groups=None if memory.groups is None else memory.groups[rows],
        weights=None if memory.weights is None else memory.weights[rows],
        notes=tuple(notes),
        fingerprint=memory.pixel_digest if whole else "",
    )


def title(reference: str) -> str:
    """Return what a user reads in place of a reference."""
    return reference.removeprefix(own_code.IN_PYTHON)


def plain_name(reference: str) -> str:
    """Return the name of the data without their hashes."""
    return title(reference).partition("_")[0]


def is_again(reference: Any, other: str) -> bool:
    """Return whether a reference stands for the data of another one.

    Raises:
        UserError: only images and labels are the same.
    """
    if reference == other:
        return True
    ours, theirs = (title(str(name)).split("_")[:2] for name in (reference, other))
    if str(reference).startswith(own_code.IN_PYTHON) and ours == theirs:
        raise UserError(
            "these are the images that the run was trained with, but splits=, groups= or "
            "sample_weight= are not. Give them as they were."
        )
    return False


def _digest(*parts: Any) -> str:
    text = repr([each.tolist() if isinstance(each, np.ndarray) else each for each in parts])
    content = text.encode("utf-8", "backslashreplace")
    return hashlib.blake2b(content, digest_size=DIGEST).hexdigest()


def _split_and_group(memory: Memory, position: int) -> tuple[str, str]:
    split = "" if memory.split is None else str(memory.split[position])
    group = "" if memory.groups is None else str(memory.groups[position])
    return split, group


def _read(data: Any) -> Memory:
    images, labels = data if isinstance(data, tuple) and len(data) == 2 else (data, None)
    pixels, note = pixels_of(images)
    name = "arrays" if note.startswith("images: array") else "tensors"
    found = None if labels is None else labels_of(labels, len(pixels))
    return Memory(name, pixels, found, notes=(note,))
