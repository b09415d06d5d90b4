"""Studies: many runs from one declaration, and one page on what is better.

It says by how much, and for what reason. A study is a folder: study.yaml (what was declared),
study.json (how far each run is), an ordinary run folder for each run, table.csv, study.html and
figures/. A study that was killed continues with the same command.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tintype.data.memory import given
from tintype.errors import UserError
from tintype.files.names import check_name
from tintype.files.whole import held
from tintype.hardware.device import Choice, num_cores
from tintype.interface.calls import public
from tintype.interface.lazy import Lazy
from tintype.interface.notebook import frame_of
from tintype.own_code import is_in_python
from tintype.pages.words import plural
from tintype.plugins import study_names
from tintype.progress import Watcher, display_for, silence
from tintype.runs.folder import RunFolder
from tintype.runs.ranking import ranking_part
from tintype.runs.remote import refuse_address
from tintype.training.prepare import refuse_missing_data
from tintype.training.run import plan as plan_run
from tintype.training.signals import interruptible
from tintype.verbs.run import Run
from tintype.verbs.study.confounding import declared_confounding, refuse_idle_differences
from tintype.verbs.study.declaration import MOST_RUNS, Declaration, PlannedRun, refuse_mixed_data
from tintype.verbs.study.figures import table
from tintype.verbs.study.folder import StudyFolder
from tintype.verbs.study.on_ray import train_on_ray
from tintype.verbs.study.queue import Queue
from tintype.verbs.study.reading import declare
from tintype.verbs.study.result import Result, result_of
from tintype.verbs.study.run_all import most_threads, run_all

if TYPE_CHECKING:
    import pandas
    from rich import console

    from tintype.verbs.compare import figures as drawn
else:
    console = Lazy("rich.console")
    drawn = Lazy("tintype.verbs.compare.figures")
    pandas = Lazy("pandas")

__all__ = [
    "Declaration",
    "PlannedRun",
    "Study",
    "declare",
    "declared_confounding",
    "plan",
    "study",
    "study_names",
]


class Study(StudyFolder):
    """A study with what can be asked of it."""

    def result(self) -> Result | None:
        """Return what the finished runs say: variants, effects and choice; None where none is
        finished.
        """
        return result_of(self)

    def table(self) -> list[dict[str, Any]]:
        """Return a row for each run: variant, level of each factor, seed, state and all figures."""
        header, rows = table(self)
        return [dict(zip(header, row, strict=True)) for row in rows]

    def frame(self) -> pandas.DataFrame:
        """Return the table as a pandas frame.

        Raises:
            UserError: pandas is not installed.
        """
        return frame_of(self.table())

    @property
    def figures(self) -> drawn.DrawnFigures:
        """Its figures as objects, such as `.ranking()`, `.against("parameters")`, `.history()`.

        Raises:
            UserError: the runs of the first seed cannot be compared, as where predictions are
                missing.
        """
        from tintype.verbs.study.drawings import compare_first_seed, figures_of

        result = self.result()
        return figures_of(self, result, compare_first_seed(result) if result else None)

    def runs(self) -> list[Run]:
        """Return the finished runs."""
        return [Run(self.path / p.name) for p in self.planned if self.is_done(p)]

    def report(self, watcher: Watcher | None = None) -> Path:
        """Write table.csv, study.html and figures/ from the files of the runs, and return the
        page's path.
        """
        from tintype.verbs.study.page import write_page

        page = write_page(self, self.result(), watcher or Watcher())
        # last: a table of all runs as they are says that the page is theirs
        RunFolder(self.path).write_table("table.csv", *table(self))
        return page

    def is_reported(self) -> bool:
        """Return whether table and page are there, and of the runs as they are."""
        header, rows = table(self)
        now = [dict(zip(header, map(_cell, row), strict=True)) for row in rows]
        there = (self.path / "study.html").exists()
        return there and RunFolder(self.path).read_table("table.csv") == now

    def lines(self) -> list[console.RenderableType]:
        """Return what the terminal shows at the end."""
        from tintype.verbs.study.terminal import lines

        return lines(self)

    def to_dict(self) -> dict[str, Any]:
        """Return what `tintype study --json` prints: table, effects, choice and failures."""
        from dataclasses import asdict

        result = self.result()
        effects = [effect.to_dict() for effect in result.effects] if result else []
        return {
            "study": str(self.path),
            "question": self.declaration.question,
            "measure": result.measure.key if result else None,
            "confounding": result.confounding if result else [],
            "runs": self.table(),
            "effects": effects,
            "choice": asdict(result.choice) if result and result.choice else None,
            "choices": {data: asdict(choice) for data, choice in result.choices.items()}
            if result
            else {},
            "remarks": list(result.remarks) if result else [],
            "failures": self.failures(),
        }

    def __repr__(self) -> str:
        return (
            f"Study({str(self.path)!r}, {len(self.planned) - len(self.waiting())} of "
            f"{len(self.planned)} runs finished)"
        )

    def _repr_html_(self) -> str:
        from tintype.pages.pages import templates

        return templates().get_template("study_table.html").render(study=self, result=self.result())


def plan(
    what: str | Path | Mapping[str, Any] | Declaration,
    *,
    seeds: Any = None,
    weights: str | None = None,
    watcher: Watcher | None = None,
    **changes: Any,
) -> list[tuple[PlannedRun, dict[str, Any]]]:
    """Check everything that `study` would do, and stop there (`--dry-run`).

    That is data, networks and choices of each variant.

    Returns:
        Each planned run with what its variant comes to: parameters, multiply-adds, steps, images.

    Raises:
        UserError: whatever is wrong with the declaration, or with one of its variants.
    """
    declaration = declare(what).replace(seeds=seeds, weights=weights, **changes)
    planned = declaration.runs()
    _refuse_unranked(declaration)
    _refuse_what_cannot_be_compared(declaration)

    summaries: dict[str, dict[str, Any]] = {}
    for run in planned:
        if run.variant not in summaries:
            try:
                prepared = plan_run(run.recipe, watcher or Watcher())
                summaries[run.variant] = prepared.summary()
            except UserError as error:
                raise UserError(f"{run.variant}: {error}") from None

    return [(run, summaries[run.variant]) for run in planned]


@public()
def study(
    what: str | Path | Mapping[str, Any] | Declaration,
    *,
    out: str | Path = "runs",
    name: str | None = None,
    seeds: Any = None,
    weights: str | None = None,
    workers: int = 1,
    join: bool = False,
    on: str | None = None,
    yes: bool = False,
    watcher: Watcher | None = None,
    verbose: bool | None = None,
    command: str | None = None,
    **changes: Any,
) -> Study:
    """Train every run of a study, or those that are left, and write its page.

    Args:
        what: a built-in study's name, a YAML file, the folder of a study, or a mapping of the same
            form.
        out: folder in which the folder of the study is made.
        name: name of that folder; by default that of the study. One that is there already is gone
            on with.
        seeds: how many, or which; by default as declared.
        weights: pretrained weights of the runs that start from some: a file, a folder with one for
            each backbone, or none.
        workers: processes that train at once; times the threads of a run not more than there are
            cores. 0 begins the study and trains nothing: its runs are left to those who join.
        join: work off what is free of a study that was begun, on this machine or on another that
            sees its folder.
        on: "ray" trains the runs as tasks of a Ray cluster, on this machine where there is none.
        yes: begin also with more than 500 runs.
        watcher: where progress is reported.
        verbose: False shows no progress, and keeps libraries silent too.
        command: how to repeat it, for the reports of the runs.
        changes: fields of every run, as in `epochs=5`.

    Returns:
        The study; `.result()` holds table, effects and choice, and `.failures()` the runs that
        failed.

    Raises:
        UserError: a mistake in the declaration; of a run that fails the study only tells.
        Interrupted: stopped by a signal; the same call goes on.
    """
    watcher = display_for(watcher, verbose)
    _, changes = given(None, changes, resumed=True)
    refuse_address(out, "a study")
    if join:
        stated = {"seeds": seeds, "weights": weights, **changes}
        path, declaration = _begun(what, Path(out), name, stated)
    else:
        declaration = declare(what)
        label = _folder_name(name or declaration.name)
        path = Path(str(what)) if _is_folder(what) else Path(out) / label
        declaration = declaration.replace(seeds=seeds, weights=weights, **changes)
    _refuse_unranked(declaration)
    if declaration.num_runs > MOST_RUNS and not yes:
        raise UserError(
            f"{declaration.name} is a grid of {declaration.num_runs:,} runs. "
            "If that is what you want, add --yes; "
            "`tintype tune` finds good settings in far fewer."
        )
    # earlier studies may continue, whatever they hold
    if not (path / "study.yaml").exists():
        _refuse_what_cannot_be_compared(declaration)
        if workers:  # else those who join may have the images, and this machine need not
            _refuse_missing_data(declaration)
    if on not in (None, "ray"):
        raise UserError(f"--on is '{on}'. Expected ray.")
    fewest = 1 if join else 0
    if workers < fewest:
        raise UserError(f"workers is {workers}. Expected a number from {fewest} on.")

    if (workers != 1 or join or on) and any(
        is_in_python(run.recipe.data) for run in declaration.runs()
    ):
        raise UserError(
            "data in memory are those of this process alone. Leave workers out, or write the "
            "images into a folder."
        )
    _refuse_more_threads_than_cores(declaration, path, workers)
    with silence(verbose):
        return run_study(
            declaration, path, watcher=watcher, workers=workers, join=join, on=on, command=command
        )


def _begun(
    what: Any, out: Path, name: str | None, stated: Mapping[str, Any]
) -> tuple[Path, Declaration]:
    """Return the folder of a study that is joined, and what was declared there.

    Raises:
        UserError: there is none, or it is to be changed.
    """
    named = name or (Path(what).stem if isinstance(what, str | Path) else declare(what).name)
    path = Path(str(what)) if _is_folder(what) else out / _folder_name(named)
    if not (path / "study.yaml").is_file():
        shown = what if isinstance(what, str | Path) else "STUDY"
        raise UserError(
            f"there is no study to join in {path}: it holds no study.yaml. Begin it first: "
            f"tintype study {shown} --workers 0 (which leaves the runs to those who join)."
        )
    changed = [key for key, value in stated.items() if value is not None]
    if changed:
        raise UserError(
            f"--join trains {path} as it was declared. Leave --{changed[0].replace('_', '-')} out."
        )
    return path, declare(path)


def _refuse_unranked(declaration: Declaration) -> None:
    """Raise before anything is trained where a task says nothing that its runs are ranked by."""
    for task in {run.recipe.task for run in declaration.runs()}:
        ranking_part(task, "be studied")


def _refuse_what_cannot_be_compared(declaration: Declaration) -> None:
    refuse_mixed_data(declaration)
    refuse_idle_differences(declaration)


def _refuse_missing_data(declaration: Declaration) -> None:
    """Raise before the folder is made where a look at the data of a run finds none."""
    recipes = (run.recipe for run in declaration.runs())
    for recipe in {(each.data, each.data_root): each for each in recipes}.values():
        refuse_missing_data(recipe)


def run_study(
    declaration: Declaration,
    path: Path,
    *,
    watcher: Watcher,
    workers: int = 1,
    join: bool = False,
    on: str | None = None,
    command: str | None = None,
) -> Study:
    """Train what is left of the study in the folder `path`, and write its page.

    `study` has checked it before.

    Raises:
        UserError: something else is there, or its runs were begun with other recipes.
        Interrupted: stopped by a signal.
    """
    command = command or f"tintype study {path}"
    if join:
        found = Study.open(path)
        _work_off(found, watcher, workers, command, on)
        with interruptible(path), held(path / ".lock"):
            if not found.is_reported():
                _close(found, watcher)
        return found

    Study.make_folder(path)
    # before anything is written: another process may train it as it was declared before
    with RunFolder(path).locked():
        found = Study.create(path, declaration)
        found.save()
        if not workers:
            watcher.note(f"study: {path}; its runs wait for: tintype study {path} --join")
            return found
        found.forget_failures()
        _work_off(found, watcher, workers, command, on)
        with interruptible(path):
            _close(found, watcher)
    return found


def _work_off(found: Study, watcher: Watcher, workers: int, command: str, on: str | None) -> None:
    waiting = found.waiting()
    done = len(found.planned) - len(waiting)
    runs = plural(len(found.planned), "run")
    watcher.note(f"study: {found.path}, {runs}, {done} done already")
    if waiting:
        watcher.note(_threads_line(waiting))
        run_all(found, watcher, workers, command, train_on_ray if on else None)


def _close(found: Study, watcher: Watcher) -> None:
    watcher.note(f"page: {found.report(watcher)}")
    found.save()
    Queue(found).leases.clear()


def _cell(value: Any) -> str:
    """Return a value as it stands in a CSV file."""
    return "" if value is None else str(value)


def _refuse_more_threads_than_cores(declaration: Declaration, path: Path, workers: int) -> None:
    """Raise where the workers would share cores, which slows all of them down.

    A study that continues with one worker is not refused: its number of threads was fixed when it
    began.
    """
    planned, cores = declaration.runs(), num_cores()
    threads = most_threads(planned)
    workers = min(workers, len(planned))
    if workers * threads <= cores or (workers == 1 and (path / "study.yaml").exists()):
        return
    raise UserError(
        f"{workers} worker{'s' if workers > 1 else ''} with {threads} "
        f"thread{'s' if threads > 1 else ''} each would need "
        f"{workers * threads} cores, and there are {cores}. Lower --workers or --threads."
    )


def _threads_line(runs: Sequence[PlannedRun]) -> str:
    reason = "for each run, however many are trained at once, so that no figure depends on it"
    return str(Choice("threads", str(most_threads(runs)), reason))


def _is_folder(what: Any) -> bool:
    return (
        isinstance(what, str | Path)
        and str(what) not in study_names()
        and (Path(what) / "study.yaml").is_file()
    )


def _folder_name(name: str) -> str:
    check_name(name, "study")
    return name
