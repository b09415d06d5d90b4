"""What tuning may choose: fields of the recipe with a range or a list of values, given in the
recipe or by default.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tintype import plugins
from tintype.errors import UserError, unknown_name
from tintype.recipe import ALIASES, Recipe, field_names
from tintype.verbs.study.declaration import is_field, label_of

if TYPE_CHECKING:
    from optuna.trial import Trial

    from tintype.tasks.contract.tuning import TuningPart

# What these change is luck, or what is measured.
NOT_CHOSEN = (
    "seed",
    "measure",
    "search",
    "track",
    "split_seed",
    "split_rule",
    "rules",
    "groups",
    "val_fraction",
    "test_fraction",
)


@dataclass(frozen=True)
class OneOf:
    """One of several values; each has a label, which is what the database holds."""

    values: Mapping[str, Any]

    def suggest(self, field: str, trial: Trial) -> Any:
        """Return the value that the sampler proposes for a field."""
        return self.values[str(trial.suggest_categorical(field, list(self.values)))]

    def as_parameter(self, value: Any) -> str | None:
        """Return what the database calls a value, or None where it is not one of them."""
        return next((label for label, each in self.values.items() if each == value), None)

    def ends(self) -> list[Any]:
        """Return values to check before the start."""
        return list(self.values.values())


class Range(BaseModel):
    """Numbers from `low` to `high`, whole ones where both are; `log` proposes orders of magnitude
    alike.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    low: int | float = Field(description="a number")
    high: int | float = Field(description="a number")
    log: bool = Field(default=False, strict=False, description="true or false")
    step: int | float | None = Field(default=None, gt=0, description="a number above 0")

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.low >= self.high:
            raise ValueError(
                f"low is {self.low!r} and high is {self.high!r}. Expected numbers, "
                "the first below the second."
            )
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("with log, low must be above 0 and there can be no step.")
        return self

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are proposed."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def suggest(self, field: str, trial: Trial) -> float:
        """Return the value that the sampler proposes for a field."""
        if self.whole:
            return trial.suggest_int(
                field, int(self.low), int(self.high), log=self.log, step=int(self.step or 1)
            )
        return trial.suggest_float(field, self.low, self.high, log=self.log, step=self.step)

    def as_parameter(self, value: Any) -> float | None:
        """Return a value of the recipe as one of the range, or None where it lies outside."""
        fits = (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and self.low <= value <= self.high
        )
        return (
            value
            if fits and self.step is None and (not self.whole or value == int(value))
            else None
        )

    def ends(self) -> list[Any]:
        """Return values to check before the start."""
        return [self.low, self.high]


Space = dict[str, OneOf | Range]


def read_space(search: Mapping[str, Any]) -> Space:
    """Read a search space: {field: [values]} or {field: {low, high, log, step}}.

    Raises:
        UserError: an unknown field, an empty list, or a range that is none.
    """
    return {str(field): _entry(str(field), given) for field, given in search.items()}


def _entry(field: str, given: Any) -> OneOf | Range:
    where = f"search.{field}"
    if not is_field(field):
        raise unknown_name("field in search:", field, [*field_names(), *ALIASES])
    if field.replace("-", "_") in NOT_CHOSEN:
        raise UserError(
            f"{where}: tuning may not choose {field}; "
            "what is found would be luck or another measure."
        )

    if isinstance(given, list):
        if not given:
            raise UserError(f"{where} is empty. Expected values, as in {field}: [64, 128].")
        values = {
            value if isinstance(value, str) else label_of(value, "."): value for value in given
        }
        if len(values) < len(given):
            raise UserError(f"{where}: a value stands twice.")
        return OneOf(values)

    if not isinstance(given, Mapping):
        raise _no_range(where, given)
    try:
        return Range(**{str(key): value for key, value in given.items()})
    except ValidationError as error:
        raise _plain(error, where, given) from None


def _plain(error: ValidationError, where: str, given: Mapping[Any, Any]) -> UserError:
    """Return the error for the first thing that pydantic found wrong with a range."""
    first = error.errors()[0]
    if first["type"] == "missing":
        return _no_range(where, given)
    if first["type"] == "value_error":
        return UserError(f"{where}: {first['msg'].removeprefix('Value error, ')}")

    key = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        return unknown_name(f"key in {where}:", key, Range.model_fields)
    expected = Range.model_fields[key].description
    return UserError(f"{where}: {key} is {first['input']!r}. Expected {expected}.")


def _no_range(where: str, given: Any) -> UserError:
    return UserError(
        f"{where} is {given!r}. Expected a list of values, or {{low: 0.001, high: 0.1, log: true}}."
    )


def default_space(recipe: Recipe, networks: Collection[str] = ()) -> Space:
    """Return what is usually worth choosing: the learning rate, and what the task adds to it."""
    lr = recipe.lr if isinstance(recipe.lr, float | int) else 1e-3
    low, high = float(f"{lr / 8:.3g}"), float(f"{lr * 8:.3g}")
    search: dict[str, Any] = {"lr": {"low": low, "high": high, "log": True}}
    part = tuning_part(recipe.task)
    return read_space(search | (part.usual_search(recipe, networks=networks) if part else {}))


def tuning_part(task: str) -> TuningPart | None:
    """Return what a task says about tunings, or None where it says nothing."""
    if not plugins.has_part(task, "tuning"):
        return None
    return cast("TuningPart", plugins.find_part(task, "tuning", "be tuned"))


def check_space(recipe: Recipe, space: Space) -> None:
    """Raise where a value of the space makes no recipe.

    Raises:
        UserError: a value out of the range of its field.
    """
    for field, entry in space.items():
        for value in entry.ends():
            try:
                recipe.replace(**{field: value})
            except UserError as error:
                raise UserError(f"search.{field}: {error}") from None


def own_values(recipe: Recipe, space: Space) -> dict[str, Any] | None:
    """Return the recipe's own values as parameters of a trial, or None where one of them lies
    outside of the space.
    """
    found: dict[str, Any] = {}
    for field, entry in space.items():
        parameter = entry.as_parameter(value_of(recipe, field))
        if parameter is None:
            return None
        found[field] = parameter
    return found


def value_of(recipe: Recipe, field: str) -> Any:
    """Return the value of a field, or of an option within it ("model_options.width")."""
    name, _, option = field.replace("-", "_").partition(".")
    if not option:
        return getattr(recipe, ALIASES.get(name, name))

    name = {"model": "model_options", "task": "task_options"}.get(name, name)
    options = getattr(recipe, name)
    return options.get(option) if isinstance(options, Mapping) else None


def as_plain(space: Space) -> dict[str, Any]:
    """Return a space as it is written in a recipe."""
    return {
        field: list(entry.values.values())
        if isinstance(entry, OneOf)
        else entry.model_dump(exclude_defaults=True)
        for field, entry in space.items()
    }
