"""The best quality for CPU time: merged 3x3 convolutions, pixel shuffle and a bicubic shortcut."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tintype.data.source import DataSpec
from tintype.models.parts.resample import enlarge

TASK = "upscale"


class MergedConv(nn.Module):
    """A 3x3 convolution that is learned as a sum of branches (cf. ECBSR, Zhang et al. 2021).

    The branches are a 3x3 convolution, a 1x1 followed by a 3x3, and the identity. All are linear,
    so that kernels are summed in place of images, and training costs one convolution as well.
    """

    def __init__(self, channels: int, out: int, expand: int = 2) -> None:
        super().__init__()
        middle = expand * max(channels, out)
        self.weight = nn.Parameter(torch.empty(out, channels, 3, 3))
        self.first = nn.Parameter(torch.empty(middle, channels, 1, 1))
        self.second = nn.Parameter(torch.empty(out, middle, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out))
        for weight in (self.weight, self.first, self.second):
            nn.init.kaiming_normal_(weight)

        with torch.no_grad():
            self.weight.mul_(0.5)
            self.second.mul_(0.5)

        self.identity = channels == out

    def kernel(self) -> Tensor:
        """Return the one kernel (out, channels, 3, 3) that equals the branches together."""
        kernel = self.weight + torch.einsum("omyx,mi->oiyx", self.second, self.first[:, :, 0, 0])
        if self.identity:
            one = torch.zeros_like(kernel[:, :, 0, 0]).fill_diagonal_(1.0)
            kernel = kernel + F.pad(one[:, :, None, None], (1, 1, 1, 1))
        return kernel

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel(), self.bias, padding=1)


class Block(nn.Module):
    """Two convolutions with a shortcut.

    `attention` weighs the output by itself, as in SPAN (Wan et al. 2024).
    """

    def __init__(self, width: int, attention: bool) -> None:
        super().__init__()
        self.conv1 = MergedConv(width, width)
        self.conv2 = MergedConv(width, width)
        self.act = nn.PReLU(width, 0.1)
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.act(self.conv1(x)))
        return (x + y) * (torch.sigmoid(y) + 0.5) if self.attention else x + y


class FastSR(nn.Module):
    """Head, blocks, tail to scale**2 images and pixel shuffle, added to the bicubic image."""

    def __init__(self, channels: int, scale: int, width: int, depth: int, attention: bool) -> None:
        super().__init__()
        self.scale = scale
        self.halo = 2 * depth + 2 + 2
        self.head = nn.Conv2d(channels, width, 3, padding=1)
        self.body = nn.Sequential(*(Block(width, attention) for _ in range(depth)))
        self.tail = nn.Conv2d(width, channels * scale**2, 3, padding=1)
        nn.init.zeros_(self.tail.weight)
        nn.init.zeros_(self.tail.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, low: Tensor) -> Tensor:
        x = self.head(low - 0.5)
        x = x + self.body(x)
        return enlarge(low, self.scale) + F.pixel_shuffle(self.tail(x), self.scale)

    def merged(self) -> FastSR:
        """Return the same function for inference, each sum of branches as one plain convolution."""
        network = copy.deepcopy(self)
        for block in network.body:
            for name in ("conv1", "conv2"):
                branches = getattr(block, name)
                if isinstance(branches, MergedConv):
                    out, channels = branches.weight.shape[:2]
                    conv = nn.Conv2d(channels, out, 3, padding=1)
                    assert conv.bias is not None
                    conv.weight.data = branches.kernel().detach()
                    conv.bias.data = branches.bias.detach().clone()
                    setattr(block, name, conv)

        return network


def build(
    spec: DataSpec, scale: int = 2, width: int = 16, depth: int = 3, attention: bool = False
) -> nn.Module:
    """Return a network with `depth` blocks of two convolutions with `width` filters.

    `attention` weighs the output of each block by itself, which takes a fifth more time.
    """
    return FastSR(spec.channels, scale, width, depth, attention)
