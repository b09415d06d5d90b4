"""Three blocks of few filters, 3-8-16-32, 57,332 parameters for CIFAR-100; what its authors left
open as options.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from tintype.data.source import DataSpec
from tintype.models.parts.layers import activation as make_activation
from tintype.models.parts.layers import need_size
from tintype.models.parts.layers import pooling as make_pooling


class Block(nn.Module):
    """3x3 convolution with bias, activation, [channel attention,] 2x2 pooling; `residual` adds the input's own copy.

    The residual path carries the input into the first channels and leaves the new ones at zero
    (option A of He et al. 2016), so that it adds no parameter.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        activation: str,
        pooling: str,
        residual: bool,
        attention: bool,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, 3, padding=1)
        self.activation = make_activation(activation)
        self.attention = ChannelAttention(out) if attention else nn.Identity()
        self.pool = make_pooling(pooling)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.residual:
            extra = y.shape[1] - x.shape[1]
            y = y + nn.functional.pad(x, (0, 0, 0, 0, 0, extra))
        return self.pool(self.attention(self.activation(y)))


class ChannelAttention(nn.Module):
    """Squeeze and excitation with a quarter of the channels (Hu et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(2, channels // 4)
        self.squeeze, self.excite = nn.Linear(channels, inner), nn.Linear(inner, channels)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3))))))
        return x * gate[:, :, None, None]


def build(
    spec: DataSpec,
    widths: Sequence[int] = (8, 16, 32),
    activation: str = "relu",
    pooling: str = "max",
    residual: bool = False,
    attention: bool = False,
) -> nn.Module:
    """Return the blocks, flattened into one linear layer: 57,332 parameters for 100 classes of 32x32 colour images.

    Raises:
        ValueError: images smaller than 8x8, widths that shrink where `residual` is on, unknown
            activation or pooling.
    """
    need_size(spec.height, spec.width, 2 ** len(widths))
    all_widths = [spec.channels, *widths]
    if residual and all_widths != sorted(all_widths):
        raise ValueError(f"residual needs widths that do not shrink, got {all_widths}.")
    blocks = [
        Block(i, o, activation, pooling, residual, attention) for i, o in pairwise(all_widths)
    ]
    shrink = 2 ** len(widths)
    features = widths[-1] * (spec.height // shrink) * (spec.width // shrink)
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(features, spec.num_classes))
