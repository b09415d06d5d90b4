"""Regression from pretrained networks: a linear head on features, or stages trained further."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tintype.data.features import BATCH
from tintype.data.source import Batch, DataSpec, DataSplits, ImageSource
from tintype.data.targets import NoTarget
from tintype.errors import UserError
from tintype.models.parts.backbone import backbone_parts
from tintype.progress import Progress
from tintype.seeds import fold
from tintype.tasks.frozen import FrozenBackbone
from tintype.tasks.pretrained import (
    FeatureSource,
    FromFittedHead,
    Pretraining,
    as_features,
    folded,
    take_over,
)
from tintype.tasks.regress.metrics import in_digits
from tintype.tasks.regress.objective import SMALLEST_LOG_SCALE, split_outputs
from tintype.tasks.regress.regressor import Regress
from tintype.tasks.task import Phase, StepContext

# Penalties on the weights of a linear head, of which leave-one-out errors choose one.
PENALTIES = tuple(np.logspace(-1, 5, 13).tolist())


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


def fit_linear(features: Tensor, wanted: Tensor, weights: Tensor | None = None) -> LinearFit:
    """Fit numbers by ridge regression, and their scales to its leave-one-out errors.

    Residuals of the images that a head was fitted to are too small, and the more so the more
    features there are; those of images that are left out one by one are not.

    Args:
        features: (N, F).
        wanted: (N, K) in deviations.
        weights: (N,) of the images, or None.
    """
    from sklearn.linear_model import RidgeCV

    counting = slice(None) if weights is None else weights.cpu().numpy() > 0
    of_images = None if weights is None else weights.cpu().double().numpy()[counting]
    x = features.cpu().double().numpy()[counting]
    y = wanted.cpu().double().numpy()[counting]
    mean = x.mean(0)
    scale = 1 / np.maximum(x.std(0), 1e-6)
    x = (x - mean) * scale

    numbers: Any = RidgeCV(PENALTIES, alpha_per_target=True, store_cv_results=True)
    numbers.fit(x, y, sample_weight=of_images)
    chosen = np.searchsorted(PENALTIES, np.atleast_1d(numbers.alpha_) * 0.999)
    squared = numbers.cv_results_.reshape(*y.shape, -1)
    residuals = np.sqrt(np.stack([squared[:, k, chosen[k]] for k in range(y.shape[1])], axis=1))
    if of_images is not None:  # by which the squares are multiplied
        residuals /= np.sqrt(of_images)[:, None]

    sizes = np.log(np.maximum(residuals, np.exp(SMALLEST_LOG_SCALE)))
    scales: Any = RidgeCV(PENALTIES, alpha_per_target=True)
    scales.fit(x, sizes, sample_weight=of_images)

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

    def plain(self) -> nn.Module:
        """Return a linear layer that answers the same on plain features."""
        return folded(self.linear, self.mean, self.scale)


class Transfer(Regress):
    """Regression by a pretrained network.

    Args:
        network: any network that ends in a linear layer of 2 K outputs.
        model: what the network is called.
        origin: where the weights come from, for model.json.
        seed: of the augmented views.
    """

    def __init__(
        self,
        network: nn.Module,
        spec: DataSpec,
        device: torch.device,
        *,
        model: str,
        origin: dict[str, Any],
        seed: int,
        **settings: Any,
    ) -> None:
        super().__init__(network, spec, device, **settings)
        self.network = network
        self.origin = origin
        self.seed = seed
        self.parts = backbone_parts(network, spec)
        self.frozen = FrozenBackbone(
            network, model, self.spec, device, self.dtype, self.normalise, self.parts
        )

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "pretrained": self.origin}

    def remarks(self) -> list[str]:
        return [*super().remarks(), *self.frozen.notes]

    @property
    def linear(self) -> nn.Linear:
        """The network's own head."""
        head = self.parts.head
        assert isinstance(head, nn.Linear)
        return head

    def features_of(
        self, source: ImageSource, views: int, progress: Progress | None
    ) -> FeatureSource:
        """Return the features of images, and of `views` augmented copies of each.

        Those of the images as they are come from the cache. An augmentation may change the numbers,
        so the copies are made where their numbers are at hand.
        """
        clean = self.frozen.features_of(source, {"as it is": lambda images, _: images}, progress)
        copies = [self._copies(source, view, views, progress) for view in range(views)]

        features = torch.cat([clean, *(found[:, None] for found, _ in copies)], dim=1)
        numbers = torch.stack([source.targets, *(numbers for _, numbers in copies)], dim=1)
        return FeatureSource(
            source.spec, features, source.targets, source.names, numbers, source.weights
        )

    def _copies(
        self, source: ImageSource, view: int, views: int, progress: Progress | None
    ) -> tuple[Tensor, Tensor]:
        """Return the features (N, F) of one augmented copy of each image, and its numbers."""
        features: list[Tensor] = []
        numbers: list[Tensor] = []

        for index in torch.arange(len(source)).split(BATCH):
            step = views * int(index[0]) + view
            batch = source.take(index)
            seed = fold(self.seed, "view", step)
            generator = torch.Generator(batch.images.device).manual_seed(seed)
            images, targets, _ = self._augmented(batch, StepContext(step, view, 0.0, generator))

            features.append(torch.from_numpy(self.frozen.compute(images)))
            numbers.append(targets.cpu())
            if progress:
                what = f"features of augmented copies ({view + 1} of {views})"
                progress(what, int(index[-1]) + 1, len(source))

        return torch.cat(features).to(self.device), torch.cat(numbers)


