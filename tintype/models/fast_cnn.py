"""A fast CNN on whitened patches, made for Muon: the default, with the most accuracy per second."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tintype.data.source import DataSpec
from tintype.hardware.device import doubled
from tintype.models.parts.layers import need_size
from tintype.optim import mark_scale_invariant, scale_lr


class Whitening(nn.Module):
    """A fixed convolution that makes patches of the image uncorrelated, with a trainable bias.

    Its filters are the scaled eigenvectors of the patch covariance of training images, each with
    both signs (Jordan 2024, airbench; the idea is Coates & Ng 2012). At most `most` eigenvectors
    are kept, those of the largest variance. A bias that is not `trained` stays at zero, and no
    gradient has to come back to this layer.
    """

    def __init__(
        self, channels: int, kernel: int, stride: int, most: int = 24, trained: bool = True
    ) -> None:
        super().__init__()
        self.stride = stride
        self.num_pairs = min(channels * kernel * kernel, most)
        filters = torch.zeros(2 * self.num_pairs, channels, kernel, kernel)
        nn.init.normal_(filters, std=0.1)
        self.weight = nn.Parameter(filters, requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(2 * self.num_pairs), requires_grad=trained)

    @torch.no_grad()
    def initialise_from(self, images: Tensor, epsilon: float = 5e-4) -> None:
        """Compute the filters from normalised images (N, C, H, W)."""
        kernel = self.weight.shape[-1]
        stride = max(1, self.stride)
        patches = F.unfold(images.float().contiguous(), kernel, stride=stride).transpose(1, 2)
        patches = doubled(patches.reshape(-1, patches.shape[-1]))

        # `eigh` returns the smallest eigenvalue first.
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        values = values.flip(0)[: self.num_pairs]
        vectors = vectors.flip(1)[:, : self.num_pairs]

        scaled = (vectors / torch.sqrt(values + epsilon)).T
        filters = scaled.reshape(self.num_pairs, *self.weight.shape[1:])
        self.weight.copy_(torch.cat([filters, -filters]))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, stride=self.stride)


class Block(nn.Module):
    """Convolution, max-pooling, norm and GELU; then more convolutions with norm and GELU.

    From the third convolution on, its input is added to its output. With `pool_first` the
    max-pooling comes before the first convolution, which then has a quarter of the positions.
    """

    def __init__(
        self, channels: int, out: int, convolutions: int, round_up: bool, pool_first: bool = False
    ) -> None:
        super().__init__()
        self.round_up = round_up
        self.pool_first = pool_first
        self.convs = nn.ModuleList(
            _filters(channels if i == 0 else out, out) for i in range(convolutions)
        )
        self.norms = nn.ModuleList(_norm(out) for _ in range(convolutions))

    def forward(self, x: Tensor) -> Tensor:
        first = self.convs[0]
        x = first(self._pooled(x)) if self.pool_first else self._pooled(first(x))
        x = F.gelu(self.norms[0](x))

        for i in range(1, len(self.convs)):
            y = F.gelu(self.norms[i](self.convs[i](x)))
            x = x + y if i > 1 else y
        return x

    def _pooled(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 2, ceil_mode=self.round_up)


def _filters(channels: int, out: int) -> nn.Conv2d:
    """Return a 3x3 convolution whose first filters copy their channel (a partial identity)."""
    conv = nn.Conv2d(channels, out, 3, padding=1, bias=False)
    nn.init.dirac_(conv.weight.data[: min(channels, out)])
    mark_scale_invariant(conv.weight)
    return conv


def _norm(channels: int) -> nn.BatchNorm2d:
    """Return a batch norm without trainable scale, whose statistics follow quickly (airbench)."""
    norm = nn.BatchNorm2d(channels, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm


class FastCNN(nn.Module):
    """Whitening, blocks, global max-pooling, and a linear head divided by its width."""

    def __init__(
        self,
        spec: DataSpec,
        widths: Sequence[int],
        convolutions: int,
        stem: int | None,
        pool_first: bool,
        stem_bias: bool,
        bias_lr: float,
    ) -> None:
        super().__init__()
        # Larger images are first cut into patches that bring them to about 32 positions a side.
        stride = stem or max(1, round(min(spec.height, spec.width) / 32))
        self.whitening = Whitening(
            spec.channels, kernel=stride + 1, stride=stride, trained=stem_bias
        )
        channels = [2 * self.whitening.num_pairs, *widths]

        # Odd sides are rounded up only where three halvings would pool the image away, as on 8x8
        # digits.
        round_up = min(spec.height, spec.width) < 2 ** (len(widths) + 1)
        last = len(widths) - 1
        self.blocks = nn.Sequential(
            *(
                Block(i, o, convolutions, round_up, pool_first and number == last)
                for number, (i, o) in enumerate(pairwise(channels))
            )
        )

        self.head = nn.Linear(widths[-1], spec.num_classes, bias=False)
        self.head.weight.data /= self.head.weight.data.std()
        # The division by the width in `forward` makes gradients small by as much.
        scale_lr(self.head.weight, 0.3 * widths[-1])

        for norm in self.modules():
            if isinstance(norm, nn.BatchNorm2d):
                scale_lr(norm.bias, bias_lr)

    def initialise_from(self, images: Tensor) -> None:
        """Set the whitening filters from normalised training images (N, C, H, W)."""
        self.whitening.initialise_from(images)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.gelu(self.whitening(x)))
        return self.head(x.amax((2, 3))) / x.shape[1]


def build(
    spec: DataSpec,
    widths: Sequence[int] = (64, 256, 256),
    convolutions: int = 2,
    stem: int | None = None,
    pool_first: bool = False,
    stem_bias: bool = True,
    bias_lr: float = 1.0,
) -> nn.Module:
    """Return the network of airbench94 (Jordan 2024), generalised to other sizes and channels.

    Args:
        spec: shape and classes of the images.
        widths: filters of each block; each block halves the side.
        convolutions: convolutions in a block; 3 is the network of airbench96.
        stem: stride of the whitening patches; by default side / 32, at least 1.
        pool_first: whether the last block pools before its first convolution, which saves a fifth
            of the multiply-adds.
        stem_bias: whether the bias of the whitening is trained. Without it the way back ends at the
            first convolution of the first block.
        bias_lr: factor on the learning rate of the biases of norms beside Muon. Where a run has few
            steps, as with large batches, they do not come far enough without it. Other optimizers
            know no such factor.

    Raises:
        ValueError: the images are smaller than 6x6, or `bias_lr` is not above 0.
    """
    need_size(spec.height, spec.width, 6)
    if bias_lr <= 0:
        raise ValueError(f"bias_lr must be above 0, but is {bias_lr}")

    return FastCNN(spec, widths, convolutions, stem, pool_first, stem_bias, bias_lr)
