"""Read data sets of other libraries once, in a fixed order: torch's, and those of Hugging Face."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
)

from tintype.data.layout import listed
from tintype.errors import UserError

TWICE = 8  # items that are read twice, so that random transforms show
IMAGE_COLUMNS = ("image", "img", "picture", "pixel_values", "photo")


@runtime_checkable
class HuggingFace(Protocol):
    """A data set with named columns, each of which has a type: one of Hugging Face."""

    @property
    def column_names(self) -> Any: ...
    @property
    def features(self) -> Any: ...
    def __iter__(self) -> Iterator[Any]: ...


class Items(NamedTuple):
    """Pictures with their labels, and what the labels 0, 1, 2, ... stand for.

    `columns` are further values of each image, by the name of their column.
    """

    pictures: Iterable[Any]
    labels: list[Any] | None
    label_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    columns: Mapping[str, list[Any]] = {}


def items_of_torch(data: Dataset[Any] | DataLoader[Any]) -> Items:
    """Return what a data set of torch holds, in its own order; of a loader, that of its data set.

    Raises:
        UserError: items are no pairs of image and label, or differ from one reading to the next.
    """
    notes: list[str] = []
    positions = None
    if isinstance(data, DataLoader):
        positions = _positions_of(data, notes)
        data = data.dataset

    name = type(data).__name__
    if isinstance(data, TensorDataset) and positions is None and len(data.tensors) == 2:
        return Items(data.tensors[0], list(data.tensors[1]), notes=tuple(notes))

    _refuse_random(data, name)
    pairs = list(_read(data, positions))
    if not pairs:
        raise UserError(f"the data set {name} is empty. Expected some images.")
    pictures: list[Any] = []
    labels: list[Any] = []
    for i, pair in enumerate(pairs):
        picture, label = _pair(pair, i, name)
        pictures.append(picture)
        labels += label
    return Items(pictures, labels or None, _names_in(data), tuple(notes))


def items_of_hugging_face(data: HuggingFace, names: Mapping[str, str]) -> Items:
    """Return what a data set of Hugging Face holds.

    Args:
        data: one split, or all that is there.
        names: what the columns image and label are called there, where that is not plain.

    Raises:
        UserError: it is unclear which column is which.
    """
    features = data.features or {}
    header = [str(name) for name in data.column_names or features]
    image = names.get("image") or names.get("path")
    image = image or _column(header, features, "Image", IMAGE_COLUMNS, "image")
    label = names.get("label")
    if label is None and len(header) > 1:
        label = _column(header, features, "ClassLabel", ("label", "labels"), "label")
    for column in filter(None, (image, label)):
        if column not in header:
            raise UserError(f"the data set has no column '{column}'. It has: {listed(header, 8)}.")

    rows = list(data)
    others = [name for name in header if name not in (image, label)]
    classes = getattr(features.get(label), "names", None) if label else None
    return Items(
        [row[image] for row in rows],
        [row[label] for row in rows] if label else None,
        tuple(map(str, classes or ())),
        columns={name: [row[name] for row in rows] for name in others},
    )


def _column(
    header: list[str], features: Mapping[str, Any], kind: str, usual: tuple[str, ...], what: str
) -> str:
    """Return the column that holds images or labels: the only one of its type, or by its name."""
    typed = [name for name in header if type(features.get(name)).__name__ == kind]
    if len(typed) == 1:
        return typed[0]
    named = [name for name in usual if name in (typed or header)]
    if named:
        return named[0]
    raise UserError(
        f"which column of the data set holds the {what}? It has: {listed(header, 8)}. "
        f"Say so, as in columns={{'image': ..., 'label': ...}}."
    )


def _positions_of(loader: DataLoader[Any], notes: list[str]) -> list[int] | None:
    """Return which items of its data set a loader reads, in their order; None for all of them."""
    sampler = loader.sampler
    if isinstance(sampler, BatchSampler):
        sampler = sampler.sampler
    if isinstance(sampler, SubsetRandomSampler):
        return sorted(int(i) for i in sampler.indices)

    usual = sampler is None or isinstance(sampler, SequentialSampler | RandomSampler)
    if not usual and not isinstance(loader.dataset, IterableDataset):
        notes.append(
            f"loader: its sampler ({type(sampler).__name__}) is not used, each image counts once; "
            "sampling='balanced' and sample_weight= are at hand"
        )
    return None


def _read(data: Any, positions: Iterable[int] | None) -> Iterator[Any]:
    if isinstance(data, IterableDataset) or not hasattr(data, "__len__"):
        yield from data
        return
    for i in range(len(data)) if positions is None else positions:
        yield data[i]


def _refuse_random(data: Any, name: str) -> None:
    """Refuse a data set whose items differ from one reading to the next.

    Raises:
        UserError: they do.
    """
    with torch.random.fork_rng(devices=[]):
        first = list(islice(_read(data, None), TWICE))
        again = list(islice(_read(data, None), TWICE))
    for i, (one, other) in enumerate(zip(first, again, strict=False)):
        if not _same(one, other):
            raise UserError(
                f"the data set {name} gives another image {i} each time it is read, so it has a "
                "random transform. tintype reads it once: leave that transform out, and choose "
                "augment= instead (`tintype list augmentations`)."
            )


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    try:
        return bool(np.array_equal(np.asarray(one), np.asarray(other)))
    except (TypeError, ValueError, RuntimeError):
        return True  # what cannot be compared is answered for when it is read


def _pair(item: Any, position: int, name: str) -> tuple[Any, list[Any]]:
    """Return the image of an item, and its label in a list, [] where it has none."""
    if isinstance(item, Mapping):
        keys = [str(key) for key in item]
        image = next((key for key in keys if key in IMAGE_COLUMNS), "image")
        label = next((key for key in keys if "label" in key or key == "target"), "label")
        raise UserError(
            f"the data set {name} returns dicts ({listed(keys)}). Expected pairs (image, label): "
            f"data=[(item['{image}'], item['{label}']) for item in dataset]."
        )
    if not isinstance(item, tuple | list):
        return item, []
    if len(item) == 1:
        return item[0], []
    if len(item) != 2:
        raise UserError(
            f"item {position} of the data set {name} has {len(item)} values. "
            "Expected pairs (image, label): data=[item[:2] for item in dataset]."
        )
    return item[0], [item[1]]


def _names_in(data: Any) -> tuple[str, ...]:
    """Return what the labels stand for where a data set says so, as torchvision's do."""
    while not hasattr(data, "classes") and hasattr(data, "dataset"):  # a part of another
        data = data.dataset
    names = getattr(data, "classes", None)
    if not isinstance(names, list | tuple):
        return ()
    return tuple(map(str, names))
