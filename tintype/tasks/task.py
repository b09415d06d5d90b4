"""What every task offers to the engine and to the commands: Task, Phase, StepContext, Evaluation, Prediction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tintype.data.source import Batch, ImageSource


@dataclass(frozen=True)
class Phase:
    """One kind of step: it trains one network, at every `every`-th step. A GAN has two or more."""

    name: str
    network: str
    every: int = 1


@dataclass(frozen=True)
class StepContext:
    """Where in the run a step stands, and its own random numbers: all draws of a step come from `generator`."""

    step: int
    epoch: int
    progress: float  # 0..1 of the whole run
    generator: torch.Generator


@dataclass(frozen=True)
class Evaluation:
    """What a model reached on one split: plain figures (JSON-ready), and arrays for a closer look."""

    figures: dict[str, Any]
    details: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Summary:
    """What a finished run writes down: figures (JSON-ready), a table with a row for each image, pictures to show.

    `samples` maps a group ("grid", "worst") to items that each name the `position` of an image in the test split.
    """

    evaluation: dict[str, Any]
    predictions: tuple[list[str], list[list[Any]]]
    samples: dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of one image."""

    name: str
    class_names: tuple[str, ...]
    probs: np.ndarray  # (K,) float32, sums to one

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


class Task(ABC):
    """The networks and the mathematics of a job. The engine owns the mechanics and calls these in this order.

    Attributes:
        networks: every network by name; `main` names the one that is evaluated and saved.
        phases: what one step trains, in order.
        score_name: the validation figure that early stopping and `keep: best` judge by.
    """

    networks: dict[str, nn.Module]
    main: str
    phases: list[Phase]
    score_name: str
    higher_is_better: bool = True

    def start(self, train: ImageSource) -> None:
        """Set what a network takes from training images before the first step (whitening filters). Not on resume."""
        del train  # most tasks take nothing

    @abstractmethod
    def loss(self, phase: Phase, batch: Batch, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the scalar to minimise for `phase`, and further scalars to log."""

    @abstractmethod
    def evaluate(
        self, network: nn.Module, source: ImageSource, on_progress: Callable[[int, int], None] | None = None
    ) -> Evaluation:
        """Measure `network` on every image of `source`."""

    @abstractmethod
    def summarise(self, evaluations: dict[str, Evaluation], sources: dict[str, ImageSource]) -> Summary:
        """Turn the final evaluations of "train", "val" and "test" into what the run writes down."""
