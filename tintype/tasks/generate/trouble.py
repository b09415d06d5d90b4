"""Trouble in training a generator: saturation, collapse, little variety, memorisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tintype.tasks.generate.objective import Objective

ENOUGH = 20  # turns of the discriminator that say something about it
EARLY = 0.1  # of the run: before, all images are alike
COLLAPSED = 0.6  # difference among generated images as a part of that among real ones
RARE = 0.02  # of the real images that generated ones come near
MISSING = 0.05  # of the classes that are hardly made
COPIED = 0.5  # distance to the nearest training image as a part of that of test images
RELATIVISTIC = "--set task.loss=relativistic --set task.r1=1 --set task.r2=1"


class Trouble:
    """Watch the discriminator's answers and the validation figures; warn once per kind of trouble.

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
        self.step = 0
        self.progress = 1.0
        self.warnings: list[str] = []
        self._right: float | Tensor = 0.0  # a sum that stays on the device until it is asked for
        self._turns = 0

    def see(self, share_right: Tensor) -> None:
        """Record the share (0..1, a scalar) that the discriminator got right in a turn."""
        self._right = self._right + share_right.detach()
        self._turns += 1

    def assess(self, figures: dict[str, Any], *, recall: float) -> None:
        """Warn about trouble in the turns since the last call, or in new figures."""
        right = float(self._right) / max(1, self._turns)
        mixing = self.options.get("norm") == "batch"
        without = "--set model.norm=none " if mixing else ""  # what a penalty needs
        if mixing and self.objective.penalised:
            self._warn(
                "penalty: it concerns the gradient at single images, and batch norm mixes the "
                "images of a batch. Try --set model.norm=none."
            )
        if self.objective.signed and self._turns >= ENOUGH and right > 0.98:
            self._warn(
                f"discriminator: right {right:.1%} of the time, "
                "so the generator learns little from it. "
                + self._try(
                    "--set task.loss=bce" if self.objective.loss == "minimax" else "",
                    ""
                    if self.objective.diff_augment
                    else "--set task.diff_augment=[translation,cutout]",
                    "" if self.objective.penalised else f"{without}--set task.r1=1",
                    f"--set task.discriminator_lr={self.objective.discriminator_lr / 2:g}",
                )
            )

        self._right = 0.0
        self._turns = 0
        if not self.step or self.progress < EARLY:
            return

        variety = self._try(
            without + RELATIVISTIC if self.objective.loss not in ("relativistic", "flow") else "",
            "--set model.minibatch=stddev" if self.options.get("minibatch") == "none" else "",
        )
        if figures["diversity"] < COLLAPSED:
            self._warn(
                "mode collapse: generated images differ from each other "
                f"{figures['diversity']:.0%} as much as real ones. " + variety
            )
        if recall < RARE:
            self._warn(
                f"little variety: generated images come near {recall:.1%} "
                f"of the real ones only. {variety}"
            )

        missing = _missing(figures)
        if missing:
            self._warn(
                f"missing classes: {len(missing)} of {len(figures['class_shares'])} classes are "
                f"hardly made ({', '.join(missing[:5])}). "
                + self._try(
                    "--set model.conditional=true"
                    if self.options.get("conditional") is False
                    else ""
                )
            )

    def _try(self, *remedies: str) -> str:
        return f"Try {', or '.join(filter(None, (*remedies, 'longer training')))}."

    def _warn(self, line: str) -> None:
        kind = line.split(":")[0]
        if not any(f" {kind}:" in earlier for earlier in self.warnings):
            self.warnings.append(f"step {self.step:,}: {line}")

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        return {
            "num_right": float(self._right), "num_judged": self._turns, "step": self.step,
            "warnings": list(self.warnings),
        }  # fmt: skip

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        self._right = state["num_right"]
        self._turns = state["num_judged"]
        self.step = state["step"]
        self.warnings = list(state["warnings"])


def memorisation(nearness: float) -> list[str]:
    """Return a warning if generated images lie much closer to training images than test images do.

    Args:
        nearness: median distance of generated images to the nearest training image, as a part of
            that of test images.
    """
    if nearness >= COPIED:
        return []
    return [
        f"memorisation: generated images are {nearness:.0%} as far from the nearest training image "
        "as test images are. Train shorter, on more images, or with --augment flip."
    ]


def verdict(figures: Mapping[str, Any], *, recall: float, nearness: float) -> tuple[str, str]:
    """Return a word for what a generator does, and the figures behind it.

    The first that holds: it *memorises* (images lie less than half as far from the nearest training
    image as test images do), *collapses* (they differ from each other less than 60 % as much as
    real ones), *misses classes* (more than 5 % of them have less than a tenth of their share),
    *lacks variety* (recall below 2 %); else it *varies*. Only the
    distances say how good its images are.

    Args:
        figures: on the test split: `diversity`, and `class_shares` with `classes_present` where a
            classifier measured.
        recall: share of the real images that generated ones come near (Kynkaanniemi et al. 2019).
        nearness: as in `memorisation`.
    """
    shares = figures.get("class_shares")
    rules = {
        "memorises": nearness < COPIED,
        "collapses": figures["diversity"] < COLLAPSED,
        "misses classes": bool(_missing(figures)),
        "lacks variety": recall < RARE,
    }
    classes = f", showing {figures['classes_present']} of {len(shares)} classes" if shares else ""
    copies = "copies of training images" if nearness < COPIED else "no copies of training images"
    why = (
        f"{figures['diversity']:.0%} as diverse as real images, resembling {recall:.0%} of "
        f"them{classes}, and {copies} "
        f"({nearness:.0%} as far from the nearest one as test images are)."
    )

    return next((word for word, holds in rules.items() if holds), "varies"), why


def _missing(figures: Mapping[str, Any]) -> list[str]:
    """Return the classes that are hardly made, the rarest first, where they are more than a few."""
    shares = figures.get("class_shares", {})
    count = len(shares) - figures["classes_present"] if shares else 0
    return (
        sorted(shares, key=lambda name: shares[name])[:count]
        if count > MISSING * len(shares)
        else []
    )
