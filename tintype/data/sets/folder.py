"""A folder of photos, given by its path: ROOT/CLASS/* or ROOT/{train,val,test}/CLASS/*."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from tintype.data import cache
from tintype.data.cache import Cached, are_small, cached_pixels, is_cached
from tintype.data.contents import contents_digest
from tintype.data.decode import (
    Header,
    Resize,
    Shape,
    Unreadable,
    Walk,
    as_resize,
    decode_each,
    open_picture,
    quiet_pillow,
    read_header,
    shows_colour,
    walk_images,
)
from tintype.data.duplicates import THUMBNAIL, near_search, thumbnail
from tintype.data.layout import listed, read_layout, read_splits, safe
from tintype.data.levels import white_of_set
from tintype.data.source import Glance, Images, Looks
from tintype.data.targets import CLASSES, TargetKind
from tintype.errors import UserError
from tintype.progress import Progress

TARGETS = ("class", "numbers", "labels", "none")
T = TypeVar("T")

# Pictures that are not read, by their ending; a folder of nothing else is refused for it.
UNREAD = {
    ".jxl": "JPEG XL",
    **dict.fromkeys((".jp2", ".j2k", ".j2c", ".jpf", ".jpx", ".jpm"), "JPEG 2000"),
    ".jxr": "JPEG XR",
    ".psd": "Photoshop",
    ".svg": "vector graphics",
    ".eps": "vector graphics",
    ".dcm": "DICOM",
    ".exr": "OpenEXR",
    ".hdr": "Radiance",
    ".tga": "Targa",
    ".pcx": "PCX",
    ".ico": "icon",
    ".fits": "FITS",
    **dict.fromkeys(
        (".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf"), "raw photo of a camera"
    ),
}

DEEP_SAMPLE = 100  # photos of which the white of more than 8 bits is learned
DIGEST = 16  # bytes that stand for the pixels of a photo
LOOKS_VERSION = 1  # raise it when `_looks` changes what a photo gives
GLANCED = 50  # photos whose headers a first look reads
SAMPLE = 500  # photos looked at to choose size and channels


class Photo(NamedTuple):
    """One image file before it is opened; `cells` hold its target as text, `further` what else is
    known of it, by the columns of `Found`.
    """

    path: str
    name: str
    cells: tuple[str, ...]
    split: str = ""
    group: str = ""
    weight: float | None = None
    further: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The target as one text."""
        return ", ".join(self.cells)


@dataclass
class Found:
    """The photos of a data set, with what was noticed while they were listed."""

    photos: list[Photo] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)


def load(
    name: str,
    *,
    data_root: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    resize: str | Resize = "crop",
    progress: Progress | None = None,
    target: TargetKind = CLASSES,
) -> Images:
    """Return every photo of a folder; `name` is its path. Classes are the folders' names, sorted.

    Raises:
        UserError: no photo, targets that cannot be read or learned, or no file that can be read.
    """
    root = Path(name).expanduser()
    if not root.is_dir():
        raise UserError(
            f"'{name}' is not a folder. Give the path of a folder with one folder for each class."
        )

    return read_photos(
        find_photos(root, target),
        str(root),
        image_size=image_size,
        channels=channels,
        resize=resize,
        progress=progress,
        target=target,
    )


def glance(
    name: str, *, data_root: str | None = None, target: TargetKind = CLASSES
) -> Glance | None:
    """Return the number of photos in a folder and their usual size; None if none can be read."""
    return glance_of(find_photos(Path(name).expanduser(), target))


def glance_of(found: Found) -> Glance | None:
    """Return the number of photos and their usual size, by the headers of some of them."""
    sides = []
    for photo in spread(found.photos, GLANCED):
        with contextlib.suppress(Unreadable, OSError, ValueError):
            header = read_header(photo.path)
            sides.append(min(header.width, header.height))
    return Glance(len(found.photos), int(np.median(sides))) if sides else None


