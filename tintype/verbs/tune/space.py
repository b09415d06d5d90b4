"""What tuning may choose: fields of the recipe with a range or a list of values, given in the
recipe or by default.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from tintype import plugins
from tintype.errors import UserError, unknown_name
from tintype.recipe import ALIASES, Recipe, field_names
from tintype.verbs.study.declaration import is_field, label_of

if TYPE_CHECKING:
    from optuna.trial import Trial

    from tintype.tasks.contract.tuning import TuningPart

RANGE_KEYS = ("low", "high", "log", "step")
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

    field: str
    values: Mapping[str, Any]

    def suggest(self, trial: Trial) -> Any:
        """Return the value that the sampler proposes."""
        return self.values[str(trial.suggest_categorical(self.field, list(self.values)))]

    def as_parameter(self, value: Any) -> str | None:
        """Return what the database calls a value, or None where it is not one of them."""
        return next((label for label, each in self.values.items() if each == value), None)

    def ends(self) -> list[Any]:
        """Return values to check before the start."""
        return list(self.values.values())


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, whole ones where both are; `log` proposes orders of magnitude
    alike.
    """

    field: str
    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are proposed."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def suggest(self, trial: Trial) -> float:
        """Return the value that the sampler proposes."""
        if self.whole:
            return trial.suggest_int(
                self.field, int(self.low), int(self.high), log=self.log, step=int(self.step or 1)
            )
        return trial.suggest_float(self.field, self.low, self.high, log=self.log, step=self.step)

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
        return OneOf(field, values)

    if not isinstance(given, Mapping) or not {"low", "high"} <= set(given):
        raise UserError(
            f"{where} is {given!r}. Expected a list of values, or {{low: "
            "0.001, high: 0.1, log: true}."
        )
    for key in given:
        if key not in RANGE_KEYS:
            raise unknown_name(f"key in {where}:", str(key), RANGE_KEYS)

    low, high, log, step = given["low"], given["high"], given.get("log", False), given.get("step")
    numbers = [number for number in (low, high, step) if number is not None]
    if any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers) or low >= high:
        raise UserError(
            f"{where}: low is {low!r} and high is {high!r}. Expected numbers, "
            "the first below the second."
        )
    if log and (low <= 0 or step is not None):
        raise UserError(f"{where}: with log, low must be above 0 and there can be no step.")
    if step is not None and step <= 0:
        raise UserError(f"{where}: step is {step!r}. Expected a number above 0.")

    return Range(field, low, high, bool(log), step)


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
    plain: dict[str, Any] = {}
    for field, entry in space.items():
        if isinstance(entry, OneOf):
            plain[field] = list(entry.values.values())
        else:
            options = {"low": entry.low, "high": entry.high, "log": entry.log, "step": entry.step}
            plain[field] = {
                key: value
                for key, value in options.items()
                if value not in (None, False) or key == "low"
            }

    return plain
