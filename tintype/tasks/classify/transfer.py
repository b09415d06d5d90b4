"""Train a pretrained network further: a head on cached features, the last stages, or everything."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tintype.data.source import Batch, DataSpec, DataSplits, ImageSource, JoinedSource
from tintype.hardware.device import Choice
from tintype.models.parts.backbone import backbone_parts, make_head
from tintype.models.parts.modes import evaluating
from tintype.progress import Progress
from tintype.statistics import percent
from tintype.tasks import losses
from tintype.tasks.classify.calibration import fit_temperature
from tintype.tasks.classify.classifier import Answers, Classify
from tintype.tasks.folds import nested_of_features
from tintype.tasks.frozen import FrozenBackbone, View
from tintype.tasks.heads import FittedHead, fit_head, fits_in
from tintype.tasks.interpolation import SHARES, Line, between, copied
from tintype.tasks.pretrained import (
    FeatureSource,
    FromFittedHead,
    Pretraining,
    as_features,
    folded,
    take_over,
)
from tintype.tasks.task import Evaluation, Phase, StepContext, Summary

# L2 penalties tried side by side on standardised features; validation chooses one.
PENALTIES = (1e-4, 1e-3, 5e-3, 2e-2, 1e-1)
WARM_UP_PENALTY = 5e-3  # of the head that fine-tuning starts from


class HeadBank(nn.Module):
    """Heads that are trained side by side on the same features, each with its own penalty.

    Validation chooses one. Features are standardised first: the best penalty and learning rate then
    hardly depend on the backbone.
    """

    mean: Tensor
    scale: Tensor
    chosen: Tensor

    def __init__(
        self, num_features: int, num_classes: int, hidden: Sequence[int], count: int
    ) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            make_head(num_features, num_classes, hidden, dropout=0.5) for _ in range(count)
        )
        for head in self.heads:
            last = head[-1] if isinstance(head, nn.Sequential) else head
            nn.init.zeros_(last.weight)  # pyright: ignore[reportArgumentType]
            nn.init.zeros_(last.bias)  # pyright: ignore[reportArgumentType]
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("scale", torch.ones(num_features))
        self.register_buffer("chosen", torch.tensor(0))

    def standardise_like(self, features: Tensor) -> None:
        """Take mean and deviation from features (N, F)."""
        self.mean.copy_(features.mean(0))
        self.scale.copy_(1 / features.std(0, correction=0).clamp_min(1e-6))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (M, N, K) of all heads for features (N, F)."""
        x = (x - self.mean) * self.scale
        return torch.stack([head(x) for head in self.heads])

    def plain_head(self) -> nn.Module:
        """Return the chosen head as one that takes features as they come: the standardisation is
        folded into it.
        """
        return folded(self.heads[int(self.chosen)], self.mean, self.scale)


