"""PSNR and SSIM of enlarged images by the protocol of super-resolution.

The protocol, by its name `Y, border SCALE, 8 bit, mean of images`: both pictures are rounded to 8
bits, Y is that of ITU-R BT.601 as MATLAB's `rgb2ycbcr` makes it (16..235, rounded), SCALE pixels
are cut on every side, and the figures of the images are averaged, not their errors. Figures made
otherwise differ by more than a decibel.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d

from tintype.tasks.contract.agreement import psnr

_WEIGHTS = (65.481, 128.553, 24.966)  # ITU-R BT.601, for R, G, B of 0..1
_KERNEL = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
_KERNEL /= _KERNEL.sum()


def protocol(scale: int) -> str:
    """Return the name of the protocol for figures of an enlargement by `scale`."""
    return f"Y, border {scale}, 8 bit, mean of images"


def luma(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return Y (H, W) of 16..235, rounded, of pixels (H, W, 3) uint8.

    Grey pixels (H, W, 1) count as equal R, G and B.
    """
    grey = pixels.shape[2] == 1
    y = pixels[:, :, 0] * (sum(_WEIGHTS) / 255) if grey else pixels @ (np.array(_WEIGHTS) / 255)
    return np.rint(16 + y)


def ssim(one: NDArray, other: NDArray) -> float:
    """Return the SSIM of two pictures (H, W) or (H, W, C) of 0..255, averaged over channels.

    The window is a Gaussian of 11x11 with a deviation of 1.5, and only where it lies wholly inside.
    Below 11x11 pixels the one window that there is covers the picture.

    Source: Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment", IEEE TIP 13 (2004).
    """
    if one.ndim == 3:
        return float(np.mean([ssim(one[:, :, c], other[:, :, c]) for c in range(one.shape[2])]))
    x = one.astype(np.float64)
    y = other.astype(np.float64)
    mean_x = _blurred(x)
    mean_y = _blurred(y)
    variance_x = _blurred(x * x) - mean_x**2
    variance_y = _blurred(y * y) - mean_y**2
    covariance = _blurred(x * y) - mean_x * mean_y

    c1 = (0.01 * 255) ** 2
    c2 = (0.03 * 255) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity /= (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    return float(similarity.mean())


def _blurred(x: NDArray[np.float64]) -> NDArray[np.float64]:
    for axis in (0, 1):
        x = correlate1d(x, _KERNEL, axis=axis, mode="reflect")
    cut = [
        slice(5, -5) if length > 10 else slice(length // 2, length // 2 + 1) for length in x.shape
    ]
    return x[cut[0], cut[1]]


def compare(
    picture: NDArray[np.uint8], original: NDArray[np.uint8], scale: int
) -> dict[str, float]:
    """Return psnr_y, ssim_y, psnr_rgb and ssim_rgb of a picture (H, W, C) uint8 by the protocol."""
    cut = [
        slice(scale, -scale) if length > 2 * scale else slice(None) for length in original.shape[:2]
    ]
    one, other = picture[cut[0], cut[1]], original[cut[0], cut[1]]

    one_y = luma(one)
    other_y = luma(other)
    return {
        "psnr_y": psnr(one_y, other_y),
        "ssim_y": ssim(one_y, other_y),
        "psnr_rgb": psnr(one, other),
        "ssim_rgb": ssim(one, other),
    }
