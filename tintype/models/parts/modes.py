"""Modes of a network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode for the time of the block."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)
