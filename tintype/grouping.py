"""Which photos belong together: several of one object, the frames of one clip.

By their names, or by when they were taken.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from tintype.errors import UserError
from tintype.progress import parse_duration

PLACE = "{group}"
EXPECTED = (
    r"Expected {group} where the object's name stands, as in '{group}_*.jpg'; "
    r"or a regular expression with one capturing group, as in '(.+)_\d+\.jpg'; or exif:60s"
)


class Taken(NamedTuple):
    """When a photo was taken, in seconds since a fixed moment, and the camera ("" if unknown)."""

    seconds: float
    camera: str


@dataclass(frozen=True)
class Grouping:
    """A rule for groups: what `pattern` captures in a name, or gaps of more than `seconds`."""

    text: str
    pattern: re.Pattern[str] | None = None
    seconds: float = 0.0

    def of_names(self, names: Sequence[str]) -> list[str]:
        """Return the group of each name, "" if the pattern does not match."""
        assert self.pattern is not None
        captured = "group" if "group" in self.pattern.groupindex else 1
        found = (self.pattern.search(name.replace("\\", "/")) for name in names)
        return [(match[captured] or "") if match else "" for match in found]

    def of_times(self, taken: Sequence[Taken | None], names: Sequence[str]) -> list[str]:
        """Return the group of each photo, "" if its time is unknown.

        Among the photos of one camera, a gap of more than `seconds` begins a new group, so that a
        long burst is one group.
        """
        groups = [""] * len(taken)
        cameras: dict[str, list[tuple[float, int]]] = {}
        for i, each in enumerate(taken):
            if each is not None:
                cameras.setdefault(each.camera, []).append((each.seconds, i))

        for photos in cameras.values():
            before = -float("inf")
            name = ""
            for seconds, i in sorted(photos):
                if seconds - before > self.seconds:
                    name = f"taken with {names[i]}"
                groups[i] = name
                before = seconds
        return groups


def parse_groups(text: str) -> Grouping:
    r"""Read a rule for groups.

    It is "{group}_*.jpg", a regular expression with one capturing group, or "exif:60s".

    With {group}, `*` stands for any characters but "/", `?` for one, and case does not count. The
    pattern fits the end of a photo's path below the data's folder, from the beginning of a file's
    or folder's name. A regular expression may fit anywhere in that path. {group} and `.+` take as
    much as they can, so that what is left out is the last part.

    Raises:
        UserError: it is none of these.
    """
    kind, _, gap = text.partition(":")
    if kind.strip().lower() == "exif":
        try:
            return Grouping(text, seconds=parse_duration(gap))
        except UserError:
            raise UserError(
                f"'{text}' names no time. Expected one such as exif:60s or exif:5m."
            ) from None

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
        raise UserError(
            f"'{text}' has {count} capturing group{'s' if pattern.groups else ''}. {EXPECTED}."
        )

    return Grouping(text, pattern)


def _from_glob(text: str) -> str:
    parts = re.split(r"(\{group\}|\*+|\?)", text)
    meant = {PLACE: "([^/]+)", "?": "[^/]"}
    body = "".join(
        "[^/]*" if part.startswith("*") else meant.get(part) or re.escape(part) for part in parts
    )
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
            f"groups {grouping.text}: none of the {len(names):,} images says in its EXIF data "
            f"when it was taken. Expected a pattern of their names, as in '{PLACE}_*.jpg'."
        )
    if not sizes:
        raise UserError(
            f"groups '{grouping.text}' fits none of the {len(names):,} names, "
            f"such as {names[0]}. {EXPECTED}."
        )

    largest = max(sizes.values())
    if largest == len(names) > 1:
        raise UserError(
            f"groups '{grouping.text}' puts all {len(names):,} images into one group "
            f"({next(iter(sizes))}), of which nothing can be held out. "
            "Expected several groups, each of which stays on one side of a split."
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
    spread = f"{min(together):,}"
    if min(together) < largest:
        spread += f" to {largest:,}"

    rest = ""
    if alone:
        rest = f"; {alone:,} stand{'s' if alone == 1 else ''} alone"
    how = f"by the names, {grouping.text}"
    if by_time:
        how = f"by EXIF time, at most {grouping.seconds:g} s apart"
    return f"groups: {len(together):,} of {spread} images each ({how}){rest}"


def united(one: Sequence[str], other: Sequence[str]) -> list[str]:
    """Join groups (N,): images that share a group of `one` or of `other`, even indirectly.

    "" stands alone. A joined group is named after the first of its groups in `other`, or else in
    `one`.
    """
    parent: dict[tuple[int, str], tuple[int, str]] = {}

    def root(node: tuple[int, str]) -> tuple[int, str]:
        while parent.setdefault(node, node) != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    nodes = [
        [(kind, str(name)) for kind, name in enumerate(pair) if name]
        for pair in zip(other, one, strict=True)
    ]
    for linked in nodes:
        if len(linked) == 2:
            first, second = sorted((root(linked[0]), root(linked[1])))
            parent[second] = first
    return [root(linked[0])[1] if linked else "" for linked in nodes]


@dataclass(frozen=True)
class Suggestion:
    """Groups that names or times suggest: what to type, and what it gives.

    `groups` (N,) names the group of each image, "" for one that stands alone.
    """

    text: str
    reason: str
    groups: list[str]

    @property
    def option(self) -> str:
        """What to type after `tintype train DATA`."""
        return f"--groups {shlex.quote(self.text)}"

    @property
    def sizes(self) -> list[int]:
        """How many images the groups of two and more have, the largest first."""
        return [
            size
            for _, size in Counter(group for group in self.groups if group).most_common()
            if size > 1
        ]

    @property
    def median(self) -> int:
        """The median of `sizes`."""
        return self.sizes[len(self.sizes) // 2]

    def line(self) -> str:
        """Return one line for the user."""
        return (
            f"{self.reason}: {len(self.sizes):,} groups, half of them of {self.median:,} images or "
            f"more. If these belong together, type {self.option}; "
            "without it each image counts as independent"
        )


# A suggestion needs so many groups, so many in a class, and so large a share of the photos.
FEWEST_GROUPS = 5
FEWEST_IN_CLASS = 3
LEAST_SHARE = 0.5
# With this many groups the coarsest candidate wins (the clip rather than the frame, which may have
# several crops).
ENOUGH_GROUPS = 10
# Of many names, blocks are sampled: names that belong together are neighbours.
BLOCKS = 10
BLOCK = 500
# A burst: seconds between photos, and the share of photos in bursts. No single moment may hold more
# than half of the photos (scanners give all the same one).
BURST = 5.0
BURST_SHARE = 0.3

_SEPARATOR = re.compile(r"[ _.\-()+~,#]+")
_MOMENT = re.compile(
    r"(?<!\d)(?:19|20)\d\d[-_.]?(?:0[1-9]|1[0-2])[-_.]?(?:0[1-9]|[12]\d|3[01])"
    r"(?:[-_. T]+(?:at )?(?:[01]\d|2[0-3])[-_.:h]?[0-5]\d"
    r"(?:[-_.:m]?[0-5]\d(?:[-_.]?\d{3})?)?)?(?!\d)"
)
# Roboflow's: the picture's own name stands before it
_EXPORTED = re.compile(r"\.rf\.[0-9a-zA-Z]{16,}$")
_EDGES = " _.-()+~,#"
_TURN = re.compile(r"(?<=\d)(?=[A-Za-z])")


def suggest_by_names(names: Sequence[str], labels: Sequence[object]) -> Suggestion | None:
    """Return the groups that the names (N,) of images of some classes (N,) suggest, or None.

    A name such as cat_012_1 or clip3_frame0001 has a number before its last part. That is a group
    where it recurs within a class, and where a class has several: `glass1` to `glass501`,
    `IMG_0001` and `Abyssinian_12` have none, `7_0012` has one for each class, and a date or a time
    is no object. Inner folders with a number are groups as well.
    """
    if len(names) < 2 * FEWEST_GROUPS:
        return None

    sample = _sample(len(names))
    some = [names[i] for i in sample]
    classes = [labels[i] for i in sample]

    folders = [name.rpartition("/")[0] for name in some]
    numbered = [re.search(r"\d", folder.rpartition("/")[2]) is not None for folder in folders]
    candidates: dict[str, list[str]] = {}
    if sum(numbered) >= LEAST_SHARE * len(some):
        candidates["(.+)/"] = folders

    cuts: dict[str, dict[int, str]] = {}
    for i, name in enumerate(some):
        for cut in _cuts(name.rpartition("/")[2]):
            cuts.setdefault(cut.pattern, {})[i] = cut.head
    for pattern, heads in cuts.items():
        if len(heads) >= LEAST_SHARE * len(some):
            candidates[pattern] = [heads.get(i, "") for i in range(len(some))]

    valid = {
        pattern: groups for pattern, groups in candidates.items() if _are_groups(groups, classes)
    }
    if not valid:
        return None

    counts = {pattern: len(set(groups)) for pattern, groups in valid.items()}
    enough = [pattern for pattern, count in counts.items() if count >= ENOUGH_GROUPS]
    pattern = min(enough, key=counts.__getitem__) if enough else max(counts, key=counts.__getitem__)

    endings = {name.rpartition(".")[2].lower() for name in names}
    if len(endings) == 1 and pattern.endswith(".*") and not pattern.endswith(".rf.*"):
        pattern = f"{pattern[:-1]}{endings.pop()}"
    groups = parse_groups(pattern).of_names(names)
    found = Suggestion(pattern, "", groups)
    if not found.sizes:
        return None

    largest = Counter(group for group in groups if group).most_common(1)[0][0]
    members = [name for name, group in zip(names, groups, strict=True) if group == largest][:2]
    return replace(found, reason=f"the names suggest groups, as {' and '.join(members)}")


def _sample(count: int) -> list[int]:
    if count <= BLOCKS * BLOCK:
        return list(range(count))
    starts = [block * (count - BLOCK) // (BLOCKS - 1) for block in range(BLOCKS)]
    return [i for start in starts for i in range(start, start + BLOCK)]


class _Cut(NamedTuple):
    """A place where a name may be divided: the pattern that does so, and what stands before."""

    pattern: str
    head: str


def _cuts(file: str) -> list[_Cut]:
    """Return where a file name may end its group's name, which has a number in it."""
    stem, dot, ending = file.rpartition(".")
    stem, ending = (stem, f".{ending}") if dot and len(ending) <= 5 else (file, "")
    exported = _EXPORTED.search(stem)
    if exported:
        return [_Cut(f"{PLACE}.rf.*", stem[: exported.start()])]

    masked = _MOMENT.sub(_mask, stem)
    parts = [part for part in _SEPARATOR.split(masked) if part]
    cuts = []
    tail = stem[len(stem.rstrip(_EDGES)) :]
    for number in range(len(parts) - 1, 0, -1):
        start = _start_of(masked, parts, number)
        gap = _gap_before(masked, start)
        tail = f"{gap}*{tail}"
        head = stem[: start - len(gap)]
        if re.search(r"[\d%]", masked[: start - len(gap)]):
            cuts.append(_Cut(f"{PLACE}{tail}{ending and '.*'}", head))

    turn = _TURN.search(parts[-1]) if parts and not _is_code(parts[-1]) else None
    if turn:  # 012a, clip3frame1: the last part begins with a letter after a digit
        at = len(masked.rstrip(_EDGES)) - len(parts[-1]) + turn.start()
        cuts.append(_Cut(r"([^/]*\d)[A-Za-z]+\d*(?:\.\w+)?$", stem[:at]))
    return cuts


