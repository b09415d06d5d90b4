"""Settings that only regression has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, field_validator

from tintype.own_code import Reference
from tintype.plugins import reference
from tintype.tasks.contract.options import ColourOptions, MeasuredOptions, TransferOptions

LOSSES = ("huber", "mse", "mae")


class Options(ColourOptions, TransferOptions, MeasuredOptions):
    """The settings that regression adds to a recipe."""

    needs_test: ClassVar[bool] = False
    takes_folds: ClassVar[bool] = True
    from_scratch: ClassVar[Mapping[str, Any]] = {
        "model": "fast-cnn",
        "augment": "light",
        "epochs": 60,
        "batch_size": 64,
        "optimizer": "muon",
        "lr": 0.1,
        "schedule": "linear",
    }

    columns: list[str] | None = Field(
        default=None,
        description="Columns of the CSV file that hold the numbers, such as age,height (default: "
        "value).",
    )
    pattern: str | None = Field(
        default=None,
        description="Where the names of the photos hold the numbers, such as '{age}_*.jpg'.",
    )
    loss: Reference = Field(
        default="huber",
        description="Loss: huber (smooth L1), mse (squared error), mae (absolute error), or one of "
        "your own, such as my_loss.py:pinball.",
    )
    level: float = Field(
        default=0.9,
        gt=0,
        lt=1,
        description="Part of new photos whose number lies in its predictive interval.",
    )
    angle: bool = Field(
        default=False,
        description="Whether the numbers are angles in the picture: flips negate them, and "
        "augmentations that turn it are refused.",
    )

    @property
    def needs_steps(self) -> str:
        least_squares = self.loss in ("huber", "mse")
        return super().needs_steps or ("" if least_squares else f"loss: {self.loss} is minimised")

    @field_validator("loss")
    @classmethod
    def _known_loss(cls, loss: str) -> str:
        if loss not in LOSSES and reference("losses", loss) is None:
            known = ", ".join(LOSSES)
            raise ValueError(f"expected {known}, or a file such as my_loss.py:pinball")
        return loss

    @field_validator("columns", mode="before")
    @classmethod
    def _by_commas(cls, columns: Any) -> Any:
        return (
            [part.strip() for part in columns.split(",")] if isinstance(columns, str) else columns
        )
