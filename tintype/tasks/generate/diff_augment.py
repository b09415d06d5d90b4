"""Differentiable augmentation of what a discriminator sees, and its adaptive strength.

Both real and generated images are changed alike, so the generator does not learn to make changed
images (Zhao et al., "Differentiable augmentation", 2020). `AdaptiveStrength` follows Karras et al.,
"Training GANs with limited data" (2020).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

OPERATIONS = ("colour", "translation", "cutout")


def diff_augment(
    images: Tensor, operations: Sequence[str], probability: float, generator: torch.Generator
) -> Tensor:
    """Change each image (N, C, H, W) in -1..1 by each operation with a probability.

    colour: brightness by up to 0.5, saturation by 0 to 2, contrast by 0.5 to 1.5; translation by up
    to an eighth of the side, zeros outside; cutout of a square of half the side. All draws come
    from `generator`.
    """
    for name in operations:
        changed = _FUNCTIONS[name](images, generator)
        if probability < 1:
            chosen = (
                torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device)
                < probability
            )
            changed = torch.where(chosen, changed, images)
        images = changed
    return images


def _uniform(images: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device)


def _colour(images: Tensor, generator: torch.Generator) -> Tensor:
    images = images + (_uniform(images, generator) - 0.5)
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * (2 * _uniform(images, generator))
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (images - mean) * (0.5 + _uniform(images, generator))


def _translation(images: Tensor, generator: torch.Generator) -> Tensor:
    height, width = images.shape[-2:]
    most = (round(height / 8), round(width / 8))
    padded = F.pad(images, (most[1], most[1], most[0], most[0]))

    def offsets(limit: int) -> Tensor:
        return torch.randint(
            0, 2 * limit + 1, (len(images),), generator=generator, device=images.device
        )

    top, left = (offsets(limit) for limit in most)
    rows = top[:, None] + torch.arange(height, device=images.device)  # (N, H)
    columns = left[:, None] + torch.arange(width, device=images.device)
    # Two gathers instead of one index over three dimensions: their gradient is several times as
    # fast on the CPU.
    count, channels = images.shape[:2]
    padded = padded.gather(
        2, rows[:, None, :, None].expand(count, channels, height, padded.shape[3])
    )

    return padded.gather(3, columns[:, None, None, :].expand(count, channels, height, width))


def _cutout(images: Tensor, generator: torch.Generator) -> Tensor:
    height, width = images.shape[-2:]
    # centres (N, 1, 1)
    y, x = (_uniform(images, generator)[:, 0] * side for side in (height, width))
    rows = torch.arange(height, device=images.device)[None, :, None]
    columns = torch.arange(width, device=images.device)[None, None]
    hidden = ((rows - y).abs() < height / 4) & ((columns - x).abs() < width / 4)
    return images * (~hidden)[:, None]


_FUNCTIONS = {"colour": _colour, "translation": _translation, "cutout": _cutout}


class AdaptiveStrength:
    """The probability of augmentation, raised while the discriminator memorises the images (ADA).

    The sign of the logits of real images, averaged over the last batches, is held at `target`:
    above it the probability rises, below it falls, at the pace that takes it from 0 to 1 within
    `images` images.
    """

    def __init__(
        self, target: float = 0.6, images: int = 100_000, every: int = 4, most: float = 0.85
    ) -> None:
        self.target = target
        self.images = images
        self.every = every
        self.most = most
        self.probability = 0.0
        self.signs: float | Tensor = 0.0  # a sum that stays on the device until a decision is due
        self.count = 0
        self.batches = 0

    def see(self, real: Tensor) -> None:
        """Take the logits (N,) of a batch of real images into account."""
        self.count_signs(real.detach().sign().sum(), len(real))

    def count_signs(self, signs: Tensor, count: int) -> None:
        """Take the sum of the signs of a batch of `count` real images into account."""
        self.signs = self.signs + signs
        self.count += count
        self.batches += 1
        if self.batches == self.every:
            direction = 1.0 if float(self.signs) / self.count > self.target else -1.0
            self.probability = min(
                self.most, max(0.0, self.probability + direction * self.count / self.images)
            )
            self.signs = 0.0
            self.count = 0
            self.batches = 0

    def state(self) -> dict[str, float]:
        """Return what a checkpoint holds."""
        return {
            "probability": self.probability, "signs": float(self.signs), "count": self.count,
            "batches": self.batches,
        }  # fmt: skip

    def load_state(self, state: dict[str, float]) -> None:
        """Take back what `state` returned."""
        for key, value in state.items():
            setattr(self, key, value)