def find_photos(root: Path, target: TargetKind = CLASSES) -> Found:
    """List the photos of ROOT/CLASS/* or ROOT/{train,val,test}/CLASS/*, sorted, numbers by value.

    Where the folder of a photo is not its target, photos without class folders are taken as well.

    Raises:
        UserError: the folder holds no photo in class folders, or one that does not say its target.
    """
    walk = walk_images(root)
    if not walk.folders and not walk.files and walk.problems:
        raise UserError(f"{root}: {walk.problems[0][1]}.")

    if target.folders == "ignored":  # any layout will do
        layout = read_splits(root, walk)
    else:
        layout = read_layout(root, walk, one_class=target.folders == "welcome")

    found = Found(
        notes=list(layout.notes), skipped=[(safe(name), reason) for name, reason in walk.problems]
    )

    for place in layout.places:
        for file in place.folder.all_photos():
            name = safe(file)
            cells = target.of_path(place.label, name)
            found.photos.append(Photo(str(root / file), name, cells, place.split))

    found.notes += _other_files(walk.others)
    if not found.photos:
        raise UserError(_no_photos(root, walk, target))

    found.notes += target.remarks(found.photos)
    return found


def read_photos(
    found: Found,
    source: str,
    *,
    image_size: int | tuple[int, int] | None,
    channels: int | None,
    resize: str | Resize,
    progress: Progress | None = None,
    target: TargetKind = CLASSES,
) -> Images:
    """Decode photos through the cache and return those that could be read, in the order given.

    Raises:
        UserError: nothing can be read, or nothing can be learned from the targets that are left.
    """
    photos, states, skipped = _regular(found.photos, found.skipped)
    notes = list(found.notes)
    if not photos:
        raise UserError(_all_broken(source, skipped))

    height, width, channels = _choose_shape(photos, image_size, channels, notes, source)
    resize = _with_white(photos, as_resize(resize), notes)
    contents = _contents(photos, states, source, progress)
    looker = _Looker(photos, states, contents, Shape(height, width, channels, resize), source)
    cached = cached_pixels(
        _key(contents, height, width, channels, resize),
        len(photos),
        (height, width, channels),
        looker.pixels,
        source=source,
        progress=progress,
        unchanged=lambda: _changed(photos, states, contents, source),
        small=are_small(states),
    )
    notes += cached.notes

    if cached.skipped:
        broken = dict(cached.skipped)
        skipped += [(photos[i].name, reason) for i, reason in cached.skipped]
        photos = [photo for i, photo in enumerate(photos) if i not in broken]

    if not photos:
        raise UserError(_all_broken(source, skipped))
    kind, targets = target.collect(photos, found.photos, source, notes)

    return Images(
        pixels=cached.pixels,
        targets=targets,
        names=[photo.name for photo in photos],
        target=kind,
        split=np.array([p.split for p in photos]) if any(p.split for p in photos) else None,
        groups=np.array([p.group for p in photos]) if any(p.group for p in photos) else None,
        weights=_weights(photos),
        columns={
            column: [photo.further[k] for photo in photos] for k, column in enumerate(found.columns)
        },
        notes=tuple(notes),
        skipped=tuple(skipped),
        fingerprint=cached.fingerprint,
        on_disk=True,
        white=resize.white,
        paths=[photo.path for photo in photos],
        looks=lambda: looker.looks(photos, progress),
    )


def _weights(photos: Sequence[Photo]) -> np.ndarray | None:
    if all(photo.weight is None for photo in photos):
        return None
    return np.array([photo.weight for photo in photos], np.float32)


class _Look(NamedTuple):
    """How photos are looked at: the shape that suits them, and whether near-copies are sought.

    `note` says why they are not, if that is not plain.
    """

    shape: Shape
    searched: bool
    note: str

    @classmethod
    def that_suits(cls, photos: Sequence[Photo], white: float | None, source: str) -> _Look:
        height, width, channels = _choose_shape(photos, None, None, [], source)
        searched, note = near_search(len(photos), min(height, width))
        return cls(Shape(height, width, channels, Resize(white=white)), searched, note)

    @property
    def num_bytes(self) -> int:
        """The bytes of a row: the digest of the pixels, and the thumbnail."""
        return DIGEST + (THUMBNAIL * THUMBNAIL * self.shape.channels if self.searched else 0)

    def key(self, contents: str) -> str:
        height, width, channels, resize = self.shape
        purpose = f"looks {LOOKS_VERSION} {self.searched} {resize}"
        return _key(contents, height, width, channels, purpose)

    def row(self, pixels: np.ndarray) -> np.ndarray:
        """Return what is kept of a photo, (1, num_bytes, 1)."""
        small = thumbnail(pixels, THUMBNAIL) if self.searched else pixels[:0]
        row = np.concatenate([_digest(pixels.data), small.reshape(-1)])
        return row.reshape(1, self.num_bytes, 1)


