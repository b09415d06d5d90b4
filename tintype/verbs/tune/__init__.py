"""Tuning: trials that search for good settings by validation, and a tested winner.

The winner is retrained before it is tested. Each trial is an ordinary run that leaves the test
split out. A tuning is a folder: tune.yaml (what was asked), optuna.db or, where several processes
share the folder, optuna.journal (unless the trials lie in a shared database), a run folder for each
trial, the winner's runs as a study, table.csv, tuning.json and tuning.html. Optuna (Akiba et al.
2019) proposes the settings and stops what falls behind.
"""

from __future__ import annotations

import time as clock
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tintype import own_code
from tintype.data.memory import given
from tintype.errors import Interrupted, UserError
from tintype.files.bounded import refuse_ways_out
from tintype.files.lease import Lease, Leases
from tintype.interface.calls import public
from tintype.progress import Watcher, display_for, duration, silence
from tintype.recipe import Recipe, parse_duration, resolve
from tintype.runs.folder import RunFolder
from tintype.runs.ranking import ranking_part
from tintype.runs.remote import refuse_address
from tintype.seeds import fold
from tintype.training.run import plan as prepare_run
from tintype.training.signals import interruptible
from tintype.verbs.study import Declaration, run_study
from tintype.verbs.study.folder import is_occupied
from tintype.verbs.study.run_all import SECONDS_TO_LOOK
from tintype.verbs.tune.beside import helpers, leases_of, turn
from tintype.verbs.tune.folder import Outcome, Tuning, TuningRequest
from tintype.verbs.tune.space import check_space, default_space, own_values, read_space
from tintype.verbs.tune.storage import JOURNAL, import_optuna, open_database
from tintype.verbs.tune.trial import folder_of_trial, run_trial

if TYPE_CHECKING:
    import optuna

__all__ = ["Outcome", "Tuning", "tune"]

USUAL_TRIALS = 20
# one in so many trials is drawn at random before the sampler begins to model, at most 10
RANDOM_PART = 3
WARMUP = 2  # evaluations, of which the first alone says too little
FEWEST_TO_PRUNE = 4  # trials that run to the end before one may be stopped early


@public()
def tune(
    what: Any,
    *,
    trials: int | None = None,
    time: str | None = None,
    storage: str | None = None,
    seeds: int = 3,
    prune: bool = True,
    workers: int = 1,
    join: bool = False,
    out: str | Path = "runs",
    name: str | None = None,
    watcher: Watcher | None = None,
    verbose: bool | None = None,
    **changes: Any,
) -> Tuning:
    """Search for good settings by validation; then retrain and test the best ones.

    They are retrained with seeds that no trial had.

    Args:
        what: a recipe's name or file, a data set's name, a folder of images, a Recipe, images in
            memory as `train` takes them; or the folder of a tuning.
        trials: how many in all, on all machines together; 20 where no time is given.
        time: begin no trial after this, as in 30m.
        storage: URL of a database that several machines share; by default SQLite in the folder.
        seeds: how often the winner is trained anew; 0 leaves the test split alone.
        prune: stop trials early that fall behind on validation.
        workers: processes that run trials at once; 0 begins the tuning and leaves its trials to
            those who join.
        join: run trials of a tuning that was begun with `workers`, from any machine that sees its
            folder.
        out: folder in which the folder of the tuning is made.
        name: name of that folder, and of the trials in the database; by default that of the recipe
            with "-tune".
        watcher: where progress is reported.
        verbose: False shows no progress, and keeps libraries silent too.
        changes: any field of the recipe; `search` says what is chosen from.

    Returns:
        The tuning; `.outcome()` holds the flattering and the honest figures.

    Raises:
        UserError: Optuna is missing, the search space is wrong, or the database cannot be reached.
        Interrupted: stopped by a signal; the same call goes on.
    """
    watcher = display_for(watcher, verbose)
    refuse_address(out, "a tuning")
    with silence(verbose):
        how = _How(trials, time, storage, seeds, prune, workers, join)
        return _tune(what, how, Path(out), name, watcher, changes)


