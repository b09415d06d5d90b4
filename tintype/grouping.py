"""Which photos belong together: several of one object, the frames of one clip. By their names, or by when they were taken."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tintype.durations import parse_duration
from tintype.errors import UserError

PLACE = "{group}"
EXPECTED = (
    r"Expected {group} where the object's name stands, as in '{group}_*.jpg'; or a regular expression with one "
    r"capturing group, as in '(.+)_\d+\.jpg'; or exif:60s"
)


class Taken(NamedTuple):
    """When a photo was taken, in seconds since some fixed moment, and by which camera ("" where it is not known)."""

    seconds: float
    camera: str


@dataclass(frozen=True)
class Grouping:
    """How photos are put into groups: by what `pattern` captures in a name, or by gaps of more than `seconds`."""

    text: str
    pattern: re.Pattern[str] | None = None
    seconds: float = 0.0

    def of_names(self, names: Sequence[str]) -> list[str]:
        """Return the group of each name, "" where the pattern does not fit."""
        assert self.pattern is not None
        captured = "group" if "group" in self.pattern.groupindex else 1
        found = (self.pattern.search(name.replace("\\", "/")) for name in names)
        return [(match[captured] or "") if match else "" for match in found]

    def of_times(self, taken: Sequence[Taken | None], names: Sequence[str]) -> list[str]:
        """Return the group of each photo, "" where the time is not known.

        Of the photos of one camera a gap of more than `seconds` begins a new group, so that a long burst is one.
        """
        groups = [""] * len(taken)
        cameras: dict[str, list[tuple[float, int]]] = {}
        for i, each in enumerate(taken):
            if each is not None:
                cameras.setdefault(each.camera, []).append((each.seconds, i))

        for photos in cameras.values():
            before, name = -float("inf"), ""
            for seconds, i in sorted(photos):
                if seconds - before > self.seconds:
                    name = f"taken with {names[i]}"
                groups[i], before = name, seconds
        return groups


def parse_groups(text: str) -> Grouping:
    r"""Read how photos are grouped: "{group}_*.jpg", a regular expression with one capturing group, or "exif:60s".

    With {group}, `*` stands for any characters but "/", `?` for one, and case does not count. The pattern fits the end
    of a photo's path below the data's folder, from the beginning of a file's or folder's name. A regular expression
    may fit anywhere in that path. {group} and `.+` take as much as they can, so that what is left out is the last part.

    Raises:
        UserError: it is none of these.
    """
    kind, _, gap = text.partition(":")
    if kind.strip().lower() == "exif":
        try:
            return Grouping(text, seconds=parse_duration(gap))
        except UserError:
            raise UserError(f"'{text}' names no time. Expected one such as exif:60s or exif:5m.") from None
    if PLACE in text:
        if text.count(PLACE) > 1:
            raise UserError(f"'{text}' has {PLACE} more than once. {EXPECTED}.")
        return Grouping(text, re.compile(_from_glob(text), re.IGNORECASE))
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise UserError(f"'{text}' is no regular expression ({error}). {EXPECTED}.") from None
    if pattern.groups != 1 and "group" not in pattern.groupindex:
        count = pattern.groups or "no"
        raise UserError(f"'{text}' has {count} capturing group{'s' if pattern.groups else ''}. {EXPECTED}.")
    return Grouping(text, pattern)


def _from_glob(text: str) -> str:
    parts = re.split(r"(\{group\}|\*+|\?)", text)
    meant = {PLACE: "([^/]+)", "?": "[^/]"}
    body = "".join("[^/]*" if part.startswith("*") else meant.get(part) or re.escape(part) for part in parts)
    return rf"\A(?:.*/)?{body}\Z"


def check_groups(grouping: Grouping, groups: Sequence[str], names: Sequence[str]) -> str:
    """Return a line on the groups that were found (N,), "" for an image that stands alone.

    Raises:
        UserError: no name fits, each image is a group of its own, or all are one group.
    """
    sizes = Counter(group for group in groups if group)
    by_time = grouping.pattern is None
    if not sizes and by_time:
        raise UserError(
            f"groups {grouping.text}: none of the {len(names):,} images says in its EXIF data when it was taken. "
            f"Expected a pattern of their names, as in '{PLACE}_*.jpg'."
        )
    if not sizes:
        raise UserError(
            f"groups '{grouping.text}' fits none of the {len(names):,} names, such as {names[0]}. {EXPECTED}."
        )
    largest = max(sizes.values())
    if largest == len(names) > 1:
        raise UserError(
            f"groups '{grouping.text}' puts all {len(names):,} images into one group ({next(iter(sizes))}), of which "
            "nothing can be held out. Expected several groups, each of which stays on one side of a split."
        )
    if largest == 1 and not by_time:
        raise UserError(
            f"groups '{grouping.text}' makes each image a group of its own: {names[0]} is in group "
            f"'{groups[0] or names[0]}'. Expected the same text for images that belong together."
        )
    if largest == 1:
        return f"groups: none, no two photos of one camera were taken within {grouping.seconds:g} s"

    together = [size for size in sizes.values() if size > 1]
    alone = len(names) - sum(together)
    spread = f"{min(together):,}" if min(together) == largest else f"{min(together):,} to {largest:,}"
    rest = f"; {alone:,} stand{'s' if alone == 1 else ''} alone" if alone else ""
    how = f"by EXIF time, at most {grouping.seconds:g} s apart" if by_time else f"by the names, {grouping.text}"
    return f"groups: {len(together):,} of {spread} images each ({how}){rest}"


def united(one: Sequence[str], other: Sequence[str]) -> list[str]:
    """Return groups (N,) in which images are together that share a group of `one` or of `other`, directly or by others.

    "" stands alone. A joined group has the name of the first of its groups in `other`, or else in `one`.
    """
    parent: dict[tuple[int, str], tuple[int, str]] = {}

    def root(node: tuple[int, str]) -> tuple[int, str]:
        while parent.setdefault(node, node) != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    nodes = [[(kind, str(name)) for kind, name in enumerate(pair) if name] for pair in zip(other, one, strict=True)]
    for linked in nodes:
        if len(linked) == 2:
            first, second = sorted((root(linked[0]), root(linked[1])))
            parent[second] = first
    return [root(linked[0])[1] if linked else "" for linked in nodes]
