"""A residual network in its CIFAR form (He et al. 2016): 6n+2 layers with 16, 32 and 64 filters."""

from __future__ import annotations

from torch import Tensor, nn

from tintype.data.source import DataSpec
from tintype.models.parts.layers import need_size
from tintype.optim import mark_scale_invariant


def _conv(channels: int, out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(channels, out, kernel, stride=stride, padding=kernel // 2, bias=False)
    mark_scale_invariant(conv.weight)  # a batch norm follows
    return conv


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut (1x1 where the shape changes)."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(channels, out, 3, stride)
        self.norm1 = nn.BatchNorm2d(out)
        self.conv2 = _conv(out, out, 3)
        self.norm2 = nn.BatchNorm2d(out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(_conv(channels, out, 1, stride), nn.BatchNorm2d(out))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.norm1(self.conv1(x)))
        return self.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


def build(spec: DataSpec, depth: int = 20, width: int = 16) -> nn.Module:
    """Return a network of `depth` layers in three stages of width, 2 * width and 4 * width filters.

    Raises:
        ValueError: the depth is not 6n+2, or the images are smaller than 8x8.
    """
    need_size(spec.height, spec.width, 8)
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"depth must be 6n+2 (8, 14, 20, 32, 44, 56, 110), got {depth}.")

    layers: list[nn.Module] = [
        _conv(spec.channels, width, 3),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]
    channels = width
    for stage in range(3):
        for block in range((depth - 2) // 6):
            out = width * 2**stage
            layers.append(Block(channels, out, stride=2 if stage > 0 and block == 0 else 1))
            channels = out

    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, spec.num_classes)
    )
