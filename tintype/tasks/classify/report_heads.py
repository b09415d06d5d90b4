"""The section on the heads that a run compared: what each of them reaches out of fold."""

from __future__ import annotations

from tintype.pages.section import Section
from tintype.runs.reading import RunFiles


def heads(run: RunFiles) -> Section | None:
    """Show every kind of head that was compared, and which one was chosen."""
    found = run.evaluation.get("heads") or {}
    if not found.get("candidates"):
        return None

    context = {
        "rows": found["candidates"],
        "nested": found.get("nested"),
        "chosen": found.get("chosen"),
        "reason": found.get("reason"),
        "num_images": found.get("num_images"),
        "notes": found.get("notes") or [],
    }
    return Section("heads", "Heads compared", "classify/heads.html", context)
