"""Activations, poolings and checks that several networks share."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky-relu": lambda: nn.LeakyReLU(0.01),
    "gelu": nn.GELU,
    "swish": nn.SiLU,
    "tanh": nn.Tanh,
}


POOLINGS: dict[str, Callable[[], nn.Module]] = {
    "max": lambda: nn.MaxPool2d(2),
    "average": lambda: nn.AvgPool2d(2),
}


def pooling(name: str) -> nn.Module:
    """Return 2x2 pooling by name.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in POOLINGS:
        raise ValueError(f"unknown pooling '{name}', expected one of {', '.join(POOLINGS)}.")
    return POOLINGS[name]()


def activation(name: str) -> nn.Module:
    """Return an activation by name.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation '{name}', expected one of {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]()


def need_size(spec_height: int, spec_width: int, smallest: int) -> None:
    """Refuse images that pooling would shrink to nothing.

    Raises:
        ValueError: a side is below `smallest`.
    """
    if min(spec_height, spec_width) < smallest:
        raise ValueError(
            f"images of {spec_height}x{spec_width} are too small, "
            f"it needs at least {smallest}x{smallest} pixels. "
            f"Try --image-size {smallest} or another model."
        )
