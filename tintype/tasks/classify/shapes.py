"""What the JSON files of a classifier hold besides what every run has."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tintype.runs.shapes import (
    MOST,
    Count,
    Interval,
    Number,
    Positive,
    Sample,
    Shape,
    Share,
    SplitName,
    missing_key,
    same_length,
)


class Threshold(Shape):
    accuracy: Share
    threshold: Number | None


class _Model(Shape):
    class_names: Annotated[list[str], Field(min_length=1)]
    tta: str | None
    temperature: Annotated[float, Field(gt=0, le=MOST)] | None = None
    abstain: Annotated[list[Threshold], Field(default_factory=list)]


class _OfClass(Shape):
    name: str
    precision: Share | None
    recall: Share | None
    f1: Share | None
    support: Count


class _Pair(Shape):
    target: str
    prediction: str
    count: Count
    share: Share


class _Bin(Shape):
    low: Number
    high: Number
    count: Count
    confidence: Number | None
    accuracy: Number | None


class _OfCalibration(Shape):
    loss_before: Number
    loss_after: Number
    ece_before: Number
    ece_after: Number


class _Calibration(Shape):
    temperature: Number
    reason: str | None = None
    splits: dict[str, _OfCalibration]
    reliability: dict[str, list[_Bin]]


class _Answered(Shape):
    num_images: Count
    num_answered: Count
    num_correct: Count
    coverage: Share
    coverage_ci95: Interval | None = None
    accuracy: Share | None
    accuracy_ci95: Interval | None


class _Abstain(Threshold):
    val: _Answered | None = None
    test: _Answered | None = None


class _Figures(Shape):
    accuracy: Share
    accuracy_ci95: Interval
    macro_f1: Share
    loss: Number
    expected_calibration_error: Share
    top5_accuracy: Share | None = None
    top5_accuracy_ci95: Interval | None = None
    balanced_accuracy: Share | None = None
    calibration_error: Share | None = None
    calibration_error_if_perfect: Share | None = None
    without_leaked: _Figures | None = None
    without_seen: _Figures | None = None


class _Evaluation(Shape):
    splits: dict[SplitName, _Figures]
    calibration: _Calibration | None = None
    per_class: dict[SplitName, list[_OfClass]] | None = None
    confusion: dict[SplitName, list[list[Count]]] | None = None
    most_confused: dict[SplitName, list[_Pair]] | None = None
    reliability: dict[SplitName, list[_Bin]] | None = None
    abstain: list[_Abstain] | None = None

    @model_validator(mode="after")
    def _square(self) -> Self:
        for split, matrix in (self.confusion or {}).items():
            if any(len(row) != len(matrix) for row in matrix):
                raise ValueError(f"confusion.{split}: expected as many columns as rows")
        return self


class _Answer(Sample):
    target: str | None = None
    prediction: str | None = None
    confidence: Number | None = None
    correct: bool | None = None


class _Samples(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)
    __pydantic_extra__: dict[str, list[_Answer]]


class _OfPair(Shape):
    target: str
    prediction: str
    count: Count
    share: Share
    mistakes: list[_Answer]
    of_target: list[_Answer]
    of_prediction: list[_Answer]


class _Neighbour(_Answer):
    similarity: Number | None = None
    same: bool | None = None


class _Mistake(_Answer):
    heat: str | None = None
    neighbours: list[_Neighbour] | None = None


class _Worst(Shape):
    items: list[_Mistake]
    layer: str | None = None
    num_searched: Count | None = None


class _Slice(Shape):
    low: Number
    high: Number
    num_images: Count
    num_wrong: Count
    error_rate: Share
    error_rate_ci95: Interval


class _Attribute(Shape):
    name: str
    bins: list[_Slice]
    p: Share | None = None
    p_holm: Share | None = None
    significant: bool | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.significant or self.p is not None) and self.p_holm is None:
            raise missing_key("p_holm")
        return self


class _Slices(Shape):
    num_images: Count | None = None
    num_wrong: Count | None = None
    attributes: list[_Attribute]


class _Sheet(Shape):
    file: str
    columns: Positive
    count: Count
    width: Positive
    height: Positive


class _Map(Shape):
    method: str
    share_of_variance: list[Number] | None = None
    num_images: Count | None = None
    x: list[Number]
    y: list[Number]
    position: list[Count] | None = None
    target: list[Count]
    prediction: list[Count]
    confidence: list[Number]
    name: list[str] | None = None
    thumbnail: list[int] | None = None
    sheet: _Sheet | None = None

    @model_validator(mode="after")
    def _aligned(self) -> Self:
        same_length(self, "x", "y", "position", "target", "prediction", "confidence", "thumbnail")
        return self


class _Curve(Shape):
    coverage: list[Share]
    accuracy: list[Share]
    threshold: list[Number]
    num_answered: list[Count] | None = None

    @model_validator(mode="after")
    def _aligned(self) -> Self:
        same_length(self, "coverage", "accuracy", "threshold", "num_answered")
        return self


class _Analysis(Shape):
    pairs: list[_OfPair] | None = None
    worst: _Worst | None = None
    slices: _Slices | None = None
    map: _Map | None = None
    risk_coverage: dict[SplitName, _Curve] | None = None


SHAPES: dict[str, type[BaseModel]] = {
    "model.json": _Model,
    "evaluation.json": _Evaluation,
    "samples.json": _Samples,
    "analysis.json": _Analysis,
}
