"""Images in shards: tar files (WebDataset) or Parquet files (Hugging Face), here or at an address.

Decoded pixels that fit into the cache are kept there, as those of a folder are; of a larger set
each image is decoded whenever it is used.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

from tintype.data import cache
from tintype.data.cache import cache_folder, cached_pixels
from tintype.data.decode import Resize, Shape, as_resize
from tintype.data.duplicates import near_search
from tintype.data.layout import SPLIT_FOLDERS, listed, split_of
from tintype.data.sets.folder import Photo, spread, suitable_size
from tintype.data.shards.fetching import ShardFiles, check_limit, needs_cache
from tintype.data.shards.index import Index, joined_indexes
from tintype.data.shards.indexing import indexes_of, shards_folder, thumbs_of
from tintype.data.shards.places import Shard, find_shards
from tintype.data.shards.streamed import Decoder, StreamedPixels
from tintype.data.shards.tar import CLASS_COLUMN
from tintype.data.source import Glance, Images, Looks, Shards
from tintype.data.targets import CLASSES, TargetKind
from tintype.errors import UserError
from tintype.files.whole import parse_bytes
from tintype.progress import Progress

TARGETS = ("class", "numbers", "labels", "none")
CACHE_SIZE = "20GB"
MOST_WINDOW = 8  # shards that are shuffled with one another, at most
NAME_COLUMN = "file_name"  # the image's own name, as Hugging Face and `tintype shard` write it
SAMPLE = 500  # images by which size and channels are chosen


def load(
    name: str,
    *,
    data_root: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    resize: str | Resize = "crop",
    progress: Progress | None = None,
    target: TargetKind = CLASSES,
    cache_size: str = CACHE_SIZE,
) -> Images:
    """Return the images of shards; `name` is a path, an address, or a pattern of them.

    Raises:
        UserError: nothing is there, it cannot be read, or it lacks images or targets.
    """
    limit = parse_bytes(cache_size)
    shards = find_shards(name)
    indexes, notes = indexes_of(shards, limit, progress)
    window = _window(shards, indexes, limit)
    photos = _photos(shards, indexes, target, name)
    skipped = _skipped(shards, indexes)
    if not photos:
        raise _all_broken(name, skipped)

    height, width, channels = _shape(indexes, image_size, channels, notes)
    resize = _with_white(indexes, as_resize(resize), notes)
    numbers = np.repeat(np.arange(len(indexes)), [len(index) for index in indexes])
    rows = np.concatenate([np.arange(len(index)) for index in indexes])
    files = ShardFiles(shards, indexes, shards_folder(), limit)
    decoder = Decoder(files, numbers, rows, (height, width, Shape(height, width, channels, resize)))
    content = _content(indexes, decoder.shape, resize)

    pixels: np.ndarray | StreamedPixels = StreamedPixels(decoder)
    if _fits(pixels.nbytes, limit):
        pixels = _kept(decoder, content, name, progress)
    notes.append(
        f"order: {len(shards):,} shards in another order for each epoch, images shuffled "
        f"within {window} of them"
    )
    kind, targets = target.collect(photos, photos, name, notes)
    return Images(
        pixels=pixels,
        targets=targets,
        names=[photo.name for photo in photos],
        target=kind,
        split=np.array([p.split for p in photos]) if any(p.split for p in photos) else None,
        groups=np.array([p.group for p in photos]) if any(p.group for p in photos) else None,
        notes=tuple(notes),
        skipped=tuple(skipped),
        fingerprint=content,
        on_disk=True,
        white=resize.white,
        looks=lambda: _looks(shards, indexes),
        split_by=_keys(indexes),
        shards=Shards(numbers, window),
    )


class Overview(NamedTuple):
    """All images of shards as their indexes know them.

    Attributes:
        photos: with targets, splits and groups as texts.
        index: of all images together, with small pictures.
        without_thumbs: how many images have none; theirs are black.
        read: gives the bytes of the image at a position.
        skipped: images that cannot be read, with the reasons.
        notes: lines for the user.
    """

    photos: list[Photo]
    index: Index
    without_thumbs: int
    read: Callable[[int], bytes]
    skipped: list[tuple[str, str]]
    notes: list[str]


def look_over(name: str, target: TargetKind, progress: Progress | None = None) -> Overview:
    """Return what the indexes of shards say, for those who look at images without training.

    Raises:
        UserError: as `load` does.
    """
    limit = parse_bytes(CACHE_SIZE)
    shards = find_shards(name)
    indexes, notes = indexes_of(shards, limit, progress)
    photos = _photos(shards, indexes, target, name)
    skipped = _skipped(shards, indexes)
    if not photos:
        raise _all_broken(name, skipped)

    with_thumbs = [thumbs_of(shard, index) for shard, index in zip(shards, indexes, strict=True)]
    files = ShardFiles(shards, indexes, shards_folder(), limit)
    places = [(k, row) for k, index in enumerate(indexes) for row in range(len(index))]
    return Overview(
        photos,
        joined_indexes(with_thumbs, [photo.name for photo in photos]),
        sum(len(index) for index in with_thumbs if index.thumbs is None),
        lambda i: files.read(*places[i], alone=True),
        skipped,
        notes,
    )


def glance(
    name: str, *, data_root: str | None = None, target: TargetKind = CLASSES
) -> Glance | None:
    """Return the number of images in shards and their usual size."""
    shards = find_shards(name)
    indexes, _ = indexes_of(shards, parse_bytes(CACHE_SIZE), None)
    sides = np.concatenate([np.minimum(index.widths, index.heights) for index in indexes])
    return Glance(len(sides), int(np.median(sides))) if len(sides) else None


def _window(shards: Sequence[Shard], indexes: Sequence[Index], limit: int) -> int:
    """Return how many shards are shuffled with one another.

    It follows from the shards and the size of the cache alone, so that the order is the same
    wherever they lie: while one window is used, the next one is fetched.

    Raises:
        UserError: shards have to be fetched, and the cache holds not even one.
    """
    fetched = [k for k, shard in enumerate(shards) if needs_cache(shard)]
    if fetched:
        check_limit([shards[k] for k in fetched], [indexes[k] for k in fetched], limit)
    largest = max(
        index.num_bytes + _unpacked(s, index) for s, index in zip(shards, indexes, strict=True)
    )
    return min(MOST_WINDOW, max(1, limit // max(1, largest) // 2))


def _unpacked(shard: Shard, index: Index) -> int:
    """Return the further bytes that a shard takes while it is unpacked."""
    return int(index.sizes.sum()) if shard.kind == ".parquet" else 0


def _fits(num_bytes: int, limit: int) -> bool:
    """Return whether decoded pixels are kept on disk."""
    folder = cache_folder()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return num_bytes <= min(limit, shutil.disk_usage(there).free // 2)


def _kept(decoder: Decoder, content: str, source: str, progress: Progress | None) -> np.ndarray:
    """Return the pixels of all images, decoded once, through the cache."""
    last = -1

    def read(i: int) -> np.ndarray:
        nonlocal last
        shard = int(decoder.shard[i])
        if shard != last:
            last = shard
            decoder.files.expect([k for k in (shard, shard + 1) if k < len(decoder.files.shards)])
        return decoder.pixels(i)

    cached = cached_pixels(
        hashlib.blake2b(content.encode(), digest_size=16).hexdigest(),
        len(decoder.shard),
        decoder.shape,
        read,
        source=source,
        progress=progress,
    )
    return cached.pixels


def _content(indexes: Sequence[Index], shape: tuple[int, ...], resize: Resize) -> str:
    """Return a hash of all images and of how they are decoded."""
    digest = hashlib.blake2b(f"{cache.VERSION} {shape} {resize}".encode(), digest_size=16)
    for index in indexes:
        digest.update(np.ascontiguousarray(index.digests).data)
    return digest.hexdigest()


def _skipped(shards: Sequence[Shard], indexes: Sequence[Index]) -> list[tuple[str, str]]:
    return [
        (f"{shard.label}/{file}", reason)
        for shard, index in zip(shards, indexes, strict=True)
        for file, reason in index.skipped
    ]


def _all_broken(source: str, skipped: Sequence[tuple[str, str]]) -> UserError:
    file, reason = skipped[0]
    return UserError(f"none of the images of {source} can be read. The first: {file}: {reason}.")


# ---- names, targets and splits ----------------------------------------------------------------


def _photos(
    shards: Sequence[Shard], indexes: Sequence[Index], target: TargetKind, source: str
) -> list[Photo]:
    """Return every image with its target as text, its split and its group."""
    names = _names(shards, indexes)
    photos = []
    for shard, index in zip(shards, indexes, strict=True):
        if not len(index):
            continue
        columns = _target_columns(shard, index, target)
        groups = index.columns.get("group") or [""] * len(index)
        splits = _splits(shard, index)
        for i in range(len(index)):
            name = names[len(photos)]
            cells = tuple(column[i] for column in columns)
            cells = target.read(cells, f"{shard.name}: {index.names[i]}")
            photos.append(Photo(shard.address, name, cells, splits[i], groups[i]))
    return photos


def _names(shards: Sequence[Shard], indexes: Sequence[Index]) -> list[str]:
    """Return the images' own names where these are known and differ, or those in the shards."""
    own = [name for index in indexes for name in index.columns.get(NAME_COLUMN, ())]
    total = sum(map(len, indexes))
    if len(own) == total and all(own) and len(set(own)) == total:
        return own
    return [
        f"{shard.label}/{name}"
        for shard, index in zip(shards, indexes, strict=True)
        for name in index.names
    ]


