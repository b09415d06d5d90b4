"""Tar shards as WebDataset writes them: files of one name are one sample, 0001.jpg and 0001.json.

The label lies in a .json (an object) or a .cls (a text) of that name. The archive is not
compressed, so that every image can be read where it lies.
"""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

from tintype.data.decode import EXTENSIONS
from tintype.data.shards.members import Member, as_cells
from tintype.errors import UserError
from tintype.files.bounded import parse_json

MOST_LABEL_BYTES = 1_000_000
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}
CLASS_COLUMN = "cls"


def list_members(path: Path, name: str) -> list[Member]:
    """Return the images of a tar file in their order, with what their samples say of them.

    Raises:
        UserError: it is no tar file, or it is compressed or truncated.
    """
    samples: dict[str, dict[str, Any]] = {}
    images: dict[str, tuple[str, int, int]] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if not member.isfile() or member.name.rpartition("/")[2].startswith("."):
                    continue
                key, ending = _divided(member.name)
                if f".{ending}" in EXTENSIONS:
                    images.setdefault(key, (member.name, member.offset_data, member.size))
                elif ending in ("json", CLASS_COLUMN) and member.size <= MOST_LABEL_BYTES:
                    file = archive.extractfile(member)
                    text = b"" if file is None else file.read()
                    samples.setdefault(key, {}).update(_said(text, ending, f"{name}/{member.name}"))
    except tarfile.TarError as error:
        raise UserError(f"{name} cannot be read: {_reason(path, error)}.") from None

    _refuse_cut_short(path, name, images)
    return [
        Member(file, offset, size, as_cells(samples.get(key, {})))
        for key, (file, offset, size) in images.items()
    ]


def _divided(file: str) -> tuple[str, str]:
    """Return the name of a sample and the ending, which begins at the first dot after a slash."""
    folder, slash, last = file.rpartition("/")
    stem, _, ending = last.partition(".")
    return folder + slash + stem, ending.lower()


def _said(content: bytes, ending: str, where: str) -> dict[str, Any]:
    """Return what a .json or a .cls says."""
    try:
        text = content.decode("utf-8")
        if ending == CLASS_COLUMN:
            return {CLASS_COLUMN: text.strip()}
        found = parse_json(text)
    except ValueError:
        raise UserError(f"{where} is no {ending} in UTF-8 that can be read.") from None
    return found if isinstance(found, dict) else {CLASS_COLUMN: found}


def _reason(path: Path, error: Exception) -> str:
    with open(path, "rb") as file:
        start = file.read(2)
    for magic, kind in COMPRESSED.items():
        if start == magic:
            return f"it is compressed ({kind}), and images are read where they lie: unpack it"
    if "unexpected end" in str(error):
        return "it is truncated"
    return f"it is no tar file ({error})"


def _refuse_cut_short(path: Path, name: str, images: dict[str, tuple[str, int, int]]) -> None:
    end = max((offset + size for _, offset, size in images.values()), default=0)
    if end > path.stat().st_size:
        raise UserError(f"{name} cannot be read: it is truncated.")
