"""EDSR (Lim et al. 2017): residual blocks without norm on the small image, then pixel shuffle."""

from __future__ import annotations

from torch import Tensor, nn

from tintype.data.source import DataSpec

TASK = "upscale"


class Block(nn.Module):
    """Two 3x3 convolutions with ReLU between them, scaled and added to the input."""

    def __init__(self, width: int, factor: float) -> None:
        super().__init__()
        self.conv1 = _conv(width, width)
        self.relu = nn.ReLU()
        self.conv2 = _conv(width, width)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x + self.factor * self.conv2(self.relu(self.conv1(x)))


class EDSR(nn.Module):
    """Head, `depth` residual blocks with a shortcut around them all, pixel shuffle, tail."""

    def __init__(self, channels: int, scale: int, width: int, depth: int, factor: float) -> None:
        super().__init__()
        self.scale = scale
        self.head = _conv(channels, width)
        self.body = nn.Sequential(
            *[Block(width, factor) for _ in range(depth)], _conv(width, width)
        )

        # Powers of two are reached by doubling, other scales in one step.
        steps = [2] * (scale.bit_length() - 1) if scale & (scale - 1) == 0 else [scale]
        self.tail = nn.Sequential(
            *(m for step in steps for m in (_conv(width, width * step**2), nn.PixelShuffle(step))),
            _conv(width, channels),
        )
        self.halo = 1 + 2 * depth + 1 + 3

    def forward(self, low: Tensor) -> Tensor:
        # Centred on zero, for which the authors subtract the mean colour of DIV2K.
        x = self.head(low - 0.5)
        return self.tail(x + self.body(x)) + 0.5


def _conv(channels: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, padding=1)


def build(
    spec: DataSpec, scale: int = 2, width: int = 64, depth: int = 16, residual_scaling: float = 1.0
) -> nn.Module:
    """Return EDSR with `depth` residual blocks of `width` filters.

    The authors' baseline has 64 filters and 16 blocks, their large network 256 filters, 32 blocks
    and a residual scaling of 0.1.
    """
    return EDSR(spec.channels, scale, width, depth, residual_scaling)
