"""Turn what the user says of images in memory (labels, splits, groups, weights) into plain arrays.

Each is checked here, before anything is made; errors name the position of the first image that is
wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tintype.data.layout import split_of
from tintype.data.memory.arrays import as_array
from tintype.data.targets import TargetKind
from tintype.errors import UserError

SPLITS = ("train", "val", "test")


def labels_of(labels: Any, num_images: int) -> np.ndarray:
    """Return labels as an array: (N,) of text or numbers, or (N, K) of numbers.

    A list of lists names several labels of each image; they become one text, separated by
    semicolons.

    Args:
        labels: a list, an array, a tensor, or a pandas Series or Categorical.
        num_images: how many there have to be.

    Raises:
        UserError: another number of labels than of images, labels of mixed types, or missing ones.
    """
    if isinstance(labels, str | bytes | Mapping) or not hasattr(labels, "__len__"):
        raise UserError(
            f"the labels are a {type(labels).__name__}. Expected one label for each image, in a "
            "list or an array."
        )
    if len(labels) != num_images:
        raise UserError(
            f"there are {num_images:,} images and {len(labels):,} labels. "
            "Expected one label for each image."
        )

    array = _label_array(labels)
    if array.dtype.kind == "O":
        array = _of_one_type(array)
    if array.dtype.kind not in "biufU" or array.ndim > 2 or (array.ndim == 2 and _is_text(array)):
        raise UserError(
            f"the labels are {array.shape} of {array.dtype}. Expected text or numbers, one for "
            "each image."
        )

    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    _refuse_missing(array)
    return array


def cells_of(
    labels: np.ndarray | None, target: TargetKind, label_names: Sequence[str], num_images: int
) -> list[tuple[str, ...]]:
    """Return the targets of images as text, as the kind of target reads the cells of a table.

    Args:
        labels: as `labels_of` returns them, or None.
        target: the kind that is asked for.
        label_names: what the numbers 0, 1, 2, ... stand for, if that is known.
        num_images: how many images there are.

    Raises:
        UserError: the labels are not of this kind.
    """
    num_columns = len(target.columns)
    if num_columns == 0:
        return [()] * num_images
    if labels is None and target.folders == "welcome":  # one class will do
        return [("images",)] * num_images
    if labels is None:
        raise UserError(f"the images come without {target.title}. Expected data=(images, labels).")

    if labels.ndim == 2:
        rows = _cells_of_rows(labels, target, label_names)
    elif target.offer == "class":
        rows = [(text,) for text in _class_texts(labels, label_names)]
    else:
        rows = [(text_of(value),) for value in labels.tolist()]
    if len(rows[0]) != num_columns:
        names = ", ".join(column[0] for column in target.columns)
        raise UserError(
            f"the labels have {_counted(len(rows[0]), 'column')}, and {num_columns} of them are "
            f"asked for ({names}). Name as many: columns=['a', 'b']."
        )
    return [target.read(row, f"image {i}") for i, row in enumerate(rows)]


def splits_of(splits: Any, num_images: int) -> np.ndarray:
    """Return "train", "val", "test" or "" (in none) for each image (N,).

    Args:
        splits: positions for each split, as {"train": [...], "test": [...]} or in this order, with
            two or three of them, or a mask for each; or the name of its split for each image.
        num_images: how many images there are.

    Raises:
        UserError: a split is unknown or empty, or an image is in two of them or not there.
    """
    if isinstance(splits, Mapping):
        parts = {_known_split(name): positions for name, positions in splits.items()}
    elif _names_each(splits, num_images):
        names = [split_of(str(name)) for name in splits]
        unknown = [str(given) for given, name in zip(splits, names, strict=True) if not name]
        if unknown:
            raise UserError(f"unknown split '{unknown[0]}'. Expected train, val or test.")
        return np.array(names)
    elif isinstance(splits, Sequence) and len(splits) in (2, 3):
        parts = dict(zip(SPLITS if len(splits) == 3 else ("train", "test"), splits, strict=True))
    else:
        raise UserError(
            "splits cannot be read. Expected fractions such as (0.7, 0.1, 0.2), positions as in "
            "{'train': [...], 'val': [...], 'test': [...]}, or a split for each image."
        )

    result = np.full(num_images, "", "<U5")
    for name, given in parts.items():
        positions = _positions(given, name, num_images)
        taken = positions[result[positions] != ""]
        if len(taken):
            raise UserError(
                f"splits overlap: image {taken[0]} is in {result[taken[0]]} and in {name}."
            )
        result[positions] = name
    return result


def weights_of(weights: Any, num_images: int) -> np.ndarray:
    """Return the weight of each image (N,) float32.

    Raises:
        UserError: a weight is missing, negative or not finite, or none is above zero.
    """
    array = np.asarray(as_array(weights))
    if array.shape != (num_images,):
        raise UserError(
            f"sample_weight is {array.shape}, and there are {num_images:,} images. "
            "Expected a number for each."
        )
    try:
        array = array.astype(np.float32)
    except (TypeError, ValueError):
        raise UserError(
            f"sample_weight is of type {array.dtype}. Expected numbers from 0 on."
        ) from None

    bad = np.flatnonzero(~(np.isfinite(array) & (array >= 0)))
    if len(bad):
        raise UserError(
            f"the sample_weight of image {bad[0]} is {array[bad[0]]:g}. Expected numbers from 0 on."
        )
    if not array.any():
        raise UserError("every sample_weight is 0, so nothing can be learned. Expected some above.")
    return array


def groups_of(groups: Any, num_images: int) -> np.ndarray:
    """Return the name of the group of each image (N,), "" where it stands alone.

    Raises:
        UserError: another number of groups than of images.
    """
    array = np.asarray(as_array(groups))
    if array.shape != (num_images,):
        raise UserError(
            f"groups is {array.shape}, and there are {num_images:,} images. "
            "Expected a group for each."
        )
    return np.array(["" if is_missing(group) else text_of(group) for group in array.tolist()])


def _label_array(labels: Any) -> np.ndarray:
    if not isinstance(labels, list | tuple):
        return as_array(labels)

    if all(isinstance(label, list | tuple | set | frozenset) for label in labels):
        if not all(_is_number(each) for label in labels for each in label):
            return np.array([";".join(sorted(map(str, label))) or ";" for label in labels])
        return np.array([list(label) for label in labels])
    try:
        flat = [label.item() if hasattr(label, "item") else label for label in labels]
    except (RuntimeError, ValueError):  # of several values each
        return np.array([as_array(label) for label in labels])
    array = np.empty(len(flat), object)
    array[:] = flat
    return array


def _of_one_type(array: np.ndarray) -> np.ndarray:
    """Return labels of type object as text or numbers.

    Raises:
        UserError: one is missing, or they are of several types.
    """
    for i, label in enumerate(array.flat):
        if is_missing(label):
            raise UserError(f"the label of image {i} is missing ({label!r}). Add it, or leave out "
                            "the image.")  # fmt: skip

    first = array.flat[0]
    for i, label in enumerate(array.flat):
        if _sort(label) != _sort(first):
            raise UserError(
                f"the labels are of mixed types: {first!r} (image 0) is {_sort(first)}, and "
                f"{label!r} (image {i}) is {_sort(label)}. Expected one type."
            )
    if _sort(first) == "text":
        return np.array([str(label) for label in array.flat])
    if _sort(first) == "a number":
        return np.array(array.tolist())
    raise UserError(f"the labels are of type {type(first).__name__}. Expected text or numbers.")


def _sort(label: Any) -> str:
    if isinstance(label, str):
        return "text"
    return "a number" if _is_number(label) else f"a {type(label).__name__}"


def _is_number(label: Any) -> bool:
    return isinstance(label, int | float | np.number | np.bool_)


def _is_text(array: np.ndarray) -> bool:
    return array.dtype.kind == "U"


def is_missing(label: Any) -> bool:
    """Return whether a label is None, NaN, or what pandas has in their place."""
    if label is None or type(label).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(label, float) and label != label


def _refuse_missing(array: np.ndarray) -> None:
    missing = np.zeros(len(array), bool)
    if array.dtype.kind == "f" and array.ndim == 1:
        missing = ~np.isfinite(array)
    elif _is_text(array):
        missing = array == ""
    if missing.any():
        position = int(np.flatnonzero(missing)[0])
        raise UserError(
            f"the label of image {position} is missing ({array[position]!r}). "
            "Add it, or leave out the image."
        )


def _class_texts(labels: np.ndarray, label_names: Sequence[str]) -> list[str]:
    """Return the class of each image."""
    if labels.dtype.kind == "f":
        fractions = np.flatnonzero(labels != np.rint(labels))
        if len(fractions):
            raise UserError(
                f"the label of image {fractions[0]} is {labels[fractions[0]]:g}, which is no "
                "class. Expected text or whole numbers; for numbers to be read from images, "
                "choose such a task (`tintype list tasks`)."
            )
        labels = labels.astype(np.int64)
    values = labels.tolist()
    if label_names and labels.dtype.kind in "iu":
        beyond = [i for i, value in enumerate(values) if not 0 <= value < len(label_names)]
        if beyond:
            raise UserError(
                f"the label of image {beyond[0]} is {values[beyond[0]]}, and there are "
                f"{len(label_names)} names of classes."
            )
        return [str(label_names[value]) for value in values]
    return [text_of(value) for value in values]


def _cells_of_rows(
    labels: np.ndarray, target: TargetKind, label_names: Sequence[str]
) -> list[tuple[str, ...]]:
    """Return the cells of labels (N, K)."""
    if target.offer == "class":
        raise UserError(
            f"the labels are {labels.shape}, and each image has one class. "
            "Expected (N,); of one-hot rows that is labels.argmax(1)."
        )
    if len(target.columns) == 1 and target.offer == "labels":  # those whose column is 1
        names = label_names or [str(i) for i in range(labels.shape[1])]
        there = [[str(names[i]) for i in np.flatnonzero(row == 1).tolist()] for row in labels]
        return [(";".join(each) or ";",) for each in there]
    return [tuple(map(text_of, row)) for row in labels.tolist()]


def text_of(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "nan" if is_missing(value) else str(value)


def _known_split(name: Any) -> str:
    known = split_of(str(name))
    if not known:
        raise UserError(f"unknown split '{name}'. Expected train, val or test.")
    return known


def _names_each(splits: Any, num_images: int) -> bool:
    """Return whether `splits` names the split of each image."""
    try:
        return len(splits) == num_images and isinstance(next(iter(splits)), str)
    except (TypeError, StopIteration):
        return False


def _positions(given: Any, name: str, num_images: int) -> np.ndarray:
    array = np.asarray(as_array(given))
    if array.dtype == bool and array.shape == (num_images,):
        array = np.flatnonzero(array)
    if array.size == 0:
        raise UserError(f"the split {name} is empty. Leave it out, or give it images.")
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise UserError(
            f"the split {name} is {array.shape} of {array.dtype}. Expected positions of images."
        )

    outside = array[(array < 0) | (array >= num_images)]
    if len(outside):
        raise UserError(
            f"the split {name} names image {outside[0]}, and there are {num_images:,} images "
            f"(0 to {num_images - 1})."
        )
    values, counts = np.unique(array, return_counts=True)
    if (counts > 1).any():
        raise UserError(f"the split {name} names image {values[counts > 1][0]} twice.")
    return array


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
