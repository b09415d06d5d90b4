"""The augmentations: every public function here whose first argument is `canvas` is one.

Its name is the name in a recipe, the first line of its docstring is what `tintype list
augmentations` shows, its keyword arguments are its options, and their annotations say which values
are allowed. To add one is to add one function. They are applied in the order in which they stand in
this file: geometry first, because its parts are merged and the pixels are moved only once.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, BeforeValidator, Field
from torch import Tensor

from tintype.augment.canvas import Canvas, Fill
from tintype.augment.pixels import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    affine_matrix,
    matrix_of,
)


def _up_to_one(pair: Any) -> Any:
    """Complete a range given by one number, which ends at 1."""
    if isinstance(pair, int | float) and not isinstance(pair, bool):
        return pair, max(pair, 1.0)
    return tuple(pair) if isinstance(pair, list) else pair


def _rising(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError("a range rises")
    return pair


Probability = Annotated[float, Field(ge=0, le=1)]
# pixels, or below 1 a fraction of the shorter side
Length = Annotated[float, Field(ge=0, le=10_000)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Strength = Annotated[float, Field(ge=0, le=1)]
Degrees = Annotated[float, Field(ge=0, le=180)]
Area = Annotated[float, Field(ge=0.001, le=1)]  # part of the image's
Factor = Annotated[float, Field(ge=0.05, le=20)]

# (smallest, largest)
Areas = Annotated[tuple[Area, Area], BeforeValidator(_up_to_one), AfterValidator(_rising)]
Factors = Annotated[tuple[Factor, Factor], BeforeValidator(_up_to_one), AfterValidator(_rising)]


# Geometry


def flip(
    canvas: Canvas,
    *,
    probability: Probability = 0.5,
    mode: Literal["random", "alternate"] = "random",
) -> None:
    """Mirror left to right, at random or (mode alternate) every image in every second epoch.

    Alternate flipping shows each image both ways in any two epochs, half of them mirrored in each;
    `probability` has no part in it (Jordan, "94 % on CIFAR-10 in 3.29 seconds on a single GPU",
    2024).
    """
    if mode == "random":
        canvas.mirror(canvas.chance(probability))
        return
    if canvas.index is None:
        raise ValueError("flip in mode 'alternate' needs the index of the images")
    canvas.mirror(_coin(canvas.index.to(canvas.device)) ^ bool(canvas.epoch % 2))


def vertical_flip(canvas: Canvas, *, probability: Probability = 0.5) -> None:
    """Mirror top to bottom (microscopy, satellite images, textures)."""
    canvas.mirror(canvas.chance(probability), vertical=True)


def crop(canvas: Canvas, *, padding: Length = 4, fill: Fill = "reflect") -> None:
    """Pad by so many pixels and crop the old size at random.

    Below 1, `padding` is a part of the shorter side.
    """
    pixels = canvas.pixels_of(padding)
    for vertical in (True, False):
        canvas.shift(canvas.integers(-pixels, pixels), fill, vertical=vertical)


def translate(canvas: Canvas, *, distance: Length = 0.1, fill: Fill = "zero") -> None:
    """Shift by up to so many pixels (below 1: that part of the shorter side) in both directions."""
    crop(canvas, padding=distance, fill=fill)


def rotate(canvas: Canvas, *, degrees: Degrees = 15, fill: Fill = "reflect") -> None:
    """Rotate about the centre by up to so many degrees either way."""
    canvas.transform(affine_matrix(canvas.uniform(-degrees, degrees)), fill)


def affine(
    canvas: Canvas,
    *,
    degrees: Degrees = 10,
    translate: Fraction = 0.05,
    scale: Factors = (0.9, 1.1),
    shear: Annotated[float, Field(ge=0, le=80)] = 5,
    fill: Fill = "reflect",
) -> None:
    """Rotate, shift (a part of each side), scale and shear (degrees, along x) in one go."""
    matrix = affine_matrix(
        canvas.uniform(-degrees, degrees),
        canvas.uniform(-translate, translate) * canvas.width,
        canvas.uniform(-translate, translate) * canvas.height,
        canvas.uniform(*scale),
        canvas.uniform(-shear, shear),
    )
    canvas.transform(matrix, fill)


def resized_crop(
    canvas: Canvas, *, scale: Areas = (0.35, 1.0), ratio: Factors = (3 / 4, 4 / 3)
) -> None:
    """Crop a part (scale: of the area, ratio: width to height) at random and resize it.

    The box of Szegedy et al., "Going deeper with convolutions" (2015), cut to the image where it
    would be too long.
    """
    area = canvas.uniform(*scale) * canvas.height * canvas.width
    aspect = canvas.uniform(math.log(ratio[0]), math.log(ratio[1])).exp()
    width = (area * aspect).sqrt().clamp(max=canvas.width)
    height = (area / aspect).sqrt().clamp(max=canvas.height)
    x = canvas.uniform(-0.5, 0.5) * (canvas.width - width)
    y = canvas.uniform(-0.5, 0.5) * (canvas.height - height)
    zero = torch.zeros_like(x)
    canvas.transform(matrix_of((width / canvas.width, zero, x), (zero, height / canvas.height, y)))


# Colour


def colour_jitter(
    canvas: Canvas,
    *,
    strength: Strength = 0.2,
    brightness: Strength | None = None,
    contrast: Strength | None = None,
    saturation: Strength | None = None,
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0,
    probability: Probability = 1.0,
) -> None:
    """Change brightness, contrast and saturation by up to a strength, and hue by turns.

    Factors lie between 1 - strength and 1 + strength. Brightness, contrast and saturation have the
    given strength unless their own is stated. Images that are not RGB change in brightness and
    contrast only.
    """
    chosen = canvas.chance(probability)

    def factor(amount: float | None) -> Tensor:
        amount = strength if amount is None else amount
        return torch.where(chosen, canvas.uniform(1 - amount, 1 + amount), 1.0)

    images = adjust_contrast(
        adjust_brightness(canvas.colours(), factor(brightness), canvas.white),
        factor(contrast),
        canvas.white,
    )
    if canvas.channels == 3:
        images = adjust_saturation(images, factor(saturation), canvas.white)
        if hue:
            images = adjust_hue(
                images, torch.where(chosen, canvas.uniform(-hue, hue), 0.0), canvas.white
            )
    canvas.images = images


def grey(canvas: Canvas, *, probability: Probability = 0.1) -> None:
    """Take the colour away; images that are not RGB stay as they are."""
    if canvas.channels == 3:
        canvas.images = adjust_saturation(
            canvas.colours(), 1.0 - canvas.chance(probability).float(), canvas.white
        )


# What hides and mixes


def erase(
    canvas: Canvas,
    *,
    size: Length = 0.25,
    area: Areas | None = None,
    ratio: Factors = (0.3, 3.3),
    fill: Literal["mean", "zero", "noise"] = "mean",
    probability: Probability = 1.0,
) -> None:
    """Hide a square of so many pixels, or a rectangle of a drawn area.

    Below 1, the size of the square is a part of the shorter side. The square's centre may lie
    anywhere, so that a part of it may be outside (cutout: DeVries & Taylor, 2017). With `area`
    given, a rectangle of that part of the image and of the given width / height lies inside (random
    erasing: Zhong et al., 2017). Filled with the image's own mean colour, black, or noise.
    """
    images = canvas.pixels()
    chosen = canvas.chance(probability)

    if area is None:
        height = width = torch.full(
            (canvas.size,), float(canvas.pixels_of(size)), device=canvas.device
        )
        centre_y = canvas.uniform(0, canvas.height)
        centre_x = canvas.uniform(0, canvas.width)
    else:
        pixels = canvas.uniform(*area) * canvas.height * canvas.width
        aspect = canvas.uniform(math.log(ratio[0]), math.log(ratio[1])).exp()
        height = (pixels / aspect).sqrt().round().clamp(1, canvas.height)
        width = (pixels * aspect).sqrt().round().clamp(1, canvas.width)
        centre_y = height / 2 + canvas.uniform() * (canvas.height - height)
        centre_x = width / 2 + canvas.uniform() * (canvas.width - width)

    hidden = _boxes(canvas, centre_y, centre_x, height, width) & chosen[:, None, None, None]
    if fill == "zero":
        canvas.images = images.masked_fill(hidden, 0)
        return

    if fill == "mean":
        filling = images.float().mean((2, 3), keepdim=True)
    else:
        filling = canvas.uniform(0, canvas.white, tuple(images.shape))

    filling = filling if images.is_floating_point() else filling.round()
    canvas.images = torch.where(hidden, filling.to(images.dtype), images)


def mixup(
    canvas: Canvas,
    *,
    alpha: Annotated[float, Field(ge=0.01, le=100)] = 0.2,
    probability: Probability = 1.0,
) -> None:
    """Blend each image and its target with another of the batch.

    The share of each is drawn from Beta(alpha, alpha).

    Source: Zhang et al., "mixup: beyond empirical risk minimization" (2018).
    """
    images = canvas.colours()
    chosen = canvas.chance(probability)
    kept = torch.where(chosen, canvas.beta(alpha), 1.0)
    partner = torch.randperm(canvas.size, generator=canvas.generator, device=canvas.device)
    canvas.images = torch.lerp(images[partner], images, kept[:, None, None, None])
    _mix_targets(canvas, partner, kept)
    canvas.mixed = chosen


def cutmix(
    canvas: Canvas,
    *,
    alpha: Annotated[float, Field(ge=0.01, le=100)] = 1.0,
    probability: Probability = 1.0,
) -> None:
    """Paste a box of another image of the batch, and mix the targets by its area.

    Beside mixup, an image gets either of the two. The box has the part 1 - Beta(alpha, alpha) of
    the area before it is cut at the borders; images that mixup has changed are left alone (with
    both named, mixup's probability is 0.5 unless stated).

    Source: Yun et al., "CutMix" (2019).
    """
    images = canvas.pixels()
    chosen = canvas.chance(probability)
    if canvas.mixed is not None:
        chosen = chosen & ~canvas.mixed

    side = (1 - canvas.beta(alpha)).sqrt()
    height = (side * canvas.height).round()
    width = (side * canvas.width).round()
    centre_y = canvas.uniform(0, canvas.height)
    centre_x = canvas.uniform(0, canvas.width)
    pasted = _boxes(canvas, centre_y, centre_x, height, width)
    pasted = pasted & chosen[:, None, None, None]  # (N, 1, H, W)

    partner = torch.randperm(canvas.size, generator=canvas.generator, device=canvas.device)
    canvas.images = torch.where(pasted, images[partner], images)
    _mix_targets(canvas, partner, 1 - pasted.float().mean((1, 2, 3)))


# What they share


def _boxes(
    canvas: Canvas, centre_y: Tensor, centre_x: Tensor, height: Tensor, width: Tensor
) -> Tensor:
    """Return a mask (N, 1, H, W) of boxes with whole sides, cut at the borders."""
    top = (centre_y - height / 2).round()[:, None]
    left = (centre_x - width / 2).round()[:, None]
    y = torch.arange(canvas.height, device=canvas.device)
    x = torch.arange(canvas.width, device=canvas.device)

    in_rows = (y >= top) & (y < top + height[:, None])
    in_columns = (x >= left) & (x < left + width[:, None])
    return (in_rows[:, :, None] & in_columns[:, None, :])[:, None]


def _mix_targets(canvas: Canvas, partner: Tensor, kept: Tensor) -> None:
    targets = canvas.mixable(canvas.targets)
    canvas.targets = torch.lerp(targets[partner], targets, kept[:, None])
    if canvas.weights is not None:
        canvas.weights = torch.lerp(canvas.weights[partner], canvas.weights, kept)


def _coin(index: Tensor) -> Tensor:
    """Return a fixed yes or no (N,) for each int64: one bit of Murmur's finaliser."""
    for factor in (-0x00AE502812AA7333, -0x3B314601E57A13AD):
        index = (index ^ (index >> 33)) * factor
    return ((index ^ (index >> 33)) & 1).bool()
