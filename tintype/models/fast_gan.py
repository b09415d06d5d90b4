"""Fast GAN, ahead of DCGAN in the first hour: DCGAN's convolutions, a norm for each class, small
batches and a hinge loss.
"""

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
    """A linear layer to the smallest side, then transposed convolutions 4x4 of stride 2 behind
    norms that know the class.
    """

    def __init__(self, spec: DataSpec, latent: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.base, count = halvings(spec, "fast-gan")
        self.latent_shape, self.conditional = (latent,), num_classes > 0
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
    """DCGAN's convolutions; the logit is a sum: one of the whole image, and one of how well it fits its class.

    The first sees every place by its own weight, the second, a projection (Miyato & Koyama 2018),
    means over the image. By the second alone the generator made one picture for each class
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
    """Return generator and discriminator for images of 8 to 128 pixels; made for the hinge loss and batches of 16 to 32.

    Args:
        spec: shape and classes of the images.
        latent: numbers that an image is made from.
        width: channels next to the image; each halving doubles them, up to 8 times.
        norm: of the discriminator: batch, spectral or none (for gradient penalties, which mean a
            single image).
        minibatch: what the discriminator sees of a batch: none, stddev or discrimination.
        conditional: an image of a given class: norms of its own in the generator, projection in the
            discriminator.

    Raises:
        ValueError: a size that cannot be halved down to 4 to 7 pixels, or an unknown norm or
            minibatch layer.
    """
    num_classes = spec.num_classes if conditional else 0
    generator = Generator(spec, latent, width, num_classes)
    discriminator = Discriminator(spec, width, norm, minibatch, num_classes)
    for layer in generator.convs:
        nn.init.normal_(layer.weight, 0.0, 0.02)  # pyright: ignore[reportArgumentType]
    start_discriminator(discriminator, norm)
    if discriminator.classes is not None:
        # the logit of the whole image leads at first
        nn.init.normal_(discriminator.classes.weight, 0.0, 0.02)
    return nn.ModuleDict({"generator": generator, "discriminator": discriminator})
