"""Photos for super-resolution: whole ones to measure on, and blocks of them to train on."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

from tintype.data.cache import cache_folder, check_space, writable
from tintype.data.decode import Resize, Unreadable, decode, natural_key, walk_images
from tintype.data.layout import SPLIT_FOLDERS, split_of
from tintype.data.opening import shadowed
from tintype.data.sets.shards import look_over
from tintype.data.sets.torchvision_sets import fetch_pets
from tintype.data.source import Batch, DataSpec, DataSplits, ImageSource
from tintype.data.split import describe_splits, three_splits
from tintype.data.taken import read_taken
from tintype.data.targets import NoTarget
from tintype.errors import UserError, no_data_set, unknown_name
from tintype.files.names import looks_like_path
from tintype.files.shard_names import names_shards
from tintype.files.whole import format_bytes
from tintype.grouping import check_groups, parse_groups, suggest_by_names
from tintype.own_code import is_in_python
from tintype.progress import Progress

TARGETS = ("pictures",)
NAMES = {
    "photos": "Three photographs that come with scikit-learn and Matplotlib; needs no network",
    "t91": "T91 (Yang et al. 2010) to train, Set5 to test; both folders lie in --data-root",
    "oxford-pets": "Oxford-IIIT Pet, 37 breeds, its own splits; downloaded once (0.8 GB)",
}
MEMORY_SHARE = 0.5  # of the free memory may hold photos
MEASURED_OF_TRAINING = 20  # photos; more would only cost time


@dataclass(frozen=True)
class PhotoFile:
    """One photo: `high` (H, W, C) uint8, and its small version `low` (h, w, C) if given.

    `path` is its file, "" where it is not one of the user's.
    """

    name: str
    high: Tensor
    low: Tensor | None = None
    path: str = ""

    def cropped(self, scale: int) -> PhotoFile:
        """Return the photo cropped at right and bottom to multiples of `scale`."""
        height, width = (length // scale * scale for length in self.high.shape[:2])
        return (
            self
            if self.high.shape[:2] == (height, width)
            else replace(self, high=self.high[:height, :width])
        )


class PhotoStore:
    """Pixels of photos: in memory while there is room, then in a temporary file.

    Args:
        room: bytes that may be held in memory.
        source: what the user calls the photos.
    """

    def __init__(self, room: float, source: str) -> None:
        self.room = room
        self.source = source
        self.on_disk = 0  # bytes
        self._file: Any = None
        self._notes: tuple[str, ...] = ()
        self._kept: list[Tensor | tuple[int, tuple[int, ...]]] = []

    def put(self, pixels: np.ndarray) -> int:
        """Keep pixels (H, W, C) uint8 and return their number.

        Raises:
            UserError: the disk is full.
        """
        if pixels.nbytes <= self.room:
            self.room -= pixels.nbytes
            self._kept.append(torch.from_numpy(np.array(pixels)))
        else:
            self._kept.append((self.on_disk, pixels.shape))
            self._write(pixels)
        return len(self._kept) - 1

    def _write(self, pixels: np.ndarray) -> None:
        if self._file is None:
            self._folder, self._notes = writable(cache_folder() / "photos")
            # It is closed at the end.
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
        check_space(self._folder, pixels.nbytes, self.source)
        self._file.write(np.ascontiguousarray(pixels).data)
        self.on_disk += pixels.nbytes

    def tensors(self) -> list[Tensor]:
        """Return all pixels in order, once; those on disk are views of one memory map."""
        whole = None
        if self._file is not None:
            with self._file as file:  # has no name, so that nothing is left when the map is gone
                file.flush()
                whole = torch.from_numpy(np.memmap(file, np.uint8, "r+"))

        taken = []
        for kept in self._kept:
            if isinstance(kept, tuple) and whole is not None:
                start, shape = kept
                kept = whole[start : start + int(np.prod(shape))].view(shape)
            assert isinstance(kept, Tensor)
            taken.append(kept)

        return taken

    def notes(self) -> list[str]:
        """Return lines for the user about where the pixels lie."""
        if not self.on_disk:
            return []
        return [
            f"photos: {format_bytes(self.on_disk)} of pixels are mapped from disk, "
            "since memory has no room",
            *self._notes,
        ]


class WholePhotos(ImageSource):
    """Photos of any size, taken one at a time.

    `targets` of a batch holds the small version if it is given.
    """

    kind = "resident"

    def __init__(self, spec: DataSpec, photos: Sequence[PhotoFile]) -> None:
        self.spec = spec
        self.photos = list(photos)
        self.names = [photo.name for photo in photos]
        self.targets = torch.zeros(len(self.photos), dtype=torch.int64)

    def take(self, index: Tensor) -> Batch:
        photo = self.photos[int(index)]
        low = torch.zeros(1, dtype=torch.int64) if photo.low is None else _batch(photo.low)
        return Batch(_batch(photo.high), low, index)

    def subset(self, index: Tensor | np.ndarray) -> WholePhotos:
        return WholePhotos(self.spec, [self.photos[int(i)] for i in index])

    def whole(self) -> WholePhotos:
        """Return the source itself."""
        return self


class BlockSource(ImageSource):
    """Square blocks of photos, slightly larger than the crops that are drawn from them at random.

    `targets` of a batch holds the blocks of the small versions (N, C, side / scale, side / scale)
    where they are given.
    """

    kind = "resident"

    def __init__(
        self, spec: DataSpec, photos: Sequence[PhotoFile], corners: Tensor, side: int, scale: int
    ) -> None:
        self.spec = spec
        self.photos = list(photos)
        self.corners = corners
        self.side = side
        self.scale = scale
        self.names = [f"{self.photos[p].name} at {top},{left}" for p, top, left in corners.tolist()]
        self.targets = torch.zeros(len(corners), dtype=torch.int64)
        self.paired = self.photos[0].low is not None

    @classmethod
    def cut(cls, spec: DataSpec, photos: Sequence[PhotoFile], crop: int, scale: int) -> BlockSource:
        """Lay a grid over each photo so that every crop of `crop` pixels lies within a block."""
        smallest = min(min(photo.high.shape[:2]) for photo in photos)
        side = min(2 * crop, smallest) // scale * scale
        stride = max(side - crop, crop // 2, scale) // scale * scale
        corners = [
            (number, top, left)
            for number, photo in enumerate(photos)
            for top in _starts(photo.high.shape[0], side, stride, scale)
            for left in _starts(photo.high.shape[1], side, stride, scale)
        ]
        return cls(spec, photos, torch.tensor(corners), side, scale)

    def take(self, index: Tensor) -> Batch:
        corners = self.corners[index.cpu()].tolist()
        high = torch.stack(
            [_cut(self.photos[p].high, top, left, self.side) for p, top, left in corners]
        )
        low = self.targets[index.cpu()]

        if self.paired:
            s = self.scale
            parts = ((self.photos[p].low, top // s, left // s) for p, top, left in corners)
            low = torch.stack(
                [
                    _cut(part, top, left, self.side // s)
                    for part, top, left in parts
                    if part is not None
                ]
            )
            low = low.permute(0, 3, 1, 2)

        return Batch(high.permute(0, 3, 1, 2), low, index)

    def subset(self, index: Tensor | np.ndarray) -> BlockSource:
        return BlockSource(
            self.spec, self.photos, self.corners[torch.as_tensor(index)], self.side, self.scale
        )

    def whole(self) -> WholePhotos:
        """Return some of the photos that the blocks are cut from, evenly spread, to measure on."""
        chosen = np.unique(np.linspace(0, len(self.photos) - 1, MEASURED_OF_TRAINING).astype(int))
        return WholePhotos(self.spec, [self.photos[i].cropped(self.scale) for i in chosen])


def _batch(pixels: Tensor) -> Tensor:
    return pixels.permute(2, 0, 1)[None]


def _cut(pixels: Tensor, top: int, left: int, side: int) -> Tensor:
    return pixels[top : top + side, left : left + side]


def _starts(length: int, side: int, stride: int, scale: int) -> list[int]:
    last = (length - side) // scale * scale
    return sorted({*range(0, last, stride), last})


def open_pairs(
    data: str,
    *,
    data_root: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    resize: str | Resize = "crop",
    val_fraction: float = 0.1,
    test_fraction: float = 0.2,
    split_seed: int = 0,
    groups: str | None = None,
    scale: int = 2,
    patch: int = 96,
    progress: Progress | None = None,
) -> DataSplits:
    """Return photos to train on, as blocks, and whole ones for validation and test.

    Args:
        data: a name (`tintype list data`), shards of photos, or a folder of them: flat, in class
            folders, in train/ val/ test/, or pairs of the same name in hr/ and lr/.
        data_root: a folder that holds the data set's files.
        image_size: bring every photo to this size first; by default they keep their own.
        resize: how: "crop", "squash" or "pad".
        val_fraction: below 1 a fraction of what may be cut, from 1 on a number of photos.
        test_fraction: the same, where the data brings no test split.
        split_seed: another seed gives another membership.
        groups: what belongs together, as crops of one photo do (see
            `tintype.grouping.parse_groups`).
        scale: how many times larger.
        patch: side of what is trained on, in pixels of the large photo.
        progress: called as progress(what, done, total).

    Raises:
        UserError: the data cannot be found or read, photos are too small, or pairs do not fit each
            other.
    """
    _check_sizes(scale, patch)
    photos, given, of_reading, skipped = read_photos(
        data, data_root, image_size, resize, scale, progress
    )
    names = [photo.name for photo in photos]
    known, of_groups = _groups_of(photos, groups, progress)
    together = None if groups is None else [known.get(name, "") for name in names]

    how = {"val_fraction": val_fraction, "test_fraction": test_fraction, "seed": split_seed}
    rows = three_splits(np.zeros(len(photos), np.int64), names, given, together, **how)
    if any(len(rows[split]) == 0 for split in rows):
        raise UserError(
            f"{len(photos)} photos in {data} are too few: "
            "each of training, validation and test needs one."
        )
    large, small = _by_patch([photos[i] for i in rows["train"]], patch, data)
    skipped += [(p.name, f"smaller than the patch of {patch} pixels") for p in small]

    notes = (
        *of_reading,
        *of_groups,
        _counted(photos, rows),
        *describe_splits(given, **how),
        *_skipped_note(skipped),
    )
    fingerprint = _fingerprint(photos, rows, scale, patch)
    spec = DataSpec(
        Path(data).name, 3, patch, patch, NoTarget(), (0.0,) * 3, (1.0,) * 3, fingerprint
    )
    # Two pixels of the small image on each side see beyond a block's edge: they are cut off after
    # it was made small.
    side = patch if large[0].low is not None else patch + 4 * scale
    train = BlockSource.cut(spec, large, side, scale)
    val, test = (
        WholePhotos(spec, [photos[i].cropped(scale) for i in rows[split]])
        for split in ("val", "test")
    )
    return DataSplits(spec, train, val, test, notes, tuple(skipped), groups=known)


def _check_sizes(scale: int, patch: int) -> None:
    """Refuse a scale, or a side of patches, that cannot be."""
    if scale not in (2, 3, 4, 8):
        raise UserError(f"scale is {scale!r}. Expected 2, 3, 4 or 8.")
    if type(patch) is not int or patch < 8 * scale or patch % scale:
        raise UserError(
            f"patch is {patch!r}; expected a multiple of scale {scale}, at least {8 * scale}."
        )


def _groups_of(
    photos: Sequence[PhotoFile], groups: str | None, progress: Progress | None
) -> tuple[dict[str, str], list[str]]:
    """Return the group of photos by their names, and a line on it or on groups to be named."""
    if groups is not None:
        known, note = group_photos(photos, groups, progress)
        return known, [note]
    suggested = suggest_by_names([photo.name for photo in photos], [""] * len(photos))
    return {}, [suggested.line()] if suggested else []


def _by_patch(
    photos: Sequence[PhotoFile], patch: int, data: str
) -> tuple[list[PhotoFile], list[PhotoFile]]:
    """Return the photos that a patch can be cut from, and the others.

    Raises:
        UserError: it can be cut from none.
    """
    large = [photo for photo in photos if min(photo.high.shape[:2]) >= patch]
    if not large:
        raise UserError(
            f"every training photo in {data} is smaller than the patch of {patch} pixels. "
            "Set task.patch lower."
        )
    return large, [photo for photo in photos if min(photo.high.shape[:2]) < patch]


def _counted(photos: Sequence[PhotoFile], rows: Mapping[str, np.ndarray]) -> str:
    """Return a line on how many photos there are and where they went."""
    megapixels = sum(photo.high[:, :, 0].numel() for photo in photos) / 1e6
    counts = ", ".join(
        f"{len(rows[s])} {w}"
        for s, w in (("train", "training"), ("val", "validation"), ("test", "test"))
    )
    return f"{len(photos)} photos, {megapixels:.1f} megapixels: {counts}"


def _skipped_note(skipped: Sequence[tuple[str, str]]) -> list[str]:
    if not skipped:
        return []
    name, reason = skipped[0]
    more = ", ..." if skipped[1:] else ""
    return [f"skipped: {len(skipped)} photos: {name} ({reason}){more}"]


def group_photos(
    photos: Sequence[PhotoFile], groups: str, progress: Progress | None = None
) -> tuple[dict[str, str], str]:
    """Return the group of each photo that is in one, by its name, and a line on them.

    Raises:
        UserError: `groups` cannot be read, or gives no groups.
    """
    grouping = parse_groups(groups)
    names = [photo.name for photo in photos]
    if grouping.pattern is not None:
        found = grouping.of_names(names)
    else:
        found = grouping.of_times(read_taken([photo.path for photo in photos], progress), names)
    note = check_groups(grouping, found, names)
    return {name: group for name, group in zip(names, found, strict=True) if group}, note


def open_whole(data: str, scale: int, split: str | None = None) -> WholePhotos:
    """Return the photos of another set to measure on, all of them or one split.

    Raises:
        UserError: the set cannot be found or read, or holds no photo of the split.
    """
    photos, given, _, _ = read_photos(data, None, None, "crop", scale, None)
    chosen = [
        p.cropped(scale) for p, where in zip(photos, given, strict=True) if split in (None, where)
    ]
    if not chosen:
        raise UserError(f"{data} holds no photo for {split}.")
    spec = DataSpec(Path(data).name, 3, 0, 0, NoTarget(), (0.0,) * 3, (1.0,) * 3, "")
    return WholePhotos(spec, chosen)


Read = tuple[list[PhotoFile], np.ndarray, list[str], list[tuple[str, str]]]


def read_photos(
    data: str,
    data_root: str | None,
    image_size: int | tuple[int, int] | None,
    resize: str | Resize,
    scale: int,
    progress: Progress | None,
) -> Read:
    """Return photos, their given splits ("" is free), notes, and what was skipped and why."""
    notes = shadowed(data, TARGETS[0])
    skipped: list[tuple[str, str]] = []
    in_shards = data not in NAMES and names_shards(data)
    if data == "photos":
        photos, given, more, _ = sample_photos()
        return photos, given, [*notes, *more], skipped

    if data == "oxford-pets":
        listed = _pet_files(data_root, progress)
    elif data == "t91":
        listed = _t91_files(data_root)
    elif in_shards:
        listed = _shard_photos(data, skipped, progress)
    else:
        root = Path(data).expanduser()
        if not root.is_dir():
            if root.is_file():
                raise no_data_set(root)
            if looks_like_path(data):
                raise UserError(f"there is no folder {data}.")
            if is_in_python(data):
                raise UserError(
                    "this task reads photos from files, in their full size. "
                    "Write the images into a folder, and name that."
                )
            raise unknown_name("data set", data, NAMES, hint="A folder of photos does as well.")
        listed = _folder_files(root)

    height, width = (
        (image_size, image_size) if isinstance(image_size, int) else image_size or (None, None)
    )
    read = []
    shelf = PhotoStore(psutil.virtual_memory().available * MEMORY_SHARE, data)
    for number, (name, high, low, split) in enumerate(listed, 1):
        try:
            source = high if isinstance(high, Path) else high()
            pixels = decode(source, height=height, width=width, channels=3, resize=resize)
            if min(pixels.shape[:2]) < 4 * scale:
                raise Unreadable(f"only {pixels.shape[1]} x {pixels.shape[0]} pixels")
            small = None if low is None else decode(low, height=None, width=None, channels=3)
        except Unreadable as reason:
            skipped.append((name, str(reason)))
            continue
        _check_pair(name, pixels.shape, small, scale)
        path = str(high) if isinstance(high, Path) else ""
        read.append(
            (name, shelf.put(pixels), None if small is None else shelf.put(small), split, path)
        )
        if progress:
            progress("reading photos", number, len(listed))

    if not read:
        raise UserError(
            f"no photo in {data} can be read"
            + (f": {skipped[0][0]}, {skipped[0][1]}." if skipped else ".")
        )
    kept = shelf.tensors()
    if in_shards:
        read.sort(key=lambda each: natural_key(each[0]))  # as a folder lists them
    photos = [
        PhotoFile(name, kept[high], None if low is None else kept[low], path).cropped(scale)
        for name, high, low, _, path in read
    ]

    return (
        photos,
        np.array([row[3] for row in read], dtype="<U5"),
        [*notes, *shelf.notes()],
        skipped,
    )


def _tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(pixels))


def _check_pair(name: str, shape: tuple[int, ...], low: np.ndarray | None, scale: int) -> None:
    if low is None:
        return
    (height, width), (h, w) = (length // scale * scale for length in shape[:2]), low.shape[:2]
    if (h * scale, w * scale) != (height, width):
        raise UserError(
            f"the pair {name} does not fit: lr is {w} x {h}, so hr must be {w * scale} x "
            f"{h * scale} for scale {scale}, but it is {width} x {height}."
        )


def sample_photos() -> Read:
    """Return the three photographs that come with the dependencies.

    Two are for training, with a quarter of each kept for validation; the third is the test.
    """
    import matplotlib

    images = resources.files("sklearn.datasets") / "images"
    photos = []
    given = []
    for name in ("china.jpg", "flower.jpg"):
        pixels = _tensor(decode((images / name).read_bytes(), height=None, width=None, channels=3))
        edge = pixels.shape[1] * 3 // 4
        photos += [
            PhotoFile(name, pixels[:, :edge]),
            PhotoFile(f"{name} (right quarter)", pixels[:, edge:]),
        ]
        given += ["train", "val"]
    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    photos.append(PhotoFile(path.name, _tensor(decode(path, height=None, width=None, channels=3))))
    note = (
        "the right quarters of the two training photos are kept for validation; "
        "a third photo is the test"
    )
    return photos, np.array([*given, "test"]), [note], []


# name, large, small, split; a photo that is no file of its own is given by what reads its bytes
Listed = list[tuple[str, Path | Callable[[], bytes], Path | None, str]]


def _shard_photos(data: str, skipped: list[tuple[str, str]], progress: Progress | None) -> Listed:
    """Return the photos of shards in the order in which they lie; note those that are broken."""
    found = look_over(data, NoTarget(), progress)
    skipped += found.skipped
    return [
        (photo.name, partial(found.read, i), None, photo.split)
        for i, photo in enumerate(found.photos)
    ]


def _folder_files(root: Path) -> Listed:
    files = walk_images(root).files
    if not files:
        raise UserError(f"there is no photo in {root}. Expected files such as .png or .jpg.")
    large = {name for name in files if "hr" in Path(name).parts[:-1]}
    small = {name for name in files if "lr" in Path(name).parts[:-1]}
    if large and small:
        return _pairs(root, sorted(large), sorted(small))
    splits = _splits_by_words(files) or {name: _split_of(name) for name in files}
    return [(name, root / name, None, splits[name]) for name in files]


def _splits_by_words(files: Sequence[str]) -> dict[str, str]:
    """Return each file's split from outer folders such as DIV2K_train; empty if they name none."""
    if any(_split_of(name) for name in files):
        return {}
    splits = {name: split_of(name.split("/")[0]) if "/" in name else "" for name in files}
    return splits if {"train"} < set(splits.values()) - {""} else {}


