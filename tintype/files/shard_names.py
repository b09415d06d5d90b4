"""How people name many shards at once: addresses, patterns with *, and ranges in braces."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path

from tintype.errors import UserError

ENDINGS = (".tar", ".parquet")
INDEX = ".index"  # is added to the name of a shard
THUMBS = ".thumbs"
MOST_SHARDS = 1_000_000
LOOKED_AT = 1000  # entries of a folder that are looked at before it is taken for photos

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MARKS = re.compile(r"[*?\[{]")


def is_address(text: str) -> bool:
    """Return whether a text is the address of something elsewhere, such as s3://bucket/a.tar."""
    return _ADDRESS.match(text) is not None


def names_shards(text: str) -> bool:
    """Return whether a text names shards: files .tar or .parquet, patterns of them, an address.

    So does a folder that holds shards directly, and neither pictures nor folders.
    """
    if is_address(text) or any(part.lower().endswith(ENDINGS) for part in _alternatives(text)):
        return True
    return holds_shards(Path(text).expanduser()) if text else False


def holds_shards(folder: Path) -> bool:
    """Return whether a folder holds shards directly, and nothing but them and what describes them.

    It is not read to its end where it holds thousands of files.
    """
    found = False
    try:
        with os.scandir(folder) as entries:
            for entry in itertools.islice(entries, LOOKED_AT):
                name = entry.name.lower()
                if name.startswith(".") or name.endswith((INDEX, THUMBS, ".md", ".json", ".txt")):
                    continue
                if not name.endswith(ENDINGS):
                    return False
                found = True
    except OSError:
        return False
    return found


def expanded(pattern: str) -> list[str]:
    """Return what a pattern with braces stands for: a-{00..02}.tar, or a-{x,y}.tar.

    Raises:
        UserError: it stands for more than a million names.
    """
    found = [pattern]
    while any(_BRACES.search(name) for name in found):
        found = [one for name in found for one in _first_braces_of(name)]
        if len(found) > MOST_SHARDS:
            raise UserError(f"'{pattern}' stands for more than {MOST_SHARDS:,} shards.")
    return found


def _first_braces_of(name: str) -> list[str]:
    match = _BRACES.search(name)
    if match is None:
        return [name]
    inner = _RANGE.fullmatch(match[1])
    if inner is None:
        parts = match[1].split(",")
    else:
        first, last = int(inner[1]), int(inner[2])
        if last - first >= MOST_SHARDS:
            raise UserError(f"'{name}' stands for more than {MOST_SHARDS:,} shards.")
        parts = [str(number).zfill(len(inner[1])) for number in range(first, last + 1)]
    return [name[: match.start()] + part + name[match.end() :] for part in parts]


def _alternatives(text: str) -> list[str]:
    """Return a few of the names that a pattern stands for: those with the ends of its braces."""
    names = [text]
    while len(names) < 100 and (match := next(filter(None, map(_BRACES.search, names)), None)):
        names = [
            name.replace(match[0], part, 1) for name in names for part in match[1].split(",")[:2]
        ]
    return names


def as_pattern(paths: Sequence[str]) -> str:
    """Return one pattern that `expanded` turns into these paths again, in their order.

    Consecutive numbers become a range, as in shards/train-{000..146}.tar.
    """
    if len(paths) == 1:
        return paths[0]
    start = _common_start(paths)
    end = _common_start([path[len(start) :][::-1] for path in paths])[::-1]
    middles = [path[len(start) : len(path) - len(end)] for path in paths]

    # digits that all have in common belong to the number
    digits = re.search(r"\d*$", start)
    common = digits[0] if digits else ""
    after = re.match(r"\d*", end)
    behind = after[0] if after else ""
    numbers = [common + middle + behind for middle in middles]
    if all(number.isdecimal() and len(number) == len(numbers[0]) for number in numbers):
        first = int(numbers[0])
        if [int(number) for number in numbers] == list(range(first, first + len(numbers))):
            spread = f"{{{numbers[0]}..{numbers[-1]}}}"
            return start[: len(start) - len(common)] + spread + end[len(behind) :]
    return f"{start}{{{','.join(middles)}}}{end}"


def _common_start(texts: Sequence[str]) -> str:
    alike = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*texts, strict=False))
    return "".join(letters[0] for letters in alike)


def absolute(pattern: str) -> str:
    """Return a pattern that holds from every folder; an address stays as it is."""
    if is_address(pattern):
        return pattern
    return os.path.abspath(os.path.expanduser(pattern))


def plain_name(pattern: str) -> str:
    """Return what shards are called in a few letters: "train" for s3://b/train-{000..146}.tar."""
    *folders, last = re.split(r"[/\\]", pattern.rstrip("/\\"))
    for part in (last, *reversed(folders)):
        cut = _MARKS.split(part)[0]
        for ending in ENDINGS:
            cut = cut.removesuffix(ending)
        cut = cut.strip("-_. ")
        if cut and not cut.endswith(":"):
            return cut
    return "shards"
