"""A residual GAN for small colour photos: blocks with shortcuts, and self-attention where asked."""

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
    """Double the side: norm, ReLU, doubling, convolution, norm, ReLU and convolution.

    The shortcut is a 1x1 convolution and doubling.
    """

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.norm_1 = nn.BatchNorm2d(channels)
        self.norm_2 = nn.BatchNorm2d(out)
        self.conv_1 = nn.Conv2d(channels, out, 3, padding=1)
        self.conv_2 = nn.Conv2d(out, out, 3, padding=1)
        self.shortcut = nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv_1(upsampled(F.relu(self.norm_1(x))))
        y = self.conv_2(F.relu(self.norm_2(y)))
        # A 1x1 convolution and doubling may change places; this order is four times cheaper.
        return y + upsampled(self.shortcut(x))


class DownBlock(nn.Module):
    """Halve the side: Leaky ReLU, convolution, Leaky ReLU, convolution and pooling, without a norm.

    The shortcut is pooling and a 1x1 convolution.
    """

    def __init__(self, channels: int, out: int, first: bool = False) -> None:
        super().__init__()
        self.first = first
        self.conv_1 = nn.Conv2d(channels, out, 3, padding=1)
        self.conv_2 = nn.Conv2d(out, out, 3, padding=1)
        self.shortcut = nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.first else F.leaky_relu(x, 0.2)
        y = self.conv_2(F.leaky_relu(self.conv_1(y), 0.2))
        return (F.avg_pool2d(y, 2) + self.shortcut(F.avg_pool2d(x, 2))) * math.sqrt(0.5)


class Generator(nn.Module):
    """A linear layer to the smallest side, blocks that double it, and Tanh (Miyato et al. 2018).

    Attention follows the block before the last one where it is asked for.
    """

    def __init__(
        self, spec: DataSpec, latent: int, width: int, attention: bool, num_classes: int
    ) -> None:
        super().__init__()
        self.base, count = halvings(spec, "resnet-gan")
        self.latent_shape = (latent,)
        self.conditional = num_classes > 0
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
        self.norm = nn.BatchNorm2d(widths[-1])
        self.last = nn.Conv2d(widths[-1], spec.channels, 3, padding=1)

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.first(self.classes(latent, labels)).view(len(latent), -1, *self.base)
        return self.last(F.relu(self.norm(self.blocks(x)))).tanh()


class Discriminator(nn.Module):
    """Blocks that halve the side, a convolution on what is left, and a head over its mean."""

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

    The discriminator has no norm, since gradient penalties are defined for a single image. Train it
    with gradient penalties on real and on generated images (R1 and R2, Mescheder et al. 2018), or
    with `spectral_norm`.

    Args:
        spec: shape and classes of the images.
        latent: how many numbers an image is made from.
        width: channels next to the image; each halving doubles them, up to 4 times.
        attention: whether a layer in each network lets every position see all others.
        spectral_norm: whether the discriminator's filters are divided by their largest singular
            value.
        minibatch: what the discriminator sees of its batch: none, stddev or discrimination.
        conditional: whether images of a given class are made, by an embedding in the generator and
            a projection in the discriminator.

    Raises:
        ValueError: the size cannot be halved down to 4 to 7 pixels, or the minibatch layer is
            unknown.
    """
    num_classes = spec.num_classes if conditional else 0
    generator = Generator(spec, latent, width, attention, num_classes)
    discriminator = Discriminator(spec, width, attention, minibatch, num_classes)
    if spectral_norm:
        with_spectral_norm(discriminator)
    return nn.ModuleDict({"generator": generator, "discriminator": discriminator})
