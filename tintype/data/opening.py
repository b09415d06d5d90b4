"""Open a data set by name, a folder of photos or a CSV file, and get its three splits."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import psutil
import torch

from tintype import own_code, plugins
from tintype.data import memory
from tintype.data.cache import cached_pixels
from tintype.data.decode import Resize, as_resize, fit
from tintype.data.division import Division
from tintype.data.duplicates import kept_together, photo_audit, quick_audit
from tintype.data.pixels import MappedPixels, PixelStore, ResidentPixels
from tintype.data.source import (
    DataSpec,
    DataSplits,
    Images,
    ImageSource,
    StoredSource,
)
from tintype.data.split import SPLITS
from tintype.data.taken import read_taken
from tintype.data.targets import ANY_CLASSES, CLASSES, Classes, TargetKind
from tintype.errors import UserError, no_data_set, unknown_name
from tintype.files.names import looks_like_path
from tintype.files.shard_names import names_shards, plain_name
from tintype.files.whole import format_bytes
from tintype.grouping import check_groups, parse_groups, suggest_by_names, united
from tintype.progress import Progress

# The part of the free memory that pixels may take; the rest is for the network and the copies of
# the batches.
RESIDENT_SHARE = 0.5
STATISTICS_SAMPLE = 30_000_000  # values looked at for mean and standard deviation
BY_PATH = ("folder", "csv-file", "shards")  # sets that a user names by the path of their files
TABLES = (".csv", ".tsv", ".jsonl")


def open_data(
    data: str,
    *,
    data_root: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    resize: str | Resize = "crop",
    val_fraction: float = 0.1,
    test_fraction: float = 0.2,
    split_seed: int = 0,
    groups: str | None = None,
    folds: int | None = None,
    fold: int | None = None,
    split_rule: str = "from-photos",
    cache_size: str = "20GB",
    memory_limit: int | None = None,
    target: TargetKind = CLASSES,
    test_optional: bool = True,
    progress: Progress | None = None,
) -> DataSplits:
    """Return training, validation and test images of a data set.

    Args:
        data: a name (`tintype list data`), a folder ROOT/CLASS/* or ROOT/{train,val,test}/CLASS/*,
            or a .csv file.
        data_root: a folder that holds the data set's files already, or where the paths of a CSV
            begin.
        image_size: side, or (height, width); by default the images' own, or chosen and noted.
        channels: 1 or 3; by default as the images are.
        resize: "crop", "squash" or "pad", or a Resize, which says also how much of the centre and
            which filter.
        val_fraction: below 1 a fraction of what may be cut, from 1 on a number of images, where
            the data brings no validation split; 0 leaves the validation split empty then.
        test_fraction: the same for the test split.
        split_seed: another seed gives another membership.
        groups: what belongs together beside what the data itself says (see
            `tintype.grouping.parse_groups`).
        folds: how many folds all images are cut into, in place of a test part.
        fold: the fold that is the test part; none is held out where it is None.
        split_rule: where near-copies, which stay on one side, are looked for: "from-photos", so
            that the splits follow from the photos alone, or "at-image-size", as runs of earlier
            versions had it.
        cache_size: of shards, what may be kept of them on disk, as 20GB.
        memory_limit: bytes of pixels that may be held in memory; by default half of what is free.
        target: what is to be read of each image: classes (`Classes(single=True)` takes one class
            alone, and photos in no class folder), `Numbers(("age",))` and so on.
        test_optional: whether the line on a test part that is cut may say how to have none.
        progress: called as progress(what, done, total) while something takes long.

    Raises:
        UserError: the data cannot be found or read, or cannot be divided.
    """
    how = as_resize(resize)
    loaded, name = _load(data, data_root, image_size, channels, how, target, progress, cache_size)
    images = _fitted(loaded, name, image_size, channels, how, progress)
    _check_targets(images, name)
    images = grouped(images, groups, progress)

    # Copies are looked for in what was loaded, before the size of the model's input.
    from_photos = split_rule == "from-photos" or images.shards is not None
    duplicates = photo_audit(loaded) if from_photos else quick_audit(images)
    division = Division(val_fraction, test_fraction, split_seed, folds, fold)
    divided = division.of(images, duplicates, name)
    rows = divided.rows
    images, of_weights = _weighted(images, rows["train"])
    spec, of_sample = _spec(images, name, rows["train"], _fingerprint(images, rows))
    resident, where_kept = _choose_resident(images.pixels, memory_limit)

    notes = (
        *shadowed(data, target.offer),
        *images.notes,
        *_skipped_note(images),
        *division.notes(images, can_do_without_test=test_optional),
        *divided.split_notes(),
        *divided.group_notes(),
        *of_weights,
        *_suggested_groups(images),
        *divided.copy_notes(),
        *of_sample,
        where_kept,
    )
    sources = {split: _source(spec, images, rows[split], resident) for split in SPLITS}
    return DataSplits(
        spec,
        sources["train"],
        sources["val"],
        sources["test"],
        notes,
        images.skipped,
        divided.leaked,
        groups=_by_name(divided.together, images.names),
        folds=divided.folds_by_name(),
        columns={
            column: dict(zip(images.names, texts, strict=True))
            for column, texts in images.columns.items()
        },
    )


def grouped(images: Images, groups: str | None, progress: Progress | None = None) -> Images:
    """Return the images with the groups that `groups` names, beside those that they have.

    See `tintype.grouping.parse_groups`.

    Raises:
        UserError: `groups` cannot be read, or gives no groups.
    """
    if groups is None:
        return images
    grouping = parse_groups(groups)
    names = images.names

    if grouping.pattern is not None:
        found = grouping.of_names(names)
    elif images.paths is not None:
        found = grouping.of_times(read_taken(images.paths, progress), names)
    else:
        found = [""] * len(names)  # arrays say nothing of when they were taken

    note = check_groups(grouping, found, names)
    if images.groups is not None:
        found = united([str(group) for group in images.groups], found)
    return replace(images, groups=np.array(found), notes=(*images.notes, note))


class Whole(NamedTuple):
    """All images of a data set as one source, their groups by name, and notes on groups."""

    source: ImageSource
    groups: dict[str, str]
    notes: list[str]


def open_whole(
    data: str,
    *,
    data_root: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    resize: str | Resize = "crop",
    groups: str | None = None,
    memory_limit: int | None = None,
    target: TargetKind = ANY_CLASSES,
    progress: Progress | None = None,
) -> Whole:
    """Return every image of a data set as one source: nothing is divided, so one image will do.

    The arguments are those of `open_data`. Near-duplicates are a group as well.

    Raises:
        UserError: the data cannot be found or read, or `groups` gives no groups.
    """
    how = as_resize(resize)
    loaded, name = _load(data, data_root, image_size, channels, how, target, progress)
    images = _fitted(loaded, name, image_size, channels, how, progress)
    images = grouped(images, groups, progress)
    together = kept_together(photo_audit(loaded), images.names, images.groups)

    rows = np.arange(len(images.targets))
    fingerprint = _fingerprint(images, dict.fromkeys(SPLITS, rows))
    spec, _ = _spec(images, name, rows, fingerprint)
    resident, _ = _choose_resident(images.pixels, memory_limit)
    source = _source(spec, images, rows, resident)
    return Whole(source, _by_name(together, images.names), _suggested_groups(images))


def _load(
    data: str,
    data_root: str | None,
    image_size: int | tuple[int, int] | None,
    channels: int | None,
    resize: Resize,
    target: TargetKind,
    progress: Progress | None,
    cache_size: str = "20GB",
) -> tuple[Images, str]:
    """Return the images of a data set and its name.

    Photos have the size that is asked for, arrays the size in which they come.
    """
    if channels not in (None, 1, 3):
        raise UserError(f"channels is {channels}; expected 1 (grey) or 3 (colour).")

    title = ""
    elsewhere = None if own_code.is_in_python(data) else plugins.reference("data", data)
    if elsewhere is not None:
        title = own_code.name_of(data)
        fields = memory.of_own_code(elsewhere, data_root)
        data, data_root = fields["data"], fields.get("data_root", data_root)

    module, name = locate(data, target)
    name = title or name
    parameters = inspect.signature(module.load).parameters
    further = {"target": target, "cache_size": cache_size}
    asked = {name: value for name, value in further.items() if name in parameters}
    images = module.load(
        data,
        data_root=data_root,
        image_size=image_size,
        channels=channels,
        resize=resize,
        progress=progress,
        **asked,
    )
    return images, name


def locate(data: str, target: TargetKind = CLASSES) -> tuple[ModuleType, str]:
    """Return the file in `sets/` that loads `data`, and the data set's name.

    Raises:
        UserError: there is no such data, or it has no targets of this kind.
    """
    if data.startswith(own_code.IN_PYTHON):
        return memory, own_code.plain_name(data)

    path = Path(data).expanduser()
    known = [name for name in plugins.sets_with(target.offer) if name not in BY_PATH]
    if data in known:
        return plugins.find("data", data), data
    if names_shards(data):
        return plugins.find("data", "shards"), plain_name(data)
    if path.is_dir():
        return plugins.find("data", "folder"), path.resolve().name or str(path)

    if path.is_file():
        if path.suffix.lower() not in TABLES:
            raise no_data_set(path)
        return plugins.find("data", "csv-file"), path.stem

    if data in plugins.names("data") and data not in BY_PATH:
        ways_out = "A folder of images or a .csv file may have them."
        raise UserError(
            f"the images of data set '{data}' come without {target.title}. "
            f"Sets that have them: {', '.join(sorted(known)) or 'none'}. {ways_out}"
        )
    if looks_like_path(data) or data.lower().endswith(TABLES):
        raise UserError(f"there is no folder or file '{data}' (looked from {Path.cwd()}).")
    raise unknown_name(
        "data set", data, known, hint="A folder of images or a .csv file does as well."
    )


def shadowed(data: str, offer: str = Classes.offer) -> list[str]:
    """Return a line where `data` names a set and also a folder or file that is here.

    The set is meant: a recipe that names a set gives the same everywhere, whatever lies in the
    folder that it is called from.
    """
    here = Path(data)
    if data not in plugins.sets_with(offer) or data in BY_PATH or not here.exists():
        return []
    kind = "folder" if here.is_dir() else "file"
    return [
        f"data '{data}' is the built-in set, not the {kind} {data} that is here; "
        f"for the {kind} type ./{data}"
    ]


def _fitted(
    images: Images,
    name: str,
    image_size: int | tuple[int, int] | None,
    channels: int | None,
    resize: Resize,
    progress: Progress | None,
) -> Images:
    """Return images that come as arrays in the size and channels asked for, through the cache."""
    num_images, height, width, num_channels = images.pixels.shape
    if image_size is not None:
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    shape = (height, width, channels or num_channels)
    if images.pixels.shape[1:] == shape and (images.on_disk or resize.crop_fraction == 1):
        return images

    pixels = images.array
    content = _content(images)
    key = hashlib.blake2b(f"{content} {shape} {resize}".encode(), digest_size=16).hexdigest()
    cached = cached_pixels(
        key,
        num_images,
        shape,
        lambda i: fit(pixels[i], height=shape[0], width=shape[1], channels=shape[2], resize=resize),
        source=name,
        progress=progress,
    )

    return replace(
        images,
        pixels=cached.pixels,
        fingerprint=cached.fingerprint,
        on_disk=True,
        notes=(*images.notes, *cached.notes),
    )


def _check_targets(images: Images, name: str) -> None:
    """Refuse data that leave nothing to train on, or targets that no model can learn."""
    split = images.split
    if split is not None and not np.isin(split, ("train", "")).any():
        given = " and ".join(part for part in ("val", "test") if (split == part).any())
        raise UserError(
            f"no image of {name} is for training: all are given to {given}. "
            "Expected train/CLASS/*.jpg, or rows for train."
        )
    images.target.check(images.targets, split, name)


def _skipped_note(images: Images) -> list[str]:
    if not images.skipped:
        return []
    name, reason = images.skipped[0]
    more = f" and {len(images.skipped) - 1:,} more" if len(images.skipped) > 1 else ""
    return [f"skipped: {len(images.skipped):,} files that cannot be used: {name} ({reason}){more}"]


def _weighted(images: Images, train: np.ndarray) -> tuple[Images, list[str]]:
    """Return images whose weights have a mean of 1 over the training images, and a note on them.

    So a weight says how often an image counts, and the learning rate keeps its meaning.

    Raises:
        UserError: no training image has a weight above zero.
    """
    if images.weights is None:
        return images, []
    mean = float(images.weights[train].astype(np.float64).mean())
    if not mean:
        raise UserError(
            "the sample_weight of every training image is 0, so nothing can be learned. "
            "Expected some above."
        )

    weights = (images.weights / mean).astype(np.float32)
    low, high = weights[train].min(), weights[train].max()
    return replace(images, weights=weights), [
        f"sample_weight: training images count {low:.3g} to {high:.3g} times in the loss, 1 on "
        "average; figures count each image once"
    ]


def _suggested_groups(images: Images) -> list[str]:
    """Return a line where the names of photos suggest groups and nobody has named any."""
    if images.groups is not None or images.paths is None:
        return []
    classes = images.target.strata(images.targets, 1)
    found = suggest_by_names(images.names, classes.tolist())
    return [found.line()] if found else []


def _spec(
    images: Images, name: str, train: np.ndarray, fingerprint: str
) -> tuple[DataSpec, list[str]]:
    """Return what a model must know of the images, and a note on how it was measured."""
    mean, std, note = _statistics(images.pixels, train)
    _, height, width, channels = images.pixels.shape
    spec = DataSpec(
        name, channels, height, width, images.target, mean, std, fingerprint, images.white
    )
    return spec, note


def _statistics(
    pixels: np.ndarray | PixelStore, train: np.ndarray
) -> tuple[tuple[float, ...], tuple[float, ...], list[str]]:
    """Return mean and standard deviation of each channel of the training images, and a note.

    They are of pixels scaled to 0..1, computed in exact integers. Of a large set every k-th image
    counts. A channel without variation gets the deviation of one step (1/255).
    """
    per_image = int(np.prod(pixels.shape[1:]))
    most = max(STATISTICS_SAMPLE // per_image, 1000)
    rows = train
    note: list[str] = []
    if len(train) > most:
        rows = train[np.linspace(0, len(train) - 1, most).astype(np.int64)]
        note = [f"mean and deviation: measured on {most:,} of {len(train):,} training images"]

    total = np.zeros(pixels.shape[2:], np.int64)
    total_squares = np.zeros(pixels.shape[2:], np.int64)

    step = max(1, 1_000_000 // per_image)
    for start in range(0, len(rows), step):
        values = _taken(pixels, rows[start : start + step]).astype(np.uint16)
        total += values.sum(axis=(0, 1), dtype=np.int64)
        total_squares += (values * values).sum(axis=(0, 1), dtype=np.int64)

    count = len(rows) * per_image // pixels.shape[3]
    mean = total.sum(axis=0) / count
    std = np.sqrt(np.maximum(total_squares.sum(axis=0) / count - mean**2, 1))
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist()), note


def _taken(pixels: np.ndarray | PixelStore, rows: np.ndarray) -> np.ndarray:
    """Return the images (K, H, W, C) at some positions."""
    if isinstance(pixels, np.ndarray):
        return pixels[rows]
    return pixels.take(torch.from_numpy(rows)).permute(0, 2, 3, 1).numpy()


def _content(images: Images) -> str:
    """Return a hash of the pixels."""
    if images.fingerprint:
        return images.fingerprint
    return hashlib.blake2b(np.ascontiguousarray(images.array).data, digest_size=16).hexdigest()


def _fingerprint(images: Images, rows: dict[str, np.ndarray]) -> str:
    """Return a hash of pixels, targets and the membership of the splits."""
    digest = hashlib.blake2b(f"{images.pixels.shape} {_content(images)}".encode(), digest_size=16)
    digest.update(images.target.content(images.targets))
    if images.weights is not None:
        digest.update(images.weights.astype("<f4").tobytes())
    for split in SPLITS:
        digest.update(split.encode() + rows[split].astype("<i8").tobytes())
    return digest.hexdigest()


def _choose_resident(pixels: np.ndarray | PixelStore, memory_limit: int | None) -> tuple[bool, str]:
    """Return whether the pixels are held in memory, and why."""
    if not isinstance(pixels, np.ndarray):
        return False, "streamed from shards: each image is decoded when it is used"
    num_bytes = pixels.nbytes
    if memory_limit is not None:
        limit = memory_limit
        free = f"a limit of {format_bytes(memory_limit)}"
    else:
        available = _free_memory()
        limit = int(available * RESIDENT_SHARE)
        free = f"{format_bytes(available)} free"

    if num_bytes <= limit:
        return True, f"resident, {format_bytes(num_bytes)} of {free}"
    share = "" if memory_limit is not None else "half of "
    return False, f"mapped from disk, {format_bytes(num_bytes)} is more than {share}{free}"


def _free_memory() -> int:
    """Return the free memory in bytes: the system's, or what the limit of a container leaves."""
    available = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text(encoding="utf-8"))
        lines = (group / "memory.stat").read_text(encoding="utf-8").splitlines()
        statistics = dict(line.split() for line in lines)
        current = int((group / "memory.current").read_text(encoding="utf-8"))
        used = current - int(statistics["inactive_file"])
    except (OSError, ValueError, KeyError):  # no limit ("max"), or another system
        return available

    return max(0, min(available, limit - used))


def _by_name(groups: np.ndarray | None, names: Sequence[str]) -> dict[str, str]:
    """Return the group of each image that is in one, by the image's name."""
    if groups is None:
        return {}
    return {name: str(group) for name, group in zip(names, groups, strict=True) if group}


def _source(spec: DataSpec, images: Images, rows: np.ndarray, resident: bool) -> ImageSource:
    targets = torch.from_numpy(images.targets[rows])
    names = [images.names[i] for i in rows.tolist()]
    store = _store(images.pixels, rows, resident)
    weights = None if images.weights is None else torch.from_numpy(images.weights[rows])
    shards = None if images.shards is None else images.shards.at(rows)
    return StoredSource(spec, store, targets, names, weights, shards)


def _store(pixels: np.ndarray | PixelStore, rows: np.ndarray, resident: bool) -> PixelStore:
    if not isinstance(pixels, np.ndarray):
        return pixels.subset(torch.from_numpy(rows))
    if resident:
        return ResidentPixels(torch.from_numpy(pixels[rows]))
    return MappedPixels(pixels, rows)
