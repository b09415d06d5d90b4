"""Augmentation of a whole batch as tensors on the device, with a decision drawn for each image.

`operations` holds the augmentations, `canvas` the batch that they work on, `pixels` the mathematics
without chance, `spec` what a recipe says of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Generator, Tensor

from tintype.augment import operations
from tintype.augment.canvas import Canvas
from tintype.augment.own import OwnAugmentation
from tintype.augment.spec import is_foreign, resolve
from tintype.own_code import name_of


class Augment:
    """Augment batches as a recipe says; settings in the constructor, work in the call.

    `mixable` turns targets (N, ...) into (N, K) float32 whose weighted mean is the target of a
    mixed image (see `TargetKind.mixable`). Augmentations of the user's own come before all others,
    on the images as they are; they are tried on random ones of `shape` (C, H, W).

    Attributes:
        options: every augmentation that is applied, in order, with the value of each of its
            options.

    Raises:
        UserError: an unknown name or option, a value out of range, or an augmentation of the user's
            own that cannot be one.
    """

    def __init__(
        self,
        spec: str | Mapping[str, Any] | None,
        *,
        mixable: Callable[[Tensor], Tensor],
        shape: tuple[int, int, int] | None = None,
    ) -> None:
        self.options = resolve(spec)
        self.mixable = mixable

        self.own = [
            OwnAugmentation(name, options)
            for name, options in self.options.items()
            if is_foreign(name)
        ]
        if shape is not None:
            for each in self.own:
                each.try_on(shape)

    def __call__(
        self,
        images: Tensor,
        targets: Tensor,
        *,
        index: Tensor | None = None,
        epoch: int = 0,
        generator: Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return augmented images and targets; the arguments are not modified.

        Args:
            images: (N, C, H, W) uint8, or float in 0..1; fastest in channels_last memory.
            targets: (N, ...), as the data have them.
            index: (N,) int64, position of each image in its source (needed by flip's mode
                "alternate").
            epoch: counted from 0 (needed by flip's mode "alternate").
            generator: on the device of the images; every decision follows from its state.

        Returns:
            Images (N, C, H, W) in channels_last memory: uint8 stays uint8 while pixels are only
            mirrored, shifted or erased, and is float32 in 0..255 after other changes; float stays
            in 0..1. The targets are those given, or (N, K) float32 after mixup or cutmix. What no
            augmentation touched is the argument itself.
        """
        place = {"index": index, "epoch": epoch, "generator": generator}
        return self.weighted(images, targets, None, **place)[:2]

    def weighted(
        self,
        images: Tensor,
        targets: Tensor,
        weights: Tensor | None,
        *,
        index: Tensor | None = None,
        epoch: int = 0,
        generator: Generator | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return augmented images, targets and weights: a mixed image has the mean of the weights.

        Args:
            images: as in a call, and likewise the rest.
            targets: (N, ...).
            weights: (N,) float32 of the images in the loss, or None.
            index: (N,) int64.
            epoch: counted from 0.
            generator: on the device of the images.
        """
        for own in self.own:
            images = own(images, generator)

        canvas = Canvas(images, targets, index, epoch, generator, self.mixable, weights)
        for name, options in self.options.items():
            if not is_foreign(name):
                getattr(operations, name)(canvas, **options)
        mixed = canvas.pixels().contiguous(memory_format=torch.channels_last)
        return mixed, canvas.targets, canvas.weights

    @property
    def identity(self) -> str:
        """What tells this augmentation from every other one, also from others of its names."""
        return " ".join([str(self.options), *(own.identity for own in self.own)])

    def __bool__(self) -> bool:
        return bool(self.options)

    def __str__(self) -> str:
        """Return for example "flip=0.5, crop=4"."""
        first = {
            name_of(name) if is_foreign(name) else name: next(iter(options.items()), None)
            for name, options in self.options.items()
        }
        return (
            ", ".join(f"{name}={option[1]}" if option else name for name, option in first.items())
            or "none"
        )