@dataclass(frozen=True)
class _How:
    """How a tuning is to be run; the attributes are arguments of `tune`."""

    trials: int | None
    time: str | None
    storage: str | None
    seeds: int
    prune: bool
    workers: int
    join: bool
    helps: bool = False  # runs trials, and leaves the winner to the process that began it

    @property
    def total(self) -> int | None:
        """How many trials are wanted; None where only the time is bounded."""
        return USUAL_TRIALS if self.trials is None and self.time is None else self.trials

    def check(self) -> None:
        """Raise a UserError for a number that is out of range."""
        if self.trials is not None and self.trials < 1:
            raise UserError(f"trials is {self.trials}. Expected a number from 1 on.")
        if self.seeds < 0:
            raise UserError(f"seeds is {self.seeds}. Expected a number from 0 on.")
        fewest = 1 if self.join else 0
        if self.workers < fewest:
            raise UserError(f"workers is {self.workers}. Expected a number from {fewest} on.")


def _tune(
    what: str | Path | Recipe,
    how: _How,
    out: Path,
    name: str | None,
    watcher: Watcher,
    changes: dict[str, Any],
) -> Tuning:
    """Search and retrain."""
    import_optuna()
    what, changes = given(what, changes)
    how.check()
    seconds = parse_duration(how.time) if how.time else None
    if how.join:
        what = _begun(what, out, name)
        name = None
    path, request = _asked(what, out, name, how.storage, watcher, changes)
    if how.seeds and not request.recipe.test_fraction:
        raise UserError(
            "a tuning ends with its winner's figures on the test part, "
            "and none was wanted (test_fraction 0). "
            "Leave that out, or add --seeds 0."
        )

    path.mkdir(parents=True, exist_ok=True)
    refuse_ways_out(path)

    with ExitStack() as stack:
        if not how.join:
            stack.enter_context(RunFolder(path).locked())
        database = open_database(
            path,
            path.name,
            how.storage,
            higher_is_better=request.higher_is_better,
            joined=how.join or how.workers != 1,
        )
        request.write(path / "tune.yaml")
        tuning = Tuning(path, request, database)
        if not how.workers:
            watcher.note(f"tuning: {path}; its trials wait for: tintype tune {path} --join")
            return tuning
        watcher.note(
            f"tuning: {path}, {', '.join(request.space)}; "
            f"{len(tuning.trials())} trials done already"
        )
        try:
            with interruptible(path), helpers(path, how.workers - 1, asdict(how)):
                _search(tuning, how.total, seconds, how.prune, watcher)
                if how.helps:
                    return tuning
                _close(tuning, how.seeds, watcher)
        except Interrupted as stopped:
            raise Interrupted(stopped.number, path, "tintype tune") from None
        finally:
            watcher.close()
    if tuning.best is None:
        messages = [trial.user_attrs["message"] for trial in tuning.trials("FAIL")]
        raise UserError(
            f"no trial came to its end. {messages[-1] if messages else 'Give more time or trials.'}"
        )

    return tuning


def _begun(what: Any, out: Path, name: str | None) -> Path:
    """Return the folder of a tuning that is joined.

    Raises:
        UserError: there is none.
    """
    path = Path(str(what))
    if not (path / "tune.yaml").is_file():
        path = out / (name or f"{path.stem}-tune")
    if not (path / "tune.yaml").is_file():
        raise UserError(
            f"there is no tuning to join in {path}: it holds no tune.yaml. Begin it first: "
            "tintype tune (--workers 0 runs nothing, and leaves the trials to those who join)."
        )
    return path


def _close(tuning: Tuning, seeds: int, watcher: Watcher) -> None:
    """Train the winner and write the page; one process does it, and the others wait for that."""
    with turn(tuning.path, "winner", watcher):
        if seeds and tuning.best is not None:
            _train_winner(tuning, seeds, watcher)
        watcher.note(f"page: {tuning.report()}")
    leases = leases_of(tuning.path)
    if not leases.held():
        leases.clear()


