"""Predict numbers: one or several for each image, such as an age, a count, a score or an angle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tintype.data.source import DataSpec, DataSplits
from tintype.data.targets import Numbers
from tintype.errors import UserError
from tintype.hardware.device import Choice
from tintype.models import build_model
from tintype.models.parts.own import try_out
from tintype.plugins import check_model_is_for, reference
from tintype.runs.graph import GraphNetwork
from tintype.tasks.own_loss import OwnLoss
from tintype.tasks.own_metrics import OwnMetrics
from tintype.tasks.pretrained import Pretraining
from tintype.tasks.regress.options import LOSSES
from tintype.tasks.regress.regressor import FIGURES, Regress
from tintype.tasks.regress.transfer import transfer

TARGETS = ("numbers",)


def target_of(columns: Sequence[str] | None, pattern: str | None) -> Numbers:
    """Return the numbers that are read of each image.

    Raises:
        UserError: names that contradict each other, or a pattern without a place for a number.
    """
    return Numbers.of(columns, pattern)


def make(
    splits: DataSplits,
    *,
    device: torch.device,
    dtype: torch.dtype,
    model: str,
    model_options: dict[str, Any],
    seed: int,
    augment: str | dict[str, Any],
    loss: str,
    metrics: Sequence[str],
    level: float,
    angle: bool,
    normalise: str | None,
    weights: str | None,
    tune: str,
    solver: str,
    head: Sequence[int],
    views: int,
    layer_decay: float,
    unfreeze: float,
    freeze_norm: bool,
    progress: Callable[[str, int, int], None] | None = None,
) -> Regress:
    """Build the network and the task around it; the parameters are fields of the recipe.

    Raises:
        UserError: unknown model or option, images that the model cannot take, weights that are not
            there or do not fit, or an augmentation that would make the numbers wrong.
    """
    check_model_is_for(model, "regress")
    if head:
        raise UserError("head: regression has a linear head, without hidden layers. Leave it out.")

    columns = splits.spec.target.names
    mean, deviation = moments(splits.train.targets)
    # the scale of its error stands beside each number
    spec = replace(splits.spec, target=Numbers((*columns, *(f"scale of {c}" for c in columns))))
    network = build_model(model, spec, model_options, seed)
    choices: list[Choice] = []
    if reference("models", model) is not None:
        what = f"{len(columns)} numbers for each image, and then the scale of the error of each"
        choices = try_out(model, network, spec, (2 * len(columns),), what)
    weighted = splits.train.weights is not None
    settings: dict[str, Any] = {
        "columns": columns, "mean": mean, "deviation": deviation, "loss": loss, "level": level,
        "angle": angle, "augment": augment, "dtype": dtype,
        "own_metrics": OwnMetrics(metrics, FIGURES),
        "own_loss": None if loss in LOSSES else OwnLoss(loss, device, weighted=weighted),
        "train_targets": splits.train.targets,
    }  # fmt: skip

    spec = spec.normalised(normalise)
    if weights is None or weights == "none":
        task = Regress(network.to(device), spec, device, **settings)
        task.choices = choices
        return task

    how = Pretraining(
        weights, tune, solver, views, layer_decay, unfreeze, freeze_norm,
        own_statistics=normalise is None,
    )  # fmt: skip
    return transfer(network, model, spec, device, how, seed=seed, progress=progress, **settings)


def restore(
    network: nn.Module,
    spec: DataSpec,
    description: dict[str, Any],
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> Regress:
    """Return the task around a finished network."""
    if isinstance(network, GraphNetwork):
        network.expect(2 * len(description["columns"]))
    return Regress(
        network,
        spec,
        device,
        columns=description["columns"],
        mean=description["target_mean"],
        deviation=description["target_deviation"],
        loss=description["loss"],
        level=description["level"],
        angle=description["angle"],
        dtype=dtype,
        quantiles=description["quantiles"],
    )


def moments(targets: Tensor) -> tuple[list[float], list[float]]:
    """Return mean and deviation of each column of targets (N, K), in float64.

    A constant column has the deviation 1.
    """
    values = targets.double()
    deviation = values.std(0, correction=0)
    return values.mean(0).tolist(), torch.where(deviation > 0, deviation, 1.0).tolist()
