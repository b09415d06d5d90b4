"""A basic convolutional network: blocks of convolution, ReLU and pooling, then one hidden layer."""

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
    widths: Sequence[int] = (32, 64),
    hidden: Sequence[int] = (128,),
    dropout: float = 0.25,
    batch_norm: bool = False,
    activation: str = "relu",
    pooling: str = "max",
) -> nn.Module:
    """Return one block for each width, then a classifier.

    A block is a 3x3 convolution, batch norm where asked, an activation and 2x2 pooling. The
    classifier flattens what is left and passes it through `hidden` fully connected layers (with
    batch norm where asked) and dropout. `widths=(64, 128, 256), hidden=(), dropout=0` is the
    3-block network of the speed benchmark.

    Raises:
        ValueError: images smaller than 2 ** len(widths), unknown activation or pooling.
    """
    need_size(spec.height, spec.width, 2 ** len(widths))
    layers: list[nn.Module] = []

    channels = spec.channels
    for out in widths:
        layers.append(nn.Conv2d(channels, out, 3, padding=1, bias=not batch_norm))
        if batch_norm:
            mark_scale_invariant(layers[-1].weight)  # pyright: ignore[reportArgumentType]
            layers.append(nn.BatchNorm2d(out))
        layers += [make_activation(activation), make_pooling(pooling)]
        channels = out

    layers.append(nn.Flatten())
    shrink = 2 ** len(widths)
    features = channels * (spec.height // shrink) * (spec.width // shrink)
    for size in hidden:
        layers.append(nn.Linear(features, size, bias=not batch_norm))
        if batch_norm:
            layers.append(nn.BatchNorm1d(size))
        layers.append(make_activation(activation))
        if dropout > 0:
            layers.append(nn.Dropout(dropout))
        features = size

    return nn.Sequential(*layers, nn.Linear(features, spec.num_classes))
