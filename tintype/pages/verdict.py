"""The line under a run's figures, whatever its task: the verdict, and how often the test set was
used.
"""

from __future__ import annotations

from tintype.pages import words
from tintype.runs.folder import without_test
from tintype.runs.reading import RunFiles


def verdict(run: RunFiles) -> dict[str, str]:
    """Return the verdict's `word`, which stands as a title, and its `text` without that word; empty
    where there is none.
    """
    found = run.evaluation.get("verdict") or {}
    word, text = str(found.get("word") or ""), str(found.get("text") or "")
    text = text.removeprefix(f"{word}: ")
    return {"word": word, "text": text[:1].upper() + text[1:]}


def looks(run: RunFiles) -> str:
    """Return as sentences how often the test set was used, or nothing where it was not counted."""
    folds = bool(run.evaluation.get("folds"))
    if without_test(run.evaluation) and not folds:
        return ""
    counted = run.evaluation.get("test_looks") or {}
    by_run, by_data = counted.get("run"), counted.get("data")
    if not by_run:
        return "The test set has not been used." if by_run == 0 else ""

    what = "The folds have been looked at" if folds else "The test set has been used"
    text = f"{what} {words.times(by_run)}"
    if not by_data or by_data == by_run:
        return text + "."

    text += f" by this run, and {words.times(by_data)} by all runs on this data in the same folder."
    if by_data > 10:
        text += " The more often that is done for choosing, the more optimistic the figures become."
    return text
