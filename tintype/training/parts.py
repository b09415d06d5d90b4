"""The parts of a batch: what a step computes for each of them, and how that is added up.

A batch has as many parts as the recipe says (`parts`), however many processes share them. The bits
of a step depend on the number of parts alone, since

- each part draws its own random numbers, and starts from the same weights and buffers;
- gradients, logged scalars and buffers are put together along one fixed binary tree over all parts.

With one part there is nothing to put together, and nothing here costs anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tintype.data.source import Batch

# Leaves the gradient of a part in the weights, and returns its scalars: called with the part, its
# number and the number of images in the whole batch.
Backward = Callable[[Batch, int, int], dict[str, Tensor]]


@dataclass
class Sum:
    """What some neighbouring parts amount to.

    Attributes:
        num_images: of these parts.
        gradients: of each weight, None where no part has reached it.
        floats: the floating-point buffers (N,), the mean of the parts.
        counts: the other buffers (N,), those of the first part.
        logged: the scalars to log.
    """

    num_images: int
    gradients: list[Tensor | None]
    floats: Tensor
    counts: Tensor
    logged: dict[str, Tensor]

    @torch.no_grad()
    def add(self, other: Sum) -> Sum:
        """Add the parts that follow; they are used up."""
        for position, gradient in enumerate(other.gradients):
            own = self.gradients[position]
            self.gradients[position] = gradient if own is None else own
            if own is not None and gradient is not None:
                own.add_(gradient)

        # What no part changed stays as it is: a mean may differ from it in the last bit.
        share = other.num_images / (self.num_images + other.num_images)
        mean = torch.lerp(self.floats, other.floats, share)
        self.floats = torch.where(self.floats == other.floats, self.floats, mean)
        self.logged = {name: value + other.logged[name] for name, value in self.logged.items()}
        self.num_images += other.num_images
        return self


class Parts:
    """Compute a step part by part.

    Each part starts from the buffers that the step began with (running averages of batch norms, the
    vectors of spectral norms, whatever a network of the user's own has), and the step ends with
    their mean over the parts, so that a running average moves as far in a step as with one part.

    Args:
        count: how many parts a batch has, a power of two.
        modules: those whose buffers a loss may change.
    """

    def __init__(self, count: int, modules: Sequence[nn.Module]) -> None:
        self.count = count
        self.modules = modules

    def gradients(
        self, batch: Batch, weights: Sequence[Tensor], backward: Backward
    ) -> dict[str, Tensor]:
        """Leave the gradient of a batch in the weights; return what its parts have logged."""
        total = len(batch.targets)
        if self.count == 1:
            return backward(batch, 0, total)

        parts = pieces(batch, self.count)
        buffers = _Buffers(self.modules)

        def of_part(number: int) -> Sum:
            part = _copied(parts[number])
            buffers.begin()
            for weight in weights:
                weight.grad = None
            logged = backward(part, number, total)
            gradients = [weight.grad for weight in weights]
            return Sum(len(part.targets), gradients, *buffers.read(), logged)

        whole = _added(of_part, 0, self.count)
        buffers.write(whole.floats, whole.counts)
        for weight, gradient in zip(weights, whole.gradients, strict=True):
            weight.grad = gradient
        return whole.logged


def pieces(batch: Batch, count: int) -> list[Batch]:
    """Cut a batch into `count` pieces, of which the first may have an image more."""
    if count == 1:
        return [batch]
    images, targets, index = (tensor.tensor_split(count) for tensor in batch[:3])
    weights = [None] * count if batch.weights is None else batch.weights.tensor_split(count)
    return [Batch(*columns) for columns in zip(images, targets, index, weights, strict=True)]


def _copied(part: Batch) -> Batch:
    """Return a copy, which lies in memory as the same images do in any other process."""
    images, targets, index = (column.clone() for column in part[:3])
    return Batch(images, targets, index, None if part.weights is None else part.weights.clone())


def _added(of_part: Callable[[int], Sum], first: int, last: int) -> Sum:
    """Add the parts `first` to `last` - 1 along the tree; few of them are in memory at a time."""
    if last - first == 1:
        return of_part(first)
    middle = (first + last) // 2
    before = _added(of_part, first, middle)
    return before.add(_added(of_part, middle, last))


class _Buffers:
    """The buffers of modules, and what they held when a step began.

    They are replaced, not overwritten: a graph that was kept for a later turn holds the old ones.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        inner = dict.fromkeys(each for module in modules for each in module.modules())
        self.places = [
            (module, name, buffer)
            for module in inner
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]

    def begin(self) -> None:
        """Give the modules copies of what their buffers held when the step began."""
        for module, name, buffer in self.places:
            module._buffers[name] = buffer.clone()

    def read(self) -> tuple[Tensor, Tensor]:
        """Return what the floating-point buffers hold now, and what all others do."""
        now = [module.get_buffer(name).detach() for module, name, _ in self.places]
        floats = [buffer for buffer in now if buffer.is_floating_point()]
        wide = any(buffer.dtype == torch.float64 for buffer in floats)
        counts = [buffer for buffer in now if not buffer.is_floating_point()]
        return _flat(floats, torch.float64 if wide else torch.float32), _flat(counts, torch.int64)

    def write(self, floats: Tensor, counts: Tensor) -> None:
        """Let the buffers hold what `read` returned, or a mean of it."""
        taken = {True: 0, False: 0}
        for module, name, before in self.places:
            is_float = before.is_floating_point()
            start = taken[is_float]
            taken[is_float] += before.numel()
            values = (floats if is_float else counts)[start : taken[is_float]]
            module._buffers[name] = torch.empty_like(before).copy_(values.view(before.shape))


def _flat(tensors: list[Tensor], dtype: torch.dtype) -> Tensor:
    flat = [tensor.to(dtype).reshape(-1) for tensor in tensors]
    return torch.cat(flat) if flat else torch.empty(0, dtype=dtype)
