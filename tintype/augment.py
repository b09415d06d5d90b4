"""Augmentation of a whole batch as tensors on the device, with a decision drawn for each image.

Every public function here whose first argument is `canvas` is an augmentation: its name is the name in a recipe, the
first line of its docstring is what `tintype list augmentations` shows, its keyword arguments are its options, and
their annotations say which values are allowed. To add one is to add one function. They are applied in the order in
which they stand in this file: geometry first, because its parts are merged and the pixels are moved only once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from inspect import signature
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from tintype import plugins
from tintype.errors import UserError, unknown_name

# Fractions rather than pixels, so that a preset suits digits of 8x8 and photos of 224x224.
PRESETS: dict[str, dict[str, Any]] = {
    "none": {},
    # Safe where a mirror image means something else: digits, letters, signs.
    "light": {"crop": 0.0625},
    "standard": {"flip": True, "crop": 0.125},
    "strong": {"flip": True, "crop": 0.125, "affine": True, "colour_jitter": 0.3, "erase": {"probability": 0.5}},
    # For photos and pretrained backbones: a mirrored, slightly closer look in another light.
    "photos": {"flip": True, "resized_crop": {"scale": (0.5, 1.0)}, "colour_jitter": 0.2},
    # The pipelines compared in the study of faces (R8): one thing at a time, then all together.
    "flips": {"flip": True, "vertical_flip": True},
    "rotations": {"flip": True, "rotate": 20},
    "shifts": {"flip": True, "affine": True},
    "colours": {"flip": True, "colour_jitter": {"strength": 0.3, "hue": 0.05}},
    "all": {
        "flip": True,
        "vertical_flip": True,
        "rotate": 20,
        "affine": True,
        "colour_jitter": {"strength": 0.3, "hue": 0.05},
    },
}

ALIASES = {
    "color_jitter": "colour_jitter", "cutout": "erase", "gray": "grey", "greyscale": "grey", "grayscale": "grey",
    "hflip": "flip", "horizontal_flip": "flip", "vflip": "vertical_flip", "random_resized_crop": "resized_crop",
}  # fmt: skip

GREY_WEIGHTS = (0.2989, 0.587, 0.114)  # ITU-R BT.601, as torchvision has them


@dataclass(frozen=True)
class Limits:
    """The smallest and the largest value that an option takes."""

    low: float
    high: float


Probability = Annotated[float, Limits(0, 1)]
Length = Annotated[float, Limits(0, 10_000)]  # pixels, or below 1 a fraction of the shorter side
Fraction = Annotated[float, Limits(0, 1)]
Strength = Annotated[float, Limits(0, 1)]
Degrees = Annotated[float, Limits(0, 180)]
Areas = Annotated[tuple[float, float], Limits(0.001, 1)]  # (smallest, largest) part of the image's area
Ratios = Annotated[tuple[float, float], Limits(0.05, 20)]  # (smallest, largest) width / height
Scales = Annotated[tuple[float, float], Limits(0.05, 20)]
Fill = Literal["reflect", "zero"]


class Augment:
    """Augment batches as a recipe says; settings in the constructor, work in the call.

    Attributes:
        options: every augmentation that is applied, in order, with the value of each of its options.

    Raises:
        UserError: an unknown name or option, or a value out of range.
    """

    def __init__(self, spec: str | Mapping[str, Any] | None, *, num_classes: int) -> None:
        self.options = resolve(spec)
        self.num_classes = num_classes

    def __call__(
        self,
        images: Tensor,
        targets: Tensor,
        *,
        index: Tensor | None = None,
        epoch: int = 0,
        generator: Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return augmented images and targets; the arguments are not modified.

        Args:
            images: (N, C, H, W) uint8, or float in 0..1; fastest in channels_last memory.
            targets: (N,) int64.
            index: (N,) int64, position of each image in its source (needed by flip's mode "alternate").
            epoch: counted from 0 (needed by flip's mode "alternate").
            generator: on the device of the images; every decision follows from its state.

        Returns:
            Images (N, C, H, W) in channels_last memory: uint8 stays uint8 while pixels are only mirrored, shifted or
            erased, and is float32 in 0..255 after other changes; float stays in 0..1. Targets (N,) int64, or (N, K)
            float32 after mixup or cutmix. What no augmentation touched is the argument itself.
        """
        canvas = Canvas(images, targets, index, epoch, generator, self.num_classes)
        for name, options in self.options.items():
            globals()[name](canvas, **options)
        return canvas.pixels().contiguous(memory_format=torch.channels_last), canvas.targets

    def __bool__(self) -> bool:
        return bool(self.options)

    def __str__(self) -> str:
        """Return for example "flip=0.5, crop=4"."""
        first = {name: next(iter(options.items()), None) for name, options in self.options.items()}
        return ", ".join(f"{name}={option[1]}" if option else name for name, option in first.items()) or "none"


