"""Resizing as Pillow does it, in tensor operations that every export format can hold.

Pillow's resize is linear along each axis: a matrix of filter weights, applied to the rows and then
to the columns, each rounded to 8 bits. The matrices are computed here from the sides of the
picture, whatever they are. Two things differ: Pillow rounds once more after averaging whole pixels
of a very large picture, and its weights are fixed-point numbers of 22 bits; a pixel may thus differ
by one level. A JPEG file that is decoded at reduced scale differs by more, since the graph is given
its full pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tintype.data.decode import Resize

# pixels are averaged where the picture is more than so many times the size, as decode asks of
# Pillow
GAP = 3.0
_LUMA = (19595, 38470, 7471)  # of R, G, B in 65536ths: how Pillow makes a picture grey


class Resizer(nn.Module):
    """Bring pictures of any size to the size of a model.

    They are (N, H, W, 3) uint8, and become (N, C, h, w) float32 of whole numbers 0..255.
    Pictures that have the size already pass as they are, even where a model sees only the centre
    (`crop_fraction`): they are taken as prepared.
    """

    def __init__(self, channels: int, height: int, width: int, resize: Resize) -> None:
        super().__init__()
        self.channels, self.height, self.width, self.resize = channels, height, width, resize

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.permute(0, 3, 1, 2)
        pixels = _grey(pixels) if self.channels == 1 else pixels.to(torch.float32)
        rows, columns = _positions(pixels[0, 0, :, 0]), _positions(pixels[0, 0, 0])
        vertical, horizontal = self._axes(rows, columns)
        pixels = _rounded(pixels @ horizontal.T)
        return _rounded(vertical @ pixels)

    def _axes(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights of both axes, (h, H) and (w, W), from the positions (H,) and (W,)
        float64 of the pixels.
        """
        tall, wide = rows[-1] + 1, columns[-1] + 1
        ratio_y, ratio_x = self.height / tall, self.width / wide

        if self.resize.mode == "crop":
            scale = torch.maximum(ratio_x, ratio_y)
            top, bottom = self._cropped(tall, wide, self.height, self.width, scale)
            left, right = self._cropped(wide, tall, self.width, self.height, scale)
            return self._weights(rows, top, bottom, self.height), self._weights(
                columns, left, right, self.width
            )

        zero = torch.zeros_like(tall)
        if self.resize.mode == "squash":
            return self._weights(rows, zero, tall, self.height), self._weights(
                columns, zero, wide, self.width
            )

        scale = torch.minimum(ratio_x, ratio_y)
        inner_y, inner_x = (torch.round(side * scale).clamp_min(1) for side in (tall, wide))
        return (
            self._weights(rows, zero, tall, self.height, inner_y),
            self._weights(columns, zero, wide, self.width, inner_x),
        )

    def _cropped(
        self, side: Tensor, other: Tensor, target: int, other_target: int, scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return where the centre begins and ends on one side; see decode's `_centre`."""
        length = torch.minimum(target / scale, side)
        start = (side - length) / 2
        end = start + length
        if self.resize.crop_fraction == 1:
            return start, end

        whole = torch.floor(side * scale / self.resize.crop_fraction + 1e-6)
        first = torch.round((whole - target) / 2)
        prepared = (side == target) & (other == other_target)

        return (
            torch.where(prepared, start, first * side / whole),
            torch.where(prepared, end, (first + target) * side / whole),
        )

    def _weights(
        self,
        positions: Tensor,
        start: Tensor,
        end: Tensor,
        target: int,
        inner: Tensor | None = None,
    ) -> Tensor:
        """Return weights (target, length) float32 by which pixels make the part from start to end.

        With `inner`, the part fills only so many pixels in the middle of the target, and the rest
        is black.
        """
        out = torch.arange(target, dtype=torch.float64, device=positions.device)
        size = torch.full_like(start, target) if inner is None else inner
        offset = torch.floor((target - size) / 2)
        support = 1.0 if self.resize.interpolation == "bilinear" else 2.0
        scale = (end - start) / size
        block = torch.floor(scale / GAP).clamp_min(1)  # pixels that are averaged first
        reach = (support - 0.5) * scale
        length = positions[-1] + 1
        averaged = block > 1
        first = torch.where(
            averaged, torch.floor((start - reach).clamp_min(0)), torch.zeros_like(start)
        )
        last = torch.where(averaged, torch.minimum(torch.ceil(end + reach), length), length)
        number = torch.floor((positions - first) / block)
        members = torch.minimum(first + (number + 1) * block, last) - (first + number * block)
        inside = (positions >= first) & (positions < last)
        step = scale / block
        centres = (start - first) / block + (out - offset + 0.5) * step
        distance = (number[None] + 0.5 - centres[:, None]) / step.clamp_min(1)
        raw = _filter(distance, self.resize.interpolation) * torch.where(inside, 1 / members, 0.0)
        weights = raw / raw.sum(1, keepdim=True)

        if inner is not None:
            covered = (out >= offset) & (out < offset + size)
            weights = torch.where(covered[:, None], weights, torch.zeros_like(weights))

        return weights.to(torch.float32)


def _positions(line: Tensor) -> Tensor:
    """Return 0, 1, 2, ...

    (L,) float64, as long as `line`. Not `arange`: a length is no tensor, and would be frozen.
    """
    return torch.cumsum(torch.ones_like(line, dtype=torch.float64), 0) - 1


def _filter(x: Tensor, interpolation: str) -> Tensor:
    """Return Pillow's filter: a triangle, or Keys' cubic with a = -0.5."""
    x = x.abs()
    if interpolation == "bilinear":
        return (1 - x).clamp_min(0)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def _rounded(pixels: Tensor) -> Tensor:
    return torch.floor(pixels + 0.5).clamp(0, 255)


def _grey(pixels: Tensor) -> Tensor:
    """Return (N, 1, H, W) float32 of RGB (N, 3, H, W) uint8, rounded as Pillow's convert("L")."""
    red, green, blue = pixels.to(torch.int32).split(1, 1)
    total = red * _LUMA[0] + green * _LUMA[1] + blue * _LUMA[2] + 32768
    return torch.div(total, 65536, rounding_mode="floor").to(torch.float32)
