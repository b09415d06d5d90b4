"""What a task may ask of a network beyond `forward`; a network offers it by having the members."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class ImageGenerator(Protocol):
    """A network that makes images (N, C, H, W) of -1..1 from noise, and from classes (N,) or None.

    Attributes:
        latent_shape: shape of the noise of one image.
        conditional: whether it takes classes.
    """

    latent_shape: tuple[int, ...]
    conditional: bool


@runtime_checkable
class Enlarger(Protocol):
    """A network that enlarges, and says how far it looks.

    Attributes:
        halo: how many small pixels around one it looks at, at most; large pictures are cut into
            tiles that overlap by so many.
    """

    halo: int


@runtime_checkable
class Mergeable(Protocol):
    """A network whose branches in training become one layer afterwards."""

    def merged(self) -> nn.Module:
        """Return a copy that computes the same with fewer layers."""
        ...


@runtime_checkable
class StartsFromImages(Protocol):
    """A network that takes something from training images before the first step."""

    def initialise_from(self, images: Tensor) -> None:
        """Set it (whitening filters, say) from normalised images (N, C, H, W) float32."""
        ...
