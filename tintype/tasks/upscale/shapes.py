"""What the JSON files of super-resolution hold besides what every run has."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator

from tintype.runs.shapes import (
    Count,
    Interval,
    Number,
    Sample,
    Shape,
    SplitName,
    short_repr,
)


class _Model(Shape):
    scale: Any
    degrade: Any


class _OfEnlarged(Shape):
    psnr_y: Number
    ssim_y: Number


class _Figures(Shape):
    psnr_y: Number
    ssim_y: Number
    bicubic: _OfEnlarged
    nearest: _OfEnlarged
    gain: Number
    gain_ci95: Interval | None = None

    @model_validator(mode="after")
    def _numbers(self) -> Self:
        for name, value in (self.model_extra or {}).items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if name.startswith("lpips_") and not is_number:
                raise ValueError(f"{name}: expected a number, found {short_repr(value)}")
        return self


class _Evaluation(Shape):
    splits: dict[SplitName, _Figures]
    scale: Count | None = None


class _Photo(Sample):
    psnr_y: Number | None = None
    ssim_y: Number | None = None
    bicubic_psnr_y: Number | None = None
    bicubic_ssim_y: Number | None = None


class _Samples(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)
    __pydantic_extra__: dict[str, list[_Photo]]


SHAPES: dict[str, type[BaseModel]] = {
    "model.json": _Model,
    "evaluation.json": _Evaluation,
    "samples.json": _Samples,
}
