"""How alike an exported graph and PyTorch's own computation are, and how long each takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tintype.errors import UserError

# What identical pictures get: more than any 8-bit picture with a single wrong pixel below 100
# megapixels, and finite.
PERFECT_PSNR = 130.0
# dB between the pictures of both; 50 is half a level off on average
LEAST_PSNR = {"float32": 50.0, "float16": 35.0}
SECONDS = 1.0  # for each latency


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio in dB of two pictures with values of 0..255.

    PERFECT_PSNR when they are equal.
    """
    error = float(np.mean((one.astype(np.float64) - other.astype(np.float64)) ** 2))
    return PERFECT_PSNR if error == 0 else min(PERFECT_PSNR, 10 * np.log10(255**2 / error).item())


def compare_pictures(
    expected: Sequence[np.ndarray], got: Sequence[np.ndarray], words: str, precision: str
) -> dict[str, Any]:
    """Return how the pictures of a graph agree with PyTorch's, all of them uint8.

    Args:
        expected: PyTorch's pictures in float32.
        got: those of the graph.
        words: what they are, as "32 generated images".
        precision: that of the graph, "float32" or "float16".

    Raises:
        UserError: they do not agree.
    """
    pairs = list(zip(expected, got, strict=True))
    ratios = [psnr(a, b) for a, b in pairs]
    largest = max(int(np.abs(a.astype(int) - b).max()) for a, b in pairs)

    if min(ratios) < LEAST_PSNR[precision]:
        raise refused(
            f"its pictures differ from PyTorch's by up to {largest} levels of 255 (PSNR "
            f"{min(ratios):.1f} dB on {words}; expected {LEAST_PSNR[precision]:.0f})."
        )
    return {
        "images": words,
        "num_images": len(pairs),
        "largest_difference": largest,
        "psnr_least": min(ratios),
        "psnr_mean": float(np.mean(ratios)),
    }


def picture_lines(checked: Mapping[str, Any]) -> list[str]:
    """Return what `compare_pictures` found as a line for the terminal."""
    return [
        f"checked   on {checked['images']}: PSNR to PyTorch's pictures {checked['psnr_least']:.1f} "
        f"dB at least, largest difference {checked['largest_difference']} of 255"
    ]


def latency(call: Callable[[], Any]) -> float:
    """Return the median milliseconds of a call, after some to warm up."""
    for _ in range(3):
        call()

    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < 5 or (time.perf_counter() - begin < SECONDS and len(times) < 200):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times))


def refused(reason: str) -> UserError:
    """Return the error of an export that is not the model that it was made from."""
    return UserError(f"the export is not kept, because it is not the same model: {reason}")
