"""Tables of paths and labels that were given in Python, which a run writes down as a CSV file."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tintype.data.decode import Resize
from tintype.data.layout import listed
from tintype.data.memory.labels import text_of
from tintype.data.sets.csv_file import COLUMNS, find_in_rows
from tintype.data.sets.folder import Found, read_photos
from tintype.data.source import Images
from tintype.data.targets import TargetKind
from tintype.errors import UserError
from tintype.files.whole import written_whole
from tintype.progress import Progress

LABEL = "label of image"  # a column that is called as the target is, once that is known
FRAMES = ("pandas", "polars")  # libraries whose frames are known by their name alone
MANY_COLUMNS = 30  # of a frame without paths, which then holds pixels


@dataclass(frozen=True, eq=False)
class Table:
    """Paths with what is known of each photo, as text.

    Attributes:
        name: what it is called: "paths", "frame".
        columns: text of each cell by the name of its column.
        root: the folder where the paths begin.
        given: whether its columns have names of their own, or the labels are yet to be called as
            the target is.
    """

    name: str
    columns: dict[str, list[str]]
    root: str | None

    @property
    def num_rows(self) -> int:
        return len(next(iter(self.columns.values())))

    def header(self, target: TargetKind) -> list[str]:
        """Return the names of the columns, where labels without a name have that of the target."""
        labels = [name for name in self.columns if name.startswith(LABEL)]
        wanted = [names[0] for names in target.columns]
        if labels and wanted and len(labels) != len(wanted):
            raise UserError(
                f"the images have {len(labels)} labels each, and {len(wanted)} are asked for "
                f"({', '.join(wanted)}). Give as many."
            )
        names = dict(zip(labels, wanted, strict=False))
        return [names.get(name, name) for name in self.columns]

    def load(
        self,
        data_root: str | None,
        image_size: int | tuple[int, int] | None,
        channels: int | None,
        resize: str | Resize,
        progress: Progress | None,
        target: TargetKind,
    ) -> Images:
        """Return every photo of the table, as a CSV file gives them."""
        return read_photos(
            self.found(data_root, target),
            self.name,
            image_size=image_size,
            channels=channels,
            resize=resize,
            progress=progress,
            target=target,
        )

    def found(self, data_root: str | None, target: TargetKind) -> Found:
        """List its photos."""
        header = self.header(target)
        cells = zip(*self.columns.values(), strict=True)
        rows = [(i, dict(zip(header, row, strict=True))) for i, row in enumerate(cells)]
        root = data_root or self.root
        return find_in_rows(
            header, rows, Path(self.name), [Path(root).expanduser() if root else Path()], target
        )

    def write(self, path: Path, target: TargetKind) -> None:
        """Write it as a CSV file."""
        with (
            written_whole(path) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as out,
        ):
            writer = csv.writer(out)
            writer.writerow(self.header(target))
            writer.writerows(zip(*self.columns.values(), strict=True))


def is_path(thing: Any) -> bool:
    """Return whether something is the path of a photo."""
    return isinstance(thing, str | os.PathLike)


def is_frame(data: Any) -> bool:
    """Return whether something is a data frame; its library is imported by whoever made it."""
    library = type(data).__module__.partition(".")[0]
    return library in FRAMES and hasattr(data, "columns")


def table_of(name: str, columns: Mapping[str, Sequence[Any]], data_root: str | None) -> Table:
    """Return a table of values of any type; relative paths begin where the process is.

    Args:
        name: what it is called.
        columns: values by the name of the column, "path" among them.
        data_root: where relative paths begin, if the user says so.
    """
    cells = {column: [_cell(value) for value in values] for column, values in columns.items()}
    paths = cells["path"]
    if not paths:
        raise UserError("there is no image in the data. Expected some.")
    if data_root is not None:
        return Table(name, cells, data_root)

    whole = [str(Path(path).expanduser().absolute()) for path in paths]
    try:
        root = os.path.commonpath([os.path.dirname(path) for path in whole])
    except ValueError:  # on several drives
        return Table(name, {**cells, "path": whole}, None)
    short = [os.path.relpath(path, root).replace(os.sep, "/") for path in whole]
    return Table(name, {**cells, "path": short}, root)


def columns_of(frame: Any, names: Mapping[str, str]) -> dict[str, list[Any]]:
    """Return the columns of a frame, renamed.

    Args:
        frame: of pandas or Polars.
        names: what the columns path, label, split, group and sample_weight are called there.

    Raises:
        UserError: there is no such column, none of paths, or two of one name.
    """
    header = [str(column) for column in frame.columns]
    for usual, own in names.items():
        if own not in header:
            raise UserError(
                f"the frame has no column '{own}' ({usual}). It has: {listed(header, 8)}."
            )
    if len(set(header)) < len(header):
        raise UserError(f"the frame has two columns of one name: {listed(header, 8)}.")

    usual = {own: name for name, own in names.items()}
    columns = {usual.get(str(column), str(column)): list(frame[column]) for column in frame.columns}
    plain = {name.strip().lower(): name for name in columns}
    path = next((plain[name] for name in COLUMNS["path"] if name in plain), None)
    if path is None:
        pixels = ""
        if len(header) > MANY_COLUMNS:
            pixels = (
                " Of columns of pixels: data=(frame[pixels].to_numpy().reshape(-1, height, width), "
                "frame['label'])."
            )
        raise UserError(
            f"the frame has no column of paths. It has: {listed(header, 8)}. Expected path and "
            f"label, or columns={{'path': ..., 'label': ...}}.{pixels}"
        )
    return {"path": columns.pop(path), **columns}


def labels_as_columns(labels: np.ndarray | None) -> dict[str, list[Any]]:
    """Return labels (N,) or (N, K) as columns that have no name yet."""
    if labels is None:
        return {}
    rows = labels[:, None] if labels.ndim == 1 else labels
    return {f"{LABEL} {k}": rows[:, k].tolist() for k in range(rows.shape[1])}


def _cell(value: Any) -> str:
    text = str(value) if is_path(value) else text_of(value)
    return "" if text == "nan" else text.strip()
