"""The objective of generator and discriminator, as the options of the task state it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from tintype.errors import UserError, unknown_name
from tintype.tasks import losses
from tintype.tasks.generate.diff_augment import OPERATIONS

OTHER_NAMES = {"wgan-gp": "wasserstein", "non-saturating": "bce", "saturating": "minimax"}


@dataclass(frozen=True)
class Objective:
    """The adversarial loss, the turns of the two networks, penalties and augmentation."""

    loss: str = ""
    discriminator_lr: float = 1.0
    discriminator_steps: int = 1
    generator_steps: int = 1
    r1: float = 0.0
    r2: float = 0.0
    gradient_penalty: float = 0.0
    penalty_every: int = 1
    diff_augment: Sequence[str] = ()
    ada: float | None = None

    @property
    def signed(self) -> bool:
        """Whether the sign of the discriminator's answer says "real" or "generated"."""
        return self.loss in losses.ADVERSARIAL and losses.ADVERSARIAL[self.loss].signed

    @property
    def paired(self) -> bool:
        """Whether the generator's loss reads the discriminator's answers to real images."""
        return self.loss in losses.ADVERSARIAL and losses.ADVERSARIAL[self.loss].paired

    @property
    def penalised(self) -> bool:
        return self.r1 > 0 or self.r2 > 0 or self.gradient_penalty > 0

    @property
    def needs_fakes(self) -> bool:
        return self.r2 > 0 or self.gradient_penalty > 0

    def checked(self, adversarial: bool) -> Objective:
        """Return the objective with its loss filled in.

        Raises:
            UserError: values that do not fit each other or the kind of model.
        """
        known = tuple(losses.ADVERSARIAL) if adversarial else ("flow",)
        loss = {"": known[0], **OTHER_NAMES}.get(self.loss, self.loss)
        if loss not in known:
            raise unknown_name("loss of this kind of model:", loss, known)

        idle = [
            f.name for f in fields(self) if f.name != "loss" and getattr(self, f.name) != f.default
        ]
        if idle and not adversarial:
            raise UserError(
                f"task.{idle[0]} concerns a discriminator, "
                "and flow matching has none. Leave it out."
            )

        for name in self.diff_augment:
            if name not in OPERATIONS:
                raise unknown_name("operation of diff_augment:", str(name), OPERATIONS)

        signed = [name for name, kind in losses.ADVERSARIAL.items() if kind.signed]
        if self.ada is not None and loss not in signed:
            raise UserError(
                "task.ada reads the sign of the discriminator's answers, which means nothing with "
                f"loss {loss}. Expected {', '.join(signed[:-1])} or {signed[-1]}."
            )

        gradient_penalty = (
            10.0 if self.loss == "wgan-gp" and not self.gradient_penalty else self.gradient_penalty
        )
        operations = self.diff_augment or (OPERATIONS if self.ada is not None else ())
        return replace(
            self,
            loss=loss,
            gradient_penalty=float(gradient_penalty),
            diff_augment=tuple(operations),
        )
