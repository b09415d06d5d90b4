"""What differs between operating systems: locks, renaming what is open, and what an error means.

Tests set WINDOWS, since `os.name` also decides which paths pathlib makes.
"""

from __future__ import annotations

import errno
import importlib
import os
import time
from collections.abc import Callable
from typing import IO, Any

WINDOWS = os.name == "nt"
PATIENCE_SECONDS = 2.0  # for a program that reads what is to be replaced, such as a virus scanner
LONGEST_PATH = 260  # characters on Windows, unless long paths are enabled

_LOCKED_BYTE = 0x7FFF0000  # Windows keeps others from reading what is locked, so it is no content


def lock(file: IO[Any], *, wait: bool) -> None:
    """Lock an open file for this process until it is closed or the process ends.

    Where there are no locks (some network file systems), nothing is guarded against a second
    process.

    Raises:
        BlockingIOError: another process holds it, and `wait` is false.
    """
    try:
        import fcntl
    except ImportError:
        _lock_byte(file, wait=wait)
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError:
        return


def _lock_byte(file: IO[Any], *, wait: bool) -> None:
    """Lock as Windows does: one byte of the file, far behind its end."""
    msvcrt: Any = importlib.import_module("msvcrt")
    descriptor = file.fileno()
    place = os.lseek(descriptor, 0, os.SEEK_CUR)
    while True:
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            return
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EDEADLK):
                return
            if not wait:
                raise BlockingIOError(errno.EAGAIN, "another process holds it") from None
        finally:
            os.lseek(descriptor, place, os.SEEK_SET)
        time.sleep(0.05)


def replace(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Give `source` the name of `target`, in whose place it comes.

    Windows forbids that while a program has either open; it is tried for PATIENCE_SECONDS.

    Raises:
        OSError: it cannot be renamed.
    """
    _patiently(os.replace, source, target)


def rename(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Give a folder a name that is free, with the patience of `replace`.

    Raises:
        OSError: it cannot be renamed.
    """
    _patiently(os.rename, source, target)


def _patiently(
    action: Callable[[Any, Any], None],
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            action(source, target)
            return
        except PermissionError:
            if not WINDOWS or time.monotonic() >= until:
                raise
        time.sleep(0.02)


def is_too_long(error: OSError) -> bool:
    """Return whether Windows did not find a path because of its length, which it does not say."""
    if not WINDOWS or error.errno != errno.ENOENT or not error.filename:
        return False
    return len(os.path.abspath(os.fsdecode(error.filename))) >= LONGEST_PATH


def why(error: OSError) -> str:
    """Return the reason of an error in words."""
    if is_too_long(error):
        return (
            f"its path is longer than the {LONGEST_PATH - 1} characters that Windows takes unless "
            "long paths are enabled"
        )
    return error.strerror or str(error)
