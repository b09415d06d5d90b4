"""Keep what a frozen network computes from photos, for each photo by itself.

An entry is a folder `features/KEY/` for one network at one image size. Its files hold rows: a key
made of the digest of a photo's pixels and the name of a view, the features, and a checksum of both.
Nothing in it depends on the data set, the split or the seed, so that ten photos added to a thousand
cost ten.

A file is written whole, under a name that follows from its keys, and is never changed. Processes
that add to one entry at the same time lose nothing; at worst both compute the same photo.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import zlib
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tintype.data.cache import FEATURES, cache_folder, trim_cache
from tintype.errors import UserError
from tintype.files.whole import write_json, written_whole
from tintype.progress import Progress

BATCH = 32  # photos that a network sees at once
FULL = 4096  # rows of a file
MOST_SMALL = 16  # files with fewer rows; beyond, they are joined


class Network(NamedTuple):
    """What the features of a photo depend on, apart from its pixels and the view.

    `key` is a hash of the weights, the size of the images and all else that decides on the bits.
    `name` is what a user calls the network.
    """

    key: str
    name: str


class Features(NamedTuple):
    """Features (N, V, F) float32, and lines for the user about what the cache could not do."""

    values: np.ndarray
    notes: list[str]


def photo_features(
    digests: Sequence[bytes],
    views: Sequence[str],
    compute: Callable[[np.ndarray, int], np.ndarray],
    network: Network,
    progress: Progress | None = None,
) -> Features:
    """Return the features of all photos in all views; what the cache lacks is computed.

    What was computed is kept where a later photo raises an error, or where the user stops.

    Args:
        digests: a digest of the pixels of each photo, as the network sees them.
        views: a name for each view; name and digest decide on what the network is shown.
        compute: returns the features (M, F) float32 of the photos at some positions (M,), at most
            BATCH, in the view with the given number.
        network: what computes them.
        progress: called as progress(what, done, total), where only new photos count.
    """
    store = _Store(cache_folder() / FEATURES / network.key, network.name)
    keys = {digest: [_key(digest, view) for view in views] for digest in digests}
    known = store.read({key for some in keys.values() for key in some})

    position = {digest: i for i, digest in enumerate(digests)}
    new = [digest for digest, some in keys.items() if any(key not in known for key in some)]
    what = f"features of {len(new):,} new photos"
    if len(new) < len(keys):
        what += f"; {len(keys) - len(new):,} from the cache"

    unsaved: dict[bytes, np.ndarray] = {}
    try:
        for start in range(0, len(new), BATCH):
            batch = new[start : start + BATCH]
            for view in range(len(views)):
                lacking = [digest for digest in batch if keys[digest][view] not in known]
                if lacking:
                    rows = compute(np.array([position[digest] for digest in lacking]), view)
                    found = {keys[d][view]: row for d, row in zip(lacking, rows, strict=True)}
                    unsaved |= found

            if progress:
                progress(what, min(start + BATCH, len(new)), len(new))
            if len(unsaved) >= FULL:
                store.write(unsaved)
                known |= unsaved
                unsaved = {}
    finally:
        store.write(unsaved)
        store.close()

    known |= unsaved
    values = np.stack([known[key] for digest in digests for key in keys[digest]])
    return Features(values.reshape(len(digests), len(views), -1), store.notes)


def _key(digest: bytes, view: str) -> bytes:
    return hashlib.blake2b(digest + view.encode(), digest_size=16).digest()


@dataclass
class _Store:
    """The files of one entry, and what went wrong with them."""

    folder: Path
    name: str
    notes: list[str] = field(default_factory=list)
    grown: bool = False

    def read(self, wanted: Container[bytes]) -> dict[bytes, np.ndarray]:
        """Return the rows of `wanted` that are there; a file with a damaged one is removed."""
        found: dict[bytes, np.ndarray] = {}
        for path in self._files():
            try:
                found |= _rows(path, wanted)
            except FileNotFoundError:  # joined with others, or cleared, by another process
                continue
            except ValueError:
                self.notes.append(
                    f"cache: {path} is damaged; the features of the photos in it are computed again"
                )
                with contextlib.suppress(OSError):
                    path.unlink()

        return found

    def write(self, rows: Mapping[bytes, np.ndarray]) -> None:
        """Keep rows; where that is not possible, a note says so."""
        if not rows:
            return
        try:
            self._write(rows)
            self.grown = True
        except UserError:
            self.notes.append(
                f"cache: {self.folder} cannot be written, or the disk is full; "
                "the features are used without being kept"
            )

    def close(self) -> None:
        """Note that the entry was used; tidy it where it has grown, and trim the cache."""
        if not self.grown:
            with contextlib.suppress(OSError):
                os.utime(self.folder / "entry.json")
            return

        with contextlib.suppress(UserError, OSError, ValueError):
            self._join()
            rows = sum(map(_num_rows, self._files()))
            about = {"source": self.name, "what": "features", "shape": [rows]}
            write_json(self.folder / "entry.json", about)

        removed = trim_cache(keep=self.folder)
        if removed:
            self.notes.append(
                f"cache: {removed} entries not used for long were removed to stay below 20 GB"
            )

    def _join(self) -> None:
        """Put small files together when there are many."""
        small = [path for path in self._files() if _num_rows(path) < FULL]
        if len(small) <= MOST_SMALL:
            return

        joined: dict[bytes, np.ndarray] = {}
        for path in small:
            joined |= _rows(path)
        whole = self._write(joined)
        for path in small:
            if path != whole:
                path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*.safetensors"))

    def _write(self, rows: Mapping[bytes, np.ndarray]) -> Path:
        from safetensors.numpy import save

        keys = np.frombuffer(b"".join(rows), np.uint8).reshape(-1, 16)
        values = np.array(list(rows.values()), np.float32)
        sums = np.array([_checksum(key, row) for key, row in zip(rows, values, strict=True)])
        name = hashlib.blake2b(b"".join(sorted(rows)), digest_size=16).hexdigest()
        path = self.folder / f"{len(rows)}-{name}.safetensors"

        with written_whole(path) as temporary:
            temporary.write_bytes(
                save({"keys": keys, "features": values, "sums": sums.astype(np.uint32)})
            )
        return path


def _rows(path: Path, wanted: Container[bytes] | None = None) -> dict[bytes, np.ndarray]:
    """Return the rows of a file whose keys are wanted, or all; the others are not read.

    Raises:
        FileNotFoundError: the file is gone.
        ValueError: it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            keys = [key.tobytes() for key in file.get_tensor("keys")]
            sums = file.get_tensor("sums")
            features = file.get_slice("features")
            chosen = [i for i, key in enumerate(keys) if wanted is None or key in wanted]
            found: dict[bytes, np.ndarray] = {}
            for start, stop in _ranges(chosen):
                found |= zip(keys[start:stop], features[start:stop], strict=True)

            whole = all(_checksum(keys[i], found[keys[i]]) == sums[i] for i in chosen)
    except FileNotFoundError:
        raise
    except (OSError, SafetensorError, LookupError, TypeError) as error:
        raise ValueError(str(error)) from None

    if not whole:
        raise ValueError("a checksum is wrong")
    return found


def _checksum(key: bytes, row: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(row).data, zlib.crc32(key))


def _ranges(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Return rising numbers as ranges (start, stop), since neighbours are read at once."""
    ranges: list[tuple[int, int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number:
            ranges[-1] = ranges[-1][0], number + 1
        else:
            ranges.append((number, number + 1))
    return ranges


def _num_rows(path: Path) -> int:
    """Return how many rows a file has, as its name says."""
    count = path.name.partition("-")[0]
    return int(count) if count.isdecimal() else 0
