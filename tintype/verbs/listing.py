"""The rows that `tintype list` shows.

Only names, first lines and small files are read, so that it answers at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tintype.errors import UserError, unknown_name

KINDS = (
    "recipes", "studies", "models", "data", "augmentations", "losses", "tasks", "tracking", "runs",
)  # fmt: skip


def listing(
    what: str,
    runs: Path,
    *,
    sort: str | None = None,
    where: Sequence[str] = (),
    reverse: bool = False,
) -> list[dict[str, Any]]:
    """Return a row for each thing of a kind.

    `sort`, `where` and `reverse` apply to runs only; see `catalogue.list_runs`.

    Raises:
        UserError: the kind is unknown, or runs are sorted or filtered by a field they do not have.
    """
    if what == "runs":
        from tintype.runs.catalogue import list_runs

        return list_runs(runs, sort=sort, where=where, reverse=reverse)
    if sort or where or reverse:
        raise UserError(
            "only runs can be sorted and filtered. "
            f"Type: tintype list runs, or leave out --sort, --where and --reverse for {what}."
        )
    if what == "recipes":
        return _recipes()
    if what == "studies":
        from tintype.plugins import study_names

        found = study_names()
    elif what in ("models", "data", "tasks", "tracking"):
        from tintype.plugins import names

        found = names(what)
    elif what == "augmentations":
        from tintype.plugins import augmentation_names, of_packages

        found = {**augmentation_names(), **of_packages(what)}
    elif what == "losses":
        from tintype.plugins import LOSSES, of_packages

        found = {**LOSSES, **of_packages(what)}
    else:
        raise unknown_name("listing", what, KINDS)
    return _rows(what, found)


def _rows(what: str, found: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return a row for each thing; that of a built-in one says if a package has its name too."""
    from tintype.plugins import OPEN_KINDS, hidden

    others = hidden(what) if what in OPEN_KINDS else {}
    also = {
        name: f" (built in; that of the package {package} is not used)"
        for name, package in others.items()
    }
    return [
        {"name": name, "description": description + also.get(name, "")}
        for name, description in found.items()
    ]


def _recipes() -> list[dict[str, Any]]:
    """Return the recipes by task: our own first, then those that rebuild a published work."""
    from tintype.recipe import recipe_names, recipe_source, recipe_task

    rows = [
        {
            "name": name,
            "task": recipe_task(name),
            "description": description,
            "source": recipe_source(name),
        }
        for name, description in recipe_names().items()
    ]
    return sorted(rows, key=lambda row: (row["task"], row["source"]))
