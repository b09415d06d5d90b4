"""What is wrong, or worth a look, in a data set: each check is a function that gives findings."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tintype.data.duplicates import (
    Duplicates,
    NearPairs,
    exact_copies,
    joined,
    members,
    near_pairs,
)
from tintype.grouping import Suggestion, Taken, suggest_by_names, suggest_by_times
from tintype.progress import Progress
from tintype.verbs.audit.copies import Pair, SecondLook, look_again
from tintype.verbs.audit.files import TINY, Inspected, full_pixels, in_colour

BLANK = 3.0  # largest deviation of a channel (0..128) at which nothing can be seen
# mean grey value (0..255), and less than a quarter of the usual: digits on black are dark as a
# whole
DARK = 25.0
# see files.blur: no photo of TrashNet or pets reaches it; blurred by 3 pixels of 213, 95 % of them
# do
BLURRED = 0.6
SMALL = 64  # short side in pixels, and less than half of the usual
ASPECT = 3.0  # long side over short side, and twice the usual
MOST_PIXELS_READ = 2000  # pictures decoded in full to tell copies of pixels from near-duplicates


@dataclass(frozen=True)
class Item:
    """One picture of a finding, or several that belong together: positions (or none), names and a
    remark.
    """

    names: tuple[str, ...]
    remark: str = ""
    rows: tuple[int, ...] = ()


@dataclass(frozen=True)
class Finding:
    """Something found: `serious` makes a figure wrong or loses images, the rest is worth a look.

    `suggestion` holds what may be done about it, as plain data: `groups`, the `option` to type, and
    what it gives.
    """

    kind: str
    title: str
    text: str
    serious: bool = False
    items: tuple[Item, ...] = field(default=())
    suggestion: dict[str, Any] | None = None

    @property
    def num_images(self) -> int:
        """How many different images or files it concerns."""
        return len({name for item in self.items for name in item.names})


@dataclass(frozen=True)
class Twins:
    """Duplicates in the set: which belong together, and how alike each pair is."""

    duplicates: Duplicates
    same_bytes: np.ndarray  # (N,) first image with the same bytes
    near: NearPairs
    second: SecondLook = field(default_factory=SecondLook)

    @property
    def copied(self) -> np.ndarray:
        """Groups (N,) of all that shows the same picture, altered or not."""
        return self.second.copied(self.duplicates.group)

    @property
    def together(self) -> np.ndarray:
        """Groups (N,) of all that shows the same picture, object or scene."""
        group = self.duplicates.group
        return self.second.together(group, np.zeros(len(group), np.int64))


def find_twins(
    inspected: Inspected, progress: Progress | None = None, *, second_look: bool = True
) -> Twins:
    """Return the exact copies (of bytes, of pixels) and near-duplicates of a data set.

    With `second_look`, copies that hashes miss and objects that were photographed again as well.
    """
    digests = inspected.facts["digest"]
    first: dict[bytes, int] = {}
    same_bytes = np.array(
        [first.setdefault(digest.tobytes(), i) for i, digest in enumerate(digests)], np.int64
    )
    alone = np.flatnonzero(same_bytes == np.arange(len(same_bytes)))
    looks = exact_copies(inspected.thumbs)
    near = near_pairs(
        inspected.thumbs,
        alone[_comparable(inspected, alone)],
        (lambda done, total: progress("comparing pairs", done, total)) if progress else None,
    )
    # Equal thumbnails are candidates too: pictures that are small, or flat.
    candidates = joined(joined(same_bytes, near.pairs), _pairs_of(looks[alone], alone))
    copies = joined(same_bytes, _equal_pixels(inspected, candidates, same_bytes))

    duplicates = Duplicates.of(copies, near)
    second = SecondLook()
    if second_look and not near.alike:
        # Not the first of each group alone: hashes of photos in one frame may agree by the frame.
        second = look_again(inspected, duplicates.copy_of, progress)
    return Twins(duplicates, same_bytes, near, second)


def _comparable(inspected: Inspected, rows: np.ndarray) -> np.ndarray:
    """Return which images are large enough for near-duplicates: 48 pixels, or 32 in colour.

    On CIFAR-10 (32x32, colour) nearly all of the 250 pairs found are indeed the same photo; among
    small grey drawings (digits, letters, clothing) hardly any would be.
    """
    return inspected.short_side[rows] >= (32 if in_colour(inspected.thumbs) else TINY)


def _pairs_of(group: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the pairs (first, member) of groups given by a label for each row."""
    first: dict[int, int] = {}
    pairs = [
        (first.setdefault(label, row), row)
        for label, row in zip(group.tolist(), rows.tolist(), strict=True)
    ]
    return np.array([pair for pair in pairs if pair[0] != pair[1]], np.int64).reshape(-1, 2)


