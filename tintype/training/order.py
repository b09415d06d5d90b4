"""The order of the training images, which follows from seed and epoch, and batches."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from tintype.data.source import Batch, ImageSource
from tintype.seeds import fold


class Order:
    """The endless sequence of image positions.

    It is one permutation for each epoch, cut into batches without remainder. With `targets` (N,)
    the classes are balanced: an epoch is as long, and each class has an equal share of it.
    """

    def __init__(
        self, seed: int, num_images: int, batch_size: int, targets: Tensor | None = None
    ) -> None:
        self.seed, self.num_images, self.batch_size = seed, num_images, batch_size
        self.targets = targets
        self._epochs: dict[int, Tensor] = {}

    def _epoch(self, epoch: int) -> Tensor:
        if epoch not in self._epochs:
            generator = torch.Generator().manual_seed(fold(self.seed, "order", epoch))
            # Two epochs are enough: a batch spans two at the most.
            self._epochs = {k: v for k, v in self._epochs.items() if k == epoch - 1}
            self._epochs[epoch] = self._permutation(generator)
        return self._epochs[epoch]

    def _permutation(self, generator: torch.Generator) -> Tensor:
        if self.targets is None:
            return torch.randperm(self.num_images, generator=generator)
        classes = [torch.where(self.targets == label)[0] for label in self.targets.unique()]
        share, rest = divmod(self.num_images, len(classes))
        lucky = torch.randperm(len(classes), generator=generator) < rest

        drawn = []
        for members, one_more in zip(classes, lucky.tolist(), strict=True):
            wanted = share + one_more  # as many whole permutations of the class as its share takes
            rounds = [
                torch.randperm(len(members), generator=generator)
                for _ in range(-(-wanted // len(members)))
            ]
            drawn.append(members[torch.cat(rounds or [members[:0]])[:wanted]])

        together = torch.cat(drawn)
        return together[torch.randperm(len(together), generator=generator)]

    def batch(self, step: int) -> Tensor:
        """Return the positions (B,) int64 of the images of `step`."""
        start, parts, missing = step * self.batch_size, [], self.batch_size
        while missing:
            epoch, offset = divmod(start, self.num_images)
            part = self._epoch(epoch)[offset : offset + missing]
            parts.append(part)
            start, missing = start + len(part), missing - len(part)
        return torch.cat(parts)


def batches(source: ImageSource, order: Order, first: int, last: int) -> Iterator[Batch]:
    """Yield the batches of steps `first` to `last` - 1.

    A mapped source is read one step ahead by a thread.
    """
    if source.kind == "resident":
        for step in range(first, last):
            yield source.take(order.batch(step))
        return

    with ThreadPoolExecutor(1, "tintype-read") as reader:
        ahead = reader.submit(source.take, order.batch(first)) if first < last else None
        for step in range(first, last):
            assert ahead is not None
            batch = ahead.result()
            if step + 1 < last:
                ahead = reader.submit(source.take, order.batch(step + 1))
            yield batch
