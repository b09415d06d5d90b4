"""What the JSON files of a run hold, checked where they are read: a run may come from a stranger.

What every run has is described here, and what a task adds in `tasks/NAME/shapes.py`. Only what
tintype reads is described; other keys pass, so that files of earlier and later versions do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Protocol, Self, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from tintype import plugins
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
SplitName = Literal["train", "val", "test", "folds"]


_EXPECTED = {
    "model_type": "a mapping",
    "dict_type": "a mapping",
    "list_type": "a list",
    "string_type": "a text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "finite_number": "a finite number",
}


def missing_key(name: str) -> PydanticCustomError:
    """Return the error of a key that is missing."""
    return PydanticCustomError("missing", "{name} is missing", {"name": name})


class Shape(BaseModel):
    """A mapping in a JSON file: types as they are written, other keys allowed."""

    model_config = ConfigDict(
        strict=True, extra="allow", allow_inf_nan=False, protected_namespaces=()
    )


def same_length(shape: BaseModel, *names: str) -> None:
    """Raise where lists, of those that are given, differ in length."""
    lengths = {name: len(value) for name in names if (value := getattr(shape, name)) is not None}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            "lists of different lengths: " + ", ".join(f"{n} has {k}" for n, k in lengths.items())
        )


# ---- model.json ----------------------------------------------------------------------------------


class _Preprocessing(Shape):
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


class _Architecture(Shape):
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


class _Code(Shape):
    field: str
    reference: str
    sha256: str
    copy_: Annotated[str, Field(alias="copy", pattern=r"^(code/[A-Za-z0-9_]{1,100}\.py)?$")]


class _Package(Shape):
    field: str
    name: str
    reference: str
    package: str
    version: str
    sha256: str


class _OwnCode(Shape):
    code: list[_Code]
    packages: list[_Package] = []


class _Model(Shape):
    format: Count
    task: str
    precision: Literal["fp32", "bf16"]
    preprocessing: _Preprocessing
    architecture: _Architecture
    class_names: list[str]  # empty where a network knows no classes
    parameters: Count
    multiply_adds: Count
    first_layer: str | None = None
    network: str | None = None
    code: list[_Code] = []

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        if len(set(self.class_names)) < len(self.class_names):
            raise ValueError("class_names holds a name twice")
        return self


# ---- evaluation.json -----------------------------------------------------------------------------


class _Figures(Shape):
    num_images: Count
    num_groups: Number | None = None

    @model_validator(mode="after")
    def _within_bounds(self) -> Self:
        for name, value in (self.model_extra or {}).items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if is_number and abs(value) > MOST:
                raise ValueError(f"{name} is out of bounds")
        return self


class _Verdict(Shape):
    word: str | None = None
    text: str | None = None
    gap: Number | None = None
    gap_ci95: Interval | None = None


class _Looks(Shape):
    run: Count
    data: Count


class _ValidationUse(Shape):
    rules: Count | None = None
    how: str | None = None
    num_selecting: Count | None = None
    num_calibrating: Count | None = None
    text: str


class _Folds(Shape):
    count: Count
    interval: str | None = None
    figures: list[dict[str, Number]] | None = None
    text: str | None = None


class _Evaluated(Shape):
    kind: str
    name: str
    figures: _Figures | None = None


class _OfValue(Shape):
    value: str
    num_images: Count


class _ByColumn(Shape):
    column: str
    figure: str
    values: list[_OfValue]


class _Evaluation(Shape):
    by_column: dict[SplitName, list[_ByColumn]] | None = None
    task: str | None = None
    splits: dict[SplitName, _Figures]
    verdict: _Verdict | None = None
    warnings: list[str] | None = None
    test_looks: _Looks | None = None
    chosen_by_validation: str | None = None
    validation: _ValidationUse | None = None
    folds: _Folds | None = None
    protocol: dict[str, str] | None = None
    own_figures: list[str] | None = None


# ---- the others ----------------------------------------------------------------------------------


class _Status(Shape):
    state: str | None = None
    step: Count | None = None
    total_steps: Count | None = None
    seconds: Number | None = None


class _Choice(Shape):
    name: str
    choice: str
    reason: str


class _Departure(Shape):
    step: Count
    why: list[str] | str


class _Environment(Shape):
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


class _Data(Shape):
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


class Sample(Shape):
    """An entry of samples.json: a picture in samples/ and what is known of it."""

    file: str
    name: str | None = None
    kind: str | None = None
    position: Count | None = None


class _Samples(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)
    __pydantic_extra__: dict[str, list[Sample]]


class _OfStudy(Shape):
    state: str
    message: str | None = None
    seconds: Number | None = None
    recipe: dict[str, Any] | None = None


class _Study(Shape):
    runs: dict[str, _OfStudy]


class _Tracked(Shape):
    step: Count | None = None


class _Tracking(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)
    __pydantic_extra__: dict[str, _Tracked]


SHAPES: dict[str, type[BaseModel]] = {
    "model.json": _Model,
    "evaluation.json": _Evaluation,
    "status.json": _Status,
    "environment.json": _Environment,
    "data.json": _Data,
    "samples.json": _Samples,
    "study.json": _Study,
    "tracking.json": _Tracking,
    "code.json": _OwnCode,
}


# ---- holding a file against its shape ------------------------------------------------------------


def check(path: Path, content: Any, *, complete: bool = False, task: str = "") -> None:
    """Raise where the content of a run's JSON file is not what tintype writes under that name.

    Args:
        path: the file.
        content: what was read from it.
        complete: whether what is missing further in, such as one figure of a split, is refused as
            well.
        task: the task of the run, for files that do not name it.

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
    for problem in _problems(path.name, content, task):
        if complete or not problem.missing or len(problem.place) < 2:
            raise ValueError(problem.line)