def fit_linear(
    features: Tensor,
    targets: Tensor,
    num_classes: int,
    penalty: float,
    weights: Tensor | None = None,
) -> nn.Linear:
    """Return the linear head of least penalised log loss on features (N, F) (multinomial
    regression, by L-BFGS); `weights` (N,) are those of the images.
    """
    mean, std = features.mean(0), features.std(0, correction=0).clamp_min(1e-6)
    x = (features - mean) / std
    head = nn.Linear(features.shape[1], num_classes).to(features.device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        fit = losses.cross_entropy(head(x), targets, weights=weights)
        loss = fit + 0.5 * penalty * head.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # pyright: ignore[reportArgumentType]
    plain = folded(head, mean, 1 / std)
    assert isinstance(plain, nn.Linear)
    return plain


class Transfer(Classify):
    """Classification by a pretrained network; knows how to compute and keep its features.

    Args:
        network: any classifier that ends in a linear layer.
        model: what the network is called.
        origin: where the weights come from, for model.json.
        seed: of the head's first weights.
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
        self.parts = backbone_parts(network, spec)
        self.origin = origin
        self.seed = seed
        self.choices = _choices(origin)
        self.frozen = FrozenBackbone(
            network, model, self.spec, device, self.dtype, self.normalise, self.parts
        )

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "pretrained": self.origin}

    def remarks(self) -> list[str]:
        return self.frozen.notes

    def features_of(
        self, source: ImageSource, views: int = 0, progress: Progress | None = None
    ) -> Tensor:
        """Return the features (N, V, F) float32 of photos, of which those in the cache are kept.

        The views are the photo as it is, mirrored where `tta` asks for it, then `views` augmented
        ones. An augmented view is drawn from the photo's pixels and its number, so that it is the
        same in every split and for every seed.
        """
        shown: dict[str, View] = {"as it is": lambda images, _: images}
        if self.tta == "flip":
            shown["mirrored"] = lambda images, _: images.flip(3)
        for number in range(views):
            view = partial(self._augmented, number=number)
            shown[f"augmented {number}: {self.augment.identity}"] = view

        return self.frozen.features_of(source, shown, progress)

    def _augmented(self, images: Tensor, draws: Sequence[bytes], number: int) -> Tensor:
        """Augment each image as follows from its own bytes in `draws`, whatever the others are."""
        augmented = []
        for image, draw in zip(images.split(1), draws, strict=True):
            digest = hashlib.blake2b(draw, digest_size=8).digest()
            seed = int.from_bytes(digest, "little") >> 1
            generator = torch.Generator(images.device).manual_seed(seed)
            target = torch.zeros(1, dtype=torch.int64, device=images.device)

            # In its mode "alternate" a flip follows from position and epoch.
            place = {"index": torch.tensor([seed]), "epoch": number}
            augmented.append(self.augment(image, target, generator=generator, **place)[0])

        return torch.cat(augmented)


class HeadOnly(Transfer):
    """The backbone stays as it is, and only a head is trained on its features.

    Args:
        hidden: sizes of the head's hidden layers; none is a linear head.
        views: augmented copies of each training image beside the clean one.
    """

    fewest_to_settle = 0  # their features are at hand

    def __init__(
        self,
        network: nn.Module,
        spec: DataSpec,
        device: torch.device,
        *,
        hidden: Sequence[int] = (),
        views: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__(network, spec, device, **settings)
        self.views = views if self.augment else 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            bank = HeadBank(self.parts.num_features, spec.num_classes, hidden, len(PENALTIES)).to(
                device
            )

        self.hidden = list(hidden)
        self.networks = {"head": bank}
        self.main = "head"
        self.phases = [Phase("train", "head")]

    chooses = "the head"

    def _targets(self, targets: Tensor) -> Tensor:
        return targets  # features of images that are never mixed

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "head": self.hidden}

    @property
    def bank(self) -> HeadBank:
        bank = self.networks["head"]
        assert isinstance(bank, HeadBank)
        return bank

    def sources(self, splits: DataSplits, progress: Progress | None = None) -> DataSplits:
        def features_of(source: ImageSource, views: int) -> FeatureSource:
            features = self.features_of(source, views, progress)
            weights = source.weights
            return FeatureSource(
                splits.spec, features, source.targets, source.names, weights=weights
            )

        seen = as_features(splits, self.views, features_of)
        self.selection = seen.val
        return seen

    def start(self, train: ImageSource) -> None:
        assert isinstance(train, FeatureSource)
        self.bank.standardise_like(train.features.flatten(0, 1))
        if not self.selection:  # the usual penalty, where no image may choose one
            self.bank.chosen.fill_(PENALTIES.index(WARM_UP_PENALTY))

    def loss(
        self, phase: Phase, batch: Batch, context: StepContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        views = batch.images  # (N, V, F)
        chosen = torch.randint(
            views.shape[1], (len(views),), generator=context.generator, device=views.device
        )
        logits = self.bank(views[torch.arange(len(views), device=views.device), chosen])
        targets = batch.targets.to(self.device)
        fit = torch.stack([self.objective(each, targets, batch.weights) for each in logits])
        # not logits[int(...)], for which the host would wait at every step
        chosen_logits = logits.index_select(0, self.bank.chosen[None])[0]
        figures = {
            "loss": fit.mean(),
            "train_accuracy": losses.batch_accuracy(chosen_logits, targets),
        }

        return (fit + self._penalties()).sum(), figures

    def _penalties(self) -> Tensor:
        sums = [
            sum(w.square().sum() for w in head.parameters() if w.ndim > 1)
            for head in self.bank.heads
        ]
        return torch.stack(
            [0.5 * p * torch.as_tensor(s) for p, s in zip(PENALTIES, sums, strict=True)]
        )

    def shown(self, images: Tensor) -> Tensor:
        """Return the features (N, F) of the images as they are, of features (N, V, F)."""
        return images[:, 0].to(self.device)

    @torch.no_grad()
    def logits(self, network: nn.Module, images: Tensor) -> Tensor:
        """Return logits (N, K) of features (N, V, F), averaged over the clean views, by the chosen
        head.
        """
        return self._logits_by_head(images)[int(self.bank.chosen)]

    def _logits_by_head(self, views: Tensor) -> Tensor:
        clean = 2 if self.tta == "flip" else 1
        return torch.stack(
            [self.bank(views[:, view].to(self.device)) for view in range(clean)]
        ).mean(0)

    def choose(self, source: ImageSource) -> None:
        if source is self.selection:
            self._choose(source)

    def calibrating(self, val: Evaluation, source: ImageSource) -> dict[str, np.ndarray]:
        given, folds = super().calibrating(val, source), self.validation.folds
        return given if folds is None else {**given, "logits": self._out_of_fold(source, folds)}

    @torch.no_grad()
    def _out_of_fold(self, val: ImageSource, folds: np.ndarray) -> np.ndarray:
        """Return logits (N, K) of validation images, each by the head that the other folds choose.

        The final head is chosen by all of them; an image that took part in the choice would be
        answered a little too well.
        """
        self.bank.eval()
        logits = self._logits_by_head(val.take(torch.arange(len(val))).images).cpu()
        losses = torch.stack(
            [F.cross_entropy(each, val.targets, reduction="none") for each in logits]
        )

        fold_of = torch.from_numpy(folds)
        answers = logits[int(self.bank.chosen)].clone()
        for fold in fold_of.unique():
            inside = fold_of == fold
            chosen = int(losses[:, ~inside].mean(1).argmin())
            answers[inside] = logits[chosen][inside]

        return answers.float().numpy()

    @torch.no_grad()
    def _choose(self, val: ImageSource) -> None:
        """Choose the head of least log loss on validation."""
        with evaluating(self.bank):
            logits = self._logits_by_head(val.take(torch.arange(len(val))).images)
        targets = val.targets.to(self.device)
        self.bank.chosen.fill_(
            int(torch.stack([F.cross_entropy(each, targets) for each in logits]).argmin())
        )

    def result(self) -> nn.Module:
        self.network.set_submodule(self.parts.head_name, self.bank.plain_head())
        return self.network

    def remarks(self) -> list[str]:
        chosen = PENALTIES[int(self.bank.chosen)]
        tried = ", ".join(f"{penalty:g}" for penalty in PENALTIES)
        why = f"chosen on validation (tried {tried})"
        if not self.selection:
            why = "the usual one, since there are no validation images to choose by"
        return [*super().remarks(), f"head: penalty {chosen:g} {why}"]


class ExactHead(Transfer):
    """A linear head is fitted exactly to features, and cross-validation chooses its kind.

    Validation images help as those of training do. Wherever they are measured, each is answered by
    a head that was fitted, chosen and calibrated without it.

    Args:
        views: augmented copies of each image that is fitted, beside the clean one.
        sampling: "balanced" lets each class weigh as much as any other.
        num_train: how many training images there are.
        num_val: how many validation images there are.
    """

    # Cross-validation has chosen the penalty, and there are no epochs to leave out.
    against_overfitting = "more photos of each class, or all layers (tune=all)"
    fewest_to_settle = 0

    def __init__(
        self,
        network: nn.Module,
        spec: DataSpec,
        device: torch.device,
        *,
        views: int = 0,
        sampling: str = "shuffle",
        num_train: int,
        num_val: int,
        **settings: Any,
    ) -> None:
        super().__init__(network, spec, device, **settings)
        self.views = views if self.augment else 0
        self.sampling = sampling
        num_features = self.parts.num_features
        self.networks = {"head": nn.Linear(num_features, spec.num_classes).to(device)}
        self.main = "head"
        self.phases = []

        num_rows = (num_train + num_val) * (1 + self.views)
        self.compares = fits_in(num_rows, num_features)
        self.fits_validation = self.compares and num_val > 0
        self.fitted_val: ImageSource | None = None
        self.out_of_fold: Tensor | None = None  # of validation images, (N, K)
        self.folds: Mapping[str, int] = {}
        self.by_folds: Tensor | None = None  # of all images, (N, K)
        self.comparison: dict[str, Any] = {}
        self.progress: Progress | None = None
        if not self.compares:
            size = f"{num_rows:,} x {num_features:,} features are too many to compare heads"
            why = f"{size}; of the training images alone"
            self.choices = [*self.choices, Choice("head", "the usual logistic regression", why)]

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "head": []}

    @property
    def head(self) -> nn.Linear:
        head = self.networks["head"]
        assert isinstance(head, nn.Linear)
        return head

    def sources(self, splits: DataSplits, progress: Progress | None = None) -> DataSplits:
        self.progress = progress
        fitted = {id(splits.train), *([id(splits.val)] if self.fits_validation else [])}

        def features_of(source: ImageSource, _: int) -> FeatureSource:
            views = self.views if id(source) in fitted else 0
            features = self.features_of(source, views, progress)
            return FeatureSource(
                splits.spec, features, source.targets, source.names, weights=source.weights
            )

        seen = as_features(splits, self.views, features_of)
        self.fitted_val = seen.val if self.fits_validation else None
        self.folds = {} if len(splits.test) else splits.folds
        return seen

    def start(self, train: ImageSource) -> None:
        assert isinstance(train, FeatureSource)
        if not self.compares:
            targets = train.targets.to(self.device)
            weights = torch.from_numpy(self._weights([train])).float().to(self.device)
            features = self._clean(train.features)
            fit = fit_linear(features, targets, self.spec.num_classes, WARM_UP_PENALTY, weights)
            take_over(self.head, fit)
            return

        parts = [train]
        if isinstance(self.fitted_val, FeatureSource):
            parts.append(self.fitted_val)
        names = [name for part in parts for name in part.names]
        inside = [self.folds.get(name, 0) for name in names]
        fitted = self._fitted(parts, np.array(inside) if all(inside) else None)
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(fitted.head.weight))
            self.head.bias.copy_(torch.from_numpy(fitted.head.bias))

        self.comparison = fitted.to_dict()
        out_of_fold = torch.from_numpy(fitted.out_of_fold).float()
        if self.fitted_val is not None:
            self.out_of_fold = out_of_fold[len(train) :]
        if all(inside):
            self.by_folds = out_of_fold

    def _fitted(self, parts: Sequence[FeatureSource], folds: np.ndarray | None) -> FittedHead:
        """Return the head for the images of all parts; `folds` (N,) are what figures are from."""
        names = [name for part in parts for name in part.names]
        return fit_head(
            torch.cat([part.features for part in parts]).cpu().numpy(),
            torch.cat([part.targets for part in parts]).numpy(),
            self.spec.num_classes,
            groups=[self.groups.get(name, "") for name in names],
            weights=self._weights(parts),
            clean=self._num_clean,
            label_smoothing=self.label_smoothing,
            stages=self.parts.features_of_stages,
            fold_of=folds,
            strict=folds is not None,
            seed=self.seed,
            progress=self.progress,
        )

    def answers_out_of_fold(
        self, source: ImageSource, folds: np.ndarray, progress: Progress | None = None
    ) -> dict[str, np.ndarray] | None:
        """Return logits (N, K) and targets (N,), each image by a head fitted without its fold.

        It also measures how far the interval of their accuracy has to be widened.
        """
        parts = source.sources if isinstance(source, JoinedSource) else [source]
        kept = [part for part in parts if isinstance(part, FeatureSource)]
        if not self.compares or len({part.features.shape[1] for part in kept}) != 1:
            return None

        if self.by_folds is None or len(self.by_folds) != len(source):
            self.progress = progress
            self.by_folds = torch.from_numpy(self._fitted(kept, folds).out_of_fold).float()
        if progress:
            progress("widening the interval", 0, 1)

        targets = source.targets.numpy()
        groups = [self.groups.get(name, "") for name in source.names]
        self.nested = nested_of_features(
            self._clean(torch.cat([part.features for part in kept])).cpu().numpy(),
            targets,
            self.spec.num_classes,
            len(np.unique(folds)),
            groups=groups if any(groups) else None,
            seed=self.seed,
        )
        return {"logits": self.by_folds.numpy(), "targets": targets}

    def _weights(self, parts: Sequence[FeatureSource]) -> np.ndarray:
        """Return how much each image counts, by its own weight, its class and how it is drawn."""
        targets = torch.cat([part.targets for part in parts])
        given = [
            torch.ones(len(part)) if part.weights is None else part.weights.cpu() for part in parts
        ]
        weights = torch.cat(given).double()
        if self.class_weights is not None:
            weights = weights * self.class_weights.cpu().double()[targets]
        if self.sampling == "balanced":
            weights = weights / targets.bincount(minlength=self.spec.num_classes)[targets]
        return weights.numpy()

    @property
    def _num_clean(self) -> int:
        return 2 if self.tta == "flip" else 1

    def _clean(self, views: Tensor) -> Tensor:
        """Return the features (N, F) by which images are answered, of those of views (N, V, F)."""
        return views[:, : self._num_clean].mean(1).to(self.device)

    def loss(
        self, phase: Phase, batch: Batch, context: StepContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        raise NotImplementedError("a head that is fitted exactly takes no steps")

    def shown(self, images: Tensor) -> Tensor:
        """Return the features (N, F) of the images as they are, of features (N, V, F)."""
        return images[:, 0].to(self.device)

    @torch.no_grad()
    def logits(self, network: nn.Module, images: Tensor) -> Tensor:
        """Return logits (N, K) of features (N, V, F), averaged over the clean views."""
        return network(self._clean(images))

    def _answers(
        self,
        network: nn.Module,
        source: ImageSource,
        on_progress: Callable[[int, int], None] | None = None,
        *,
        features: bool = True,
    ) -> Iterator[Answers]:
        """Yield the answers to all images of `source`; those to validation images out of fold."""
        for answers in super()._answers(network, source, on_progress, features=features):
            if source is self.fitted_val and self.out_of_fold is not None:
                answers = answers._replace(logits=self.out_of_fold[answers.index])
            yield answers

    def state(self) -> dict[str, Any]:
        answers = {"out_of_fold": self.out_of_fold, "by_folds": self.by_folds}
        held = {name: each for name, each in answers.items() if each is not None}
        return {**super().state(), **held, "comparison": json.dumps(self.comparison)}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.out_of_fold = state.get("out_of_fold")
        self.by_folds = state.get("by_folds")
        self.comparison = json.loads(state["comparison"])

    def summarise(
        self, evaluations: dict[str, Evaluation], sources: dict[str, ImageSource]
    ) -> Summary:
        summary = super().summarise(evaluations, sources)
        found = {"heads": self.comparison} if self.comparison else {}
        return replace(summary, evaluation={**summary.evaluation, **found})

    def result(self) -> nn.Module:
        self.network.set_submodule(self.parts.head_name, self.head)
        return self.network

    def remarks(self) -> list[str]:
        found = self.comparison
        if not found:
            return super().remarks()
        lines = [f"head: {found['chosen']} ({found['reason']})"]
        for each in found["candidates"]:
            lines.append(f"  {_said_of(each)}")
        if found["nested"]:
            lines.append(f"  {_said_of(found['nested'])}")
        return [*super().remarks(), *lines, *(f"  {note}" for note in found["notes"])]


def _said_of(candidate: Mapping[str, Any]) -> str:
    """Return one line on a candidate."""
    setting = f" ({candidate['setting']})" if candidate["setting"] else ""
    low, high = candidate["accuracy_ci95"]
    return (
        f"{candidate['name']}{setting}: log loss {candidate['log_loss']:.3f}, "
        f"accuracy {candidate['accuracy']:.2%} ({low:.1%} to {high:.1%}) out of fold"
    )


class FineTune(FromFittedHead, Transfer):
    """The last stages of the backbone, or all of them, are trained after the head was fitted.

    Starting from a fitted head keeps the features from being spoiled by a random one (Kumar et al.
    2022, LP-FT).

    Args:
        how: which stages are trained, and how fast.
        warm_up_head: whether the head is fitted to features before the first step.
        interpolate: whether validation chooses how much of the way from that head on the frozen
            network to the fine-tuned network is gone.
    """

    def __init__(
        self,
        network: nn.Module,
        spec: DataSpec,
        device: torch.device,
        *,
        how: Pretraining,
        warm_up_head: bool = True,
        interpolate: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(network, spec, device, **settings)
        self.thawing = how.thawing(network, self.parts)
        self.warm_up_head = warm_up_head
        self.warm_features: Tensor | None = None
        self.interpolate = interpolate
        self.line: Line | None = None
        if interpolate:
            self.chooses = "how much of the fine-tuning to keep"
            self.before = copied(network)

    def sources(self, splits: DataSplits, progress: Progress | None = None) -> DataSplits:
        if self.warm_up_head:
            self.warm_features = self.features_of(splits.train, 0, progress)
        return splits

    def start(self, train: ImageSource) -> None:
        if self.warm_features is None:
            return
        features = self.warm_features  # (N, V, F), the clean views
        rows = features.shape[0] * features.shape[1]
        if self.interpolate and fits_in(rows, features.shape[2]):
            head = self._chosen_head(features, train)
        else:
            targets = train.targets.to(self.device)
            weights = None if train.weights is None else train.weights.to(self.device)
            head = fit_linear(
                features[:, 0], targets, self.spec.num_classes, WARM_UP_PENALTY, weights
            )
        take_over(self.parts.head, head)
        self.warm_features = None
        if self.interpolate:
            self.before = copied(self.network)
        self.measure_start()

    def skill(self, figures: Mapping[str, Any]) -> tuple[float, str]:
        assert self.selection is not None
        guessing = self.selection.targets.bincount().max().item() / len(self.selection)
        accuracy = figures["accuracy"]
        return (accuracy - guessing) / max(1 - guessing, 1e-6), f"accuracy {percent(accuracy)}"

    def _chosen_head(self, features: Tensor, train: ImageSource) -> nn.Linear:
        """Return the linear head that cross-validation inside training chooses."""
        weights = torch.ones(len(train)) if train.weights is None else train.weights.cpu()
        if self.class_weights is not None:
            weights = weights * self.class_weights.cpu()[train.targets]
        found = fit_head(
            features.cpu().numpy(),
            train.targets.numpy(),
            self.spec.num_classes,
            groups=[self.groups.get(name, "") for name in train.names],
            weights=weights.numpy(),
            stages=self.parts.features_of_stages,
            seed=self.seed,
        )

        head = nn.Linear(features.shape[2], self.spec.num_classes).to(self.device)
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(found.head.weight))
            head.bias.copy_(torch.from_numpy(found.head.bias))
        return head

    def state(self) -> dict[str, Any]:
        if not self.interpolate:
            return super().state()
        return {**super().state(), "head": self._head_of(self.before)}

    def load_state(self, state: dict[str, Any]) -> None:
        if not self.interpolate:
            super().load_state(state)
            return
        head = {name: tensor.to(self.device) for name, tensor in state["head"].items()}
        self.before |= {f"{self.parts.head_name}.{name}": each for name, each in head.items()}
        super().load_state({key: value for key, value in state.items() if key != "head"})

    def _head_of(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        prefix = f"{self.parts.head_name}."
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }

    def loss(
        self, phase: Phase, batch: Batch, context: StepContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        self.thawing.step(context.progress)
        return super().loss(phase, batch, context)

    def finish(self) -> list[Choice]:
        if not self.interpolate:
            return []
        name = "interpolation"
        if not self.selection:
            return [Choice(name, "all of the fine-tuning", "no validation images choose")]

        after = copied(self.network)
        targets = self.selection.targets.numpy()
        answers = []
        for share in SHARES:
            self.network.load_state_dict(between(self.before, after, share))
            answers.append(self._logits_of(self.network, self.selection)[0].numpy())
        self.line = Line(
            np.stack(answers), np.stack([_calibrated_losses(each, targets) for each in answers])
        )

        chosen = self.line.chosen
        self.network.load_state_dict(between(self.before, after, SHARES[chosen]))
        loss = self.line.losses.mean(1)
        why = (
            f"the log loss on {len(targets):,} validation images is {loss[chosen]:.3f}; of the "
            f"head on the frozen network {loss[0]:.3f}, of the fine-tuned network {loss[-1]:.3f}"
        )
        return [Choice(name, f"{SHARES[chosen]:.0%} of the fine-tuning".replace("%", " %"), why)]

    def calibrating(self, val: Evaluation, source: ImageSource) -> dict[str, np.ndarray]:
        given, folds = super().calibrating(val, source), self.validation.folds
        if self.line is None or folds is None:
            return given
        return {**given, "logits": self.line.out_of_fold(folds)}


def _calibrated_losses(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the log loss (N,) of logits (N, K) at the temperature that suits all of them."""
    scaled = torch.from_numpy(logits).double() / fit_temperature(logits, targets).value
    return F.cross_entropy(scaled, torch.from_numpy(targets), reduction="none").numpy()


def _choices(origin: dict[str, Any]) -> list[Choice]:
    """Return what was decided about weights that a file left open; `origin` is what
    `load_pretrained` returned.
    """
    choices = []
    file = origin.get("file", "")
    averaged, prefix = origin.get("averaged", ""), origin.get("prefix", "")

    if origin.get("run"):
        run, same = origin["run"], origin["head"] == "loaded"
        classes = "the classes are those" if same else "the classes are others than those"
        choices.append(
            Choice(
                "head", "new", f"{classes} of {run}; it is fitted to the features of these images"
            )
        )

    if averaged:
        choices.append(
            Choice(
                "weights",
                f"averaged ({averaged})",
                f"{file} holds them beside those of the last step",
            )
        )
    if origin.get("remark"):
        choices.append(Choice("weights", "as they are", f"{file}: {origin['remark']}"))

    if prefix:
        left = (
            f"; {origin['left_out']:,} tensors without it are left out"
            if origin.get("left_out")
            else ""
        )
        choices.append(
            Choice("weights", f"under the prefix '{prefix}'", f"as {file} names them{left}")
        )

    return choices


def transfer(
    network: nn.Module,
    model: str,
    spec: DataSpec,
    device: torch.device,
    how: Pretraining,
    *,
    hidden: Sequence[int],
    sampling: str,
    num_train: int,
    num_val: int,
    interpolate: bool,
    progress: Progress | None = None,
    **settings: Any,
) -> Transfer:
    """Load pretrained weights into `network` and return the task that trains it.

    The other parameters are fields of the recipe.

    Raises:
        UserError: the weights are not there or do not fit the model.
    """
    origin, spec = how.load(network, model, spec, spec.target, progress)
    network = network.to(device)
    settings |= {"model": model, "origin": origin}
    if how.tune != "head":
        return FineTune(network, spec, device, how=how, interpolate=interpolate, **settings)
    if how.solver == "exact":
        return ExactHead(
            network, spec, device, views=how.views, sampling=sampling, num_train=num_train,
            num_val=num_val, **settings,
        )  # fmt: skip
    return HeadOnly(network, spec, device, hidden=hidden, views=how.views, **settings)
