"""The contract of a task: what it offers to the training loop and to the commands.

To write a task, make a folder `tasks/NAME/` with a file `task.py` that holds a subclass of `Task`
and two functions:

- `make(splits, *, device, dtype, ...) -> Task` builds the networks and the task around them. Its
  other parameters are fields of the recipe or options of the task (`tasks/NAME/options.py`), found
  by their names, and `progress`.
- `restore(network, spec, description, *, device, dtype) -> Task` builds the task around a finished
  network; `description` is its model.json.

Three more names are optional. `TARGETS`, a literal, names the kinds of target that the task takes,
so that its data sets are found without an import. `target_of(...) -> TargetKind`, whose parameters
are options of the task, says what each image comes with where that is not one class.
`open_data(...)`, whose parameters are fields of the recipe, opens images that do not come one by
one. Other files of the folder are parts that the commands ask for, see `tasks/contract/`.
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
from tintype.errors import UserError
from tintype.hardware.device import Choice
from tintype.models import count_multiply_adds
from tintype.tasks.contract.evaluation import Evaluation
from tintype.tasks.contract.prediction import Prediction
from tintype.tasks.validation import ValidationUse

__all__ = ["Evaluation", "Phase", "Prediction", "StepContext", "Summary", "Task"]


@dataclass(frozen=True)
class Phase:
    """One kind of step, which trains one network. A GAN has two phases or more.

    Attributes:
        name: unique among the phases of a task; the random numbers of a step follow from it.
        network: the name of the network that is trained; all others hold still.
        every: the phase has its turn at every so many steps.
        lr_scale: factor on the learning rate of the recipe; phases that train the same network
            agree on it.
        start: the part of the run, 0..1, before which the phase has no turn.
    """

    name: str
    network: str
    every: int = 1
    lr_scale: float = 1.0
    start: float = 0.0


@dataclass(frozen=True)
class StepContext:
    """Where in the run a step stands, and its own random numbers.

    Attributes:
        step: how many steps came before.
        epoch: how many passes through the training images came before.
        progress: the part of the run, 0..1, that lies behind.
        generator: the source of every random number that the step draws. Whatever draws from
            elsewhere breaks the promise that a resumed run ends bit-equal.
        part: which part of the batch the loss is of.
        piece: which piece of the part, where gradients are accumulated over several; counted from
            `rules` 3 of the recipe on.
        parts: how many parts the batch has. With several, a loss decides nothing by what it sees:
            `Task.decide` does, once all parts are done.
    """

    step: int
    epoch: int
    progress: float
    generator: torch.Generator
    part: int = 0
    piece: int = 0
    parts: int = 1


@dataclass(frozen=True)
class Summary:
    """What a finished run writes down.

    Attributes:
        evaluation: evaluation.json, with at least `task`, `splits` (figures by split) and `verdict`
            (`word` and `text`).
        predictions: predictions.csv, header and rows; usually a row for each image.
        samples: pictures for the report, by group ("grid", "worst"). An item names the `position`
            of an image in the test split, or brings a `picture` (H, W, C) uint8 with the name of
            its `file`.
        tables: further CSV files, header and rows by name.
        further: evaluations of what is no whole split (a half, folds), each with the name of its
            images in `of`.
    """

    evaluation: dict[str, Any]
    predictions: tuple[list[str], list[list[Any]]]
    samples: dict[str, list[dict[str, Any]]]
    tables: Mapping[str, tuple[list[str], list[list[Any]]]] = field(default_factory=dict)
    further: Sequence[Evaluation] = ()


class Task(ABC):
    """The networks and the mathematics of a job.

    The engine owns the mechanics: the order of the images, optimizers, schedules, checkpoints. A
    new run calls the methods in this order; a resumed one calls `load_state` in place of `start`:

    1. `sources` once: what training sees in place of the images.
    2. `start` once: weights that depend on the training images.
    3. `loss` for each phase of each step. The engine computes the gradient and updates `network`.
    4. `figures` at each evaluation on validation, `snapshot` for the time lapse, and `state` for
       each checkpoint.
    5. `finish`, `remarks` and `result` after the last step; the network is saved with what
       `describe` and `multiply_adds` say of it.
    6. `evaluate` on each split, then `summarise` on all of them.

    A subclass sets `networks`, `main`, `phases`, `spec` and `score_name`, and writes `loss` and
    `evaluate`; everything else has a default. Whoever prepares the run sets
    `groups`, `selection` and `validation` before training, and `leaked` before `summarise`.

    Attributes:
        networks: every network by name. All of them are in the checkpoints.
        main: the network that is evaluated, averaged (`ema`) and saved.
        phases: what one step trains, in this order.
        spec: what the main network expects of images; with its own mean and deviation where it
            brings them.
        score_name: the figure of validation by which early stopping and `keep: best` choose.
        higher_is_better: whether a higher score is a better one.
        monitors: the figures that a recipe may name as `monitor` in place of the score, each with
            whether higher is better.
        watched: the figures of validation that metrics.csv holds.
        own_figures: those figures that are of the user's own making.
        chooses: what the task itself chooses by validation images (a head, say), in words; "" where
            it chooses nothing. It may look at `selection` alone for it.
        fits_validation: whether weights are fitted to the validation images too; `evaluate` then
            answers each of them by weights that were fitted and chosen without it.
        fewest_to_calibrate: how many validation images it takes to fit what `summarise` fits on
            them (a temperature, thresholds); 0 where nothing is fitted.
        calibrated: what `summarise` fits on them, in words.
        fewest_to_settle: how many training images are measured first, where `settles` can say that
            more of them would change nothing; 0 where it cannot.
        options_of_model: options of the network that follow from the task; model.json keeps them
            with those of the recipe.
        log_every_step: whether metrics.csv has a row for each step, however many there are.
        weighs_images: whether the loss reads the weights of a batch.
        recognises_others: whether the run records what its images have in common, so that images
            of another kind show.
        stateful: modules beside the networks whose buffers the loss may change.
        warnings: what has gone wrong so far, in the user's words. An evaluation may add to it.
        choices: what was decided while the networks were built, with the reasons; they are printed.
        groups: the group of each image that belongs together with others, by the image's name.
        selection: the validation images that may choose among weights.
        validation: which validation images choose, and which calibrate.
        leaked: for "val" and "test", the positions of images that training has seen under another
            name.
    """

    # Set by the subclass.
    networks: dict[str, nn.Module]
    main: str
    phases: list[Phase]
    spec: DataSpec
    score_name: str

    # May be set by the subclass.
    higher_is_better: bool = True
    monitors: Mapping[str, bool] = MappingProxyType({})
    watched: tuple[str, ...] = ("loss", "accuracy")
    own_figures: Sequence[str] = ()
    chooses: str = ""
    fits_validation: bool = False
    fewest_to_calibrate: int = 0
    fewest_to_settle: int = 0
    calibrated: str = "the confidence"
    options_of_model: Mapping[str, Any] = MappingProxyType({})
    log_every_step: bool = False
    weighs_images: bool = False
    recognises_others: bool = False
    stateful: Sequence[nn.Module] = ()
    warnings: Sequence[str] = ()
    choices: Sequence[Choice] = ()

    # Set by whoever prepares the run.
    groups: Mapping[str, str] = MappingProxyType({})
    selection: ImageSource | None = None
    validation: ValidationUse = ValidationUse()
    leaked: Mapping[str, np.ndarray] = MappingProxyType({})

    def sources(
        self, splits: DataSplits, progress: Callable[[str, int, int], None] | None = None
    ) -> DataSplits:
        """Return what training and measuring see in place of the images.

        Features of a frozen network, for example. The order and the number of images stay.
        """
        del progress
        return splits

    def start(self, train: ImageSource) -> None:
        """Set what a network takes from training images before the first step.

        Whitening filters, for example. It is not called when a run is resumed.
        """
        del train  # most tasks take nothing

    @abstractmethod
    def loss(
        self, phase: Phase, batch: Batch, context: StepContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of `phase` on a batch, and further scalars to log.

        The loss is a scalar with a gradient, the mean over the images of the batch: that of
        weight times loss, where the batch has weights.
        """

    def decide(self, phase: Phase, logged: dict[str, Tensor], num_images: int) -> dict[str, Tensor]:
        """Decide what follows from all parts of a batch; return the scalars to log.

        It is called after a phase whose batch has several parts. An adaptive strength moves here,
        by scalars that the losses have logged for it.

        Args:
            phase: which of them.
            logged: the scalars that the losses returned, each the mean over the batch.
            num_images: of the batch.
        """
        del phase, num_images
        return logged

    def figures(self, network: nn.Module, source: ImageSource) -> dict[str, Any]:
        """Return the figures of `evaluate`, for evaluations during training.

        A task that can do so holds no answers of single images for them.
        """
        return self.evaluate(network, source).figures

    def snapshot(self, network: nn.Module) -> np.ndarray | None:
        """Return a picture (H, W, C) uint8 of how far the main network is, or None.

        The report shows these pictures as a time lapse.
        """
        del network
        return None

    def state(self) -> dict[str, Any]:
        """Return what the task itself must remember in a checkpoint (numbers, texts, tensors)."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        del state

    def finish(self) -> list[Choice]:
        """Choose, by `selection`, among networks that the trained one leads to.

        It is called once the main network has its final weights, which it may replace. It draws no
        random numbers, so that a resumed run ends with the same bits.

        Returns:
            What was chosen, to be printed and kept.
        """
        return []

    def result(self) -> nn.Module:
        """Return the network to save, after training.

        It is the main one, unless a task puts it together from parts.
        """
        return self.networks[self.main]

    def remarks(self) -> list[str]:
        """Return lines for the user about what training has decided."""
        return []

    def describe(self) -> dict[str, Any]:
        """Return what model.json holds of the task (JSON-ready).

        `restore` makes the same task of it again.
        """
        return {}

    def multiply_adds(self) -> int:
        """Return the multiply-adds of the network that is saved for one image."""
        return count_multiply_adds(self.result(), self.spec)

    @abstractmethod
    def evaluate(
        self,
        network: nn.Module,
        source: ImageSource,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Evaluation:
        """Measure `network` on every image of `source`.

        Figures must be the same however often they are asked for: what is random follows from fixed
        seeds. The network's mode, training or evaluation, is left as it was.
        """

    def settles(self, evaluations: Mapping[str, Evaluation], num_images: int) -> bool:
        """Say whether the verdict would be the same if `num_images` training images were measured.

        `evaluations` are those of "train", of `fewest_to_settle` images, and of "val".
        """
        del evaluations, num_images
        return False

    def answers(self, evaluation: Evaluation) -> dict[str, np.ndarray]:
        """Return the answers to single images from which `evaluation_of` makes the figures again.

        Asked for of tasks that take folds (`TaskOptions.takes_folds`).
        """
        raise NotImplementedError(f"{type(self).__name__} takes no folds")

    def evaluation_of(self, answers: Mapping[str, np.ndarray]) -> Evaluation:
        """Return the evaluation that answers to some images amount to.

        Args:
            answers: as `answers` returns them, of one or several models; with `groups` (N,) where
                images belong together, and `fold` (N,) where they are those of folds.
        """
        raise NotImplementedError(f"{type(self).__name__} takes no folds")

    def answers_out_of_fold(
        self,
        source: ImageSource,
        folds: np.ndarray,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> dict[str, np.ndarray] | None:
        """Return the answers to every image, each by a fit without its fold.

        None where a fold takes a training of its own, as it does for most tasks.

        Args:
            source: all images, as `sources` returned them.
            folds: (N,) the fold of each.
            progress: called as progress(what, done, total).
        """
        del source, folds, progress
        return None

    def answer_columns(self, images: Tensor) -> Mapping[str, Sequence[float | str]]:
        """Return what `predict` says of images (N, C, H, W) uint8, on the CPU.

        These are columns by name, each with a number or a text for each image. It is asked of tasks
        without a `predict.py`, in evaluation mode and without gradients.

        Raises:
            UserError: the task answers nothing, as by default.
        """
        del images
        raise UserError(
            f"the task {type(self).__name__} has no answers to single images. To predict by it, "
            "write a method answer_columns(images) that returns columns by name."
        )

    def summarise(
        self, evaluations: dict[str, Evaluation], sources: dict[str, ImageSource]
    ) -> Summary:
        """Turn the final evaluations into what the run writes down.

        By default that is the figures of each split, and the score in one sentence.

        Args:
            evaluations: of "train" (clean images, many of them by a sample), "val" and, where the
                run has a test part, "test". Of a run with folds: "train", "val" where there is one,
                and "folds", every image answered out of its fold; these calibrate.
            sources: the images of each, as `sources` returned them.
        """
        del sources
        splits = {split: evaluation.figures for split, evaluation in evaluations.items()}
        reached = (f"{split} {each[self.score_name]:.4g}" for split, each in splits.items())
        text = f"{self.score_name.replace('_', ' ')}: {', '.join(reached)}"
        evaluation = {"splits": splits, "verdict": {"word": "measured", "text": f"{text}."}}
        return Summary(evaluation, (["split"], []), {})
