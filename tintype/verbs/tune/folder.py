"""The folder of a tuning: what was asked, the trials in the database, the winner's runs, and what
they come to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tintype.errors import UserError
from tintype.files.whole import write_json, written_whole
from tintype.files.yaml_files import read_yaml
from tintype.interface.lazy import Lazy
from tintype.interface.notebook import frame_of
from tintype.recipe import OLD_SPLIT_RULE, Recipe, build
from tintype.runs.folder import RunFolder
from tintype.runs.ranking import Criterion, criterion_of
from tintype.runs.shapes import MISFIT
from tintype.verbs.study import Study
from tintype.verbs.tune.space import OneOf, Space, as_plain, read_space
from tintype.verbs.tune.storage import import_optuna

if TYPE_CHECKING:
    import optuna
    import pandas
else:
    optuna = Lazy("optuna")
    pandas = Lazy("pandas")

FEWEST_FOR_IMPORTANCE = 20  # finished trials; of fewer the shares are mostly noise


@dataclass(frozen=True)
class TuningRequest:
    """What a tuning was asked for, as tune.yaml holds it; it stays the same when the tuning is gone
    on with.
    """

    recipe: Recipe
    space: Space
    score: str
    higher_is_better: bool
    shared: bool  # whether the trials lie in a database elsewhere

    def write(self, path: Path) -> None:
        """Write tune.yaml, or compare it with the one that is there.

        Raises:
            UserError: something else was asked before.
        """
        if path.exists():
            changed = self._changed_since(TuningRequest.read(path))
            if changed:
                raise UserError(
                    f"{path.parent} was begun with another {changed}. "
                    "Choose another --name, or leave it so."
                )
            return

        with written_whole(path) as temporary:
            temporary.write_text(
                yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True),
                encoding="utf-8",
            )

    def _changed_since(self, before: TuningRequest) -> str:
        """Return what differs from an earlier call, empty where nothing does.

        A field that is younger has its default.
        """
        threads = self.recipe.threads if before.recipe.threads == "auto" else before.recipe.threads
        same = replace(before, recipe=before.recipe.replace(threads=threads))
        earlier, now = (
            request.to_dict() | {"recipe": request.recipe.model_dump(mode="json")}
            for request in (same, self)
        )
        return next((key for key, value in now.items() if earlier[key] != value), "")

    @classmethod
    def read(cls, path: Path) -> TuningRequest:
        """Read tune.yaml.

        Raises:
            UserError: it is broken.
        """
        try:
            content = read_yaml(path)
            before = {"split_rule": OLD_SPLIT_RULE, "rules": 1, **content["recipe"]}
            recipe, space = build(before, where=str(path)), read_space(content["search"])
            request = cls(
                recipe, space, content["score"], content["higher_is_better"], content["shared"]
            )
            if not isinstance(request.score, str) or not isinstance(request.higher_is_better, bool):
                raise TypeError(
                    "score: expected the name of a figure, and of higher_is_better true or false"
                )
            return request
        except (OSError, yaml.YAMLError, *MISFIT) as error:
            raise UserError(
                f"{path} is broken ({error}). Begin again with another --name."
            ) from None

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "recipe": self.recipe.model_dump(mode="json", exclude_unset=True),
            "search": as_plain(self.space),
            "score": self.score,
            "higher_is_better": self.higher_is_better,
            "shared": self.shared,
        }


@dataclass(frozen=True)
class Outcome:
    """What a tuning found.

    It has the flattering figure of the best trial, and the honest ones of the retrained winner.
    `winner` maps "val" and "test" to the mean over `num_seeds` fresh seeds and the deviation
    between them.
    """

    score: str
    num_trials: int
    num_pruned: int
    num_failed: int
    best_trial: int | None
    best_validation: float | None
    settings: Mapping[str, Any]
    num_seeds: int = 0
    winner: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class BestTrial:
    """The trial with the best validation figure.

    Attributes:
        number: of the trial; its run is in the folder trial-NUMBER.
        value: its validation figure.
        settings: the fields of the recipe that it chose.
        frozen: what Optuna knows of it.
    """

    number: int
    value: float
    settings: Mapping[str, Any]
    frozen: optuna.trial.FrozenTrial = field(repr=False)

    @property
    def params(self) -> dict[str, Any]:
        """What Optuna chose, by name."""
        return self.frozen.params

    @property
    def user_attrs(self) -> dict[str, Any]:
        """What tintype recorded with the trial."""
        return self.frozen.user_attrs


class Tuning:
    """A tuning on disk, with its trials in the database."""

    def __init__(self, path: Path, request: TuningRequest, database: optuna.Study) -> None:
        self.path, self.request, self.database = path, request, database

    @property
    def measure(self) -> Criterion:
        """The figure that trials are judged by."""
        return criterion_of(self.request.recipe.task, {self.request.score: 0.0})

    def trials(self, state: str | None = None) -> list[optuna.trial.FrozenTrial]:
        """Return the trials that have ended (or those in one state: COMPLETE, PRUNED, FAIL), in
        order.
        """
        trials = self.database.get_trials(deepcopy=False)
        return [t for t in trials if (t.state.name == state if state else t.state.is_finished())]

    @property
    def best(self) -> BestTrial | None:
        """The trial with the best validation figure, the earliest of equals; None where none came
        to its end.
        """
        sign = self.measure.sign
        trials = self.trials("COMPLETE")
        if not trials:
            return None
        best = max(trials, key=lambda t: (sign * (t.value or 0.0), -t.number))
        return BestTrial(best.number, best.value or 0.0, self.settings(best), best)

    @property
    def winner(self) -> Study | None:
        """The runs of the best settings over fresh seeds, or None where they were not trained
        (here, yet).
        """
        folder = self.winner_folder
        return (
            Study.open(folder) if folder is not None and (folder / "study.yaml").exists() else None
        )

    @property
    def winner_folder(self) -> Path | None:
        """Where the best trial's settings are trained anew; a later best has another folder."""
        return None if self.best is None else self.path / f"winner-{self.best.number:04d}"

    def settings(self, trial: optuna.trial.FrozenTrial | BestTrial) -> dict[str, Any]:
        """Return the fields of the recipe that a trial chose."""
        found: dict[str, Any] = {}
        for name, entry in self.request.space.items():
            if name in trial.params:
                value = trial.params[name]
                found[name] = entry.values[value] if isinstance(entry, OneOf) else value
        return found

    def importances(self) -> dict[str, float]:
        """Return the share of the spread of validation figures that each field explains (fANOVA,
        Hutter et al. 2014).
        """
        complete = self.trials("COMPLETE")
        if len(complete) < FEWEST_FOR_IMPORTANCE or len({trial.value for trial in complete}) < 2:
            return {}
        optuna = import_optuna()
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        return dict(optuna.importance.get_param_importances(self.database, evaluator=evaluator))

    def table(self) -> list[dict[str, Any]]:
        """Return a row for each trial: number, state, validation figure, what it chose, folder."""
        return [
            {
                "trial": trial.number,
                "state": trial.state.name.lower(),
                f"val_{self.request.score}": trial.value
                if trial.state.name == "COMPLETE"
                else None,
                **{name: trial.params.get(name) for name in self.request.space},
                "run": trial.user_attrs.get("run", ""),
                "message": trial.user_attrs.get("message", ""),
            }
            for trial in self.trials()
        ]

    def frame(self) -> pandas.DataFrame:
        """Return the table as a pandas frame.

        Raises:
            UserError: pandas is not installed.
        """
        return frame_of(self.table())

    def outcome(self) -> Outcome:
        """Return what was found."""
        best, winner = self.best, self.winner
        counts = {
            f"num_{name}": len(self.trials(state))
            for name, state in (("pruned", "PRUNED"), ("failed", "FAIL"))
        }
        result = winner.result() if winner else None
        variant = result.variants[0] if result else None

        return Outcome(
            self.request.score,
            len(self.trials()),
            **counts,
            best_trial=best.number if best else None,
            best_validation=best.value if best else None,
            settings=self.settings(best) if best else {},
            num_seeds=len(variant.finished) if variant else 0,
            winner={s: (variant.mean(s), variant.deviation(s)) for s in ("val", "test")}
            if variant
            else {},
        )

    def sentences(self) -> list[str]:
        """Return what was found in words, and how far it can be trusted."""
        return said_of(self.outcome(), self.measure)

    def report(self) -> Path:
        """Write table.csv, tuning.json and tuning.html, and return the page's path."""
        from tintype.verbs.tune.page import write_page

        rows = self.table()
        header = list(rows[0]) if rows else ["trial"]
        cells = [["" if value is None else value for value in row.values()] for row in rows]
        RunFolder(self.path).write_table("table.csv", header, cells)
        write_json(self.path / "tuning.json", self.to_dict())
        return write_page(self)

    def to_dict(self) -> dict[str, Any]:
        """Return what `tintype tune --json` prints."""
        return {
            "tuning": str(self.path),
            **asdict(self.outcome()),
            "sentences": self.sentences(),
            "importances": self.importances(),
            "trials": self.table(),
        }

    def __repr__(self) -> str:
        return f"Tuning({str(self.path)!r}, {len(self.trials())} trials)"


