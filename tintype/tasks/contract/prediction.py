"""What a classifier says of one image."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tintype.interface.cards import card


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of one image.

    For an image that could not be read, `error` says why: `probs` are NaN, `confidence` is NaN, and
    `top1` is "".
    """

    name: str
    class_names: tuple[str, ...]
    probs: np.ndarray  # (K,) float32, sums to one
    # why the image is unlike the training images, so that the probabilities say nothing of it
    unlike: str = ""
    error: str = ""
    # (H, W, C) uint8, a small copy of what the network saw; None where many were asked about
    thumbnail: np.ndarray | None = field(default=None, repr=False, compare=False)

    def __repr__(self) -> str:
        """Return for example `Prediction('seven.png': 7 98.6 %, 1 0.9 %)`."""
        said = self.error or ", ".join(f"{name} {share:.1%}" for name, share in self.top(3))
        return f"Prediction({self.name!r}: {said})"

    def to_row(self) -> dict[str, str | float]:
        """Return the answer as a row: name, prediction, confidence, unlike and error."""
        answer = {"name": self.name, "prediction": self.top1, "confidence": self.confidence}
        return {**answer, "unlike": self.unlike, "error": self.error}

    def _repr_html_(self) -> str:
        unlike = f"unlike the training images: {self.unlike}" if self.unlike else ""
        return card(self.name, self.thumbnail, bars=self.top(3), lines=(self.error, unlike))

    @property
    def top1(self) -> str:
        """The most probable class."""
        return "" if self.error else self.class_names[int(self.probs.argmax())]

    @property
    def confidence(self) -> float:
        """The probability of the most probable class."""
        return float(self.probs.max())

    def top(self, count: int) -> list[tuple[str, float]]:
        """Return the `count` most probable classes with their probabilities, best first."""
        if self.error:
            return []
        order = np.argsort(-self.probs, kind="stable")[:count]
        return [(self.class_names[i], float(self.probs[i])) for i in order]

    @property
    def top5(self) -> list[tuple[str, float]]:
        """The five most probable classes with their probabilities."""
        return self.top(5)