def fitting(file: str, content: dict[str, Any], task: str = "") -> tuple[dict[str, Any], list[str]]:
    """Return what fits of a run's JSON file, and a line for each part that is left out.

    A part is a key of the file, or a key within it where it is a mapping. What is missing is
    nothing that does not fit: a reader that goes on without a part can go on without a key.
    """
    lines: list[str] = []
    while problems := [each for each in _problems(file, content, task) if not each.missing]:
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


class ShapesPart(Protocol):
    """The module `tasks/NAME/shapes.py`: what runs of the task have besides, by file."""

    SHAPES: Mapping[str, type[BaseModel]]


class _Problem(NamedTuple):
    place: Sequence[int | str]
    line: str
    missing: bool


def _problems(file: str, content: Any, task: str) -> list[_Problem]:
    found: dict[tuple[int | str, ...], _Problem] = {}
    for shape in _shapes_of(file, content, task):
        try:
            shape.model_validate(content)
        except ValidationError as error:
            for each in error.errors(include_url=False):
                missing = each["type"] == "missing"
                found.setdefault(each["loc"], _Problem(each["loc"], _line(each), missing))
    return list(found.values())


def _shapes_of(file: str, content: Any, task: str) -> list[type[BaseModel]]:
    """Return what describes a file: what every run has, and what the task of the run adds."""
    named = content.get("task") if isinstance(content, dict) else None
    task = named if isinstance(named, str) else task
    found = [SHAPES[file]] if file in SHAPES else []
    if plugins.is_there(task, "shapes"):
        part = cast(ShapesPart, plugins.find_part(task, "shapes", "be checked"))
        found += [part.SHAPES[file]] if file in part.SHAPES else []
    return found


def _line(error: Any) -> str:
    place = ".".join(map(str, error["loc"]))
    start = f"{place}: " if place else ""
    if error["type"] == "missing":
        return start + (error["msg"] if "ctx" in error else "it is missing")
    if error["type"] == "value_error":  # of a validator here, which says what was found
        return start + str(error["ctx"]["error"])
    expected = _EXPECTED.get(error["type"]) or error["msg"].replace("Input should be ", "")
    return f"{start}expected {expected}, found {short_repr(error['input'])}"


def short_repr(value: Any) -> str:
    """Return a value as it is shown in a message, cut to 40 characters."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
