"""In a study, weights for super-resolution are those of its perceptual loss."""

from __future__ import annotations

from tintype.recipe import Recipe


def with_weights(recipe: Recipe, weights: str, *, varied: bool) -> Recipe:
    """Return a recipe with other weights for its perceptual loss, if it has one."""
    own = recipe.fields().get("weights")
    perceptual = "perceptual" in recipe.task_options.get("loss", "")
    if own not in (None, "none") or (own is None and perceptual):
        return recipe.replace(weights=weights)
    return recipe
