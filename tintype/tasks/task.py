"""What every task offers to the engine and to the commands: Task, Phase, StepContext, Evaluation,
Prediction.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tintype.data.source import Batch, DataSpec, DataSplits, ImageSource
from tintype.hardware.device import Choice
from tintype.models import count_multiply_adds
from tintype.tasks.contract.evaluation import Evaluation
from tintype.tasks.contract.prediction import Prediction
from tintype.tasks.validation import ValidationUse

__all__ = ["Evaluation", "Phase", "Prediction", "StepContext", "Summary", "Task"]


@dataclass(frozen=True)
class Phase:
    """One kind of step: it trains one network, at every `every`-th step. A GAN has two or more.

    `lr_scale` is the network's factor on the recipe's learning rate; phases that train the same
    network agree on it. Before the share `start` (0..1) of the run the phase has no turn.
    """

    name: str
    network: str
    every: int = 1
    lr_scale: float = 1.0
    start: float = 0.0


@dataclass(frozen=True)
class StepContext:
    """Where in the run a step stands, and its own random numbers: all draws of a step come from
    `generator`.
    """

    step: int
    epoch: int
    progress: float  # 0..1 of the whole run
    generator: torch.Generator


@dataclass(frozen=True)
class Summary:
    """What a finished run writes down: figures (JSON-ready), a table with a row for each image, pictures to show.

    `samples` maps a group ("grid", "worst") to items that each name the `position` of an image in
    the test split, or bring a `picture` (H, W, C) uint8 with the name of its `file`. `tables` are
    further CSV files: header and rows by name. `further` are evaluations of other images than the
    whole splits, each of which names its images.
    """

    evaluation: dict[str, Any]
    predictions: tuple[list[str], list[list[Any]]]
    samples: dict[str, list[dict[str, Any]]]
    tables: Mapping[str, tuple[list[str], list[list[Any]]]] = field(default_factory=dict)
    further: Sequence[Evaluation] = ()


class Task(ABC):
    """The networks and the mathematics of a job. The engine owns the mechanics and calls these in this order.

    A file in this folder has two functions beside its class: `make(splits, *, device, dtype, ...)
    -> Task`, whose further parameters are the fields of the recipe that it needs, by name, and
    `restore(network, spec, description, *, device, dtype) -> Task` around a finished network and
    its model.json. It may have `target_of(...) -> TargetKind`, whose parameters are options of the
    task, where images do not come with one class each; and its own `open_data`, with fields of the
    recipe as parameters, where they do not come one by one. A literal `TARGETS` names the kinds of
    target that it takes, so that its data sets are found without an import.

    Attributes:
        networks: every network by name; `main` names the one that is evaluated and saved.
        phases: what one step trains, in order.
        spec: what the main network expects of images; with its own mean and deviation where it
            brings them.
        score_name: the validation figure that early stopping and `keep: best` judge by.
        monitors: further validation figures that they may judge by instead, each with whether
            higher is better.
        watched: the validation figures that go into metrics.csv.
        leaked: positions in "val" and "test" of images that training has seen as well, under
            another name.
        groups: the group of each image that belongs together with others, by the image's name.
        options_of_model: options of the network that follow from the task, kept in model.json
            beside the recipe's.
        fewest_to_calibrate: how many validation images it takes to calibrate what `summarise` fits
            on them (a temperature, thresholds); 0 where nothing is fitted.
        calibrated: what that is, in words.
        chooses: what `evaluate` itself chooses on `selection`, in words; empty for nothing.
        selection: the validation images that may choose among weights; set before training.
        validation: which validation images choose and which calibrate; set before training.
        log_every_step: whether metrics.csv has a row for each step, whatever their number.
        recognises_others: whether the run records what its images have in common, so that images
            of another kind show.
        warnings: what has gone wrong so far, in the user's words; an evaluation may add to it.
        choices: what was decided while the networks were built, printed with the other choices of
            the run.
    """

    networks: dict[str, nn.Module]
    main: str
    phases: list[Phase]
    spec: DataSpec
    score_name: str
    higher_is_better: bool = True
    monitors: Mapping[str, bool] = MappingProxyType({})
    watched: tuple[str, ...] = ("loss", "accuracy")
    leaked: Mapping[str, np.ndarray] = MappingProxyType({})
    groups: Mapping[str, str] = MappingProxyType({})
    options_of_model: Mapping[str, Any] = MappingProxyType({})
    fewest_to_calibrate: int = 0
    calibrated: str = "the confidence"
    chooses: str = ""
    selection: ImageSource | None = None
    validation: ValidationUse = ValidationUse()
    log_every_step: bool = False
    recognises_others: bool = False
    warnings: Sequence[str] = ()
    choices: Sequence[Choice] = ()

    def describe(self) -> dict[str, Any]:
        """Return what model.json holds of the task, so that `restore` makes the same of it again
        (JSON-ready).
        """
        return {}

    def multiply_adds(self) -> int:
        """Return the multiply-adds of the network that is saved for one image."""
        return count_multiply_adds(self.result(), self.spec)

    def sources(
        self, splits: DataSplits, progress: Callable[[str, int, int], None] | None = None
    ) -> DataSplits:
        """Return what training and measuring see in place of the images (features of a frozen
        network, say).
        """
        del progress
        return splits

    def start(self, train: ImageSource) -> None:
        """Set what a network takes from training images before the first step (whitening filters).

        Not on resume.
        """
        del train  # most tasks take nothing

    @abstractmethod
    def loss(
        self, phase: Phase, batch: Batch, context: StepContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the scalar to minimise for `phase`, and further scalars to log."""

    def snapshot(self, network: nn.Module) -> np.ndarray | None:
        """Return a picture (H, W, C) uint8 of how far the main network is, for the time lapse of
        the report, or None.
        """
        del network
        return None

    def state(self) -> dict[str, Any]:
        """Return what the task itself must remember in a checkpoint (numbers, texts, tensors)."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        del state

    def result(self) -> nn.Module:
        """Return the network to save, after training; the main one unless a task puts it together
        from parts.
        """
        return self.networks[self.main]

    def remarks(self) -> list[str]:
        """Return lines for the user about what training has decided."""
        return []

    def figures(self, network: nn.Module, source: ImageSource) -> dict[str, Any]:
        """Return the figures of `evaluate`; a task that can, holds no answers for them."""
        return self.evaluate(network, source).figures

    @abstractmethod
    def evaluate(
        self,
        network: nn.Module,
        source: ImageSource,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Evaluation:
        """Measure `network` on every image of `source`."""

    @abstractmethod
    def summarise(
        self, evaluations: dict[str, Evaluation], sources: dict[str, ImageSource]
    ) -> Summary:
        """Turn the final evaluations of "train", "val" and "test" into what the run writes down."""
