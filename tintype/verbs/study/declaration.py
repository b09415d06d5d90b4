"""What a study runs: a recipe, what varies, seeds; checked whole and unfolded into recipes before
anything starts.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml

from tintype import plugins
from tintype.errors import UserError
from tintype.files.names import last_part
from tintype.own_code import refuse_given
from tintype.recipe import ALIASES, Recipe, build, field_names, resolve

if TYPE_CHECKING:
    from tintype.tasks.contract.study import StudyPart

MOST_RUNS = 500  # more are begun only on --yes
# What decides which images a run is trained and measured on.
MADE_OF = (
    "task",
    "data",
    "data_root",
    "val_fraction",
    "test_fraction",
    "split_seed",
    "split_rule",
    "groups",
)
LONGEST_NAME = 120  # characters of a run folder; file systems take 255

Changes = dict[str, Any]


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study: its folder's name, the level of each factor, its seed, and its recipe."""

    name: str
    variant: str
    levels: dict[str, str]
    seed: int
    recipe: Recipe


@dataclass(frozen=True)
class Declaration:
    """A study as it was declared.

    Attributes:
        name: names the folder.
        recipe: a recipe's name or file, or its fields; None where each variant brings its own.
        question: what is asked, in a sentence.
        fields: changes of the recipe for every run, which variants may change again.
        factors: {factor: {level: changes of the recipe}}; the others are held against the first
            level.
        seeds: each combination of levels is run with each of them.
        overrides: changes for every run, whatever its levels say.
        weights: what replaces the pretrained weights of those runs that start from some.
        about: the fields that the question is about; levels that differ in others as well are said
            to.
    """

    name: str
    recipe: str | Changes | None
    question: str = ""
    fields: Changes = field(default_factory=dict)
    factors: dict[str, dict[str, Changes]] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    overrides: Changes = field(default_factory=dict)
    weights: str | None = None
    about: tuple[str, ...] = ()

    @property
    def num_runs(self) -> int:
        """How many runs it has."""
        return math.prod(len(levels) for levels in self.factors.values()) * len(self.seeds)

    @property
    def data_factors(self) -> list[str]:
        """The factors that are data: what is trained on different data is never ranked against each
        other.
        """
        return [factor for factor in self.factors if _parts(factor)[0] in ("data", "data_root")]

    def data_of(self, levels: Mapping[str, str]) -> str:
        """Return what the data of a run is called where the study varies it, "" elsewhere."""
        return " + ".join(self.shown(factor, levels[factor]) for factor in self.data_factors)

    def runs(self) -> list[PlannedRun]:
        """Unfold the study into its runs.

        Every combination of levels comes with the first seed, then with the second, and so on. In
        this order there is something to compare early, and the remaining time can be estimated.

        Raises:
            UserError: an unknown field, a value out of range, or two variants that are the same.
        """
        combinations = [
            dict(zip(self.factors, labels, strict=True))
            for labels in product(*self.factors.values())
        ]
        shown = [[self.shown(*level) for level in levels.items()] for levels in combinations]
        titles = [" + ".join(levels) or self.name for levels in shown]
        recipes = [
            self._recipe(levels, title) for levels, title in zip(combinations, titles, strict=True)
        ]
        _refuse_equal(titles, recipes, self.name)
        for recipe in recipes:
            refuse_given(recipe.own_code(), "the runs of a study")
        # From the names of the levels as they stand in the file, so that earlier studies find their
        # folders.
        labels = [", ".join(levels.values()) or self.name for levels in combinations]
        folders = _folder_names(labels, self.name)

        return [
            PlannedRun(f"{folder}-seed{seed}", title, levels, seed, recipe.replace(seed=seed))
            for seed in self.seeds
            for folder, title, levels, recipe in zip(
                folders, titles, combinations, recipes, strict=True
            )
        ]

    def shown(self, factor: str, level: str) -> str:
        """Return what a level is called to a reader: "no augmentation" for the level "augment
        none".
        """
        value = self.factors[factor][level].get(factor)
        if is_field(factor) and value in (None, "none") and level == label_of(value, factor):
            return f"no {factor_name(factor)}"
        return level

    def replace(
        self, *, seeds: Any = None, weights: str | None = None, **changes: Any
    ) -> Declaration:
        """Return the study with some settings replaced.

        These are fields of every run, seeds, or pretrained weights.

        Raises:
            UserError: seeds that are none, or a change of what the study varies.
        """
        varied = {part for factor in self.factors if is_field(factor) for part in _parts(factor)}
        for key in changes:
            if varied & set(_parts(key)):
                raise UserError(
                    f"{key} is what the study {self.name} varies, so it cannot be set for all its "
                    "runs. "
                    "Leave it out, or write a study file of your own (docs/study.md)."
                )

        if seeds is not None:
            seeds = checked_seeds(seeds, self.name)
        if weights is not None:
            weights = weights if weights in ("default", "none") else _existing(weights)
        overrides = {
            key: value for key, value in self.overrides.items() if not _replaced(key, changes)
        }
        overrides |= {
            key: _absolute(value) if key in ("data", "data_root") else value
            for key, value in changes.items()
        }

        return replace(
            self, overrides=overrides, seeds=seeds or self.seeds, weights=weights or self.weights
        )

    def to_yaml(self, folder: str = "") -> str:
        """Return the study as YAML, from which it can be read again.

        Where it lies in a `folder` of another name, its own stands in it.
        """
        vary = {
            factor: {label: changes[factor] for label, changes in levels.items()}
            if is_field(factor)
            else levels
            for factor, levels in self.factors.items()
        }
        content: Changes = {
            "name": self.name if folder not in ("", self.name) else "",
            "question": self.question,
            "about": list(self.about),
            "recipe": self.recipe,
            **self.fields,
        }
        content |= {
            "vary": vary,
            "seeds": list(self.seeds),
            "set": self.overrides,
            "weights": self.weights,
        }
        kept = {key: value for key, value in content.items() if value not in ("", None, {}, [])}

        return yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)

    def _recipe(self, levels: Mapping[str, str], title: str) -> Recipe:
        steps = [self.factors[factor][level] for factor, level in levels.items()]
        base = next((step["recipe"] for step in reversed(steps) if "recipe" in step), self.recipe)
        try:
            if base is None:
                raise UserError(
                    "no recipe is named. Expected `recipe:` in the study or in the variant."
                )

            recipe = resolve(base)[0] if isinstance(base, str) else build(base, where="")
            for step in (self.fields, *steps, self.overrides):
                recipe = recipe.replace(
                    **{key: value for key, value in step.items() if key != "recipe"}
                )

            # one, so that nothing of a run depends on how many are trained at once
            if recipe.folds:
                raise UserError(
                    "folds: the runs of a study are measured on one test part. Leave folds out; "
                    "`tintype compare` tests two runs with folds."
                )
            if recipe.threads == "auto":
                recipe = recipe.replace(threads=1)
            varied = "model" in self.factors or any("model" in step for step in steps)
            return self._with_weights(recipe, varied) if self.weights else recipe
        except UserError as error:
            raise UserError(f"{self.name}{f', {title}' if levels else ''}: {error}") from None

    def _with_weights(self, recipe: Recipe, varied: bool) -> Recipe:
        """Return a recipe with the study's weights, as far as its task knows what they are."""
        assert self.weights is not None
        if not plugins.has_part(recipe.task, "study"):
            return recipe
        part = cast("StudyPart", plugins.find_part(recipe.task, "study", "take other weights"))
        return part.with_weights(recipe, self.weights, varied=varied)


