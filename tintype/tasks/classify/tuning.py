"""What is worth searching when a classifier is tuned."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from tintype.recipe import Recipe

USE = "predict {run} photo.jpg"
DECAYING = ("adamw", "muon", "sgd")  # optimizers with a weight decay


def usual_search(recipe: Recipe, *, networks: Collection[str]) -> dict[str, Any]:
    """Return what regularises: smoothing, weight decay, augmentation, layer-wise decay."""
    fields = recipe.fields()
    pretrained = fields.get("weights") not in (None, "none")
    search: dict[str, Any] = {"label_smoothing": {"low": 0.0, "high": 0.2}}

    if recipe.optimizer in DECAYING:
        low = 1e-3 if recipe.optimizer == "adamw" else 1e-5
        search["weight_decay"] = {"low": low, "high": 0.2, "log": True}

    usual = ["none", "flips", "photos", "all"] if pretrained else ["none", "light", "standard"]
    search["augment"] = usual if recipe.augment in usual else [recipe.augment, *usual]

    if pretrained and fields["tune"] == "all":
        search["layer_decay"] = {"low": 0.6, "high": 1.0}
    return search
