"""A CSV file: the columns path and label (or numbers), optionally split, group, sample_weight.

Other columns of few values, such as camera, divide the images in the report.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tintype.data.decode import EXTENSIONS, Resize, natural_key
from tintype.data.layout import SPLIT_FOLDERS, listed, safe, split_of, words_of
from tintype.data.sets.folder import Found, Photo, glance_of, read_photos
from tintype.data.source import Glance, Images
from tintype.data.targets import CLASSES, TargetKind
from tintype.errors import UserError
from tintype.files.bounded import regular_only
from tintype.progress import Progress

TARGETS = ("class", "numbers", "labels", "none")
COLUMNS = {
    "path": (
        "path", "image", "file", "filename", "file_name", "filepath", "file_path",
        "image_path", "image_name", "img", "img_path", "image_id", "id",
    ),
    "split": ("split",),
    "group": ("group",),
    "sample_weight": ("sample_weight",),
}  # fmt: skip
# A column of one of these words is expected to hold splits; whether it does is decided by its
# values.
SPLIT_COLUMNS = {
    "set",
    "subset",
    "fold",
    "folds",
    "partition",
    "dataset",
    "phase",
    "usage",
    "split",
}

# A column of at most so many values divides the images, if as many rows have each in the mean.
MOST_VALUES = 12
FEWEST_ROWS = 2

Row = tuple[int, dict[str, str]]  # line number, values by the header's own names


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
    """Return every photo that a CSV file names; `name` is its path.

    Raises:
        UserError: a missing column or cell, no photo that can be read, or targets that cannot be
            learned.
    """
    path = Path(name).expanduser()
    if not path.is_file():
        raise UserError(
            f"'{name}' is not a file. Give the path of a CSV file with the columns path and label."
        )

    root = Path(data_root).expanduser() if data_root else None
    return read_photos(
        find_rows(path, root, target),
        str(path),
        image_size=image_size,
        channels=channels,
        resize=resize,
        progress=progress,
        target=target,
    )


def glance(
    name: str, *, data_root: str | None = None, target: TargetKind = CLASSES
) -> Glance | None:
    """Return the number of photos that a CSV file names and their usual size."""
    root = Path(data_root).expanduser() if data_root else None
    return glance_of(find_rows(Path(name).expanduser(), root, target))


def find_rows(path: Path, data_root: Path | None, target: TargetKind = CLASSES) -> Found:
    """List the photos of a table in UTF-8: JSON lines, or CSV.

    Columns are separated by commas, semicolons or tabs. A relative path starts at the table's
    folder, or at `data_root` where it is not found there. Names may lack their ending, and may be
    written with other accents or in another case than the file's, where only one file fits.

    Raises:
        UserError: a missing column or cell, a value that `target` cannot read, an unknown split, a
            name that fits several files, or no row at all.
    """
    header, rows = _read_lines(path) if path.suffix.lower() == ".jsonl" else _read_csv(path)
    roots = [path.parent, *([data_root] if data_root else [])]
    return find_in_rows(header, rows, path, roots, target)


def find_in_rows(
    header: Sequence[str], rows: list[Row], path: Path, roots: Sequence[Path], target: TargetKind
) -> Found:
    """List the photos of a table as `find_rows` does.

    Args:
        header: the names of the columns.
        rows: each with its number, and with its cells by the names of the columns.
        path: what messages call the table.
        roots: where relative paths may begin.
        target: what is read of each photo.

    Raises:
        UserError: as in `find_rows`.
    """
    found = Found()
    columns = _columns(header, path, target, found.notes)
    rows = [(line, row) for line, row in rows if any(row[column] for column in columns.values())]
    if not rows:
        raise UserError(f"{path} names no image: it has a header and no rows.")

    if "split" not in columns:
        columns |= _split_by_values(header, columns, rows, path, found.notes)
    further = _dividing(header, columns, rows, target)
    found.columns = further
    if further:
        found.notes.append(f"figures are also given by column: {listed(further, 8)}")
    files = _Files(roots)

    first_row: dict[str, tuple[int, str]] = {}
    for line, row in rows:
        values = {kind: row[column] for kind, column in columns.items()}
        more = tuple(safe(row[column]) for column in further)
        _add(found, values, more, target, line, path, files, first_row)

    if files.num_found == 0:
        where = " or ".join(str(root) for root in files.roots)
        raise UserError(
            f"none of the {len(found.photos):,} images of {path} is there. The first: "
            f"{found.photos[0].name}, looked for in "
            f"{where}. --data-root FOLDER says where the paths begin."
        )

    # the order of the rows says nothing
    found.photos.sort(key=lambda photo: natural_key(photo.name))
    found.notes += files.notes()
    again = [name for name, reason in found.skipped if reason.startswith("named again")]
    if again:
        found.notes.append(
            f"{len(again)} rows name an image for the second time and are skipped: {listed(again)}"
        )

    found.notes += target.remarks(found.photos)
    return found


def _read_text(path: Path) -> str:
    try:
        with open(
            path, encoding="utf-8-sig", newline="", opener=regular_only
        ) as file:  # line ends inside quotes stay as they are
            return file.read()
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text in UTF-8. Save it as 'CSV UTF-8'.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None


def _read_csv(path: Path) -> tuple[list[str], list[Row]]:
    text = _read_text(path)
    separator = max(",;\t", key=text.split("\n", 1)[0].count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
    rows: list[Row] = []
    try:
        header = [name or "" for name in reader.fieldnames or []]
        for row in reader:
            rows.append((reader.line_num, {name: (row.get(name) or "").strip() for name in header}))
    except csv.Error as error:
        raise UserError(f"row {reader.line_num} of {path} is no CSV: {error}.") from None
    return header, rows


def _read_lines(path: Path) -> tuple[list[str], list[Row]]:
    """Read JSON lines, an object in each; values that are no text or number count as empty."""
    header: dict[str, None] = {}
    rows: list[Row] = []
    for line, text in enumerate(_read_text(path).splitlines(), 1):
        if not text.strip():
            continue
        try:
            values = json.loads(text)
        except ValueError as error:
            raise UserError(f"line {line} of {path} is no JSON: {error}.") from None
        if not isinstance(values, dict):
            raise UserError(
                f"line {line} of {path} is no object. "
                'Expected {"file_name": "1.jpg", "label": "cat"}.'
            )
        plain = {
            key: str(value).strip()
            for key, value in values.items()
            if isinstance(value, str | int | float)
        }
        header |= dict.fromkeys(values)
        rows.append((line, plain))

    return list(header), [
        (line, {name: row.get(name, "") for name in header}) for line, row in rows
    ]


def _columns(
    header: Sequence[str], path: Path, target: TargetKind, notes: list[str]
) -> dict[str, str]:
    """Return the header's name of each column that is there; a choice among several is noted."""
    plain = {name.strip().lower(): name for name in header}
    needed = {"path": COLUMNS["path"], **{names[0]: names for names in target.columns}}

    columns = {}
    for kind, accepted in {**needed, **COLUMNS}.items():
        there = [plain[name.lower()] for name in accepted if name.lower() in plain]
        if there:
            columns[kind] = there[0]
            if len(there) > 1 and there[0].strip().lower() != kind.lower():
                notes.append(
                    f"column '{there[0]}' is read as the {kind}, and not {listed(there[1:])}"
                )
        elif kind in needed:
            raise UserError(
                f"{path} has no column '{kind}'; its first line names: "
                f"{', '.join(header) or 'nothing'}. "
                f"Expected a first line such as: {','.join(needed)}"
            )

    return columns


