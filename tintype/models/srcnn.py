"""SRCNN (Dong et al. 2014): three convolutions (9-1-5) on the bicubic enlargement."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tintype.data.source import DataSpec
from tintype.models.parts.resample import enlarge

TASK = "upscale"


class SRCNN(nn.Module):
    """Convolutions with ReLU between them, on the image enlarged by bicubic interpolation."""

    def __init__(
        self,
        channels: int,
        scale: int,
        kernels: Sequence[int],
        widths: Sequence[int],
        residual: bool,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.residual = residual
        self.halo = -(-sum(k // 2 for k in kernels) // scale) + 2

        ins = [channels, *widths]
        outs = [*widths, channels]
        layers: list[nn.Module] = []
        for i, o, k in zip(ins, outs, kernels, strict=True):
            layers += [nn.Conv2d(i, o, k, padding=k // 2, padding_mode="replicate"), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])
        self._begin_at_bicubic(channels)

    @torch.no_grad()
    def _begin_at_bicubic(self, channels: int) -> None:
        """Start with the bicubic image as output.

        The last layer starts at zero. Without a shortcut, a path of ones for each colour leads
        through all layers, which ReLU leaves as it is, since images are not negative. Without that
        start the network took hundreds of steps to learn to repeat its input.
        """
        convolutions = [layer for layer in self.layers if isinstance(layer, nn.Conv2d)]
        nn.init.zeros_(convolutions[-1].weight)
        for layer in convolutions[-1:] if self.residual else convolutions:
            nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]
        if self.residual:
            return

        for layer in convolutions:
            y, x = (side // 2 for side in layer.kernel_size)
            for colour in range(min(channels, *layer.weight.shape[:2])):
                layer.weight[colour] = 0
                layer.weight[colour, colour, y, x] = 1

    def forward(self, low: Tensor) -> Tensor:
        large = enlarge(low, self.scale)
        return large + self.layers(large) if self.residual else self.layers(large)


def build(
    spec: DataSpec,
    scale: int = 2,
    kernels: Sequence[int] = (9, 1, 5),
    widths: Sequence[int] = (64, 32),
    residual: bool = False,
) -> nn.Module:
    """Return SRCNN with the given sizes of kernels and numbers of filters.

    `residual` adds its output to the bicubic image, which learns faster (VDSR, Kim et al. 2016).

    Raises:
        ValueError: there is not one kernel more than widths, or a kernel is even.
    """
    if len(kernels) != len(widths) + 1 or any(k % 2 == 0 for k in kernels):
        raise ValueError(
            f"expected odd kernels, one more than widths, got {list(kernels)} and {list(widths)}."
        )
    return SRCNN(spec.channels, scale, kernels, widths, residual)
