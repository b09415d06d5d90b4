"""The index of a shard: what is known of each of its images without opening it.

It lies beside the shard as `train-000.tar.index`, in the format of safetensors: names, labels,
where the bytes of each image lie, size and mode of the picture, and a digest of its bytes. Small
grey pictures, by which near-copies are found, lie in `train-000.tar.thumbs`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from tintype.data.cache import in_order
from tintype.data.decode import (
    Resize,
    Shape,
    Unreadable,
    decode_each,
    open_picture,
    quiet_pillow,
    read_header,
)
from tintype.data.levels import is_deep, levels_of
from tintype.data.shards.members import Member
from tintype.errors import UserError
from tintype.files.bounded import parse_json

VERSION = 1
DIGEST = 16  # bytes that stand for an image
SIDE = 32  # of the small grey pictures, which `duplicates.near_pairs` compares
COLOURED = 8  # levels between channels from which on a picture has colour
GREY = np.array([0.299, 0.587, 0.114], np.float32)  # luma of ITU-R BT.601

_ARRAYS = {
    "offsets": np.int64, "sizes": np.int64, "widths": np.int32, "heights": np.int32,
    "coloured": np.uint8, "whites": np.float32, "digests": np.uint8,
}  # fmt: skip


@dataclass(frozen=True)
class Index:
    """What is known of the N images of one shard that can be read.

    Attributes:
        sha256: of the file as it is stored.
        num_bytes: of the file.
        names: of the images.
        modes: of the pictures, as Pillow calls them.
        columns: texts of each image, by column.
        skipped: the names of images that cannot be read, with the reasons.
        offsets: (N,) where the bytes of each begin; in a Parquet file, in the bytes of all images.
        sizes: (N,) in bytes.
        widths: (N,) in pixels, upright.
        heights: (N,) in pixels, upright.
        coloured: (N,) whether a picture shows colour.
        whites: (N,) the white of pictures of more than 8 bits, NaN for others.
        digests: (N, 16) blake2b of the bytes.
    """

    sha256: str
    num_bytes: int
    names: list[str]
    modes: list[str]
    columns: dict[str, list[str]]
    skipped: list[tuple[str, str]]
    offsets: np.ndarray
    sizes: np.ndarray
    widths: np.ndarray
    heights: np.ndarray
    coloured: np.ndarray
    whites: np.ndarray
    digests: np.ndarray
    thumbs: np.ndarray | None = field(default=None, repr=False)  # (N, 32, 32) where at hand

    def __len__(self) -> int:
        return len(self.names)

    def to_bytes(self) -> bytes:
        """Return the index as a file; the same index gives the same bytes."""
        from safetensors.numpy import save

        texts = {
            "version": VERSION,
            "sha256": self.sha256,
            "num_bytes": self.num_bytes,
            "names": self.names,
            "modes": self.modes,
            "columns": self.columns,
            "skipped": self.skipped,
        }
        text = json.dumps(texts, ensure_ascii=False).encode("utf-8", "backslashreplace")
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        return save({**arrays, "texts": np.frombuffer(text, np.uint8)})

    @classmethod
    def from_bytes(cls, content: bytes, name: str) -> Index:
        """Read what `to_bytes` wrote.

        Raises:
            UserError: it is no index of this version, or it contradicts itself.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            arrays = load(content)
            texts = parse_json(arrays.pop("texts").tobytes().decode("utf-8"))
            if texts.pop("version") != VERSION:
                raise ValueError("of another version")
            skipped = [(str(file), str(reason)) for file, reason in texts.pop("skipped")]
            fields: dict[str, Any] = {**texts, **{key: arrays[key] for key in _ARRAYS}}
            found = cls(**fields, skipped=skipped)
            found._check()
        except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"the index of {name} cannot be read ({error}). Remove it, and the shard is read "
                "once more to make another."
            ) from None
        return found

    def _check(self) -> None:
        """Raise a ValueError where parts do not fit one another, or the file."""
        count = len(self.names)
        shapes = {key: (count, DIGEST) if key == "digests" else (count,) for key in _ARRAYS}
        for key, dtype in _ARRAYS.items():
            array = getattr(self, key)
            if array.shape != shapes[key] or array.dtype != dtype:
                raise ValueError(f"{key} do not fit")
        texts = [self.names, self.modes, *self.columns.values()]
        if any(len(each) != count for each in texts) or len(set(self.names)) != count:
            raise ValueError("names do not fit")
        if count and (self.offsets.min() < 0 or self.sizes.min() < 0):
            raise ValueError("places do not fit")


