"""Find the index of each shard: beside it, in the cache, or by reading the shard once."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tintype.data.cache import cache_folder
from tintype.data.shards import fetching, parquet, tar
from tintype.data.shards.fetching import ShardFiles, download, needs_cache, sha256_of
from tintype.data.shards.index import (
    Index,
    make_index,
    thumbs_from_bytes,
    thumbs_to_bytes,
)
from tintype.data.shards.members import Member
from tintype.data.shards.places import Shard, beside, in_threads, state_key
from tintype.errors import UserError
from tintype.files.bounded import temporary_for
from tintype.files.shard_names import INDEX, THUMBS
from tintype.files.whole import format_bytes, written_whole
from tintype.progress import Progress, duration

SHARDS = "shards"  # folder of the cache


class Indexed(NamedTuple):
    """The indexes of all shards, and a note on those that had to be made."""

    indexes: list[Index]
    notes: list[str]


def shards_folder() -> Path:
    """Return the folder of fetched shards."""
    return cache_folder() / SHARDS


def indexes_of(shards: Sequence[Shard], limit: int, progress: Progress | None) -> Indexed:
    """Return the index of each shard; one without is read once.

    Raises:
        UserError: an index or a shard cannot be read, or they do not belong to one another.
    """
    found = in_threads(_found, list(shards))
    missing = [k for k, index in enumerate(found) if index is None]
    started = time.monotonic()
    indexes: list[Index] = []
    for k, (shard, index) in enumerate(zip(shards, found, strict=True)):
        if index is None:
            if progress:
                progress("reading shards once for an index", missing.index(k), len(missing))
            index = _made(shard, limit)
        _check_size(shard, index)
        indexes.append(index)
    if not missing:
        return Indexed(indexes, [])

    if progress:
        progress("reading shards once for an index", len(missing), len(missing))
    num_bytes = sum(indexes[k].num_bytes for k in missing)
    what = "1 shard has" if len(missing) == 1 else f"{len(missing):,} shards have"
    note = (
        f"{what} no index beside: read once to make one ({format_bytes(num_bytes)}, "
        f"{duration(time.monotonic() - started)}), which is kept in {_index_folder()}"
    )
    return Indexed(indexes, [note])


def thumbs_of(shard: Shard, index: Index) -> Index:
    """Return the index with its small pictures, where they are at hand."""
    if index.thumbs is not None:
        return index
    place = _index_folder() / state_key(shard)
    kept = _content(place.with_name(place.name + THUMBS))
    for content in (beside(shard, THUMBS), kept):
        thumbs = thumbs_from_bytes(content, index)
        if thumbs is not None:
            return Index(**{**vars(index), "thumbs": thumbs})
    return index


def _index_folder() -> Path:
    return shards_folder() / "indexes"


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _found(shard: Shard) -> Index | None:
    content = beside(shard, INDEX)
    if content is None:
        place = _index_folder() / state_key(shard)
        content = _content(place.with_name(place.name + INDEX))
    return None if content is None else Index.from_bytes(content, shard.name)


def _check_size(shard: Shard, index: Index) -> None:
    if shard.num_bytes and shard.num_bytes != index.num_bytes:
        what = "truncated" if shard.num_bytes < index.num_bytes else "replaced"
        raise UserError(
            f"shard {shard.name} has {shard.num_bytes:,} bytes, and its index says "
            f"{index.num_bytes:,}: it was {what}. Restore it, or remove {shard.name}{INDEX}, so "
            "that it is read once more."
        )


def _made(shard: Shard, limit: int) -> Index:
    """Read a shard once and return its index, which is kept in the cache."""
    folder = shards_folder()
    original = Path(shard.address)
    fetched = None
    if needs_cache(shard):
        room = ShardFiles([], [], folder, limit)
        room.make_room(2 * shard.num_bytes if shard.kind == ".parquet" else shard.num_bytes)
    try:
        if shard.is_here:
            sha256 = _sha256_here(shard)
        else:
            original = fetched = temporary_for(folder / f"{state_key(shard)}{shard.kind}")
            sha256 = download(shard, fetched)
        index = _index(shard, original, sha256, folder)
        if fetched is not None and shard.kind == ".tar":
            os.replace(fetched, folder / f"{sha256}{fetching.ENDING}")
    except OSError as error:
        raise UserError(f"shard {shard.name} cannot be read: {error.strerror or error}.") from None
    finally:
        if fetched is not None:
            with contextlib.suppress(OSError):
                fetched.unlink()
    _keep(shard, index)
    return index


def _sha256_here(shard: Shard) -> str:
    try:
        return sha256_of(Path(shard.address))
    except OSError as error:
        raise UserError(f"shard {shard.address} cannot be read: {error.strerror}.") from None


def _index(shard: Shard, original: Path, sha256: str, folder: Path) -> Index:
    """Return the index of a shard whose file is here; a Parquet file is unpacked for it."""
    path = original
    if shard.kind == ".parquet":
        members = parquet.list_members(original, shard.name)
        path = folder / f"{sha256}{fetching.ENDING}"
        with written_whole(path) as temporary, open(temporary, "wb") as file:
            parquet.unpack(original, shard.name, file)
    else:
        members = tar.list_members(original, shard.name)
    if not members:
        raise UserError(
            f"shard {shard.name} holds no images. Expected files such as 0001.jpg and 0001.json "
            "or 0001.cls; a folder of photos becomes shards by: tintype shard FOLDER OUT"
        )

    def read(i: int) -> bytes:
        member: Member = members[i]
        with open(path, "rb") as file:
            file.seek(member.offset)
            return file.read(member.size)

    return make_index(members, read, sha256=sha256, num_bytes=original.stat().st_size)


def _keep(shard: Shard, index: Index) -> None:
    """Keep an index in the cache; where that cannot be written, it is made again next time."""
    place = _index_folder() / state_key(shard)
    with contextlib.suppress(OSError, UserError):
        for ending, content in ((INDEX, index.to_bytes()), (THUMBS, thumbs_to_bytes(index))):
            with written_whole(place.with_name(place.name + ending)) as temporary:
                temporary.write_bytes(content)
