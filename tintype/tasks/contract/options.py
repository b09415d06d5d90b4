"""Settings that several tasks have, in classes that their options inherit from."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from tintype.own_code import as_list, is_own
from tintype.recipe import TaskOptions


class ColourOptions(TaskOptions):
    """Settings of a task that prepares its images in grey or in colour."""

    channels: Literal[1, 3] | None = Field(
        default=None, description="Channels: 1 for grey, 3 for colour (default: as the images are)."
    )


class WeightsOptions(TaskOptions):
    """Settings of a task in which a network may begin with weights that exist."""

    weights: str | None = Field(
        default=None,
        description="Weights to start from: default (downloaded once), a file, an earlier run, or "
        "none (from scratch).",
    )


class MeasuredOptions(TaskOptions):
    """Settings of a task whose answers the user may measure by figures of their own."""

    metrics: list[str] = Field(
        default=[],
        description="Figures of your own on validation and test: functions of answers and targets, "
        "such as my_metrics.py:kappa.",
    )

    @field_validator("metrics", mode="before")
    @classmethod
    def _own_metrics(cls, metrics: Any) -> Any:
        return as_list(metrics)

    @field_validator("metrics")
    @classmethod
    def _references(cls, metrics: list[str]) -> list[str]:
        for name in metrics:
            if not is_own(name):
                raise ValueError("expected functions such as my_metrics.py:kappa")
        return metrics


class TransferOptions(WeightsOptions):
    """Settings of a task that fits a pretrained backbone to new images.

    Attributes:
        usual_solver: how a head is found where nobody has said it.
    """

    usual_solver: ClassVar[str] = "steps"

    normalise: Literal["none", "scale", "mean-std"] | None = Field(
        default=None,
        description="Pixels as they are (none), divided by 255 (scale), or also centred (mean-std) "
        "(default: the backbone's own, or mean-std).",
    )
    tune: str = Field(
        default="all",
        description="Part of a backbone that is trained: head, last:N (stages), all, or auto (by "
        "the number of images and the time).",
    )
    solver: Literal["steps", "exact"] = Field(
        default="steps",
        description="With tune: head, whether the head is trained in steps, or linear heads are "
        "fitted exactly and cross-validation chooses one.",
    )
    head: list[int] = Field(
        default=[],
        description="Widths of the hidden layers of a new head; none gives a linear head.",
    )
    views: int = Field(
        default=0,
        ge=0,
        le=64,
        description="Augmented copies of each image, beside the image itself, with tune: head.",
    )
    layer_decay: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Factor on the learning rate from each stage of a backbone to the one before.",
    )
    unfreeze: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Part of the run in which the stages thaw one by one, the last stage first.",
    )
    freeze_norm: bool = Field(
        default=True,
        description="Whether batch norm in a pretrained backbone keeps its statistics.",
    )

    @property
    def without_steps(self) -> bool:
        fitted = self.solver == "exact" and self.tune == "head"
        return fitted and self.weights not in (None, "none")

    @property
    def needs_steps(self) -> str:
        """Why a head cannot be fitted exactly; empty where it can be."""
        return f"head: {self.head} has hidden layers" if self.head else ""

    @field_validator("tune")
    @classmethod
    def _known_tune(cls, tune: str) -> str:
        kind, _, count = tune.partition(":")
        last = kind == "last" and count.isdigit() and int(count) > 0
        if tune not in ("head", "all", "auto") and not last:
            raise ValueError("expected head, last:N (as in last:2), all or auto")
        return tune
