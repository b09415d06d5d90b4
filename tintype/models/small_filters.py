"""Three blocks of 8, 16 and 32 filters, with options for what the description leaves open."""

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
    """A 3x3 convolution, an activation, channel attention where asked, and 2x2 pooling.

    `residual` adds the input to the first channels and leaves the new ones as they are (option A of
    He et al. 2016), so that it adds no parameter.
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
        self.squeeze = nn.Linear(channels, inner)
        self.excite = nn.Linear(inner, channels)

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
    """Return the blocks and a linear layer on what they give.

    For 100 classes of 32x32 colour images it has 57,332 parameters.

    Raises:
        ValueError: the images are smaller than 2 ** len(widths), widths shrink although `residual`
            is on, or the activation or pooling is unknown.
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
