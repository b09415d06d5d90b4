"""Regression from pretrained networks: a linear head on features, or stages trained further."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tintype.data.source import Batch, DataSpec, DataSplits, ImageSource
from tintype.data.targets import NoTarget
from tintype.errors import UserError
from tintype.hardware.device import autocast
from tintype.models.parts.backbone import (
    backbone_parts,
    for_inference,
    freeze,
    keep_norm_in_eval,
    penultimate,
)
from tintype.runs.pretrained import load_pretrained, own_preprocessing
from tintype.seeds import fold
from tintype.tasks.regress.objective import SMALLEST_LOG_SCALE, split_outputs
from tintype.tasks.regress.regressor import Regress
from tintype.tasks.task import Phase, StepContext

# Penalties on the weights of a linear head, of which leave-one-out errors choose one.
PENALTIES = tuple(np.logspace(-1, 5, 13).tolist())

FEATURES_AT_ONCE = 32  # images

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class LinearFit:
    """A linear head on standardised features: ((features - mean) * scale) @ weight.T + bias.

    The first K of the 2 K outputs are numbers, the others the logarithms of their scales.
    """

    mean: Tensor  # (F,)
    scale: Tensor  # (F,)
    weight: Tensor  # (2 K, F)
    bias: Tensor  # (2 K,)
    penalties: Tensor  # (2 K,)


def fit_linear(features: Tensor, wanted: Tensor) -> LinearFit:
    """Fit numbers by ridge regression, and their scales to its leave-one-out errors.

    Residuals of the images that a head was fitted to are too small, and the more so the more
    features there are; those of images that are left out one by one are not.

    Args:
        features: (N, F).
        wanted: (N, K) in deviations.
    """
    from sklearn.linear_model import RidgeCV

    x = features.double().cpu().numpy()
    y = wanted.double().cpu().numpy()
    mean = x.mean(0)
    scale = 1 / np.maximum(x.std(0), 1e-6)
    x = (x - mean) * scale

    numbers: Any = RidgeCV(PENALTIES, alpha_per_target=True, store_cv_results=True).fit(x, y)
    chosen = np.searchsorted(PENALTIES, np.atleast_1d(numbers.alpha_) * 0.999)
    squared = numbers.cv_results_.reshape(*y.shape, -1)
    residuals = np.sqrt(np.stack([squared[:, k, chosen[k]] for k in range(y.shape[1])], axis=1))

    sizes = np.log(np.maximum(residuals, np.exp(SMALLEST_LOG_SCALE)))
    scales: Any = RidgeCV(PENALTIES, alpha_per_target=True).fit(x, sizes)

    def joined(of_numbers: Any, of_scales: Any) -> Tensor:
        both = [np.asarray(each).reshape(y.shape[1], -1) for each in (of_numbers, of_scales)]
        return torch.from_numpy(np.concatenate(both)).float()

    return LinearFit(
        torch.from_numpy(mean).float(),
        torch.from_numpy(scale).float(),
        joined(numbers.coef_, scales.coef_),
        joined(numbers.intercept_, scales.intercept_)[:, 0],
        joined(numbers.alpha_, scales.alpha_)[:, 0],
    )


class FeatureSource(ImageSource):
    """The features of images in place of their pixels, in several views, the image as it is first.

    `take` gives features (N, V, F), and the numbers (N, V, K) that hold of each view.
    """

    kind = "resident"

    def __init__(
        self, spec: DataSpec, features: Tensor, numbers: Tensor, names: Sequence[str]
    ) -> None:
        self.spec = spec
        self.features = features
        self.numbers = numbers.cpu()
        self.targets = self.numbers[:, 0]
        self.names = names

    def take(self, index: Tensor) -> Batch:
        there = self.features[index.to(self.features.device)]
        return Batch(there, self.numbers[index.cpu()], index)

    def subset(self, index: Tensor | np.ndarray) -> FeatureSource:
        index = torch.as_tensor(index, dtype=torch.int64)
        names = [self.names[int(i)] for i in index]
        there = self.features[index.to(self.features.device)]
        return FeatureSource(self.spec, there, self.numbers[index], names)


class StandardHead(nn.Module):
    """A linear head on standardised features; `plain` turns it into one on plain features."""

    mean: Tensor
    scale: Tensor
    penalties: Tensor

    def __init__(self, num_features: int, num_outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(num_features, num_outputs)
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("scale", torch.ones(num_features))
        self.register_buffer("penalties", torch.zeros(num_outputs))

    @torch.no_grad()
    def take(self, fit: LinearFit) -> None:
        """Take over a fit."""
        self.mean.copy_(fit.mean)
        self.scale.copy_(fit.scale)
        self.penalties.copy_(fit.penalties)
        self.linear.weight.copy_(fit.weight)
        self.linear.bias.copy_(fit.bias)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear((features - self.mean) * self.scale)

    def penalty(self) -> Tensor:
        """Return the sum of the penalties on the weights."""
        return (self.penalties[:, None] * self.linear.weight.square()).sum()

    @torch.no_grad()
    def plain(self, like: nn.Linear) -> nn.Linear:
        """Return a linear layer of the shape of `like` that answers the same on plain features."""
        plain = nn.Linear(like.in_features, like.out_features).to(like.weight.device)
        plain.weight.copy_(self.linear.weight * self.scale)
        plain.bias.copy_(self.linear.bias - plain.weight @ self.mean)
        return plain


class Transfer(Regress):
    """Regression by a pretrained network.

    Args:
        network: any network that ends in a linear layer of 2 K outputs.
        origin: where the weights come from, for model.json.
        seed: of the augmented views.
    """

    def __init__(
        self,
        network: nn.Module,
        spec: DataSpec,
        device: torch.device,
        *,
        origin: dict[str, Any],
        seed: int,
        **settings: Any,
    ) -> None:
        super().__init__(network, spec, device, **settings)
        self.network = network
        self.origin = origin
        self.seed = seed
        self.parts = backbone_parts(network)

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "pretrained": self.origin}

    @property
    def linear(self) -> nn.Linear:
        """The network's own head."""
        head = self.parts.head
        assert isinstance(head, nn.Linear)
        return head

    @torch.no_grad()
    def features_of(
        self, source: ImageSource, what: str, views: int, progress: Progress | None
    ) -> FeatureSource:
        """Return the features of images, and of `views` augmented copies of each."""
        extract = penultimate(for_inference(self.network, self.spec), self.parts.head_name)

        features, numbers = [], []
        for index in torch.arange(len(source)).split(FEATURES_AT_ONCE):
            batch = source.take(index)
            seen = [(batch.images, batch.targets)]
            for view in range(views):
                step = views * int(index[0]) + view
                seed = fold(self.seed, "view", step)
                generator = torch.Generator(batch.images.device).manual_seed(seed)
                seen.append(self._augmented(batch, StepContext(step, view, 0.0, generator)))

            with autocast(self.device, self.dtype):
                found = [extract(self.normalise(images)).float() for images, _ in seen]
            features.append(torch.stack(found, dim=1))
            numbers.append(torch.stack([targets for _, targets in seen], dim=1))
            if progress:
                progress(what, int(index[-1]) + 1, len(source))

        return FeatureSource(source.spec, torch.cat(features), torch.cat(numbers), source.names)


