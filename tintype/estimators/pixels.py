"""From the X of scikit-learn to the pixels (N, H, W, C) uint8 in which all of tintype computes.

X is images, flat rows of images, a table of features, pictures of several sizes, or paths of files.
The values of images become pixels by one range, which the training images have; those of a table by
one range for each column. A table is an image of one row.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from PIL import Image

from tintype.data.decode import Resize
from tintype.data.memory.arrays import channels_last
from tintype.data.memory.pictures import fitted, is_picture, pixels_of_each
from tintype.data.sets.folder import Found, Photo, read_photos
from tintype.data.source import Images
from tintype.data.targets import ANY_CLASSES, TargetKind
from tintype.estimators.mistakes import BadValue
from tintype.progress import Progress

CHANNELS = (1, 3)


@dataclass(frozen=True)
class Files:
    """Paths of image files."""

    paths: Sequence[str]

    def __len__(self) -> int:
        return len(self.paths)

    def rows(self, rows: np.ndarray) -> Files:
        return Files([self.paths[int(row)] for row in rows])


@dataclass(frozen=True)
class Pictures:
    """Pictures of several sizes, (H, W, C) uint8 each."""

    pictures: Sequence[np.ndarray]

    def __len__(self) -> int:
        return len(self.pictures)

    def rows(self, rows: np.ndarray) -> Pictures:
        return Pictures([self.pictures[row] for row in rows.tolist()])


@dataclass(frozen=True)
class Values:
    """Numbers: images (N, H, W, C), or a table of features, which is (N, 1, F, 1)."""

    array: np.ndarray
    table: bool = False

    def __len__(self) -> int:
        return len(self.array)

    def rows(self, rows: np.ndarray) -> Values:
        return Values(self.array[rows], self.table)


Given = Files | Pictures | Values


@dataclass(frozen=True)
class Range:
    """The values that become 0 and 255: one of each for images, one for each column of a table."""

    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, given: Given) -> Range:
        """Return the range of what is trained on."""
        if not isinstance(given, Values):
            return cls(np.array(0.0), np.array(255.0))
        if given.array.dtype == np.uint8 and not given.table:
            return cls(np.array(0.0), np.array(255.0))
        array = given.array
        if given.table:
            low, high = array[:, 0, :, 0].min(0), array[:, 0, :, 0].max(0)
            low, high = low.astype(np.float64), high.astype(np.float64)
            return cls(low, np.where(high > low, high, low + 1))
        return cls(np.array(min(0.0, float(array.min()))), np.array(_white(float(array.max()))))

    @property
    def is_table(self) -> bool:
        return self.low.ndim == 1

    def pixels(self, values: Values) -> np.ndarray:
        """Return values as (N, H, W, C) uint8; what lies beyond the range becomes its end.

        Raises:
            BadValue: a table in place of images, or the other way.
        """
        array = values.array
        if values.table != self.is_table:
            raise BadValue(
                "X is a table of rows (N, F), and fit was given images. Expected images, or "
                "image_shape=(height, width)."
                if values.table
                else "X is images, and fit was given a table of rows (N, F). Expected rows."
            )
        self._refuse_other_scale(array)
        if array.dtype == np.uint8 and not self.is_table and (self.low, self.high) == (0, 255):
            return np.ascontiguousarray(array)

        low, high = (end[:, None] if self.is_table else end for end in (self.low, self.high))
        scaled = (array.astype(np.float64) - low) * (255 / (high - low))
        return np.ascontiguousarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8))

    def _refuse_other_scale(self, array: np.ndarray) -> None:
        """Refuse values of 0..1 where those of fit were of 0..255, or the other way."""
        if self.is_table or not array.size:
            return
        floats = array.dtype.kind == "f"
        largest = float(array.max())
        if (floats and self.high == 255 and 0 < largest <= 1) or (
            not floats and self.high == 1 and largest > 1
        ):
            raise BadValue(
                f"X has values up to {largest:g}, and the images of fit had 0 to "
                f"{float(self.high):g}. Expected the same scale."
            )


def _white(largest: float) -> float:
    """Return the value that is white: 1 or 255 where it is meant, otherwise the largest."""
    if largest <= 1:
        return 1.0
    return 255.0 if 128 < largest <= 255 else largest


def paths_in(X: Any) -> Files | None:
    """Return the paths that X consists of, None where it is something else.

    They are a list, an array or a Series of texts or paths, or the only column of a frame.
    """
    if isinstance(X, str | bytes | os.PathLike) or not hasattr(X, "__len__") or not len(X):
        return None
    shape = getattr(X, "shape", None)
    if shape is None:
        items = list(X)
    elif len(shape) == 1 or (len(shape) == 2 and shape[1] == 1):
        items = np.asarray(X).reshape(-1).tolist()
    else:
        return None
    if not all(isinstance(item, str | os.PathLike) for item in items):
        return None
    return Files([os.fspath(item) for item in items])


def pictures_in(X: Any) -> Pictures | Values | None:
    """Return the Pillow images, or the arrays of several sizes, that X consists of, or None.

    Raises:
        UserError: they cannot be read as images.
    """
    one_axis = isinstance(X, list | tuple) or (isinstance(X, np.ndarray) and X.ndim == 1)
    if not one_axis or not len(X) or not all(is_picture(item) for item in X):
        return None
    if len({getattr(item, "shape", None) for item in X}) == 1 and not isinstance(X[0], Image.Image):
        return None  # which NumPy stacks

    pixels, _ = pixels_of_each(X)
    return Values(pixels) if isinstance(pixels, np.ndarray) else Pictures(pixels)


def num_axes(X: Any) -> int:
    """Return the number of axes of an array, or of a list of arrays."""
    shape = getattr(X, "shape", None)
    if shape is None and isinstance(X, list | tuple) and len(X):
        return 1 + num_axes(X[0])
    return len(shape or ())


def as_images(array: np.ndarray) -> Values:
    """Return an array (N, H, W), (N, H, W, C) or (N, C, H, W) as images."""
    return Values(channels_last(array, "array")[0])


def as_rows(rows: np.ndarray, image_shape: Sequence[int] | None) -> Values:
    """Return flat rows (N, F) as images of a shape, or as a table.

    Raises:
        BadValue: the shape does not fit the rows.
    """
    if image_shape is None:
        return Values(rows[:, None, :, None], table=True)

    shape = tuple(image_shape)
    shape = (*shape, 1) if len(shape) == 2 else shape
    if len(shape) != 3 or shape[2] not in CHANNELS or prod(shape) != rows.shape[1]:
        raise BadValue(
            f"image_shape is {image_shape}, and a row has {rows.shape[1]} values. Expected "
            "(height, width) or (height, width, channels) of as many, with 1 or 3 channels."
        )
    return Values(rows.reshape(-1, *shape))


@dataclass(frozen=True)
class Training:
    """The images of a fit: what the recipe's `data` names.

    Attributes:
        given: the images, as they were given.
        range: which of their values are black and white.
        targets: (N, ...) as `kind` has them.
        kind: of the targets.
        weights: (N,) of the images in the loss, above 0; None where all count the same.
    """

    given: Given
    range: Range
    targets: np.ndarray
    kind: TargetKind
    weights: np.ndarray | None = None

    def __call__(
        self,
        *,
        image_size: int | tuple[int, int] | None,
        channels: int | None,
        resize: Resize,
        progress: Progress | None,
    ) -> Images:
        """Return the images, all of them for training.

        Those of files, and of several sizes, have the size that is asked for, or that is chosen.

        Raises:
            BadValue: a file cannot be read.
        """
        names = [f"{number:07d}" for number in range(len(self.given))]
        more: dict[str, Any] = {"split": np.full(len(names), "train"), "weights": self.weights}
        if isinstance(self.given, Values):
            pixels = self.range.pixels(self.given)
            return Images(pixels, self.targets, names, self.kind, **more)
        if isinstance(self.given, Pictures):
            pixels = fitted(self.given.pictures, image_size, channels, resize, [])
            return Images(pixels, self.targets, names, self.kind, on_disk=True, **more)

        photos = [
            Photo(path, name, ("",), "train")
            for path, name in zip(self.given.paths, names, strict=True)
        ]
        images = read_photos(
            Found(photos),
            "X",
            image_size=image_size,
            channels=channels,
            resize=resize,
            progress=progress,
            target=ANY_CLASSES,
        )
        if images.skipped:
            name, reason = images.skipped[0]
            raise BadValue(f"{self.given.paths[int(name)]} cannot be used: {reason}.")
        return replace(images, targets=self.targets, target=self.kind, **more)
