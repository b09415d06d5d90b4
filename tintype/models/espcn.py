"""ESPCN (Shi et al. 2016): three layers on the small image, then pixel shuffle."""

from __future__ import annotations

from torch import Tensor, nn

from tintype.data.source import DataSpec

TASK = "upscale"


class ESPCN(nn.Module):
    """Two convolutions with tanh, and a third to scale**2 images that are shuffled into one."""

    halo = 4

    def __init__(self, channels: int, scale: int, width: int) -> None:
        super().__init__()
        self.scale = scale
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 5, padding=2),
            nn.Tanh(),
            nn.Conv2d(width, width // 2, 3, padding=1),
            nn.Tanh(),
            nn.Conv2d(width // 2, channels * scale**2, 3, padding=1),
            nn.PixelShuffle(scale),
        )

    def forward(self, low: Tensor) -> Tensor:
        return self.layers(low)


def build(spec: DataSpec, scale: int = 2, width: int = 64) -> nn.Module:
    """Return ESPCN with `width` and then `width` / 2 filters.

    Raises:
        ValueError: an odd width.
    """
    if width % 2:
        raise ValueError(f"width must be even, got {width}.")
    return ESPCN(spec.channels, scale, width)
