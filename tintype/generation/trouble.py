"""What goes wrong in generation and shows while it trains: saturation, collapse, little variety; memorisation at the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tintype.generation.objective import Objective

SATURATING = ("bce", "hinge")  # relativistic and Wasserstein losses keep a gradient where all pairs are in order
ENOUGH = 20  # turns of the discriminator that say something about it
EARLY = 0.1  # of the run: before, all images are alike
RELATIVISTIC = "--set task.loss=relativistic --set task.r1=1 --set task.r2=1"


class Trouble:
    """Watches the discriminator's answers and the figures on validation, and warns once of each kind of trouble.

    Args:
        objective: what the networks are trained for: no remedy is named that is in use.

    Attributes:
        options: of the model, each with its value: no remedy is named that it does not have.
        step: steps done.
        progress: 0..1 of the run.
        warnings: what was noticed, each with its step and what to try.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.options: Mapping[str, Any] = {}
        self.step, self.progress = 0, 1.0
        self.warnings: list[str] = []
        self._right: float | Tensor = 0.0  # a sum that stays on the device until it is asked for
        self._turns = 0

    def see(self, share_right: Tensor) -> None:
        """Take into account in which share (0..1, a scalar) of the cases the discriminator was right in one of its turns."""
        self._right = self._right + share_right.detach()
        self._turns += 1

    def judge(self, figures: dict[str, Any], *, recall: float) -> None:
        """Note trouble that the discriminator's turns since the last time, or the figures of an evaluation, show."""
        right = float(self._right) / max(1, self._turns)
        mixing = self.options.get("norm") == "batch"
        without = "--set model.norm=none " if mixing else ""  # what a penalty needs
        if mixing and self.objective.penalised:
            self._warn(
                "penalty: it is about the gradient at single images, and batch norm mixes those of a batch. "
                "Try --set model.norm=none."
            )
        if self.objective.loss in SATURATING and self._turns >= ENOUGH and right > 0.98:
            self._warn(
                f"discriminator: right in {right:.1%} of the cases, so the generator is told little. "
                + self._try(
                    "" if self.objective.diff_augment else "--set task.diff_augment=[translation,cutout]",
                    "" if self.objective.penalised else f"{without}--set task.r1=1",
                    f"--set task.discriminator_lr={self.objective.discriminator_lr / 2:g}",
                )
            )
        self._right, self._turns = 0.0, 0
        if not self.step or self.progress < EARLY:
            return
        variety = self._try(
            without + RELATIVISTIC if self.objective.loss not in ("relativistic", "flow") else "",
            "--set model.minibatch=stddev" if self.options.get("minibatch") == "none" else "",
        )
        if figures["diversity"] < 0.6:
            self._warn(
                f"mode collapse: generated images differ from each other {figures['diversity']:.0%} as much as real ones. "
                + variety
            )
        if recall < 0.02:
            self._warn(f"little variety: generated images come near {recall:.1%} of the real ones only. {variety}")
        shares = figures.get("class_shares", {})
        if shares and len(shares) - figures["classes_present"] > 0.05 * len(shares):
            missing = sorted(shares, key=lambda name: shares[name])[: len(shares) - figures["classes_present"]]
            self._warn(
                f"missing classes: {len(missing)} of {len(shares)} classes are hardly made ({', '.join(missing[:5])}). "
                + self._try("--set model.conditional=true" if self.options.get("conditional") is False else "")
            )

    def _try(self, *remedies: str) -> str:
        return f"Try {', or '.join(filter(None, (*remedies, 'longer training')))}."

    def _warn(self, line: str) -> None:
        kind = line.split(":")[0]
        if not any(f" {kind}:" in told for told in self.warnings):
            self.warnings.append(f"step {self.step:,}: {line}")

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        return {
            "num_right": float(self._right), "num_judged": self._turns, "step": self.step, "warnings": list(self.warnings),
        }  # fmt: skip

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        self._right, self._turns, self.step = state["num_right"], state["num_judged"], state["step"]
        self.warnings = list(state["warnings"])


def memorisation(generated: float, usual: float) -> list[str]:
    """Return a warning where generated images lie much nearer to training images than test images do.

    Args:
        generated: median distance of generated images to the nearest training image.
        usual: the same of test images.
    """
    if generated >= 0.5 * usual:
        return []
    return [
        f"memorisation: generated images are {generated / max(usual, 1e-9):.0%} as far from the nearest training image as "
        "test images are. Train shorter, on more images, or with --augment flip."
    ]
