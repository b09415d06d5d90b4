"""What is worth searching when a generator is tuned."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from tintype.recipe import Recipe

USE = "generate {run}"


def usual_search(recipe: Recipe, *, networks: Collection[str]) -> dict[str, Any]:
    """Return the averaging of weights and, of a GAN, the discriminator's learning rate."""
    search: dict[str, Any] = {"ema": [0.99, 0.995, 0.999]}
    if "discriminator" in networks:
        search["task_options.discriminator_lr"] = {"low": 0.25, "high": 4.0, "log": True}
    return search
