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
from itertools import accumulate

import torch
from torch import Tensor, nn

from tintype.data.source import Batch
from tintype.hardware.processes import ALONE, Group

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
        group: the processes that share the parts; each has as many as the others.
        exact: whether processes add along the tree too. Otherwise torch adds the gradients, which
            sends less, in an order that follows from the number of processes.
    """

    def __init__(
        self,
        count: int,
        modules: Sequence[nn.Module],
        group: Group = ALONE,
        *,
        exact: bool = True,
    ) -> None:
        self.count = count
        self.modules = modules
        self.group = group
        self.exact = exact
        own = count // group.size
        self.own = range(group.rank * own, (group.rank + 1) * own)

    def own_images(self, positions: Tensor) -> Tensor:
        """Return those of the positions (B,) of a batch that this process computes."""
        if self.group.size == 1:
            return positions
        ends = self._ends(len(positions))
        return positions[ends[self.own.start] : ends[self.own.stop]]

    def gradients(
        self, batch: Batch, total: int, weights: Sequence[Tensor], backward: Backward
    ) -> dict[str, Tensor]:
        """Leave the gradient of a batch in the weights; return what its parts have logged.

        Args:
            batch: the images of this process.
            total: how many the whole batch has.
            weights: those that are trained.
            backward: leaves the gradient of a part in them.
        """
        if self.count == 1:
            return backward(batch, 0, total)

        buffers = _Buffers(self.modules)
        ends = self._ends(total)
        start = ends[self.own.start]

        def of_part(number: int) -> Sum:
            part = _copied(batch, ends[number] - start, ends[number + 1] - start)
            buffers.begin()
            for weight in weights:
                weight.grad = None
            logged = backward(part, number, total)
            gradients = [weight.grad for weight in weights]
            return Sum(len(part.targets), gradients, *buffers.read(), logged)

        whole = _added(of_part, self.own.start, self.own.stop)
        if self.group.size > 1:
            whole = self._of_all(whole, ends, weights)
        buffers.write(whole.floats, whole.counts)
        for weight, gradient in zip(weights, whole.gradients, strict=True):
            weight.grad = gradient
        return whole.logged

    def _ends(self, total: int) -> list[int]:
        """Return where each part of a batch begins, and where the last one ends."""
        size, more = divmod(total, self.count)
        return list(accumulate((size + (i < more) for i in range(self.count)), initial=0))

    def _of_all(self, own: Sum, ends: list[int], weights: Sequence[Tensor]) -> Sum:
        """Add what this process has computed and what the others have."""
        device = weights[0].device
        reached = torch.tensor([g is not None for g in own.gradients], dtype=torch.uint8)
        gradients = [
            torch.zeros_like(weight) if gradient is None else gradient
            for weight, gradient in zip(weights, own.gradients, strict=True)
        ]
        names = list(own.logged)
        sent = [reached, own.floats, own.counts, *(own.logged[name] for name in names)]
        sent = [tensor.to(device) for tensor in sent] + (gradients if self.exact else [])

        sums = []
        for rank, received in enumerate(self.group.gather(_packed(sent))):
            of_rank, floats, counts, *rest = _unpacked(received, sent)
            logged = dict(zip(names, rest, strict=False))
            first = rank * len(self.own)
            num_images = ends[first + len(self.own)] - ends[first]
            reached = reached.to(device) | of_rank
            sums.append(Sum(num_images, [*rest[len(names) :]], floats, counts, logged))

        whole = _added(lambda rank: sums[rank], 0, self.group.size)
        if self.exact:
            # in the layout of the weight, as autograd leaves it: the order of sums follows from it
            for gradient, added in zip(gradients, whole.gradients, strict=True):
                gradient.copy_(torch.as_tensor(added))
        else:
            for gradient in gradients:
                self.group.add(gradient)
        whole.gradients = [
            gradient if there else None
            for gradient, there in zip(gradients, reached.tolist(), strict=True)
        ]
        return whole


def pieces(batch: Batch, count: int) -> list[Batch]:
    """Cut a batch into `count` pieces, of which the first may have an image more."""
    if count == 1:
        return [batch]
    images, targets, index = (tensor.tensor_split(count) for tensor in batch[:3])
    weights = [None] * count if batch.weights is None else batch.weights.tensor_split(count)
    return [Batch(*columns) for columns in zip(images, targets, index, weights, strict=True)]


def _copied(batch: Batch, first: int, last: int) -> Batch:
    """Return a copy of some images, which lies in memory as in any other process."""
    images, targets, index = (column[first:last].clone() for column in batch[:3])
    weights = None if batch.weights is None else batch.weights[first:last].clone()
    return Batch(images, targets, index, weights)


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


ALIGNED = 16  # bytes: a view of another type has to begin at a multiple of its size


def _packed(tensors: Sequence[Tensor]) -> Tensor:
    """Return tensors of any type as bytes (N,), one after the other."""
    rows = []
    for tensor in tensors:
        rows.append(tensor.detach().contiguous().reshape(-1).view(torch.uint8))
        rows.append(rows[-1].new_zeros(-len(rows[-1]) % ALIGNED))
    return torch.cat(rows)


def _unpacked(packed: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Return what `_packed` has made, as tensors of the types and shapes of `like`."""
    found = []
    start = 0
    for tensor in like:
        end = start + tensor.numel() * tensor.element_size()
        found.append(packed[start:end].view(tensor.dtype).view(tensor.shape))
        start = end + -end % ALIGNED
    return found
