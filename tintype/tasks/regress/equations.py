"""What a regression minimises, as equations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tintype.pages.equations import Equation, equations_section, own_equation
from tintype.pages.section import Section
from tintype.runs.reading import RunFiles

# Residuals r are in deviations of the training numbers, see objective.py.
LOSSES = {
    "mse": r"L = \frac{1}{N K} \sum_{i,k} r_{i,k}^2",
    "mae": r"L = \frac{1}{N K} \sum_{i,k} | r_{i,k} |",
    "huber": r"L = \frac{1}{N K} \sum_{i,k} h(r_{i,k}), \quad "
    r"h(r) = r^2 / (2 \beta) \;\; (|r| < \beta), \quad |r| - \beta / 2 \;\; (|r| \geq \beta)",
}
SCALES = r"\frac{1}{10 N K} \sum_{i,k} \left[ | r_{i,k} | \, e^{-s_{i,k}} + s_{i,k} \right]"
RESIDUALS = "r is the predicted number less the true one, in deviations of the training numbers."


def equations_of(recipe: Mapping[str, Any]) -> list[Equation]:
    loss = recipe.get("loss", "huber")
    note = RESIDUALS + (" β is 0.1." if loss == "huber" else "")
    numbers = (
        Equation("The network minimises the error of the numbers", LOSSES[loss], note)
        if loss in LOSSES
        else own_equation("the network", loss)
    )
    scales = Equation(
        "and, beside it, the error of the scales",
        SCALES,
        "s is the logarithm of the scale of the error that the network expects for an image; no "
        "gradient flows through r here.",
    )
    return [numbers, scales]


def learning(run: RunFiles) -> Section | None:
    """Show what the run minimises, as equations."""
    return equations_section(equations_of(run.recipe))
