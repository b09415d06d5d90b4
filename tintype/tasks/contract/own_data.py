"""Open the data that a finished run was made with, as it was divided then."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from tintype import plugins
from tintype.data import open_data
from tintype.data.source import DataSplits
from tintype.data.targets import CLASSES, TargetKind
from tintype.errors import UserError
from tintype.recipe import Recipe
from tintype.runs.folder import RunFolder
from tintype.runs.model import resize_of


def division(recipe: Recipe) -> dict[str, Any]:
    """Return the fields of a recipe that divide images into training, validation and test."""
    names = ("val_fraction", "test_fraction", "split_seed", "groups")
    return {name: getattr(recipe, name) for name in names}


def asks(module: ModuleType) -> Callable[..., TargetKind]:
    """Return the function by which the file of a task says which targets it needs.

    The file may have `target_of(...) -> TargetKind`, whose parameters are options of the task;
    without it, the task needs one class for each image.
    """
    return getattr(module, "target_of", _classes)


def _classes() -> TargetKind:
    return CLASSES


def target_of(recipe: Recipe) -> TargetKind:
    """Return the targets that the task of a recipe needs."""
    ask = asks(plugins.find("tasks", recipe.task))
    known = inspect.signature(ask).parameters
    return ask(**{name: value for name, value in recipe.fields().items() if name in known})


def model_input(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return the size, channels and resizing of a model's images, by model.json."""
    how = description["preprocessing"]
    return {
        "image_size": (how["height"], how["width"]),
        "channels": how["channels"],
        "resize": resize_of(dict(description)),
    }


def open_divided(
    run: RunFolder, description: Mapping[str, Any], data: str | None = None, **more: Any
) -> DataSplits:
    """Return the images of a run, or `data` divided by the same rule, as its model takes them.

    Args:
        run: the run.
        description: its model.json.
        data: other images in place of the run's own.
        more: further arguments of `open_data`, or others than the recipe's.

    Raises:
        UserError: the data is not there.
    """
    recipe = run.recipe
    options = {
        **model_input(description),
        **division(recipe),
        "target": target_of(recipe),
        **({"folds": recipe.folds, "fold": recipe.fold} if data is None else {}),
        **more,
    }
    root = None if data else recipe.data_root
    return open_data(data or recipe.data, data_root=root, split_rule=recipe.split_rule, **options)


def not_there(own: str, data: str | None, error: UserError) -> UserError:
    """Return the error of an export whose images for the check cannot be opened."""
    if data:
        return error
    return UserError(
        f"an export is checked on validation images, and those of {own} cannot be opened: {error} "
        "Name other images of the same kind: --data FOLDER"
    )