def is_field(name: str) -> bool:
    """Return whether a factor is a field of the recipe, or an option within one."""
    first = name.replace("-", "_").partition(".")[0]
    return ALIASES.get(first, first) in field_names()


def factor_name(factor: str) -> str:
    """Return what a factor is called to a reader: "hidden" for "model_options.hidden",
    "augmentation" for "augment".
    """
    short = factor.rpartition(".")[2].replace("_", " ")
    return {"augment": "augmentation"}.get(short, short)


def checked_seeds(seeds: Any, name: str) -> tuple[int, ...]:
    """Return seeds given as a number of them or as a list.

    Raises:
        UserError: they are neither, or one stands twice.
    """
    given = range(seeds) if type(seeds) is int else seeds
    wanted = tuple(given) if isinstance(given, range | list | tuple) else ()
    if (
        not wanted
        or len(set(map(str, wanted))) < len(wanted)
        or any(type(s) is not int or s < 0 for s in wanted)
    ):
        raise UserError(
            f"{name}: seeds is {seeds!r}. "
            "Expected how many, as in 3, or different ones, as in [0, 1, 2]."
        )
    return wanted


def label_of(value: Any, factor: str) -> str:
    """Return what a value of a field is called, as "lr 0.01" or "residual on"."""
    short = factor.rpartition(".")[2].replace("_", " ")
    # which say nothing by themselves
    if isinstance(value, str) and value not in ("none", "auto", "default"):
        return last_part(value)
    if isinstance(value, Mapping):
        return (
            " ".join(
                key if inner is True else f"{key} {_plain(inner)}" for key, inner in value.items()
            )
            or "none"
        )

    return f"{short} {_plain(value)}".strip()


