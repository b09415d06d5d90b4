"""Images that were given in Python: arrays, tensors, lists, frames, data sets of other libraries.

`take` checks them, reads them once into pixels, and returns a reference that stands in the recipe
as the name of a data set does. The reference holds a hash of pixels, labels, splits, groups and
weights: the same data are the same in another process, where they have to be given again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from tintype import own_code
from tintype.data.decode import Resize, as_resize
from tintype.data.layout import listed
from tintype.data.memory.datasets import HuggingFace
from tintype.data.memory.labels import cells_of, groups_of, splits_of, weights_of
from tintype.data.memory.pictures import Pixels, fitted, looks_of
from tintype.data.memory.reading import Read, read
from tintype.data.memory.tables import Table, is_frame, table_of
from tintype.data.sets.folder import Found, Photo, glance_of
from tintype.data.source import Glance, Images
from tintype.data.targets import CLASSES, TargetKind
from tintype.errors import UserError
from tintype.progress import Progress
from tintype.recipe import Recipe

DIGEST = 6  # bytes, of a hash in a reference

# What the user's own code has made in this process, by its reference and hash.
_made: dict[tuple[str, str], dict[str, str]] = {}


@dataclass(frozen=True, eq=False)
class Memory:
    """Images in memory with what the user says of them, all checked.

    Attributes:
        name: what they are called: "arrays", "tensors".
        pixels: (N, H, W, C) uint8, or, of several sizes, (H, W, C) each.
        labels: (N,) or (N, K) of text or numbers, or None.
        label_names: what the labels 0, 1, 2, ... stand for, where that is known.
        split: (N,) "train", "val" or "test", or "" for an image in none, or None.
        groups: (N,) text, or None.
        weights: (N,) float32, or None.
        notes: lines for the user on how they were read.
    """

    name: str
    pixels: Pixels
    labels: np.ndarray | None = None
    label_names: tuple[str, ...] = ()
    split: np.ndarray | None = None
    groups: np.ndarray | None = None
    weights: np.ndarray | None = None
    notes: tuple[str, ...] = field(default=())

    @cached_property
    def pixel_digest(self) -> str:
        """A hash of the pixels."""
        digest = hashlib.blake2b(digest_size=16)
        for part in [self.pixels] if isinstance(self.pixels, np.ndarray) else self.pixels:
            digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Return the shape of the array, or of each picture."""
        if isinstance(self.pixels, np.ndarray):
            return [self.pixels.shape]
        return [each.shape for each in self.pixels]

    @property
    def sizes(self) -> list[tuple[int, ...]]:
        """Return the shape of a picture, or those of all where they differ."""
        return [self.pixels.shape[1:]] if isinstance(self.pixels, np.ndarray) else self.shapes

    @property
    def reference(self) -> str:
        """What stands for it in a recipe.

        That is its name, with a hash of images and labels, and one of splits, groups and weights if
        there are any.
        """
        images = _digest(self.pixel_digest, self.shapes, self.label_names, self.labels)
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
    columns: Mapping[str, str] | None = None,
    data_root: str | None = None,
) -> dict[str, str]:
    """Check data that were given in Python, keep them for this process, and say what they are.

    Args:
        data: see `reading.EXPECTED`.
        splits: see `labels.splits_of`; or the name of a column.
        groups: a group for each image, or the name of a column; those of one group stay on one
            side of a split.
        sample_weight: a weight for each image in the loss, or the name of a column.
        columns: what the columns path (or image) and label are called, of data that have columns.
        data_root: where relative paths begin.

    Returns:
        The field data of the recipe, and of paths also where they begin, data_root.

    Raises:
        UserError: they cannot be read as images with labels, or do not fit each other.
    """
    found = read(data, columns or {})
    num_images = len(found)
    said: dict[str, np.ndarray] = {}
    readers = {"split": splits_of, "group": groups_of, "sample_weight": weights_of}
    given = {"split": splits, "group": groups, "sample_weight": sample_weight}
    for name, reader in readers.items():
        values = _column(found, name, given[name])
        if values is not None:
            said[name] = reader(values, num_images)

    if found.pixels is None:
        return _take_paths(found, said, data_root)
    memory = Memory(
        found.name.replace("_", "-"),
        found.pixels,
        found.labels,
        found.label_names,
        said.get("split"),
        said.get("group"),
        said.get("sample_weight"),
        found.notes,
    )
    return {"data": _kept(memory, memory.reference)}


