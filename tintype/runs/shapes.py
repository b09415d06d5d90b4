"""What the JSON files of a run hold, described where they are read: a run folder may come from somebody else.

Only what tintype reads is described; other keys pass, so that files of earlier and later versions
do.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from tintype.errors import UserError

FORMAT = 1  # of model.json

MOST = 10**15  # of a number in a file; a double holds whole numbers to that exactly
MOST_SIZE = 100_000  # of a number among the options of a network: sides, channels, layers

# What code raises that is given a value of another kind. For what no description can foresee, such
# as options of a network that do not go together; caught where a file becomes an object, never
# around a command.
MISFIT = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)

Count = Annotated[int, Field(ge=0, le=MOST)]
Positive = Annotated[int, Field(ge=1, le=MOST_SIZE)]
Number = Annotated[float, Field(ge=-MOST, le=MOST)]
Share = Annotated[float, Field(ge=0, le=1)]
Interval = Annotated[list[Number], Field(min_length=2, max_length=2)]
Plain = str | int | float | bool | None
SplitName = Literal["train", "val", "test"]


_EXPECTED = {
    "model_type": "a mapping", "dict_type": "a mapping", "list_type": "a list", "string_type": "a text",
    "int_type": "a whole number", "int_from_float": "a whole number", "float_type": "a number", "bool_type": "true or false",
    "finite_number": "a finite number",
}  # fmt: skip


def _missing(name: str) -> PydanticCustomError:
    return PydanticCustomError("missing", "{name} is missing", {"name": name})


class _Shape(BaseModel):
    model_config = ConfigDict(
        strict=True, extra="allow", allow_inf_nan=False, protected_namespaces=()
    )


def _same_length(shape: BaseModel, *names: str) -> None:
    """Raise where lists, of those that are given, differ in length."""
    lengths = {name: len(value) for name in names if (value := getattr(shape, name)) is not None}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            "lists of different lengths: " + ", ".join(f"{n} has {k}" for n, k in lengths.items())
        )


# ---- model.json -------------------------------------------------------------------------------------------------------


class _Preprocessing(_Shape):
    channels: Literal[1, 3]
    height: Positive
    width: Positive
    resize: Literal["crop", "squash", "pad"]
    crop_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: list[Number]
    std: list[Annotated[float, Field(gt=0, le=MOST)]]
    white: Number | None = None

    @model_validator(mode="after")
    def _one_for_each_channel(self) -> Self:
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"mean and std need {self.channels} values each, one for each channel")
        return self


class _Architecture(_Shape):
    name: str
    options: dict[str, Any]

    @model_validator(mode="after")
    def _sizes_within_bounds(self) -> Self:
        waiting: list[Any] = [self.options]
        while waiting:
            value = waiting.pop()
            if isinstance(value, dict | list):
                waiting.extend(value.values() if isinstance(value, dict) else value)
            elif isinstance(value, int | float) and abs(value) > MOST_SIZE:
                raise ValueError(
                    f"options: {value:.3g} is out of bounds, numbers are at most {MOST_SIZE:,}"
                )
        return self


class _Threshold(_Shape):
    accuracy: Share
    threshold: Number | None


class _Model(_Shape):
    format: Count
    task: str
    precision: Literal["fp32", "bf16"]
    preprocessing: _Preprocessing
    architecture: _Architecture
    class_names: list[str]
    parameters: Count
    multiply_adds: Count
    first_layer: str | None = None
    network: str | None = None
    temperature: Annotated[float, Field(gt=0, le=MOST)] | None = None
    tta: str | None = None
    abstain: list[_Threshold] = []

    @model_validator(mode="after")
    def _complete(self) -> Self:
        needed = {
            "classify": ("tta",),
            "generate": ("features", "num_samples"),
            "upscale": ("scale", "degrade"),
        }
        missing = [
            name
            for name in needed.get(self.task, ())
            if name not in self.model_fields_set | self._extra()
        ]
        if missing:
            raise _missing(missing[0])
        if self.task == "classify" and len(self.class_names) < 1:
            raise ValueError("class_names is empty")
        if len(set(self.class_names)) < len(self.class_names):
            raise ValueError("class_names holds a name twice")

        return self

    def _extra(self) -> set[str]:
        return set(self.model_extra or ())


# ---- evaluation.json --------------------------------------------------------------------------------------------------


class _OfPictures(_Shape):
    psnr_y: Number
    ssim_y: Number


class _Figures(_Shape):
    num_images: Count
    accuracy: Share | None = None
    accuracy_ci95: Interval | None = None
    top5_accuracy: Share | None = None
    top5_accuracy_ci95: Interval | None = None
    balanced_accuracy: Share | None = None
    macro_f1: Share | None = None
    loss: Number | None = None
    expected_calibration_error: Share | None = None
    calibration_error: Share | None = None
    calibration_error_if_perfect: Share | None = None
    num_groups: Number | None = None
    without_leaked: _Figures | None = None
    without_seen: _Figures | None = None
    num_generated: Count | None = None
    class_shares: dict[str, Share] | None = None
    psnr_y: Number | None = None
    ssim_y: Number | None = None
    bicubic: _OfPictures | None = None
    nearest: _OfPictures | None = None
    gain: Number | None = None
    gain_ci95: Interval | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        together = {
            "accuracy": ("accuracy_ci95", "macro_f1", "loss", "expected_calibration_error"),
            "psnr_y": ("ssim_y", "bicubic", "nearest", "gain"),
        }
        for name, others in together.items():
            missing = [other for other in others if getattr(self, other) is None]
            if name in self.model_fields_set and (missing or getattr(self, name) is None):
                raise _missing((missing or [name])[0])

        for name, value in (self.model_extra or {}).items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if is_number and abs(value) > MOST:
                raise ValueError(f"{name} is out of bounds")
            if (
                name.startswith(("fd_", "fid", "kid_", "precision_", "recall_", "lpips_"))
                and not is_number
            ):
                raise ValueError(f"{name}: expected a number, found {_short(value)}")

        return self


class _OfClass(_Shape):
    name: str
    precision: Share | None
    recall: Share | None
    f1: Share | None
    support: Count


class _Pair(_Shape):
    target: str
    prediction: str
    count: Count
    share: Share


class _Bin(_Shape):
    low: Number
    high: Number
    count: Count
    confidence: Number | None
    accuracy: Number | None


class _OfCalibration(_Shape):
    loss_before: Number
    loss_after: Number
    ece_before: Number
    ece_after: Number


class _Calibration(_Shape):
    temperature: Number
    reason: str | None = None
    splits: dict[str, _OfCalibration]
    reliability: dict[str, list[_Bin]]


class _Answered(_Shape):
    num_images: Count
    num_answered: Count
    num_correct: Count
    coverage: Share
    coverage_ci95: Interval | None = None
    accuracy: Share | None
    accuracy_ci95: Interval | None


class _Abstain(_Threshold):
    val: _Answered | None = None
    test: _Answered | None = None


class _Verdict(_Shape):
    word: str | None = None
    text: str | None = None
    gap: Number | None = None
    gap_ci95: Interval | None = None


class _Looks(_Shape):
    run: Count
    data: Count


class _ValidationUse(_Shape):
    rules: Count | None = None
    how: str | None = None
    num_selecting: Count | None = None
    num_calibrating: Count | None = None
    text: str


class _Evaluated(_Shape):
    kind: str
    name: str
    figures: _Figures | None = None


class _Evaluation(_Shape):
    task: str | None = None
    splits: dict[SplitName, _Figures]
    calibration: _Calibration | None = None
    per_class: dict[SplitName, list[_OfClass]] | None = None
    confusion: dict[SplitName, list[list[Count]]] | None = None
    most_confused: dict[SplitName, list[_Pair]] | None = None
    reliability: dict[SplitName, list[_Bin]] | None = None
    verdict: _Verdict | None = None
    warnings: list[str] | None = None
    abstain: list[_Abstain] | None = None
    test_looks: _Looks | None = None
    chosen_by_validation: str | None = None
    validation: _ValidationUse | None = None
    evaluations: list[_Evaluated] | None = None
    protocol: dict[str, str] | None = None
    nearest: dict[str, Number | None] | None = None
    scale: Count | None = None

    @model_validator(mode="after")
    def _square(self) -> Self:
        for split, matrix in (self.confusion or {}).items():
            if any(len(row) != len(matrix) for row in matrix):
                raise ValueError(f"confusion.{split}: expected as many columns as rows")
        return self


# ---- the others -------------------------------------------------------------------------------------------------------


class _Status(_Shape):
    state: str | None = None
    step: Count | None = None
    total_steps: Count | None = None
    seconds: Number | None = None


class _Choice(_Shape):
    name: str
    choice: str
    reason: str


class _Departure(_Shape):
    step: Count
    why: list[str] | str


class _Environment(_Shape):
    tintype: str | None = None
    python: str | None = None
    torch: str | None = None
    platform: str | None = None
    cpu: str | None = None
    device: str | None = None
    precision: str | None = None
    threads: Count | None = None
    arithmetic: dict[str, Plain] | None = None
    not_bit_equal: list[_Departure] | None = None
    command: str | None = None
    started: str | None = None
    choices: list[_Choice] | None = None
    training_seconds: Number | None = None
    preparing_seconds: Number | None = None
    images_per_second: Number | None = None
    seconds: Number | None = None


class _Data(_Shape):
    name: str
    fingerprint: str
    channels: Count
    height: Count
    width: Count
    class_names: list[str]
    num_images: dict[str, Count]
    class_counts: dict[str, list[Count]] | None = None
    notes: list[str] | None = None
    skipped: list[Annotated[list[str], Field(min_length=2, max_length=2)]] | None = None


class _Sample(_Shape):
    file: str
    name: str | None = None
    kind: str | None = None
    target: str | None = None
    prediction: str | None = None
    confidence: Number | None = None
    correct: bool | None = None
    position: Count | None = None
    psnr_y: Number | None = None
    ssim_y: Number | None = None
    bicubic_psnr_y: Number | None = None
    bicubic_ssim_y: Number | None = None


class _OfPair(_Shape):
    target: str
    prediction: str
    count: Count
    share: Share
    mistakes: list[_Sample]
    of_target: list[_Sample]
    of_prediction: list[_Sample]


class _Neighbour(_Sample):
    similarity: Number | None = None
    same: bool | None = None


class _Mistake(_Sample):
    heat: str | None = None
    neighbours: list[_Neighbour] | None = None


class _Worst(_Shape):
    items: list[_Mistake]
    layer: str | None = None
    num_searched: Count | None = None


class _Slice(_Shape):
    low: Number
    high: Number
    num_images: Count
    num_wrong: Count
    error_rate: Share
    error_rate_ci95: Interval


class _Attribute(_Shape):
    name: str
    bins: list[_Slice]
    p: Share | None = None
    p_holm: Share | None = None
    significant: bool | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.significant or self.p is not None) and self.p_holm is None:
            raise _missing("p_holm")
        return self


class _Slices(_Shape):
    num_images: Count | None = None
    num_wrong: Count | None = None
    attributes: list[_Attribute]


class _Sheet(_Shape):
    file: str
    columns: Positive
    count: Count
    width: Positive
    height: Positive


class _Map(_Shape):
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
        _same_length(self, "x", "y", "position", "target", "prediction", "confidence", "thumbnail")
        return self


class _Curve(_Shape):
    coverage: list[Share]
    accuracy: list[Share]
    threshold: list[Number]
    num_answered: list[Count] | None = None

    @model_validator(mode="after")
    def _aligned(self) -> Self:
        _same_length(self, "coverage", "accuracy", "threshold", "num_answered")
        return self


class _Analysis(_Shape):
    pairs: list[_OfPair] | None = None
    worst: _Worst | None = None
    slices: _Slices | None = None
    map: _Map | None = None
    risk_coverage: dict[SplitName, _Curve] | None = None


class _Samples(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)
    __pydantic_extra__: dict[str, list[_Sample]]


class _OfStudy(_Shape):
    state: str
    message: str | None = None
    seconds: Number | None = None
    recipe: dict[str, Any] | None = None


class _Study(_Shape):
    runs: dict[str, _OfStudy]


class _Tracked(_Shape):
    step: Count | None = None


class _Tracking(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)
    __pydantic_extra__: dict[str, _Tracked]


SHAPES: dict[str, type[BaseModel]] = {
    "model.json": _Model, "evaluation.json": _Evaluation, "status.json": _Status, "environment.json": _Environment,
    "data.json": _Data, "samples.json": _Samples, "analysis.json": _Analysis, "study.json": _Study, "tracking.json": _Tracking,
}  # fmt: skip


# ---- holding a file against its shape ---------------------------------------------------------------------------------


def check(path: Path, content: Any, *, complete: bool = False) -> None:
    """Raise where the content of a run's JSON file is not what tintype writes under that name.

    Args:
        path: the file.
        content: what was read from it.
        complete: whether what is missing further in, such as one figure of a split, is refused as
            well.

    Raises:
        ValueError: it is not; the message names the place in the file, what was expected and what
            was found.
        UserError: it was made by a newer tintype.
    """
    newest = (
        content.get("format") if path.name == "model.json" and isinstance(content, dict) else None
    )
    if type(newest) is int and newest > FORMAT:
        raise UserError(
            f"{path.parent} was made by a newer tintype (format {newest}). Update tintype."
        )
    for problem in _problems(path.name, content):
        if complete or not problem.missing or len(problem.place) < 2:
            raise ValueError(problem.line)


def fitting(file: str, content: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return what fits of the content of a run's JSON file, and a line for each part of it that is left out.

    A part is a key of the file, or a key within it where it is a mapping. What is missing is
    nothing that does not fit: a reader that goes on without a part can go on without a key.
    """
    lines: list[str] = []
    while problems := [each for each in _problems(file, content) if not each.missing]:
        if not all(each.place for each in problems):
            return {}, [f"{file} is left out: {problems[0].line}"]
        for each in problems:
            content, left_out = _without(content, each.place)
            if left_out:
                lines.append(f"{file}: {left_out} is left out: {each.line}")
    return content, lines