def _target_columns(shard: Shard, index: Index, target: TargetKind) -> list[list[str]]:
    """Return the columns that hold the target.

    Raises:
        UserError: one is missing.
    """
    there: Mapping[str, str] = {column.lower(): column for column in index.columns}
    found = []
    for headings in target.columns:
        choices = [*headings, CLASS_COLUMN] if len(target.columns) == 1 else [*headings]
        column = next((there[each.lower()] for each in choices if each.lower() in there), None)
        if column is None:
            has = f" (it has {listed(index.columns)})" if index.columns else ""
            raise UserError(
                f"shard {shard.name} holds {len(index):,} images without {headings[0]}{has}. "
                f'Expected a .json with "{headings[0]}" or a .cls for each image, or a column '
                f"{headings[0]} in a Parquet file."
            )
        found.append(index.columns[column])
    return found


def _splits(shard: Shard, index: Index) -> list[str]:
    """Return the split of each image: as its row says, or the name of the shard or its folder."""
    stated = index.columns.get("split")
    if stated and all(each.lower() in SPLIT_FOLDERS for each in stated):
        return [SPLIT_FOLDERS[each.lower()] for each in stated]
    path = PurePosixPath(shard.address.replace("\\", "/"))
    split = split_of(path.stem) or SPLIT_FOLDERS.get(path.parent.name.lower(), "")
    return [split] * len(index)