def _mask(moment: re.Match[str]) -> str:
    """Return a moment without digits: a date is no object, a time is one only if more follows."""
    return ("@" if sum(c.isdigit() for c in moment[0]) <= 8 else "%") * len(moment[0])


def _start_of(text: str, parts: Sequence[str], number: int) -> int:
    at = 0
    for part in parts[: number + 1]:
        start = text.index(part, at)
        at = start + len(part)
    return start


def _gap_before(text: str, start: int) -> str:
    before = text[:start]
    return before[len(before.rstrip(_EDGES)) :]


def _is_code(part: str) -> bool:
    """Return whether a part of a name is a code, in which digits and letters change at random."""
    return len(re.findall(r"\d+|[A-Za-z]+", part)) > 4


def _are_groups(groups: Sequence[str], classes: Sequence[object]) -> bool:
    """Return whether what was found is more than a class's name with a running number."""
    sizes = Counter((label, group) for label, group in zip(classes, groups, strict=True) if group)
    together = {key: size for key, size in sizes.items() if size > 1}
    if len({group for _, group in together}) < FEWEST_GROUPS:
        return False
    if sum(together.values()) < LEAST_SHARE * len(groups):
        return False
    if 2 * len(together) < len(sizes):  # most of what was found is alone
        return False
    in_class = Counter(label for label, _ in sizes)
    many = sum(size for (label, _), size in sizes.items() if in_class[label] >= FEWEST_IN_CLASS)
    return many >= LEAST_SHARE * len(groups)


def suggest_by_times(taken: Sequence[Taken | None], names: Sequence[str]) -> Suggestion | None:
    """Return the groups that bursts of photos suggest, or None.

    A moment that most photos share says nothing.
    """
    known = Counter(each for each in taken if each is not None)
    if not known or known.most_common(1)[0][1] > len(names) / 2:
        return None

    text = f"exif:{BURST:g}s"
    found = Suggestion(text, "", parse_groups(text).of_times(taken, names))
    if len(found.sizes) < FEWEST_GROUPS or sum(found.sizes) < BURST_SHARE * len(names):
        return None
    return replace(
        found, reason=f"many photos were taken within {BURST:g} s of another by the same camera"
    )