def _split_of(name: str) -> str:
    found = [
        SPLIT_FOLDERS[part.lower()]
        for part in Path(name).parts[:-1]
        if part.lower() in SPLIT_FOLDERS
    ]
    return found[0] if found else ""


def _pairs(root: Path, large: list[str], small: list[str]) -> Listed:
    """Match each file in hr/ with its namesake in lr/, which may add x2, x3 or x4."""
    lows = {
        str(
            Path(*("hr" if part == "lr" else part for part in Path(name).parts)).with_suffix("")
        ): name
        for name in small
    }
    listed: Listed = []
    for name in large:
        stem = str(Path(name).with_suffix(""))
        low = next(
            (
                lows.pop(key)
                for key in (stem, *(f"{stem}x{s}" for s in (2, 3, 4, 8)))
                if key in lows
            ),
            None,
        )
        if low is None:
            raise UserError(f"{root / name} has no partner of the same name in lr/.")
        listed.append((name, root / name, root / low, _split_of(name)))

    if lows:
        raise UserError(
            f"{root / next(iter(lows.values()))} has no partner of the same name in hr/."
        )
    return listed


def _data_root(data_root: str | None, what: str) -> Path:
    given = data_root or os.environ.get("TINTYPE_DATA_ROOT")
    if not given:
        raise UserError(f"{what} is read from a folder: give it by --data-root.")
    return Path(given).expanduser()


