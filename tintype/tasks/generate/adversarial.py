"""Losses and turns of a GAN's two networks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tintype.hardware.device import autocast
from tintype.tasks import losses
from tintype.tasks.generate import sampling
from tintype.tasks.generate.diff_augment import AdaptiveStrength, diff_augment
from tintype.tasks.generate.objective import Objective
from tintype.tasks.generate.trouble import Trouble
from tintype.tasks.task import Phase, StepContext

SIGNS = "signs"  # of the logits of real images, for `Adversarial.decide`


class Adversarial:
    """The losses of "generator" and "discriminator", and the penalties between them.

    They alternate: the generator is judged by the discriminator that has just learned from the same
    images. With the turns the other way round both would follow each other's state of the step
    before, and MNIST collapsed (docs/log.md).

    Attributes:
        phases: the turns: discriminator, its penalty where it is lazy, generator.
        strength: how often images are augmented for the discriminator, where that adapts itself
            (ADA).
    """

    def __init__(
        self,
        networks: dict[str, nn.Module],
        objective: Objective,
        trouble: Trouble,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.networks = networks
        self.objective = objective
        self.trouble = trouble
        self.device = device
        self.dtype = dtype
        self.strength = AdaptiveStrength(objective.ada) if objective.ada is not None else None
        self.phases = _turns(objective)
        # images of the discriminator's turn, for the generator's
        self._made: tuple[int, list[Tensor]] = (-1, [])

    def loss(
        self, phase: Phase, real: Tensor, labels: Tensor | None, context: StepContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a turn on real images (N, C, H, W) in -1..1, and scalars to log."""
        if phase.name == "penalty":
            fake = self._fake(labels, len(real), context) if self.objective.needs_fakes else None
            return self._penalty(real, fake, labels, context)[0] * self.objective.penalty_every, {}
        if phase.name == "discriminator":
            return self._discriminator_loss(real, labels, context)
        return self._generator_loss(real, labels, context), {}

    def _fake(self, labels: Tensor | None, count: int, context: StepContext) -> Tensor:
        generator = self.networks["generator"]
        shape = (count, *generator.latent_shape)  # pyright: ignore
        noise = sampling.drawn(shape, context.generator, self.device)
        with autocast(self.device, self.dtype):
            return generator(noise, labels).float()

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
            discriminator = self.networks["discriminator"]
            with autocast(self.device, self.dtype):
                real_logits = discriminator(self._changed(real, context), labels)
                fake_logits = discriminator(self._changed(fake, context), labels)

        loss = losses.discriminator_loss(self.objective.loss, real_logits, fake_logits) + penalty
        right = self._share_right(real_logits.detach(), fake_logits.detach())
        logged = {"discriminator_accuracy": right}
        if context.parts > 1:  # `decide` sees them all
            return loss, {**logged, SIGNS: real_logits.detach().float().sign().mean()}

        if self.strength:
            self.strength.see(real_logits)
        self.trouble.see(right)
        return loss, {**logged, **self._strength_logged()}

    def decide(self, logged: dict[str, Tensor], num_images: int) -> dict[str, Tensor]:
        """Watch what all parts of a batch have shown the discriminator, and adapt the strength."""
        if SIGNS not in logged:
            return logged
        signs = logged.pop(SIGNS) * num_images
        if self.strength:
            self.strength.count_signs(signs, num_images)
        self.trouble.see(logged["discriminator_accuracy"])
        return {**logged, **self._strength_logged()}

    def _strength_logged(self) -> dict[str, Tensor]:
        if not self.strength:
            return {}
        return {"augment_probability": torch.tensor(self.strength.probability)}

    def _fake_for_both(self, labels: Tensor | None, count: int, context: StepContext) -> Tensor:
        """Return images for the discriminator's turn.

        If the generator's turn follows, they are kept with their graph, which saves a pass.
        """
        if context.step % self.objective.discriminator_steps:
            return self._fake(labels, count, context)
        with _tracked(self.networks["generator"]):
            made = self._fake(labels, count, context)
        earlier = self._made[1] if self._made[0] == context.step else []
        self._made = (context.step, [*earlier, made])
        return made.detach()

    def _made_before(self, context: StepContext) -> Tensor | None:
        """Return images that the discriminator's turn of this step has made, if any are left."""
        step, made = self._made
        return made.pop(0) if step == context.step and made else None

    def _share_right(self, real: Tensor, fake: Tensor) -> Tensor:
        if self.objective.signed:
            return ((real > 0).float().mean() + (fake < 0).float().mean()) / 2
        return (real > fake).float().mean()  # these losses leave open where zero is

    def _penalty(
        self, real: Tensor, fake: Tensor | None, labels: Tensor | None, context: StepContext
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the gradient penalty and the discriminator's logits of real and generated images.

        Computed in float32.
        """
        objective = self.objective
        # Called as `forward`, which torch.compile leaves alone: compiled code has no second
        # derivative.
        discriminator = self.networks["discriminator"].forward
        real = self._changed(real, context).detach().requires_grad_()

        fake = None if fake is None else self._changed(fake, context).detach().requires_grad_()
        with torch.autocast(self.device.type, enabled=False):
            real_logits = discriminator(real, labels)
            fake_logits = None if fake is None else discriminator(fake, labels)
            total = real_logits.new_zeros(())
            if objective.r1:
                total = total + objective.r1 / 2 * losses.squared_gradient(real, real_logits).mean()
            if objective.r2 and fake is not None and fake_logits is not None:
                total = total + objective.r2 / 2 * losses.squared_gradient(fake, fake_logits).mean()
            if objective.gradient_penalty and fake is not None:
                part = torch.rand(
                    len(real), 1, 1, 1, generator=context.generator, device=context.generator.device
                )
                mixed = torch.lerp(
                    real.detach(), fake.detach(), part.to(self.device)
                ).requires_grad_()
                total = total + objective.gradient_penalty * losses.length_penalty(
                    mixed, discriminator(mixed, labels)
                )

        return total, real_logits, fake_logits

    def _generator_loss(self, real: Tensor, labels: Tensor | None, context: StepContext) -> Tensor:
        discriminator = self.networks["discriminator"]
        made = self._made_before(context)
        made = self._fake(labels, len(real), context) if made is None else made
        with autocast(self.device, self.dtype):
            fake_logits = discriminator(self._changed(made, context), labels)
            real_logits = None
            if self.objective.paired:
                real_logits = discriminator(self._changed(real, context), labels)

        return losses.generator_loss(self.objective.loss, real_logits, fake_logits)


def _turns(objective: Objective) -> list[Phase]:
    scale = objective.discriminator_lr
    phases = [Phase("discriminator", "discriminator", objective.generator_steps, scale)]
    if objective.penalised and objective.penalty_every > 1:
        every = objective.penalty_every * objective.generator_steps  # of the discriminator's turns
        phases.append(Phase("penalty", "discriminator", every, scale))
    phases.append(Phase("generator", "generator", objective.discriminator_steps))
    return phases


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
