"""Turn arrays and tensors of images into pixels (N, H, W, C) uint8, and say how they were read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from tintype.errors import UserError

CHANNELS = (1, 3)
CHUNK_BYTES = 16_000_000  # that are looked at at once


def as_array(images: Any) -> np.ndarray:
    """Return an array or tensor, of whatever library and device, as a NumPy array."""
    if isinstance(images, torch.Tensor):
        images = images.detach().cpu()
        return (images.float() if images.dtype == torch.bfloat16 else images).numpy()
    return np.asarray(images)


def pixels_of(images: Any) -> tuple[np.ndarray, str]:
    """Return images as pixels (N, H, W, C) uint8, and a note on how they were read.

    Args:
        images: (N, H, W), (N, H, W, C) or (N, C, H, W), of 0..255, or of floats of 0..1 or 0..255.

    Raises:
        UserError: the shape or the values are none of these.
    """
    kind = "tensor" if isinstance(images, torch.Tensor) else "array"
    array = as_array(images)
    given = f"{kind} {array.shape} {array.dtype}"
    array, layout = channels_last(array, kind)
    array, scale = _as_bytes(array)
    return np.ascontiguousarray(array), f"images: {given}, read as {layout}{scale}"


def scale_of(images: np.ndarray) -> tuple[float, str]:
    """Return the factor that brings values to 0..255, and a note on why it is that.

    Args:
        images: (N, ...) of bools, whole numbers or floats.

    Raises:
        UserError: values that are not finite, or that are no pixels in either scale.
    """
    kind = images.dtype.kind
    if kind == "b":
        return 255.0, "; True is white"
    if kind not in "iuf":
        raise UserError(
            f"the images are of type {images.dtype}. Expected uint8, or floats of 0..1 or 0..255."
        )

    low, high = _range(images)
    if low < 0 or high > 255:
        raise UserError(
            f"the images have values from {low:.4g} to {high:.4g}. Expected 0 to 255, or floats "
            "from 0 to 1: tintype normalises by itself, so leave that out, or rescale them."
        )
    if kind in "iu":
        return 1.0, ""
    if high <= 1:
        return 255.0, f"; floats from {low:.4g} to {high:.4g} are of 0..1, since none is above 1"
    return 1.0, f"; floats from {low:.4g} to {high:.4g} are of 0..255, since some are above 1"


def to_bytes(images: np.ndarray, scale: float) -> np.ndarray:
    """Return values times `scale` as uint8, rounded; what lies outside 0..255 is cut off."""
    if images.dtype == np.uint8 and scale == 1:
        return images
    result = np.empty(images.shape, np.uint8)
    for rows in _chunks(images):
        values = images[rows].astype(np.float32) * np.float32(scale)
        result[rows] = np.rint(values).clip(0, 255).astype(np.uint8)
    return result


def channels_last(array: np.ndarray, kind: str) -> tuple[np.ndarray, str]:
    """Return images as (N, H, W, C), and what their axes were taken for."""
    if array.ndim not in (3, 4) or 0 in array.shape[1:]:
        raise UserError(_not_images(array))
    if len(array) == 0:
        raise UserError(f"the images are {array.shape}: there is none.")
    if array.ndim == 3:
        return array[..., None], "(N, H, W)"

    first = array.shape[1] in CHANNELS
    last = array.shape[3] in CHANNELS
    if not first and not last:
        raise UserError(_not_images(array))
    if first and last:
        first = kind == "tensor"
        last = not first
        why = f"as is usual of {kind}s; axes 1 and 3 both fit"
    else:
        why = f"by the {array.shape[1] if first else array.shape[3]} channels of axis "
        why += "1" if first else "3"
    if first:
        return array.transpose(0, 2, 3, 1), f"(N, C, H, W), {why}"
    return array, f"(N, H, W, C), {why}"


def _not_images(array: np.ndarray) -> str:
    expected = "Expected (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels"
    if array.ndim == 2:
        side = round(array.shape[1] ** 0.5)
        example = f"{side}, {side}" if side * side == array.shape[1] else "height, width"
        return f"the images are {array.shape}. {expected}: images.reshape(-1, {example})."
    if array.ndim == 4 and array.shape[3] == 4:
        return f"the images are {array.shape}. {expected}; without alpha: images[..., :3]."
    return f"the images are {array.shape}. {expected}."


def _as_bytes(array: np.ndarray) -> tuple[np.ndarray, str]:
    scale, note = (1.0, "") if array.dtype == np.uint8 else scale_of(array)
    return to_bytes(array, scale), note


def _range(images: np.ndarray) -> tuple[float, float]:
    """Return the least and the greatest value.

    Raises:
        UserError: one is not finite.
    """
    low, high = np.inf, -np.inf
    for rows in _chunks(images):
        values = images[rows]
        low, high = min(low, float(values.min())), max(high, float(values.max()))
        if not (np.isfinite(low) and np.isfinite(high)):
            bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
            position = rows.start + int(np.flatnonzero(bad)[0])
            raise UserError(
                f"image {position} has values that are NaN or infinite. Expected finite ones."
            )
    return low, high


def _chunks(images: np.ndarray) -> Iterator[slice]:
    step = max(1, CHUNK_BYTES // max(1, images[:1].nbytes))
    for start in range(0, len(images), step):
        yield slice(start, min(start + step, len(images)))
