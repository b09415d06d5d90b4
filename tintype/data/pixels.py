"""Where the pixels of a data set lie, apart from what is known about its images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor


class PixelStore(Protocol):
    """Pixels of images of one size, taken by position.

    Attributes:
        kind: "resident" in memory or on the device, "mapped" from disk, "streamed" from shards.
        shape: (N, H, W, C).
        dtype: of the tensors that `take` returns.
        device: where those tensors lie.
    """

    kind: str

    @property
    def shape(self) -> tuple[int, int, int, int]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def device(self) -> torch.device: ...

    def take(self, index: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Return images (N, C, H, W), channels_last in memory, by index (N,) int64 on any device.

        `size` is the wanted (height, width); None stands for the size in which they are stored.

        Raises:
            ValueError: the store does not hold them in that size.
        """
        ...

    def subset(self, index: Tensor) -> PixelStore:
        """Return a store of the images at `index`, in that order, which shares the pixels."""
        ...

    def to(self, device: torch.device) -> PixelStore:
        """Return a store whose pixels lie on `device`, or this one where they stay on disk."""
        ...


@runtime_checkable
class ReadsAhead(Protocol):
    """Pixels that can be read before they are taken."""

    def expect(self, index: Tensor) -> None:
        """Begin to read the images at `index` (N,) int64, which are taken next."""
        ...

    def expect_shards(self, shards: Sequence[int]) -> None:
        """Begin to fetch the shards of these numbers, which are needed soon, in this order."""
        ...

    def forget(self) -> None:
        """Drop what was begun and is not needed."""
        ...


class ResidentPixels:
    """Pixels in one tensor (N, H, W, C) in memory or on the device: a batch is one index lookup."""

    kind = "resident"

    def __init__(self, pixels: Tensor, rows: Tensor | None = None) -> None:
        self.pixels = pixels
        self.rows = rows  # positions in `pixels`, or None for all of them in order

    @property
    def shape(self) -> tuple[int, int, int, int]:
        count = len(self.pixels) if self.rows is None else len(self.rows)
        height, width, channels = self.pixels.shape[1:]
        return count, height, width, channels

    @property
    def dtype(self) -> torch.dtype:
        return self.pixels.dtype

    @property
    def device(self) -> torch.device:
        return self.pixels.device

    def take(self, index: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        _check_size(self, size)

        # index_select copies whole images, ten times as fast as self.pixels[rows]
        return self.pixels.index_select(0, self._rows_at(index)).permute(0, 3, 1, 2)

    def subset(self, index: Tensor) -> ResidentPixels:
        return ResidentPixels(self.pixels, self._rows_at(index))

    def to(self, device: torch.device) -> ResidentPixels:
        rows = None if self.rows is None else self.rows.to(device)
        return ResidentPixels(self.pixels.to(device), rows)

    def _rows_at(self, index: Tensor) -> Tensor:
        there = index.to(self.pixels.device, non_blocking=True)
        return there if self.rows is None else self.rows[there]


class MappedPixels:
    """Pixels in a memory map (N, H, W, C) on disk, for sets larger than memory."""

    kind = "mapped"

    def __init__(self, pixels: np.ndarray, rows: np.ndarray | None = None) -> None:
        self.pixels = pixels
        self.rows = np.arange(len(pixels)) if rows is None else rows

    @property
    def shape(self) -> tuple[int, int, int, int]:
        height, width, channels = self.pixels.shape[1:]
        return len(self.rows), height, width, channels

    @property
    def dtype(self) -> torch.dtype:
        return torch.from_numpy(np.empty(0, self.pixels.dtype)).dtype

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def take(self, index: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        _check_size(self, size)

        found = self.pixels[self.rows[index.cpu().numpy()]]
        return torch.from_numpy(np.ascontiguousarray(found)).permute(0, 3, 1, 2)

    def subset(self, index: Tensor) -> MappedPixels:
        return MappedPixels(self.pixels, self.rows[index.cpu().numpy()])

    def to(self, device: torch.device) -> MappedPixels:
        return self


def _check_size(store: PixelStore, size: tuple[int, int] | None) -> None:
    _, height, width, _ = store.shape
    if size not in (None, (height, width)):
        raise ValueError(f"the pixels are stored at {height}x{width}; {size} cannot be taken")