def _equal_pixels(
    inspected: Inspected, candidates: np.ndarray, same_bytes: np.ndarray
) -> np.ndarray:
    """Return pairs of images in one candidate group whose pixels are equal, though their bytes
    differ.
    """
    width, height = inspected.facts["width"], inspected.facts["height"]
    sizes: dict[tuple[int, int, int], list[int]] = {}
    for i in np.flatnonzero(same_bytes == np.arange(len(same_bytes))).tolist():
        sizes.setdefault((int(candidates[i]), int(width[i]), int(height[i])), []).append(i)

    pairs, num_read = [], 0
    for rows in sizes.values():
        num_read += len(rows)
        if len(rows) < 2 or num_read > MOST_PIXELS_READ:
            continue
        contents: dict[bytes, int] = {}
        for i in rows:
            pixels = full_pixels(inspected, i)
            if pixels is not None:
                first = contents.setdefault(pixels.tobytes(), i)
                if first != i:
                    pairs.append((first, i))

    return np.array(pairs, np.int64).reshape(-1, 2)


# Title and text of what `duplicate_findings` finds, the worst first.
OF_DUPLICATES = {
    "contradictory": (
        "Same picture, different labels",
        "A model cannot learn both, and whichever it says, one counts as a mistake.",
    ),
    "leak": (
        "Same picture on both sides of a split",
        "What a model has seen in training says nothing of new pictures: "
        "figures on these images flatter.",
    ),
    "copies": ("Exact copies", "Files with equal bytes or equal pixels count several times."),
    "near": (
        "Near-duplicates",
        "The same picture resized, saved again, mirrored, or taken twice in a row. When "
        "tintype makes the split, they stay on one side.",
    ),
    "mirrored": (
        "Mirrored pictures, different labels",
        "No contradiction where classes differ by left and right. Training looks into that, "
        "and then leaves flips out.",
    ),
}


def duplicate_findings(inspected: Inspected, twins: Twins) -> list[Finding]:
    """Return contradictory labels, leaks across given splits, copies and near-duplicates.

    A group is reported under what is worst of it, which may be a contradiction and a leak; the rest
    only where it is neither. Mirrored pictures with different labels are no contradiction: the
    classes may differ by left and right.
    """
    split = given_split(inspected)
    found: dict[str, list[Item]] = {kind: [] for kind in OF_DUPLICATES}
    pairs = _strongest(twins)

    same_way = twins.duplicates.told_apart(inspected.differ)
    for rows in twins.duplicates.groups:
        if len(set(same_way.group[rows].tolist())) > 1:
            found["mirrored"].append(item(inspected, rows, _sameness(twins, rows, pairs)))

    for rows in same_way.groups:
        contradicts = inspected.differ(rows)
        leaks = len(set(split[rows].tolist())) > 1
        exact = len(set(twins.duplicates.copy_of[rows].tolist())) == 1

        together = item(inspected, rows, _sameness(twins, rows, pairs))
        if contradicts:
            found["contradictory"].append(together)
        if leaks:
            found["leak"].append(together)
        if not contradicts and not leaks:
            found["copies" if exact else "near"].append(together)

    findings = [
        Finding(
            kind,
            *OF_DUPLICATES[kind],
            serious=kind in ("contradictory", "leak"),
            items=tuple(items),
        )
        for kind, items in found.items()
        if items
    ]
    if twins.near.alike:
        findings.append(
            Finding(
                "alike",
                "Near-duplicates cannot be detected",
                "These images resemble each other so much, as drawings or scans in one frame do, "
                "that copies which were "
                "resized or saved again do not stand out. Exact copies were looked for.",
            )
        )

    return findings


