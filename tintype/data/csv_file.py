"""A CSV file, given by its path, with the columns path and label, and optionally split and group."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from tintype.data.cache import Progress
from tintype.data.decode import Resize, natural_key
from tintype.data.folder import Found, Photo, read_photos
from tintype.data.layout import SPLIT_FOLDERS, listed, safe
from tintype.data.source import Images
from tintype.errors import UserError

COLUMNS = {
    "path": ("path", "image", "file", "filename"),
    "label": ("label", "class", "target"),
    "split": ("split",),
    "group": ("group",),
}


def load(
    name: str,
    *,
    data_root: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    resize: str | Resize = "crop",
    progress: Progress | None = None,
    one_class: bool = False,
) -> Images:
    """Return every photo that a CSV file names; `name` is its path. A single class does where `one_class` says so.

    Raises:
        UserError: a missing column or label, no photo that can be read, or one class only.
    """
    path = Path(name).expanduser()
    if not path.is_file():
        raise UserError(f"'{name}' is not a file. Give the path of a CSV file with the columns path and label.")
    found = find_rows(path, Path(data_root).expanduser() if data_root else None)
    return read_photos(
        found, str(path), image_size=image_size, channels=channels, resize=resize, progress=progress, one_class=one_class
    )  # fmt: skip


def find_rows(path: Path, data_root: Path | None) -> Found:
    """List the photos of a CSV file: separated by comma, semicolon or tab, in UTF-8, the first line naming the columns.

    A relative path starts at the CSV's folder, or at `data_root` where it is not found there.

    Raises:
        UserError: a missing column or label, an unknown split, or no row at all.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # line ends inside quotes stay as they are
            text = file.read()
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text in UTF-8. Save it as 'CSV UTF-8'.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    separator = max(",;\t", key=text.split("\n", 1)[0].count)
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
    columns = _columns(rows.fieldnames or [], path)
    found = Found()
    first_row: dict[str, tuple[int, str]] = {}
    try:
        for row in rows:
            values = {kind: (row.get(column) or "").strip() for kind, column in columns.items()}
            if any(values.values()):
                _add(found, values, rows.line_num, path, data_root, first_row)
    except csv.Error as error:
        raise UserError(f"row {rows.line_num} of {path} is no CSV: {error}.") from None
    if not found.photos:
        raise UserError(f"{path} names no image: it has a header and no rows.")
    found.photos.sort(key=lambda photo: natural_key(photo.name))  # the order of the rows says nothing
    again = [name for name, reason in found.skipped if reason.startswith("named again")]
    if again:
        found.notes.append(f"{len(again)} rows name an image for the second time and are skipped: {listed(again)}")
    return found


def _columns(header: Sequence[str], path: Path) -> dict[str, str]:
    """Return the header's own name of each column that is there."""
    plain = {(name or "").strip().lower(): name for name in header}
    columns = {}
    for kind, accepted in COLUMNS.items():
        there = [plain[name] for name in accepted if name in plain]
        if there:
            columns[kind] = there[0]
        elif kind in ("path", "label"):
            raise UserError(
                f"{path} has no column '{kind}'; its first line names: {', '.join(header) or 'nothing'}. "
                "Expected a first line such as: path,label"
            )
    return columns


def _add(
    found: Found,
    values: dict[str, str],
    row: int,
    csv_path: Path,
    data_root: Path | None,
    first_row: dict[str, tuple[int, str]],
) -> None:
    """Add the photo of one row."""
    for kind in ("path", "label"):
        if not values[kind]:
            raise UserError(f"row {row} of {csv_path} has no {kind}. Fill it in, or remove the row.")
    split = values.get("split", "").lower()
    if split and split not in SPLIT_FOLDERS:
        raise UserError(f"row {row} of {csv_path} has the split '{split}'. Expected train, val, test or nothing.")
    name = values["path"].removeprefix("./")
    if name in first_row:
        before, label = first_row[name]
        contrary = "" if label == values["label"] else f" with another label ('{label}', now '{values['label']}')"
        found.skipped.append((f"{name} (row {row})", f"named again, first in row {before}{contrary}"))
        return
    first_row[name] = (row, values["label"])
    photo_path = _locate(name, [csv_path.parent, *([data_root] if data_root else [])])
    found.photos.append(
        Photo(photo_path, safe(name), values["label"], SPLIT_FOLDERS.get(split, ""), values.get("group", ""))
    )  # fmt: skip


def _locate(name: str, roots: list[Path]) -> str:
    """Return where the file lies: also as Windows writes paths; below the first root where it is not found."""
    for written in (name, name.replace("\\", "/")):
        for root in roots:
            if (root / written).exists():
                return str(root / written)
    return str(roots[0] / name)
