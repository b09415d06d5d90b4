"""Noise from (seed, index), truncation, interpolation, and sheets of images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from torch import Tensor

VIEWING_SIDE = 64  # pixels that a side of an image on a sheet is brought near to
WIDEST_SHEET = 2048


def latents(seed: int, indices: Iterable[int], shape: Sequence[int]) -> NDArray[np.float32]:
    """Return noise (N, *shape) float32; each row depends on (seed, index) only, on any machine."""
    rows = [
        np.random.Generator(np.random.Philox([seed, index])).standard_normal(tuple(shape))
        for index in indices
    ]
    return np.asarray(rows, np.float32).reshape(-1, *shape)


def drawn(shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> Tensor:
    """Return the next standard normal noise of a training stream.

    It is drawn on the device of the generator and moved to `device`.
    """
    return torch.randn(shape, generator=generator, device=generator.device).to(device)


def truncated(noise: NDArray[np.float32], bound: float) -> NDArray[np.float32]:
    """Return the noise squeezed into -bound..bound in its order (Brock et al. 2019).

    The result follows a normal distribution truncated there.

    A smaller bound gives more typical and less varied images.
    """
    low = ndtr(-bound)
    return ndtri(low + ndtr(noise.astype(np.float64)) * (1 - 2 * low)).astype(np.float32)


def between(
    start: NDArray[np.float32], end: NDArray[np.float32], part: float
) -> NDArray[np.float32]:
    """Return the point at `part` of the great circle from one noise to another.

    The great circle keeps the length typical.
    """
    a, b = start.astype(np.float64), end.astype(np.float64)
    cosine = float(np.sum(a * b) / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-12))
    angle = math.acos(min(1.0, max(-1.0, cosine)))
    if angle < 1e-6:
        return start
    mixed = (math.sin((1 - part) * angle) * a + math.sin(part * angle) * b) / math.sin(angle)
    return mixed.astype(np.float32)


def path(seed: int, indices: range, shape: Sequence[int], steps: int) -> NDArray[np.float32]:
    """Return points on a path through noise 0, 1, 2, ..., with `steps` points for each leg."""
    first = indices.start // steps
    stations = latents(seed, range(first, (indices.stop - 1) // steps + 2), shape)
    return np.stack(
        [
            between(
                stations[i // steps - first], stations[i // steps - first + 1], i % steps / steps
            )
            for i in indices
        ]
    )


def to_pixels(images: Tensor) -> Tensor:
    """Turn images (N, C, H, W) in -1..1 into uint8."""
    return (images.float().clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)


def grid(images: NDArray[np.uint8], columns: int, gap: int = 2) -> NDArray[np.uint8]:
    """Return a sheet (H, W, C) of images (N, H, W, C) uint8 in rows of `columns`."""
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    sheet = np.full(
        (rows * (height + gap) - gap, columns * (width + gap) - gap, channels), 128, np.uint8
    )
    for number, image in enumerate(images):
        top, left = number // columns * (height + gap), number % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def square_columns(count: int) -> int:
    """Return the columns of a nearly square sheet of `count` images, never taller than wide."""
    return max(1, math.ceil(math.sqrt(count)))


def viewing_scale(size: tuple[int, int], columns: int) -> int:
    """Return the whole-number factor that makes small images visible; 1 for larger ones.

    Args:
        size: height and width of an image in pixels.
        columns: how many images stand in a row; a row is not enlarged beyond 2,048 pixels.
    """
    wanted = VIEWING_SIDE // max(size)
    most = WIDEST_SHEET // (columns * size[1])
    return max(1, min(wanted, most))


def enlarged(images: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """Repeat each pixel of images (..., H, W, C) `scale` times in both directions."""
    return images.repeat(scale, axis=-3).repeat(scale, axis=-2)
