"""What a classifier says of one image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of one image."""

    name: str
    class_names: tuple[str, ...]
    probs: np.ndarray  # (K,) float32, sums to one
    # why the image is unlike the training images, so that the probabilities say nothing of it
    unlike: str = ""

    @property
    def top1(self) -> str:
        """The most probable class."""
        return self.class_names[int(self.probs.argmax())]

    @property
    def confidence(self) -> float:
        """The probability of the most probable class."""
        return float(self.probs.max())

    def top(self, count: int) -> list[tuple[str, float]]:
        """Return the `count` most probable classes with their probabilities, best first."""
        order = np.argsort(-self.probs, kind="stable")[:count]
        return [(self.class_names[i], float(self.probs[i])) for i in order]

    @property
    def top5(self) -> list[tuple[str, float]]:
        """The five most probable classes with their probabilities."""
        return self.top(5)
