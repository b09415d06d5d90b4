"""In what variants differ beside what a study asks about; where that is more than one setting, no
setting is credited.
"""

from __future__ import annotations

import json
from typing import Any

from tintype.errors import UserError
from tintype.recipe import ALIASES
from tintype.tasks.contract.compare import listed
from tintype.verbs.compare.settings import (
    READ_BY,
    READ_TO_STOP,
    Confounding,
    Difference,
    completed,
    differing,
    name_of,
    settings_of,
)
from tintype.verbs.study.declaration import Declaration, PlannedRun, is_field
from tintype.verbs.study.folder import StudyFolder

LENGTH = ("epochs", "steps")


def confounding_of(study: StudyFolder, factor: str, level: str) -> Confounding | None:
    """Return in what a level of a factor differs from the first one.

    It is None where that is what the study asks about. Recipes of runs that were begun count as
    they were completed, the others as they are declared.
    """
    return _confounding(study.declaration, study.planned, factor, level, study)


def declared_confounding(declaration: Declaration) -> list[Confounding]:
    """Return what `confounding_of` says of all levels of all factors, before training."""
    planned = declaration.runs()
    levels = [
        (factor, level)
        for factor, known in declaration.factors.items()
        for level in list(known)[1:]
    ]
    found = (_confounding(declaration, planned, factor, level, None) for factor, level in levels)
    return [each for each in found if each is not None]


def refuse_idle_differences(declaration: Declaration) -> None:
    """Raise where two variants differ only in what neither of them reads.

    An example is the momentum of adamw.

    Raises:
        UserError: they are the same run under two names.
    """
    idle = {*READ_BY, *READ_TO_STOP}
    seen: dict[str, tuple[PlannedRun, dict[str, Any]]] = {}
    for run in declaration.runs():
        if run.seed != declaration.seeds[0]:
            continue

        recipe = run.recipe.model_dump(mode="json")
        rest = {key: value for key, value in recipe.items() if key not in idle}
        same = json.dumps([rest, settings_of(recipe)], sort_keys=True)
        other, before = seen.setdefault(same, (run, recipe))
        if other is run:
            continue

        fields = [name_of(key) for key in idle if recipe[key] != before[key]]
        raise UserError(
            f"{declaration.name}: '{other.variant}' and '{run.variant}' are the same but for "
            f"{listed(sorted(fields))}, which neither of them reads. Leave one out."
        )


def _confounding(
    declaration: Declaration,
    planned: list[PlannedRun],
    factor: str,
    level: str,
    study: StudyFolder | None,
) -> Confounding | None:
    reference = next(iter(declaration.factors[factor]))
    by_context: dict[tuple[str, ...], dict[str, PlannedRun]] = {}
    for run in planned:
        context = tuple(value for name, value in run.levels.items() if name != factor)
        by_context.setdefault(context, {}).setdefault(run.levels[factor], run)

    found: dict[str, Difference] = {}
    for runs in by_context.values():
        for difference in differing(_recipe(runs[reference], study), _recipe(runs[level], study)):
            found.setdefault(difference.field, difference)
    asked = _asked(declaration, factor)
    if len(found) < 2 or all(_covers(asked, field) for field in found):
        return None
    names = [declaration.shown(factor, each) for each in (level, reference)]
    about = tuple(dict.fromkeys(name_of(field) for field in asked))
    return Confounding(names[0], names[1], tuple(found.values()), about)


def _recipe(planned: PlannedRun, study: StudyFolder | None) -> dict[str, Any]:
    if study is None:
        return planned.recipe.model_dump(mode="json")
    run = study.run(planned)
    begun = (run.path / "recipe.yaml").is_file()
    recipe = (run.recipe if begun else planned.recipe).model_dump(mode="json")
    return (
        completed(recipe, run.read("model.json")) if (run.path / "model.json").is_file() else recipe
    )


def _asked(declaration: Declaration, factor: str) -> list[str]:
    """Return the fields that the question names: those of `about`, and that of a factor which is
    one.
    """
    fields = [*declaration.about, *([factor] if is_field(factor) else [])]
    return [_plain(field) for field in fields]


def _plain(field: str) -> str:
    name, dot, option = field.replace("-", "_").partition(".")
    name = ALIASES.get(name, name)
    if dot and name in ("model", "task"):
        name += "_options"
    return "length" if name in LENGTH else f"{name}{dot}{option}"


def _covers(asked: list[str], field: str) -> bool:
    """Return whether a field is asked about: by itself, or as an option of what is."""
    root = field.partition(".")[0]
    return field in asked or root in asked or root.removesuffix("_options") in asked
