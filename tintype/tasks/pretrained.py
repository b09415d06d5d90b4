"""What tasks share that start from a pretrained network: weights, features, heads and stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tintype.data.source import Batch, DataSpec, DataSplits, ImageSource
from tintype.data.targets import TargetKind
from tintype.models.parts.backbone import Parts, freeze, keep_norm_in_eval
from tintype.optim import scale_layer
from tintype.progress import Progress
from tintype.runs.pretrained import load_pretrained, own_preprocessing
from tintype.tasks.contract.evaluation import Evaluation
from tintype.tasks.task import Summary, Task

KEPT = 0.5  # the least part of the skill before the first step that training should keep


@dataclass(frozen=True)
class Pretraining:
    """How a task begins with pretrained weights, and what of the network it trains.

    All but the last are fields of the recipe.

    Attributes:
        weights: where the weights come from.
        tune: what is trained: head, last:N or all.
        solver: how a head alone is fitted.
        views: augmented copies of each image that a head alone is fitted to.
        layer_decay: see `Thawing`.
        unfreeze: see `Thawing`.
        freeze_norm: see `Thawing`.
        own_statistics: whether pixels are normalised as they were for these weights, and not as
            the data says.
    """

    weights: str
    tune: str
    solver: str
    views: int
    layer_decay: float
    unfreeze: float
    freeze_norm: bool
    own_statistics: bool

    def load(
        self,
        network: nn.Module,
        model: str,
        spec: DataSpec,
        target: TargetKind,
        progress: Progress | None = None,
    ) -> tuple[dict[str, Any], DataSpec]:
        """Load the weights into `network`; return their origin, and what the network is shown.

        A head for another `target` is not loaded.

        Raises:
            UserError: the weights are not there or do not fit the model.
        """
        origin = load_pretrained(network, model, spec, self.weights, progress, target)
        own = own_preprocessing(model, self.weights)
        return origin, own.normalising(spec) if own and self.own_statistics else spec

    def thawing(self, network: nn.Module, parts: Parts) -> Thawing:
        """Return what trains the last stages of the network, or all of them."""
        kind, _, count = self.tune.partition(":")
        return Thawing(
            network,
            parts,
            thawed=int(count) if kind == "last" else None,
            layer_decay=self.layer_decay,
            unfreeze=self.unfreeze,
            freeze_norm=self.freeze_norm,
        )


class FeatureSource(ImageSource):
    """The features of images in place of their pixels, in several views, the image as it is first.

    `take` gives features (N, V, F) float32. `of_views` (N, V, ...) are the targets of each view,
    where they are not those of the image.
    """

    kind = "resident"

    def __init__(
        self,
        spec: DataSpec,
        features: Tensor,
        targets: Tensor,
        names: Sequence[str],
        of_views: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> None:
        self.spec = spec
        self.features = features
        self.targets = targets.cpu()
        self.names = names
        self.of_views = None if of_views is None else of_views.cpu()
        self.weights = weights

    def take(self, index: Tensor) -> Batch:
        targets = self.targets if self.of_views is None else self.of_views
        features = self.features[index.to(self.features.device)]
        weights = None if self.weights is None else self.weights[index.cpu()]
        return Batch(features, targets[index.cpu()], index, weights)

    def subset(self, index: Tensor | np.ndarray) -> FeatureSource:
        index = torch.as_tensor(index, dtype=torch.int64)
        names = [self.names[int(i)] for i in index]
        there = self.features[index.to(self.features.device)]
        of_views = None if self.of_views is None else self.of_views[index]
        weights = None if self.weights is None else self.weights[index]
        return FeatureSource(self.spec, there, self.targets[index], names, of_views, weights)


def as_features(
    splits: DataSplits, views: int, features_of: Callable[[ImageSource, int], FeatureSource]
) -> DataSplits:
    """Return splits of features; augmented `views` are for training alone.

    An empty test part, as of a run that was asked to have none, stays as it is.
    """
    seen: dict[str, ImageSource] = {}
    for split in ("train", "val", "test"):
        source = splits[split]
        if len(source):
            source = features_of(source, views if split == "train" else 0)
        seen[split] = source
    return replace(splits, **seen)


@torch.no_grad()
def folded(head: nn.Module, mean: Tensor, scale: Tensor) -> nn.Module:
    """Return `head` such that head(x) is what the given one answers to (x - mean) * scale."""
    first = head[0] if isinstance(head, nn.Sequential) else head
    assert isinstance(first, nn.Linear)
    plain = nn.Linear(first.in_features, first.out_features).to(first.weight.device)
    plain.weight.copy_(first.weight * scale)
    plain.bias.copy_(first.bias - plain.weight @ mean)
    return nn.Sequential(plain, *list(head)[1:]) if isinstance(head, nn.Sequential) else plain


@torch.no_grad()
def take_over(own: nn.Module, fitted: nn.Module) -> None:
    """Copy a fitted linear layer into the head of a network, which may have no bias."""
    assert isinstance(own, nn.Linear)
    assert isinstance(fitted, nn.Linear)
    own.weight.copy_(fitted.weight)
    if own.bias is not None:
        own.bias.copy_(fitted.bias)


class Thawing:
    """Which stages of a backbone are trained, and how fast each of them learns.

    Args:
        network: whose last stages are to be trained.
        parts: its stages and its head.
        thawed: how many of the last stages are trained; None for all.
        layer_decay: factor on the learning rate from each stage to the one before it.
        unfreeze: part of the run over which stages are thawed one by one, the last first (Howard &
            Ruder 2018).
        freeze_norm: batch norm keeps the statistics that it came with.
    """

    def __init__(
        self,
        network: nn.Module,
        parts: Parts,
        *,
        thawed: int | None,
        layer_decay: float,
        unfreeze: float,
        freeze_norm: bool,
    ) -> None:
        count = len(parts.stages)
        self.network = network
        self.parts = parts
        self.most = count if thawed is None else min(thawed, count)
        self.unfreeze = unfreeze

        if freeze_norm:
            keep_norm_in_eval(network)
        freeze(network, parts, self.most)
        for depth, weights in enumerate(parts.parameters()):
            for weight in weights:
                scale_layer(weight, layer_decay ** (count - depth))

    def step(self, progress: float) -> None:
        """Thaw what is due at `progress` (0..1) of the run."""
        if self.unfreeze:
            due = 1 + int(progress / self.unfreeze * self.most)
            freeze(self.network, self.parts, min(self.most, due))


class FromFittedHead(Task):
    """A task that trains a network further whose head was fitted, and says if that undoes it.

    Steps that are too large destroy the features at once. All that the weights brought is lost
    then, while the loss falls as that of any training from scratch.

    A subclass calls `measure_start` at the end of `start`.

    Attributes:
        skill_at_start: of the fitted head on validation, see `skill`; None where it is not known.
        shown_at_start: the figure that it follows from, as a user reads it.
    """

    skill_at_start: float | None = None
    shown_at_start: str = ""

    def skill(self, figures: Mapping[str, Any]) -> tuple[float, str]:
        """Return how far figures are from guessing (0) to no error (1), and which one says so."""
        raise NotImplementedError

    def measure_start(self) -> None:
        """Measure what the network can do before its first step, where validation images may."""
        if self.selection:
            figures = self.figures(self.networks[self.main], self.selection)
            self.skill_at_start, self.shown_at_start = self.skill(figures)

    def _undone(self, figures: Mapping[str, Any]) -> str:
        if self.skill_at_start is None:
            return ""
        skill, shown = self.skill(figures)
        if not self.skill_at_start > 0 or skill >= KEPT * self.skill_at_start:
            return ""
        return (
            f"training has undone what the pretrained weights brought: {shown} on validation, "
            f"{self.shown_at_start} before the first step. Try a smaller --lr, --set warmup=0.1 or "
            "--tune head"
        )

    def figures(self, network: nn.Module, source: ImageSource) -> dict[str, Any]:
        figures = super().figures(network, source)
        line = self._undone(figures) if source is self.selection else ""
        if line and not self.warnings:
            self.warnings = [line]
        return figures

    def summarise(
        self, evaluations: dict[str, Evaluation], sources: dict[str, ImageSource]
    ) -> Summary:
        summary = super().summarise(evaluations, sources)
        line = self._undone(evaluations["val"].figures) if "val" in evaluations else ""
        if not line:
            return summary
        warnings = [*summary.evaluation["warnings"], line]
        return replace(summary, evaluation={**summary.evaluation, "warnings": warnings})

    def state(self) -> dict[str, Any]:
        if self.skill_at_start is None:
            return super().state()
        known = {"skill_at_start": self.skill_at_start, "shown_at_start": self.shown_at_start}
        return {**super().state(), **known}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.skill_at_start = state.get("skill_at_start")
        self.shown_at_start = state.get("shown_at_start", "")