class _Looker:
    """Reads what photos show, in the pass that reads their pixels where there is one.

    Args:
        photos: the files, with their `states` and a digest of their `contents`.
        shape: what the pixels are brought to.
        source: what the user calls these photos.
    """

    def __init__(
        self,
        photos: Sequence[Photo],
        states: Sequence[os.stat_result],
        contents: str,
        shape: Shape,
        source: str,
    ) -> None:
        self.photos = photos
        self.states = states
        self.contents = contents
        self.shape = shape
        self.source = source

        # of all photos, as a guess: those that cannot be read may have had a part in it
        self._look = _Look.that_suits(photos, shape.resize.white, source)
        self._beside = self._look.shape != shape and not is_cached(self._look.key(contents))
        self._rows: dict[int, np.ndarray] = {}

    def pixels(self, i: int) -> np.ndarray:
        """Return the pixels of a photo, and keep what it shows until `looks` is called.

        Raises:
            Unreadable: as `decode` does.
        """
        if not self._beside:
            return decode_each(self.photos[i].path, [self.shape])[0]
        pixels, seen = decode_each(self.photos[i].path, [self.shape, self._look.shape])
        self._rows[i] = self._look.row(seen)
        return pixels

    def looks(self, readable: Sequence[Photo], progress: Progress | None) -> Looks | None:
        """Return what the readable photos show at the shape that suits them.

        It is None where that is the shape of the pixels.
        """
        look = self._look
        if len(readable) < len(self.photos):
            look = _Look.that_suits(readable, self.shape.resize.white, self.source)
        if look.shape == self.shape:
            return None
        rows = self._rows if look == self._look else {}
        self._rows = {}

        def read(i: int) -> np.ndarray:
            if i in rows:
                return rows[i]
            try:
                return look.row(decode_each(self.photos[i].path, [look.shape])[0])
            # one that is skipped, or gone since its pixels were read: like no other
            except Unreadable:
                name = self.photos[i].name.encode("utf-8", "surrogateescape")
                return np.resize(_digest(name), (1, look.num_bytes, 1))

        cached = cached_pixels(
            look.key(self.contents),
            len(self.photos),
            (1, look.num_bytes, 1),
            read,
            source=f"{self.source} (near-copies)",
            progress=progress,
            unchanged=lambda: _changed(self.photos, self.states, self.contents, self.source),
        )

        names = {photo.name for photo in readable}
        chosen = [i for i, photo in enumerate(self.photos) if photo.name in names]
        values = np.asarray(cached.pixels)[chosen, 0, :, 0]
        thumbs = None
        if look.searched:
            channels = look.shape.channels
            thumbs = values[:, DIGEST:].reshape(len(chosen), THUMBNAIL, THUMBNAIL, channels)
        return Looks(np.ascontiguousarray(values[:, :DIGEST]), thumbs, look.note)


def _digest(content: bytes | memoryview) -> np.ndarray:
    return np.frombuffer(hashlib.blake2b(content, digest_size=DIGEST).digest(), np.uint8)


def _with_white(photos: Sequence[Photo], resize: Resize, notes: list[str]) -> Resize:
    """Return how to decode, with the white of pictures of more than 8 bits, which is noted."""
    if resize.white is not None:
        return resize
    with quiet_pillow():
        white = white_of_set([photo.path for photo in spread(photos, DEEP_SAMPLE)], open_picture)
    if white is not None:
        notes.append(
            "pictures of more than 8 bits: "
            f"{white:,.6g} is white, as nearly all of their values are below"
        )
    return resize._replace(white=white)


