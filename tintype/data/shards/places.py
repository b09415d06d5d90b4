"""Where shards lie: files here, or addresses that fsspec reads (s3://, gs://, https://)."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from tintype.data.decode import natural_key
from tintype.errors import UserError
from tintype.files.shard_names import ENDINGS, expanded, is_address

AT_ONCE = 16  # small requests
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Shard:
    """One shard: its address or path, its name in messages, its size, and its state.

    `state` changes with the file, as far as its storage says.
    """

    address: str
    name: str
    num_bytes: int
    state: str

    @property
    def kind(self) -> str:
        """Its ending: ".tar" or ".parquet"."""
        return next(e for e in ENDINGS if self.address.lower().endswith(e))

    @property
    def is_here(self) -> bool:
        """Whether it is a file of this machine, by a path."""
        return not is_address(self.address)

    @property
    def label(self) -> str:
        """Its name without the ending."""
        return self.name[: -len(self.kind)]


def find_shards(pattern: str) -> list[Shard]:
    """Return the shards that a path, an address or a pattern of them names, in their order.

    Raises:
        UserError: nothing is there, it is no shard, or the address cannot be read.
    """
    found = [path for name in expanded(pattern) for path in _matching(name)]
    addresses = list(dict.fromkeys(found))
    if not addresses:
        raise UserError(
            f"'{pattern}' matches no shard (looked from {Path.cwd()}). "
            "Expected .tar or .parquet files, such as 'shards/*.tar'."
        )
    for address in addresses:
        if not address.lower().endswith(ENDINGS):
            raise UserError(
                f"'{address}' is no shard. Expected .tar (not compressed) or .parquet, as in "
                "'s3://bucket/train-{000..146}.tar'."
            )

    names = _short_names(addresses)
    return in_threads(_seen, list(zip(addresses, names, strict=True)))


def in_threads(function: Callable[[T], R], things: Sequence[T]) -> list[R]:
    """Return what a function that mostly waits gives for each thing, in their order."""
    if len(things) < 2:
        return [function(thing) for thing in things]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(function, things))


def _matching(name: str) -> list[str]:
    """Return the shards that one path or address without braces stands for."""
    is_pattern = any(mark in name for mark in "*?[")
    if is_address(name):
        if not is_pattern:
            return [name]
        files, path = file_system(name)
        found = asked(name, lambda: files.glob(path))
        return sorted((files.unstrip_protocol(each) for each in found), key=natural_key)

    name = os.path.expanduser(name)
    if os.path.isdir(name):
        inside = [os.path.join(name, each) for each in os.listdir(name) if each[0] != "."]
        return sorted((e for e in inside if e.lower().endswith(ENDINGS)), key=natural_key)
    return sorted(glob.glob(name), key=natural_key) if is_pattern else [name]


def _short_names(addresses: Sequence[str]) -> list[str]:
    """Return the names of shards below the folder that they have in common."""
    paths = [PurePosixPath(address.replace(os.sep, "/")) for address in addresses]
    names = [path.name for path in paths]
    if len(set(names)) == len(names):
        return names
    common = os.path.commonpath([str(path.parent) for path in paths])
    return [str(path)[len(common) :].lstrip("/") for path in paths]


def _seen(place: tuple[str, str]) -> Shard:
    """Return a shard with its size and state."""
    address, name = place
    if not is_address(address):
        try:
            status = os.stat(address)
        except OSError as error:
            raise UserError(
                f"there is no shard '{address}' (looked from {Path.cwd()}): {error.strerror}."
            ) from None
        state = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
        return Shard(address, name, status.st_size, state)

    files, path = file_system(address)
    about = asked(address, lambda: files.info(path))
    state = asked(address, lambda: str(files.ukey(path)))
    return Shard(address, name, int(about.get("size") or 0), state)


def file_system(address: str) -> tuple[Any, str]:
    """Return the file system of an address, and the path in it.

    Raises:
        UserError: a package for it is missing, or there is no such kind of address.
    """
    protocol = address.partition("://")[0]
    try:
        from fsspec.core import url_to_fs

        return url_to_fs(address)
    except ImportError as error:
        raise UserError(
            f"{protocol}:// needs a package that is not installed ({error}): "
            "pip install 'tintype[shards]'"
        ) from None
    except ValueError as error:
        if "not known" in str(error):
            raise UserError(
                f"'{address}' is no address that fsspec knows: there is no {protocol}://. "
                "Expected s3://, gs://, https:// or another of its kinds."
            ) from None
        raise UserError(f"'{address}' is no address that fsspec understands: {error}.") from None


def asked(address: str, question: Callable[[], T]) -> T:
    """Return the answer of a file system.

    Raises:
        UserError: it has none; the line says why.
    """
    try:
        return question()
    except UserError:
        raise
    except Exception as error:  # each file system has errors of its own
        raise UserError(f"'{address}' cannot be read: {why(error)}.") from error


def why(error: BaseException) -> str:
    """Return in a few words what a file system says of a failure."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, PermissionError):
        return f"no permission ({error})" if str(error) else "no permission"
    if isinstance(error, TimeoutError) and not str(error):
        return "no answer in time"
    text = (str(error) or type(error).__name__).splitlines()[0][:200]
    return text.rstrip(".")


def beside(shard: Shard, ending: str) -> bytes | None:
    """Return the file whose name is a shard's with an ending added; None where there is none."""
    name = shard.address + ending
    try:
        if shard.is_here:
            return Path(name).read_bytes()
        files, path = file_system(name)
        return files.cat_file(path)
    except UserError:
        raise
    except Exception:  # as file systems say that there is no file, or that nothing may be listed
        return None


def state_key(shard: Shard) -> str:
    """Return a name for what is known of a shard in its present state."""
    text = f"{shard.address if not shard.is_here else os.path.abspath(shard.address)}"
    return hashlib.blake2b(f"{text}\0{shard.state}".encode(), digest_size=16).hexdigest()
