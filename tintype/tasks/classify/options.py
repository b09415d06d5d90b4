"""Settings that only classification has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from tintype.own_code import Reference
from tintype.plugins import reference
from tintype.tasks.contract.options import ColourOptions, MeasuredOptions, TransferOptions

LOSSES = ("cross-entropy",)

DEFAULT = True  # the task of a recipe, a data set or a network that names none


class Options(ColourOptions, TransferOptions, MeasuredOptions):
    """The settings that classification adds to a recipe."""

    new_runs: ClassVar[Mapping[str, Any]] = {"flips": "auto"}
    from_scratch: ClassVar[Mapping[str, Any]] = {
        "model": "fast-cnn",
        "tune": "all",
        "augment": "standard",
        "epochs": 30,
        "batch_size": 64,
        "optimizer": "muon",
        "lr": 0.24,
        "momentum": 0.6,
        "schedule": "linear",
        "label_smoothing": 0.1,
        "tta": "flip",
    }
    data_set: ClassVar[Mapping[str, Any]] = {  # as the recipes of small images
        "model": "fast-cnn",
        "augment": "light",
        "epochs": 8,
        "batch_size": 256,
        "optimizer": "muon",
        "lr": 0.24,
        "momentum": 0.6,
        "schedule": "linear",
        "label_smoothing": 0.1,
    }
    usual_solver: ClassVar[str] = "exact"
    needs_test: ClassVar[bool] = False
    takes_folds: ClassVar[bool] = True
    lends_network: ClassVar[bool] = True

    loss: Reference = Field(
        default="cross-entropy",
        description="Loss: cross-entropy, or one of your own, such as my_loss.py:focal.",
    )
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=1, description="Part of the target that is spread over all classes."
    )
    one_hot: bool = Field(
        default=False,
        description="Whether targets are one-hot vectors; the result is the same as with integers.",
    )
    class_weights: Literal["balanced"] | list[float] | None = Field(
        default=None, description="Weight of each class in the loss: balanced, or a list."
    )
    resolutions: list[tuple[float, int]] = Field(
        default=[],
        description=(
            "Side of the images in pixels, from a part of the run on: [[0, 20], [0.5, 32]]."
        ),
    )
    hardest: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Part of each batch that is trained on: the images with the largest loss.",
    )
    tta: Literal["none", "flip", "flip-shift"] = Field(
        default="none", description="Views of an image that are averaged when predicting."
    )
    interpolate: bool = Field(
        default=False,
        description="Whether validation chooses how much of the fine-tuning to keep, on the line "
        "from the head on the frozen network to the fine-tuned network.",
    )
    flips: Literal["as-stated", "auto"] = Field(
        default="as-stated",
        description="auto leaves out flips that would change the class of a photo. This is decided "
        "before training, and recorded.",
    )

    @property
    def needs_steps(self) -> str:
        own = "" if self.loss in LOSSES else "a loss of your own may have any form"
        return own or super().needs_steps

    @field_validator("loss")
    @classmethod
    def _known_loss(cls, loss: str) -> str:
        if loss not in LOSSES and reference("losses", loss) is None:
            raise ValueError(f"expected {' or '.join(LOSSES)}, or a file such as my_loss.py:focal")
        return loss

    def idle(self) -> Mapping[str, str]:
        found = {}
        if self.loss not in LOSSES:
            why = "a loss of your own sees the targets as they are"
            found = {"label_smoothing": why, "class_weights": why}
        if self.tune == "head":
            found["interpolate"] = "tune: head leaves the rest of the network as it was"
            found["hardest"] = "tune: head trains on all images of a batch"
        return found

    @field_validator("resolutions")
    @classmethod
    def _rising_parts(cls, resolutions: list[tuple[float, int]]) -> list[tuple[float, int]]:
        starts = [start for start, _ in resolutions]
        rise = starts == sorted(set(starts)) and all(0 <= start < 1 for start in starts)
        if not rise or (starts and starts[0] != 0):
            raise ValueError(
                "must begin with part 0 and rise, each part below 1, as in [[0, 20], [0.5, 32]]"
            )
        return resolutions
