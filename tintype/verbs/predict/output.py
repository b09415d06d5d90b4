"""Files of answers, written as the answers come, so that a job that was stopped can go on."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from tintype.errors import UserError
from tintype.files.bounded import parse_json, regular_only
from tintype.files.system import lock
from tintype.tasks.contract.predict import Row, Rows

KINDS = (".csv", ".jsonl", ".parquet")
PLACES = ("sorted_to", "heatmap")  # columns that name a file in a folder of the job
# last answers of an earlier part that a resumed job gives again, to see that the model is the same
LOOKED_AT = 8


class Done:
    """The rows that an earlier part of a job wrote, of which a million take sixteen megabytes.

    Attributes:
        count: how many there are.
        last: the last of them, less those of files that cannot be read.
        places: for each column of PLACES the places that were given away, by file.
    """

    def __init__(self) -> None:
        self.count = 0
        self.last: deque[Row] = deque(maxlen=LOOKED_AT)
        self.places: dict[str, dict[str, str]] = {name: {} for name in PLACES}
        self._digests = bytearray()
        self._sorted = np.empty((0, 2), "<u8")

    def add(self, row: Row) -> None:
        """Take note of a row."""
        self.count += 1
        self._digests += _digest(row["file"])
        if not row.get("error"):
            self.last.append(row)
        for name, places in self.places.items():
            if row.get(name):
                places[row["file"]] = row[name]

    def without(self, files: Iterable[str]) -> Iterator[str]:
        """Yield the files that have no row yet."""
        if len(self._sorted) < self.count:
            digests = np.frombuffer(bytes(self._digests), "<u8").reshape(-1, 2)
            self._sorted = digests[np.argsort(digests[:, 0])]

        for file in files:
            if not (self.count and self._holds(file)):
                yield file

    def _holds(self, file: str) -> bool:
        digest = np.frombuffer(_digest(file), "<u8")
        place = int(np.searchsorted(self._sorted[:, 0], digest[0]))
        return place < self.count and bool((self._sorted[place] == digest).all())


def _digest(file: str) -> bytes:
    return hashlib.blake2b(file.encode("utf-8", "surrogateescape"), digest_size=16).digest()


class Output:
    """Rows that are appended to a file in whole lines.

    A kill at any moment costs the rows not yet written, and no other.

    Parquet cannot be appended to. Its rows are kept as JSON lines beside it until the job is done.

    Args:
        path: a .csv, .jsonl or .parquet file.
        rows: how the task writes its answers.
        more: columns of the job, which stand behind those of the task.
        resume: go on with what is there.

    Raises:
        UserError: unknown ending, the file is there already (without `resume`), or it holds
            something else.
    """

    def __init__(
        self, path: Path, rows: Rows, more: Sequence[str] = (), *, resume: bool = False
    ) -> None:
        if path.suffix.lower() not in KINDS:
            taken = (
                f"{path} is there already, and no file of answers: "
                if path.exists()
                else f"--out {path}: "
            )
            raise UserError(f"{taken}expected one that ends in .csv, .jsonl or .parquet.")

        self.path = path
        self.kind = path.suffix.lower()
        self.resume = resume
        self.rows = rows
        self.columns = ["file", *rows.columns, *more, "error"]
        if self.kind == ".parquet":
            import_pyarrow()

        self.journal = (
            path.with_name(f"{path.name}.partial.jsonl") if self.kind == ".parquet" else path
        )
        # With its journal still there, a job was killed between the finished file and the end: it
        # is finished again.
        if self.kind == ".parquet" and resume and path.exists() and not self.journal.exists():
            raise UserError(
                f"{path} is finished, and Parquet cannot be appended to. Choose another --out."
            )

        taken = next((p for p in (path, self.journal) if p.exists() and not resume), None)
        if taken is not None:
            go_on = "" if taken.suffix == ".parquet" else ", or go on with it: --resume"
            raise UserError(
                f"{taken} is there already, and nothing is overwritten. "
                f"Choose another --out{go_on}."
            )

        self._file: Any = None
        self._own = False  # whether this job made the file of rows, or wrote into it
        self.done = Done()
        if resume and self.journal.exists():
            try:
                self._file = self._held("ab")
            except OSError as error:
                raise UserError(
                    f"cannot go on with {self.journal}: {error.strerror}. Give another --out."
                ) from None
            try:
                self.done = self._read()
            except BaseException:
                self.release()
                raise

    def append(self, rows: Sequence[Row]) -> None:
        """Write rows, all of them whole."""
        if rows:
            self._append(rows)

    def begin(self) -> None:
        """Make the file, which may then stay without a row."""
        self._append([])

    def _append(self, rows: Sequence[Row]) -> None:
        try:
            if self._file is None:
                self._file, self._own = self._held("xb"), True
                if self.path != self.journal and self.path.exists():
                    self.discard()
                    raise self._taken_meanwhile()
            if self.kind == ".csv" and not self.journal.stat().st_size:
                self._file.write(_csv_lines([self.columns]))
            self._own = True
            self._write(self._lines(rows))
        except FileExistsError:
            raise self._taken_meanwhile() from None
        except OSError as error:
            raise UserError(
                f"cannot write {self.path}: {error.strerror or error}. "
                "Free some space, then --resume."
            ) from None

    def _held(self, mode: str) -> Any:
        """Open the file of rows and hold it, so that a second process does not write into it.

        Raises:
            OSError: it cannot be opened.
            UserError: another process writes into it.
        """
        file = open(self.journal, mode, buffering=0, opener=regular_only)  # noqa: SIM115
        try:
            lock(file, wait=False)
        except BlockingIOError:
            file.close()
            raise UserError(
                f"another process is writing {self.path}. Wait for it, or choose another --out."
            ) from None
        return file

    def _taken_meanwhile(self) -> UserError:
        return UserError(
            f"{self.path} was made by another process meanwhile, and nothing is overwritten. "
            "Choose another --out."
        )

    def close(self) -> None:
        """Finish the file: flush it to the disk, and turn the rows of a Parquet file into one."""
        if self._file is not None:
            os.fsync(self._file.fileno())
        finished = self.kind == ".parquet" and self.journal.exists()
        if finished:
            self._write_parquet()
        self.release()
        if finished:
            self.journal.unlink(missing_ok=True)

    def release(self) -> None:
        """Let other processes have the file; what is in it stays."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def discard(self) -> None:
        """Take back a file of this job alone, in which there is no answer."""
        if self._file is not None:
            self.release()
            if self._own:
                self.journal.unlink()

    def _write(self, content: bytes) -> None:
        left = memoryview(content)
        while left:  # a disk that is nearly full takes a part
            left = left[self._file.write(left) :]

    def _lines(self, rows: Iterable[Row]) -> bytes:
        if self.kind == ".csv":
            flat = [self.rows.flattened(row) for row in rows]
            return _csv_lines(
                [["" if row.get(c) is None else row[c] for c in self.columns] for row in flat]
            )
        return b"".join(json.dumps(row).encode() + b"\n" for row in rows)

    def _read(self) -> Done:
        """Return what is known of the rows that are there.

        A last one that was not written whole is cut off.
        """
        done = Done()
        whole = 0
        try:
            with open(self.journal, "rb", opener=regular_only) as file:
                for record, whole in records(file, quoted=self.kind == ".csv"):
                    row = self._parsed(record.decode("utf-8", "surrogateescape"), whole)
                    if row is not None:
                        self._check(row)
                        done.add(row)
                size = file.seek(0, os.SEEK_END)
        except OSError as error:
            raise UserError(
                f"cannot go on with {self.journal}: {error.strerror}. Give another --out."
            ) from None
        except (ValueError, csv.Error) as error:
            raise UserError(
                f"cannot go on with {self.journal}: {error}. "
                "Give the same options, or another --out."
            ) from None

        if whole < size:
            os.truncate(self.journal, whole)
        return done

    def _parsed(self, text: str, end: int) -> Row | None:
        """Return the row in a record that ends at a byte of the file; None for one without a row.

        Raises:
            ValueError: it is no row of this job.
        """
        if self.kind != ".csv":
            row = parse_json(text) if text.strip("\n") else None
            if row is not None and not (isinstance(row, dict) and "file" in row):
                raise ValueError("its lines have no file")
            return row

        (line,) = csv.reader(io.StringIO(text, newline=""))
        if end > len(text.encode("utf-8", "surrogateescape")):
            return dict(zip(self.columns, line, strict=True))
        if line != self.columns:
            raise ValueError(f"its columns are {', '.join(line)}")
        return None

    def _write_parquet(self) -> None:
        from tintype.files.whole import written_whole

        pyarrow, parquet = import_pyarrow()
        numbers = {name for name, kind in self.rows.columns.items() if kind is float}
        schema = pyarrow.schema([
            (name, pyarrow.float64() if name in numbers else pyarrow.string())
            for name in self.columns
        ])  # fmt: skip
        with (
            written_whole(self.path) as temporary,
            parquet.ParquetWriter(temporary, schema) as writer,
            open(self.journal, encoding="utf-8") as lines,
        ):
            for rows in _some(map(json.loads, lines), 10_000):
                flat = map(self.rows.flattened, rows)
                values = [{c: _printable(row.get(c)) for c in self.columns} for row in flat]
                writer.write_table(pyarrow.Table.from_pylist(values, schema=schema))

    def _check(self, row: Row) -> None:
        """Refuse a row that tintype did not write so; the file may have come from elsewhere.

        Raises:
            ValueError: what is wrong with it.
        """
        texts = [name for name in self.columns if self.rows.columns.get(name, str) is str]
        if any(not isinstance(row.get(name) or "", str) for name in texts) or not row["file"]:
            raise ValueError("one of its names is no text")

        for name in PLACES:
            _check_place(row, name)
        if not row.get("error"):
            self.rows.check(row)


