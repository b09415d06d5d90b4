"""Training, in Python: `train` makes a Run, and `plan` says what it would do."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from tintype import own_code
from tintype.errors import UserError
from tintype.interface.calls import public
from tintype.interface.lazy import Lazy
from tintype.interface.recipe_fields import RecipeFields
from tintype.interface.tables import Table
from tintype.interface.watching import OneWatcher
from tintype.progress import Watcher, display_for, silence
from tintype.recipe import Recipe
from tintype.runs.folder import RunFolder
from tintype.verbs.run import Run

if TYPE_CHECKING:
    import pandas

    from tintype.training.prepare import Prepared
else:
    pandas = Lazy("pandas")

__all__ = ["Run", "Runs", "load", "plan", "runs", "train"]


def plan(
    what: Any = None,
    *,
    splits: Any = None,
    sample_weight: Any = None,
    watcher: Watcher | None = None,
    verbose: bool | None = None,
    **changes: Unpack[RecipeFields],
) -> Prepared:
    """Resolve and check everything that `train` would do, and stop there (`--dry-run`)."""
    from tintype.data.cache import DRY_RUN_BYTES, writing_at_most
    from tintype.data.memory import given
    from tintype.training import run

    watcher = display_for(watcher, verbose)
    what, fields = given(what, changes, splits, sample_weight)
    what = "digits" if what is None else what
    with writing_at_most(DRY_RUN_BYTES):
        return run.plan(what, watcher, verbose=bool(verbose), **fields)


@public(hint="Images in memory: tt.train((images, labels)).")
def train(
    what: Any = None,
    *,
    splits: Any = None,
    sample_weight: Any = None,
    out: str | Path = "runs",
    name: str | None = None,
    resume: str | Path | RunFolder | None = None,
    watcher: Watcher | None = None,
    watchers: OneWatcher | Sequence[OneWatcher] | None = None,
    verbose: bool | None = None,
    command: str | None = None,
    trust: Any = None,
    **changes: Unpack[RecipeFields],
) -> Run:
    """Train a model and measure it: on validation while it trains, once on test at the end.

    Args:
        what: a recipe's name or file, a data set's name, a folder of images, a Recipe, or images in
            memory, as in `train((images, labels))`; "digits" by default.
        splits: parts, as in (0.7, 0.1, 0.2); for images in memory also positions, as in
            {"train": [...], "val": [...], "test": [...]}, the name of a split for each image, or
            that of a column.
        sample_weight: for images in memory, the weight of each in the loss, or a column; a CSV file
            has a column of that name.
        out: folder in which the run folder is made, or an address that it is uploaded to, such as
            "s3://bucket/runs"; the run folder then is in runs/.
        name: name of the run folder; must be new. By default that of the recipe, with a number
            where it is taken.
        resume: a run folder, or its address, to go on with; everything else is then read from its
            recipe. Only `data` and `data_root` may be given as well, where the same photos now are
            somewhere else, or were given in memory.
        watcher: is shown the progress; by default a bar on a terminal, a curve in a notebook,
            lines elsewhere.
        watchers: your own, one or several: functions `(step, epoch, figures)` that are called at
            each evaluation, or objects with some of the methods `on_start`, `on_step`, `on_row`,
            `on_evaluation`, `on_end` (see `tintype.interface.watching`). One that returns True, or
            raises `tintype.StopTraining`, ends the run, which is then measured like any other.
        verbose: False prints nothing, and keeps libraries silent too; True prints also how the run
            uses the machine.
        command: how to repeat the run, for the report.
        trust: a file, a class or a module of your own code, or a list of them, which a run to
            resume, or to start from, needs: see `tintype.load`.
        changes: any field of the recipe, as in `epochs=5, lr=0.01`; see below. `data` may also be
            in memory: (images, labels) as arrays or tensors (N, H, W), (N, H, W, C) or
            (N, C, H, W), or as lists of pictures or paths; pairs of these in a list; a data frame
            of paths and labels; a torch Dataset or DataLoader; a Hugging Face Dataset; or a dict of
            these by split. `groups` may then be a group for each image, or a column, and `columns`
            says what columns are called: {"path": "photo", "label": "kind"}.

    Returns:
        The finished Run.

    Raises:
        UserError: a mistake that can be mended; the message says how.
        Interrupted: stopped by a signal; `resume` goes on.
    """
    from tintype.data.memory import given
    from tintype.interface.watching import as_watchers

    _trust(trust)
    watcher = display_for(watcher, verbose)
    own_watchers = as_watchers(watchers)
    command = command or _python_call(what, changes)
    with silence(verbose):
        what, fields = given(what, changes, splits, sample_weight, resumed=resume is not None)
        if resume is not None:
            return _resumed(resume, watcher, own_watchers, command, what, name, fields)

        from tintype.training import run

        what = "digits" if what is None else what
        folder = run.train(
            what,
            watcher,
            out=out,
            name=name,
            verbose=bool(verbose),
            watchers=own_watchers,
            command=command,
            **fields,
        )
        return Run(folder.path)


train.__doc__ = f"{cleandoc(train.__doc__ or '')}\n\n{cleandoc(RecipeFields.__doc__ or '')}"


@public()
def load(folder: str | Path | RunFolder, *, trust: Any = None) -> Run:
    """Open a run folder, or a zip file of `tintype pack`.

    No code in it is executed: the weights are safetensors, the rest is JSON, YAML and CSV.

    Args:
        folder: of the run, or its address, of which a copy in the cache is read.
        trust: your own code that the run was trained with: a file (`"my_net.py"`), a class or a
            module. It has to have the same text as then; the folder keeps a copy in code/.

    Raises:
        UserError: the folder is not a run folder.
    """
    _trust(trust)
    return Run.open(Path(folder))


class Runs(list[Run]):
    """The runs of a folder, the newest first, as a list.

    Attributes:
        folder: where they are.
    """

    def __init__(self, runs: Iterable[Run], folder: Path) -> None:
        super().__init__(runs)
        self.folder = folder

    def table(self) -> Table:
        """Return what is known of each run: name, state, data, model and figures."""
        from tintype.runs.catalogue import list_runs

        facts = {each["name"]: each for each in list_runs(self.folder)}
        return Table(facts[name] for name in map(self._name, self) if name in facts)

    def frame(self) -> pandas.DataFrame:
        """Return the table as a pandas frame.

        Raises:
            UserError: pandas is not installed.
        """
        return self.table().frame()

    def _name(self, run: Run) -> str:
        return run.path.relative_to(self.folder).as_posix()

    def __repr__(self) -> str:
        if not self:
            return f"no runs in {self.folder}"
        width = max(len(self._name(run)) for run in self)
        lines = [f"{self._name(run):{width}}  {run.status.get('state', 'empty')}" for run in self]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return self.table()._repr_html_() if self else f"<p>{html.escape(repr(self))}</p>"


@public(hint="Expected tintype.runs(FOLDER).")
def runs(folder: str | Path = "runs") -> Runs:
    """Return the runs of a folder, and those of its studies, the newest first.

    `runs().frame()` is a pandas frame with their settings and figures. There are none in a folder
    that does not exist yet.

    Raises:
        UserError: it is a file.
    """
    from tintype.runs.catalogue import run_folders

    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file. Expected a folder of runs, or tt.load for one run.")
    return Runs((Run(each.path) for each in run_folders(path)), path)


def _trust(named: Any) -> None:
    """Trust the user's own code: one file or object, a list of them, or None."""
    for each in named if isinstance(named, list | tuple) else [named]:
        if each is not None:
            own_code.trust(each)


