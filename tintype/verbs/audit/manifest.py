"""Write a cleaned list of the photos, which `tintype train` takes in place of the folder; no photo
is touched.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tintype.data.duplicates import kept_together, members
from tintype.data.sets.folder import Photo
from tintype.errors import UserError
from tintype.files.whole import written_whole
from tintype.verbs.audit.files import Inspected
from tintype.verbs.audit.findings import Twins, given_split

# a copy in test stays; the one in training goes
PRIORITY = {"test": 0, "val": 1, "train": 2, "": 2}
UNLISTED = "name that a CSV file cannot hold (rename the file)"


@dataclass(frozen=True)
class Cleaned:
    """Which images stay, (N,) bool; why each other one goes; and the group of each, (N,) str or
    None.
    """

    keep: np.ndarray
    reasons: dict[int, str]
    groups: np.ndarray | None


def cleaned(inspected: Inspected, twins: Twins) -> Cleaned:
    """Decide which images stay.

    Pictures with several labels go altogether, except mirrored ones, whose classes may differ by
    left and right. Of exact copies one stays. Where the same picture lies on both sides of a given
    split, what lies in training goes (and what lies in validation, if test has it). Near-duplicates
    on one side stay as a group, together with altered copies and photos of the same object.
    """
    split = given_split(inspected)
    reasons: dict[int, str] = {}
    for rows in twins.duplicates.told_apart(inspected.differ).groups:
        if len(set(inspected.targets[rows].tolist())) > 1:
            reasons.update((i, "same picture with another label") for i in rows.tolist())
            continue
        first = min(PRIORITY[str(s)] for s in split[rows])
        seen: set[int] = set()
        for i in rows.tolist():
            if PRIORITY[str(split[i])] > first:
                reasons[i] = "same picture in a split that is measured"
            elif int(twins.duplicates.copy_of[i]) in seen:
                reasons[i] = "exact copy"
            else:
                seen.add(int(twins.duplicates.copy_of[i]))

    for rows in members(twins.second.copied(twins.duplicates.group)):
        stay = [i for i in rows.tolist() if i not in reasons]
        first = min((PRIORITY[str(split[i])] for i in stay), default=0)
        reasons.update(
            (i, "altered copy in a split that is measured")
            for i in stay
            if PRIORITY[str(split[i])] > first
        )

    keep = np.ones(len(inspected), bool)
    keep[list(reasons)] = False

    together = replace(twins.duplicates, group=twins.second.together(twins.duplicates.group, split))
    groups = kept_together(together, inspected.names, inspected.groups)
    if groups is not None:
        alone = {group for group, count in Counter(groups[keep].tolist()).items() if count == 1}
        made = np.array(
            [g in alone and not own for g, own in zip(groups, inspected.groups, strict=True)]
        )
        groups = np.where(made, "", groups)

    return Cleaned(
        keep, reasons, groups if groups is not None and (groups[keep] != "").any() else None
    )


def write_manifest(inspected: Inspected, twins: Twins, path: Path) -> dict[str, int]:
    """Write path, target, split and group; return how many rows were written, and why not others.

    The group is there where something must stay together. Paths are relative to the CSV file where
    the photos are below its folder.

    Raises:
        UserError: the images are no files, `path` is there already or cannot be written, or nothing
            would be left.
    """
    if inspected.photos is None:
        raise UserError(
            f"{inspected.name} is not a folder or CSV file of photos; --fix has no files to list."
        )
    check_new(path)
    result = cleaned(inspected, twins)
    counts = Counter(result.reasons.values())
    counts["cannot be read"] = len(inspected.skipped)
    listed, unlisted = write_rows(inspected, path, result.keep, result.groups)
    counts[UNLISTED] += unlisted

    return {"kept": listed, **{reason: count for reason, count in counts.items() if count}}


def write_rows(
    inspected: Inspected,
    path: Path,
    keep: np.ndarray,
    groups: np.ndarray | None,
    targets: Mapping[int, tuple[str, ...]] | None = None,
) -> tuple[int, int]:
    """Write a row for each photo that stays; a list that is there is replaced at once.

    Args:
        inspected: photos in files.
        path: the CSV file.
        keep: (N,) bool.
        groups: (N,) str, or None where nothing has to stay together.
        targets: by position, what a photo is to be learned as in place of what it came with.

    Returns:
        How many photos are listed, and how many have a name that a CSV file cannot hold.

    Raises:
        UserError: `path` cannot be written, or nothing would be left.
    """
    photos = inspected.photos or []
    has_split = bool((inspected.split != "").any())
    has_weight = any(photo.weight is not None for photo in photos)
    header = ["path", *(columns[0] for columns in inspected.target.columns)]
    header += ["split"] * has_split
    header += ["group"] * (groups is not None)
    header += ["sample_weight"] * has_weight

    rows: list[list[str]] = []
    unlisted = 0
    for i in np.flatnonzero(keep).tolist():
        photo = photos[i]
        written = _written(photo, path)
        if written is None:
            unlisted += 1
            continue
        row = [written, *(targets or {}).get(i, photo.cells)]
        row += [photo.split] * has_split
        if groups is not None:
            row.append(str(groups[i]))
        if has_weight:
            row.append("1" if photo.weight is None else repr(photo.weight))
        rows.append(row)

    if not rows:
        raise UserError(f"nothing would be left of {inspected.name}: no manifest was written.")
    with (
        written_whole(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        csv.writer(file).writerows([header, *rows])
    return len(rows), unlisted


def check_new(path: Path) -> None:
    """Raise UserError if a file is there already, or cannot be there."""
    if path.exists():
        raise UserError(f"{path} is there already. Choose another name for --fix, or remove it.")
    check_name(path)


def check_name(path: Path) -> None:
    """Raise UserError if a list of photos cannot have that name."""
    if path.suffix.lower() != ".csv":
        raise UserError(
            f"'{path}' should end in .csv: `tintype train` tells a list of photos by that."
        )
    if not path.absolute().parent.is_dir():
        raise UserError(f"there is no folder {path.parent} for {path.name}.")


def _written(photo: Photo, manifest: Path) -> str | None:
    """Return the path as the CSV holds it, or None for a name that would not come back from it."""
    full, folder = os.path.abspath(photo.path), os.path.abspath(manifest.parent)
    inside = Path(folder) in Path(full).parents
    text = Path(os.path.relpath(full, folder)).as_posix() if inside else full
    try:
        (text + photo.label).encode("utf-8")
    except UnicodeEncodeError:  # bytes that are no UTF-8
        return None
    if text != text.rstrip() or photo.label != photo.label.strip():
        return None  # values of a CSV file are read without the spaces around them
    return f"./{text}" if text != text.lstrip() else text
