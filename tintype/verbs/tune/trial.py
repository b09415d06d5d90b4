"""One trial: a run with proposed settings, judged on validation, stopped where it falls behind the
others.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tintype import own_code
from tintype.errors import Interrupted, UserError
from tintype.files.lease import Lease
from tintype.progress import Live, Watcher
from tintype.runs.folder import RunFolder
from tintype.training.run import resume, train
from tintype.verbs.study.folder import remove_unstarted
from tintype.verbs.study.single import LostLeaseError
from tintype.verbs.tune.folder import Tuning
from tintype.verbs.tune.storage import import_optuna

if TYPE_CHECKING:
    import optuna


class TrialWatcher(Watcher):
    """Passes on the progress of a trial, reports its figures, and stops it if pruned.

    A figure belongs to a place: how many evaluations fit into the epochs so far, which is the same
    for every batch size.
    """

    def __init__(self, trial: optuna.Trial, tuning: Tuning, watcher: Watcher, lease: Lease) -> None:
        self.trial, self.watcher, self.lease = trial, watcher, lease
        self.score, self.every = tuning.request.score, tuning.request.recipe.evaluate_every
        frozen = tuning.database.get_trials(deepcopy=False)[trial.number]
        self.seen = set(frozen.intermediate_values)  # of a trial that was interrupted
        self.rows: list[dict[str, Any]] = []
        self.total_steps = 0

    def on_step(self, step: int, total_steps: int, loss: float, images_per_second: float) -> None:
        if self.lease.lost:
            raise LostLeaseError
        self.total_steps = total_steps
        self.watcher.on_step(step, total_steps, loss, images_per_second)

    def on_row(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self.watcher.on_row(row)

    def on_evaluation(self, step: int, epoch: float, figures: dict[str, Any]) -> None:
        if isinstance(self.watcher, Live):  # a terminal would get a line for each
            self.watcher.on_evaluation(step, epoch, figures)
        place = round(epoch / self.every)
        if place in self.seen or self.score not in figures:
            return
        self.seen.add(place)
        self.trial.report(float(figures[self.score]), place)
        # at its end there is nothing left to save
        if step < self.total_steps and self.trial.should_prune():
            raise import_optuna().TrialPruned

    def note(self, line: str) -> None:
        if line.startswith(("warning", "resumed", "stopped early", "not bit-equal")):
            self.watcher.note(f"  {line}")

    def close(self) -> None:
        self.watcher.close()


def folder_of_trial(number: int) -> str:
    """Return the name of a trial's run folder, and of its lease."""
    return f"trial-{number:04d}"


def run_trial(tuning: Tuning, trial: optuna.Trial, watcher: Watcher, lease: Lease) -> str:
    """Train a trial, or go on with it, tell the database its end, and return a line about it.

    Raises:
        Interrupted: a signal came; the state is saved, and the trial stays open.
    """
    optuna, request = import_optuna(), tuning.request
    name = folder_of_trial(trial.number)
    path = tuning.path / name
    trial.set_user_attr("run", name)
    trial.set_user_attr("folder", str(tuning.path.resolve()))
    changes = {field: entry.suggest(field, trial) for field, entry in request.space.items()}
    telling = TrialWatcher(trial, tuning, watcher, lease)

    command = f"tintype tune {tuning.path}"
    try:
        recipe = request.recipe.replace(measure="val", **changes)
        if (path / "recipe.yaml").exists():
            own_code.trust_all(recipe.own_code())
            run = resume(path, telling, command=command)
        else:
            remove_unstarted(path)
            run = train(recipe, telling, out=tuning.path, name=name, command=command)
        value = float(run.read("evaluation.json")["splits"]["val"][request.score])
    except Interrupted:
        raise
    except LostLeaseError:
        return "another process has taken it over"
    except optuna.TrialPruned:
        tuning.database.tell(trial, state=optuna.trial.TrialState.PRUNED)
        _close_pruned(path, telling.rows)
        return "stopped early, it fell behind the others"
    except Exception as error:  # of whatever kind: the others go on
        message = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        trial.set_user_attr("message", message)
        tuning.database.tell(trial, state=optuna.trial.TrialState.FAIL)
        return f"failed: {message}"

    tuning.database.tell(trial, value)
    return f"{tuning.measure.said(value)} on validation"


def _close_pruned(path: Path, rows: list[dict[str, Any]]) -> None:
    """Leave in a pruned trial's folder what was logged so far, and its state."""
    run = RunFolder(path)
    header = list(dict.fromkeys(name for row in rows for name in row))
    if len(rows) > len(run.read_table("metrics.csv")):
        run.write_table(
            "metrics.csv", header, [[row.get(name, "") for name in header] for row in rows]
        )
    run.set_status("pruned", step=rows[-1]["step"] if rows else 0)
