"""What a task may say about a tuning: `tasks/NAME/tuning.py`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol

from tintype.recipe import Recipe


class TuningPart(Protocol):
    """The module; without it, only the learning rate is searched unless the recipe says more.

    Attributes:
        USE: the arguments of `tintype` that use a trained run, with {run} for its folder.
    """

    USE: str

    def usual_search(self, recipe: Recipe, *, networks: Collection[str]) -> dict[str, Any]:
        """Return what is worth searching besides the learning rate, as in `search:` of a recipe.

        Args:
            networks: the names of the networks that are trained, as ("generator", "discriminator").
        """
        ...