def said_of(outcome: Outcome, measure: Criterion) -> list[str]:
    """Return an outcome in words: the best trial, that its figure flatters, and what the winner
    does when trained anew.
    """
    if outcome.best_trial is None or outcome.best_validation is None:
        return [f"None of {outcome.num_trials} trials finished."]
    lower = "" if measure.higher_is_better else " (lower is better)"
    said = [
        f"The best of {outcome.num_trials} trials is number {outcome.best_trial}, whose "
        f"{measure.label} on validation is {measure.said(outcome.best_validation)}{lower}. The "
        "best of many trials looks better than it is: part of it is luck."
    ]

    again, deviation = outcome.winner.get("val", (None, None))
    if again is not None:
        change = again - outcome.best_validation
        seeds = "one new seed" if outcome.num_seeds == 1 else f"{outcome.num_seeds} new seeds"
        said.append(
            f"Retrained with {seeds}, these settings reach {_spread(again, deviation, measure)} on "
            f"validation ({measure.difference(change)})."
        )

    test, deviation = outcome.winner.get("test", (None, None))
    if test is not None:
        said.append(
            f"The honest figure is {_spread(test, deviation, measure)} on test, "
            "which no trial has used."
        )

    return said


def _spread(mean: float, deviation: float | None, measure: Criterion) -> str:
    return measure.said(mean) + (
        "" if deviation is None else f" (standard deviation {measure.number(deviation)})"
    )
