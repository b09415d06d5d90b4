"""The loop of every evaluation: some images at a time, which the processes of a run share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from tintype.hardware.processes import dealt

Answer = TypeVar("Answer")


def answered(
    count: int,
    answer: Callable[[Tensor], Answer],
    *,
    at_once: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[Tensor, Answer]]:
    """Yield the positions (M,) of some images at a time with their answer, in order.

    Args:
        count: how many images there are.
        answer: positions -> what is found at them, as `dealt` exchanges it between processes.
        at_once: the largest M.
        on_progress: called with the number of images that are done and `count`.
    """
    for index, found in dealt(torch.arange(count).split(at_once), answer):
        if on_progress:
            on_progress(int(index[-1]) + 1, count)
        yield index, found
