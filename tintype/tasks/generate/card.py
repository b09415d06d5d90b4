"""What a model card says of a generator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tintype.tasks.contract.card import TaskCard


class Card(TaskCard):
    """Distances to real images, each with how it is measured."""

    pipeline = "unconditional-image-generation"
    command = "tintype generate RUN"
    call = "pictures = run.generate(16, seed=0)"

    def sentence(self, model: Mapping[str, Any]) -> str:
        del model
        return "It generates pictures from noise."
