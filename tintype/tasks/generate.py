"""Generation: a generator that makes new images like the training ones, by a GAN or by flow matching; measured by distances."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tintype import losses
from tintype.augment import Augment
from tintype.augment.spec import resolve
from tintype.data.source import Batch, DataSpec, DataSplits, ImageSource
from tintype.distributed import autocast
from tintype.errors import UserError
from tintype.generation import distances, sampling
from tintype.generation.diff_augment import AdaptiveStrength, diff_augment
from tintype.generation.distances import FEWEST, FeatureNetwork
from tintype.generation.objective import Objective
from tintype.generation.trouble import Trouble, memorisation
from tintype.models import build_model
from tintype.tasks.task import Evaluation, Phase, StepContext, Summary, Task

SAMPLE_SEED = 0  # of every picture and figure; `tintype generate RUN` shows the same images
AT_ONCE = 100  # images that are made and measured together
SHOWN = 64


def make(
    splits: DataSplits,
    *,
    device: torch.device,
    dtype: torch.dtype,
    model: str,
    model_options: dict[str, Any],
    seed: int,
    augment: str | dict[str, Any],
    loss: str | None = None,
    discriminator_lr: float = 1.0,
    discriminator_steps: int = 1,
    generator_steps: int = 1,
    r1: float = 0.0,
    r2: float = 0.0,
    gradient_penalty: float = 0.0,
    penalty_every: int = 1,
    diff_augment: Sequence[str] | str = (),
    ada: float | None = None,
    features: str | None = None,
    inception_weights: str | None = None,
    num_samples: int = 10_000,
) -> Generate:
    """Build generator, discriminator and the task around them; the parameters are fields of the recipe and its task_options.

    Raises:
        UserError: unknown model or option, images that the model cannot make, or no features where they should lie.
    """
    objective = Objective(
        loss or "", discriminator_lr, discriminator_steps, generator_steps, r1, r2, gradient_penalty, penalty_every,
        (diff_augment,) if isinstance(diff_augment, str) else tuple(diff_augment), ada,
    )  # fmt: skip
    for name, source in (("validation", splits.val), ("test", splits.test)):
        if len(source) < FEWEST:
            raise UserError(
                f"{len(source)} {name} images are too few to measure generated ones against. Expected at least {FEWEST}: "
                "set val_fraction or test_fraction higher, or add images."
            )
    if {"mixup", "cutmix"} & resolve(augment).keys():
        raise UserError(
            "mixup and cutmix blend images, which a generator would learn to make. Leave them out of augment."
        )
    networks = build_model(model, splits.spec, model_options, seed).to(device)
    parts = dict(networks.items()) if isinstance(networks, nn.ModuleDict) else {"generator": networks}
    if not hasattr(parts.get("generator"), "latent_shape"):
        raise UserError(f"model {model} makes no images. Expected one for task generate, such as dcgan or mlp-gan.")
    task = Generate(
        parts, splits.spec, device, dtype=dtype, augment=augment, objective=objective.checked("discriminator" in parts),
        features=features, inception_weights=inception_weights, num_samples=num_samples,
    )  # fmt: skip
    task.train = splits.train
    _ = task.feature_network, task.inception  # whatever is wrong with them shows now
    return task


def restore(
    network: nn.Module, spec: DataSpec, description: dict[str, Any], *, device: torch.device, dtype: torch.dtype
) -> Generate:
    """Return the task around a finished generator."""
    return Generate(
        {"generator": network}, spec, device, dtype=dtype,
        features=description["features"], num_samples=description["num_samples"],
    )  # fmt: skip


class Generate(Task):
    """Image generation.

    Args:
        networks: "generator", and "discriminator" for a GAN (see tintype.models.gan_parts for how they are called).
        spec: shape and classes of the images.
        augment: preset or mapping for real images, see tintype.augment.
        objective: losses, turns and penalties.
        features: what the distances are measured on: None for pixels, a classifier's run folder, a weight file.
        inception_weights: file for FID by the standard protocol, or None.
        num_samples: how many images are generated for the figures, at most as many as there are real ones.
        dtype: arithmetic of the networks in training; images are made and measured in float32.

    Attributes:
        train: training images, for the floor and for the nearest ones; set before evaluating.
    """

    higher_is_better = False
    log_every_step = True

    def __init__(
        self,
        networks: dict[str, nn.Module],
        spec: DataSpec,
        device: torch.device,
        *,
        augment: str | dict | None = None,
        objective: Objective | None = None,
        features: str | None = None,
        inception_weights: str | None = None,
        num_samples: int = 10_000,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if type(num_samples) is not int or not FEWEST <= num_samples <= 1_000_000:
            raise UserError(f"task.num_samples is {num_samples!r}. Expected a whole number from {FEWEST} to 1,000,000.")
        self.networks, self.main, self.device, self.dtype = networks, "generator", device, dtype
        self.spec = replace(spec, mean=(0.5,) * spec.channels, std=(0.5,) * spec.channels)  # -1..1
        self.objective = objective or Objective()
        gan = "discriminator" in networks
        self.phases = _turns(self.objective) if gan else [Phase("flow", "generator")]
        self.augment = Augment(augment, num_classes=spec.num_classes)
        self.strength = AdaptiveStrength(self.objective.ada) if self.objective.ada is not None else None
        self.features, self.inception_weights, self.num_samples = features, inception_weights, num_samples
        self.train: ImageSource | None = None
        self._networks_of_features: dict[str, FeatureNetwork] = {}
        self._seen: dict[Any, Any] = {}
        self.trouble = Trouble(self.objective.loss)
        self._made: tuple[int, list[Tensor]] = (-1, [])  # images of the discriminator's turn, for the generator's

    # ---- what the engine asks -----------------------------------------------------------------------------------------

    @property
    def score_name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return f"fd_{self.feature_network.name}"

    @property
    def watched(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return (self.score_name, "diversity")

    @property
    def warnings(self) -> list[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.trouble.warnings

    @property
    def generator(self) -> Any:
        return self.networks["generator"]

    @property
    def conditional(self) -> bool:
        return bool(self.generator.conditional)

    def describe(self) -> dict[str, Any]:
        return {
            "loss": self.objective.loss,
            "latent_shape": list(self.generator.latent_shape),
            "conditional": self.conditional,
            "features": self.features,
            "num_samples": self.num_samples,
        }

    def multiply_adds(self) -> int:
        was_training = self.generator.training
        self.generator.eval()
        with FlopCounterMode(display=False) as counter:
            self.make_images(self.generator, sampling.latents(0, [0], self.generator.latent_shape), [0])
        self.generator.train(was_training)
        return counter.get_total_flops() // 2

    def sources(self, splits: DataSplits, progress: Callable[[str, int, int], None] | None = None) -> DataSplits:
        self.train = splits.train
        return splits

    def loss(self, phase: Phase, batch: Batch, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        self.trouble.step = context.step + 1
        real, labels = self._real(batch, context)
        if phase.name == "flow":
            return self._flow_loss(real, labels, context), {}
        if phase.name == "penalty":
            fake = self._fake(labels, len(real), context) if self.objective.needs_fakes else None
            return self._penalty(real, fake, labels, context)[0] * phase.every, {}
        if phase.name == "discriminator":
            return self._discriminator_loss(real, labels, context)
        return self._generator_loss(real, labels, context), {}

    def state(self) -> dict[str, Any]:
        return {**self.trouble.state(), "strength": self.strength.state() if self.strength else {}}

    def load_state(self, state: dict[str, Any]) -> None:
        self.trouble.load_state(state)
        if self.strength:
            self.strength.load_state(state["strength"])

    # ---- losses -------------------------------------------------------------------------------------------------------

    def _real(self, batch: Batch, context: StepContext) -> tuple[Tensor, Tensor | None]:
        """Return real images in -1..1, and their classes where the generator knows classes."""
        images, targets = self.augment(
            batch.images, batch.targets, index=batch.index, epoch=context.epoch, generator=context.generator
        )
        images = images.to(self.device, non_blocking=True).float().mul_(1 / 127.5).sub_(1.0)
        return images, targets.to(self.device) if self.conditional else None

    def _noise(self, count: int, generator: torch.Generator) -> Tensor:
        shape = (count, *self.generator.latent_shape)
        return torch.randn(shape, generator=generator, device=generator.device).to(self.device)

    def _fake(self, labels: Tensor | None, count: int, context: StepContext) -> Tensor:
        with autocast(self.device, self.dtype):
            return self.generator(self._noise(count, context.generator), labels).float()

    def _changed(self, images: Tensor, context: StepContext) -> Tensor:
        if not self.objective.diff_augment:
            return images
        probability = self.strength.probability if self.strength else 1.0
        return diff_augment(images, self.objective.diff_augment, probability, context.generator)

    def _discriminator_loss(
        self, real: Tensor, labels: Tensor | None, context: StepContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        fake = self._fake_for_both(labels, len(real), context)
        if self.objective.penalised and self.objective.penalty_every == 1:
            penalty, real_logits, fake_logits = self._penalty(real, fake, labels, context)
            assert fake_logits is not None
        else:
            penalty = 0.0
            judge = self.networks["discriminator"]
            with autocast(self.device, self.dtype):
                real_logits = judge(self._changed(real, context), labels)
                fake_logits = judge(self._changed(fake, context), labels)
        loss = losses.discriminator_loss(self.objective.loss, real_logits, fake_logits) + penalty
        if self.strength:
            self.strength.see(real_logits)
        right = self._share_right(real_logits.detach(), fake_logits.detach())
        self.trouble.see(float(right))
        logged = {"discriminator_accuracy": right}
        if self.strength:
            logged["augment_probability"] = torch.tensor(self.strength.probability)
        return loss, logged

    def _fake_for_both(self, labels: Tensor | None, count: int, context: StepContext) -> Tensor:
        """Return images for the discriminator's turn, and keep them, with their way back, if the generator's turn follows."""
        if context.step % self.objective.discriminator_steps:
            return self._fake(labels, count, context)
        with _tracked(self.generator):
            made = self._fake(labels, count, context)
        earlier = self._made[1] if self._made[0] == context.step else []
        self._made = (context.step, [*earlier, made])
        return made.detach()

    def _made_before(self, context: StepContext) -> Tensor | None:
        """Return the next images that the discriminator's turn of this step has made, if it had one: a pass less."""
        step, made = self._made
        return made.pop(0) if step == context.step and made else None

    def _share_right(self, real: Tensor, fake: Tensor) -> Tensor:
        if self.objective.loss in ("bce", "hinge"):
            return ((real > 0).float().mean() + (fake < 0).float().mean()) / 2
        return (real > fake).float().mean()  # these losses leave open where zero is

    def _penalty(
        self, real: Tensor, fake: Tensor | None, labels: Tensor | None, context: StepContext
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the penalty on the discriminator's gradients, and its logits of real and generated images; in float32."""
        objective = self.objective
        # Called as `forward`, which torch.compile leaves alone: compiled code has no second derivative.
        judge = self.networks["discriminator"].forward
        real = self._changed(real, context).detach().requires_grad_()
        fake = None if fake is None else self._changed(fake, context).detach().requires_grad_()
        with torch.autocast(self.device.type, enabled=False):
            real_logits, fake_logits = judge(real, labels), None if fake is None else judge(fake, labels)
            total = real_logits.new_zeros(())
            if objective.r1:
                total = total + objective.r1 / 2 * losses.squared_gradient(real, real_logits).mean()
            if objective.r2 and fake is not None and fake_logits is not None:
                total = total + objective.r2 / 2 * losses.squared_gradient(fake, fake_logits).mean()
            if objective.gradient_penalty and fake is not None:
                part = torch.rand(len(real), 1, 1, 1, generator=context.generator, device=context.generator.device)
                mixed = torch.lerp(real.detach(), fake.detach(), part.to(self.device)).requires_grad_()
                total = total + objective.gradient_penalty * losses.length_penalty(mixed, judge(mixed, labels))
        return total, real_logits, fake_logits

    def _generator_loss(self, real: Tensor, labels: Tensor | None, context: StepContext) -> Tensor:
        judge = self.networks["discriminator"]
        made = self._made_before(context)
        made = self._fake(labels, len(real), context) if made is None else made
        with autocast(self.device, self.dtype):
            fake_logits = judge(self._changed(made, context), labels)
            relativistic = self.objective.loss == "relativistic"
            real_logits = judge(self._changed(real, context), labels) if relativistic else None
        return losses.generator_loss(self.objective.loss, real_logits, fake_logits)

    def _flow_loss(self, images: Tensor, labels: Tensor | None, context: StepContext) -> Tensor:
        """Return the flow-matching loss on straight lines from noise to images (Lipman et al. 2023, Liu et al. 2023)."""
        noise = self._noise(len(images), context.generator)
        draw = torch.randn(len(images), generator=context.generator, device=context.generator.device).to(self.device)
        time = torch.sigmoid(draw)  # logit-normal: most of it in the middle, where it is hardest (Esser et al. 2024)
        part = time[:, None, None, None]
        with autocast(self.device, self.dtype):
            velocity = self.generator.velocity(torch.lerp(noise, images, part), time, labels)
        return (velocity.float() - (images - noise)).square().mean()

    # ---- making images ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def make_images(self, network: nn.Module, noise: np.ndarray, labels: Sequence[int]) -> Tensor:
        """Return images (N, C, H, W) uint8 from noise (N, *latent_shape) and, of a network with classes, their classes."""
        classes = torch.as_tensor(list(labels), device=self.device) if self.conditional else None
        return sampling.to_pixels(network(torch.from_numpy(noise).to(self.device), classes))

    def samples(self, network: nn.Module, indices: Sequence[int], label: int | None = None) -> np.ndarray:
        """Return generated images (N, H, W, C) uint8 of the usual seed; classes by turns unless `label` is given."""
        noise = sampling.latents(SAMPLE_SEED, indices, self.generator.latent_shape)
        classes = self.turns(indices) if label is None else [label] * len(indices)
        with _evaluating(network):
            return self.make_images(network, noise, classes).permute(0, 2, 3, 1).cpu().numpy()

    def turns(self, indices: Sequence[int]) -> list[int]:
        """Return the class of each index: one after the other."""
        return [index % self.spec.num_classes for index in indices]

    def snapshot(self, network: nn.Module) -> np.ndarray:
        return sampling.grid(self.samples(network, range(SHOWN)), 8)

    # ---- measuring ----------------------------------------------------------------------------------------------------

    @property
    def feature_network(self) -> FeatureNetwork:
        if "features" not in self._networks_of_features:
            self._networks_of_features["features"] = distances.load_features(self.features, self.device)
        return self._networks_of_features["features"]

    @property
    def inception(self) -> FeatureNetwork | None:
        if self.inception_weights and "inception" not in self._networks_of_features:
            found = distances.inception_features(self.inception_weights, self.device)
            self._networks_of_features["inception"] = found
        return self._networks_of_features.get("inception")

    def measure_by(self, train: ImageSource, features: str | None, inception_weights: str | None) -> None:
        """Set training images for the floor, and other features than those of the run where some are named.

        Raises:
            UserError: there are no such features.
        """
        self.train = train
        self.features, self.inception_weights = features or self.features, inception_weights or self.inception_weights
        self._networks_of_features = {}
        _ = self.feature_network, self.inception

    def evaluate(
        self, network: nn.Module, source: ImageSource, on_progress: Callable[[int, int], None] | None = None
    ) -> Evaluation:
        count = min(self.num_samples, len(source))
        floor = self._floor_source(source, count)
        with _evaluating(network):
            figures: dict[str, Any] = {"num_images": count, "num_generated": count}
            for features in filter(None, (self.feature_network, self.inception)):
                real = self._of_source(features, source, count)
                made, probabilities = self._of_generated(features, network, count, on_progress)
                among_real = None if floor is None else self._of_source(features, floor, len(floor))
                figures.update(distances.figures(features.name, real, made, among_real))
                if features is self.feature_network:
                    figures.update(self._class_figures(features, probabilities, count))
            shown = torch.from_numpy(self.samples(network, range(min(256, count))))
            varied = distances.pairwise_distance(shown)
        alike = distances.pairwise_distance(source.take(torch.arange(min(256, count))).images)
        figures["diversity"] = varied / alike if alike else 1.0
        self.trouble.judge(figures, recall=figures[f"recall_{self.feature_network.name}"])
        return Evaluation(figures)

    def _floor_source(self, source: ImageSource, count: int) -> ImageSource | None:
        """Return as many training images as are measured, or None where these are training images themselves."""
        if self.train is None:
            return None
        if ("names", id(self.train)) not in self._seen:
            self._seen["names", id(self.train)] = frozenset(self.train.names)
        if source.names[0] in self._seen["names", id(self.train)]:
            return None
        if ("floor", count) not in self._seen:
            order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(0))
            self._seen["floor", count] = self.train.subset(order[:count].sort().values)
        return self._seen["floor", count]

    def _of_source(self, features: FeatureNetwork, source: ImageSource, count: int) -> Tensor:
        key = (features.name, id(source), count)
        if key not in self._seen:
            parts = [features.extract(source.take(i).images)[0].cpu() for i in torch.arange(count).split(AT_ONCE)]
            self._seen[key] = torch.cat(parts)
            self._seen["kept", id(source)] = source  # so that no other source gets its id
        return self._seen[key]

    def _of_generated(
        self,
        features: FeatureNetwork,
        network: nn.Module,
        count: int,
        on_progress: Callable[[int, int], None] | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return features and class probabilities of generated images; kept for the same weights and count."""
        key = (_digest(network), count)
        kept = self._seen.setdefault("generated", {})
        if kept.get(features.name, (None,))[0] != key:
            found, probabilities = [], []
            for part in torch.arange(count).split(AT_ONCE):
                indices = part.tolist()
                noise = sampling.latents(SAMPLE_SEED, indices, self.generator.latent_shape)
                values, probs = features.extract(self.make_images(network, noise, self.turns(indices)))
                found.append(values.cpu())
                probabilities += [] if probs is None else [probs.cpu()]
                if on_progress:
                    on_progress(indices[-1] + 1, count)
            both = torch.cat(found), torch.cat(probabilities) if probabilities else None
            if not bool(both[0].isfinite().all()):
                raise UserError("the generated images are not finite: training has diverged. Try a lower --lr.")
            kept[features.name] = (key, both)
        return kept[features.name][1]

    def _class_figures(self, features: FeatureNetwork, probabilities: Tensor | None, count: int) -> dict[str, Any]:
        """Return what the classifier of the features sees: which classes, how evenly, how surely."""
        if probabilities is None:
            return {}
        names, guesses = features.class_names, probabilities.argmax(1)
        shares = torch.bincount(guesses, minlength=len(names)) / count
        figures = {
            "classes_present": int((shares >= 0.1 / len(names)).sum()),
            "largest_class_share": float(shares.max()),
            "mean_confidence": float(probabilities.max(1).values.mean()),
            "class_shares": {name: round(float(share), 4) for name, share in zip(names, shares, strict=True)},
        }
        if self.conditional and names == self.spec.class_names:
            figures["class_accuracy"] = float((guesses == torch.tensor(self.turns(range(count)))).float().mean())
        return figures

    # ---- the end ------------------------------------------------------------------------------------------------------

    def summarise(self, evaluations: dict[str, Evaluation], sources: dict[str, ImageSource]) -> Summary:
        network = self.generator
        generated = self.samples(network, range(SHOWN))
        train = self.train or sources["train"]
        near, distance = self._nearest(generated, train)
        usual = self._nearest(_pictures(sources["test"], range(min(SHOWN, len(sources["test"])))), train)[1]
        generated_far, test_far = float(np.median(distance)), float(np.median(usual))
        warnings = [*self.warnings, *memorisation(generated_far, test_far)]
        splits = {name: evaluation.figures for name, evaluation in evaluations.items()}
        evaluation = {
            "task": "generate",
            "splits": splits,
            "protocol": self.protocol(),
            "nearest": {"median_generated": generated_far, "median_test": test_far},
            "verdict": {"word": "measured", "text": self._sentence(splits["test"])},
            "warnings": warnings,
        }
        header = ["index", "class", "nearest_training_image", "distance"]
        classes = [self.spec.class_names[k] if self.conditional else "" for k in self.turns(range(SHOWN))]
        rows = [[i, classes[i], train.names[near[i]], f"{distance[i]:.4f}"] for i in range(SHOWN)]
        return Summary(evaluation, (header, rows), self._pictures(network, generated, near, sources["test"], train))

    def _nearest(self, images: np.ndarray, train: ImageSource) -> tuple[np.ndarray, np.ndarray]:
        blocks = (train.take(index).images for index in torch.arange(len(train)).split(2000))
        return distances.nearest(torch.from_numpy(images).permute(0, 3, 1, 2), blocks)

    def protocol(self) -> dict[str, str]:
        """Return how each distance is measured, in a sentence."""
        used = {f"fd_{f.name}": f.protocol for f in filter(None, (self.feature_network, self.inception))}
        if self.inception is None:
            used["fid"] = "left out: no Inception weights were given (--inception-weights FILE)"
        return used

    def _sentence(self, figures: dict[str, Any]) -> str:
        name = self.score_name
        text = f"{name} {figures[name]:.4g} ({figures['num_generated']:,} generated against as many test images"
        floor = f"{name}_floor"
        return text + (f"; real against real {figures[floor]:.4g})." if floor in figures else ").")

    def _pictures(
        self, network: nn.Module, generated: np.ndarray, near: np.ndarray, test: ImageSource, train: ImageSource
    ) -> dict[str, list[dict[str, Any]]]:
        """Return the sheets that the report shows."""
        real = _pictures(test, _spread(test, SHOWN))
        pairs = np.concatenate([generated[:8], _pictures(train, near[:8].tolist())])
        noise = sampling.path(SAMPLE_SEED, range(64), self.generator.latent_shape, 8)
        starts = [self.turns([i // 8])[0] for i in range(64)]
        with _evaluating(network):
            ways = self.make_images(network, noise, starts).permute(0, 2, 3, 1).cpu().numpy()
        sheets = {
            "generated-4x4": (generated[:16], 4), "real-4x4": (real[:16], 4),
            "generated-8x8": (generated, 8), "real-8x8": (real, 8),
            "nearest": (pairs, 8), "interpolation": (ways, 8),
        }  # fmt: skip
        if self.conditional:
            rows = [self.samples(network, range(8), label) for label in range(min(20, self.spec.num_classes))]
            sheets["classes"] = (np.concatenate(rows), 8)
        return {
            name: [{"file": f"{name}.png", "picture": sampling.grid(images, columns)}]
            for name, (images, columns) in sheets.items()
        }


def _turns(objective: Objective) -> list[Phase]:
    """Return the turns of a GAN: discriminator, its penalty where it is lazy, generator.

    They alternate: the generator is judged by the discriminator that has just learned from the same images. With the
    turns the other way round both would follow each other's state of the step before, and MNIST collapsed (docs/log.md).
    """
    scale = objective.discriminator_lr
    phases = [Phase("discriminator", "discriminator", objective.generator_steps, scale)]
    if objective.penalised and objective.penalty_every > 1:
        phases.append(Phase("penalty", "discriminator", objective.penalty_every, scale))
    phases.append(Phase("generator", "generator", objective.discriminator_steps))
    return phases


class _evaluating:
    """Put a network into eval mode for the time of a block."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def __enter__(self) -> None:
        self.was_training = self.network.training
        self.network.eval()

    def __exit__(self, *_: object) -> None:
        self.network.train(self.was_training)


@contextmanager
def _tracked(network: nn.Module) -> Iterator[None]:
    """Let gradients reach the weights of a network that holds still otherwise."""
    still = [weight for weight in network.parameters() if not weight.requires_grad]
    for weight in still:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in still:
            weight.requires_grad_(False)


def _digest(network: nn.Module) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for tensor in network.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _pictures(source: ImageSource, index: Sequence[int]) -> np.ndarray:
    return source.take(torch.as_tensor(list(index))).images.permute(0, 2, 3, 1).cpu().numpy()


def _spread(source: ImageSource, count: int) -> list[int]:
    """Return `count` positions drawn with a fixed seed: images that lie together are often alike."""
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(0))
    return order[torch.arange(count) % len(source)].tolist()
