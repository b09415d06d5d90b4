"""What others see of a recipe: everything but where things lie on this machine."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from tintype.recipe import Recipe


def for_others(recipe: Recipe) -> dict[str, Any]:
    """Return the fields of a recipe (JSON-ready), with paths reduced to their last name."""
    fields = recipe.model_dump(mode="json")
    return {key: value for key, value in shortened(fields).items() if key != "data_root"}


def shortened(value: Any) -> Any:
    """Return JSON-ready content with absolute paths reduced to their last name."""
    if isinstance(value, dict):
        return {key: shortened(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shortened(item) for item in value]
    if isinstance(value, str) and PurePath(value).is_absolute():
        return PurePath(value).name
    return value
