"""What a task may say about the runs of a study: `tasks/NAME/study.py`."""

from __future__ import annotations

from typing import Protocol

from tintype.recipe import Recipe


class StudyPart(Protocol):
    """The module; without it, `--weights` changes no run of the task."""

    def with_weights(self, recipe: Recipe, weights: str, *, varied: bool) -> Recipe:
        """Return a recipe with other pretrained weights, if it starts from some.

        Args:
            weights: a file, a folder with a file for each network, "default" or "none".
            varied: whether the study varies the network, so that one file cannot serve all.
                Where it does not, a run from scratch takes the network that the file is for.

        Raises:
            UserError: a folder without a file for the network, or a file for another one.
        """
        ...
