"""Pixels of images in shards, decoded when they are taken: for sets larger than memory and disk."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from tintype.data.decode import Shape, Unreadable, decode_each
from tintype.data.shards.fetching import RANGE_SHARE, ShardFiles
from tintype.errors import UserError
from tintype.hardware.cores import num_cores

MOST_AHEAD_BYTES = 256 << 20  # of decoded images that wait for their batch
LEAST_AHEAD = 64  # images, however large


class Decoder:
    """Decodes images of shards in threads, a bounded number of them ahead of their use.

    Args:
        files: the shards.
        shard: (N,) the shard of each image.
        row: (N,) its row in the shard's index.
        shape: what the pictures are brought to.
    """

    def __init__(
        self, files: ShardFiles, shard: np.ndarray, row: np.ndarray, shape: tuple[int, int, Shape]
    ) -> None:
        height, width, how = shape
        self.files = files
        self.shard = shard
        self.row = row
        self.shape = (height, width, how.channels)
        self.how = how
        self.most_ahead = max(LEAST_AHEAD, MOST_AHEAD_BYTES // int(np.prod(self.shape)))

        self._pool: ThreadPoolExecutor | None = None
        self._ahead: dict[int, Future[np.ndarray]] = {}
        self._lock = threading.Lock()
        self.alive = 0  # decoded images that are not yet in their batch
        self.most_alive = 0

    def pixels(self, position: int, *, alone: bool = False) -> np.ndarray:
        """Return one image (H, W, C) uint8.

        Raises:
            UserError: it cannot be read, or is not what the index says.
        """
        shard, row = int(self.shard[position]), int(self.row[position])
        content = self.files.read(shard, row, alone=alone)
        try:
            return decode_each(content, [self.how])[0]
        except Unreadable as reason:
            index = self.files.indexes[shard]
            raise UserError(
                f"shard {self.files.shards[shard].name}: {index.names[row]} cannot be decoded "
                f"({reason}), though it could when the shard's index was made."
            ) from None

    def begin(self, positions: Sequence[int]) -> None:
        """Begin to decode images that are taken soon, as far as the bound allows."""
        with self._lock:
            for position in positions:
                if len(self._ahead) >= self.most_ahead:
                    return
                if position not in self._ahead:
                    self._ahead[position] = self._submit(position, alone=False)

    def forget(self) -> None:
        """Drop what was begun and not taken."""
        with self._lock:
            waiting, self._ahead = self._ahead, {}
        for future in waiting.values():
            future.cancel()
        for future in waiting.values():
            if not future.cancelled() and future.exception() is None:
                self._count(-1)

    def take(self, positions: np.ndarray, *, alone: np.ndarray) -> np.ndarray:
        """Return images (N, H, W, C) uint8; `alone` (N,) are read without fetching their shard."""
        result = np.empty((len(positions), *self.shape), np.uint8)
        step = self.most_ahead  # bounds what is decoded and not yet in its place
        for start in range(0, len(positions), step):
            part = positions[start : start + step].tolist()
            futures = self._begun(part, alone[start : start + step].tolist())
            for i, position in enumerate(part, start):
                result[i] = futures[position].result()
            self._count(-len(futures))
        return result

    def _begun(self, positions: list[int], alone: list[bool]) -> dict[int, Future[np.ndarray]]:
        with self._lock:
            futures: dict[int, Future[np.ndarray]] = {}
            for position, by_itself in zip(positions, alone, strict=True):
                if position not in futures:
                    futures[position] = self._ahead.pop(position, None) or self._submit(
                        position, alone=by_itself
                    )
        return futures

    def _submit(self, position: int, *, alone: bool) -> Future[np.ndarray]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(num_cores(), "tintype-decode")
        return self._pool.submit(self._decoded, position, alone)

    def _decoded(self, position: int, alone: bool) -> np.ndarray:
        pixels = self.pixels(position, alone=alone)
        self._count(1)
        return pixels

    def _count(self, change: int) -> None:
        with self._lock:
            self.alive += change
            self.most_alive = max(self.most_alive, self.alive)


class StreamedPixels:
    """Pixels that are read from shards and decoded whenever they are taken.

    Images that are taken in the order in which they lie are read ahead. `rows` are positions among
    the images of the decoder, by default all.
    """

    kind = "streamed"

    def __init__(self, decoder: Decoder, rows: np.ndarray | None = None) -> None:
        self.decoder = decoder
        self.rows = np.arange(len(decoder.shard)) if rows is None else rows
        self._whole = self._worth_fetching()

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.rows), *self.decoder.shape

    @property
    def nbytes(self) -> int:
        """The bytes of all pixels, if they were in memory."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def dtype(self) -> torch.dtype:
        return torch.uint8

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def take(self, index: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        if size not in (None, self.shape[1:3]):
            raise ValueError(f"the pixels are decoded at {self.shape[1:3]}; {size} cannot be taken")

        asked = index.cpu().numpy()
        rows = self.rows[asked]
        in_order = len(asked) > 1 and bool((np.diff(asked) == 1).all())
        if in_order:
            self._read_on(int(asked[-1]) + 1, len(asked))
        alone = ~self._whole[self.decoder.shard[rows]] if in_order else self._scattered(rows)
        return torch.from_numpy(self.decoder.take(rows, alone=alone)).permute(0, 3, 1, 2)

    def expect(self, index: Tensor) -> None:
        """Begin to read what is taken next."""
        self.decoder.begin(self.rows[index.cpu().numpy()].tolist())

    def expect_shards(self, shards: Sequence[int]) -> None:
        """Begin to fetch the shards that are needed soon, in this order."""
        self.decoder.files.expect(shards)

    def forget(self) -> None:
        """Drop what was begun and is not needed."""
        self.decoder.forget()

    def subset(self, index: Tensor) -> StreamedPixels:
        return StreamedPixels(self.decoder, self.rows[index.cpu().numpy()])

    def to(self, device: torch.device) -> StreamedPixels:
        return self

    def _worth_fetching(self) -> np.ndarray:
        """Return for each shard whether so much of it is used that it is fetched whole."""
        decoder = self.decoder
        indexes = decoder.files.indexes
        shards = decoder.shard[self.rows]
        used = np.zeros(len(indexes), np.int64)
        for shard in np.unique(shards).tolist():
            rows = decoder.row[self.rows[shards == shard]]
            used[shard] = indexes[shard].sizes[rows].sum()
        return used >= RANGE_SHARE * np.array([index.num_bytes for index in indexes])

    def _scattered(self, rows: np.ndarray) -> np.ndarray:
        """Return which images (N,) are read alone: those of shards of which few are taken."""
        shards = self.decoder.shard[rows]
        counts = np.bincount(shards, minlength=len(self._whole))
        held = np.array([len(index) for index in self.decoder.files.indexes])
        return (counts < RANGE_SHARE * held)[shards]

    def _read_on(self, start: int, count: int) -> None:
        """Begin to read the images after those that are taken, where they lie."""
        rows = self.rows[start : start + count]
        if not len(rows):
            return
        shards = list(dict.fromkeys(self.decoder.shard[self.rows[start - 1 : start + count]]))
        further = self.decoder.shard[self.rows[start + count : start + 4 * count]]
        wanted = list(dict.fromkeys([*map(int, shards), *map(int, further)]))[:3]
        self.expect_shards([shard for shard in wanted if self._whole[shard]])
        whole = self._whole[self.decoder.shard[rows]]
        self.decoder.begin(rows[whole].tolist())
