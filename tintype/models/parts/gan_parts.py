"""Parts of networks that make images: heads, inputs, and layers that see a whole batch or image.

A generator is called as generator(latent (N, *latent_shape), labels (N,) int64 or None) and returns
images (N, C, H, W) in -1..1; a discriminator as discriminator(images, labels) and returns one logit
(N,) for each image, above zero for "real".
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as _spectral_norm

from tintype.data.source import DataSpec

# The sides that a network may grow an image from.
SMALLEST = 4
LARGEST = 7


def halvings(spec: DataSpec, model: str) -> tuple[tuple[int, int], int]:
    """Return the (height, width) that an image is grown from, and how often it is doubled.

    Raises:
        ValueError: a side is not 4 to 7 pixels times a power of two, or is below 8 pixels.
    """
    smaller = min(spec.height, spec.width)
    count = 0
    while smaller // 2 ** (count + 1) >= SMALLEST:
        count += 1

    base = (spec.height // 2**count, spec.width // 2**count)
    whole = (base[0] << count, base[1] << count) == (spec.height, spec.width)
    if not whole or max(base) > LARGEST or count < 1:
        raise ValueError(
            f"{model} makes images of 8, 16, 28, 32, 48, 64, 96 or 128 pixels "
            f"(4 to 7 times a power of two), not {spec.height}x{spec.width}. "
            f"Try --image-size {nearest_size(smaller)}."
        )

    return base, count


def nearest_size(side: int) -> int:
    """Return the side nearest to `side` that can be grown from 4 to 7 pixels by doubling."""
    sizes = [base << count for base in range(SMALLEST, LARGEST + 1) for count in range(1, 9)]
    return min(sizes, key=lambda size: (abs(size - side), size))


def start_as_dcgan(network: nn.Module) -> None:
    """Draw weights from N(0, 0.02) and scales of norms from N(1, 0.02) (Radford et al. 2016)."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(layer.weight, 0.0, 0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d) and layer.affine:
            nn.init.normal_(layer.weight, 1.0, 0.02)
            nn.init.zeros_(layer.bias)


def start_by_he(network: nn.Module) -> None:
    """Draw weights by which (Leaky) ReLU layers without norm keep the variance (He et al. 2015).

    Biases are zero.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def with_spectral_norm(network: nn.Module) -> nn.Module:
    """Divide every filter and matrix by its largest singular value (Miyato et al. 2018).

    The network itself is changed and returned.
    """
    for layer in list(network.modules()):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            _spectral_norm(layer)
    return network


class Head(nn.Module):
    """One logit from features (N, D), plus their product with an embedding of the class.

    The product is the projection of Miyato & Koyama (2018).
    """

    def __init__(self, features: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 1)
        self.classes = nn.Embedding(num_classes, features) if num_classes else None

    def forward(self, features: Tensor, labels: Tensor | None) -> Tensor:
        logits = self.linear(features)[:, 0]
        if self.classes is not None:
            logits = logits + (self.classes(needed(labels)) * features).sum(1)
        return logits


def needed(labels: Tensor | None) -> Tensor:
    """Return the labels of a network with classes.

    Raises:
        ValueError: there are none.
    """
    if labels is None:
        raise ValueError("a network with classes needs the labels of the images")
    return labels


class ClassInput(nn.Module):
    """Append an embedding of the class to the latent (N, D), or nothing without classes."""

    def __init__(self, num_classes: int, size: int = 32) -> None:
        super().__init__()
        self.size = size if num_classes else 0
        self.embedding = nn.Embedding(num_classes, size) if num_classes else None

    def forward(self, latent: Tensor, labels: Tensor | None) -> Tensor:
        if self.embedding is None:
            return latent
        return torch.cat([latent, self.embedding(needed(labels))], 1)


class ClassNorm(nn.Module):
    """Batch norm with scale and shift for each class (Dumoulin et al. 2017).

    Without classes it is an ordinary batch norm.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=not num_classes)
        self.classes = nn.Embedding(num_classes, 2 * channels) if num_classes else None
        if self.classes is not None:
            nn.init.normal_(self.classes.weight, 0.0, 0.02)
            nn.init.normal_(self.classes.weight[:, :channels], 1.0, 0.02)

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        x = self.norm(x)
        if self.classes is None:
            return x
        scale, shift = self.classes(needed(labels))[:, :, None, None].chunk(2, 1)
        return torch.addcmul(shift, x, scale)


def strided_layers(channels: int, widths: Sequence[int], norm: str) -> nn.Sequential:
    """Return 4x4 convolutions of stride 2 with Leaky ReLU 0.2 (Radford et al. 2016).

    The norm "batch" stands on all but the first.
    """
    layers: list[nn.Module] = []
    for number, (before, out) in enumerate(pairwise([channels, *widths])):
        layers.append(nn.Conv2d(before, out, 4, stride=2, padding=1, bias=False))
        if norm == "batch" and number:
            layers.append(nn.BatchNorm2d(out))
        layers.append(nn.LeakyReLU(0.2))
    return nn.Sequential(*layers)


