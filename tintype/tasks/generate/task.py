"""Generation: images like the training ones, by a GAN or flow matching; measured by distances."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tintype.augment import Augment
from tintype.augment.spec import resolve
from tintype.data import opening
from tintype.data.source import Batch, DataSpec, DataSplits, ImageSource
from tintype.data.targets import ANY_CLASSES, TargetKind
from tintype.errors import UserError
from tintype.hardware.device import autocast
from tintype.models import build_model, default_options
from tintype.models.parts.contracts import ImageGenerator
from tintype.models.parts.modes import evaluating
from tintype.progress import Progress
from tintype.tasks.generate import distances, sampling
from tintype.tasks.generate.adversarial import Adversarial
from tintype.tasks.generate.distances import FEWEST
from tintype.tasks.generate.measuring import Measure, class_figures, drawn
from tintype.tasks.generate.objective import Objective
from tintype.tasks.generate.trouble import Trouble, memorisation, verdict
from tintype.tasks.task import Evaluation, Phase, StepContext, Summary, Task

SAMPLE_SEED = 0  # of every picture and figure; `tintype generate RUN` shows the same images
SHOWN = 64

open_data = partial(opening.open_data, test_optional=False)


def target_of() -> TargetKind:
    """Return what is read of each image: a generator need not know classes."""
    return ANY_CLASSES


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
    progress: Progress | None = None,
) -> Generate:
    """Build the networks and the task around them; the parameters are fields of the recipe.

    Raises:
        UserError: unknown model or option, images that the model cannot make, or no features where
            they should lie.
    """
    operations = (diff_augment,) if isinstance(diff_augment, str) else tuple(diff_augment)
    objective = Objective(
        loss or "", discriminator_lr, discriminator_steps, generator_steps, r1, r2,
        gradient_penalty, penalty_every, operations, ada,
    )  # fmt: skip

    for name, source in (("validation", splits.val), ("test", splits.test)):
        if len(source) < FEWEST:
            raise UserError(
                f"{len(source)} {name} images are too few to measure generated ones against. "
                f"Expected at least {FEWEST}: "
                "set val_fraction or test_fraction higher, or add images."
            )

    if {"mixup", "cutmix"} & resolve(augment).keys():
        raise UserError(
            "mixup and cutmix blend images, which a generator would learn to make. "
            "Leave them out of augment."
        )

    networks = build_model(model, splits.spec, model_options, seed).to(device)
    parts = (
        dict(networks.items()) if isinstance(networks, nn.ModuleDict) else {"generator": networks}
    )
    if not isinstance(parts.get("generator"), ImageGenerator):
        raise UserError(
            f"model {model} makes no images. Expected one for task generate, such as dcgan or "
            "mlp-gan, or a network of your own with latent_shape and conditional."
        )

    task = Generate(
        parts, splits.spec, device, dtype=dtype, augment=augment,
        objective=objective.checked("discriminator" in parts), features=features,
        inception_weights=inception_weights, num_samples=num_samples,
    )  # fmt: skip
    task.trouble.options = default_options(model) | model_options
    # whatever is wrong with its features shows now
    task.measure_by(splits.train, None, None, progress)

    return task


def restore(
    network: nn.Module,
    spec: DataSpec,
    description: dict[str, Any],
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> Generate:
    """Return the task around a finished generator."""
    return Generate(
        {"generator": network}, spec, device, dtype=dtype,
        features=description["features"], num_samples=description["num_samples"],
    )  # fmt: skip


class Generate(Task):
    """Image generation.

    Args:
        networks: "generator", and "discriminator" for a GAN; tintype.models.parts.gan_parts says
            how they are called.
        spec: shape and classes of the images.
        augment: preset or mapping for real images, see tintype.augment.
        objective: losses, turns and penalties.
        features: what the distances are measured on: None for pixels, a classifier's run folder, a
            weight file.
        inception_weights: file for FID by the standard protocol, or None.
        num_samples: how many images are generated for the figures, at most as many as there are
            real ones.
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
            raise UserError(
                f"task.num_samples is {num_samples!r}. "
                f"Expected a whole number from {FEWEST} to 1,000,000."
            )

        self.networks = networks
        self.main = "generator"
        self.device = device
        self.dtype = dtype
        self.spec = replace(spec, mean=(0.5,) * spec.channels, std=(0.5,) * spec.channels)  # -1..1

        objective = objective or Objective()
        self.loss_name = objective.loss
        self.trouble = Trouble(objective)
        gan = "discriminator" in networks
        self.adversarial = (
            Adversarial(networks, objective, self.trouble, device, dtype) if gan else None
        )
        self.phases = self.adversarial.phases if self.adversarial else [Phase("flow", "generator")]
        self.augment = Augment(augment, mixable=spec.target.mixable, shape=spec.shape)
        self.features = features
        self.inception_weights = inception_weights
        self.num_samples = num_samples
        self.train: ImageSource | None = None
        self._measure: Measure | None = None

    # ---- what the engine asks

    @property
    def score_name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return f"fd_{self.measure.network.name}"

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
            "loss": self.loss_name,
            "latent_shape": list(self.generator.latent_shape),
            "conditional": self.conditional,
            "features": self.features,
            "num_samples": self.num_samples,
        }

    def multiply_adds(self) -> int:
        noise = sampling.latents(0, [0], self.generator.latent_shape)
        with evaluating(self.generator), FlopCounterMode(display=False) as counter:
            self.make_images(self.generator, noise, [0])
        return counter.get_total_flops() // 2

    def sources(
        self, splits: DataSplits, progress: Callable[[str, int, int], None] | None = None
    ) -> DataSplits:
        self.train = splits.train
        return splits

    def loss(
        self, phase: Phase, batch: Batch, context: StepContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        self.trouble.step = context.step + 1
        self.trouble.progress = context.progress
        real, labels = self._real(batch, context)
        if self.adversarial is None:
            return self._flow_loss(real, labels, context), {}
        return self.adversarial.loss(phase, real, labels, context)

    def decide(self, phase: Phase, logged: dict[str, Tensor], num_images: int) -> dict[str, Tensor]:
        del phase
        return self.adversarial.decide(logged, num_images) if self.adversarial else logged

    def state(self) -> dict[str, Any]:
        strength = self.adversarial and self.adversarial.strength
        return {**self.trouble.state(), "strength": strength.state() if strength else {}}

    def load_state(self, state: dict[str, Any]) -> None:
        self.trouble.load_state(state)
        if self.adversarial and self.adversarial.strength:
            self.adversarial.strength.load_state(state["strength"])

    # ---- losses

    def _real(self, batch: Batch, context: StepContext) -> tuple[Tensor, Tensor | None]:
        """Return real images in -1..1, and their classes where the generator knows classes."""
        images, targets = self.augment(
            batch.images,
            batch.targets,
            index=batch.index,
            epoch=context.epoch,
            generator=context.generator,
        )
        images = images.to(self.device, non_blocking=True).float().mul_(1 / 127.5).sub_(1.0)
        return images, targets.to(self.device) if self.conditional else None

    def _flow_loss(self, images: Tensor, labels: Tensor | None, context: StepContext) -> Tensor:
        """Return the flow-matching loss on straight lines from noise to images.

        Lipman et al. (2023), Liu et al. (2023).
        """
        labels = self._partly_hidden(labels, context)
        noise = sampling.drawn(tuple(images.shape), context.generator, self.device)
        draw = sampling.drawn((len(images),), context.generator, self.device)
        # Logit-normal: mostly in the middle, where it is hardest (Esser et al., 2024).
        time = torch.sigmoid(draw)
        part = time[:, None, None, None]

        with autocast(self.device, self.dtype):
            velocity = self.generator.velocity(torch.lerp(noise, images, part), time, labels)
        return (velocity.float() - (images - noise)).square().mean()

    def _partly_hidden(self, labels: Tensor | None, context: StepContext) -> Tensor | None:
        """Return the classes, some of them hidden as the network's `label_drop` says.

        The network then also learns what images of any class look like.
        """
        if labels is None or not self.generator.label_drop:
            return labels
        draw = torch.rand(
            len(labels), generator=context.generator, device=context.generator.device
        ).to(self.device)
        return torch.where(draw < self.generator.label_drop, self.generator.no_class, labels)

    # ---- making images

    @torch.no_grad()
    def make_images(self, network: nn.Module, noise: np.ndarray, labels: Sequence[int]) -> Tensor:
        """Return images (N, C, H, W) uint8 from noise (N, *latent_shape) and classes, if any."""
        classes = torch.as_tensor(list(labels), device=self.device) if self.conditional else None
        return sampling.to_pixels(network(torch.from_numpy(noise).to(self.device), classes))

    def samples(
        self, network: nn.Module, indices: Sequence[int], label: int | None = None
    ) -> np.ndarray:
        """Return images (N, H, W, C) uint8 of the fixed seed, of all classes in turn or `label`."""
        noise = sampling.latents(SAMPLE_SEED, indices, self.generator.latent_shape)
        classes = self.turns(indices) if label is None else [label] * len(indices)
        with evaluating(network):
            return self.make_images(network, noise, classes).permute(0, 2, 3, 1).cpu().numpy()

    def turns(self, indices: Sequence[int]) -> list[int]:
        """Return the class of each index: one after the other."""
        return [index % self.spec.num_classes for index in indices]

    def snapshot(self, network: nn.Module) -> np.ndarray:
        return sampling.grid(self.samples(network, range(SHOWN)), 8)

    # ---- measuring

    @property
    def measure(self) -> Measure:
        """The measure of generated images, created when it is first used."""
        if self._measure is None:
            self._measure = Measure(self.features, self.inception_weights, self.device)
        self._measure.train = self.train
        return self._measure

    def measure_by(
        self,
        train: ImageSource,
        features: str | None,
        inception_weights: str | None,
        progress: Progress | None = None,
    ) -> None:
        """Set the training images for the floor and, if given, features other than the run's.

        Raises:
            UserError: there are no such features.
        """
        self.train = train
        self.features = features or self.features
        self.inception_weights = inception_weights or self.inception_weights
        self._measure = Measure(
            self.features, self.inception_weights, self.device, progress=progress
        )

    def protocol(self) -> dict[str, str]:
        """Return how each distance is measured, in a sentence."""
        return self.measure.protocol()

    def evaluate(
        self,
        network: nn.Module,
        source: ImageSource,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Evaluation:
        count = min(self.num_samples, len(source))

        def make(indices: Sequence[int]) -> Tensor:
            noise = sampling.latents(SAMPLE_SEED, indices, self.generator.latent_shape)
            return self.make_images(network, noise, self.turns(indices))

        with evaluating(network):
            distances_found, probabilities = self.measure.figures(
                network, make, source, count, on_progress
            )
            figures: dict[str, Any] = {
                "num_images": count,
                "num_generated": count,
                **distances_found,
            }
            shown = torch.from_numpy(self.samples(network, range(min(256, count))))
        by = self.measure.network
        if probabilities is not None:
            asked = (
                self.turns(range(count))
                if self.conditional and by.class_names == self.spec.class_names
                else None
            )
            figures.update(class_figures(probabilities, by.class_names, asked))
        varied = distances.pairwise_distance(shown)
        alike = distances.pairwise_distance(source.take(drawn(source, min(256, count))).images)
        figures["diversity"] = varied / alike if alike else 1.0
        self.trouble.assess(figures, recall=figures[f"recall_{by.name}"])
        return Evaluation(figures)

    # ---- the end

    def summarise(
        self, evaluations: dict[str, Evaluation], sources: dict[str, ImageSource]
    ) -> Summary:
        network = self.generator
        generated = self.samples(network, range(SHOWN))
        train = self.train or sources["train"]
        near, distance = self._nearest(generated, train)
        test = sources["test"]
        usual = self._nearest(_pictures(test, drawn(test, min(SHOWN, len(test)))), train)[1]
        generated_far = float(np.median(distance))
        test_far = float(np.median(usual))
        nearness = generated_far / max(test_far, 1e-9)
        splits = {name: evaluation.figures for name, evaluation in evaluations.items()}
        recall = splits["test"][f"recall_{self.measure.network.name}"]
        word, why = verdict(splits["test"], recall=recall, nearness=nearness)
        evaluation = {
            "task": "generate",
            "splits": splits,
            "protocol": self.protocol(),
            "nearest": {"median_generated": generated_far, "median_test": test_far},
            "verdict": {"word": word, "text": f"{word}: {why} {self._sentence(splits['test'])}"},
            "warnings": [*self.warnings, *memorisation(nearness)],
        }
        header = ["index", "class", "nearest_training_image", "distance"]
        classes = [
            self.spec.class_names[k] if self.conditional else "" for k in self.turns(range(SHOWN))
        ]
        rows = [[i, classes[i], train.names[near[i]], f"{distance[i]:.4f}"] for i in range(SHOWN)]

        return Summary(
            evaluation, (header, rows), self._pictures(network, generated, near, test, train)
        )

    def _nearest(self, images: np.ndarray, train: ImageSource) -> tuple[np.ndarray, np.ndarray]:
        blocks = (train.take(index).images for index in torch.arange(len(train)).split(2000))
        return distances.nearest(torch.from_numpy(images).permute(0, 3, 1, 2), blocks)

    def _sentence(self, figures: dict[str, Any]) -> str:
        parts = []
        for name, title in ((self.score_name, "Fréchet distance"), ("fid", "FID")):
            if name in figures:
                floor = figures.get(f"{name}_floor")
                against = "" if floor is None else f"two sets of real images: {floor:.3g}; "
                parts.append(f"{title} {figures[name]:.3g} ({against}lower is better).")
        return " ".join(parts)

    def _pictures(
        self,
        network: nn.Module,
        generated: np.ndarray,
        near: np.ndarray,
        test: ImageSource,
        train: ImageSource,
    ) -> dict[str, list[dict[str, Any]]]:
        """Return the sheets that the report shows."""
        real = _pictures(test, self._like(test, range(SHOWN)))
        pairs = np.concatenate([generated[:8], _pictures(train, near[:8])])
        noise = sampling.path(SAMPLE_SEED, range(64), self.generator.latent_shape, 8)
        starts = [self.turns([i // 8])[0] for i in range(64)]
        with evaluating(network):
            ways = self.make_images(network, noise, starts).permute(0, 2, 3, 1).cpu().numpy()
        sheets = {
            "generated-4x4": (generated[:16], 4), "real-4x4": (real[:16], 4),
            "generated-8x8": (generated, 8), "real-8x8": (real, 8),
            "nearest": (pairs, 8), "interpolation": (ways, 8),
        }  # fmt: skip

        if self.conditional:
            rows = [
                self.samples(network, range(8), label)
                for label in range(min(20, self.spec.num_classes))
            ]
            sheets["classes"] = (np.concatenate(rows), 8)

        return {
            name: [{"file": f"{name}.png", "picture": sampling.grid(images, columns)}]
            for name, (images, columns) in sheets.items()
        }

    def _like(self, source: ImageSource, indices: Sequence[int]) -> Tensor:
        """Return positions of real images of the same classes, in the order of generated ones."""
        order = drawn(source, max(len(source), len(indices)))
        if not self.conditional:
            return order[: len(indices)]

        of_class: dict[int, list[int]] = {}
        for position, label in zip(order.tolist(), source.targets[order].tolist(), strict=True):
            of_class.setdefault(label, []).append(position)
        found = []
        for i, label in enumerate(self.turns(indices)):
            some = of_class.get(label) or order.tolist()
            found.append(some[i // self.spec.num_classes % len(some)])
        return torch.tensor(found)


def _pictures(source: ImageSource, index: Tensor | np.ndarray) -> np.ndarray:
    return source.take(torch.as_tensor(index)).images.permute(0, 2, 3, 1).cpu().numpy()
