"""What the JSON files of a regression hold besides what every run has."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from tintype.runs.shapes import Interval, Number, Sample, Shape, SplitName


class _Model(Shape):
    columns: list[str]
    target_mean: list[Number]
    target_deviation: list[Number]
    level: Number
    quantiles: list[Number | None]


class _Column(Shape):
    column: str
    mae: Number
    mae_ci95: Interval
    rmse: Number
    rmse_ci95: Interval
    r2: Number
    r2_ci95: Interval
    baseline_mae: Number
    baseline_mae_ci95: Interval
    relative_mae: Number
    relative_mae_ci95: Interval


class _Figures(Shape):
    mae: Number
    mae_ci95: Interval
    rmse: Number
    rmse_ci95: Interval
    r2: Number
    r2_ci95: Interval
    baseline_mae: Number
    relative_mae: Number
    spearman: Number
    per_column: list[_Column] | None = None


class _Coverage(Shape):
    column: str
    coverage: Number
    coverage_ci95: Interval
    mean_width: Number
    width_deciles: list[Number]


class _Intervals(Shape):
    level: Number
    quantiles: list[Number | None]
    num_calibrated: int
    num_needed: int
    test: list[_Coverage] | None = None


class _Evaluation(Shape):
    splits: dict[SplitName, _Figures]
    columns: list[str] | None = None
    intervals: _Intervals | None = None


class _Photo(Sample):
    targets: list[Number]
    predictions: list[Number]
    low: list[Number | None]
    high: list[Number | None]


class _Samples(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)
    __pydantic_extra__: dict[str, list[_Photo]]


SHAPES: dict[str, type[BaseModel]] = {
    "model.json": _Model,
    "evaluation.json": _Evaluation,
    "samples.json": _Samples,
}
