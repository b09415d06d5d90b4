"""What a classifier minimises, as equations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tintype.pages.equations import Equation, equations_section, own_equation
from tintype.pages.section import Section
from tintype.runs.reading import RunFiles
from tintype.tasks.classify.options import LOSSES

CROSS_ENTROPY = {
    "plain": r"L = -\frac{1}{N} \sum_{i=1}^{N} \log\, p_{i,y_i}",
    "weights": r"L = -\frac{1}{\sum_i w_{y_i}} \sum_{i=1}^{N} w_{y_i} \log\, p_{i,y_i}",
    "smoothing": r"L = -\frac{1}{N} \sum_{i=1}^{N} \left[ (1 - \epsilon) \log\, p_{i,y_i}"
    r" + \frac{\epsilon}{K} \sum_{k=1}^{K} \log\, p_{i,k} \right]",
    "both": r"L = -\frac{1}{\sum_i w_{y_i}} \sum_{i=1}^{N} "
    r"\left[ (1 - \epsilon)\, w_{y_i} \log\, p_{i,y_i}"
    r" + \frac{\epsilon}{K} \sum_{k=1}^{K} w_k \log\, p_{i,k} \right]",
}


def equations_of(recipe: Mapping[str, Any]) -> list[Equation]:
    own = recipe.get("loss", LOSSES[0])
    if own not in LOSSES:
        return [own_equation("the network", own)]
    weights, smoothing = recipe.get("class_weights"), recipe.get("label_smoothing")
    kind = {
        (False, False): "plain",
        (True, False): "weights",
        (False, True): "smoothing",
        (True, True): "both",
    }
    note = (
        "p is the softmax of the network's output: "
        "the probability of class k for image i, whose true class is y."
    )
    if weights:
        note += " Classes are weighted by w."
    if smoothing:
        note += f" Labels are smoothed by ε = {smoothing:g} over the K classes."
    latex = CROSS_ENTROPY[kind[bool(weights), bool(smoothing)]]

    return [Equation("The network minimises the cross-entropy", latex, note)]


def learning(run: RunFiles) -> Section | None:
    """Show what the run minimises, as equations."""
    return equations_section(equations_of(run.recipe))
