"""Shards: a part of the photos for each of many processes, and their answers joined again.

A photo belongs to a shard by a hash of its name. Beside its file of answers a shard has a note,
NAME.shard.json: which shard of which list by which model, and where in the list its photos stand.
A shard with as many answers is finished.
"""

from __future__ import annotations

import csv
import hashlib
import heapq
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tintype.errors import UserError
from tintype.files.bounded import read_json_object, regular_only
from tintype.files.whole import write_json, written_whole
from tintype.verbs.predict.output import KINDS, import_pyarrow, records

MOST_NAMED = 8  # missing shards in a message
SAME = {  # what the shards of one prediction have in common, and what differs where they do not
    "model": "different models",
    "names": "different lists of photos",
    "asked": "different options",
    "shards": "different numbers of shards",
}

# The types of a note's values.
TYPES = {
    "shard": int, "shards": int, "model": str, "asked": dict, "names": str, "total": int,
    "positions": list,
}  # fmt: skip


@dataclass(frozen=True)
class Shard:
    """One of `count` parts of a list, by `number` from 1 on."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read "3/64".

        Raises:
            UserError: it is none.
        """
        number, _, count = text.partition("/")
        if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            raise UserError(
                f"--shard is '{text}'. Expected which of how many, from 1/64 to 64/64, as in 3/64."
            )
        return cls(int(number), int(count))

    def takes(self, name: str) -> bool:
        """Return whether a photo belongs to this shard."""
        digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
        return int.from_bytes(digest, "little") % self.count == self.number - 1


class ShardNote:
    """The note beside the answers of a shard.

    Args:
        out: the file of answers.
        shard: which one it is.
        model: the file or folder of the model.
        asked: options that the answers depend on.
        names: all photos, of all shards.
        resume: go on with what is there.

    Raises:
        UserError: the answers that are there are those of another shard, list or model.
    """

    def __init__(
        self,
        out: Path,
        shard: Shard,
        model: Path,
        asked: Mapping[str, Any],
        names: Sequence[str],
        *,
        resume: bool,
    ) -> None:
        self.path = note_of(out)
        names = list(dict.fromkeys(names))
        positions = [place for place, name in enumerate(names) if shard.takes(name)]
        self.names = [names[place] for place in positions]
        self.says: dict[str, Any] = {
            "shard": shard.number,
            "shards": shard.count,
            "model": digest_of(model),
            "asked": dict(asked),
            "names": _digest(name.encode("utf-8", "surrogateescape") + b"\0" for name in names),
            "total": len(names),
            "positions": positions,
        }

        before = _read(self.path) if self.path.exists() else None
        if before is None and resume and out.exists():
            raise UserError(f"{out} was begun without --shard. Choose another --out.")
        if before is not None and not resume:
            raise UserError(
                f"{self.path} is there already, and nothing is overwritten. "
                "Choose another --out, or go on with it: --resume."
            )
        if before is not None and any(before.get(key) != self.says[key] for key in self.says):
            raise UserError(
                f"{out} was begun as shard {before.get('shard')}/{before.get('shards')} of "
                f"{before.get('total')} photos, or with another model, list or options. "
                "Give the same, or another --out."
            )

    def write(self) -> None:
        """Write the note, before the first answer."""
        write_json(self.path, self.says)


def note_of(out: Path) -> Path:
    """Return the path of the note beside a file of answers."""
    return out.with_name(f"{out.name}.shard.json")


def digest_of(model: Path) -> str:
    """Return a digest of a model: of its exported file, or of the weights and the form of a run.

    Raises:
        UserError: there is no such model.
    """
    from tintype.runs.folder import RunFolder

    if model.is_file() and model.suffix != ".zip":
        files = [model]
    else:
        folder = RunFolder.open(model).path
        files = [folder / "model.json", folder / "model.safetensors"]
    return _digest(file.read_bytes() for file in files if file.is_file())


def merge(paths: Sequence[Path], out: Path | None) -> int:
    """Join the answers of all shards into the file that one process would have written.

    Returns the number of rows.

    Raises:
        UserError: a shard is missing, stands twice, is not finished or is one of another
            prediction; or `out` is there already.
    """
    paths = [path for path in paths if not path.name.endswith(".shard.json")]
    if out is None:
        raise UserError("--merge joins shards into one file. Name it: --out answers.jsonl")
    kind = out.suffix.lower()
    if kind not in KINDS or any(path.suffix.lower() != kind for path in paths):
        raise UserError(
            f"--out {out}: expected the ending of the shards, one of .csv, .jsonl and .parquet."
        )
    if out.exists():
        raise UserError(
            f"{out} is there already, and nothing is overwritten. Choose another --out."
        )

    notes = {path: _read_beside(path) for path in paths}
    _check_one_of_each(notes)
    if kind == ".parquet":
        _merge_parquet(notes, out)
    else:
        _merge_lines(notes, out, kind)
    return next(iter(notes.values()))["total"]


