"""Seeds that follow from what they are for."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def fold(*parts: object) -> int:
    """Return a 63-bit seed that follows from `parts` alone, the same on every machine."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed the global generators of torch for what is computed on a device.

    For a CPU that is one of them. `torch.manual_seed` would note as well, with the calls that led
    to it, what other kinds of device are to do once somebody uses them.
    """
    import torch

    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


@contextmanager
def drawing_from(seed: int, device: str = "cpu") -> Iterator[None]:
    """Let the global generators draw from a seed in the block, and put them back afterwards.

    They are those of torch (on the CPU and on `device`), NumPy and Python, which the user's own
    code draws from.
    """
    with kept_generators(device):
        import numpy as np
        import torch

        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        yield


@contextmanager
def kept_generators(device: str = "cpu") -> Iterator[None]:
    """Put the global generators of torch, NumPy and Python back after the block."""
    import numpy as np
    import torch

    of_numpy = np.random.get_state()
    of_python = random.getstate()
    on_gpu = [torch.device(device)] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=on_gpu):
        try:
            yield
        finally:
            np.random.set_state(of_numpy)
            random.setstate(of_python)