def read_each(
    photos: Sequence[Photo],
    shape: tuple[int, int, int],
    read: Callable[[str], np.ndarray],
    *,
    purpose: str,
    source: str,
    progress: Progress | None = None,
) -> tuple[list[Photo], Cached, list[tuple[str, str]]]:
    """Return what `read(path)` gives for each readable photo, through the cache.

    Returns the photos, their arrays and the failures.

    Args:
        shape: (H, W, C) uint8 of what `read` returns.
        read: raises Unreadable for a file that gives no picture.
        purpose: names the reader and its version in the key of the cache.
    """
    regular, states, skipped = _regular(photos, [])
    contents = _contents(regular, states, source, progress)
    cached = cached_pixels(
        _key(contents, *shape, purpose),
        len(regular),
        shape,
        lambda i: read(regular[i].path),
        source=source,
        progress=progress,
        unchanged=lambda: _changed(regular, states, contents, source),
    )
    broken = dict(cached.skipped)
    skipped += [(regular[i].name, reason) for i, reason in broken.items()]

    return [photo for i, photo in enumerate(regular) if i not in broken], cached, skipped


def _other_files(others: Counter[str]) -> list[str]:
    """Return lines on the files that are passed over, unread kinds of pictures among them."""
    notes = []
    unread = {extension: count for extension, count in others.items() if extension in UNREAD}
    if unread:
        notes.append(
            f"pictures of a kind that is not read are passed over: {_unread(unread)}; "
            "convert them to PNG"
        )

    rest = {extension: count for extension, count in others.items() if extension not in UNREAD}
    if rest:
        kinds = ", ".join(f"{count:,} {extension}" for extension, count in sorted(rest.items()))
        notes.append(f"files that are no images are passed over: {kinds}")
    return notes


def _unread(counts: Mapping[str, int]) -> str:
    return ", ".join(
        f"{count:,} {extension} ({UNREAD[extension]})"
        for extension, count in sorted(counts.items())
    )


def _regular(
    photos: Sequence[Photo], skipped: Sequence[tuple[str, str]]
) -> tuple[list[Photo], list[os.stat_result], list[tuple[str, str]]]:
    """Return the photos that are ordinary files, their states, and all that is skipped."""
    kept = []
    states = []
    skipped = list(skipped)
    for photo in photos:
        try:
            state = os.stat(photo.path)
        # a name that no file can have: with NUL in it, or too long
        except (OSError, ValueError) as error:
            skipped.append(
                (photo.name, f"cannot be read: {getattr(error, 'strerror', None) or error}")
            )
            continue
        if not stat.S_ISREG(state.st_mode):  # reading a pipe would wait for ever
            skipped.append((photo.name, "not a regular file"))
            continue
        kept.append(photo)
        states.append(state)

    return kept, states, skipped


def _contents(
    photos: Sequence[Photo],
    states: Sequence[os.stat_result],
    source: str,
    progress: Progress | None = None,
) -> str:
    """Return a digest of the photos' names in the data set and of all their bytes.

    The folder may move.
    """
    paths = [photo.path for photo in photos]
    names = [photo.name for photo in photos]
    return contents_digest(paths, names, states, source=source, progress=progress)


def _key(
    contents: str, height: int | None, width: int | None, channels: int, resize: str | Resize
) -> str:
    """Return a hash of all that decides on the pixels: the files, and the shape asked for."""
    text = f"{cache.VERSION} {height} {width} {channels} {resize}\n{contents}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def spread(photos: Sequence[T], most: int) -> Sequence[T]:
    """Return at most `most` photos at even distances, the same ones every time."""
    if len(photos) <= most:
        return photos
    return [photos[i] for i in np.linspace(0, len(photos) - 1, most).astype(int)]


def _changed(
    photos: Sequence[Photo], before: Sequence[os.stat_result], contents: str, source: str
) -> str:
    """Return a note on the photos that changed while they were read, or nothing.

    A new link to a file or another owner changes its state as well, so what the files hold decides.
    """
    changed = []
    states = []
    for photo, state in zip(photos, before, strict=True):
        try:
            now = os.stat(photo.path)
        except OSError:
            changed.append(photo.name)
            continue
        states.append(now)
        if (now.st_size, now.st_mtime_ns, now.st_ctime_ns) != (
            state.st_size,
            state.st_mtime_ns,
            state.st_ctime_ns,
        ):
            changed.append(photo.name)

    same = len(states) == len(photos) and (
        not changed or _contents(photos, states, source) == contents
    )
    if same:
        return ""
    return (
        f"{len(changed)} photos changed while they were read ({listed(changed)}); "
        "the next run reads all again"
    )


