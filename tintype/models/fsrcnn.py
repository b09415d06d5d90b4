"""FSRCNN (Dong et al. 2016): a narrow stack of layers on the small image, then a deconvolution."""

from __future__ import annotations

from torch import Tensor, nn

from tintype.data.source import DataSpec

TASK = "upscale"


class FSRCNN(nn.Module):
    """Extraction (5x5), shrinking (1x1), mapping (3x3), expanding (1x1) and deconvolution (9x9).

    There are `depth` layers that map.
    """

    def __init__(self, channels: int, scale: int, width: int, narrow: int, depth: int) -> None:
        super().__init__()
        self.scale = scale
        self.halo = 2 + depth + 4
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 5, padding=2), nn.PReLU(width)]
        layers += [nn.Conv2d(width, narrow, 1), nn.PReLU(narrow)]
        for _ in range(depth):
            layers += [nn.Conv2d(narrow, narrow, 3, padding=1), nn.PReLU(narrow)]
        layers += [nn.Conv2d(narrow, width, 1), nn.PReLU(width)]

        self.layers = nn.Sequential(*layers)
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, a=0.25)
                nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]

        self.deconvolution = nn.ConvTranspose2d(
            width, channels, 9, scale, padding=4, output_padding=scale - 1
        )
        nn.init.normal_(self.deconvolution.weight, std=0.001)  # as the authors do
        nn.init.zeros_(self.deconvolution.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, low: Tensor) -> Tensor:
        return self.deconvolution(self.layers(low))


def build(
    spec: DataSpec, scale: int = 2, width: int = 56, narrow: int = 12, depth: int = 4
) -> nn.Module:
    """Return FSRCNN(d, s, m) with d = `width`, s = `narrow`, m = `depth`."""
    return FSRCNN(spec.channels, scale, width, narrow, depth)