def grown(latent: Tensor, layer: nn.ConvTranspose2d) -> Tensor:
    """Return what a transposed convolution makes of one pixel (N, D).

    That is a product of matrices, which is six times as fast on a CPU.
    """
    images = latent @ layer.weight.flatten(1)
    return images.view(len(latent), -1, *layer.kernel_size).contiguous(
        memory_format=torch.channels_last
    )


def seen_whole(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """Return the output (N, C) of a convolution whose kernel covers the whole image.

    That is a product of matrices as well.
    """
    return F.linear(x.flatten(1), layer.weight.flatten(1), layer.bias)


def start_discriminator(network: nn.Module, norm: str) -> None:
    """Draw the weights of a discriminator in the way that suits its norm, and add spectral norm.

    Small weights need a batch norm after them; without one, hardly anything of an image would reach
    the logit.

    Raises:
        ValueError: the norm is not batch, spectral or none.
    """
    if norm not in ("batch", "spectral", "none"):
        raise ValueError(f"norm is {norm!r}, expected batch, spectral or none.")
    (start_as_dcgan if norm == "batch" else start_by_he)(network)
    if norm == "spectral":
        with_spectral_norm(network)


class MinibatchStd(nn.Module):
    """Append a channel with the mean deviation within groups of images (Karras et al. 2018).

    It shows where a batch lacks variety.
    """

    extra = 1

    def __init__(self, group: int = 4) -> None:
        super().__init__()
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        # A batch that no group divides is one group.
        size = next((g for g in range(self.group, 1, -1) if len(x) % g == 0), len(x))
        groups = x.float().reshape(size, -1, *x.shape[1:])
        deviation = (groups.var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3), keepdim=True)
        return torch.cat([x, deviation.repeat(size, 1, *x.shape[2:]).to(x.dtype)], 1)


class MinibatchDiscrimination(nn.Module):
    """Append channels with how near an image is to the others (Salimans et al. 2016)."""

    extra = 16

    def __init__(self, channels: int, kernels: int = 8) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, self.extra, kernels) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        means = x.float().mean((2, 3))
        rows = torch.einsum("nc,cek->nek", means, self.weight.float())  # (N, E, K)
        distances = (rows[:, None] - rows[None]).abs().sum(3)  # (N, N, E)
        nearness = torch.exp(-distances).sum(1) - 1  # without the image itself

        everywhere = nearness[:, :, None, None].expand(-1, -1, *x.shape[2:])
        return torch.cat([x, everywhere.to(x.dtype)], 1)


def minibatch_layer(name: str, channels: int) -> tuple[nn.Module, int]:
    """Return the layer "none", "stddev" or "discrimination" and how many channels it appends.

    Raises:
        ValueError: another name.
    """
    if name == "none":
        return nn.Identity(), 0
    if name == "stddev":
        return MinibatchStd(), MinibatchStd.extra
    if name == "discrimination":
        return MinibatchDiscrimination(channels), MinibatchDiscrimination.extra
    raise ValueError(f"minibatch is {name!r}, expected none, stddev or discrimination.")


class SelfAttention(nn.Module):
    """A layer in which every position sees all others (SAGAN, Zhang et al. 2019).

    What it adds has a weight that starts at zero.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // 8)
        self.query = nn.Conv2d(channels, inner, 1)
        self.key = nn.Conv2d(channels, inner, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gain = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            layer(x).flatten(2).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        # Written out: the fused kernel has no second derivative, which gradient penalties need.
        weights = torch.softmax(query @ key.transpose(1, 2) / query.shape[2] ** 0.5, dim=2)
        return x + self.gain * (weights @ value).transpose(1, 2).reshape(x.shape)


def upsampled(x: Tensor) -> Tensor:
    """Double height and width by repeating pixels."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


class PatchDiscriminator(nn.Module):
    """Give one logit for each place of a picture, above zero for "real" (cf. Isola et al. 2017).

    The logits (N, places) come from convolutions with spectral norm and no other, so that those of
    a picture do not depend on its batch.
    """

    def __init__(self, channels: int, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.LeakyReLU(0.2)]
        for _ in range(2):
            layers += [nn.Conv2d(width, 2 * width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
            width *= 2
        layers += [
            nn.Conv2d(width, width, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 1, 3, padding=1),
        ]
        self.layers = with_spectral_norm(nn.Sequential(*layers))

    def forward(self, pictures: Tensor) -> Tensor:
        return self.layers(pictures - 0.5).flatten(1)
