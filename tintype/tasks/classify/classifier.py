"""The task of classification: its networks, its loss, and what a finished run says of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tintype.augment import Augment
from tintype.data.source import Batch, DataSpec, ImageSource, group_numbers
from tintype.hardware.device import autocast, images_at_once
from tintype.models.parts.contracts import StartsFromImages
from tintype.models.parts.head import before_head, find_head
from tintype.models.parts.modes import evaluating
from tintype.statistics import NestedFolds, folds_interval
from tintype.tasks import losses
from tintype.tasks.classify import metrics
from tintype.tasks.classify.calibration import FEWEST_TO_CALIBRATE, abstaining, fit_temperature
from tintype.tasks.classify.verdict import (
    AGAINST_OVERFITTING,
    ClassCounts,
    Verdict,
    fit_verdict,
    is_settled,
)
from tintype.tasks.contract.evaluation import EvaluatedSet, Kind
from tintype.tasks.evaluating import answered
from tintype.tasks.own_loss import TRIED, OwnLoss
from tintype.tasks.own_metrics import OwnMetrics
from tintype.tasks.task import Evaluation, Phase, StepContext, Summary, Task

OWN_LOSS = "own_loss"  # what the user's own loss is called among the figures
# Names that figures of the user's own may not have.
FIGURES = {
    "accuracy", "accuracy_ci95", "balanced_accuracy", "calibration_error",
    "calibration_error_if_perfect", "design_effect", "expected_calibration_error", "loss",
    "macro_f1", "num_correct", "num_groups", "num_images", "own_loss", "top5_accuracy",
    "top5_accuracy_ci95", "without_leaked", "without_seen",
}  # fmt: skip
MIXING = {"mixup", "cutmix"}  # augmentations after which targets are (N, K)

PREDICTIONS_HEADER = [
    "split",
    "position",
    "name",
    "target",
    "prediction",
    "confidence",
    "loss",
    "rank",
]

# Figures that the temperature changes, under the names that evaluation.json gives them before and
# after.
CALIBRATED_FIGURES = {
    "loss": "loss",
    "ece": "expected_calibration_error",
    "ece_debiased": "calibration_error",
    "ece_if_perfect": "calibration_error_if_perfect",
}


class Classify(Task):
    """Image classification.

    Args:
        network: maps normalised images (N, C, H, W) float32 to logits (N, K).
        spec: shape, classes and statistics of the images.
        augment: preset or mapping, see tintype.augment.
        loss: what is minimised in place of the cross-entropy. It is measured on validation too,
            as the figure `own_loss`.
        own_metrics: figures of probabilities (N, K) and targets (N,), beside those of the task.
        label_smoothing: part of each target spread evenly over all classes (Szegedy et al. 2016).
        class_weights: None, "balanced" or one weight for each class.
        train_targets: (N,) int64, for balanced class weights.
        one_hot: train on one-hot targets; mathematically the same.
        resolutions: [(part, side)]: the side in pixels that training images are resized to from
            that part of the run on.
        hardest: the part of each batch that is trained on, 0..1: the images with the largest loss
            as the network sees them in evaluation.
        tta: views averaged at evaluation: "none", "flip" (mirrored too), "flip-shift" (also moved
            by a pixel diagonally).
        dtype: arithmetic of the network.
        temperature: what logits are divided by before the softmax; `summarise` fits it on
            validation.
    """

    score_name = "accuracy"
    # How far the interval of answers out of fold has to be widened; None where nobody measured it.
    nested: NestedFolds | None = None
    fewest_to_calibrate = FEWEST_TO_CALIBRATE
    fewest_to_settle = 2_000
    against_overfitting = AGAINST_OVERFITTING  # what to try
    recognises_others = True
    weighs_images = True
    monitors: Mapping[str, bool] = MappingProxyType(
        {"loss": False, "balanced_accuracy": True, "macro_f1": True}
    )

    def __init__(
        self,
        network: nn.Module,
        spec: DataSpec,
        device: torch.device,
        *,
        augment: str | dict | None = None,
        loss: OwnLoss | None = None,
        own_metrics: OwnMetrics | None = None,
        label_smoothing: float = 0.0,
        class_weights: str | Sequence[float] | None = None,
        train_targets: Tensor | None = None,
        one_hot: bool = False,
        resolutions: Sequence[tuple[float, int]] = (),
        hardest: float = 1.0,
        tta: str = "none",
        dtype: torch.dtype = torch.float32,
        temperature: float = 1.0,
    ) -> None:
        self.networks = {"classifier": network}
        self.main = "classifier"
        self.phases = [Phase("train", "classifier")]
        self.spec = spec
        self.device = device
        self.dtype = dtype
        self.tta = tta
        self.temperature = temperature
        # Thresholds below which no answer is given; `summarise` fits them.
        self.abstain: list[dict[str, Any]] = []

        self.augment = Augment(augment, mixable=spec.target.mixable, shape=spec.shape)
        self.own_loss = loss
        self.label_smoothing = label_smoothing
        self.one_hot = one_hot
        self.resolutions = list(resolutions)
        self.hardest = hardest

        weights = None
        if class_weights is not None and train_targets is not None:
            weights = losses.class_weights(train_targets, spec.num_classes, class_weights)
        self.class_weights = None if weights is None else weights.to(device)
        if loss is not None:
            self.watched = (*self.watched, OWN_LOSS)
            self.monitors = {**self.monitors, OWN_LOSS: False}
            if train_targets is not None:
                loss.try_on(self._targets(train_targets[:TRIED]), spec.num_classes)

        self.own_metrics = own_metrics or OwnMetrics((), ())
        self.own_figures = [*([] if loss is None else [OWN_LOSS]), *self.own_metrics.monitors]
        self.watched = (*self.watched, *self.own_metrics.monitors)
        self.monitors = {**self.monitors, **self.own_metrics.monitors}
        if self.own_metrics and train_targets is not None:
            drawn = np.random.default_rng(0).dirichlet(
                np.ones(spec.num_classes), len(train_targets)
            )
            self.own_metrics.figures(drawn.astype(np.float32), train_targets.numpy())

        # (x / 255 - mean) / std as one multiplication and one addition on 0..255 values.
        mean = torch.tensor(spec.mean).view(1, -1, 1, 1)
        std = torch.tensor(spec.std).view(1, -1, 1, 1)
        self._scale = (1 / (255 * std)).to(device)
        self._shift = (-mean / std).to(device)

    def describe(self) -> dict[str, Any]:
        return {"tta": self.tta, "temperature": self.temperature, "abstain": self.abstain}

    def normalise(self, images: Tensor) -> Tensor:
        """Turn images (N, C, H, W) in 0..255, uint8 or float, into the network's input, float32."""
        images = images.to(self.device, non_blocking=True)
        return images.to(torch.float32).mul_(self._scale).add_(self._shift)

    def start(self, train: ImageSource) -> None:
        network = self.networks[self.main]
        if isinstance(network, StartsFromImages):
            sample = torch.arange(0, len(train), max(1, len(train) // 5000))[:5000]
            network.initialise_from(self.normalise(train.take(sample).images))

    def shown(self, images: Tensor) -> Tensor:
        """Return what the network is shown of images as a source of this task gives them."""
        return self.normalise(images)

    def loss(
        self, phase: Phase, batch: Batch, context: StepContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        images, targets, weights = self.augment.weighted(
            batch.images,
            batch.targets,
            batch.weights,
            index=batch.index,
            epoch=context.epoch,
            generator=context.generator,
        )
        images = self._resized(self.normalise(images), context.progress)

        # Mixed targets (N, K) are one-hot already.
        targets = targets.to(self.device, non_blocking=True)
        if self.one_hot and targets.ndim == 1:
            targets = F.one_hot(targets, self.spec.num_classes).float()

        if self.hardest < 1:
            chosen = self._hardest(images, targets)
            images = images[chosen].contiguous(memory_format=torch.channels_last)
            targets = targets[chosen]
            weights = None if weights is None else weights[chosen.to(weights.device)]

        with autocast(self.device, self.dtype):
            logits = self.networks[self.main](images)
        figures = {"train_accuracy": losses.batch_accuracy(logits, targets)}
        return self.objective(logits, targets, weights), figures

    def objective(self, logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return what is minimised, a scalar in float32.

        Args:
            logits: (N, K).
            targets: (N,) int64, or mixed (N, K).
            weights: (N,) of the images, or None.
        """
        if weights is not None:
            weights = weights.to(self.device, non_blocking=True)
        if self.own_loss is not None:
            return self.own_loss(logits, targets, weights)
        return losses.cross_entropy(
            logits,
            targets,
            label_smoothing=self.label_smoothing,
            class_weights=self.class_weights,
            weights=weights,
        )

    @torch.no_grad()
    def _hardest(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the positions (M,) of the images (N, C, H, W) with the largest loss, in order.

        The network looks at them as in evaluation, so that its batch norms do not count them twice.
        """
        network = self.networks[self.main]
        modes = [(module, module.training) for module in network.modules()]
        network.eval()
        with autocast(self.device, self.dtype):
            logits = network(images).float()
        for module, training in modes:
            module.training = training

        values = F.cross_entropy(logits, targets, reduction="none")
        count = max(1, round(self.hardest * len(images)))
        return values.topk(count).indices.sort().values

    def _targets(self, targets: Tensor) -> Tensor:
        """Return targets (N,) in the form of training: (N, K) where it mixes images."""
        mixed = self.one_hot or not MIXING.isdisjoint(self.augment.options)
        return self.spec.target.mixable(targets) if mixed else targets

    @property
    def stateful(self) -> list[nn.Module]:  # pyright: ignore[reportIncompatibleVariableOverride]
        module = None if self.own_loss is None else self.own_loss.module
        return [] if module is None else [module]

    def state(self) -> dict[str, Any]:
        return {} if self.own_loss is None else self.own_loss.in_checkpoint()

    def load_state(self, state: dict[str, Any]) -> None:
        if self.own_loss is not None:
            self.own_loss.from_checkpoint(state)

    def _resized(self, images: Tensor, progress: float) -> Tensor:
        """Return images as wide as `resolutions` has them at this point of the run."""
        widths = [side for start, side in self.resolutions if progress >= start]
        if not widths or widths[-1] == images.shape[-1]:
            return images

        width = widths[-1]
        height = round(width * images.shape[-2] / images.shape[-1])
        small = F.interpolate(
            images, size=(height, width), mode="bilinear", antialias=True, align_corners=False
        )
        return small.contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def logits(self, network: nn.Module, images: Tensor) -> Tensor:
        """Return logits (N, K) float32 of images (N, C, H, W) uint8.

        They are averaged over the views of `tta`, as in airbench.
        """
        images = self.normalise(images)
        with autocast(self.device, self.dtype):
            logits = sum(weight * network(view).float() for weight, view in views(images, self.tta))
        return torch.as_tensor(logits)

    def softmax(self, logits: Tensor) -> Tensor:
        """Turn logits (N, K) into class probabilities, at the fitted temperature."""
        return torch.softmax(logits / self.temperature, dim=1)

    def probabilities(self, network: nn.Module, images: Tensor) -> Tensor:
        """Return class probabilities (N, K) float32 of images (N, C, H, W) uint8."""
        return self.softmax(self.logits(network, images))

    def predict_source(
        self,
        network: nn.Module,
        source: ImageSource,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Return class probabilities (N, K) float32 of every image of `source`.

        Raises:
            UserError: they are not finite.
        """
        return self.softmax(self._logits_of(network, source, on_progress)[0]).numpy()

    def _logits_of(
        self,
        network: nn.Module,
        source: ImageSource,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return logits (N, K) float32 and features (N, D) float16, on the CPU.

        Features are what the last layer saw, at unit length.

        Raises:
            UserError: they are not finite.
        """
        answers = list(self._answers(network, source, on_progress))
        logits, features = zip(*((each.logits, each.features) for each in answers), strict=True)
        if len({each.shape[1] for each in features}) > 1:  # some batches went past the head
            features = [each[:, :0] for each in features]
        return torch.cat(logits), torch.cat(features)

    def _answers(
        self,
        network: nn.Module,
        source: ImageSource,
        on_progress: Callable[[int, int], None] | None = None,
        *,
        features: bool = True,
    ) -> Iterator[Answers]:
        """Yield the answers to all images of `source`, some at a time, in their order.

        Without `features` none are collected.

        Raises:
            UserError: they are not finite.
        """
        spec = source.spec
        size = images_at_once(spec.channels * spec.height * spec.width)
        with (
            evaluating(network),
            self._seen_by_head(network, source if features else None) as collected,
        ):

            def answer(index: Tensor) -> list[Tensor]:
                logits = self.logits(network, source.take(index).images).cpu()
                found = torch.zeros(len(index), 0, dtype=torch.float16)
                if collected:  # the first of several views is the image as it is
                    found = F.normalize(collected[0].float(), dim=1).half().cpu()
                collected.clear()
                return [logits, found]

            answers = answered(len(source), answer, at_once=size, on_progress=on_progress)
            for index, (logits, found) in answers:
                losses.check_finite(logits)
                yield Answers(index, logits, found)

    @contextmanager
    def _seen_by_head(
        self, network: nn.Module, source: ImageSource | None
    ) -> Iterator[list[Tensor]]:
        """Collect what the head sees at each pass, (N, D); nothing without a head or images."""
        collected: list[Tensor] = []
        with ExitStack() as stack:
            if source is not None and len(source):
                first = self.shown(source.take(torch.arange(1)).images)
                with suppress(ValueError):
                    head = find_head(network, first)
                    collected = stack.enter_context(before_head(network, head))
            yield collected

    def figures(self, network: nn.Module, source: ImageSource) -> dict[str, Any]:
        """Return the figures of `evaluate` without holding the answers of more than one batch."""
        self.choose(source)
        groups = self._group_names(source)
        tally = metrics.Tally(self.spec.num_classes)
        logits: list[Tensor] = []  # for figures of the user's own, which need all of them

        for answers in self._answers(network, source, features=False):
            if self.own_figures:
                logits.append(answers.logits)
            names = None if groups is None else [groups[int(i)] for i in answers.index]
            targets = source.targets[answers.index].numpy()
            tally.update(self.softmax(answers.logits).numpy(), targets, names)
        own = self._own_figures(torch.cat(logits), source.targets) if logits else {}
        return {**tally.compute(), **own}

    def _own_figures(self, logits: Tensor, targets: Tensor) -> dict[str, float]:
        """Return the figures of the user's own for logits (N, K) and targets (N,)."""
        figures = {}
        if self.own_loss is not None:
            figures[OWN_LOSS] = self.own_loss.measure(logits, self._targets(targets))
        if self.own_metrics:
            probabilities = self.softmax(logits).numpy()
            figures |= self.own_metrics.figures(probabilities, targets.numpy())
        return figures

    def _group_names(self, source: ImageSource) -> list[str | None] | None:
        """Return the group of each image, None for one that stands alone; None where all do."""
        if not self.groups or group_numbers(source.names, self.groups) is None:
            return None
        return [self.groups.get(name) or None for name in source.names]

    def choose(self, source: ImageSource) -> None:
        """Choose among the weights of the task, where it has a choice and `source` may make it."""

    def evaluate(
        self,
        network: nn.Module,
        source: ImageSource,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Evaluation:
        self.choose(source)
        logits, features = self._logits_of(network, source, on_progress)
        answers = {
            "logits": logits.numpy(),
            "features": features.numpy(),
            "targets": source.targets.numpy(),
        }
        groups = group_numbers(source.names, self.groups) if self.groups else None
        return self._evaluation(answers if groups is None else {**answers, "groups": groups})

    def _evaluation(self, answers: dict[str, np.ndarray]) -> Evaluation:
        """Return what these answers amount to at the present temperature.

        Args:
            answers: logits, targets and, where there are any, features and groups, all (N, ...).
        """
        logits = torch.from_numpy(answers["logits"])
        probabilities = self.softmax(logits).numpy()
        figures = metrics.classification_figures(
            probabilities, answers["targets"], answers.get("groups")
        )
        figures |= self._own_figures(logits, torch.from_numpy(answers["targets"]))
        return Evaluation(figures, {**answers, "probabilities": probabilities})

    def answers(self, evaluation: Evaluation) -> dict[str, np.ndarray]:
        return {name: evaluation.details[name] for name in ("logits", "targets")}

    def evaluation_of(self, answers: Mapping[str, np.ndarray]) -> Evaluation:
        return self._evaluation(dict(answers))

    def summarise(
        self, evaluations: dict[str, Evaluation], sources: dict[str, ImageSource]
    ) -> Summary:
        """Calibrate the answers, and turn all figures into what is written down.

        Without a test part that is the figures and answers of validation, and nothing that was
        fitted on it.
        """
        if "folds" in evaluations:
            return self._summarise_folds(evaluations, sources)
        names = list(self.spec.class_names)
        answers = self.calibrating(evaluations["val"], sources["val"])
        evaluations, calibration = self._calibrate(evaluations, answers)
        calibrated = replace(self._evaluation(answers), of=self._calibrating_set())

        # What is said of single classes and images is said of images that did not train.
        measured = {split: evaluations[split] for split in ("val", "test") if split in evaluations}

        evaluation: dict[str, Any] = {
            "task": "classify",
            "splits": {split: each.figures for split, each in evaluations.items()},
            "calibration": calibration,
            **_by_class(measured, names),
            "verdict": asdict(self._verdict(evaluations["train"], evaluations["val"])),
            "warnings": [
                self._without_leaks(split, each)
                for split, each in evaluations.items()
                if split in self.leaked
            ],
        }
        self.abstain, evaluation["abstain"] = abstaining(calibrated, evaluations.get("test"))

        predictions = self._predictions(measured, sources)
        tables = {"classification_report.csv": (metrics.REPORT_HEADER, _report(evaluation))}
        further = [] if self.validation.how == "all" or self.validation.fits else [calibrated]
        if "test" not in evaluations:
            # What was fitted on validation cannot be shown on it as well.
            del evaluation["abstain"], evaluation["calibration"]
            return Summary(evaluation, predictions, {}, tables, further)

        test = evaluations["test"].details
        samples = choose_samples(test["probabilities"], test["targets"], sources["test"], names)
        return Summary(evaluation, predictions, samples, tables, further)

    def _summarise_folds(
        self, evaluations: Mapping[str, Evaluation], sources: Mapping[str, ImageSource]
    ) -> Summary:
        """Calibrate by the answers of all folds, and turn their figures into what is written down.

        The temperature is fitted to all of them. What is said of an image out of its fold is at the
        temperature of the other folds, since its own label must not calibrate it.
        """
        names = list(self.spec.class_names)
        given = _answers_in(evaluations["folds"])
        crossed = _temperatures_without(given, evaluations["folds"].details["fold"])
        self.temperature = fit_temperature(given["logits"], given["targets"]).value
        scaled = given["logits"] * (self.temperature / crossed)[:, None]
        folds = self._evaluation({**given, "logits": scaled.astype(np.float32)})

        if self.nested is not None:
            right = folds.details["probabilities"].argmax(1) == folds.details["targets"]
            widened = folds_interval(right, folds.details.get("groups"), self.nested)
            naive = folds.figures["accuracy_ci95"]
            folds.figures.update(accuracy_ci95=list(widened), accuracy_ci95_naive=naive)

        others = {name: each for name, each in evaluations.items() if name != "folds"}
        after = {name: self._evaluation(_answers_in(each)) for name, each in others.items()}
        after["folds"] = folds

        evaluation: dict[str, Any] = {
            "task": "classify",
            "splits": {name: each.figures for name, each in after.items()},
            **_by_class({"folds": folds}, names),
            "verdict": asdict(self._verdict(after["train"], folds)),
            "warnings": [],
        }
        self.abstain, _ = abstaining(folds, None)

        details = folds.details
        tables = {"classification_report.csv": (metrics.REPORT_HEADER, _report(evaluation))}
        samples = choose_samples(
            details["probabilities"], details["targets"], sources["folds"], names
        )
        return Summary(evaluation, self._predictions({"folds": folds}, sources), samples, tables)

    def _calibrating_set(self) -> EvaluatedSet:
        """Name the validation images that calibrate."""
        if self.validation.how == "out-of-fold":
            return EvaluatedSet(Kind.OUT_OF_FOLD, "val")
        if self.validation.how == "halves":
            return EvaluatedSet(Kind.PART, "val, the calibrating half")
        return EvaluatedSet(Kind.SPLIT, "val")

    def _verdict(self, train: Evaluation, val: Evaluation) -> Verdict:
        names = self.spec.class_names
        return fit_verdict(
            train.figures["num_correct"],
            train.figures["num_images"],
            val.figures["num_correct"],
            val.figures["num_images"],
            len(names),
            train_classes=_counts_by_class(train, len(names)),
            val_classes=_counts_by_class(val, len(names)),
            class_names=names,
            against_overfitting=self.against_overfitting,
        )

    def settles(self, evaluations: Mapping[str, Evaluation], num_images: int) -> bool:
        if "val" not in evaluations:
            return False
        counts = {
            split: _counts_by_class(evaluations[split], self.spec.num_classes)
            for split in ("train", "val")
        }
        return is_settled(counts["train"], counts["val"], num_images)

    def _predictions(
        self, measured: Mapping[str, Evaluation], sources: Mapping[str, ImageSource]
    ) -> tuple[list[str], list[list[Any]]]:
        """Return header and rows of predictions.csv; groups stand in the last column."""
        names = self.spec.class_names
        rows: list[list[Any]] = []
        for split, each in measured.items():
            probabilities, targets = each.details["probabilities"], each.details["targets"]
            rows += prediction_rows(split, sources[split], probabilities, targets, names)

        if not any("groups" in each.details for each in measured.values()):
            return PREDICTIONS_HEADER, rows
        grouped = [[*row, self.groups.get(row[2], "")] for row in rows]
        return [*PREDICTIONS_HEADER, "group"], grouped

    def _without_leaks(self, split: str, evaluation: Evaluation) -> str:
        """Add the figures without images that training has seen, and return a warning."""
        leaked = self.leaked[split]
        figures = evaluation.figures
        clean = np.setdiff1d(np.arange(figures["num_images"]), leaked)

        word = {"val": "validation"}.get(split, split)
        warning = (
            f"{len(leaked):,} of {figures['num_images']:,} {word} images are "
            "duplicates of images that training has seen"
        )
        if not len(clean):
            return f"{warning}: the {word} figures say nothing about new images."

        answers = {name: values[clean] for name, values in _answers_in(evaluation).items()}
        without = self._evaluation(answers).figures
        figures["without_leaked"] = without
        return (
            f"{warning}; accuracy on the others is {without['accuracy']:.2%} "
            f"instead of {figures['accuracy']:.2%}."
        )

    def calibrating(self, val: Evaluation, source: ImageSource) -> dict[str, np.ndarray]:
        """Return what calibrates: logits, targets and groups of validation images.

        They are the answers of `source` that `self.validation` sets apart, all of them by default.
        """
        del source  # for subclasses that answer its images once more
        answers = _answers_in(val)
        part = self.validation.calibrating
        return answers if part is None else {k: values[part] for k, values in answers.items()}

    def _calibrate(
        self, given: dict[str, Evaluation], calibrating: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, Evaluation], dict[str, Any]]:
        """Fit the temperature; return the evaluations at it, and what it changed.

        The validation figures are then fitted ones; those of the test split are honest.
        """
        fitted = fit_temperature(calibrating["logits"], calibrating["targets"])
        answers = {split: _answers_in(evaluation) for split, evaluation in given.items()}
        self.temperature = 1.0
        before = {split: self._evaluation(each) for split, each in answers.items()}
        self.temperature = fitted.value
        after = {split: self._evaluation(each) for split, each in answers.items()}

        calibration: dict[str, Any] = {"temperature": fitted.value, "reason": fitted.reason}
        calibration.update(splits={}, reliability={})
        for split in given:
            changes: dict[str, Any] = {}
            for name, key in CALIBRATED_FIGURES.items():
                changes[f"{name}_before"] = before[split].figures[key]
                changes[f"{name}_after"] = after[split].figures[key]
            calibration["splits"][split] = changes

        # That of `after` stands as `reliability` in the evaluation itself.
        for split in ("val", "test"):
            if split not in before:
                continue
            details = before[split].details
            calibration["reliability"][split] = metrics.reliability_bins(
                details["probabilities"], details["targets"], groups=details.get("groups")
            )

        return after, calibration


def _by_class(measured: Mapping[str, Evaluation], names: Sequence[str]) -> dict[str, Any]:
    """Return, for each split, what is known of single classes and of confidence."""
    found: dict[str, dict[str, Any]] = {
        "per_class": {},
        "averages": {},
        "confusion": {},
        "most_confused": {},
        "reliability": {},
    }
    for split, each in measured.items():
        probabilities, targets = each.details["probabilities"], each.details["targets"]
        groups = each.details.get("groups")
        guesses = probabilities.argmax(1)
        confusion = metrics.confusion_matrix(guesses, targets, len(names))

        intervals = metrics.recall_intervals(guesses == targets, targets, len(names), groups)
        rates = zip(metrics.per_class(confusion, names), intervals, strict=True)
        found["per_class"][split] = [{**row, "recall_ci95": ends} for row, ends in rates]
        found["averages"][split] = metrics.averages(confusion)
        found["confusion"][split] = confusion.tolist()
        found["most_confused"][split] = metrics.most_confused(confusion, names)
        found["reliability"][split] = metrics.reliability_bins(
            probabilities, targets, groups=groups
        )

    return found


def _report(evaluation: Mapping[str, Any]) -> list[list[Any]]:
    """Return the rows of classification_report.csv, split by split."""
    return [
        row
        for split, classes in evaluation["per_class"].items()
        for row in metrics.report_rows(split, classes, evaluation["averages"][split])
    ]


class Answers(NamedTuple):
    """Answers to some images: their positions (N,), logits (N, K), features (N, D) float16."""

    index: Tensor
    logits: Tensor
    features: Tensor


def _temperatures_without(answers: Mapping[str, np.ndarray], folds: np.ndarray) -> np.ndarray:
    """Return for each image (N,) the temperature that the answers of the other folds ask for."""
    temperatures = np.ones(len(folds))
    for fold in np.unique(folds):
        inside = folds == fold
        fitted = fit_temperature(answers["logits"][~inside], answers["targets"][~inside])
        temperatures[inside] = fitted.value
    return temperatures


def _answers_in(evaluation: Evaluation) -> dict[str, np.ndarray]:
    """Return what the network said, without what the temperature made of it."""
    keys = ("logits", "features", "targets", "groups")
    return {key: evaluation.details[key] for key in keys if key in evaluation.details}


def _counts_by_class(evaluation: Evaluation, num_classes: int) -> ClassCounts:
    targets = evaluation.details["targets"]
    right = evaluation.details["probabilities"].argmax(1) == targets
    return ClassCounts.of(right, targets, num_classes, evaluation.details.get("groups"))


def prediction_rows(
    split: str,
    source: ImageSource,
    probabilities: np.ndarray,
    targets: np.ndarray,
    names: Sequence[str],
) -> list[list[Any]]:
    """Return a row of predictions.csv for each image.

    `rank` is that of the true class: 1 where the answer is right.
    """
    of_target = probabilities[np.arange(len(targets)), targets].astype(np.float64)
    ranks = metrics.target_ranks(probabilities, targets) + 1
    log_losses = -np.log(np.clip(of_target, np.finfo(np.float64).eps, 1.0)) + 0.0
    guesses = probabilities.argmax(1)
    confidence = probabilities.max(1)

    return [
        [
            split,
            i,
            source.names[i],
            names[targets[i]],
            names[guesses[i]],
            f"{confidence[i]:.6f}",
            f"{log_losses[i]:.6f}",
            rank,
        ]
        for i, rank in enumerate(ranks.tolist())
    ]


def choose_samples(
    probabilities: np.ndarray, targets: np.ndarray, source: ImageSource, names: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """Choose test images to show: a grid of right and wrong mixed, and the most confident mistakes.

    A third of the grid are mistakes where there are so many; the images are drawn with a fixed
    seed.
    """
    guesses = probabilities.argmax(1)
    confidence = probabilities.max(1)
    wrong = np.flatnonzero(guesses != targets)
    right = np.flatnonzero(guesses == targets)

    draw = np.random.default_rng(0)
    draw.shuffle(wrong)
    draw.shuffle(right)
    grid = np.concatenate([wrong[:12], right[: 36 - min(12, len(wrong))]])
    draw.shuffle(grid)
    worst = sorted(wrong, key=lambda i: -confidence[i])[:24]

    def item(i: int) -> dict[str, Any]:
        return {
            "position": int(i),
            "name": str(source.names[i]),
            "target": names[targets[i]],
            "prediction": names[guesses[i]],
            "confidence": round(float(confidence[i]), 4),
            "correct": bool(guesses[i] == targets[i]),
        }

    return {"grid": [item(int(i)) for i in grid], "worst": [item(int(i)) for i in worst]}


def views(images: Tensor, tta: str) -> list[tuple[float, Tensor]]:
    """Return the views to average, each with its weight; the weights sum to one."""
    if tta == "none":
        return [(1.0, images)]
    if tta == "flip":
        return [(0.5, images), (0.5, images.flip(3))]

    # Half of the weight stays with the image in its place, half is shared by the moved ones.
    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
    height, width = images.shape[-2:]
    views = [(0.25, images), (0.25, images.flip(3))]
    for shift in (0, 2):
        moved = padded[:, :, shift : shift + height, shift : shift + width]
        views += [(0.125, moved), (0.125, moved.flip(3))]
    return views
