"""DCGAN (Radford et al. 2016): images from transposed convolutions, tested by strided ones."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from tintype.data.source import DataSpec
from tintype.models.parts.gan_parts import (
    ClassInput,
    Head,
    grown,
    halvings,
    minibatch_layer,
    seen_whole,
    start_as_dcgan,
    start_discriminator,
    strided_layers,
)

TASK = "generate"
HIDDEN = 128  # features that the head with classes sees
MOST = 8  # the widest layer has this many times `width` channels


class Generator(nn.Module):
    """4x4 transposed convolutions of stride 2 with batch norm and ReLU between them, then Tanh."""

    def __init__(self, spec: DataSpec, latent: int, width: int, num_classes: int) -> None:
        super().__init__()
        base, count = halvings(spec, "dcgan")
        self.latent_shape = (latent,)
        self.conditional = num_classes > 0
        self.classes = ClassInput(num_classes)
        widths = [width * min(MOST, 2**k) for k in reversed(range(count))]
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(latent + self.classes.size, widths[0], base, bias=False)
        ]

        for channels, out in pairwise([*widths, spec.channels]):
            layers += [nn.BatchNorm2d(channels), nn.ReLU()]
            layers.append(nn.ConvTranspose2d(channels, out, 4, stride=2, padding=1, bias=False))

        self.layers = nn.Sequential(*layers, nn.Tanh())

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        first, *others = self.layers
        x = grown(self.classes(latent, labels), first)  # pyright: ignore[reportArgumentType]
        for layer in others:
            x = layer(x)
        return x


class Discriminator(nn.Module):
    """4x4 convolutions of stride 2 with Leaky ReLU 0.2, and a last one that covers what is left.

    All but the first have a norm. Without classes the last convolution gives the logit, with
    classes `HIDDEN` features for a projection head. Means over the image were tried instead, and
    the generator made one picture for each class (docs/log.md).
    """

    def __init__(
        self, spec: DataSpec, width: int, norm: str, minibatch: str, num_classes: int
    ) -> None:
        super().__init__()
        base, count = halvings(spec, "dcgan")
        widths = [width * min(MOST, 2**k) for k in range(count)]
        self.layers = strided_layers(spec.channels, widths, norm)
        self.minibatch, extra = minibatch_layer(minibatch, widths[-1])
        self.last = nn.Conv2d(widths[-1] + extra, HIDDEN if num_classes else 1, base, bias=False)
        self.head = Head(HIDDEN, num_classes) if num_classes else None

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        x = seen_whole(self.minibatch(self.layers(images)), self.last)
        return x[:, 0] if self.head is None else self.head(F.leaky_relu(x, 0.2), labels)


def build(
    spec: DataSpec,
    latent: int = 100,
    width: int = 32,
    norm: str = "batch",
    minibatch: str = "none",
    conditional: bool = False,
) -> nn.ModuleDict:
    """Return generator and discriminator for images of 8 to 128 pixels.

    For 32x32 colour images they have 370,624 and 167,808 parameters.

    Args:
        spec: shape and classes of the images.
        latent: how many numbers an image is made from.
        width: channels next to the image; each halving doubles them, up to 8 times. 64 at 64x64 is
            the paper's network.
        norm: the discriminator's norm: batch, spectral or none.
        minibatch: what the discriminator sees of its batch: none, stddev or discrimination.
        conditional: whether images of a given class are made, by an embedding in the generator and
            a projection in the discriminator.

    Raises:
        ValueError: the size cannot be halved down to 4 to 7 pixels, or the norm or minibatch layer
            is unknown.
    """
    num_classes = spec.num_classes if conditional else 0
    generator = Generator(spec, latent, width, num_classes)
    discriminator = Discriminator(spec, width, norm, minibatch, num_classes)
    start_as_dcgan(generator)
    start_discriminator(discriminator, norm)
    return nn.ModuleDict({"generator": generator, "discriminator": discriminator})
