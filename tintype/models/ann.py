"""A fully connected network on the flattened image, with hidden layers of any size."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from tintype.data.source import DataSpec
from tintype.models.parts.layers import activation as make_activation


def build(
    spec: DataSpec,
    hidden: Sequence[int] = (512, 256),
    dropout: float = 0.0,
    activation: str = "relu",
) -> nn.Module:
    """Return a network C*H*W -> hidden... -> num_classes, with dropout after each hidden layer.

    Raises:
        ValueError: a hidden size below one, dropout outside 0..1, unknown activation.
    """
    if any(size < 1 for size in hidden):
        raise ValueError(f"hidden sizes must be at least 1, got {list(hidden)}.")

    layers: list[nn.Module] = [nn.Flatten()]
    width = spec.channels * spec.height * spec.width
    for size in hidden:
        layers += [nn.Linear(width, size), make_activation(activation)]
        if dropout > 0:
            layers.append(nn.Dropout(dropout))
        width = size

    return nn.Sequential(*layers, nn.Linear(width, spec.num_classes))
