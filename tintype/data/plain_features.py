"""Features of photos that need no trained network."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch.nn import functional

from tintype.hardware.cores import num_cores

CONTRAST = 10 / 255**2  # added to the variance of a patch, so that flat ones stay flat
NUM_FILTERS = 128
PATCH = 6  # side in pixels


def plain_features(thumbs: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return (N, F) float32 features that need no trained network.

    They are edges, colours and small whitened patterns. Histograms of oriented gradients (Dalal and
    Triggs 2005), means, deviations and a histogram of the colours, and the responses to 128
    whitened patches of the images themselves (Coates, Ng and Lee 2011), averaged in quarters. About
    1.5 ms for an image. On TrashNet logistic regression reaches 69 % with them, on CIFAR-10 about
    60 %.

    Args:
        thumbs: (N, S, S, C) uint8, S a multiple of 32.
        seed: decides on the patches.
    """
    filters = _filters(thumbs, seed)

    def features(start: int) -> np.ndarray:
        pixels = _reduced(thumbs[start : start + 256])
        return np.concatenate(
            [_gradients(pixels), _colours(pixels), _responses(pixels, *filters)], axis=1
        )

    with ThreadPoolExecutor(num_cores()) as pool:
        return np.concatenate(list(pool.map(features, range(0, len(thumbs), 256))))


def _reduced(thumbs: np.ndarray, side: int = 32) -> np.ndarray:
    """Return (N, 32, 32, 3) float32 of 0..255."""
    step = thumbs.shape[1] // side
    small = thumbs.reshape(len(thumbs), side, step, side, step, -1).mean((2, 4), dtype=np.float32)
    return np.repeat(small, 3, axis=3) if small.shape[3] == 1 else small


def _gradients(pixels: np.ndarray, cells: int = 8, bins: int = 9) -> np.ndarray:
    """Return histograms of unsigned gradient directions in 8 x 8 cells, each divided by its
    neighbourhood's length.
    """
    num_images, side = pixels.shape[:2]
    across, down = np.zeros_like(pixels), np.zeros_like(pixels)
    root = np.sqrt(pixels)
    down[:, 1:-1] = root[:, 2:] - root[:, :-2]
    across[:, :, 1:-1] = root[:, :, 2:] - root[:, :, :-2]
    length = np.hypot(across, down)
    strongest = length.argmax(3)[..., None]  # of the channels
    across, down, length = (
        np.take_along_axis(v, strongest, 3)[..., 0] for v in (across, down, length)
    )
    position = np.arctan2(down, across) % np.pi * (bins / np.pi)
    lower = np.floor(position).astype(np.int64)
    share = position - lower
    step = side // cells

    histogram = np.zeros((num_images, cells, cells, bins), np.float32)
    for b in range(bins):
        part = length * ((lower % bins == b) * (1 - share) + ((lower + 1) % bins == b) * share)
        histogram[..., b] = part.reshape(num_images, cells, step, cells, step).sum((2, 4))

    energy = np.pad((histogram**2).sum(3), ((0, 0), (1, 1), (1, 1)), mode="edge")
    around = sum(energy[:, i : i + cells, j : j + cells] for i in range(3) for j in range(3))
    return (histogram / np.sqrt(around + 1e-2)[..., None]).reshape(num_images, -1)


def _colours(pixels: np.ndarray, cells: int = 4) -> np.ndarray:
    """Return mean and deviation of each channel in 4 x 4 cells, and a histogram of 64 colours."""
    num_images, side = pixels.shape[:2]
    boxes = pixels.reshape(num_images, cells, side // cells, cells, side // cells, 3)
    code = (pixels // 64).astype(np.int64) @ np.array([16, 4, 1])
    code += 64 * np.arange(num_images)[:, None, None]
    histogram = (
        np.bincount(code.ravel(), minlength=64 * num_images).reshape(num_images, 64) / side**2
    )
    parts = [boxes.mean((2, 4)) / 64, boxes.std((2, 4)) / 64, 4 * np.sqrt(histogram)]
    return np.concatenate([part.reshape(num_images, -1) for part in parts], axis=1).astype(
        np.float32
    )


def _filters(thumbs: np.ndarray, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return 128 patches as filters (128, 3, 6, 6) that also whiten what they look at, and their
    offsets (128,).
    """
    rng = np.random.default_rng([seed, 1])
    pixels = (
        _reduced(thumbs[np.sort(rng.integers(0, len(thumbs), min(2000, 4 * len(thumbs))))]) / 255
    )
    image, top, left = (
        rng.integers(0, high, 10_000) for high in (len(pixels), 32 - PATCH + 1, 32 - PATCH + 1)
    )
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (PATCH, PATCH), axis=(1, 2))
    patches = windows[image, top, left].reshape(len(image), -1).astype(np.float64)  # channel first
    patches -= patches.mean(1, keepdims=True)
    patches /= np.sqrt(patches.var(1, keepdims=True) + CONTRAST)
    mean = patches.mean(0)
    values, vectors = np.linalg.eigh(np.cov(patches.T))
    whiten = (vectors / np.sqrt(values.clip(0) + 0.1)) @ vectors.T
    chosen = (patches[rng.permutation(len(patches))[:NUM_FILTERS]] - mean) @ whiten
    filters = chosen / np.linalg.norm(chosen, axis=1, keepdims=True).clip(1e-6) @ whiten

    return (
        torch.from_numpy(filters.reshape(-1, 3, PATCH, PATCH).astype(np.float32)),
        torch.from_numpy((filters @ mean).astype(np.float32)),
    )


def _responses(pixels: np.ndarray, filters: torch.Tensor, offsets: torch.Tensor) -> np.ndarray:
    """Return how strongly each filter answers, for and against, averaged in the four quarters of
    each image.
    """
    images = torch.from_numpy(pixels / 255).permute(0, 3, 1, 2).contiguous()
    mean = functional.avg_pool2d(images.mean(1, keepdim=True), PATCH, 2)
    square = functional.avg_pool2d((images * images).mean(1, keepdim=True), PATCH, 2)
    deviation = (square - mean * mean).clamp_min(0).add(CONTRAST).sqrt()
    answer = functional.conv2d(images, filters, stride=2)  # changed in place: it is large
    answer -= filters.sum((1, 2, 3))[None, :, None, None] * mean
    answer /= deviation
    answer -= offsets[None, :, None, None]
    both = [functional.adaptive_avg_pool2d((s * answer - 1).clamp_min_(0), 2) for s in (1, -1)]
    return torch.cat(both, dim=1).flatten(1).numpy()
