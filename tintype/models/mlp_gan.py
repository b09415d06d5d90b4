"""A fully connected GAN, which sees an image as one long row of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from tintype.data.source import DataSpec
from tintype.models.parts.gan_parts import ClassInput, Head, start_by_he

TASK = "generate"


class Generator(nn.Module):
    """Linear layers with ReLU, and Tanh at the end."""

    def __init__(
        self, spec: DataSpec, latent: int, hidden: Sequence[int], num_classes: int
    ) -> None:
        super().__init__()
        self.latent_shape = (latent,)
        self.conditional = num_classes > 0
        self.image_shape = (spec.channels, spec.height, spec.width)
        self.classes = ClassInput(num_classes)

        sizes = [latent + self.classes.size, *hidden]
        layers = [layer for i, o in pairwise(sizes) for layer in (nn.Linear(i, o), nn.ReLU())]
        num_pixels = spec.channels * spec.height * spec.width
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], num_pixels), nn.Tanh())
        # With PyTorch's own start images hardly depend on the latent, and all become one picture.
        start_by_he(self.layers)

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.layers(self.classes(latent, labels)).view(-1, *self.image_shape)


class Discriminator(nn.Module):
    """Linear layers with Leaky ReLU 0.2; the sigmoid belongs to the loss."""

    def __init__(
        self, spec: DataSpec, hidden: Sequence[int], dropout: float, num_classes: int
    ) -> None:
        super().__init__()
        sizes = [spec.channels * spec.height * spec.width, *hidden]
        drop = [nn.Dropout(dropout)] if dropout else []
        layers = [
            layer
            for i, o in pairwise(sizes)
            for layer in (nn.Linear(i, o), nn.LeakyReLU(0.2), *drop)
        ]
        self.layers = nn.Sequential(*layers)
        self.head = Head(sizes[-1], num_classes)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.head(self.layers(images.flatten(1)), labels)


def build(
    spec: DataSpec,
    latent: int = 100,
    hidden: Sequence[int] = (256, 512),
    discriminator_hidden: Sequence[int] = (512, 256),
    dropout: float = 0.0,
    conditional: bool = False,
) -> nn.ModuleDict:
    """Return generator and discriminator for images of any size.

    By default they are 100-256-512-pixels and pixels-512-256-1.

    Args:
        spec: shape and classes of the images.
        latent: how many numbers an image is made from.
        hidden: sizes of the generator's hidden layers.
        discriminator_hidden: sizes of the discriminator's hidden layers.
        dropout: the share of the discriminator's hidden units that is switched off in training.
        conditional: whether images of a given class are made, by an embedding in the generator and
            a projection in the discriminator.
    """
    num_classes = spec.num_classes if conditional else 0
    return nn.ModuleDict(
        {
            "generator": Generator(spec, latent, hidden, num_classes),
            "discriminator": Discriminator(spec, discriminator_hidden, dropout, num_classes),
        }
    )