def help_with(path: Path, how: Mapping[str, Any]) -> None:
    """Run trials of a tuning in this process until there are enough, and show nothing.

    Raises:
        Interrupted: stopped by a signal; the state of the trial under way is saved.
    """
    _tune(
        path, _How(**{**how, "workers": 1, "join": True, "helps": True}), path, None, Watcher(), {}
    )


def _asked(
    what: str | Path | Recipe,
    out: Path,
    name: str | None,
    storage: str | None,
    watcher: Watcher,
    changes: dict[str, Any],
) -> tuple[Path, TuningRequest]:
    """Return the folder, and what is asked: as it was before, or checked from the recipe on."""
    if isinstance(what, str | Path) and (Path(what) / "tune.yaml").is_file():
        request = TuningRequest.read(Path(what) / "tune.yaml")
        if changes or name:
            raise UserError(f"{what} goes on as it was begun. Type only: tintype tune {what}")
        if request.shared and storage is None:
            raise UserError(
                f"the trials of {what} lie in a shared database. Say which: --storage URL"
            )
        return Path(what), request

    recipe, label = (
        (what, "recipe") if isinstance(what, Recipe) else (resolve(str(what))[0], str(what))
    )
    recipe = recipe.replace(**changes)
    if recipe.folds:
        raise UserError(
            "folds: trials of a tuning are compared on validation, and its winners are measured on "
            "the test part. Leave folds out, and train the winner with --folds."
        )
    if own_code.is_in_python(label):
        label = own_code.plain_name(label)
    own_code.refuse_given(recipe.own_code(), "the winners of a tuning")
    path = out / (name or f"{Path(label).stem}-tune")
    if not (path / "tune.yaml").exists() and is_occupied(path, but_for=["optuna.db", JOURNAL]):
        raise UserError(f"{path} is there already and is not a tuning. Choose another --name.")

    # begun with a number, which the trials keep
    if recipe.threads == "auto" and (path / "tune.yaml").exists():
        recipe = recipe.replace(threads=TuningRequest.read(path / "tune.yaml").recipe.threads)
    if (path / "tune.yaml").exists():
        begun = TuningRequest.read(path / "tune.yaml").recipe
        versioned = {"split_rule", "rules"} - recipe.stated().keys()
        recipe = recipe.replace(**{rule: getattr(begun, rule) for rule in versioned})

    # What its runs are ranked by, data, network and paths: all is checked before
    # anything is written.
    ranking_part(recipe.task, "be tuned")
    prepared = prepare_run(recipe, Watcher())
    recipe, task = prepared.recipe, prepared.task
    space = read_space(recipe.search) or default_space(recipe, task.networks)
    check_space(recipe, space)

    return path, TuningRequest(
        recipe, space, task.score_name, task.higher_is_better, storage is not None
    )


