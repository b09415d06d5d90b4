"""What `tintype list` shows; reads names, first lines and small files only, so that it answers at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tintype.errors import UserError, unknown_name

KINDS = ("recipes", "studies", "models", "data", "augmentations", "tasks", "tracking", "runs")


def listing(
    what: str, runs: Path, *, sort: str | None = None, where: Sequence[str] = (), reverse: bool = False
) -> list[dict[str, Any]]:
    """Return a row for each thing of a kind; `sort`, `where` and `reverse` choose among runs, see `catalogue.list_runs`.

    Raises:
        UserError: the kind is unknown, or runs are sorted or chosen by what they do not have.
    """
    if what == "runs":
        from tintype.catalogue import list_runs

        return list_runs(runs, sort=sort, where=where, reverse=reverse)
    if sort or where or reverse:
        raise UserError(
            f"only runs are sorted and chosen. Type: tintype list runs, or leave --sort and --where out of {what}."
        )
    if what == "recipes":
        from tintype.recipe import recipe_names

        found = recipe_names()
    elif what == "studies":
        from tintype.plugins import study_names

        found = study_names()
    elif what in ("models", "data", "tasks", "tracking"):
        from tintype.plugins import names

        found = names(what)
    elif what == "augmentations":
        from tintype.plugins import augmentation_names

        found = augmentation_names()
    else:
        raise unknown_name("listing", what, KINDS)
    return [{"name": name, "description": description} for name, description in found.items()]
