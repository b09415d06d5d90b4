"""Settings that only generation has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from tintype.recipe import PLACE
from tintype.tasks.contract.options import ColourOptions


class Options(ColourOptions, nested=True):
    """The settings that generation adds to a recipe."""

    from_scratch: ClassVar[Mapping[str, Any]] = {  # as faces-gan
        "model": "fast-gan",
        "augment": {"flip": True},
        "steps": 5000,
        "batch_size": 32,
        "optimizer": "adam",
        "lr": 4e-4,
        "betas": (0.5, 0.999),
        "schedule": "cosine",
        "ema": 0.999,
        "evaluate_every": 20,
    }

    loss: str | None = Field(
        default=None,
        description="Adversarial loss: bce, minimax, hinge, wgan-gp or relativistic; flow for "
        "flow matching (default: the first that the network can take).",
    )
    discriminator_lr: float = Field(
        default=1.0, ge=0, description="Factor on the learning rate of the discriminator."
    )
    discriminator_steps: int = Field(
        default=1, ge=1, description="Steps of the discriminator in a row."
    )
    generator_steps: int = Field(default=1, ge=1, description="Steps of the generator in a row.")
    r1: float = Field(
        default=0.0, ge=0, description="Weight of the gradient penalty on real images."
    )
    r2: float = Field(
        default=0.0, ge=0, description="Weight of the gradient penalty on generated images."
    )
    gradient_penalty: float = Field(
        default=0.0, ge=0, description="Weight of WGAN-GP's penalty (default with wgan-gp: 10)."
    )
    penalty_every: int = Field(
        default=1,
        ge=1,
        description="Turns of the discriminator from one penalty to the next (lazy "
        "regularisation).",
    )
    diff_augment: str | list[str] = Field(
        default=[],
        description="Augmentation of real and generated images alike: colour, translation, cutout.",
    )
    ada: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Target, usually 0.6, by which the probability of diff_augment is adapted.",
    )
    features: Annotated[str | None, PLACE] = Field(
        default=None,
        description="Network whose features distances are measured on: the run folder of a "
        "classifier, a weight file, or efficientnet_lite0 (default: pixels).",
    )
    inception_weights: Annotated[str | None, PLACE] = Field(
        default=None, description="Weight file for FID by the standard protocol, or download."
    )
    num_samples: int = Field(
        default=10_000,
        ge=5,
        le=1_000_000,
        description="Images that are generated to be measured.",
    )