def _keys(indexes: Sequence[Index]) -> list[str]:
    """Return what decides on the split of each image: its bytes, and a number for a copy."""
    counts: Counter[str] = Counter()
    keys = []
    for index in indexes:
        for digest in index.digests:
            key = digest.tobytes().hex()
            keys.append(f"{key} {counts[key]}" if counts[key] else key)
            counts[key] += 1
    return keys


# ---- size, colour and copies ------------------------------------------------------------------


def _shape(
    indexes: Sequence[Index],
    image_size: int | tuple[int, int] | None,
    channels: int | None,
    notes: list[str],
) -> tuple[int, int, int]:
    """Return height, width and channels: as asked, or chosen from the index, which is noted."""
    if channels is None:
        channels = 3 if any(index.coloured.any() for index in indexes) else 1
        if channels == 1:
            notes.append("channels: 1, all images are grey")
    if image_size is None:
        return *suitable_size(_sizes(indexes), notes), channels
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    return height, width, channels


def _sizes(indexes: Sequence[Index]) -> list[tuple[int, int]]:
    """Return the height and width of some images at even distances."""
    every = [
        (int(height), int(width))
        for index in indexes
        for height, width in zip(index.heights, index.widths, strict=True)
    ]
    return list(spread(every, SAMPLE))


def _with_white(indexes: Sequence[Index], resize: Resize, notes: list[str]) -> Resize:
    """Return how to decode, with the white of pictures of more than 8 bits, which is noted."""
    whites = np.concatenate([index.whites for index in indexes])
    modes = [mode for index in indexes for mode in index.modes]
    deep = np.flatnonzero(~np.isnan(whites))
    kinds = {modes[i] == "F" for i in deep.tolist()}
    if resize.white is not None or len(kinds) != 1:
        return resize
    white = float(whites[deep].max())
    notes.append(
        f"pictures of more than 8 bits: {white:,.6g} is white, as nearly all of their values "
        "are below"
    )
    return resize._replace(white=white)


def _looks(shards: Sequence[Shard], indexes: Sequence[Index]) -> Looks:
    """Return what images show, by their indexes: exact copies have equal bytes."""
    digests = np.concatenate([index.digests for index in indexes])
    side = min(suitable_size(_sizes(indexes), []))
    searched, note = near_search(len(digests), side)
    if not searched:
        return Looks(digests, None, note)

    found = [thumbs_of(shard, index).thumbs for shard, index in zip(shards, indexes, strict=True)]
    thumbs = [each for each in found if each is not None]
    if len(thumbs) < len(found):
        note = "near-duplicates are not looked for: shards have no .thumbs beside their .index"
        return Looks(digests, None, note)
    return Looks(digests, np.concatenate(thumbs)[..., None], "")
