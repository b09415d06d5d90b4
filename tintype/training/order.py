"""The order of the training images, which follows from seed and epoch, and batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from tintype.data.pixels import ReadsAhead
from tintype.data.source import Batch, ImageSource, Shards
from tintype.seeds import fold

STEPS_AHEAD = 3  # whose images are decoded before their turn


class Order:
    """The endless sequence of image positions.

    It is one permutation for each epoch, cut into batches without remainder. With `targets` (N,)
    the classes are balanced: an epoch is as long, and each class has an equal share of it. With
    `shards`, the shards come in another order for each epoch, and images are shuffled within
    windows of some of them.
    """

    def __init__(
        self,
        seed: int,
        num_images: int,
        batch_size: int,
        targets: Tensor | None = None,
        shards: Shards | None = None,
    ) -> None:
        self.seed, self.num_images, self.batch_size = seed, num_images, batch_size
        self.targets = targets
        self.shards = shards
        self._epochs: dict[int, Tensor] = {}
        self._windows: dict[int, list[tuple[int, list[int]]]] = {}

    def _epoch(self, epoch: int) -> Tensor:
        if epoch not in self._epochs:
            generator = torch.Generator().manual_seed(fold(self.seed, "order", epoch))
            # Two epochs are enough: a batch spans two at the most.
            self._epochs = {k: v for k, v in self._epochs.items() if k == epoch - 1}
            order = self._permutation(generator)
            if self.shards is not None:
                self._windows = {k: v for k, v in self._windows.items() if k == epoch - 1}
                order, self._windows[epoch] = _by_window(order, self.shards, generator)
            self._epochs[epoch] = order
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

    def shards_ahead(self, step: int) -> list[int]:
        """Return the shards of the window that a step is in, and of the next one, in this order."""
        epoch, offset = divmod(step * self.batch_size, self.num_images)
        self._epoch(epoch)
        windows = self._windows[epoch]
        now = next(k for k, (end, _) in enumerate(windows) if offset < end)
        if now + 1 == len(windows):
            self._epoch(epoch + 1)
            return list(dict.fromkeys([*windows[now][1], *self._windows[epoch + 1][0][1]]))
        return [*windows[now][1], *windows[now + 1][1]]

    def batch(self, step: int) -> Tensor:
        """Return the positions (B,) int64 of the images of `step`."""
        start, parts, missing = step * self.batch_size, [], self.batch_size
        while missing:
            epoch, offset = divmod(start, self.num_images)
            part = self._epoch(epoch)[offset : offset + missing]
            parts.append(part)
            start, missing = start + len(part), missing - len(part)
        return torch.cat(parts)


def _by_window(
    order: Tensor, shards: Shards, generator: torch.Generator
) -> tuple[Tensor, list[tuple[int, list[int]]]]:
    """Return a shuffled order (M,) sorted by windows of shuffled shards.

    With it come the windows: the place in the order where each ends, and its shards.
    """
    numbers = torch.from_numpy(shards.numbers)
    there = numbers.unique()
    drawn = there[torch.randperm(len(there), generator=generator)]
    window_of = torch.empty(int(there.max()) + 1, dtype=torch.int64)
    window_of[drawn] = torch.arange(len(drawn)) // shards.window

    in_order, places = torch.sort(window_of[numbers[order]], stable=True)
    counts = torch.bincount(in_order, minlength=-(-len(drawn) // shards.window))
    ends = counts.cumsum(0).tolist()
    windows = [part.tolist() for part in drawn.split(shards.window)]
    found = [(end, part) for end, part, n in zip(ends, windows, counts.tolist(), strict=True) if n]
    return order[places], found


def batches(
    source: ImageSource,
    order: Order,
    first: int,
    last: int,
    own: Callable[[Tensor], Tensor] = lambda positions: positions,
) -> Iterator[Batch]:
    """Yield the batches of steps `first` to `last` - 1.

    `own` chooses from the positions of a batch those that this process computes.

    A source that is not in memory is read one step ahead by a thread, and some steps ahead by
    threads of its own where it has them.
    """
    if source.kind == "resident":
        for step in range(first, last):
            yield source.take(own(order.batch(step)))
        return

    ahead = source.ahead()
    with (
        ThreadPoolExecutor(1, "tintype-read") as reader,
        nullcontext() if ahead is None else _reading(ahead),
    ):

        def begin(step: int) -> Future[Batch]:
            if ahead is not None:
                ahead.expect_shards(order.shards_ahead(step))
                for later in range(step, min(step + STEPS_AHEAD, last)):
                    ahead.expect(own(order.batch(later)))
            return reader.submit(source.take, own(order.batch(step)))

        following = begin(first) if first < last else None
        for step in range(first, last):
            assert following is not None
            batch = following.result()
            if step + 1 < last:
                following = begin(step + 1)
            yield batch


@contextmanager
def _reading(ahead: ReadsAhead) -> Iterator[None]:
    """Drop in the end what was read ahead and is not needed."""
    try:
        yield
    finally:
        ahead.forget()