class HeadOnly(Transfer):
    """Only a linear head is fitted: the features of the backbone are computed once.

    Ridge regression is where the steps begin; from there they minimise the loss of the recipe under
    the same penalty.
    """

    def __init__(
        self,
        network: nn.Module,
        spec: DataSpec,
        device: torch.device,
        *,
        views: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__(network, spec, device, **settings)
        self.views = views if self.augment or self.mirrored else 0
        if self.linear.bias is None:
            raise UserError(
                "the head of this network has no bias, "
                "so it cannot be fitted alone. Try --tune all."
            )
        head = StandardHead(self.parts.num_features, self.linear.out_features)
        self.networks = {"head": head.to(device)}
        self.main = "head"
        self.phases = [Phase("train", "head")]
        self.num_train = 1

    @property
    def head(self) -> StandardHead:
        head = self.networks["head"]
        assert isinstance(head, StandardHead)
        return head

    def sources(self, splits: DataSplits, progress: Progress | None = None) -> DataSplits:
        seen: dict[str, ImageSource] = {}
        for split in ("train", "val", "test"):
            source = splits[split]
            if len(source):  # a run that was asked to have no test part
                views = self.views if split == "train" else 0
                source = self.features_of(source, f"features of {split}", views, progress)
            seen[split] = source

        self.num_train = len(splits.train)
        return replace(splits, **seen)

    def start(self, train: ImageSource) -> None:
        assert isinstance(train, FeatureSource)
        self.head.take(fit_linear(train.features[:, 0], self.standardised(train.targets)))

    def loss(
        self, phase: Phase, batch: Batch, context: StepContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        count, views = batch.images.shape[:2]
        device = batch.images.device
        view = torch.randint(views, (count,), generator=context.generator, device=device)
        features = batch.images[torch.arange(count, device=device), view]
        numbers = batch.targets[torch.arange(count), view.cpu()]

        outputs = self.head(features.to(self.device))
        total, figures = self._objective(outputs, self.standardised(numbers))
        penalty = self.head.penalty() / (self.num_train * len(self.columns))
        return total + penalty, figures

    def predict(self, network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return numbers and scales (N, K) of features (N, V, F), of the first view."""
        with torch.no_grad():
            numbers, log_scales = split_outputs(network(images[:, 0].to(self.device)))
        return numbers * self._deviation + self._mean, log_scales.exp() * self._deviation

    def result(self) -> nn.Module:
        plain = self.head.plain(self.linear)
        self.network.set_submodule(self.parts.head_name, plain)
        return self.network


class FineTune(Transfer):
    """The last stages of the backbone, or all, are trained further, from a fitted head.

    Starting from a fitted head keeps the features from being spoiled by a random one (Kumar et al.
    2022, LP-FT).

    Args:
        thawed: how many of the last stages are trained; None for all.
        layer_decay: factor on the learning rate from each stage to the one before it.
        unfreeze: part of the run over which stages are thawed one by one, the last first (Howard &
            Ruder 2018).
        freeze_norm: batch norm keeps the statistics that it came with.
    """

    def __init__(
        self,
        network: nn.Module,
        spec: DataSpec,
        device: torch.device,
        *,
        thawed: int | None = None,
        layer_decay: float = 1.0,
        unfreeze: float = 0.0,
        freeze_norm: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__(network, spec, device, **settings)
        count = len(self.parts.stages)
        self.thawed = count if thawed is None else min(thawed, count)
        self.unfreeze = unfreeze
        self.features: Tensor | None = None

        if freeze_norm:
            keep_norm_in_eval(network)
        freeze(network, self.parts, self.thawed)
        for depth, weights in enumerate(self.parts.parameters()):
            factor = layer_decay ** (count - depth)
            for weight in weights:
                weight.layer_scale = factor  # pyright: ignore[reportAttributeAccessIssue]

    def sources(self, splits: DataSplits, progress: Progress | None = None) -> DataSplits:
        found = self.features_of(splits.train, "features of train", 0, progress)
        self.features = found.features[:, 0]
        return splits

    @torch.no_grad()
    def start(self, train: ImageSource) -> None:
        if self.features is None:
            return
        fitted = StandardHead(self.parts.num_features, self.linear.out_features).to(self.device)
        fitted.take(fit_linear(self.features, self.standardised(train.targets)))
        plain = fitted.plain(self.linear)

        self.linear.weight.copy_(plain.weight)
        if self.linear.bias is not None:
            self.linear.bias.copy_(plain.bias)
        self.features = None

    def loss(
        self, phase: Phase, batch: Batch, context: StepContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if self.unfreeze:
            thawed = 1 + int(context.progress / self.unfreeze * self.thawed)
            freeze(self.network, self.parts, min(self.thawed, thawed))
        return super().loss(phase, batch, context)


def transfer(
    network: nn.Module,
    model: str,
    spec: DataSpec,
    device: torch.device,
    *,
    weights: str,
    tune: str,
    views: int,
    layer_decay: float,
    unfreeze: float,
    freeze_norm: bool,
    own_statistics: bool,
    progress: Progress | None = None,
    **settings: Any,
) -> Transfer:
    """Load pretrained weights into `network` and return the task that trains it as `tune` says.

    With `own_statistics` pixels are normalised as they were for those weights, otherwise as `spec`
    says.

    Raises:
        UserError: the weights are not there or do not fit the model.
    """
    settings["origin"] = load_pretrained(network, model, weights, progress, NoTarget())
    own = own_preprocessing(model, weights)
    spec = own.normalising(spec) if own and own_statistics else spec
    network = network.to(device)
    if tune == "head":
        return HeadOnly(network, spec, device, views=views, **settings)

    thawed = None if tune in ("all", "auto") else int(tune.partition(":")[2])
    return FineTune(
        network,
        spec,
        device,
        thawed=thawed,
        layer_decay=layer_decay,
        unfreeze=unfreeze,
        freeze_norm=freeze_norm,
        **settings,
    )