def _search(
    tuning: Tuning, total: int | None, seconds: float | None, prune: bool, watcher: Watcher
) -> None:
    """Run trials until there are `total` on all machines, or the time is up; one that was
    interrupted goes first.
    """
    optuna = import_optuna()
    started = clock.perf_counter()
    startup = min(10, max(2, (total or USUAL_TRIALS) // RANDOM_PART))

    tuning.database.pruner = (
        optuna.pruners.MedianPruner(n_startup_trials=FEWEST_TO_PRUNE, n_warmup_steps=WARMUP)
        if prune
        else optuna.pruners.NopPruner()
    )
    if not tuning.database.get_trials(deepcopy=False):
        own = own_values(tuning.request.recipe, tuning.request.space)
        if own is not None:
            # the recipe as it is, so that the search cannot end below it by luck
            tuning.database.enqueue_trial(own)

    for done_here, (trial, lease) in enumerate(_next_trials(tuning, total, startup)):
        passed, left = clock.perf_counter() - started, ""
        if done_here and total is not None:
            left = f", about {duration(passed / done_here * (total - len(tuning.trials())))} left"
        watcher.note(
            "[trial "
            f"{trial.number}{f', {len(tuning.trials())} of {total} done' if total else ''}{left}]"
        )
        try:
            said = run_trial(tuning, trial, watcher, lease)
        finally:
            lease.release()
        watcher.note(f"  {said}; {_params(trial)}")
        if seconds is not None and clock.perf_counter() - started >= seconds:
            watcher.note(f"the time is up after {len(tuning.trials())} trials")
            return


def _next_trials(
    tuning: Tuning, total: int | None, startup: int
) -> Iterator[tuple[optuna.Trial, Lease]]:
    """Yield trials with their leases: those of this folder whose process has ended, then new ones.

    Where other processes run the last ones, wait for them.
    """
    leases = leases_of(tuning.path)
    while True:
        with turn(tuning.path, "next"):
            found = _next_trial(tuning, leases, total, startup)
        if found is not None:
            yield found
        elif total is None or len(tuning.trials()) >= total or not leases.held():
            return
        else:
            clock.sleep(SECONDS_TO_LOOK)


def _next_trial(
    tuning: Tuning, leases: Leases, total: int | None, startup: int
) -> tuple[optuna.Trial, Lease] | None:
    """Return a trial that nobody runs, or a new one; None where there are enough."""
    optuna, database = import_optuna(), tuning.database
    here = str(tuning.path.resolve())
    known = database.get_trials(deepcopy=False)
    under_way = 0
    for frozen in known:
        if frozen.state.name != "RUNNING" or frozen.user_attrs.get("folder") != here:
            continue
        lease = leases.take(folder_of_trial(frozen.number))
        if lease is not None:
            _set_sampler(database, tuning, startup, frozen.number)
            return optuna.Trial(database, frozen._trial_id), lease
        under_way += 1

    if total is not None and len(tuning.trials()) + under_way >= total:
        return None
    _set_sampler(database, tuning, startup, len(known))
    trial = database.ask()
    trial.set_user_attr("folder", here)
    lease = leases.take(folder_of_trial(trial.number))
    return None if lease is None else (trial, lease)


def _set_sampler(database: optuna.Study, tuning: Tuning, startup: int, number: int) -> None:
    """Give each trial a sampler of its own seed, so that a search that was interrupted proposes
    what it would have.
    """
    optuna = import_optuna()
    seed = fold(tuning.request.recipe.seed, "trial", number) % 2**32
    database.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup)


def _params(trial: optuna.Trial) -> str:
    return ", ".join(
        f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in trial.params.items()
    )


def _train_winner(tuning: Tuning, seeds: int, watcher: Watcher) -> None:
    """Train the best settings anew, with seeds that no trial had, and test those runs."""
    best, folder = tuning.best, tuning.winner_folder
    assert best is not None
    assert folder is not None

    claimed = tuning.database.user_attrs.get("winner")
    here = str(tuning.path.resolve())
    if claimed and claimed["folder"] != here and claimed["trial"] == best.number:
        watcher.note(f"the winner, trial {best.number}, is trained anew in {claimed['folder']}")
        return

    tuning.database.set_user_attr("winner", {"trial": best.number, "folder": here})
    recipe = tuning.request.recipe.replace(**tuning.settings(best))
    first = recipe.seed + 1  # the trials had the recipe's own
    declaration = Declaration(
        folder.name,
        recipe.model_dump(mode="json", exclude_unset=True),
        seeds=tuple(range(first, first + seeds)),
    )
    watcher.note(
        f"the winner is trial {best.number}; it is trained anew with {seeds} fresh seeds and tested"
    )
    found = run_study(declaration, folder, watcher=watcher, command=f"tintype tune {tuning.path}")
    for name, message in found.failures().items():
        watcher.note(f"{name} failed: {message}")
