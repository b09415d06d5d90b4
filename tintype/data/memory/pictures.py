"""Turn pictures that come one by one (Pillow images, arrays, tensors) into pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from tintype.data.decode import Resize, fit, quiet_pillow
from tintype.data.duplicates import THUMBNAIL, near_search, thumbnail
from tintype.data.memory.arrays import as_array, channels_last, scale_of, to_bytes
from tintype.data.sets.folder import DIGEST, suitable_size
from tintype.data.source import Looks
from tintype.errors import UserError

FIRST = 32  # images of floats by whose values their scale is decided
GREY_MODES = ("1", "L", "LA", "I", "F", "I;16", "I;16B", "I;16L")

Pixels = np.ndarray | list[np.ndarray]  # (N, H, W, C), or (H, W, C) each, of uint8


def is_picture(thing: Any) -> bool:
    """Return whether something may be one picture: a Pillow image, an array or a tensor."""
    if isinstance(thing, Image.Image | torch.Tensor):
        return True
    return isinstance(thing, np.ndarray) and thing.ndim in (2, 3)


def pixels_of_each(pictures: Iterable[Any]) -> tuple[Pixels, str]:
    """Return pictures as pixels, and a note on how they were read.

    Pictures of one size become one array; of several sizes each keeps its own.

    Args:
        pictures: Pillow images; or (H, W), (H, W, C) or (C, H, W) of 0..255, or of floats of 0..1
            or 0..255.

    Raises:
        UserError: something is no picture, or there is none.
    """
    reader = _Reader()
    for position, picture in enumerate(pictures):
        reader.add(picture, position)
    found = reader.finished()
    if not found:
        raise UserError("there is no image in the data. Expected some.")

    channels = max(each.shape[2] for each in found)
    if any(each.shape[2] < channels for each in found):
        found = [np.repeat(each, channels // each.shape[2], axis=2) for each in found]
    sizes = {each.shape for each in found}
    many = f"{len(found):,} {reader.what}"
    if len(sizes) == 1:
        height, width, _ = found[0].shape
        return np.stack(found), f"images: {many} of {height}x{width}x{channels}{reader.note}"
    return found, f"images: {many} of {len(sizes):,} sizes{reader.note}"


def fitted(
    pictures: Sequence[np.ndarray],
    image_size: int | tuple[int, int] | None,
    channels: int | None,
    resize: Resize,
    notes: list[str],
) -> np.ndarray:
    """Return pictures of several sizes in one (N, H, W, C), which is chosen and noted if not asked.

    Args:
        pictures: (H, W, C) uint8 each.
        image_size: a side, or (height, width).
        channels: 1 or 3; by default as they are.
        resize: how they are brought to that size.
        notes: lines for the user, to which this adds.
    """
    num_channels: int = channels or pictures[0].shape[2]
    if image_size is None:
        height, width = suitable_size([each.shape[:2] for each in pictures], notes)
    else:
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size

    result = np.empty((len(pictures), height, width, num_channels), np.uint8)
    for i, picture in enumerate(pictures):
        result[i] = fit(picture, height=height, width=width, channels=num_channels, resize=resize)
    return result


def looks_of(pictures: Sequence[np.ndarray]) -> Looks:
    """Return what pictures of several sizes show at the size that suits them."""
    pixels = fitted(pictures, None, None, Resize(), [])
    searched, note = near_search(len(pixels), min(pixels.shape[1:3]))
    digests = [hashlib.blake2b(each.data, digest_size=DIGEST).digest() for each in pixels]
    thumbs = np.stack([thumbnail(each, THUMBNAIL) for each in pixels]) if searched else None
    return Looks(np.array([np.frombuffer(each, np.uint8) for each in digests]), thumbs, note)


class _Reader:
    """Reads pictures in order; the first ones that are no uint8 decide on the scale of all."""

    def __init__(self) -> None:
        self.what = "pictures"
        self.note = ""
        self.pixels: list[np.ndarray] = []
        self._scale: float | None = None
        self._waiting: list[int] = []  # positions of values without a scale

    def add(self, picture: Any, position: int) -> None:
        """Read the next picture."""
        if isinstance(picture, Image.Image):
            channels = 1 if picture.mode in GREY_MODES else 3
            with quiet_pillow():
                self.pixels.append(fit(picture, height=None, width=None, channels=channels))
            return
        if not is_picture(picture):
            raise UserError(
                f"image {position} is a {type(picture).__name__}. "
                "Expected Pillow images, arrays or tensors, or paths of files."
            )

        kind = "tensor" if isinstance(picture, torch.Tensor) else "array"
        self.what = f"{kind}s"
        values, layout = channels_last(as_array(picture)[None], kind)
        if position == 0:
            self.note = f", each read as {layout.replace('(N, ', '(')}"
        self.pixels.append(values[0])
        if values.dtype != np.uint8:
            self._add_values(values[0], position)

    def finished(self) -> list[np.ndarray]:
        """Return all pictures (H, W, C) uint8."""
        if self._waiting:
            self._decide()
        return self.pixels

    def _add_values(self, values: np.ndarray, position: int) -> None:
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise UserError(
                f"image {position} has values that are NaN or infinite. Expected finite ones."
            )
        self._waiting.append(position)
        if self._scale is None and len(self._waiting) == FIRST:
            self._decide()
        elif self._scale is not None:
            self._convert(position)

    def _decide(self) -> None:
        """Decide on the scale by the pictures that wait, and convert them."""
        values = [self.pixels[i].ravel() for i in self._waiting]
        self._scale, note = scale_of(np.concatenate(values)[None])
        self.note += note
        for position in list(self._waiting):
            self._convert(position)

    def _convert(self, position: int) -> None:
        assert self._scale is not None
        values = self.pixels[position]
        low, high = float(values.min()), float(values.max())
        if low < 0 or high * self._scale > 255:
            raise UserError(
                f"image {position} has values from {low:.4g} to {high:.4g}, where those before lie "
                f"within 0 to {255 / self._scale:g}. Expected one scale for all."
            )
        self.pixels[position] = to_bytes(values[None], self._scale)[0]
        self._waiting.remove(position)