def _check_one_of_each(notes: Mapping[Path, Mapping[str, Any]]) -> None:
    first, *others = notes
    for path in others:
        for key, difference in SAME.items():
            if notes[path][key] != notes[first][key]:
                raise UserError(f"{first} and {path} are shards of {difference}. Merge them apart.")

    found: dict[int, Path] = {}
    for path, note in notes.items():
        if (number := note["shard"]) in found:
            raise UserError(
                f"{found[number]} and {path} are both shard {number}. Leave one of them out."
            )
        found[number] = path
    count = notes[first]["shards"]
    missing = [str(number) for number in range(1, count + 1) if number not in found]
    if missing:
        named = ", ".join(missing[:MOST_NAMED])
        more = f" and {len(missing) - MOST_NAMED} more" if len(missing) > MOST_NAMED else ""
        raise UserError(
            f"of {count} shards {len(missing)} are missing: {named}{more}. "
            f"Predict them first: --shard {missing[0]}/{count}"
        )


def _merge_lines(notes: Mapping[Path, Mapping[str, Any]], out: Path, kind: str) -> None:
    with ExitStack() as stack, written_whole(out) as temporary, open(temporary, "wb") as merged:
        streams, headers = [], {}
        for path, note in notes.items():
            file = stack.enter_context(open(path, "rb", opener=regular_only))
            lines = (line for line, _ in records(file, quoted=kind == ".csv"))
            if kind == ".csv":
                headers[next(lines, b"")] = path
            named = ((_name_in(line, kind), line) for line in lines)
            streams.append(_placed(path, note, named))
        if len(headers) > 1:
            one, other = list(headers.values())[:2]
            raise UserError(f"{one} and {other} have different columns. Merge them apart.")
        merged.writelines(headers)
        merged.writelines(line for _, line in heapq.merge(*streams))


def _merge_parquet(notes: Mapping[Path, Mapping[str, Any]], out: Path) -> None:
    pyarrow, parquet = import_pyarrow()
    tables = {path: parquet.read_table(path) for path in notes}
    rows = heapq.merge(
        *(
            _placed(path, note, ((row["file"], row) for row in tables[path].to_pylist()))
            for path, note in notes.items()
        ),
        key=lambda placed: placed[0],
    )
    schema = next(iter(tables.values())).schema
    ordered = [row for _, row in rows]
    with written_whole(out) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        for start in range(0, len(ordered), 10_000):
            some = ordered[start : start + 10_000]
            writer.write_table(pyarrow.Table.from_pylist(some, schema=schema))


def _placed(
    path: Path, note: Mapping[str, Any], rows: Iterable[tuple[str, Any]]
) -> Iterator[tuple[int, Any]]:
    """Yield each row with its place in the whole list.

    Raises:
        UserError: there are more or fewer rows than photos, or one of another shard.
    """
    shard, count = Shard(note["shard"], note["shards"]), 0
    for count, (name, row) in enumerate(rows, 1):
        if count > len(note["positions"]) or not shard.takes(name):
            raise UserError(f"{path} holds answers that are not its own. Predict the shard again.")
        yield note["positions"][count - 1], row
    if count < len(note["positions"]):
        raise UserError(
            f"{path} is not finished: it has {count} answers of {len(note['positions'])}. "
            "Type its command again with --resume."
        )


def _name_in(line: bytes, kind: str) -> str:
    text = line.decode("utf-8", "surrogateescape")
    try:
        return (
            json.loads(text)["file"] if kind == ".jsonl" else next(csv.reader(io.StringIO(text)))[0]
        )
    except (ValueError, KeyError, TypeError, IndexError, StopIteration):
        return ""


def _read_beside(path: Path) -> dict[str, Any]:
    """Return the note of a shard.

    Raises:
        UserError: there is none.
    """
    if not path.exists():
        raise UserError(f"there is no file {path}.")
    if not note_of(path).exists():
        raise UserError(
            f"{path} is no shard: {note_of(path).name} is missing beside it. "
            "Expected files of: tintype predict RUN LIST --shard 1/64 --out FILE"
        )
    return _read(note_of(path))


def _read(path: Path) -> dict[str, Any]:
    try:
        note = read_json_object(path)
        if not all(isinstance(note[key], kind) for key, kind in TYPES.items()):
            raise ValueError("it is no note of a shard")
        return note
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is broken ({error}). Predict the shard again.") from None


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
