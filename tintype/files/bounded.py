"""Files from strangers: only regular ones are opened, and reading from them is bounded.

`docs/limits.md` states the bounds.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import math
import os
import platform
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from tintype.errors import UserError

MOST_JSON_BYTES = 500_000_000
MOST_DEPTH = 50  # of lists and mappings inside one another, in YAML and JSON
MOST_DIGITS = 100  # of a whole number

_KINDS = {
    stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
}  # fmt: skip


def regular_only(path: str | os.PathLike[str], flags: int) -> int:
    """Open a regular file and return its descriptor; an `opener` for `open` that never blocks.

    Raises:
        OSError: it is a pipe, a socket, a device or a folder, or it cannot be opened.
    """
    refuse_special(path)

    # The file may have been replaced since; a pipe opened this way at least does not block.
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
    try:
        _refuse_mode(os.fstat(descriptor).st_mode, path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def regular_without_links(path: str | os.PathLike[str], flags: int) -> int:
    """Open a regular file as `regular_only` does, and never through a symbolic link of that name.

    Raises:
        OSError: as in `regular_only`, or it is a link.
    """
    if os.path.islink(path):
        raise OSError(errno.ELOOP, "it is a link, not a file", os.fspath(path))
    return regular_only(path, flags | getattr(os, "O_NOFOLLOW", 0))


def refuse_special(path: str | os.PathLike[str]) -> None:
    """Raise if `path` exists and is not a regular file.

    Raises:
        OSError: it is a pipe, a socket, a device or a folder.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    _refuse_mode(mode, path)


def _refuse_mode(mode: int, path: str | os.PathLike[str]) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", os.fspath(path))


def open_text(
    path: str | os.PathLike[str], *, newline: str | None = None, errors: str = "strict"
) -> IO[str]:
    """Open a regular file for reading as UTF-8.

    Raises:
        OSError: it is no regular file, or it cannot be opened.
    """
    return open(path, encoding="utf-8", newline=newline, errors=errors, opener=regular_only)


def read_bytes(path: str | os.PathLike[str], *, most: int | None = None) -> bytes:
    """Return the content of a regular file of at most `most` bytes.

    Raises:
        OSError: it is no regular file, it cannot be read, or it is larger.
    """
    with open(path, "rb", opener=regular_only) as file:
        content = file.read() if most is None else file.read(most + 1)
    if most is not None and len(content) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most:,} bytes", os.fspath(path))
    return content


# ---- JSON ----------------------------------------------------------------------------------------


def read_json(path: str | os.PathLike[str]) -> Any:
    """Return the content of a JSON file.

    Raises:
        OSError: it is no regular file, it cannot be read, or it is too large.
        ValueError: it is no JSON, or its content is beyond a bound.
    """
    return parse_json(read_bytes(path, most=MOST_JSON_BYTES).decode("utf-8"))