def _without(content: dict[str, Any], place: Sequence[int | str]) -> tuple[dict[str, Any], str]:
    """Return content without the part in which `place` is, and the part's name; an empty name where
    it is gone already.
    """
    first, second = place[0], place[1] if len(place) > 1 else None
    if first not in content:
        return content, ""
    inner = content[first]
    if not isinstance(inner, dict) or second is None:
        return {key: value for key, value in content.items() if key != first}, str(first)
    if second not in inner:
        return content, ""
    kept = {key: value for key, value in inner.items() if key != second}
    return {**content, first: kept}, f"{first}.{second}"


class _Problem(NamedTuple):
    place: Sequence[int | str]
    line: str
    missing: bool


def _problems(file: str, content: Any) -> list[_Problem]:
    shape = SHAPES.get(file)
    if shape is None:
        return []
    try:
        shape.model_validate(content)
    except ValidationError as error:
        return [
            _Problem(each["loc"], _line(each), each["type"] == "missing")
            for each in error.errors(include_url=False)
        ]
    return []


def _line(error: Any) -> str:
    place = ".".join(map(str, error["loc"]))
    start = f"{place}: " if place else ""
    if error["type"] == "missing":
        told = error["msg"] if "ctx" in error else "it is missing"
        return start + told
    if error["type"] == "value_error":  # of a validator here, which says what was found
        return start + str(error["ctx"]["error"])
    expected = _EXPECTED.get(error["type"]) or error["msg"].replace("Input should be ", "")
    return f"{start}expected {expected}, found {_short(error['input'])}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
