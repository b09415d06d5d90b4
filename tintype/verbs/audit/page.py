"""The page of an audit: what was found, with the pictures themselves, in one self-contained HTML
file.
"""

from __future__ import annotations

import io
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from tintype.files.whole import written_whole
from tintype.pages import words
from tintype.pages.pages import templates
from tintype.pages.pictures import TINY, data_uri, png_bytes

MOST_GROUPS = 24  # of duplicates; what is left out is counted, and all of it is in the JSON
MOST_SINGLE = 48
MOST_IN_GROUP = 4
SIDE = 200  # pixels of a picture on the page

Picture = Callable[[int, int], Image.Image]
PAIRED = (
    "contradictory",
    "leak",
    "altered contradictory",
    "altered leak",
    "copies",
    "near",
    "altered",
    "mirrored",
    "same object",
)
SUGGESTED = ("groups by name", "groups by time")  # of which a few show whether it is so
MOST_SUGGESTED = 6
OF_CLASSES = ("one class", "no image", "not in training", "single", "few", "imbalance")


@dataclass(frozen=True)
class Shown:
    """A picture on the page."""

    uri: str
    name: str
    width: int
    height: int

    @property
    def tiny(self) -> bool:
        return max(self.width, self.height) < TINY


def write_audit(
    path: Path,
    audit: Mapping[str, Any],
    rows: Mapping[str, Sequence[Sequence[int]]],
    picture: Picture,
) -> Path:
    """Write the page and return its path.

    Args:
        path: a file; one that is there is replaced.
        audit: `Audit.to_dict()`.
        rows: for each kind of finding, the positions of the images of each item.
        picture: picture(position, side) gives an image at most `side` pixels long, or raises if it
            cannot.

    Raises:
        UserError: the file cannot be written.
    """
    sections = [_section(finding, rows[finding["kind"]], picture) for finding in audit["findings"]]
    page = (
        templates()
        .get_template("audit.html")
        .render(audit=audit, sections=sections, **_overview(audit))
    )
    with written_whole(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")
    return path


def audit_table(audit: Mapping[str, Any]) -> str:
    """Return the findings as a small HTML table, for notebooks."""
    return templates().get_template("audit_table.html").render(audit=audit)


def _section(
    finding: Mapping[str, Any], rows: Sequence[Sequence[int]], picture: Picture
) -> dict[str, Any]:
    """Return a finding with a bounded number of its pictures."""
    paired = finding["kind"] in (*PAIRED, *SUGGESTED)
    most = MOST_GROUPS if paired else MOST_SINGLE
    if finding["kind"] in SUGGESTED:
        most = MOST_SUGGESTED

    items = []
    for item, positions in list(zip(finding["items"], rows, strict=True))[:most]:
        shown = [
            _shown(i, name, picture)
            for i, name in list(zip(positions, item["names"], strict=False))[:MOST_IN_GROUP]
        ]
        items.append(
            {
                "remark": item["remark"],
                "names": item["names"],
                "pictures": [each for each in shown if each],
                "more": max(0, len(item["names"]) - MOST_IN_GROUP),
            }
        )

    layout = "list"
    if any(item["pictures"] for item in items):
        layout = "pairs" if paired else "cards"
    return {
        **finding,
        "id": finding["kind"].replace(" ", "-"),
        "paired": paired,
        "layout": layout,
        "items": items,
        "left_out": len(finding["items"]) - len(items),
        "amount": _amount(finding, paired),
    }


def _amount(finding: Mapping[str, Any], paired: bool) -> str:
    """Return how much a finding concerns, as "3 groups" or "1 image"."""
    count = len(finding["items"])
    if not count:
        return ""
    if finding["kind"] in OF_CLASSES:
        return f"{count:,} {'class' if count == 1 else 'classes'}"
    return words.plural(count, "group" if paired else "image")


def _shown(i: int, name: str, picture: Picture) -> Shown | None:
    try:
        image = picture(i, SIDE)
    except Exception:  # the file changed since; the page says so by its absence, the name stays
        return None
    if max(image.size) < TINY:
        return Shown(data_uri(png_bytes(image)), name, *image.size)
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="JPEG", quality=82)
    return Shown(data_uri(buffer.getvalue(), "image/jpeg"), name, *image.size)


def _can_fix(audit: Mapping[str, Any]) -> bool:
    """Return whether a cleaned list would differ from what is there."""
    kinds = {finding["kind"] for finding in audit["findings"]}
    return audit["in_files"] and bool(kinds & {"unreadable", *PAIRED} - {"mirrored"})


def decide_command(audit: Mapping[str, Any]) -> str:
    """Return what to type to decide the labels that look wrong; "" where there are none."""
    kinds = {finding["kind"] for finding in audit["findings"]}
    if not audit["in_files"] or "labels" not in kinds:
        return ""
    return f"tintype audit {shlex.quote(audit['source'])} --decide decided.csv"


def _overview(audit: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the head of the page and the tables show."""
    splits = list(next(iter(audit["classes"].values()), {}))
    totals = {name: sum(counts.values()) for name, counts in audit["classes"].items()}
    largest = max(totals.values(), default=0) or 1

    return {
        "splits": splits,
        "class_rows": [
            {"name": name, "counts": counts, "total": totals[name], "share": totals[name] / largest}
            for name, counts in audit["classes"].items()
        ],
        "serious": [f for f in audit["findings"] if f["serious"]],
        "fix": f"tintype audit {shlex.quote(audit['source'])} --fix clean.csv"
        if _can_fix(audit)
        else "",
        "decide": decide_command(audit),
    }
