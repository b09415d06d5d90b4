"""A deeper convolutional network: two convolutions with batch norm for each block."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from tintype.data.source import DataSpec
from tintype.models.parts.layers import activation as make_activation
from tintype.models.parts.layers import need_size
from tintype.models.parts.layers import pooling as make_pooling
from tintype.optim import mark_scale_invariant


def build(
    spec: DataSpec,
    widths: Sequence[int] = (32, 64, 128),
    convolutions: int = 2,
    hidden: Sequence[int] = (256,),
    dropout: float = 0.3,
    activation: str = "relu",
    pooling: str = "max",
) -> nn.Module:
    """Return one block for each width, then a classifier with `hidden` layers.

    A block has `convolutions` 3x3 convolutions, each with batch norm and activation, and ends in
    2x2 pooling and dropout.

    Raises:
        ValueError: images smaller than 2 ** len(widths), unknown activation or pooling.
    """
    need_size(spec.height, spec.width, 2 ** len(widths))
    layers: list[nn.Module] = []

    channels = spec.channels
    for out in widths:
        for _ in range(convolutions):
            conv = nn.Conv2d(channels, out, 3, padding=1, bias=False)
            mark_scale_invariant(conv.weight)
            layers += [conv, nn.BatchNorm2d(out), make_activation(activation)]
            channels = out
        layers.append(make_pooling(pooling))
        if dropout > 0:
            layers.append(nn.Dropout2d(dropout / 2))

    layers.append(nn.Flatten())
    shrink = 2 ** len(widths)
    features = channels * (spec.height // shrink) * (spec.width // shrink)
    for size in hidden:
        layers += [
            nn.Linear(features, size, bias=False),
            nn.BatchNorm1d(size),
            make_activation(activation),
        ]
        if dropout > 0:
            layers.append(nn.Dropout(dropout))
        features = size

    return nn.Sequential(*layers, nn.Linear(features, spec.num_classes))