def copy_findings(inspected: Inspected, twins: Twins, effect: str = "") -> list[Finding]:
    """Return copies that hashes miss, first those with different labels and those across a given
    split, and objects seen twice.

    `effect` says what the latter do to figures.
    """
    split = given_split(inspected)
    second = twins.second
    before = twins.duplicates.group
    copied = twins.copied
    found: dict[str, list[Item]] = {"altered contradictory": [], "altered leak": [], "altered": []}

    for rows, words in _newly_joined(before, copied, second.copies):
        contradicts = inspected.differ(rows)
        leaks = len(set(split[rows].tolist())) > 1

        together = item(inspected, rows, words)
        if contradicts:
            found["altered contradictory"].append(together)
        if leaks:
            found["altered leak"].append(together)
        if not contradicts and not leaks:
            found["altered"].append(together)

    objects = [
        item(inspected, rows, f"{len(rows):,} photos, {words}" if len(rows) > 2 else words)
        for rows, words in _newly_joined(copied, twins.together, second.objects)
    ]
    divided = sum(len(set(split[list(each.rows)].tolist())) > 1 for each in objects)
    across = f" {divided:,} of them lie on both sides of the given split." if divided else ""

    altered = "The same picture cropped, turned, framed, inverted or painted over"
    findings = (
        Finding(
            "altered contradictory",
            "Altered copies, different labels",
            f"{altered}: one of the labels is wrong, unless classes differ by just that. "
            "Look at them: the list that --fix writes decides on no label.",
            serious=True,
            items=tuple(found["altered contradictory"]),
        ),
        Finding(
            "altered leak",
            "Altered copies on both sides of a split",
            f"{altered}: what a model has seen in training says nothing of new pictures.",
            serious=True,
            items=tuple(found["altered leak"]),
        ),
        Finding(
            "altered",
            "Altered copies",
            f"{altered}. Training does not look for these: train on the list that --fix writes, "
            "which keeps them on one side of a split.",
            items=tuple(found["altered"]),
        ),
        Finding(
            "same object",
            "Same object or scene",
            "Photographed again, by the keypoints that the photos have in common. They tell less "
            f"than as many photos of others.{across} The list that --fix writes groups them: "
            "training keeps them on one side, and intervals are those of groups."
            f"{' ' if effect else ''}{effect}",
            items=tuple(objects),
        ),
    )
    return [each for each in findings if each.items]


def _newly_joined(
    before: np.ndarray, after: np.ndarray, pairs: Iterable[Pair]
) -> list[tuple[np.ndarray, str]]:
    """Return the first images of each group of `after` that joins several of `before`, and how.

    Where more than two are joined, the words of the first three pairs say it.
    """
    words: dict[int, list[str]] = {}
    for pair in pairs:
        if before[pair.rows[0]] != before[pair.rows[1]]:
            words.setdefault(int(after[pair.rows[0]]), []).append(pair.words)
    found = []
    for rows in members(after):
        said = words.get(int(rows[0]))
        if said:
            firsts = np.unique(before[rows])
            found.append((firsts, "; ".join(dict.fromkeys(said[:3]))))
    return found


def given_split(inspected: Inspected) -> np.ndarray:
    """Return the split of each image as the data gives it; where it gives some, the free ones count
    as training.
    """
    return (
        np.where(inspected.split == "", "train", inspected.split)
        if (inspected.split != "").any()
        else inspected.split
    )


def _strongest(twins: Twins) -> dict[int, tuple[float, bool]]:
    """Return, for each group of near-duplicates, its least similar pair."""
    result: dict[int, tuple[float, bool]] = {}
    near = twins.near
    for (i, _), similarity, mirrored in zip(
        near.pairs.tolist(), near.similarity, near.mirrored, strict=True
    ):
        group = int(twins.duplicates.group[i])
        before = result.get(group, (1.0, False))
        result[group] = min(before[0], float(similarity)), before[1] or bool(mirrored)
    return result


def _sameness(twins: Twins, rows: np.ndarray, pairs: dict[int, tuple[float, bool]]) -> str:
    if len(set(twins.same_bytes[rows].tolist())) == 1:
        return "same bytes"
    if len(set(twins.duplicates.copy_of[rows].tolist())) == 1:
        return "same pixels"
    similarity, mirrored = pairs.get(int(twins.duplicates.group[rows[0]]), (1.0, False))
    return f"{'mirrored, ' if mirrored else ''}similarity {similarity:.2f}"


def item(inspected: Inspected, rows: Iterable[int], remark: str) -> Item:
    rows = tuple(int(i) for i in rows)
    return Item(tuple(inspected.names[i] for i in rows), remark, rows)


def unreadable_findings(inspected: Inspected) -> list[Finding]:
    """Return files that give no picture, and rows of a CSV file that name one again."""
    again = [
        (name, reason) for name, reason in inspected.skipped if reason.startswith("named again")
    ]
    links = [(name, reason) for name, reason in inspected.skipped if reason.startswith("a link to")]
    contrary = [each for each in again if "another label" in each[1]]
    broken = [each for each in inspected.skipped if each not in again and each not in links]

    repeated = [each for each in again if each not in contrary]

    def finding(
        kind: str, title: str, text: str, entries: list[tuple[str, str]], *, serious: bool = False
    ) -> Finding:
        items = tuple(Item((name,), reason) for name, reason in entries)
        return Finding(kind, title, text, serious, items)

    first = "The first row counts."
    found = (
        finding(
            "unreadable",
            "Files that cannot be read",
            "Training passes over them.",
            broken,
            serious=True,
        ),
        finding(
            "relabelled",
            "Rows that name an image again, with another label",
            first,
            contrary,
            serious=True,
        ),
        finding("repeated", "Rows that name an image again", first, repeated),
        finding(
            "links", "Links to folders that are read in their own place", "Nothing is lost.", links
        ),
    )
    return [each for each in found if each.items]


