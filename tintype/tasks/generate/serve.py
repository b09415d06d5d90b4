"""A finished generator as the service holds it: it makes images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tintype.errors import UserError
from tintype.runs.folder import RunFolder
from tintype.tasks.contract.serve import Between, Served

if TYPE_CHECKING:
    from tintype.tasks.generate.images import Sampler


def open_run(name: str, run: RunFolder, device: str) -> Served:
    """Load a run for the service.

    Raises:
        UserError: the run has no finished model, it is broken, or the device is not there.
    """
    from tintype.tasks.generate.images import Sampler
    from tintype.tasks.generate.task import Generate
    from tintype.tasks.restoring import load_task_of

    task, description = load_task_of(Generate, run, device)
    return ImageMaker(name, description, run, Sampler(task))


def open_exported(name: str, session: Any, about: Mapping[str, Any]) -> Served:
    """Refuse an exported generator.

    Raises:
        UserError: always.
    """
    del session, about
    raise UserError(f"{name} is an exported generator. Give the service its run folder.")


class ImageMaker(Served):
    """Makes images."""

    kind = "generate"

    def __init__(
        self, name: str, description: dict[str, Any], run: RunFolder, sampler: Sampler
    ) -> None:
        super().__init__(name, description, run)
        self.sampler, self.task = sampler, sampler.task

    def describe(self) -> dict[str, Any]:
        classes = list(self.task.spec.class_names) if self.task.conditional else []
        return {**super().describe(), "classes": classes}

    def sentence(self) -> str:
        classes = f" of {len(self.task.spec.class_names)} classes" if self.task.conditional else ""
        return f"makes images{classes}, {self.task.spec.width} x {self.task.spec.height} pixels"

    def warm_up(self) -> None:
        next(self.sampler.images(1))

    def make(self, between: Between, *, start: int, count: int, **how: Any) -> list[np.ndarray]:
        """Return images `start` to `start + count` (H, W, C) uint8 of a seed.

        `how` is that of `Sampler.images`.

        Raises:
            UserError: a seed, class or truncation that cannot be.
        """
        images = []
        for image in self.sampler.images(count, start=start, **how):
            images.append(image)
            between()
        return images

    def class_of(self, index: int, asked: str | None) -> str | None:
        """Return the class of the image at `index`, None where the generator knows no classes."""
        if not self.task.conditional:
            return None
        return asked or self.task.spec.class_names[self.task.turns([index])[0]]
