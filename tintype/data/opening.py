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
from tintype.data.duplicates import Duplicates, kept_together, leaked_rows, photo_audit, quick_audit
from tintype.data.pixels import MappedPixels, PixelStore, ResidentPixels
from tintype.data.source import (
    DataSpec,
    DataSplits,
    Images,
    ImageSource,
    StoredSource,
)
from tintype.data.split import SPLITS, describe_splits, fold_numbers, three_splits
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
    kind = (
        images.target
    )  # from here on with the classes, or whatever else the data turned out to hold

    # Copies are looked for in what was loaded, before the size of the model's input.
    from_photos = split_rule == "from-photos" or images.shards is not None
    duplicates = photo_audit(loaded) if from_photos else quick_audit(images)
    together = kept_together(duplicates, images.names, images.groups)
    numbers = None if folds is None else _fold_numbers(images, name, together, folds, split_seed)
    given = images.split
    if numbers is not None:
        given = np.where(numbers == fold, "test", "")
        test_fraction = 0.0
    division = {"val_fraction": val_fraction, "test_fraction": test_fraction, "seed": split_seed}
    keys = images.split_by or images.names
    rows = three_splits(images.targets, keys, given, together, kind=kind, **division)
    asked = {"val": val_fraction, "test": test_fraction}
    _check_held_out(rows, duplicates, images, [split for split in asked if asked[split]])

    images, of_weights = _weighted(images, rows["train"])

    # A mirrored copy with another target is no copy.
    leaked = leaked_rows(duplicates.told_apart(kind.differing(images.targets)), rows)
    notes = [
        *shadowed(data, target.offer),
        *images.notes,
        *_skipped_note(images),
        *describe_splits(
            images.split,
            **division,
            can_do_without_test=test_optional,
            stratified=kind.stratified,
            folds=folds,
            fold=fold,
        ),
        *_split_notes(images, rows),
        *_divided_groups(images, rows),
        *of_weights,
        *_suggested_groups(images),
        *_duplicate_notes(duplicates, images, rows, leaked),
    ]

    spec, sample_note = _spec(images, name, rows["train"], _fingerprint(images, rows))
    resident, where_kept = _choose_resident(images.pixels, memory_limit)
    notes += [*sample_note, where_kept]
    sources = {split: _source(spec, images, rows[split], resident) for split in SPLITS}

    return DataSplits(
        spec,
        sources["train"],
        sources["val"],
        sources["test"],
        tuple(notes),
        images.skipped,
        leaked,
        _by_name(together, images.names),
        {} if numbers is None else dict(zip(images.names, numbers.tolist(), strict=True)),
        {
            column: dict(zip(images.names, texts, strict=True))
            for column, texts in images.columns.items()
        },
    )


def _fold_numbers(
    images: Images, name: str, together: np.ndarray | None, folds: int, seed: int
) -> np.ndarray:
    """Return the fold (N,) of each image, 1 and up.

    Raises:
        UserError: the data bring a split of their own, or are too few.
    """
    given = [] if images.split is None else sorted(set(images.split.tolist()) - {""})
    if given:
        raise UserError(
            f"folds: {name} brings a split of its own ({', '.join(given)}), and folds take all "
            "images. Leave --folds out, or give the images without their split."
        )
    keys = images.split_by or images.names
    return fold_numbers(images.targets, keys, together, folds=folds, seed=seed, kind=images.target)


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


