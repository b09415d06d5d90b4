"""A bounded folder on disk of shards that lie elsewhere, fetched ahead of their use.

A tar file of this machine is read where it lies. What has an address, and the images of Parquet
files, are kept under the sha256 of the shard; what was used longest ago goes first. Every shard is
checked against the sha256 of its index when it is fetched, and every image against its digest when
it is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from tintype.data.shards import parquet
from tintype.data.shards.index import Index, digest_of
from tintype.data.shards.places import Shard, file_system, why
from tintype.errors import UserError
from tintype.files.bounded import is_temporary, remove_abandoned, temporary_for
from tintype.files.whole import format_bytes

ENDING = ".bytes"  # of files in the folder
FETCHERS = 2  # shards at once
BLOCK = 8 << 20  # bytes asked for at once
TRIES = 5
PAUSE = 0.5  # seconds before the second try; each later one waits twice as long
RANGE_SHARE = 0.25  # of a shard that is wanted: below, its images are asked for one by one
FOR_GOOD = (FileNotFoundError, PermissionError, NotADirectoryError)


def needs_cache(shard: Shard) -> bool:
    """Return whether a shard is read from the folder of fetched shards, and not where it lies."""
    return not shard.is_here or shard.kind == ".parquet"


class ShardFiles:
    """Shards with their indexes, whose images are read by position.

    Args:
        shards: where they lie.
        indexes: what is known of each.
        folder: for what is fetched; made when it is needed.
        limit: bytes that the folder may hold.
    """

    def __init__(
        self, shards: Sequence[Shard], indexes: Sequence[Index], folder: Path, limit: int
    ) -> None:
        self.shards = shards
        self.indexes = indexes
        self.folder = folder
        self.limit = limit

        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._fetching: dict[int, Future[None]] = {}
        self._reserved: dict[int, int] = {}
        self._wanted: list[int] = []  # the next ones, in order
        self._pool: ThreadPoolExecutor | None = None
        self._made = False

    # ---- reading ------------------------------------------------------------------------------

    def read(self, shard: int, row: int, *, alone: bool = False) -> bytes:
        """Return the bytes of the image in a row of a shard, which are those of its index.

        With `alone`, a shard that is neither at hand nor expected is not fetched for it where its
        storage gives parts of a file.

        Raises:
            UserError: the shard cannot be fetched, or is not what its index says.
        """
        index = self.indexes[shard]
        offset, size = int(index.offsets[row]), int(index.sizes[row])
        if alone and self._gives_parts(shard) and not self._is_expected(shard):
            content = self._part(shard, offset, offset + size)
            if content is not None and self._is_right(shard, row, content):
                return content

        content = self._read_at(shard, offset, size)
        if not self._is_right(shard, row, content) and needs_cache(self.shards[shard]):
            self._remove(shard)  # the copy was damaged
            content = self._read_at(shard, offset, size)
        if self._is_right(shard, row, content):
            return content
        raise self._changed(shard, index.names[row], len(content) < size)

    def at_hand(self, shard: int) -> bool:
        """Return whether a shard can be read without fetching it."""
        return not needs_cache(self.shards[shard]) or self.path(shard).exists()

    def path(self, shard: int) -> Path:
        """Return the file that is read, wherever it lies."""
        if not needs_cache(self.shards[shard]):
            return Path(self.shards[shard].address)
        return self.folder / f"{self.indexes[shard].sha256}{ENDING}"

    def expect(self, shards: Sequence[int]) -> None:
        """Begin to fetch shards that are needed soon, in this order, as far as there is room."""
        with self._lock:
            self._wanted = list(shards)
            for shard in shards:
                if self.at_hand(shard) or shard in self._fetching:
                    continue
                if not self._make_room(self._needed(shard), demanded=False):
                    break
                self._submit(shard)

    def close(self) -> None:
        """End the threads that fetch."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)

    def _is_expected(self, shard: int) -> bool:
        return shard in self._wanted or shard in self._fetching or self.at_hand(shard)

    def _is_right(self, shard: int, row: int, content: bytes) -> bool:
        return digest_of(content) == self.indexes[shard].digests[row].tobytes()

    def _read_at(self, shard: int, offset: int, size: int) -> bytes:
        with self._opened(shard) as file:
            file.seek(offset)
            return file.read(size)

    @contextlib.contextmanager
    def _opened(self, shard: int) -> Iterator[IO[bytes]]:
        path = self.path(shard)
        for _ in range(TRIES):
            if not self.at_hand(shard):
                self._fetch_now(shard)
            try:
                file = open(path, "rb")  # noqa: SIM115
            except FileNotFoundError:  # another process needed the room
                if not needs_cache(self.shards[shard]):
                    break
                continue
            except OSError as error:
                raise UserError(f"shard {path} cannot be read: {error.strerror}.") from None
            with file:
                if needs_cache(self.shards[shard]):
                    with contextlib.suppress(OSError):
                        os.utime(path)  # used just now
                yield file
            return
        raise UserError(f"shard {path} is gone. Put it back, and go on: tintype train --resume RUN")

    def _changed(self, shard: int, image: str, short: bool) -> UserError:
        name = self.shards[shard].name
        what = "is truncated" if short else "was replaced or damaged"
        return UserError(
            f"shard {name} {what}: {image} is not what the shard's index says. Restore the shard, "
            f"or remove {name}.index, so that it is read once more."
        )

    # ---- fetching -----------------------------------------------------------------------------

    def _fetch_now(self, shard: int) -> None:
        """Fetch a shard that is needed at once, or wait for the thread that does."""
        with self._lock:
            future = self._fetching.get(shard)
            if future is None and not self.at_hand(shard):
                while not self._make_room(self._needed(shard), demanded=True):
                    self._room.wait(1.0)  # others are being fetched
                future = self._fetching.get(shard) or self._submit(shard)
        if future is not None:
            future.result()

    def _submit(self, shard: int) -> Future[None]:
        """Let a thread fetch a shard for which there is room; the lock is held."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(FETCHERS, "tintype-fetch")
        self._reserved[shard] = self._needed(shard)
        future = self._pool.submit(self._fetch, shard)
        self._fetching[shard] = future
        return future

    def _needed(self, shard: int) -> int:
        """Return the bytes that a shard takes on disk while it is fetched."""
        stored = self.indexes[shard].num_bytes
        if self.shards[shard].kind != ".parquet":
            return stored
        images = int(self.indexes[shard].sizes.sum())
        return images if self.shards[shard].is_here else stored + images

    def make_room(self, needed: int) -> None:
        """Remove what was used longest ago until so many bytes fit."""
        with self._lock:
            self._make_room(needed, demanded=True)

    def _make_room(self, needed: int, *, demanded: bool) -> bool:
        """Remove what was used longest ago until a shard fits; return whether it does.

        What is wanted next stays, unless the shard is needed at once. The lock is held.
        """
        self._make_folder()
        kept = {self.path(other).name for other in self._wanted}
        files = sorted(self._files(), key=lambda each: each[2])
        if demanded:  # what is wanted last goes before what is wanted next
            last = {self.path(other).name: -k for k, other in enumerate(self._wanted)}
            files.sort(key=lambda each: (each[0].name in kept, last.get(each[0].name, 0)))

        free = self.limit - sum(self._reserved.values()) - sum(size for _, size, _ in files)
        for path, size, _ in files:
            if free >= needed:
                break
            if path.name in kept and not demanded:
                continue
            with contextlib.suppress(OSError):  # Windows keeps files that are open
                path.unlink()
                free += size
        return free >= needed

    def _make_folder(self) -> None:
        if not self._made:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(
                    f"the cache of shards {self.folder} cannot be made: {error.strerror}."
                ) from None
            remove_abandoned(self.folder)
            self._made = True

    def _files(self) -> list[tuple[Path, int, float]]:
        found = []
        with contextlib.suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                path = Path(entry.path)
                if is_temporary(path):  # of a shard that is being fetched, which has its room
                    continue
                with contextlib.suppress(OSError):
                    status = entry.stat()
                    found.append((path, status.st_size, status.st_mtime))
        return found

    def _remove(self, shard: int) -> None:
        with contextlib.suppress(OSError):
            self.path(shard).unlink()

    def _fetch(self, shard: int) -> None:
        """Fetch one shard into the folder, checked, and give back its room."""
        try:
            target = self.path(shard)
            for last in (False, True):
                if self._fetched_into(shard, target):
                    return
                if last:
                    raise UserError(
                        f"shard {self.shards[shard].name} holds other bytes than its index says: "
                        "it was replaced or damaged. Restore it, or remove "
                        f"{self.shards[shard].name}.index, so that it is read once more."
                    )
        finally:
            with self._lock:
                self._reserved.pop(shard, None)
                self._fetching.pop(shard, None)
                self._room.notify_all()

    def _fetched_into(self, shard: int, target: Path) -> bool:
        """Fetch a shard; return whether it is what its index says."""
        place = self.shards[shard]
        temporary = temporary_for(target)
        original = temporary_for(target.with_suffix(".parquet"))
        try:
            if place.kind == ".parquet":
                source = Path(place.address) if place.is_here else original
                digest = sha256_of(source) if place.is_here else download(place, original)
                if digest == self.indexes[shard].sha256:
                    with open(temporary, "wb") as file:
                        parquet.unpack(source, place.name, file)
            else:
                digest = download(place, temporary)
            if digest != self.indexes[shard].sha256:
                return False
            os.replace(temporary, target)
            return True
        except OSError as error:
            raise UserError(
                f"shard {place.name} cannot be kept in {self.folder}: {error.strerror or error}. "
                "Free some space, or choose a smaller --cache-size."
            ) from None
        finally:
            for path in (temporary, original):
                with contextlib.suppress(OSError):
                    path.unlink()

    # ---- parts of a shard ---------------------------------------------------------------------

    def _gives_parts(self, shard: int) -> bool:
        return not self.shards[shard].is_here and self.shards[shard].kind == ".tar"

    def _part(self, shard: int, start: int, end: int) -> bytes | None:
        """Return some bytes of a shard elsewhere; None where its storage gives no parts."""
        place = self.shards[shard]
        files, path = file_system(place.address)
        content = tried(place, lambda: files.cat_file(path, start=start, end=end))
        return content if len(content) == end - start else None


def download(shard: Shard, target: Path) -> str:
    """Write a shard that lies elsewhere to a file, and return its sha256.

    What was interrupted goes on where it stopped.

    Raises:
        UserError: it cannot be fetched.
        OSError: the file cannot be written.
    """
    files, path = file_system(shard.address)
    digest = hashlib.sha256()
    done = 0
    with open(target, "wb") as file:
        while done < shard.num_bytes or not shard.num_bytes:
            end = done + BLOCK if not shard.num_bytes else min(done + BLOCK, shard.num_bytes)
            start = done
            part = tried(shard, _reader(files, path, start, end))
            if len(part) > end - start:  # the server gives whole files only
                part = part[start:]
            if not part:
                break
            file.write(part)
            digest.update(part)
            done += len(part)
            if not shard.num_bytes and len(part) != end - start:
                break
    return digest.hexdigest()


def _reader(files: Any, path: str, start: int, end: int) -> Callable[[], bytes]:
    return lambda: files.cat_file(path, start=start, end=end)


def tried(shard: Shard, request: Callable[[], bytes]) -> bytes:
    """Return what a request gives, which is repeated where it fails.

    Raises:
        UserError: it fails again and again, or for good.
    """
    pause = PAUSE
    for left in reversed(range(TRIES)):
        try:
            return request()
        except UserError:
            raise
        except Exception as error:  # each file system has errors of its own
            if left and not isinstance(error, FOR_GOOD):
                time.sleep(pause)
                pause *= 2
                continue
            times = "" if isinstance(error, FOR_GOOD) else f" ({TRIES} tries)"
            raise UserError(
                f"shard {shard.name} cannot be fetched{times}: {why(error)}. When "
                f"{shard.address} can be read again, go on: tintype train --resume RUN"
            ) from error
    raise AssertionError("there is at least one try")


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_limit(files: Sequence[Shard], indexes: Sequence[Index], limit: int) -> int:
    """Return how many of the largest shard the cache holds.

    Raises:
        UserError: not even one.
    """
    largest = max(range(len(files)), key=lambda k: indexes[k].num_bytes)
    size = indexes[largest].num_bytes
    if files[largest].kind == ".parquet":
        size = max(size, 1) + int(indexes[largest].sizes.sum())
    if size > limit:
        raise UserError(
            f"shard {files[largest].name} takes {format_bytes(size)}, and --cache-size is "
            f"{format_bytes(limit)}. Expected one that holds at least a shard, better six."
        )
    return limit // size if size else 1
