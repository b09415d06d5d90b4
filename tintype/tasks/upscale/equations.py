"""What a network for super-resolution minimises, as equations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tintype.pages.equations import Equation, equations_section
from tintype.pages.section import Section
from tintype.runs.reading import RunFiles

RESTORATION = {
    "mse": r"L_{mse} = \frac{1}{n} \sum_j (\hat{y}_j - y_j)^2",
    "l1": r"L_{1} = \frac{1}{n} \sum_j \vert \hat{y}_j - y_j \vert",
    "charbonnier": r"L_{charbonnier} = \frac{1}{n} \sum_j \sqrt{(\hat{y}_j - y_j)^2 + 10^{-6}}",
    "ssim": r"L_{ssim} = 1 - SSIM(\hat{y}, y)",
    "perceptual": r"L_{perceptual} = \frac{1}{M} \sum_{l=1}^{M}"
    r" \frac{\Vert \phi_l(\hat{y}) - \phi_l(y) \Vert^2}{\Vert \phi_l(y) \Vert^2}",
    "adversarial": r"L_{adversarial} = \mathbb{E}\left[\log(1 + e^{D(y) - D(\hat{y})})\right]",
}


_PIXELS = "ŷ is the enlarged picture and y the original, with values from 0 to 1."


_OF = {
    **dict.fromkeys(("mse", "l1", "charbonnier", "ssim"), _PIXELS),
    "perceptual": "φ are the features of a pretrained network in M of its layers.",
    "adversarial": "D is a discriminator that is trained beside it.",
}


def equations_of(recipe: Mapping[str, Any]) -> list[Equation]:
    chosen = (recipe.get("task_options") or {}).get("loss", "l1")
    weights = {chosen: 1.0} if isinstance(chosen, str) else dict(chosen)

    equations = []
    for name, weight in weights.items():
        if name not in RESTORATION:
            return []
        share = "" if len(weights) == 1 else f"Its weight in the sum is {weight:g}. "
        equations.append(
            Equation(
                "The network minimises" if not equations else "plus",
                RESTORATION[name],
                share + _OF[name],
            )
        )

    return equations


def learning(run: RunFiles) -> Section | None:
    """Show what the run minimises, as equations."""
    return equations_section(equations_of(run.recipe))