def _check_held_out(
    rows: dict[str, np.ndarray], duplicates: Duplicates, images: Images, needed: Sequence[str]
) -> None:
    """Refuse data that leave a split of `needed` empty, and say what keeps them together."""
    words = {"val": "validation", "test": "test"}
    empty = [words[split] for split in needed if not len(rows[split])]
    if not empty:
        return

    num_images = len(images.names)
    num_pictures = len(np.unique(duplicates.group))
    if num_pictures < num_images:
        why = (
            f"the {num_images:,} images show {num_pictures:,} different pictures, "
            "and copies stay on one side"
        )
    elif images.groups is not None:
        why = f"the {num_images:,} images are in too few groups, which stay on one side"
    else:
        counted = images.target.counted(images.targets)
        are = "image ({}) is" if num_images == 1 else "images ({}) are"
        why = f"{num_images:,} {are.format(counted)} too few"

    raise UserError(
        f"nothing can be held out for {' and '.join(empty)}: {why}. Add other images, or say "
        "yourself which to measure on: folders train/, val/ and test/, "
        "or a column split in a CSV file."
    )


def _skipped_note(images: Images) -> list[str]:
    if not images.skipped:
        return []
    name, reason = images.skipped[0]
    more = f" and {len(images.skipped) - 1:,} more" if len(images.skipped) > 1 else ""
    return [f"skipped: {len(images.skipped):,} files that cannot be used: {name} ({reason}){more}"]


def _split_notes(images: Images, rows: dict[str, np.ndarray]) -> list[str]:
    """Return how many images went where, and what a split lacks."""
    num_images, height, width, channels = images.pixels.shape
    counts = ", ".join(
        f"{len(rows[split]):,} {word}"
        for split, word in zip(SPLITS, ("training", "validation", "test"), strict=True)
        if len(rows[split])
    )
    there = images.target.counted(images.targets)
    notes = [f"{num_images:,} images of {height}x{width}x{channels}, {there}: {counts}"]

    for split in ("val", "test"):
        if len(rows[split]):
            notes += images.target.uneven(images.targets, rows, split)
    return notes


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


def _divided_groups(images: Images, rows: dict[str, np.ndarray]) -> list[str]:
    """Return a warning where images of one group lie on both sides of a given split."""
    if images.groups is None:
        return []

    train, val, test = ({str(images.groups[i]) for i in rows[split]} for split in SPLITS)
    divided = sorted(((train & (val | test)) | (val & test)) - {""})
    if not divided:
        return []

    what = "1 group has" if len(divided) == 1 else f"{len(divided):,} groups have"
    return [
        f"LEAK: {what} images on both sides of the split that the data gives, "
        f"such as {divided[0]}: figures on them say little about new ones"
    ]


def _duplicate_notes(
    duplicates: Duplicates,
    images: Images,
    rows: dict[str, np.ndarray],
    leaked: dict[str, np.ndarray],
) -> list[str]:
    """Return what to know of images of one picture: kept together, leaked, labelled otherwise."""
    notes = [f"duplicates: {duplicates.note}"] if duplicates.note else []

    # Only where tintype divides the images can it keep copies together.
    split = images.split
    free = np.ones(len(images.names), bool)
    if split is not None:
        free = ~np.isin(split, ("val", "test"))
    if split is None or not set(np.unique(split)) >= {"train", "val", "test"}:
        free_copies = [group[free[group]] for group in duplicates.groups]
        together = [found for found in free_copies if len(found) > 1]
        if together:
            near = (duplicates.group != duplicates.copy_of).any()
            copies = "near-duplicates" if near else "copies"
            notes.append(
                f"{sum(map(len, together)):,} {copies} in {len(together):,} groups stay on one side"
            )

    for part, word, before in (
        ("val", "validation", "training"),
        ("test", "test", "training or validation"),
    ):
        if part in leaked:
            count = len(leaked[part])
            total = len(rows[part])
            notes.append(
                f"LEAK: {count:,} of {total:,} {word} images are duplicates of {before} images"
            )

    # a mirrored picture with another target is no contradiction
    differing = images.target.differing(images.targets)
    same_way = duplicates.told_apart(differing)
    contrary = [group for group in same_way.groups if differing(group)]
    if contrary:
        names = " and ".join(images.names[i] for i in contrary[0][:2])
        notes.append(
            f"{len(contrary):,} pictures are there with different labels, "
            f"such as {names}; see `tintype audit`"
        )

    return notes


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
