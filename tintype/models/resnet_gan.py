"""Residual GAN: blocks of two convolutions around a shortcut, with optional self-attention; for
small colour photos.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from tintype.data.source import DataSpec
from tintype.models.parts.gan_parts import (
    ClassInput,
    Head,
    SelfAttention,
    halvings,
    minibatch_layer,
    upsampled,
    with_spectral_norm,
)

TASK = "generate"
MOST = 4  # the widest block has this many times `width` channels


class UpBlock(nn.Module):
    """Twice the side: norm, ReLU, doubling, convolution, norm, ReLU, convolution; beside it
    doubling and a 1x1.
    """

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(out)
        self.conv_1, self.conv_2 = (
            nn.Conv2d(channels, out, 3, padding=1),
            nn.Conv2d(out, out, 3, padding=1),
        )
        self.shortcut = nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv_1(upsampled(F.relu(self.norm_1(x))))
        y = self.conv_2(F.relu(self.norm_2(y)))
        # A 1x1 convolution and doubling may change places; this order is four times cheaper.
        return y + upsampled(self.shortcut(x))


class DownBlock(nn.Module):
    """Leaky ReLU, convolution, Leaky ReLU, convolution, half the side; beside it half the side and
    a 1x1. No norm.
    """

    def __init__(self, channels: int, out: int, first: bool = False) -> None:
        super().__init__()
        self.first = first
        self.conv_1, self.conv_2 = (
            nn.Conv2d(channels, out, 3, padding=1),
            nn.Conv2d(out, out, 3, padding=1),
        )
        self.shortcut = nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.first else F.leaky_relu(x, 0.2)
        y = self.conv_2(F.leaky_relu(self.conv_1(y), 0.2))
        return (F.avg_pool2d(y, 2) + self.shortcut(F.avg_pool2d(x, 2))) * math.sqrt(0.5)


class Generator(nn.Module):
    """A linear layer to the smallest side, up blocks, attention at 16 pixels where asked for, Tanh
    (Miyato et al. 2018).
    """

    def __init__(
        self, spec: DataSpec, latent: int, width: int, attention: bool, num_classes: int
    ) -> None:
        super().__init__()
        self.base, count = halvings(spec, "resnet-gan")
        self.latent_shape, self.conditional = (latent,), num_classes > 0
        self.classes = ClassInput(num_classes)
        widths = [width * min(MOST, 2**k) for k in reversed(range(count))]
        widths = [widths[0], *widths]
        self.first = nn.Linear(latent + self.classes.size, widths[0] * self.base[0] * self.base[1])

        blocks: list[nn.Module] = []
        for number in range(count):
            blocks.append(UpBlock(widths[number], widths[number + 1]))
            if attention and number == max(0, count - 2):
                blocks.append(SelfAttention(widths[number + 1]))

        self.blocks = nn.Sequential(*blocks)
        self.norm, self.last = (
            nn.BatchNorm2d(widths[-1]),
            nn.Conv2d(widths[-1], spec.channels, 3, padding=1),
        )

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.first(self.classes(latent, labels)).view(len(latent), -1, *self.base)
        return self.last(F.relu(self.norm(self.blocks(x)))).tanh()


class Discriminator(nn.Module):
    """Down blocks, a convolution on what is left, and a head over its sum."""

    def __init__(
        self, spec: DataSpec, width: int, attention: bool, minibatch: str, num_classes: int
    ) -> None:
        super().__init__()
        _, count = halvings(spec, "resnet-gan")
        widths = [width * min(MOST, 2**k) for k in range(count)]

        blocks: list[nn.Module] = []
        for number, out in enumerate(widths):
            blocks.append(
                DownBlock(widths[number - 1] if number else spec.channels, out, first=not number)
            )
            if attention and number == 0:
                blocks.append(SelfAttention(out))

        self.blocks = nn.Sequential(*blocks)
        self.minibatch, extra = minibatch_layer(minibatch, widths[-1])
        self.last = nn.Conv2d(widths[-1] + extra, widths[-1], 3, padding=1)
        self.head = Head(widths[-1], num_classes)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        x = F.leaky_relu(self.blocks(images), 0.2)
        x = F.leaky_relu(self.last(self.minibatch(x)), 0.2)
        return self.head(x.mean((2, 3)), labels)


def build(
    spec: DataSpec,
    latent: int = 128,
    width: int = 32,
    attention: bool = False,
    spectral_norm: bool = False,
    minibatch: str = "none",
    conditional: bool = False,
) -> nn.ModuleDict:
    """Return generator and discriminator for images of 8 to 128 pixels.

    The discriminator has no norm, so that gradient penalties mean what they say; train it with R1
    and R2, or with `spectral_norm`.

    Args:
        spec: shape and classes of the images.
        latent: numbers that an image is made from.
        width: channels next to the image; each halving doubles them, up to 4 times.
        attention: one layer in each network in which every position sees all others.
        spectral_norm: divide the discriminator's filters by their largest singular value.
        minibatch: what the discriminator sees of a batch: none, stddev or discrimination.
        conditional: an image of a given class: embedding in the generator, projection in the
            discriminator.

    Raises:
        ValueError: a size that cannot be halved down to 4 to 7 pixels, or an unknown minibatch
            layer.
    """
    num_classes = spec.num_classes if conditional else 0
    generator = Generator(spec, latent, width, attention, num_classes)
    discriminator = Discriminator(spec, width, attention, minibatch, num_classes)
    if spectral_norm:
        with_spectral_norm(discriminator)
    return nn.ModuleDict({"generator": generator, "discriminator": discriminator})
