"""Regression: one network that answers with numbers and with the scale of its error."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tintype.augment import Augment
from tintype.augment.spec import resolve
from tintype.data.source import Batch, DataSpec, ImageSource, group_numbers
from tintype.errors import UserError
from tintype.hardware.device import autocast, images_at_once
from tintype.models.parts.contracts import StartsFromImages
from tintype.models.parts.modes import evaluating
from tintype.tasks.evaluating import answered
from tintype.tasks.losses import check_finite
from tintype.tasks.own_loss import TRIED, OwnLoss
from tintype.tasks.own_metrics import OwnMetrics
from tintype.tasks.regress import conformal, metrics
from tintype.tasks.regress.objective import (
    SCALE_WEIGHT,
    regression_loss,
    scale_loss,
    split_outputs,
)
from tintype.tasks.regress.options import LOSSES
from tintype.tasks.regress.outcome import summarise
from tintype.tasks.task import Evaluation, Phase, StepContext, Summary, Task

# Names that figures of the user's own may not have.
FIGURES = {
    "baseline_mae", "bias", "coverage", "intervals", "level", "loss", "mae", "num_groups",
    "num_images", "per_column", "r2", "relative_mae", "rmse", "seen", "spearman", "without_leaked",
    "without_seen",
}  # fmt: skip

# Augmentations that an angle cannot follow. Top to bottom, a picture stands on its head.
TURNING = ("vertical_flip", "rotate", "affine", "mixup", "cutmix")


class Regress(Task):
    """Regression of one or several numbers for each image.

    Numbers are standardised by mean and deviation of the training images inside; all figures are in
    the unit of the user.

    Args:
        network: maps normalised images (N, C, H, W) float32 to (N, 2 K): the numbers, then the
            logarithms of their scales, both in deviations.
        spec: shape and statistics of the images.
        columns: the names of the K numbers.
        mean: (K,) of the training numbers.
        deviation: (K,) of the training numbers.
        loss: "mse", "mae" or "huber", or what the recipe calls a loss of the user's own.
        own_loss: that loss, of numbers and targets (N, K) in deviations; without it, as in a model
            that was loaded, the figures are without the loss.
        own_metrics: figures of predictions and targets (N, K), in the user's unit.
        train_targets: (N, K), on which both are tried.
        level: the part of new images whose number the predictive interval is to hold.
        angle: whether the numbers are angles in the picture.
        augment: preset or mapping, see tintype.augment.
        dtype: arithmetic of the network.
        quantiles: what scales are multiplied by for the intervals; `summarise` finds them.

    Raises:
        UserError: an augmentation that would make the angles wrong.
    """

    score_name = "mae"
    higher_is_better = False
    monitors: Mapping[str, bool] = MappingProxyType(
        {"loss": False, "mae": False, "rmse": False, "relative_mae": False, "r2": True}
    )
    watched = ("loss", "mae", "rmse", "r2", "relative_mae")
    calibrated = "the predictive intervals"
    weighs_images = True

    def __init__(
        self,
        network: nn.Module,
        spec: DataSpec,
        device: torch.device,
        *,
        columns: Sequence[str],
        mean: Sequence[float],
        deviation: Sequence[float],
        loss: str = "huber",
        own_loss: OwnLoss | None = None,
        own_metrics: OwnMetrics | None = None,
        train_targets: Tensor | None = None,
        level: float = 0.9,
        angle: bool = False,
        augment: str | dict[str, Any] | None = None,
        dtype: torch.dtype = torch.float32,
        quantiles: Sequence[float | None] | None = None,
    ) -> None:
        self.networks = {"regressor": network}
        self.main = "regressor"
        self.phases = [Phase("train", "regressor")]
        self.spec = spec
        self.device = device
        self.dtype = dtype
        self.columns = list(columns)
        if len(self.columns) > 1:  # whose units differ
            self.score_name = "relative_mae"
        self.kind = loss
        self.level = level
        self.angle = angle
        self.fewest_to_calibrate = conformal.fewest_for(level)
        self.quantiles: list[float | None] = list(quantiles or [None] * len(self.columns))

        self.mean = list(mean)
        self.deviation = list(deviation)
        self._mean = torch.tensor(self.mean, device=device)
        self._deviation = torch.tensor(self.deviation, device=device)

        self.own_loss = own_loss
        if own_loss is not None and train_targets is not None:
            own_loss.try_on(self.standardised(train_targets[:TRIED]), len(self.columns))

        self.own_metrics = own_metrics or OwnMetrics((), ())
        self.own_figures = list(self.own_metrics.monitors)
        self.watched = (*self.watched, *self.own_metrics.monitors)
        self.monitors = {**self.monitors, **self.own_metrics.monitors}
        if self.own_metrics and train_targets is not None:
            given = train_targets.double().numpy()
            off = np.random.default_rng(0).normal(size=given.shape)
            self.own_metrics.figures(given + off, given)

        options = resolve(augment)
        self.mirrored = _mirrored_angles(options) if angle else 0.0
        if self.mirrored:
            del options["flip"]
        self.augment = Augment(options, mixable=spec.target.mixable, shape=spec.shape)

        # (x / 255 - mean) / std as one multiplication and one addition on 0..255 values.
        pixel_mean = torch.tensor(spec.mean).view(1, -1, 1, 1)
        pixel_std = torch.tensor(spec.std).view(1, -1, 1, 1)
        self._scale = (1 / (255 * pixel_std)).to(device)
        self._shift = (-pixel_mean / pixel_std).to(device)

    def describe(self) -> dict[str, Any]:
        return {
            "columns": self.columns,
            "target_mean": self.mean,
            "target_deviation": self.deviation,
            "loss": self.kind,
            "angle": self.angle,
            "level": self.level,
            "quantiles": self.quantiles,
        }

    def normalise(self, images: Tensor) -> Tensor:
        """Turn images (N, C, H, W) in 0..255, uint8 or float, into the network's input, float32."""
        images = images.to(self.device, non_blocking=True)
        return images.to(torch.float32).mul_(self._scale).add_(self._shift)

    def standardised(self, targets: Tensor) -> Tensor:
        """Return targets (N, K) in deviations from the training mean, on the device."""
        return (targets.to(self.device, torch.float32) - self._mean) / self._deviation

    def start(self, train: ImageSource) -> None:
        network = self.networks[self.main]
        if isinstance(network, StartsFromImages):
            sample = torch.arange(0, len(train), max(1, len(train) // 5000))[:5000]
            images = self.normalise(train.take(sample).images)
            network.initialise_from(images)

    def loss(
        self, phase: Phase, batch: Batch, context: StepContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        images, targets, weights = self._augmented(batch, context)
        with autocast(self.device, self.dtype):
            outputs = self.networks[self.main](self.normalise(images))
        return self._objective(outputs, self.standardised(targets), weights)

    def _objective(
        self, outputs: Tensor, wanted: Tensor, weights: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what is minimised, and what is logged.

        Args:
            outputs: (N, 2 K) of the network.
            wanted: (N, K) in deviations.
            weights: (N,) of the images, or None.
        """
        numbers, log_scales = split_outputs(outputs)
        if weights is not None:
            weights = weights.to(self.device, non_blocking=True)
        error = self._error(numbers, wanted, weights)
        total = error + SCALE_WEIGHT * scale_loss(log_scales, numbers - wanted, weights)

        off = ((numbers - wanted).detach().abs() * self._deviation).mean()
        return total, {"loss": error.detach(), "train_mae": off}

    def _error(self, numbers: Tensor, wanted: Tensor, weights: Tensor | None) -> Tensor:
        if self.own_loss is not None:
            return self.own_loss(numbers, wanted, weights)
        return regression_loss(self.kind, numbers, wanted, weights)

    def _augmented(
        self, batch: Batch, context: StepContext
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return images as the network trains on them, with their numbers and weights then."""
        images, targets, weights = self.augment.weighted(
            batch.images,
            batch.targets,
            batch.weights,
            index=batch.index,
            epoch=context.epoch,
            generator=context.generator,
        )

        if self.mirrored:
            draw = torch.rand(len(images), generator=context.generator, device=images.device)
            chosen = draw < self.mirrored
            images = torch.where(chosen.view(-1, 1, 1, 1), images.flip(3), images)
            # A picture turned to the left is, in a mirror, turned to the right.
            targets = torch.where(chosen.to(targets.device)[:, None], -targets, targets)

        return images, targets, weights

    @property
    def stateful(self) -> list[nn.Module]:  # pyright: ignore[reportIncompatibleVariableOverride]
        module = None if self.own_loss is None else self.own_loss.module
        return [] if module is None else [module]

    def state(self) -> dict[str, Any]:
        return {} if self.own_loss is None else self.own_loss.in_checkpoint()

    def load_state(self, state: dict[str, Any]) -> None:
        if self.own_loss is not None:
            self.own_loss.from_checkpoint(state)

    @torch.no_grad()
    def predict(self, network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return numbers and scales, each (N, K) float32, of images (N, C, H, W) uint8.

        They are in the user's unit.
        """
        with autocast(self.device, self.dtype):
            outputs = network(self.normalise(images))
        numbers, log_scales = split_outputs(outputs)
        return numbers * self._deviation + self._mean, log_scales.exp() * self._deviation

    def predict_source(
        self,
        network: nn.Module,
        source: ImageSource,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return numbers (N, K) and scales (N, K) float64 of every image of `source`.

        Raises:
            UserError: they are not finite.
        """
        spec = source.spec
        size = images_at_once(spec.channels * spec.height * spec.width)

        def answer(index: Tensor) -> list[Tensor]:
            both = self.predict(network, source.take(index).images)
            return [each.cpu().double() for each in both]

        with evaluating(network):
            answers = answered(len(source), answer, at_once=size, on_progress=on_progress)
            numbers, scales = zip(*(found for _, found in answers), strict=True)

        found = torch.cat(numbers)
        check_finite(found)
        return found.numpy(), torch.cat(scales).numpy()

    def evaluate(
        self,
        network: nn.Module,
        source: ImageSource,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Evaluation:
        predictions, scales = self.predict_source(network, source, on_progress)
        details = {
            "predictions": predictions,
            "scales": scales,
            "targets": source.targets.double().numpy(),
        }
        groups = group_numbers(source.names, self.groups) if self.groups else None
        return self.evaluation(details if groups is None else {**details, "groups": groups})

    def evaluation(self, details: dict[str, np.ndarray]) -> Evaluation:
        """Return the figures of predictions.

        `details` holds predictions, scales and targets, each (N, K), and groups (N,) where there
        are some.
        """
        figures = metrics.regression_figures(
            details["predictions"],
            details["targets"],
            self.columns,
            np.array(self.mean),
            details.get("groups"),
        )
        numbers, wanted = (
            self.standardised(torch.from_numpy(details[key])) for key in ("predictions", "targets")
        )
        if self.own_loss is not None:
            figures["loss"] = self.own_loss.measure(numbers, wanted)
        elif self.kind in LOSSES:
            figures["loss"] = float(regression_loss(self.kind, numbers, wanted))
        figures |= self.own_metrics.figures(details["predictions"], details["targets"])
        return Evaluation(figures, details)

    def answers(self, evaluation: Evaluation) -> dict[str, np.ndarray]:
        return {name: evaluation.details[name] for name in ("predictions", "scales", "targets")}

    def evaluation_of(self, answers: Mapping[str, np.ndarray]) -> Evaluation:
        return self.evaluation(dict(answers))

    def summarise(
        self, evaluations: dict[str, Evaluation], sources: dict[str, ImageSource]
    ) -> Summary:
        """Calibrate the intervals on validation, and turn all into what is written down."""
        return summarise(self, evaluations, sources)

    def ends(self, predictions: np.ndarray, scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the ends (N, K) of the intervals; infinite where there is no quantile."""
        return conformal.interval_ends(predictions, scales, self.quantiles)

    def coverage(self, details: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Return how often the intervals of each number hold it; nothing where there are none."""
        if None in self.quantiles:
            return []
        low, high = self.ends(details["predictions"], details["scales"])
        targets, groups = details["targets"], details.get("groups")
        return [
            {
                "column": column,
                **conformal.interval_figures(low[:, k], high[:, k], targets[:, k], groups),
            }
            for k, column in enumerate(self.columns)
        ]


def _mirrored_angles(options: Mapping[str, Mapping[str, Any]]) -> float:
    """Return how often pictures are mirrored, left to right, with their angles.

    Raises:
        UserError: an augmentation turns the picture or mixes two, which angles do not follow.
    """
    for name in TURNING:
        if name in options:
            raise UserError(
                f"augment: {name} would make the angles wrong. Leave it out, or set angle=false "
                "where the numbers do not depend on how the picture is turned."
            )

    flip = options.get("flip", {})
    if flip.get("mode") == "alternate":
        raise UserError("augment: flip.mode=alternate is not there for angles. Leave the mode out.")
    return float(flip.get("probability", 0.0))
