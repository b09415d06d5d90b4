"""How many images each class has, in the section on how a run was made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tintype.pages import sections
from tintype.pages.section import SPLIT_NAMES, Section
from tintype.runs.reading import RunFiles


def class_names_of(run: RunFiles) -> list[str]:
    """Return the names of the classes of a run, as its model or else its data has them."""
    names = run.model.get("class_names") or run.data.get("class_names") or []
    return [str(name) for name in names]


def making(run: RunFiles) -> Section:
    """Show how the run was made, with its classes and how many images each has."""
    count = len(run.data.get("class_names") or []) or None
    return sections.making(run, facts=[("Classes", count)], counts=_class_counts(run.data))


def _class_counts(data: Mapping[str, Any]) -> dict[str, Any] | None:
    names, counts = data.get("class_names") or [], data.get("class_counts") or {}
    columns = [split for split in SPLIT_NAMES if len(counts.get(split) or []) == len(names) > 0]
    if not columns:
        return None

    rows = list(zip(names, zip(*(counts[split] for split in columns), strict=True), strict=True))
    return {
        "title": "Images by class and split",
        "head": "Class",
        "columns": [SPLIT_NAMES[split] for split in columns],
        "rows": rows,
        "largest": max(1, *(max(counts[split]) for split in columns)),
    }
