"""What is worth searching when a regression is tuned."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from tintype.recipe import Recipe

USE = "predict {run} photo.jpg"


def usual_search(recipe: Recipe, *, networks: Collection[str]) -> dict[str, Any]:
    """Return the loss, and what regularises: weight decay, augmentation, layer-wise decay."""
    fields = recipe.fields()
    pretrained = fields["weights"] not in (None, "none")
    search: dict[str, Any] = {"loss": ["huber", "mse", "mae"]}

    if recipe.optimizer in ("adamw", "muon", "sgd"):
        low = 1e-3 if recipe.optimizer == "adamw" else 1e-5
        search["weight_decay"] = {"low": low, "high": 0.2, "log": True}

    # Flips and crops may change what is asked for, so only the recipe's own are tried.
    if recipe.augment != "none" and not fields["angle"]:
        search["augment"] = ["none", recipe.augment]
    if pretrained and fields["tune"] == "all":
        search["layer_decay"] = {"low": 0.6, "high": 1.0}
    return search