def _resumed(
    resume: str | Path | RunFolder,
    watcher: Watcher,
    watchers: Sequence[OneWatcher],
    command: str,
    what: Any,
    name: str | None,
    fields: Mapping[str, Any],
) -> Run:
    """Go on with a run; what was given beside its folder may only say where its data is."""
    from tintype.training import run

    if what is not None or name is not None or not fields.keys() <= {"data", "data_root"}:
        raise UserError(
            "a resumed run keeps its own settings; leave out everything else: "
            f"tintype train --resume {Path(resume)}, "
            "with --data or --data-root if the photos were moved."
        )
    folder = run.resume(Path(resume), watcher, command=command, watchers=watchers, **fields)
    return Run(folder.path)


def _python_call(what: Any, changes: Mapping[str, Any]) -> str:
    """Return the call that repeats a run."""
    stated = [f"{name}={_written(name, value)}" for name, value in changes.items()]
    first = "recipe" if isinstance(what, Recipe) else _written("data", what)
    return f"tintype.train({', '.join([first, *stated])})"


def _written(name: str, value: Any) -> str:
    """Return an argument as it is typed; of an object of the user's own, its name."""
    if value is None or isinstance(value, str | int | float | Path):
        return repr(value)
    if name in ("data", "groups"):  # in memory
        return "(images, labels)" if name == "data" else "groups"
    return own_code.name_of(own_code.give(value)) if callable(value) else repr(value)