def _choose_shape(
    photos: Sequence[Photo],
    image_size: int | tuple[int, int] | None,
    channels: int | None,
    notes: list[str],
    source: str,
) -> tuple[int, int, int]:
    """Return height, width and channels: as asked, or chosen from a sample, which is noted."""
    if image_size is not None and channels is not None:
        return *_pair(image_size), channels
    headers: list[tuple[Photo, Header]] = []

    reason = ""
    for photo in spread(photos, SAMPLE):
        try:
            headers.append((photo, read_header(photo.path)))
        except Unreadable as error:
            reason = reason or str(error)

    if not headers:
        raise UserError(
            _all_broken(source, [(photos[0].name, reason)], len(spread(photos, SAMPLE)))
        )
    if channels is None:
        channels = 1 if _all_grey(headers) else 3
        if channels == 1:
            notes.append(f"channels: 1, all of {len(headers):,} images looked at are grey")

    if image_size is not None:
        return *_pair(image_size), channels
    found = suitable_size([(header.height, header.width) for _, header in headers], notes)
    return *found, channels


def suitable_size(sizes: Sequence[tuple[int, int]], notes: list[str]) -> tuple[int, int]:
    """Return the height and width that suit pictures of these sizes; the choice is noted."""
    height, width = sizes[0]
    if len(set(sizes)) == 1 and max(height, width) <= 64:
        notes.append(f"image size: {height} x {width}, as all of {len(sizes):,} images looked at")
        return height, width

    median = int(np.median([min(size) for size in sizes]))
    side = min(max(median // 32 * 32, 32), 128)
    notes.append(
        f"image size: {side} x {side}, chosen for a median short side of {median} pixels; "
        "--image-size sets another"
    )
    return side, side


def _pair(image_size: int | tuple[int, int]) -> tuple[int, int]:
    return (
        (image_size, image_size) if isinstance(image_size, int) else (image_size[0], image_size[1])
    )


def _all_grey(headers: Sequence[tuple[Photo, Header]]) -> bool:
    """Return whether all pictures are grey, in colour files too."""
    for photo, header in headers:
        if header.grey:
            continue
        try:
            if shows_colour(photo.path):
                return False
        except Unreadable:
            continue
    return True


def _no_photos(root: Path, walk: Walk, target: TargetKind) -> str:
    shape = target.expected_folder
    unread = {extension: count for extension, count in walk.others.items() if extension in UNREAD}

    loose = sum("/" not in file for file in walk.files)
    if loose:
        lists = [
            root / name for name in ("metadata.csv", "metadata.jsonl") if (root / name).is_file()
        ]
        heads = ",".join(["path", *(usual for usual, *_ in target.columns)])
        also = (
            f"Its own list does: tintype train {lists[0]}"
            if lists
            else f"A .csv file with {heads} does as well."
        )
        return f"{root} holds {loose} images but no {target.folder_word} folders. {shape} {also}"

    if unread:
        return (
            f"{root} holds only pictures of a kind that is not read: {_unread(unread)}. "
            "Convert them to PNG or JPEG."
        )
    if walk.own:
        return f"{root} holds no photos, only what tintype made ({listed(walk.own)}). {shape}"

    folders = [name for name in walk.folders if "/" not in name]
    if folders:
        return (
            f"no images in the {len(folders)} folders of {root} "
            f"({listed(sorted(folders))}). {shape}"
        )

    if walk.others:
        kinds = ", ".join(_counted(kind, count) for kind, count in walk.others.most_common(3))
        return f"{root} holds no image; it has {kinds}. {shape}"

    return f"{root} is empty. {shape}"


def _counted(extension: str, count: int) -> str:
    """Return "3 .txt files", or "1 file without an extension"."""
    files = "file" if count == 1 else "files"
    return (
        f"{count:,} {extension} {files}"
        if extension.startswith(".")
        else f"{count:,} {files} without an extension"
    )


def _all_broken(
    source: str, skipped: Sequence[tuple[str, str]], num_images: int | None = None
) -> str:
    name, reason = skipped[0]
    return (
        f"none of the {num_images or len(skipped):,} images of {source} can be read. "
        f"The first: {name}: {reason}."
    )