def of_own_code(reference: str, data_root: str | None = None) -> dict[str, str]:
    """Run the user's own code that makes images, and say what they are, as `take` does.

    Args:
        reference: of a function without parameters, or of an object. What it returns is taken as
            data; a mapping holds the arguments of `take`.
        data_root: where relative paths begin.

    Raises:
        UserError: there is no such code, it fails, or it returns no images.
    """
    key = (reference, own_code.code_of(reference).sha256)
    if key in _made:
        return _made[key]

    found = own_code.find(reference, "data set", "load")
    with own_code.running(f"the data set {own_code.name_of(reference)}"):
        data = found() if callable(found) else found
    more: dict[str, Any] = (
        dict(data) if isinstance(data, Mapping) and "data" in data else {"data": data}
    )
    unknown = more.keys() - {"data", "splits", "groups", "sample_weight", "columns"}
    if unknown:
        raise UserError(
            f"the data set {own_code.name_of(reference)} returns {', '.join(sorted(unknown))}. "
            "Expected data, and beside it splits, groups, sample_weight or columns."
        )
    _made[key] = take(data_root=data_root, **more)
    return _made[key]


def _column(found: Read, name: str, given: Any) -> Any:
    """Return what the user says in place of a column of the data, or that column, or None."""
    if isinstance(given, str):
        if given not in found.columns:
            has = listed(found.columns, 8) or "none"
            raise UserError(f"there is no column '{given}' for {name}. The data have: {has}.")
        return found.columns.pop(given)
    own = found.columns.pop(name, None)
    return own if given is None else given


def _take_paths(found: Read, said: dict[str, np.ndarray], data_root: str | None) -> dict[str, str]:
    columns = {**found.columns, **{name: values.tolist() for name, values in said.items()}}
    if "split" in said:  # an image in no split is left out
        kept = np.flatnonzero(said["split"] != "").tolist()
        columns = {name: [values[i] for i in kept] for name, values in columns.items()}
    table = table_of(found.name, columns, data_root)

    reference = f"{own_code.IN_PYTHON}{table.name}_{_digest(table.columns, table.root)}"
    place = {} if table.root is None else {"data_root": table.root}
    return {"data": _kept(table, reference), **place}


def _kept(thing: Memory | Table, reference: str) -> str:
    own_code.forget(reference)  # of the same content, whose notes may differ
    return own_code.give(thing, title(reference))


def fields_of(
    data: Any = None,
    *,
    splits: Any = None,
    groups: Any = None,
    sample_weight: Any = None,
    columns: Mapping[str, str] | None = None,
    data_root: Any = None,
) -> dict[str, Any]:
    """Return the fields of a recipe for what `train` was given: data, splits, groups and weights.

    Args:
        data: a name, a path, or what `take` reads; None leaves the data of the recipe.
        splits: fractions of any data, as in (0.7, 0.1, 0.2), or else as in `take`.
        groups: how to see groups in the names of any data, or else as in `take`.
        sample_weight: as in `take`.
        columns: as in `take`.
        data_root: as in `take`.

    Raises:
        UserError: they cannot be read, or are for images in memory and there are none.
    """
    fields: dict[str, Any] = _fractions(splits)
    if fields:
        splits = None
    if data_root is not None:
        fields["data_root"] = str(data_root)
    if isinstance(groups, str) and not _names_a_column(groups, data):
        fields["groups"] = groups
        groups = None

    said = {"splits": splits, "groups": groups, "sample_weight": sample_weight, "columns": columns}
    if is_memory(data):
        return {**fields, **take(data, **said, data_root=fields.get("data_root"))}
    for name, value in said.items():
        if value is not None:
            raise UserError(
                f"{name} is for data in memory. Of files, a CSV says so, in the columns "
                "path,label,split,group,sample_weight."
            )
    return fields if data is None else {"data": str(data), **fields}