class _Look(NamedTuple):
    """What one image shows."""

    width: int
    height: int
    mode: str
    coloured: bool
    white: float
    digest: bytes
    thumb: np.ndarray


def look(content: bytes) -> _Look:
    """Return what an image shows, decoded at a small size.

    Raises:
        Unreadable: it is no image, or damaged.
    """
    header = read_header(content)
    pixels = decode_each(content, [Shape(SIDE, SIDE, 3, Resize("squash"))])[0]
    with quiet_pillow(), open_picture(content) as image:
        white = levels_of(image).white if is_deep(image.mode) else float("nan")
        mode = image.mode
    return _Look(
        header.width,
        header.height,
        mode,
        not header.grey and int(np.ptp(pixels.astype(np.int16), axis=2).max()) > COLOURED,
        white,
        digest_of(content),
        np.rint(pixels @ GREY).astype(np.uint8),
    )


def digest_of(content: bytes) -> bytes:
    """Return the bytes that stand for an image in an index."""
    return hashlib.blake2b(content, digest_size=DIGEST).digest()


def make_index(
    members: list[Member],
    read: Callable[[int], bytes],
    *,
    sha256: str,
    num_bytes: int,
    on_image: Callable[[], None] | None = None,
) -> Index:
    """Look at every image of a shard, in threads, and return its index with small pictures.

    Args:
        members: the images, in their order.
        read: returns the bytes of the image at a position.
        sha256: of the file.
        num_bytes: of the file.
        on_image: called after each image.
    """
    kept: list[Member] = []
    looks: list[_Look] = []
    skipped: list[tuple[str, str]] = []
    for i, found in enumerate(in_order(lambda i: look(read(i)), len(members))):
        if on_image is not None:
            on_image()
        if isinstance(found, Unreadable):
            skipped.append((members[i].name, str(found)))
            continue
        kept.append(members[i])
        looks.append(found)

    columns = sorted({column for member in kept for column in member.cells})
    digests = b"".join(each.digest for each in looks)
    thumbs = [each.thumb for each in looks]
    return Index(
        sha256=sha256,
        num_bytes=num_bytes,
        names=[member.name for member in kept],
        modes=[each.mode for each in looks],
        columns={c: [member.cells.get(c, "") for member in kept] for c in columns},
        skipped=skipped,
        offsets=np.array([member.offset for member in kept], np.int64),
        sizes=np.array([member.size for member in kept], np.int64),
        widths=np.array([each.width for each in looks], np.int32),
        heights=np.array([each.height for each in looks], np.int32),
        coloured=np.array([each.coloured for each in looks], np.uint8),
        whites=np.array([each.white for each in looks], np.float32),
        digests=np.frombuffer(digests, np.uint8).reshape(-1, DIGEST),
        thumbs=np.stack(thumbs) if thumbs else np.empty((0, SIDE, SIDE), np.uint8),
    )


def thumbs_to_bytes(index: Index) -> bytes:
    """Return the small pictures of an index as a file."""
    from safetensors.numpy import save

    assert index.thumbs is not None
    return save({"thumbs": index.thumbs, "digests": index.digests})


def thumbs_from_bytes(content: bytes | None, index: Index) -> np.ndarray | None:
    """Return the small pictures (N, 32, 32) in a file, or None where they are not these images'."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if content is None:
        return None
    try:
        arrays = load(content)
        thumbs, digests = arrays["thumbs"], arrays["digests"]
    except (SafetensorError, KeyError, TypeError, ValueError):
        return None
    fits = thumbs.shape == (len(index), SIDE, SIDE) and thumbs.dtype == np.uint8
    return thumbs if fits and np.array_equal(digests, index.digests) else None


def joined_indexes(indexes: list[Index], names: list[str]) -> Index:
    """Return one index of the images of several, under other names; those without thumbs are black.

    What follows from a single file (its sha256, labels, places) is left out.
    """
    black = [np.zeros((len(index), SIDE, SIDE), np.uint8) for index in indexes]
    thumbs = [
        index.thumbs if index.thumbs is not None else none
        for index, none in zip(indexes, black, strict=True)
    ]
    arrays = {key: np.concatenate([getattr(index, key) for index in indexes]) for key in _ARRAYS}
    fields: dict[str, Any] = {**arrays, "thumbs": np.concatenate(thumbs)}
    modes = [mode for index in indexes for mode in index.modes]
    return Index("", 0, names, modes, {}, [], **fields)