def _check_place(row: Row, name: str) -> None:
    """Refuse a place that leads out of the folder which the job fills.

    Raises:
        ValueError: it does.
    """
    place = row.get(name) or ""
    if not isinstance(place, str):
        raise ValueError("one of its names is no text")

    parts = place.split("/")
    inside = all(
        part not in ("", ".", "..") and "\\" not in part and "\0" not in part for part in parts
    )
    if place and (not inside or len(parts) > 2 or ":" in parts[0]):
        raise ValueError(
            f"{name} of {row['file']} is '{place}', which is no place that tintype gives"
        )


def _some(items: Iterable[Row], count: int) -> Iterable[list[Row]]:
    some: list[Row] = []
    for item in items:
        some.append(item)
        if len(some) == count:
            yield some
            some = []
    if some:
        yield some


def _printable(value: Any) -> Any:
    """Return what Parquet can hold: names that are no UTF-8 keep a mark where the byte was."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _csv_lines(rows: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def records(file: IO[bytes], *, quoted: bool) -> Iterator[tuple[bytes, int]]:
    """Yield each record that was written whole, with the byte of the file at which it ends.

    In CSV, the end of a line between quotes belongs to a name.
    """
    end = 0
    record = b""
    for line in file:
        record += line
        if not record.endswith(b"\n") or (quoted and record.count(b'"') % 2):
            continue
        end += len(record)
        yield record, end
        record = b""


def import_pyarrow() -> Any:
    """Return pyarrow and its Parquet files.

    Raises:
        UserError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            "Parquet files need pyarrow, which is not installed. Type: "
            "pip install 'tintype[parquet]'"
        ) from None
    return pyarrow, pyarrow.parquet