def _t91_files(data_root: str | None) -> Listed:
    root = _data_root(data_root, "t91")
    listed: Listed = []
    for folder, split in (("T91", ""), ("Set5", "test")):
        path = next((p for p in (root / folder, root / "sr" / folder) if p.is_dir()), None)
        if path is None:
            raise UserError(
                f"there is no folder {folder} in {root}. "
                "Expected T91/ and Set5/ with the original images."
            )
        listed += [
            (f"{folder}/{name}", path / name, None, split) for name in walk_images(path).files
        ]

    return listed


def _pet_files(data_root: str | None, progress: Progress | None) -> Listed:
    """Return trainval and test of Oxford-IIIT Pet, as torchvision or as folders lay them out.

    They are looked for in `data_root`, else in the folder that TINTYPE_DATA_ROOT names, which may
    hold other sets as well, else in the cache, into which they are downloaded if need be.
    """
    default = os.environ.get("TINTYPE_DATA_ROOT")
    root = Path(data_root or default or "").expanduser()
    official = _official_pets(root) if data_root or default else None
    breeds = root / "pets"

    if official is None and data_root and not root.is_dir():
        raise UserError(
            f"there is no folder {root}. Expected oxford-iiit-pet/ as torchvision lays it out."
        )
    if official is None and (data_root or default) and breeds.is_dir():
        return _folder_files(breeds)
    if official is None and data_root:
        return _folder_files(root)
    if official is None:
        official = fetch_pets(progress) / "oxford-iiit-pet"

    listed: Listed = []
    for file, split in (("trainval", ""), ("test", "test")):
        for line in (
            (official / "annotations" / f"{file}.txt").read_text(encoding="utf-8").splitlines()
        ):
            if line.strip():
                name = f"{line.split()[0]}.jpg"
                listed.append((name, official / "images" / name, None, split))
    return listed


def _official_pets(root: Path) -> Path | None:
    """Return the folder that torchvision makes of Oxford-IIIT Pet, which is `root` or in it."""
    candidates = (root / "oxford-iiit-pet", root)
    return next(
        (path for path in candidates if (path / "annotations" / "trainval.txt").is_file()), None
    )


def _fingerprint(
    photos: Sequence[PhotoFile], rows: dict[str, np.ndarray], scale: int, patch: int
) -> str:
    """Return a hash of pixels, names and the membership of the splits."""
    digest = hashlib.blake2b(f"{scale} {patch}".encode(), digest_size=16)
    for photo in photos:
        digest.update(f"{photo.name} {tuple(photo.high.shape)}".encode("utf-8", "backslashreplace"))
        digest.update(photo.high.contiguous().numpy().data)
        if photo.low is not None:
            digest.update(photo.low.contiguous().numpy().data)
    for split, positions in rows.items():
        digest.update(split.encode() + positions.astype("<i8").tobytes())
    return digest.hexdigest()