def read_json_object(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the content of a JSON file that holds an object.

    Raises:
        OSError: it is no regular file, it cannot be read, or it is too large.
        ValueError: it is no JSON object, or its content is beyond a bound.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError("a JSON object was expected")
    return content


def parse_json(text: str) -> Any:
    """Return the content of a JSON text with finite numbers, nested at most MOST_DEPTH deep.

    Raises:
        ValueError: it is no JSON, or its content is beyond a bound.
    """
    try:
        content = json.loads(
            text,
            parse_int=_whole_number,
            parse_float=_finite_number,
            parse_constant=_refuse_constant,
        )
    except RecursionError:
        raise ValueError(f"it is nested more than {MOST_DEPTH} deep") from None

    level = [content]
    depth = 1
    while level := [inner for each in level for inner in _inside(each)]:
        depth += 1
        if depth > MOST_DEPTH:
            raise ValueError(f"it is nested more than {MOST_DEPTH} deep")
    return content


def _inside(value: Any) -> list[Any]:
    """Return the lists and mappings that lie directly in a value, or an empty list."""
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return []
    return [inner for inner in value if isinstance(inner, dict | list)]


def _whole_number(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a number has more than {MOST_DIGITS} digits")
    return int(text)


def _finite_number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a number")


# ---- folders -------------------------------------------------------------------------------------


def refuse_ways_out(folder: Path) -> None:
    """Refuse a folder that holds pipes, sockets, devices, or links that lead out of it.

    The folder itself may be reached by a link.

    Raises:
        UserError: it holds one of these, at any depth.
    """
    root = folder.resolve()
    waiting = [folder]

    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                found = list(entries)
        except FileNotFoundError:  # renamed since, by a process that works in the folder too
            continue
        except OSError as error:
            raise UserError(f"cannot read {error.filename or folder}: {error.strerror}.") from None

        for entry in found:
            if entry.is_symlink():
                _refuse_link_out(Path(entry.path), root)
            elif entry.is_dir(follow_symlinks=False):
                waiting.append(Path(entry.path))
            elif not entry.is_file(follow_symlinks=False):
                raise UserError(
                    f"{entry.path} is a pipe, a socket or a device. "
                    "Expected regular files; remove it."
                )


def refuse_link_out(path: Path, folder: Path) -> None:
    """Refuse a file in `folder` that is a link which leads out of it.

    Raises:
        UserError: it is one.
    """
    if path.is_symlink():
        _refuse_link_out(path, folder.resolve())


def _refuse_link_out(link: Path, root: Path) -> None:
    try:
        inside = link.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # a link that leads to itself
        inside = False
    if not inside:
        raise UserError(
            f"{link} is a link that leads out of its folder, and is not followed. "
            "Put the file itself there, or remove it."
        )


# ---- temporary names -----------------------------------------------------------------------------

# The machine: on a shared disk, a process number means nothing on another machine.
_MACHINE = hashlib.blake2b(platform.node().encode(), digest_size=3).hexdigest()
_TEMPORARY = re.compile(r"\..*\.([0-9a-f]{6})-(\d+)(-\d+)?\.tmp")
_numbers = itertools.count()
_cleaned: set[Path] = set()


def temporary_for(path: Path) -> Path:
    """Return a name next to `path` for this process to write to before it renames.

    Once per process, this removes what dead processes of this machine left in the folder.
    """
    folder = path.parent.absolute()  # a relative path would mean another folder after chdir
    if folder not in _cleaned:
        _cleaned.add(folder)
        remove_abandoned(folder)
    # Cut, since a name of the maximum length has no room for a suffix.
    start = os.fsencode(path.name)[:200].decode("utf-8", "ignore")
    return path.with_name(f".{start}.{_MACHINE}-{os.getpid()}.tmp")


@contextmanager
def temporary_folder(path: Path, mode: int = 0o777) -> Iterator[Path]:
    """Yield a new folder next to `path`, to fill and rename; what is left of it is removed.

    Raises:
        OSError: it cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = temporary_for(path)
    folder = folder.with_name(f"{folder.name.removesuffix('.tmp')}-{next(_numbers)}.tmp")
    folder.mkdir(mode)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def is_temporary(path: Path) -> bool:
    """Return whether a path has a name that only unfinished files have."""
    return _TEMPORARY.fullmatch(path.name) is not None


def remove_abandoned(folder: Path) -> None:
    """Remove temporary files that dead processes of this machine left in a folder."""
    with suppress(OSError):
        for entry in os.scandir(folder):
            if not _is_abandoned(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                with suppress(OSError):
                    os.unlink(entry.path)


def remove_folder(folder: Path) -> None:
    """Remove a folder that other processes may read, by renaming it first.

    So it disappears at once, and a kill leaves no half of it in use.
    """
    doomed = folder.with_name(f".{folder.name[:200]}.{_MACHINE}-{os.getpid()}-{next(_numbers)}.tmp")
    try:
        os.rename(folder, doomed)
    except OSError:
        # Not there, or in use where that forbids it (Windows): it stays whole.
        return
    shutil.rmtree(doomed, ignore_errors=True)


def _is_abandoned(name: str) -> bool:
    import psutil  # late, since exported models also run where it is not installed

    found = _TEMPORARY.fullmatch(name)
    return found is not None and found[1] == _MACHINE and not psutil.pid_exists(int(found[2]))
