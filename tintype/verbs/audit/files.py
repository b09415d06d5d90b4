"""Look at every image of a data set once: its facts, a thumbnail, and why it cannot be read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tintype import plugins
from tintype.data import locate, memory
from tintype.data.decode import FORMATS, Unreadable, decode, quiet_pillow, read_header
from tintype.data.duplicates import THUMBNAIL, thumbnails
from tintype.data.opening import shadowed
from tintype.data.sets.folder import Found, Photo, read_each, spread
from tintype.data.sets.shards import Overview
from tintype.data.source import Images
from tintype.data.taken import taken
from tintype.data.targets import Classes, TargetKind
from tintype.errors import UserError
from tintype.files.bounded import regular_only
from tintype.progress import Progress

VERSION = 2  # raise it when `_read` changes what a file gives
# sets whose images are mostly smaller get thumbnails of 32 pixels; nothing is said of their
# sharpness
TINY = 48
MOST_STRATA = 10  # parts into which numbers are divided to compare them with names
LOOKED_AT = 256  # longest side at which brightness and sharpness are measured

# What is known of one image. It travels with the thumbnail through the cache, in a row of its own
# below the picture.
FACTS = np.dtype(
    [
        ("digest", "V16"),  # of the file's bytes, or of the pixels where there is no file
        ("num_bytes", "<u8"),
        ("width", "<u4"),
        ("height", "<u4"),
        ("format", "S8"),
        ("mode", "S8"),
        ("animated", "?"),
        ("brightness", "<f4"),  # mean grey value, 0..255
        ("spread", "<f4"),  # largest standard deviation among the channels, 0..128
        ("blur", "<f4"),  # 0 sharp .. 1 blurred; NaN where the picture is too small to say
        ("taken", "<f8"),  # seconds, as data.taken reads them; NaN where the photo does not say
        ("camera", "V8"),  # a digest of its name
    ]
)


@dataclass
class Inspected:
    """Every image of a data set that could be read, and every file that could not.

    `split` holds "train", "val", "test" or "" (free), `groups` what the data keeps together (""
    stands alone). `picture(i, side)` gives an image at most `side` pixels long.
    """

    name: str
    names: list[str]
    targets: np.ndarray  # (N, ...) as the kind of target says
    target: TargetKind
    split: np.ndarray  # (N,) str
    groups: np.ndarray  # (N,) str
    thumbs: np.ndarray  # (N, S, S, C) uint8
    facts: np.ndarray  # (N,) FACTS
    picture: Callable[[int, int], Image.Image]
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    photos: list[Photo] | None = None  # None where the images are no files
    pixels: np.ndarray | None = None  # (N, H, W, C) uint8 where the images are no files
    streamed: bool = False  # known by small pictures alone; nothing further is read of them

    def __len__(self) -> int:
        return len(self.names)

    @property
    def strata(self) -> np.ndarray:
        """A number (N,) int64 for each image, equal where the targets are alike."""
        return self.target.strata(self.targets, MOST_STRATA)

    def differ(self, rows: np.ndarray) -> bool:
        """Tell whether the images at some positions have other targets."""
        return self.target.differing(self.targets)(rows)

    @property
    def short_side(self) -> np.ndarray:
        return np.minimum(self.facts["width"], self.facts["height"]).astype(np.int64)


def inspect(data: str, data_root: str | None = None, progress: Progress | None = None) -> Inspected:
    """Look at every image of a data set's name, a folder or a CSV file (as `open_data` takes them).

    Photos are decoded in parallel to a thumbnail and some figures, which are cached. Memory stays
    bounded.

    Raises:
        UserError: there is no such data, or it holds no image.
    """
    module, name = locate(data)
    path = Path(data).expanduser()
    if (listed := memory.listed_in(data, data_root)) is not None:
        return _inspect_photos(listed, name, name, progress)
    if module is plugins.find("data", "folder"):
        return _inspect_photos(module.find_photos(path), name, data, progress)
    if module is plugins.find("data", "csv-file"):
        root = Path(data_root).expanduser() if data_root else None
        return _inspect_photos(module.find_rows(path, root), name, data, progress)
    if module is plugins.find("data", "shards"):
        overview = module.look_over(data, Classes(single=True), progress)
        return _inspect_shards(overview, name)
    inspected = _inspect_arrays(module.load(data, data_root=data_root, progress=progress), name)
    inspected.notes[:0] = shadowed(data)
    return inspected


def _inspect_photos(found: Found, name: str, source: str, progress: Progress | None) -> Inspected:
    side = THUMBNAIL if _median_side(found.photos) >= TINY else THUMBNAIL // 2
    rows = -(-FACTS.itemsize // (side * 3))
    photos, cached, failures = read_each(
        found.photos,
        (side + rows, side, 3),
        lambda path: _read(path, side, rows),
        purpose=f"audit {VERSION}",
        source=f"{source} (audit)",
        progress=progress,
    )
    if not photos:
        first, reason = (failures or found.skipped)[0]
        raise UserError(
            f"none of the {len(failures):,} images of {source} can be read. "
            f"The first: {first}: {reason}."
        )

    # of every photo that is listed, so that a class without a readable one is known as well
    target, targets = Classes(single=True).collect(found.photos, found.photos, source, [])
    position = {photo.name: i for i, photo in enumerate(found.photos)}
    return Inspected(
        name=name,
        names=[photo.name for photo in photos],
        targets=targets[[position[photo.name] for photo in photos]],
        target=target,
        split=np.array([photo.split for photo in photos], "<U5"),
        groups=np.array([photo.group for photo in photos]),
        thumbs=cached.pixels[:, :side],
        facts=_unpacked(cached.pixels[:, side:]),
        picture=lambda i, side: Image.fromarray(reduced(photos[i].path, side)),
        skipped=[*found.skipped, *failures],
        notes=[*found.notes, *cached.notes],
        photos=photos,
    )


def _inspect_shards(found: Overview, name: str) -> Inspected:
    """Look at images in shards by what their index says, without reading the shards."""
    index = found.index
    assert index.thumbs is not None
    facts = np.zeros(len(index), FACTS)
    facts["digest"] = np.ascontiguousarray(index.digests).view("V16")[:, 0]
    facts["num_bytes"], facts["width"], facts["height"] = index.sizes, index.widths, index.heights
    facts["format"] = b"shards"
    facts["mode"] = np.array([mode.encode()[:8] for mode in index.modes], "S8")
    facts["blur"] = facts["taken"] = np.nan
    grey = index.thumbs.reshape(len(index), -1).astype(np.float32)
    facts["brightness"], facts["spread"] = grey.mean(1), grey.std(1)

    target, targets = Classes(single=True).collect(found.photos, found.photos, name, [])
    notes = [
        *found.notes,
        "shards: judged by their index (grey pictures of 32 pixels). Not looked at: sharpness, "
        "colour, times, animations, and copies that were cropped, turned or painted over",
    ]
    if found.without_thumbs:
        notes.append(
            f"{found.without_thumbs:,} images have no .thumbs beside the .index of their shard: "
            "neither near-copies nor brightness nor labels are judged of them"
        )
    return Inspected(
        name=name,
        names=index.names,
        targets=targets,
        target=target,
        split=np.array([photo.split for photo in found.photos], "<U5"),
        groups=np.array([photo.group for photo in found.photos]),
        thumbs=index.thumbs[..., None],
        facts=facts,
        picture=lambda i, side: _from_bytes(found.read(i), side),
        skipped=found.skipped,
        notes=notes,
        streamed=True,
    )


def _from_bytes(content: bytes, side: int) -> Image.Image:
    image = Image.fromarray(decode(content, height=None, width=None, channels=3))
    image.thumbnail((side, side))
    return image


def _median_side(photos: list[Photo]) -> float:
    sides = []
    for photo in spread(photos, 100):
        try:
            header = read_header(photo.path)
            sides.append(min(header.width, header.height))
        except Unreadable:
            continue
    return float(np.median(sides)) if sides else THUMBNAIL


def _read(path: str, side: int, rows: int) -> np.ndarray:
    """Return (side + rows, side, 3) uint8: the thumbnail, and below it the facts of the file."""
    facts = np.zeros(1, FACTS)
    header = read_header(path)
    scale = min(1.0, LOOKED_AT / max(header.width, header.height))
    height, width = max(1, round(header.height * scale)), max(1, round(header.width * scale))

    picture = decode(path, height=height, width=width, channels=3, resize="squash")
    with Image.open(path, formats=FORMATS) as image:
        facts["format"], facts["mode"] = (image.format or "").encode(), image.mode.encode()
        facts["animated"] = getattr(image, "is_animated", False)
        facts["taken"], facts["camera"] = _taken(image)

    facts["digest"], facts["num_bytes"] = _file_digest(path)
    facts["width"], facts["height"] = header.width, header.height
    _measure(facts, picture)
    small = Image.fromarray(picture).resize((side, side), Image.Resampling.BILINEAR)
    below = np.zeros(rows * side * 3, np.uint8)
    below[: FACTS.itemsize] = facts.view(np.uint8)

    return np.concatenate([np.asarray(small), below.reshape(rows, side, 3)])


def _taken(image: Image.Image) -> tuple[float, bytes]:
    with quiet_pillow():
        found = taken(image)
    if found is None:
        return float("nan"), bytes(8)
    return found.seconds, hashlib.blake2b(
        found.camera.encode("utf-8", "replace"), digest_size=8
    ).digest()


def _file_digest(path: str) -> tuple[bytes, int]:
    digest, num_bytes = hashlib.blake2b(digest_size=16), 0
    with open(path, "rb", opener=regular_only) as file:
        while block := file.read(1 << 20):
            digest.update(block)
            num_bytes += len(block)
    return digest.digest(), num_bytes


def _unpacked(below: np.ndarray) -> np.ndarray:
    flat = np.ascontiguousarray(below.reshape(len(below), -1)[:, : FACTS.itemsize])
    return flat.view(FACTS)[:, 0]


def _measure(facts: np.ndarray, picture: np.ndarray) -> None:
    """Fill in brightness, spread and blur of one picture (H, W, C)."""
    values = picture.astype(np.float32)
    grey = values.mean(axis=2)
    facts["brightness"], facts["spread"] = grey.mean(), values.std(axis=(0, 1)).max()
    facts["blur"] = blur(grey) if min(grey.shape) >= TINY else np.nan


def blur(grey: np.ndarray, size: int = 11) -> float:
    """Return how blurred a grey picture (H, W) is: 0 for sharp, towards 1 for blurred.

    The share of its variation between neighbours that a further blur of `size` pixels leaves (Crete
    et al. 2007, "The blur effect"); contrast and brightness do not count.
    """
    from scipy.ndimage import uniform_filter1d

    grey = np.asarray(grey, np.float32)
    shares = []
    for axis in (0, 1):
        variation = np.abs(np.diff(grey, axis=axis))
        lost = variation - np.abs(np.diff(uniform_filter1d(grey, size, axis=axis), axis=axis))
        total = float(variation.sum())
        shares.append(1 - float(lost.clip(0).sum()) / total if total > 0 else 1.0)
    return max(shares)


def in_colour(thumbs: np.ndarray) -> bool:
    """Return whether any of a sample of thumbnails (N, S, S, C) uint8 is in colour."""
    return bool((np.ptp(thumbs[:: max(1, len(thumbs) // 500)], axis=3) > 8).any())


def reduced(path: str, side: int) -> np.ndarray:
    """Return a photo (H, W, 3) uint8, at most `side` pixels long.

    Raises:
        Unreadable: it changed since it was looked at.
    """
    header = read_header(path)
    scale = min(1.0, side / max(header.width, header.height))
    height, width = max(1, round(header.height * scale)), max(1, round(header.width * scale))
    return decode(path, height=height, width=width, channels=3, resize="squash")


def _inspect_arrays(images: Images, name: str) -> Inspected:
    """Look at images that are no files (or are files in a layout of their own): their pixels are
    all there is.
    """
    pixels = images.array
    num_images, height, width, channels = pixels.shape
    facts = np.zeros(num_images, FACTS)
    facts["width"], facts["height"], facts["num_bytes"] = width, height, height * width * channels
    facts["format"], facts["mode"] = b"pixels", b"L" if channels == 1 else b"RGB"

    facts["taken"] = np.nan
    for i in range(num_images):
        facts["digest"][i] = hashlib.blake2b(
            np.ascontiguousarray(pixels[i]).data, digest_size=16
        ).digest()
        _measure(facts[i : i + 1], pixels[i])

    empty = np.full(num_images, "", "<U5")
    side = THUMBNAIL if min(height, width) >= TINY else THUMBNAIL // 2
    return Inspected(
        name=name,
        names=list(images.names),
        targets=images.targets,
        target=images.target,
        split=empty if images.split is None else images.split,
        groups=empty if images.groups is None else images.groups,
        thumbs=thumbnails(pixels, side),
        facts=facts,
        picture=lambda i, side: _from_pixels(pixels[i], side),
        skipped=list(images.skipped),
        notes=list(images.notes),
        pixels=pixels,
    )


def _from_pixels(pixels: np.ndarray, side: int) -> Image.Image:
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    image.thumbnail((side, side))
    return image


def full_pixels(inspected: Inspected, i: int) -> Any:
    """Return all pixels of one image, (H, W, 3) uint8, or None if it can no longer be read."""
    if inspected.photos is None:
        return None if inspected.pixels is None else inspected.pixels[i]
    try:
        return decode(inspected.photos[i].path, height=None, width=None, channels=3)
    except Unreadable:
        return None


def squashed(inspected: Inspected, side: int, progress: Progress | None = None) -> np.ndarray:
    """Return every picture (N, side, side, 3) uint8, or as it is (N, H, W, C) where there are no
    files.

    Photos are decoded in parallel, once, and cached. One that changed since it was looked at is
    black.
    """
    if inspected.streamed:
        return inspected.thumbs
    if inspected.photos is None:
        assert inspected.pixels is not None
        return inspected.pixels

    photos, cached, _ = read_each(
        inspected.photos,
        (side, side, 3),
        lambda path: decode(path, height=side, width=side, channels=3, resize="squash"),
        purpose="audit pictures",
        source=f"{inspected.name} (pictures)",
        progress=progress,
    )
    if len(photos) == len(inspected):
        return cached.pixels
    position = {name: i for i, name in enumerate(inspected.names)}
    pixels = np.zeros((len(inspected), side, side, 3), np.uint8)
    pixels[[position[photo.name] for photo in photos]] = cached.pixels
    return pixels
