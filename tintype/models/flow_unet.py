"""Flow matching: a small U-Net that leads noise to images along nearly straight lines, in a few
steps.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tintype.data.source import DataSpec
from tintype.models.parts.gan_parts import SelfAttention, nearest_size, upsampled

TASK = "generate"
# of the images whose class is hidden in training, where guidance needs a velocity without class
LABEL_DROP = 0.1


class Block(nn.Module):
    """Group norm, SiLU, convolution; twice, the second scaled and shifted by time and class; around
    them a shortcut.
    """

    def __init__(self, channels: int, out: int, context: int) -> None:
        super().__init__()
        self.norm_1, self.conv_1 = (
            nn.GroupNorm(_groups(channels), channels),
            nn.Conv2d(channels, out, 3, padding=1),
        )
        self.norm_2, self.conv_2 = (
            nn.GroupNorm(_groups(out), out),
            nn.Conv2d(out, out, 3, padding=1),
        )
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
    """A velocity (N, C, H, W) for points between noise (time 0) and images (time 1), and images by following it.

    The image is first cut into `patch` x `patch` blocks, which become channels; each level halves
    the side.
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
        self.latent_shape, self.conditional = (
            (spec.channels, spec.height, spec.width),
            num_classes > 0,
        )
        self.patch, self.sampling_steps, self.guidance = patch, sampling_steps, guidance
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

        down, up = [Block(width, width, context)], [Block(2 * width, width, context)]
        for here, deeper in itertools.pairwise(widths):
            down.append(Block(here, deeper, context))
            up.append(Block(deeper + deeper, here, context))

        self.down, self.up = nn.ModuleList(down), nn.ModuleList(up)
        self.middle = Block(widths[-1], widths[-1], context)
        self.attention = SelfAttention(widths[-1]) if attention else nn.Identity()
        self.norm = nn.GroupNorm(_groups(width), width)
        self.last = nn.Conv2d(width, spec.channels * patch**2, 3, padding=1)
        nn.init.zeros_(self.last.weight)  # the flow starts at rest
        nn.init.zeros_(self.last.bias)  # pyright: ignore[reportArgumentType]

    def velocity(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return where a point (N, C, H, W) moves at its time (N,) in 0..1; the field that flow
        matching learns.
        """
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
        """Return images: follow the velocity from noise (N, C, H, W) in `sampling_steps` steps of
        the midpoint rule.
        """
        x, step = latent, 1 / self.sampling_steps
        for number in range(self.sampling_steps):
            time = torch.full((x.shape[0],), number * step, device=x.device)
            halfway = x + step / 2 * self._guided(x, time, labels)
            x = x + step * self._guided(halfway, time + step / 2, labels)
        return x

    def _guided(self, x: Tensor, time: Tensor, labels: Tensor | None) -> Tensor:
        """Return the velocity towards the class, `guidance` times as far from that of any class (Ho
        & Salimans 2022).
        """
        if self.no_class is None or labels is None:
            return self.velocity(x, time, labels)
        # Two passes: ONNX cannot cut a batch of any size in half.
        towards = self.velocity(x, time, labels)
        anywhere = self.velocity(x, time, torch.full_like(labels, self.no_class))
        return torch.lerp(anywhere, towards, self.guidance)


def _waves(time: Tensor, count: int) -> Tensor:
    """Return sine and cosine (N, 2 * count) of time at frequencies from 1 to 1,000, evenly spaced
    in their logarithm.
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
        spec: shape and classes of the images; sides that patch times 2 to the power of `levels`
            divides.
        width: channels at the finest level, even; each level doubles them, up to 4 times.
        levels: how often the side is halved.
        patch: side of the blocks that the image is first cut into; 2 makes it about four times as
            fast.
        attention: a layer at the coarsest level in which every position sees all others.
        conditional: an image of a given class.
        sampling_steps: steps of the midpoint rule from noise to image; each asks the network twice.
        guidance: how far images are drawn towards their class: 1 as they are, 2 twice as far. Other
            than 1 it also hides
            the class of every tenth image in training, and doubles the work of making images.

    Raises:
        ValueError: sides that cannot be halved so often, an odd width, or guidance without classes
            or below 0.
    """
    unit = patch * 2**levels
    if spec.height % unit or spec.width % unit:
        raise ValueError(
            f"images of {spec.height}x{spec.width} cannot be cut into {unit}x{unit} blocks. "
            f"Try fewer levels, another patch, or --image-size {nearest_size(min(spec.height, spec.width))}."
        )
    if width % 2:
        raise ValueError(f"width is {width}, expected an even number.")

    num_classes = spec.num_classes if conditional else 0
    if not 0 <= guidance < math.inf or (guidance != 1 and not num_classes):
        raise ValueError(
            f"guidance is {guidance}, expected a number from 0 on, and 1 where no classes are known."
        )

    return FlowUNet(spec, width, levels, patch, attention, num_classes, sampling_steps, guidance)