class HeadOnly(Transfer):
    """Only a linear head is fitted: the features of the backbone are computed once.

    Ridge regression is where the steps begin; from there they minimise the loss of the recipe under
    the same penalty. With the solver "exact" it is the result.
    """

    def __init__(
        self,
        network: nn.Module,
        spec: DataSpec,
        device: torch.device,
        *,
        views: int = 0,
        solver: str = "steps",
        **settings: Any,
    ) -> None:
        super().__init__(network, spec, device, **settings)
        exact = solver == "exact"
        self.views = views if (self.augment or self.mirrored) and not exact else 0
        if self.linear.bias is None:
            raise UserError(
                "the head of this network has no bias, "
                "so it cannot be fitted alone. Try --tune all."
            )
        head = StandardHead(self.parts.num_features, self.linear.out_features)
        self.networks = {"head": head.to(device)}
        self.main = "head"
        self.phases = [] if exact else [Phase("train", "head")]
        self.num_train = 1

    @property
    def head(self) -> StandardHead:
        head = self.networks["head"]
        assert isinstance(head, StandardHead)
        return head

    def sources(self, splits: DataSplits, progress: Progress | None = None) -> DataSplits:
        self.num_train = len(splits.train)
        return as_features(
            splits, self.views, lambda source, views: self.features_of(source, views, progress)
        )

    def start(self, train: ImageSource) -> None:
        assert isinstance(train, FeatureSource)
        wanted = self.standardised(train.targets)
        self.head.take(fit_linear(train.features[:, 0], wanted, train.weights))

    def loss(
        self, phase: Phase, batch: Batch, context: StepContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        count, views = batch.images.shape[:2]
        device = batch.images.device
        view = torch.randint(views, (count,), generator=context.generator, device=device)
        features = batch.images[torch.arange(count, device=device), view]
        numbers = batch.targets[torch.arange(count), view.cpu()]

        outputs = self.head(features.to(self.device))
        total, figures = self._objective(outputs, self.standardised(numbers), batch.weights)
        penalty = self.head.penalty() / (self.num_train * len(self.columns))
        return total + penalty, figures

    def predict(self, network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return numbers and scales (N, K) of features (N, V, F), of the first view."""
        with torch.no_grad():
            numbers, log_scales = split_outputs(network(images[:, 0].to(self.device)))
        return numbers * self._deviation + self._mean, log_scales.exp() * self._deviation

    def result(self) -> nn.Module:
        self.network.set_submodule(self.parts.head_name, self.head.plain())
        return self.network


class FineTune(FromFittedHead, Transfer):
    """The last stages of the backbone, or all, are trained further, from a fitted head.

    Starting from a fitted head keeps the features from being spoiled by a random one (Kumar et al.
    2022, LP-FT).

    Args:
        how: which stages are trained, and how fast.
    """

    def __init__(
        self,
        network: nn.Module,
        spec: DataSpec,
        device: torch.device,
        *,
        how: Pretraining,
        **settings: Any,
    ) -> None:
        super().__init__(network, spec, device, **settings)
        self.thawing = how.thawing(network, self.parts)
        self.features: Tensor | None = None

    def sources(self, splits: DataSplits, progress: Progress | None = None) -> DataSplits:
        self.features = self.features_of(splits.train, 0, progress).features[:, 0]
        return splits

    def start(self, train: ImageSource) -> None:
        if self.features is None:
            return
        fitted = StandardHead(self.parts.num_features, self.linear.out_features).to(self.device)
        fitted.take(fit_linear(self.features, self.standardised(train.targets), train.weights))
        take_over(self.linear, fitted.plain())
        self.features = None
        self.measure_start()

    def skill(self, figures: Mapping[str, Any]) -> tuple[float, str]:
        return figures["r2"], f"R² {in_digits(figures['r2'])}"

    def loss(
        self, phase: Phase, batch: Batch, context: StepContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        self.thawing.step(context.progress)
        return super().loss(phase, batch, context)


def transfer(
    network: nn.Module,
    model: str,
    spec: DataSpec,
    device: torch.device,
    how: Pretraining,
    *,
    progress: Progress | None = None,
    **settings: Any,
) -> Transfer:
    """Load pretrained weights into `network` and return the task that trains it.

    Raises:
        UserError: the weights are not there or do not fit the model.
    """
    # a new head in any case, since no other one says how far it may be off
    origin, spec = how.load(network, model, spec, NoTarget(), progress)
    network = network.to(device)
    settings |= {"model": model, "origin": origin}
    if how.tune == "head":
        return HeadOnly(network, spec, device, views=how.views, solver=how.solver, **settings)
    return FineTune(network, spec, device, how=how, **settings)
