"""Settings that only super-resolution has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from tintype.recipe import PLACE
from tintype.tasks.contract.options import WeightsOptions

# How far each property of a colour may be changed, as a share of its range.
MOST_JITTER = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.5}


class Options(WeightsOptions, nested=True):
    """The settings that super-resolution adds to a recipe."""

    from_scratch: ClassVar[Mapping[str, Any]] = {  # as t91-fast-x2, a quarter as long
        "model": "fast-sr",
        "steps": 3000,
        "batch_size": 16,
        "optimizer": "muon",
        "lr": 0.1,
        "schedule": "cosine",
        "ema": 0.999,
        "evaluate_every": 20,
    }

    scale: Literal[2, 3, 4, 8] = Field(
        default=2, description="Factor by which pictures are enlarged: 2, 3, 4 or 8."
    )
    patch: int = Field(
        default=96,
        description=(
            "Side of the training patches in pixels of the large photo, a multiple of scale."
        ),
    )
    colour: Literal["luma", "rgb"] = Field(
        default="luma",
        description="luma enlarges the brightness by the network and the colours by bicubic; rgb "
        "shows the network all three channels.",
    )
    loss: str | dict[str, float] = Field(
        default="l1",
        description="Loss: mse, l1, charbonnier, ssim or perceptual, or several with weights: "
        "{mse: 1, perceptual: 0.01}. adversarial needs another one beside it.",
    )
    symmetries: bool | Literal["flip"] = Field(
        default=True,
        description="Whether patches are mirrored and turned by quarters; flip mirrors them left "
        "to right only.",
    )
    colour_jitter: float | dict[str, float] = Field(
        default=0.0,
        description="How far brightness and contrast are changed, or {brightness: 0.2, contrast: "
        "0.2, saturation: 0.2, hue: 0.05}.",
    )
    degrade: Literal["bicubic", "photo"] = Field(
        default="bicubic",
        description="How small versions are made; photo adds blur, noise and JPEG, drawn for each "
        "patch.",
    )
    feature_network: str | None = Field(
        default=None, description="Network of the perceptual loss (default: vgg16)."
    )
    feature_layers: list[str] | None = Field(
        default=None, description="Layers of feature_network that the perceptual loss compares."
    )
    adversarial_from: float = Field(
        default=0.5,
        ge=0,
        lt=1,
        description="Part of the run that is trained without the adversarial loss, before it.",
    )
    discriminator_lr: float = Field(
        default=1.0, gt=0, description="Factor on the learning rate of the discriminator."
    )
    lpips: Annotated[str | None, PLACE] = Field(
        default=None,
        description="Network that LPIPS is measured on: alexnet, vgg16, squeezenet1_1, or a weight "
        "file (default: LPIPS is not measured).",
    )

    @field_validator("symmetries", mode="before")
    @classmethod
    def _known_symmetries(cls, symmetries: Any) -> Any:
        if symmetries not in (True, False, "flip"):
            raise ValueError("expected true, false, or flip for left to right only")
        return symmetries

    @field_validator("colour_jitter")
    @classmethod
    def _moderate_jitter(cls, jitter: float | dict[str, float]) -> float | dict[str, float]:
        for name, amount in jitter.items() if isinstance(jitter, dict) else [("", jitter)]:
            if name and name not in MOST_JITTER:
                raise ValueError(f"unknown colour '{name}', expected {', '.join(MOST_JITTER)}")

            most = MOST_JITTER.get(name, 1.0)
            if not 0 <= amount <= most:
                more = "" if name else ", or a mapping such as {brightness: 0.2, hue: 0.05}"
                raise ValueError(f"{name or 'it'} must lie between 0 and {most:g}{more}")

        return jitter
