"""What `tintype list` shows; reads names, first lines and small files only, so that it answers at
once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tintype.errors import UserError, unknown_name

KINDS = ("recipes", "studies", "models", "data", "augmentations", "tasks", "tracking", "runs")

TASKS = {"classify": "Classification", "generate": "Generation", "upscale": "Super-resolution"}
SOURCES = {
    "R1": "a recogniser of handwritten digits",
    "R2": "three depths of network on Fashion-MNIST",
    "R3": "the same three on CIFAR-100",
    "R4": "a small network of few filters on CIFAR-100",
    "R5": "fully connected networks on CIFAR-10, compared",
    "R6": "a convolutional network on CIFAR-10",
    "R7": "three pretrained networks on CIFAR-100",
    "R8": "seven pretrained networks on photos of nine people",
    "R9": "garbage from scratch or pretrained, with and without augmentation",
    "R10": "a fully connected GAN on MNIST",
    "R11": "a DCGAN on CIFAR-100",
    "R12": "photos of pets at twice the size",
}
"""The published systems that some recipes rebuild as they were described, by the mark in the recipes' first sentences."""


def listing(
    what: str,
    runs: Path,
    *,
    sort: str | None = None,
    where: Sequence[str] = (),
    reverse: bool = False,
) -> list[dict[str, Any]]:
    """Return a row for each thing of a kind; `sort`, `where` and `reverse` choose among runs, see `catalogue.list_runs`.

    Raises:
        UserError: the kind is unknown, or runs are sorted or chosen by what they do not have.
    """
    if what == "runs":
        from tintype.runs.catalogue import list_runs

        return list_runs(runs, sort=sort, where=where, reverse=reverse)
    if sort or where or reverse:
        raise UserError(
            f"only runs are sorted and chosen. Type: tintype list runs, or leave --sort and --where out of {what}."
        )
    if what == "recipes":
        from tintype.recipe import recipe_names, recipe_task

        rows = [
            {"name": n, "task": recipe_task(n), "description": text}
            for n, text in recipe_names().items()
        ]
        return sorted(rows, key=lambda row: row["task"])
    if what == "studies":
        from tintype.plugins import study_names

        found = study_names()
    elif what in ("models", "data", "tasks", "tracking"):
        from tintype.plugins import names

        found = names(what)
    elif what == "augmentations":
        from tintype.plugins import augmentation_names

        found = augmentation_names()
    else:
        raise unknown_name("listing", what, KINDS)
    return [{"name": name, "description": description} for name, description in found.items()]
