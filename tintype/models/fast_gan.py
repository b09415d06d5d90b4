"""A GAN that is ahead of DCGAN in the first hour, by norms for each class and a hinge loss."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from tintype.data.source import DataSpec
from tintype.models.parts.gan_parts import (
    ClassNorm,
    halvings,
    minibatch_layer,
    needed,
    seen_whole,
    start_discriminator,
    strided_layers,
)

TASK = "generate"
MOST = 8  # the widest layer has this many times `width` channels


class Generator(nn.Module):
    """A linear layer, then 4x4 transposed convolutions of stride 2, each after a norm by class."""

    def __init__(self, spec: DataSpec, latent: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.base, count = halvings(spec, "fast-gan")
        self.latent_shape = (latent,)
        self.conditional = num_classes > 0
        widths = [width * min(MOST, 2**k) for k in reversed(range(count))]
        self.first = nn.Linear(latent, widths[0] * self.base[0] * self.base[1], bias=False)
        self.norms = nn.ModuleList(ClassNorm(channels, num_classes) for channels in widths)
        self.convs = nn.ModuleList(
            nn.ConvTranspose2d(channels, out, 4, stride=2, padding=1, bias=False)
            for channels, out in pairwise([*widths, spec.channels])
        )

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.first(latent).view(len(latent), -1, *self.base)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = conv(F.relu(norm(x, labels)))
        return x.tanh()


class Discriminator(nn.Module):
    """DCGAN's convolutions with two logits that are added: of the whole image, and of its class.

    The first has a weight for every place. The second is a projection of means over the image
    (Miyato & Koyama 2018); with it alone the generator made one picture for each class
    (docs/log.md).
    """

    def __init__(
        self, spec: DataSpec, width: int, norm: str, minibatch: str, num_classes: int
    ) -> None:
        super().__init__()
        base, count = halvings(spec, "fast-gan")
        widths = [width * min(MOST, 2**k) for k in range(count)]
        self.layers = strided_layers(spec.channels, widths, norm)
        self.minibatch, extra = minibatch_layer(minibatch, widths[-1])
        self.last = nn.Conv2d(widths[-1] + extra, 1, base, bias=False)
        self.classes = nn.Embedding(num_classes, widths[-1]) if num_classes else None

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.layers(images)
        logits = seen_whole(self.minibatch(x), self.last)[:, 0]
        if self.classes is not None:
            logits = logits + (self.classes(needed(labels)) * x.mean((2, 3))).sum(1)
        return logits


def build(
    spec: DataSpec,
    latent: int = 100,
    width: int = 32,
    norm: str = "batch",
    minibatch: str = "none",
    conditional: bool = True,
) -> nn.ModuleDict:
    """Return generator and discriminator for images of 8 to 128 pixels.

    They are made for the hinge loss and batches of 16 to 32 images.

    Args:
        spec: shape and classes of the images.
        latent: how many numbers an image is made from.
        width: channels next to the image; each halving doubles them, up to 8 times.
        norm: the discriminator's norm: batch, spectral or none (for gradient penalties, which are
            defined for a single image).
        minibatch: what the discriminator sees of its batch: none, stddev or discrimination.
        conditional: whether images of a given class are made, by norms for each class in the
            generator and a projection in the discriminator.

    Raises:
        ValueError: the size cannot be halved down to 4 to 7 pixels, or the norm or minibatch layer
            is unknown.
    """
    num_classes = spec.num_classes if conditional else 0
    generator = Generator(spec, latent, width, num_classes)
    discriminator = Discriminator(spec, width, norm, minibatch, num_classes)
    for layer in generator.convs:
        nn.init.normal_(layer.weight, 0.0, 0.02)  # pyright: ignore[reportArgumentType]
    start_discriminator(discriminator, norm)
    if discriminator.classes is not None:
        # small, so that the logit of the whole image leads at first
        nn.init.normal_(discriminator.classes.weight, 0.0, 0.02)
    return nn.ModuleDict({"generator": generator, "discriminator": discriminator})