def given(
    what: Any,
    changes: Mapping[str, Any],
    splits: Any = None,
    sample_weight: Any = None,
    *,
    resumed: bool = False,
) -> tuple[Any, dict[str, Any]]:
    """Return what a verb was given first, and fields of a recipe, without objects in memory.

    Args:
        what: a recipe's name or file, a data set's name, a folder, a Recipe, or images in memory.
        changes: fields of the recipe, with images in memory as `data`, and `groups` and `columns`
            for them.
        splits: see `fields_of`.
        sample_weight: see `fields_of`.
        resumed: whether a run goes on, which has a recipe of its own.

    Raises:
        UserError: as in `fields_of`.
    """
    fields = dict(changes)
    data = fields.pop("data", None)
    said = {name: fields.pop(name, None) for name in ("groups", "data_root")}
    if isinstance(fields.get("columns"), Mapping):
        said["columns"] = fields.pop("columns")
    if what is not None and not isinstance(what, Recipe | str | Path):
        if data is not None:
            raise UserError("the images are given twice, first and as data=. Give them once.")
        what, data = None, what

    fields |= fields_of(data, splits=splits, sample_weight=sample_weight, **said)
    if what is None and is_memory(data) and not resumed:
        what = fields.pop("data")
    return what, fields


def _names_a_column(text: str, data: Any) -> bool:
    """Return whether a text is the name of a column of data in memory."""
    columns = getattr(data, "columns", None) if is_frame(data) else None
    if columns is None and isinstance(data, HuggingFace):
        columns = data.column_names
    return columns is not None and text in list(columns)


def listed_in(reference: str, data_root: str | None) -> Found | None:
    """Return the photos that a reference lists by their paths, None where it has pixels."""
    table = own_code.find(reference, "data", "data") if own_code.is_given(reference) else None
    return table.found(data_root, CLASSES) if isinstance(table, Table) else None


def write_down(run: Path, reference: str, target: TargetKind) -> None:
    """Write a table that was given in Python as a CSV file of the run, which then needs no more."""
    table = own_code.find(reference, "data", "data") if own_code.is_given(reference) else None
    if isinstance(table, Table):
        table.write(run / f"{table.name}.csv", target)


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


def glance(
    name: str, *, data_root: str | None = None, target: TargetKind = CLASSES
) -> Glance | None:
    """Return how many images a reference stands for, and of what size, where it is known."""
    memory: Any = own_code.find(name, "data", "data") if own_code.is_given(name) else None
    if isinstance(memory, Table):
        return glance_of(memory.found(data_root, target))
    if not isinstance(memory, Memory):
        return None
    sides = [min(shape[:2]) for shape in memory.sizes]
    return Glance(len(memory.pixels), int(np.median(sides)))


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
    if isinstance(memory, Table):
        return memory.load(data_root, image_size, channels, resize, progress, target)
    assert isinstance(memory, Memory)

    rows = np.arange(len(memory.pixels))
    notes = list(memory.notes)
    if memory.split is not None:
        rows = np.flatnonzero(memory.split != "")
        if len(rows) < len(memory.pixels):
            left_out = len(memory.pixels) - len(rows)
            notes.append(f"{left_out:,} images are in no split, and are left out")

    cells = cells_of(memory.labels, target, memory.label_names, len(memory.pixels))
    digits = len(str(len(memory.pixels) - 1))
    photos = [
        Photo("", f"{i:0{digits}d}", cells[i], *_split_and_group(memory, i)) for i in rows.tolist()
    ]
    notes += target.remarks(photos)
    kind, targets = target.collect(photos, photos, memory.name, notes)

    pixels = memory.pixels
    if len(rows) < len(pixels):
        pixels = [pixels[i] for i in rows] if isinstance(pixels, list) else pixels[rows]
    several = isinstance(pixels, list)  # sizes
    shown = pixels
    if isinstance(pixels, list):
        shown = fitted(pixels, image_size, channels, as_resize(resize), notes)
    assert isinstance(shown, np.ndarray)

    return Images(
        pixels=shown,
        targets=targets,
        names=[photo.name for photo in photos],
        target=kind,
        split=None if memory.split is None else memory.split[rows],
        groups=None if memory.groups is None else memory.groups[rows],
        weights=None if memory.weights is None else memory.weights[rows],
        notes=tuple(notes),
        fingerprint=memory.pixel_digest if shown is memory.pixels else "",
        on_disk=several,
        looks=partial(looks_of, pixels) if several else None,
    )


def title(reference: str) -> str:
    """Return what a user reads in place of a reference."""
    return reference.removeprefix(own_code.IN_PYTHON)


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