def picture_findings(inspected: Inspected) -> list[Finding]:
    """Return images that are blank, very dark, very small, of extreme shape or blurred, and
    animations.
    """
    facts = inspected.facts
    short = inspected.short_side
    aspect = np.maximum(facts["width"], facts["height"]) / np.maximum(short, 1)
    blank = facts["spread"] < BLANK
    dark = ~blank & (facts["brightness"] < min(DARK, float(np.median(facts["brightness"])) / 4))
    seen = ~blank & ~dark

    def finding(
        kind: str, title: str, text: str, mask: np.ndarray, remark: str, values: np.ndarray,
        *, largest_first: bool = False,
    ) -> Finding:  # fmt: skip
        rows = np.flatnonzero(mask)
        rows = rows[np.argsort(values[rows], kind="stable")]
        rows = rows[::-1] if largest_first else rows
        items = tuple(item(inspected, (i,), remark.format(values[i])) for i in rows)
        return Finding(kind, title, text, items=items)

    found = (
        finding(
            "blank",
            "Blank images",
            "One colour all over: there is nothing to see.",
            blank,
            "deviation {:.1f} of 255",
            facts["spread"],
        ),
        finding(
            "dark",
            "Very dark images",
            f"Mean brightness below {DARK:.0f} of 255, and less than a quarter of the usual.",
            dark,
            "brightness {:.0f} of 255",
            facts["brightness"],
        ),
        finding(
            "small",
            "Very small images",
            f"Short side below {SMALL} pixels, and less than half of the usual.",
            short < min(SMALL, float(np.median(short)) / 2),
            "{} pixels",
            short,
        ),
        finding(
            "aspect",
            "Images of extreme shape",
            f"More than {ASPECT:.0f} times as long as wide: cutting the centre loses most of them.",
            aspect > max(ASPECT, 2 * float(np.median(aspect))),
            "{:.1f} to 1",
            aspect,
            largest_first=True,
        ),
        finding(
            "blurred",
            "Blurred images",
            "No fine detail is left at 256 pixels.",
            seen & (np.nan_to_num(facts["blur"]) > BLURRED),
            "blur {:.2f}",
            facts["blur"],
            largest_first=True,
        ),
        finding(
            "animated",
            "Animations",
            "Only the first frame is used.",
            facts["animated"],
            "{:.0s}first frame",
            facts["format"].astype(str),
        ),
    )
    return [each for each in found if each.items]


def group_findings(inspected: Inspected, source: str) -> list[Finding]:
    """Return the groups that names or times of photos suggest, where the data itself names none."""
    if inspected.photos is None or (inspected.groups != "").any():
        return []
    facts = inspected.facts
    times = zip(facts["taken"].tolist(), facts["camera"], strict=True)
    taken = [
        None if math.isnan(seconds) else Taken(seconds, camera.tobytes().hex())
        for seconds, camera in times
    ]
    found = (
        (
            "groups by name",
            "Names that suggest groups",
            suggest_by_names(inspected.names, inspected.strata.tolist()),
        ),
        ("groups by time", "Times that suggest groups", suggest_by_times(taken, inspected.names)),
    )

    return [_group_finding(inspected, source, *each) for each in found if each[2] is not None]


def _group_finding(
    inspected: Inspected, source: str, kind: str, title: str, suggestion: Suggestion | None
) -> Finding:
    assert suggestion is not None
    members: dict[str, list[int]] = {}
    for i, group in enumerate(suggestion.groups):
        if group:
            members.setdefault(group, []).append(i)
    together = {group: rows for group, rows in members.items() if len(rows) > 1}
    sides = given_split(inspected)
    divided = sum(len(set(sides[rows].tolist())) > 1 for rows in together.values())

    what = {
        "groups": suggestion.text,
        "option": suggestion.option,
        "num_groups": len(together),
        "median_size": suggestion.median,
        "num_divided": divided,
    }
    across = f" {divided:,} of them lie on both sides of the given split." if divided else ""
    text = (
        f"{suggestion.reason[0].upper()}{suggestion.reason[1:]}: {len(together):,} groups, the "
        f"median of {suggestion.median:,} "
        f"images.{across} Photos of one object or one clip tell less than as many others; where "
        "these are, type: "
        f"tintype train {shlex.quote(source)} {suggestion.option}"
    )
    items = tuple(item(inspected, rows, f"{len(rows):,} images") for rows in together.values())
    return Finding(kind, title, text, items=items, suggestion=what)


def counted(values: Iterable[bytes]) -> dict[str, int]:
    """Return how often each value occurs, the commonest first."""
    return {
        value.decode("ascii", "replace"): count for value, count in Counter(values).most_common()
    }
