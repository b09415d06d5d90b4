"""Classification: one network, one phase, cross-entropy; measured by accuracy with its interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from tintype.data.source import DataSpec, DataSplits
from tintype.hardware.device import Choice
from tintype.models import build_model
from tintype.models.parts.own import try_out
from tintype.plugins import check_model_is_for, reference
from tintype.runs.graph import GraphNetwork
from tintype.tasks.classify.classifier import FIGURES, Classify
from tintype.tasks.classify.options import LOSSES
from tintype.tasks.classify.transfer import transfer
from tintype.tasks.own_loss import OwnLoss
from tintype.tasks.own_metrics import OwnMetrics
from tintype.tasks.pretrained import Pretraining

__all__ = ["Classify", "make", "restore"]


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
    label_smoothing: float,
    class_weights: str | Sequence[float] | None,
    one_hot: bool,
    resolutions: Sequence[tuple[float, int]],
    hardest: float,
    tta: str,
    normalise: str | None,
    weights: str | None,
    tune: str,
    solver: str,
    head: Sequence[int],
    views: int,
    sampling: str,
    layer_decay: float,
    unfreeze: float,
    freeze_norm: bool,
    interpolate: bool,
    progress: Callable[[str, int, int], None] | None = None,
) -> Classify:
    """Build the network and the task around it; the parameters are fields of the recipe.

    Raises:
        UserError: unknown model or option, images that the model cannot take, or weights that are
            not there or do not fit.
    """
    weighted = splits.train.weights is not None
    settings: dict[str, Any] = {
        "dtype": dtype,
        "augment": augment,
        "loss": None if loss in LOSSES else OwnLoss(loss, device, weighted=weighted),
        "own_metrics": OwnMetrics(metrics, FIGURES),
        "label_smoothing": label_smoothing,
        "one_hot": one_hot,
        "class_weights": class_weights,
        "train_targets": splits.train.targets,
        "resolutions": resolutions,
        "hardest": hardest,
        "tta": tta,
    }
    check_model_is_for(model, "classify")
    network = build_model(model, splits.spec, model_options, seed)
    choices: list[Choice] = []
    if reference("models", model) is not None:
        count = splits.spec.num_classes
        what = f"a score (logit) for each of {count} classes"
        choices = try_out(model, network, splits.spec, (count,), what)

    spec = splits.spec.normalised(normalise)
    if weights is None or weights == "none":
        task = Classify(network.to(device), spec, device, **settings)
        task.choices = choices
        return task

    how = Pretraining(
        weights, tune, solver, views, layer_decay, unfreeze, freeze_norm,
        own_statistics=normalise is None,
    )  # fmt: skip
    return transfer(
        network, model, spec, device, how, hidden=head, sampling=sampling,
        num_train=len(splits.train), num_val=len(splits.val), interpolate=interpolate, seed=seed,
        progress=progress, **settings,
    )  # fmt: skip


def restore(
    network: nn.Module,
    spec: DataSpec,
    description: dict[str, Any],
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> Classify:
    """Return the task around a finished network."""
    if isinstance(network, GraphNetwork):
        network.expect(spec.num_classes)
    # absent from models that were made before it was fitted
    temperature = description.get("temperature", 1.0)
    return Classify(
        network, spec, device, tta=description["tta"], dtype=dtype, temperature=temperature
    )
