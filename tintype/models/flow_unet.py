"""Flow matching: a small U-Net that leads noise to images along nearly straight lines."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tintype.data.source import DataSpec
from tintype.models.parts.gan_parts import SelfAttention, nearest_size, upsampled

TASK = "generate"
# The share of images whose class is hidden in training, since guidance needs a velocity without it.
LABEL_DROP = 0.1


class Block(nn.Module):
    """Group norm, SiLU and convolution, twice, with a shortcut.

    Time and class scale and shift what the second norm returns.
    """

    def __init__(self, channels: int, out: int, context: int) -> None:
        super().__init__()
        self.norm_1 = nn.GroupNorm(_groups(channels), channels)
        self.conv_1 = nn.Conv2d(channels, out, 3, padding=1)
        self.norm_2 = nn.GroupNorm(_groups(out), out)
        self.conv_2 = nn.Conv2d(out, out, 3, padding=1)

        self.context = nn.Linear(context, 2 * out)
        self.shortcut = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()
        nn.init.zeros_(self.conv_2.weight)  # every block starts as its shortcut

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        y = self.conv_1(F.silu(self.norm_1(x)))
        scale, shift = self.context(context)[:, :, None, None].chunk(2, 1)
        y = self.conv_2(F.silu(self.norm_2(y) * (1 + scale) + shift))
        return y + self.shortcut(x)


def _groups(channels: int) -> int:
    return math.gcd(channels, 8)


class FlowUNet(nn.Module):
    """A velocity (N, C, H, W) for points between noise (time 0) and images (time 1).

    Following it from noise makes images. The image is first cut into `patch` x `patch` blocks,
    which become channels; each level halves the side.
    """

    def __init__(
        self,
        spec: DataSpec,
        width: int,
        levels: int,
        patch: int,
        attention: bool,
        num_classes: int,
        sampling_steps: int,
        guidance: float,
    ) -> None:
        super().__init__()
        self.latent_shape = (spec.channels, spec.height, spec.width)
        self.conditional = num_classes > 0
        self.patch = patch
        self.sampling_steps = sampling_steps
        self.guidance = guidance
        # the label of an image of any class
        self.no_class = num_classes if num_classes and guidance != 1 else None
        self.label_drop = 0.0 if self.no_class is None else LABEL_DROP

        context = 4 * width
        self.frequencies = width // 2
        self.time = nn.Sequential(
            nn.Linear(2 * self.frequencies, context), nn.SiLU(), nn.Linear(context, context)
        )
        rows = num_classes + (self.no_class is not None)
        self.classes = nn.Embedding(rows, context) if num_classes else None

        widths = [width * min(2**k, 4) for k in range(levels + 1)]
        self.first = nn.Conv2d(spec.channels * patch**2, width, 3, padding=1)

        down = [Block(width, width, context)]
        up = [Block(2 * width, width, context)]
        for here, deeper in itertools.pairwise(widths):
            down.append(Block(here, deeper, context))
            up.append(Block(deeper + deeper, here, context))

        self.down = nn.ModuleList(down)
        self.up = nn.ModuleList(up)
        self.middle = Block(widths[-1], widths[-1], context)
        self.attention = SelfAttention(widths[-1]) if attention else nn.Identity()
        self.norm = nn.GroupNorm(_groups(width), width)
        self.last = nn.Conv2d(width, spec.channels * patch**2, 3, padding=1)
        nn.init.zeros_(self.last.weight)  # the flow starts at rest
        nn.init.zeros_(self.last.bias)  # pyright: ignore[reportArgumentType]

    def velocity(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the velocity of points (N, C, H, W) at times (N,) in 0..1."""
        context = self.time(_waves(time, self.frequencies).to(x.dtype))
        if self.classes is not None:
            if labels is None:
                raise ValueError("a network with classes needs the labels of the images")
            context = context + self.classes(labels)

        context = F.silu(context)
        x = self.first(F.pixel_unshuffle(x, self.patch))

        passed = []
        for number, block in enumerate(self.down):
            x = block(F.avg_pool2d(x, 2) if number else x, context)
            passed.append(x)

        x = self.attention(self.middle(x, context))
        for number in reversed(range(len(self.up))):
            x = self.up[number](torch.cat([x, passed[number]], 1), context)
            x = upsampled(x) if number else x

        return F.pixel_shuffle(self.last(F.silu(self.norm(x))), self.patch)

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return images (N, C, H, W) by following the velocity from noise of the same shape.

        It takes `sampling_steps` steps of the midpoint rule.
        """
        x = latent
        step = 1 / self.sampling_steps
        for number in range(self.sampling_steps):
            time = torch.full((x.shape[0],), number * step, device=x.device)
            halfway = x + step / 2 * self._guided(x, time, labels)
            x = x + step * self._guided(halfway, time + step / 2, labels)
        return x

    def _guided(self, x: Tensor, time: Tensor, labels: Tensor | None) -> Tensor:
        """Return the velocity towards the class, with guidance (Ho & Salimans 2022).

        It is `guidance` times as far from the velocity of any class.
        """
        if self.no_class is None or labels is None:
            return self.velocity(x, time, labels)
        # Two passes: ONNX cannot cut a batch of any size in half.
        towards = self.velocity(x, time, labels)
        anywhere = self.velocity(x, time, torch.full_like(labels, self.no_class))
        return torch.lerp(anywhere, towards, self.guidance)


def _waves(time: Tensor, count: int) -> Tensor:
    """Return sine and cosine (N, 2 * count) of times at frequencies from 1 to 1,000.

    The frequencies are evenly spaced on a logarithmic scale.
    """
    frequencies = torch.exp(torch.linspace(0, math.log(1000), count, device=time.device))
    angles = time[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1)


def build(
    spec: DataSpec,
    width: int = 32,
    levels: int = 2,
    patch: int = 1,
    attention: bool = False,
    conditional: bool = True,
    sampling_steps: int = 8,
    guidance: float = 1.0,
) -> nn.Module:
    """Return a U-Net for flow matching (Lipman et al. 2023; rectified flow, Liu et al. 2023).

    Args:
        spec: shape and classes of the images; both sides are multiples of patch * 2**levels.
        width: channels at the finest level, even; each level doubles them, up to 4 times.
        levels: how often the side is halved.
        patch: side of the blocks that the image is first cut into; 2 is about four times as fast.
        attention: whether a layer at the coarsest level lets every position see all others.
        conditional: whether images of a given class are made.
        sampling_steps: steps of the midpoint rule from noise to image; each runs the network twice.
        guidance: how far images are drawn towards their class: 1 not at all, 2 twice as far. Other
            values than 1 also hide the class of every tenth image in training, and double the work
            of making images.

    Raises:
        ValueError: the sides cannot be halved so often, the width is odd, or guidance is below 0 or
            is used without classes.
    """
    unit = patch * 2**levels
    if spec.height % unit or spec.width % unit:
        raise ValueError(
            f"images of {spec.height}x{spec.width} cannot be cut into {unit}x{unit} blocks. Try "
            "fewer levels, another patch, or "
            f"--image-size {nearest_size(min(spec.height, spec.width))}."
        )
    if width % 2:
        raise ValueError(f"width is {width}, expected an even number.")

    num_classes = spec.num_classes if conditional else 0
    if not 0 <= guidance < math.inf or (guidance != 1 and not num_classes):
        raise ValueError(
            f"guidance is {guidance}, expected a number of at least 0, and 1 without classes."
        )

    return FlowUNet(spec, width, levels, patch, attention, num_classes, sampling_steps, guidance)
