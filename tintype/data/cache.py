"""Keep decoded photos on disk, so that they are decoded once as long as their files stay the same.

An entry is a folder `photos/KEY/` with `pixels.u8` (N, H, W, C, no header), which is read as a
memory map, and `entry.json`. It is written under a temporary name and renamed when complete, so
that a half-made entry is never read and two processes do not meet; it gets a temporary name again
before it is removed.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import psutil

from tintype.data.decode import Unreadable, quiet_pillow
from tintype.errors import UserError
from tintype.files import system
from tintype.files.bounded import is_temporary, remove_folder, temporary_folder
from tintype.files.bounded import remove_abandoned as remove_temporary
from tintype.files.whole import format_bytes
from tintype.hardware.cores import num_cores
from tintype.progress import Progress

VERSION = 1  # raise it when decoding changes what a file gives
DEFAULT_LIMIT_BYTES = 20_000_000_000
DRY_RUN_BYTES = 2_000_000_000  # that are decoded only to say what a run would do
CLOCKS_DIFFER = 60.0  # seconds, between machines that share a disk
CHUNK = 16  # images for each task of a thread
SMALL_FILE = 8_000  # bytes; a PNG of 32 x 32 takes 2,500, and its decoding is mostly Python
PHOTOS, FEATURES = "photos", "features"  # folders of entries
T = TypeVar("T")

_most_bytes: ContextVar[int | None] = ContextVar("most_bytes", default=None)


def cache_folder() -> Path:
    """Return the folder of everything that can be made or fetched again: TINTYPE_CACHE, or
    ~/.cache/tintype.
    """
    return Path(os.environ.get("TINTYPE_CACHE") or "~/.cache/tintype").expanduser()


@dataclass(frozen=True)
class Cached:
    """Decoded images: pixels (M, H, W, C) uint8 on disk, the positions of those that could not be
    read, and why.
    """

    pixels: np.ndarray
    skipped: tuple[tuple[int, str], ...]
    fingerprint: str
    reused: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CacheEntry:
    """One set of decoded images in the cache, or the features that one network computes."""

    path: Path
    source: str
    count: int
    num_bytes: int
    last_used: float  # seconds since 1970
    what: str = "images"  # that are counted


def cached_pixels(
    key: str,
    num_images: int,
    shape: tuple[int, int, int],
    read: Callable[[int], np.ndarray],
    *,
    source: str,
    progress: Progress | None = None,
    unchanged: Callable[[], str] | None = None,
    small: bool = False,
) -> Cached:
    """Return the images `read(0) … read(num_images - 1)`, from the cache where `key` is there.

    `read` runs in several threads. Memory stays bounded: images are written in order as they come.

    Args:
        key: a hash of all that decides on the pixels.
        shape: (H, W, C) of every image.
        read: returns (H, W, C) uint8, or raises Unreadable, which leaves the image out.
        source: what the user calls these images.
        unchanged: asked when all is read; what it returns (if anything) is a note, and the entry is
            not used again.
        small: the files are so small that threads would cost more than they save.

    Raises:
        UserError: the disk is full.
    """
    photos, notes = writable(cache_folder() / PHOTOS)
    final = photos / key
    found = _open_entry(final, reused=True)
    if found is not None:
        return found
    if final.exists():  # what cannot be opened would stand in the way
        remove_folder(final)

    remove_abandoned(photos)
    _check_bound(num_images, shape, source)
    check_space(photos, num_images * int(np.prod(shape)), source)

    try:
        with temporary_folder(final, mode=0o700) as temporary:
            with (
                warnings.catch_warnings()
            ):  # Pillow warns of oddities (damaged EXIF) in files that it reads all the same
                warnings.simplefilter("ignore")
                _write(temporary, num_images, shape, read, source, progress, small)
            changed = unchanged() if unchanged else ""
            if changed:  # right for this run, but the key speaks of files that are no more
                final = final.with_name(f"{key}-{secrets.token_hex(4)}")
                notes = (*notes, changed)
            # Open, it stays readable if another process clears the cache. Windows renames no folder
            # of open files.
            made = None if system.WINDOWS else _open_entry(temporary, reused=False)
            with contextlib.suppress(OSError):  # another process was faster: its entry is the same
                system.rename(temporary, final)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_space(photos, num_images * int(np.prod(shape)), source) from None
        if error.errno == errno.ENOENT:
            raise _changed_meanwhile(photos) from None
        raise

    removed = trim_cache(DEFAULT_LIMIT_BYTES, keep=final)
    if removed:
        notes = (
            *notes,
            f"cache: {removed} entries not used for long were removed to stay below 20 GB",
        )

    made = _open_entry(final, reused=False) or made
    if made is None:
        raise _changed_meanwhile(photos)

    return Cached(made.pixels, made.skipped, made.fingerprint, False, notes)


def is_cached(key: str) -> bool:
    """Return whether `cached_pixels` has images for a key, so that it need not read them."""
    return (cache_folder() / PHOTOS / key / "entry.json").exists()


def _changed_meanwhile(photos: Path) -> UserError:
    return UserError(
        f"the cache folder {photos} was changed while photos were decoded into it. Start again."
    )


def cache_entries() -> list[CacheEntry]:
    """Return the entries of the cache, the one used last first."""
    entries = []
    for folder in (f for room in (PHOTOS, FEATURES) for f in _folders(cache_folder() / room)):
        try:
            meta = json.loads((folder / "entry.json").read_text(encoding="utf-8"))
            source = str(meta["source"])
            what = str(meta.get("what", "images"))
            num_bytes = sum(file.stat().st_size for file in folder.iterdir())
            last_used = _last_used(folder / "entry.json")
            count = int(meta["shape"][0])
            entries.append(CacheEntry(folder, source, count, num_bytes, last_used, what))
        except (OSError, ValueError, LookupError, TypeError):
            continue  # half removed by another process, or none of ours

    return sorted(entries, key=lambda entry: -entry.last_used)


def _last_used(file: Path) -> float:
    """Return when an entry was used last; one that says in the future, by a clock that was wrong,
    ages from now on.
    """
    last_used, now = file.stat().st_mtime, time.time()
    if last_used > now + CLOCKS_DIFFER:
        with contextlib.suppress(OSError):
            os.utime(file, (now, now))
        return now
    return last_used


def clear_cache(*, downloads: bool = False) -> int:
    """Remove decoded photos, features and fetched shards, and downloads if asked.

    Returns the bytes that are freed.

    What another process is about to write stays, and so do the folders that it may be written to.
    """
    freed = 0
    for name in (
        PHOTOS,
        FEATURES,
        "contents",
        "shards",
        "remote",
        *(("datasets", "weights") if downloads else ()),
    ):
        folder = cache_folder() / name
        remove_abandoned(folder)
        for path in _inside(folder):
            if is_temporary(path) or (path.name.startswith("tmp-") and path.is_dir()):
                continue
            freed += path.stat().st_size if path.is_file() else _size(path)
            if path.is_dir():
                remove_folder(path)
            else:
                with contextlib.suppress(OSError):
                    path.unlink()

    return freed


def _inside(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _size(folder: Path) -> int:
    """Return the bytes of all files in a folder; one that another process removes meanwhile counts
    nothing.
    """
    size = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):
            size += file.stat().st_size if file.is_file() else 0
    return size


def trim_cache(limit_bytes: int = DEFAULT_LIMIT_BYTES, *, keep: Path | None = None) -> int:
    """Remove the entries used longest ago until the rest fits the limit; return how many.

    What a killed process left half made is removed as well. A memory map that is open stays
    readable (not on Windows, where its entry stays).
    """
    for room in (PHOTOS, FEATURES):
        remove_abandoned(cache_folder() / room)

    removed = total = 0
    for entry in cache_entries():
        total += entry.num_bytes
        if total > limit_bytes and entry.path != keep:
            remove_folder(entry.path)
            removed += 1
    return removed


def remove_abandoned(parent: Path) -> None:
    """Remove temporary files and folders whose process is gone; those of earlier versions are
    called "tmp-PID-…".
    """
    remove_temporary(parent)
    for folder in _folders(parent, prefix="tmp-"):
        if not _in_work(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _write(
    folder: Path,
    num_images: int,
    shape: tuple[int, int, int],
    read: Callable[[int], np.ndarray],
    source: str,
    progress: Progress | None,
    small: bool,
) -> None:
    """Read every image and write `pixels.u8` and `entry.json` into `folder`."""

    def with_digest(i: int) -> tuple[np.ndarray, bytes]:
        image = np.ascontiguousarray(read(i))
        if image.shape != shape or image.dtype != np.uint8:
            raise ValueError(f"image {i} is {image.shape} {image.dtype}, expected {shape} uint8")
        return image, hashlib.sha256(image.data).digest()

    digest = hashlib.sha256()  # of the images' own, which the threads take
    skipped: list[tuple[int, str]] = []
    with (
        quiet_pillow(),  # once, as that costs a tenth of decoding a small picture
        open(folder / "pixels.u8", "wb") as file,
        contextlib.closing(in_order(with_digest, num_images, small=small)) as images,
    ):
        for i, found in enumerate(images):
            if isinstance(found, Unreadable):
                skipped.append((i, str(found)))
            else:
                image, of_image = found
                digest.update(of_image)
                file.write(image.data)
            if progress and ((i + 1) % CHUNK == 0 or i + 1 == num_images):
                progress(f"decoding {source}", i + 1, num_images)
        file.flush()
        os.fsync(file.fileno())
    meta = {
        "source": source,
        "shape": [num_images - len(skipped), *shape],
        "skipped": skipped,
        "fingerprint": digest.hexdigest()[:32],
    }
    (folder / "entry.json").write_text(json.dumps(meta), encoding="utf-8")


def are_small(states: Sequence[os.stat_result]) -> bool:
    """Return whether files are so small that threads which read them mostly wait for each other."""
    return sum(state.st_size for state in states) < SMALL_FILE * len(states)


def in_order(
    read: Callable[[int], T], num_images: int, *, small: bool = False
) -> Generator[T | Unreadable, None, None]:
    """Yield what `read` gives for every image, or why it cannot be read, in order.

    Threads are some chunks ahead; of `small` files the caller's own thread reads each.
    """

    def read_chunk(start: int) -> list[T | Unreadable]:
        images: list[T | Unreadable] = []
        for i in range(start, min(start + CHUNK, num_images)):
            try:
                images.append(read(i))
            except Unreadable as reason:
                images.append(reason)
        return images

    if small:
        for start in range(0, num_images, CHUNK):
            yield from read_chunk(start)
        return

    num_threads = num_cores()
    pool = ThreadPoolExecutor(num_threads)
    try:
        ahead: deque[Future[list[T | Unreadable]]] = deque()
        for start in range(0, num_images, CHUNK):
            ahead.append(pool.submit(read_chunk, start))
            if len(ahead) > 3 * num_threads:
                yield from ahead.popleft().result()
        while ahead:
            yield from ahead.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _open_entry(folder: Path, *, reused: bool) -> Cached | None:
    try:
        meta = json.loads((folder / "entry.json").read_text(encoding="utf-8"))
        shape = tuple(meta["shape"])
        if os.path.getsize(folder / "pixels.u8") != int(np.prod(shape)):
            return None  # cut short from outside

        empty = shape[0] == 0
        pixels = (
            np.empty(shape, np.uint8)
            if empty
            else np.memmap(folder / "pixels.u8", np.uint8, "r", shape=shape)
        )

        skipped = tuple((int(i), str(reason)) for i, reason in meta["skipped"])
        with contextlib.suppress(OSError):
            os.utime(folder / "entry.json")  # used just now
        return Cached(np.asarray(pixels), skipped, str(meta["fingerprint"]), reused)
    except (OSError, ValueError, LookupError, TypeError):
        return None


def writable(folder: Path) -> tuple[Path, tuple[str, ...]]:
    """Return the folder, made if need be, or a temporary one (removed at exit) where it cannot be
    written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder, ()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"no space is left on the disk of the cache folder {folder}. "
                "Free some, or set TINTYPE_CACHE."
            ) from None

        fallback = Path(tempfile.mkdtemp(prefix="tintype-"))
        atexit.register(shutil.rmtree, fallback, ignore_errors=True)
        return fallback, (
            f"cache: {folder} cannot be written ({error.strerror}); "
            f"decoded into {fallback} for this run only",
        )


