"""What is worth searching when a network for super-resolution is tuned."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from tintype.recipe import Recipe

USE = "upscale {run} photo.jpg"


def usual_search(recipe: Recipe, *, networks: Collection[str]) -> dict[str, Any]:
    """Return the batch size and the averaging of weights."""
    size = recipe.batch_size
    sizes = sorted({max(1, size // 2), size, 2 * size})
    return {"batch_size": sizes, "ema": [0.0, 0.99, 0.995]}
