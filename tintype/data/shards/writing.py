"""Write the photos of a folder or a table as tar shards, each with its index."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tintype.data.decode import EXTENSIONS
from tintype.data.sets.folder import Photo
from tintype.data.shards import tar
from tintype.data.shards.fetching import sha256_of
from tintype.data.shards.index import Index, make_index, thumbs_to_bytes
from tintype.errors import UserError
from tintype.files.bounded import temporary_folder
from tintype.files.shard_names import INDEX, THUMBS
from tintype.progress import Progress

SAMPLE_BYTES = (
    2048  # that a sample takes beside its image: two headers, a label, and what is filled
)


@dataclass(frozen=True)
class Written:
    """What was written: shards, images and bytes, and the images that cannot be read."""

    num_shards: int
    num_images: int
    num_bytes: int
    skipped: tuple[tuple[str, str], ...]


def write_shards(
    photos: Sequence[Photo],
    columns: Sequence[str],
    out: Path,
    *,
    shard_bytes: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> Written:
    """Write photos into a new folder of shards; each split has shards of its own.

    The files' bytes stay as they are. Photos are shuffled, so that every shard is a mixture. The
    same photos and seed give the same bytes.

    Args:
        photos: what to write.
        columns: the names of their cells.
        out: the folder, which must be new or empty.
        shard_bytes: of images in a shard, about.
        seed: of the order.
        progress: called as progress(what, done, total).

    Raises:
        UserError: `out` is taken, or a photo cannot be read.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is taken. Expected a new folder for the shards.")

    num_shards = num_images = num_bytes = 0
    skipped: list[tuple[str, str]] = []
    with temporary_folder(out) as folder:
        for split in sorted({photo.split for photo in photos}):
            some = sorted(
                (photo for photo in photos if photo.split == split),
                key=lambda photo: _rank(photo.name, seed),
            )
            for number, part in enumerate(_divided(some, shard_bytes)):
                path = folder / f"{split or 'shard'}-{number:06d}.tar"
                index = _write(path, part, columns)
                skipped += index.skipped
                num_shards += 1
                num_images += len(index)
                num_bytes += index.num_bytes
                if progress:
                    progress("writing shards", num_images + len(skipped), len(photos))
        if out.exists():
            out.rmdir()
        os.rename(folder, out)
    return Written(num_shards, num_images, num_bytes, tuple(skipped))


def _rank(name: str, seed: int) -> bytes:
    text = f"{seed}\0{name}".encode("utf-8", "surrogateescape")
    return hashlib.blake2b(text, digest_size=16).digest()


def _divided(photos: Sequence[Photo], shard_bytes: int) -> Iterator[list[Photo]]:
    """Yield the photos of each shard; all have about the same size."""
    sizes = [os.path.getsize(photo.path) + SAMPLE_BYTES for photo in photos]
    count = max(1, round(sum(sizes) / shard_bytes))
    part: list[Photo] = []
    done, given = 0, 0
    for photo, size in zip(photos, sizes, strict=True):
        part.append(photo)
        done += size
        if done >= sum(sizes) * (given + 1) / count and given + 1 < count:
            yield part
            part, given = [], given + 1
    if part:
        yield part


def _write(path: Path, photos: Sequence[Photo], columns: Sequence[str]) -> Index:
    """Write one shard with its index and small pictures."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for key, photo in zip(_keys(photos), photos, strict=True):
            about = dict(zip(columns, photo.cells, strict=True))
            about |= {"file_name": photo.name}
            about |= {"split": photo.split} if photo.split else {}
            about |= {"group": photo.group} if photo.group else {}
            text = json.dumps(about, ensure_ascii=False).encode("utf-8", "backslashreplace")
            _add(archive, key + _ending(photo.path), _content(photo))
            _add(archive, key + ".json", text)

    members = tar.list_members(path, path.name)

    def read(i: int) -> bytes:
        with open(path, "rb") as file:
            file.seek(members[i].offset)
            return file.read(members[i].size)

    sha256 = sha256_of(path)
    index = make_index(members, read, sha256=sha256, num_bytes=path.stat().st_size)
    path.with_name(path.name + INDEX).write_bytes(index.to_bytes())
    path.with_name(path.name + THUMBS).write_bytes(thumbs_to_bytes(index))
    return index


def _keys(photos: Sequence[Photo]) -> list[str]:
    """Return a name for each sample, without a dot and all different."""
    taken: set[str] = set()
    keys = []
    for photo in photos:
        folder, slash, last = photo.name.replace("\\", "/").lstrip("/").rpartition("/")
        stem = os.path.splitext(last)[0].replace(".", "_").lstrip("_") or "image"
        plain = key = folder.replace("..", "_") + slash + stem
        number = 1
        while key in taken:
            number += 1
            key = f"{plain}-{number}"
        taken.add(key)
        keys.append(key)
    return keys


def _ending(path: str) -> str:
    ending = os.path.splitext(path)[1].lower()
    return ending if ending in EXTENSIONS else ".jpg"  # decoders look at the bytes


def _content(photo: Photo) -> bytes:
    try:
        return Path(photo.path).read_bytes()
    except OSError as error:
        raise UserError(f"{photo.path} cannot be read: {error.strerror}.") from None


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file without anything that differs from one machine to another."""
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))