@contextlib.contextmanager
def writing_at_most(num_bytes: int) -> Generator[None, None, None]:
    """Refuse, inside, to make an entry of more than `num_bytes`; one that is there already is used
    whatever its size.
    """
    token = _most_bytes.set(num_bytes)
    try:
        yield
    finally:
        _most_bytes.reset(token)


def _check_bound(num_images: int, shape: tuple[int, int, int], source: str) -> None:
    most = _most_bytes.get()
    num_bytes = num_images * int(np.prod(shape))
    if most is not None and num_bytes > most:
        height, width, channels = shape
        raise UserError(
            f"a dry run decodes at most {format_bytes(most)}; "
            f"{source} is {format_bytes(num_bytes)} "
            f"({num_images:,} images of {height}x{width}x{channels}), which training keeps in the "
            "cache. Choose a smaller --image-size, or train."
        )


def check_space(folder: Path, num_bytes: int, source: str) -> None:
    """Raise a UserError if `num_bytes` more do not fit on the disk of `folder`."""
    if shutil.disk_usage(folder).free < num_bytes + 50_000_000:
        raise _no_space(folder, num_bytes, source)


def _no_space(folder: Path, num_bytes: int, source: str) -> UserError:
    free = format_bytes(shutil.disk_usage(folder).free)
    return UserError(
        f"decoding {source} needs {format_bytes(num_bytes)} in {folder}, where {free} is free. "
        "Free some, set TINTYPE_CACHE to a folder on another disk, "
        "or choose a smaller --image-size."
    )


def _folders(photos: Path, prefix: str = "") -> Sequence[Path]:
    try:
        folders = [f for f in photos.iterdir() if f.is_dir() and not is_temporary(f)]
        return [f for f in folders if f.name.startswith("tmp-") == bool(prefix)]
    except OSError:
        return []


def _in_work(folder: Path) -> bool:
    """Return whether a process that lives may still be writing into a temporary folder."""
    pid = folder.name.split("-")[1]
    try:
        # Of a shared cache the process may be on another machine; its clock, or ours, may be wrong.
        young = abs(time.time() - folder.stat().st_mtime) < 24 * 3600
    except OSError:
        return False
    return young and (not pid.isdigit() or psutil.pid_exists(int(pid)))
