"""What `tintype list` shows; reads names and first lines only, so that it answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tintype.errors import unknown_name

KINDS = ("recipes", "models", "data", "augmentations", "tasks", "runs")


def listing(what: str, runs: Path) -> list[dict[str, Any]]:
    """Return a row for each thing of a kind.

    Raises:
        UserError: the kind is unknown.
    """
    if what == "runs":
        from tintype.api import list_runs

        return list_runs(runs)
    if what == "recipes":
        from tintype.recipe import recipe_names

        found = recipe_names()
    elif what in ("models", "data", "tasks"):
        from tintype.plugins import names

        found = names(what)
    elif what == "augmentations":
        from tintype.plugins import augmentation_names

        found = augmentation_names()
    else:
        raise unknown_name("listing", what, KINDS)
    return [{"name": name, "description": description} for name, description in found.items()]
