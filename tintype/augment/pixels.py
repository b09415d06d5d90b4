"""What augmentations do to pixels, without chance."""

from __future__ import annotations

import torch
from torch import Tensor

GREY_WEIGHTS = (0.2989, 0.587, 0.114)  # ITU-R BT.601, as torchvision has them


def affine_matrix(
    degrees: Tensor,
    dx: Tensor | None = None,
    dy: Tensor | None = None,
    scale: Tensor | None = None,
    shear: Tensor | None = None,
) -> Tensor:
    """Return matrices (N, 2, 3) that rotate clockwise, shear along x, scale, then shift.

    The shift is (dx, dy) pixels. They lead from output to input, as torchvision's `affine` has it.
    """
    zero = torch.zeros_like(degrees)
    dx = zero if dx is None else dx
    dy = zero if dy is None else dy
    scale = torch.ones_like(degrees) if scale is None else scale

    radians = torch.deg2rad(degrees)
    cos = radians.cos()
    sin = radians.sin()
    tan = zero if shear is None else torch.deg2rad(shear).tan()
    a = (cos - sin * tan) / scale
    b = (sin + cos * tan) / scale
    c = -sin / scale
    d = cos / scale
    return matrix_of((a, b, -a * dx - b * dy), (c, d, -c * dx - d * dy))


def adjust_brightness(images: Tensor, factor: Tensor, white: float) -> Tensor:
    """Multiply float images (N, C, H, W) in 0..white by a factor (N,) for each."""
    return (images * factor[:, None, None, None]).clamp(0, white)


def adjust_contrast(
    images: Tensor, factor: Tensor, white: float, about: Tensor | None = None
) -> Tensor:
    """Move every pixel away from the mean grey of its image or of `about`; below 1, towards it."""
    mean = _grey_of(images if about is None else about).mean((1, 2, 3), keepdim=True)
    return torch.lerp(mean, images, factor[:, None, None, None]).clamp(0, white)


def adjust_saturation(images: Tensor, factor: Tensor, white: float) -> Tensor:
    """Move every pixel of RGB images away from or towards its own grey; factor 0 leaves grey."""
    return torch.lerp(_grey_of(images), images, factor[:, None, None, None]).clamp(0, white)


def adjust_hue(images: Tensor, turns: Tensor, white: float) -> Tensor:
    """Turn the hue of RGB images by a part of the circle (N,); value and saturation are kept."""
    red, green, blue = images.unbind(1)
    value = images.amax(1)
    chroma = value - images.amin(1)
    divisor = torch.where(chroma > 0, chroma, 1.0)
    sextant = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    sextant = sextant + 6 * turns[:, None, None]
    # HSV to RGB without cases: red, green and blue fall below the value by 0..chroma, each two
    # sextants apart.
    start = 5 - 2 * torch.arange(3, device=images.device)[:, None, None]
    k = (start + sextant[:, None]).remainder(6)
    fall = torch.minimum(k, 4 - k).clamp(0, 1)

    return (
        (value[:, None] - chroma[:, None] * fall)
        .clamp(0, white)
        .contiguous(memory_format=torch.channels_last)
    )


def matrix_of(*rows: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Return matrices (N, R, 3) from the columns of each of R rows."""
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)


def _grey_of(images: Tensor) -> Tensor:
    """Return the luma of RGB, or the mean of other channels: (N, 1, H, W)."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    red, green, blue = images.split(1, dim=1)
    return GREY_WEIGHTS[0] * red + GREY_WEIGHTS[1] * green + GREY_WEIGHTS[2] * blue