def _dividing(
    header: Sequence[str], columns: dict[str, str], rows: Sequence[Row], target: TargetKind
) -> list[str]:
    """Return the further columns of few values, by which the figures are also given."""
    known = {name.lower() for names in (*target.columns, *COLUMNS.values()) for name in names}
    found = []
    for column in header:
        if column in columns.values() or column.strip().lower() in ("", *known):
            continue
        values = {row[column] for _, row in rows} - {""}
        if 2 <= len(values) <= min(MOST_VALUES, len(rows) // FEWEST_ROWS):
            found.append(column)
    return found


def _split_by_values(
    header: Sequence[str],
    columns: dict[str, str],
    rows: Sequence[Row],
    path: Path,
    notes: list[str],
) -> dict[str, str]:
    """Return {"split": column} for a column under another name whose values are splits.

    Raises:
        UserError: a column holds splits and something else, or two columns give different splits.
    """
    fitting: list[str] = []
    for column in header:
        if column in columns.values():
            continue
        values = sorted({row[column] for _, row in rows} - {""})
        splits = {split_of(value) for value in values}
        named = not SPLIT_COLUMNS.isdisjoint(words_of(column)) or bool(split_of(column))
        if values and "" not in splits and (named or splits > {"train"}):
            fitting.append(column)
        elif named and splits > {""}:
            other = next(value for value in values if not split_of(value))
            raise UserError(
                f"column '{column}' of {path} holds splits and also '{other}'. Expected train, "
                "val, test or nothing in it; "
                "or give it another name."
            )
        elif named and values:
            notes.append(
                f"column '{column}' is not read as a split, since its values are {listed(values)}"
            )

    if not fitting:
        return {}
    for other in fitting[1:]:
        if any(split_of(row[fitting[0]]) != split_of(row[other]) for _, row in rows):
            raise UserError(
                f"the columns '{fitting[0]}' and '{other}' of {path} give different splits. Name "
                "the one that counts 'split'."
            )

    values = sorted({row[fitting[0]] for _, row in rows} - {""})
    said = ", ".join(f"{v} is {split_of(v)}" for v in values if v.lower() not in SPLIT_FOLDERS)
    notes.append(f"column '{fitting[0]}' gives the splits{f': {said}' if said else ''}")

    return {"split": fitting[0]}


def _add(
    found: Found,
    values: dict[str, str],
    further: tuple[str, ...],
    target: TargetKind,
    row: int,
    csv_path: Path,
    files: _Files,
    first_row: dict[str, tuple[int, str]],
) -> None:
    """Add the photo of one row."""
    where = f"row {row} of {csv_path}"
    if not values["path"]:
        raise UserError(f"{where} has no path. Fill it in, or remove the row.")
    cells = target.read([values[names[0]] for names in target.columns], where)

    split = values.get("split", "")
    if split and not split_of(split):
        raise UserError(f"{where} has the split '{split}'. Expected train, val, test or nothing.")

    name = values["path"].removeprefix("./")
    photo_path = files.find(name, where)
    group = values.get("group", "")
    weight = None
    if all("sample_weight" not in names for names in target.columns):
        weight = _weight(values, where)
    photo = Photo(photo_path, safe(name), cells, split_of(split), group, weight, further)

    if photo_path in first_row:
        before, first_label = first_row[photo_path]
        contrary = ""
        if photo.label != first_label:
            contrary = f" with another label ('{first_label}', now '{photo.label}')"
        found.skipped.append(
            (f"{name} (row {row})", f"named again, first in row {before}{contrary}")
        )
        return

    first_row[photo_path] = (row, photo.label)
    found.photos.append(photo)


def _weight(values: dict[str, str], where: str) -> float | None:
    """Return the weight of a row in the loss, None where the table has no such column."""
    text = values.get("sample_weight")
    if text is None:
        return None
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not (math.isfinite(weight) and weight >= 0):
        raise UserError(f"{where} has the sample_weight '{text}'. Expected a number, 0 or above.")
    return weight


class _Files:
    """Where the files of a table lie: below the first fitting root, by their names or nearly so."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self.roots = roots
        self.num_found = 0
        self._changed: defaultdict[str, list[str]] = defaultdict(list)
        self._listings: dict[str, dict[str, list[str]]] = {}

    def find(self, name: str, where: str) -> str:
        """Return the path of a file, or where it was expected; paths of Windows are read as well.

        Raises:
            UserError: several files fit a name that is not exact; `where` says who names it.
        """
        for written in (name, name.replace("\\", "/")):
            for root in self.roots:
                path = str(root / written)
                if os.path.exists(path) and not os.path.isdir(path):
                    self.num_found += 1
                    return path
        for root in self.roots:
            path = self._nearly(root / name.replace("\\", "/"), name, where)
            if path is not None:
                self.num_found += 1
                return path

        return str(self.roots[0] / name)

    def notes(self) -> list[str]:
        """Return a line for each way in which names differ from those of the files."""
        return [
            f"{len(names):,} names are found {how}: {listed(names, 2)}"
            for how, names in self._changed.items()
        ]

    def _nearly(self, path: Path, name: str, where: str) -> str | None:
        folder = path.anchor or "."
        parts = path.parts[1:] if path.anchor else path.parts
        for part in parts[:-1]:
            inner = os.path.join(folder, part)
            if not os.path.isdir(inner):
                inner = os.path.join(folder, self._fitting(folder, part, part, where) or part)
            folder = inner

        last = parts[-1] if parts else ""
        for key, how in ((last, "in another case"), (f"{last}.", "by adding the ending")):
            file = self._fitting(folder, key, last, where)
            if file is not None and not os.path.isdir(os.path.join(folder, file)):
                if _composed(file) != _composed(last):  # accents alone are no difference
                    self._changed[how].append(f"{safe(name)} ({safe(file)})")
                return os.path.join(folder, file)

        return None

    def _fitting(self, folder: str, key: str, written: str, where: str) -> str | None:
        """Return the one entry of a folder that a name fits, the case as it is before any other."""
        entries = self._listing(folder).get(_folded(key), [])
        exact = [entry for entry in entries if _composed(entry).startswith(_composed(key))]
        fitting = exact or entries
        if len(fitting) > 1:
            raise UserError(
                f"{where}: '{written}' may be any of {listed(sorted(fitting))} in {folder}. "
                "Write the whole name."
            )
        return fitting[0] if fitting else None

    def _listing(self, folder: str) -> dict[str, list[str]]:
        """Return the entries of a folder by their folded names, images also without the ending."""
        if folder not in self._listings:
            listing: defaultdict[str, list[str]] = defaultdict(list)
            try:
                entries = os.listdir(folder)
            except (OSError, ValueError):  # no such folder, or no name that one can have
                entries = []
            for entry in entries:
                listing[_folded(entry)].append(entry)
                stem, ending = os.path.splitext(entry)
                if ending.lower() in EXTENSIONS:
                    listing[_folded(f"{stem}.")].append(entry)
            self._listings[folder] = listing

        return self._listings[folder]


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    return _composed(name).casefold()