class Canvas:
    """A batch while it is augmented: images, targets, and the geometry that waits to be applied.

    Flips and shifts change the table of source rows and columns, rotations and scalings a matrix for each image;
    `pixels()` applies both and returns the images.
    """

    def __init__(
        self,
        images: Tensor,  # (N, C, H, W) uint8 in 0..255 or float in 0..1
        targets: Tensor,  # (N,) int64
        index: Tensor | None = None,
        epoch: int = 0,
        generator: Generator | None = None,
        num_classes: int = 0,
    ) -> None:
        self.images, self.targets, self.index, self.epoch = images, targets, index, epoch
        self.generator, self.num_classes = generator, num_classes
        self.white = 1.0 if images.is_floating_point() else 255.0
        self.size, self.channels, self.height, self.width = images.shape
        self.device = images.device
        # For every output row (N, H) and column (N, W) the input row or column; below zero for black.
        self.rows: Tensor | None = None
        self.columns: Tensor | None = None
        self.black = False
        # (N, 2, 3): output (x, y, 1) to input (x, y), in pixels from the centre.
        self.matrix: Tensor | None = None
        self.beyond: Fill = "reflect"  # what the matrix finds outside; black if any augmentation asks for it
        self.mixed: Tensor | None = None  # (N,) bool: changed by mixup

    # What is drawn

    def uniform(self, low: float = 0.0, high: float = 1.0, shape: tuple[int, ...] | None = None) -> Tensor:
        """Draw float32 numbers in [low, high), one for each image unless a shape is given."""
        draw = torch.rand(shape or (self.size,), generator=self.generator, device=self.device)
        return low + (high - low) * draw

    def integers(self, low: int, high: int) -> Tensor:
        """Draw one int64 in low..high (both included) for each image."""
        return torch.randint(low, high + 1, (self.size,), generator=self.generator, device=self.device)

    def chance(self, probability: float) -> Tensor:
        """Draw yes (with `probability`) or no for each image (N,)."""
        return self.uniform() < probability

    def beta(self, alpha: float) -> Tensor:
        """Draw Beta(alpha, alpha) for each image, exactly and without rejection (which would need a loop).

        Beta(alpha + 1, alpha + 1) by Ulrich (1984), then Gamma(alpha) = Gamma(alpha + 1) U^(1/alpha), in logarithms.
        """
        smallest = torch.finfo(torch.float32).tiny
        u, v = self.uniform().clamp(min=smallest), self.uniform()
        peaked = 0.5 + 0.5 * (1 - u ** (2 / (2 * alpha + 1))).sqrt() * torch.cos(2 * math.pi * v)
        spread = self.uniform().clamp(min=smallest).log() - self.uniform().clamp(min=smallest).log()
        return torch.sigmoid(torch.logit(peaked, eps=1e-7) + spread / alpha)

    def pixels_of(self, length: float) -> int:
        """Return a length in pixels: itself, or below 1 that fraction of the shorter side (at least 1 if not 0)."""
        if length >= 1 or length == 0:
            return round(length)
        return max(1, round(length * min(self.height, self.width)))

    # Geometry that waits

    def mirror(self, chosen: Tensor, *, vertical: bool = False) -> None:
        """Turn the chosen images (N,) bool over, left to right or top to bottom."""
        places = self._places(vertical)
        self._set_places(torch.where(chosen[:, None], places.flip(1), places), vertical)

    def shift(self, offset: Tensor, fill: Fill, *, vertical: bool = False) -> None:
        """Show each image from `offset` (N,) int64 pixels further right (or down)."""
        places = self._places(vertical)
        length = places.shape[1]
        wanted = torch.arange(length, device=self.device) + offset[:, None]
        # Reflection without the edge pixel repeated; the modulus lets the image be reflected many times.
        period = max(1, 2 * (length - 1))
        inside = wanted.remainder(period)
        shifted = places.gather(1, torch.minimum(inside, period - inside) if length > 1 else torch.zeros_like(inside))
        if fill == "zero":
            shifted = torch.where((wanted >= 0) & (wanted < length), shifted, -1)
            self.black = True
        self._set_places(shifted, vertical)

    def transform(self, matrix: Tensor, fill: Fill = "reflect") -> None:
        """Move pixels by a matrix (N, 2, 3) from output to input coordinates, in pixels from the centre."""
        if self.matrix is not None:
            # Elementwise, since a matrix product may be rounded to TF32 or bfloat16.
            linear, moved = self.matrix[:, :, :2], self.matrix[:, :, 2]
            matrix = (linear[:, :, :, None] * matrix[:, None]).sum(2)
            matrix = torch.cat([matrix[:, :, :2], (matrix[:, :, 2] + moved)[:, :, None]], dim=2)
        self.matrix = matrix
        self.beyond = "zero" if fill == "zero" else self.beyond

    def pixels(self) -> Tensor:
        """Apply the geometry that waits and return the images."""
        if self.rows is not None or self.columns is not None:
            self.images = self._gathered()
            self.rows = self.columns = None
            self.black = False
        if self.matrix is not None:
            self.images = self._sampled(self.matrix)
            self.matrix = None
        return self.images

    def colours(self) -> Tensor:
        """Return the images as float32, to be changed and assigned to `images`."""
        return self.pixels().float()

    def _places(self, vertical: bool) -> Tensor:
        if self.matrix is not None:  # what was asked for first is done first
            self.pixels()
        places = self.rows if vertical else self.columns
        if places is None:
            places = torch.arange(self.height if vertical else self.width, device=self.device).expand(self.size, -1)
        return places

    def _set_places(self, places: Tensor, vertical: bool) -> None:
        if vertical:
            self.rows = places
        else:
            self.columns = places

    def _gathered(self) -> Tensor:
        """Look up whole rows, then columns of (N, H, W, C) memory.

        The fastest of the ways tried for flip and crop of 512 images of 32x32x3 on one thread: 0.7 ms, against 1.1 for
        one lookup of pixels, 2.3 for windows of a padded copy, 4.6 for indexing [n, y, x], 5.3 for a mask by offset.
        """
        n, c, h, w = self.size, self.channels, self.height, self.width
        lines = self.images.permute(0, 2, 3, 1).reshape(n * h, w * c)
        if self.rows is not None:
            first = torch.arange(n, device=self.device)[:, None] * h
            lines = lines.index_select(0, (first + self.rows.clamp(min=0)).flatten())
            if self.black:
                lines = lines * (self.rows >= 0).view(n * h, 1)
        lines = lines.view(n, h, w * c)
        if self.columns is not None:
            places = self.columns.clamp(min=0)[:, :, None] * c + torch.arange(c, device=self.device)
            lines = lines.gather(2, places.view(n, 1, w * c).expand(n, h, w * c))
            if self.black:
                lines = lines * (self.columns >= 0)[:, :, None].expand(n, w, c).reshape(n, 1, w * c)
        return lines.view(n, h, w, c).permute(0, 3, 1, 2)

    def _sampled(self, matrix: Tensor) -> Tensor:
        x = torch.arange(self.width, device=self.device) - (self.width - 1) / 2
        y = torch.arange(self.height, device=self.device) - (self.height - 1) / 2
        m = matrix[:, :, :, None, None]  # (N, 2, 3, 1, 1)
        places = m[:, :, 0] * x + m[:, :, 1] * y[:, None] + m[:, :, 2]  # (N, 2, H, W)
        # grid_sample counts from -1 to 1, the outer edges of the outer pixels.
        grid = torch.stack([places[:, 0] * (2 / self.width), places[:, 1] * (2 / self.height)], dim=3)
        beyond = "zeros" if self.beyond == "zero" else "reflection"
        return F.grid_sample(self.images.float(), grid, mode="bilinear", padding_mode=beyond, align_corners=False)