def _plain(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "on", False: "off", None: "none"}[value]
    if isinstance(value, list | tuple):
        return "-".join(_plain(item) for item in value)
    if isinstance(value, Mapping):
        return " ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def _parts(key: str) -> list[str]:
    """Return a field's name and, of an option within it, both: "model.width" is
    ["model_options.width"].
    """
    name, dot, option = key.replace("-", "_").partition(".")
    name = ALIASES.get(name, name)
    if not dot:
        return [name]
    return [f"{name}_options.{option}" if name in ("model", "task") else f"{name}.{option}"]


def _absolute(value: Any) -> Any:
    """Return a path that holds from every folder, and what is no path as it is."""
    return (
        str(Path(value).expanduser().resolve())
        if isinstance(value, str) and Path(value).expanduser().exists()
        else value
    )


def _existing(weights: str) -> str:
    path = Path(weights).expanduser()
    if not path.exists():
        raise UserError(
            f"there is no {weights}. Expected a weight file, "
            "a folder with one for each backbone, or none."
        )
    return str(path.resolve())


def _replaced(key: str, changes: Changes) -> bool:
    """Return whether `changes` set the same again; epochs and steps stand for each other."""
    both = {"epochs", "steps"}
    return any(_parts(key) == _parts(other) or {key, other} == both for other in changes)


def _refuse_equal(titles: Sequence[str], recipes: Sequence[Recipe], name: str) -> None:
    """Raise where two variants would be the same run: their comparison would say nothing."""
    seen: dict[str, str] = {}
    for title, recipe in zip(titles, recipes, strict=True):
        same = seen.setdefault(json.dumps(recipe.model_dump(mode="json"), sort_keys=True), title)
        if same is not title:
            raise UserError(
                f"{name}: '{same}' and '{title}' are the same recipe. "
                "Leave one out, or tell them apart."
            )


def refuse_mixed_data(declaration: Declaration) -> None:
    """Raise where variants are trained or measured on different images.

    They may be where the data is a factor of its own.

    Raises:
        UserError: different tasks, data or splits.
    """
    if declaration.data_factors:
        return
    planned = declaration.runs()

    first = planned[0]
    for name in MADE_OF:
        value = getattr(first.recipe, name)
        other = next((run for run in planned if getattr(run.recipe, name) != value), None)
        if other is None:
            continue
        both = f"'{first.variant}' and '{other.variant}'"
        values = f"{name} {_plain(value)} and {_plain(getattr(other.recipe, name))}"
        if name == "task":
            raise UserError(
                f"{declaration.name}: {both} have different tasks ({values}), "
                "which cannot be compared."
            )
        if name in ("data", "data_root"):
            raise UserError(
                f"{declaration.name}: {both} are trained on different data ({values}), "
                "so that their difference is that of "
                "the data too. Give all the same, or make it a factor of its own: "
                "vary: {data: [...]}."
            )
        raise UserError(
            f"{declaration.name}: {both} are split in different ways ({values}), "
            f"so that they are measured on different images. Give all the same {name}."
        )


def _folder_names(titles: Sequence[str], name: str) -> list[str]:
    """Return a folder's name for each variant; capitals do not tell folders apart everywhere.

    Raises:
        UserError: two variants would share a folder.
    """
    seen: dict[str, str] = {}
    for title in titles:
        folder = re.sub(r"[^\w.+]+", "-", title).strip("-.") or "run"
        if len(folder) > LONGEST_NAME:
            number = len(seen) + 1
            folder = f"{folder[:LONGEST_NAME]}-{number}"
        if folder.lower() in {other.lower() for other in seen}:
            raise UserError(
                f"{name}: two variants are called '{title}'. Give each level a name of its own."
            )
        seen[folder] = title

    return list(seen)