# Geometry: the augmentations


def flip(canvas: Canvas, *, probability: Probability = 0.5, mode: Literal["random", "alternate"] = "random") -> None:
    """Mirror left to right, at random or (mode alternate) every image in every second epoch.

    Alternate flipping shows each image both ways in any two epochs, half of them mirrored in each; `probability` has
    no part in it (Jordan, "94 % on CIFAR-10 in 3.29 seconds on a single GPU", 2024).
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
    """Pad by so many pixels (below 1: that part of the shorter side) and crop the old size at random."""
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
    scale: Scales = (0.9, 1.1),
    shear: Annotated[float, Limits(0, 80)] = 5,
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


def resized_crop(canvas: Canvas, *, scale: Areas = (0.35, 1.0), ratio: Ratios = (3 / 4, 4 / 3)) -> None:
    """Crop a part (scale: of the area, ratio: width to height) at random and resize it to the old size.

    The box of Szegedy et al., "Going deeper with convolutions" (2015), cut to the image where it would be too long.
    """
    area = canvas.uniform(*scale) * canvas.height * canvas.width
    aspect = canvas.uniform(math.log(ratio[0]), math.log(ratio[1])).exp()
    width = (area * aspect).sqrt().clamp(max=canvas.width)
    height = (area / aspect).sqrt().clamp(max=canvas.height)
    x = canvas.uniform(-0.5, 0.5) * (canvas.width - width)
    y = canvas.uniform(-0.5, 0.5) * (canvas.height - height)
    zero = torch.zeros_like(x)
    canvas.transform(_matrix((width / canvas.width, zero, x), (zero, height / canvas.height, y)))


# Colour


def colour_jitter(
    canvas: Canvas,
    *,
    strength: Strength = 0.2,
    brightness: Strength | None = None,
    contrast: Strength | None = None,
    saturation: Strength | None = None,
    hue: Annotated[float, Limits(0, 0.5)] = 0.0,
    probability: Probability = 1.0,
) -> None:
    """Change brightness, contrast and saturation by a factor of 1 - strength to 1 + strength, and hue by turns.

    Brightness, contrast and saturation have the given strength unless their own is stated. Images that are not RGB
    change in brightness and contrast only.
    """
    chosen = canvas.chance(probability)

    def factor(amount: float | None) -> Tensor:
        amount = strength if amount is None else amount
        return torch.where(chosen, canvas.uniform(1 - amount, 1 + amount), 1.0)

    images = adjust_contrast(
        adjust_brightness(canvas.colours(), factor(brightness), canvas.white), factor(contrast), canvas.white
    )
    if canvas.channels == 3:
        images = adjust_saturation(images, factor(saturation), canvas.white)
        if hue:
            images = adjust_hue(images, torch.where(chosen, canvas.uniform(-hue, hue), 0.0), canvas.white)
    canvas.images = images


def grey(canvas: Canvas, *, probability: Probability = 0.1) -> None:
    """Take the colour away; images that are not RGB stay as they are."""
    if canvas.channels == 3:
        canvas.images = adjust_saturation(canvas.colours(), 1.0 - canvas.chance(probability).float(), canvas.white)


# What hides and mixes


def erase(
    canvas: Canvas,
    *,
    size: Length = 0.25,
    area: Areas | None = None,
    ratio: Ratios = (0.3, 3.3),
    fill: Literal["mean", "zero", "noise"] = "mean",
    probability: Probability = 1.0,
) -> None:
    """Hide a square of so many pixels (below 1: that part of the shorter side), or a rectangle of a drawn area.

    The square's centre may lie anywhere, so that a part of it may be outside (cutout: DeVries & Taylor, 2017). With
    `area` given, a rectangle of that part of the image and of the given width / height lies inside (random erasing:
    Zhong et al., 2017). Filled with the image's own mean colour, black, or noise.
    """
    images = canvas.pixels()
    chosen = canvas.chance(probability)
    if area is None:
        height = width = torch.full((canvas.size,), float(canvas.pixels_of(size)), device=canvas.device)
        centre_y, centre_x = canvas.uniform(0, canvas.height), canvas.uniform(0, canvas.width)
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


def mixup(canvas: Canvas, *, alpha: Annotated[float, Limits(0.01, 100)] = 0.2, probability: Probability = 1.0) -> None:
    """Blend each image and its target with another of the batch, by a part drawn from Beta(alpha, alpha).

    Source: Zhang et al., "mixup: beyond empirical risk minimization" (2018).
    """
    images = canvas.colours()
    chosen = canvas.chance(probability)
    kept = torch.where(chosen, canvas.beta(alpha), 1.0)
    partner = torch.randperm(canvas.size, generator=canvas.generator, device=canvas.device)
    canvas.images = torch.lerp(images[partner], images, kept[:, None, None, None])
    _mix_targets(canvas, partner, kept)
    canvas.mixed = chosen


def cutmix(canvas: Canvas, *, alpha: Annotated[float, Limits(0.01, 100)] = 1.0, probability: Probability = 1.0) -> None:
    """Paste a box of another image of the batch, and mix the targets by its area; beside mixup, either of the two.

    The box has the part 1 - Beta(alpha, alpha) of the area before it is cut at the borders; images that mixup has
    changed are left alone (with both named, mixup's probability is 0.5 unless stated).

    Source: Yun et al., "CutMix" (2019).
    """
    images = canvas.pixels()
    chosen = canvas.chance(probability)
    if canvas.mixed is not None:
        chosen = chosen & ~canvas.mixed
    side = (1 - canvas.beta(alpha)).sqrt()
    height, width = (side * canvas.height).round(), (side * canvas.width).round()
    pasted = _boxes(canvas, canvas.uniform(0, canvas.height), canvas.uniform(0, canvas.width), height, width)
    pasted = pasted & chosen[:, None, None, None]  # (N, 1, H, W)
    partner = torch.randperm(canvas.size, generator=canvas.generator, device=canvas.device)
    canvas.images = torch.where(pasted, images[partner], images)
    _mix_targets(canvas, partner, 1 - pasted.float().mean((1, 2, 3)))


# The mathematics, without chance


def affine_matrix(
    degrees: Tensor,
    dx: Tensor | None = None,
    dy: Tensor | None = None,
    scale: Tensor | None = None,
    shear: Tensor | None = None,
) -> Tensor:
    """Return matrices (N, 2, 3) that rotate clockwise, shear along x, scale, then shift by (dx, dy) pixels.

    They lead from output to input, as torchvision's `affine` has it.
    """
    zero = torch.zeros_like(degrees)
    dx, dy = zero if dx is None else dx, zero if dy is None else dy
    scale = torch.ones_like(degrees) if scale is None else scale
    cos, sin = torch.deg2rad(degrees).cos(), torch.deg2rad(degrees).sin()
    tan = zero if shear is None else torch.deg2rad(shear).tan()
    a, b = (cos - sin * tan) / scale, (sin + cos * tan) / scale
    c, d = -sin / scale, cos / scale
    return _matrix((a, b, -a * dx - b * dy), (c, d, -c * dx - d * dy))


def adjust_brightness(images: Tensor, factor: Tensor, white: float) -> Tensor:
    """Multiply float images (N, C, H, W) in 0..white by a factor (N,) for each."""
    return (images * factor[:, None, None, None]).clamp(0, white)


def adjust_contrast(images: Tensor, factor: Tensor, white: float) -> Tensor:
    """Move every pixel away from (factor above 1) or towards the mean grey of its image."""
    mean = _grey_of(images).mean((1, 2, 3), keepdim=True)
    return torch.lerp(mean, images, factor[:, None, None, None]).clamp(0, white)


def adjust_saturation(images: Tensor, factor: Tensor, white: float) -> Tensor:
    """Move every pixel of RGB images away from or towards its own grey; factor 0 leaves grey."""
    return torch.lerp(_grey_of(images), images, factor[:, None, None, None]).clamp(0, white)


def adjust_hue(images: Tensor, turns: Tensor, white: float) -> Tensor:
    """Turn the hue of RGB images by a part of the circle (N,), with HSV's value and saturation kept."""
    red, green, blue = images.unbind(1)
    value, chroma = images.amax(1), images.amax(1) - images.amin(1)
    divisor = torch.where(chroma > 0, chroma, 1.0)
    sextant = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    sextant = sextant + 6 * turns[:, None, None]
    # HSV to RGB without cases: red, green and blue fall below the value by 0..chroma, each two sextants apart.
    start = 5 - 2 * torch.arange(3, device=images.device)[:, None, None]
    k = (start + sextant[:, None]).remainder(6)
    fall = torch.minimum(k, 4 - k).clamp(0, 1)
    return (value[:, None] - chroma[:, None] * fall).clamp(0, white).contiguous(memory_format=torch.channels_last)


def _matrix(*rows: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)


def _grey_of(images: Tensor) -> Tensor:
    """Return the luma of RGB, or the mean of other channels: (N, 1, H, W)."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    red, green, blue = images.split(1, dim=1)
    return GREY_WEIGHTS[0] * red + GREY_WEIGHTS[1] * green + GREY_WEIGHTS[2] * blue


def _boxes(canvas: Canvas, centre_y: Tensor, centre_x: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """Return a mask (N, 1, H, W) of boxes with whole sides, cut at the borders."""
    top, left = (centre_y - height / 2).round()[:, None], (centre_x - width / 2).round()[:, None]
    y, x = torch.arange(canvas.height, device=canvas.device), torch.arange(canvas.width, device=canvas.device)
    in_rows = (y >= top) & (y < top + height[:, None])
    in_columns = (x >= left) & (x < left + width[:, None])
    return (in_rows[:, :, None] & in_columns[:, None, :])[:, None]


def _mix_targets(canvas: Canvas, partner: Tensor, kept: Tensor) -> None:
    targets = canvas.targets
    if targets.ndim == 1:
        targets = F.one_hot(targets, canvas.num_classes).float()
    canvas.targets = torch.lerp(targets[partner], targets, kept[:, None])


def _coin(index: Tensor) -> Tensor:
    """Return a fixed yes or no (N,) for each int64: one bit of a hash (Murmur's finaliser; products wrap around)."""
    for factor in (-0x00AE502812AA7333, -0x3B314601E57A13AD):
        index = (index ^ (index >> 33)) * factor
    return ((index ^ (index >> 33)) & 1).bool()


# What a recipe says


def names() -> dict[str, str]:
    """Return every augmentation's name with one line that describes it, in the order of application."""
    return plugins.augmentation_names()


def parse_augment(text: str) -> dict[str, Any]:
    """Return the mapping that a command line's text stands for.

    Parts are joined by commas: a preset, `name`, `name=value` (its first option) or `name.option=value`. Values are
    numbers, words, true, false (which takes a preset's part away) or ranges `low:high`.

    >>> parse_augment("standard,mixup=0.2,flip.mode=alternate")
    {'preset': 'standard', 'mixup': 0.2, 'flip': {'mode': 'alternate'}}

    Raises:
        UserError: an unknown name, or a part that cannot be read. Values are checked by `resolve`.
    """
    spec: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        left, equals, right = (piece.strip() for piece in part.partition("="))
        if left in PRESETS and left not in names() and not equals:
            if "preset" in spec:
                raise UserError(f"augment: two presets, '{spec['preset']}' and '{left}'. Expected one, then additions.")
            spec["preset"] = left
            continue
        if equals and not right:
            raise UserError(f"augment: '{part}' has no value. Type e.g. flip,crop=4,rotate=15.")
        name, dot, option = left.partition(".")
        name, value = _canonical(name), _value(right) if equals else True
        if not dot:
            given = spec.get(name)
            spec[name] = {**given, _first_option(name): value} if isinstance(given, dict) else value
            continue
        given = spec.get(name, {})
        given = given if isinstance(given, dict) else {} if given is True else {_first_option(name): given}
        spec[name] = {**given, option.replace("-", "_"): value}
    return spec


def resolve(spec: str | Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """Return every augmentation of a recipe's `augment` field with all its options, in the order of application.

    A mapping holds names with true (defaults), false (not this one), a value of the first option, or a mapping of
    options; `preset` names a preset that the rest adds to or overrides. A range given as one number ends at 1.

    Raises:
        UserError: an unknown name or option, or a value out of range.
    """
    given = parse_augment(spec) if isinstance(spec, str) else dict(spec or {})
    preset = given.pop("preset", "none")
    if preset not in PRESETS:
        raise unknown_name("augmentation preset", str(preset), PRESETS)
    chosen: dict[str, dict[str, Any]] = {}
    for name, value in [*PRESETS[preset].items(), *given.items()]:
        name = _canonical(str(name))
        if value is False or value is None:
            chosen.pop(name, None)
            continue
        if value is True:
            value = {}
        elif not isinstance(value, Mapping):
            value = {_first_option(name): value}
        chosen[name] = {**chosen.get(name, {}), **value}
    if "mixup" in chosen and "cutmix" in chosen:
        chosen["mixup"].setdefault("probability", 0.5)
    return {name: _checked(name, chosen[name]) for name in names() if name in chosen}


def _canonical(name: str) -> str:
    plain = name.strip().replace("-", "_")
    plain = ALIASES.get(plain, plain)
    if plain not in names():
        raise unknown_name("augmentation", name, {*names(), *PRESETS}, "`tintype list augmentations` shows them.")
    return plain


def _first_option(name: str) -> str:
    return next(iter(_options(name)))


@lru_cache
def _options(name: str) -> dict[str, tuple[Any, Any]]:
    """Return the annotation and the default of every option of an augmentation."""
    function = globals()[name]
    hints = get_type_hints(function, include_extras=True)
    return {key: (hints[key], p.default) for key, p in signature(function).parameters.items() if key != "canvas"}


def _checked(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    options = _options(name)
    for option in given:
        if option not in options:
            raise unknown_name(f"option of {name}", str(option), options)
    return {
        option: _checked_value(f"{name}.{option}", given[option], hint) if option in given else default
        for option, (hint, default) in options.items()
    }


def _checked_value(where: str, value: Any, hint: Any) -> Any:
    """Return the value in the type of its annotation, or raise a UserError that says what was expected."""
    optional = type(None) in get_args(hint)
    if optional:
        hint = get_args(hint)[0]
    if optional and value is None:
        return None
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise UserError(f"augment: {where} is {value!r}. Expected {' or '.join(get_args(hint))}.")
        return value
    kind, limits = get_args(hint)
    if kind is float:
        if not _is_number(value) or not limits.low <= value <= limits.high:
            raise UserError(f"augment: {where} is {value!r}. Expected a number from {limits.low:g} to {limits.high:g}.")
        return value
    pair = [value, max(value, 1.0)] if _is_number(value) else value
    if (
        not isinstance(pair, list | tuple)
        or len(pair) != 2
        or not all(map(_is_number, pair))
        or not limits.low <= pair[0] <= pair[1] <= limits.high
    ):
        expected = f"Expected low:high (in YAML [low, high]) within {limits.low:g} and {limits.high:g}."
        raise UserError(f"augment: {where} is {value!r}. {expected}")
    return float(pair[0]), float(pair[1])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _value(text: str) -> Any:
    """Return a number, a pair low:high of numbers, true or false, or the word itself."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if ":" in text:
        return [_value(part) for part in text.split(":")]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
