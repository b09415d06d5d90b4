"""Train a run from start to report.

What the user typed becomes a recipe, a run folder, a model and its figures.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tintype import own_code
from tintype.data import memory
from tintype.data.source import DataSplits, ImageSource, StoredSource
from tintype.errors import UserError, memory_is_full
from tintype.files.names import check_name
from tintype.files.shard_names import absolute, names_shards, plain_name
from tintype.hardware.arithmetic import choose_threads, computing
from tintype.hardware.device import Choice
from tintype.hardware.launching import launch
from tintype.hardware.processes import ProcessLost, current, dealing, helped, joined
from tintype.interface.watching import OneWatcher, watched
from tintype.plugins import data_sets, hidden
from tintype.progress import Watcher
from tintype.recipe import ALIASES, KIND_OF, Recipe, as_new_run, resolve, with_folds
from tintype.runs import code, remote
from tintype.runs.folder import RunFolder
from tintype.runs.model import save_model
from tintype.tasks.contract.own_data import target_of
from tintype.tracking import check_trackers, tracked
from tintype.training.automatic import open_settings, without_idle
from tintype.training.engine import Engine
from tintype.training.folds import answered_by_folds, measure_by_folds, measure_fold
from tintype.training.measure import evaluate_along, measure_run
from tintype.training.prepare import Prepared, prepare
from tintype.training.rate_and_length import with_rate, within_time
from tintype.training.record import (
    record_graph,
    record_photos,
    record_typical,
    replace_choice,
    write_origin,
    write_times,
)
from tintype.training.signals import interruptible
from tintype.training.together import (
    announce,
    approve_task,
    follow,
    note_launcher,
    of_launcher,
    with_parts,
)

# Of the free memory of a GPU; networks, their derivatives and features take the rest.
SHARE_FOR_PIXELS = 0.5


def plan(
    what: str | Recipe, watcher: Watcher, *, verbose: bool = False, **changes: Any
) -> Prepared:
    """Resolve and check everything that a new run would do.

    Args:
        what: a recipe's name or file, a data set's name, a folder of images, or a Recipe.
        watcher: is shown the progress and the choices.
        verbose: whether also how the run uses the machine is shown.
        changes: any field of the recipe.

    Raises:
        UserError: a mistake that can be mended; the message says how.
    """
    base, kind = _named(what, changes)
    changed = {ALIASES.get(key, key) for key in changes}
    recipe = _with_absolute_paths(base.replace(**changes))
    own_code.approve(reference for _, reference in recipe.own_code())
    recipe, choices, free = open_settings(base, recipe, changed, kind)
    recipe, of_parts = with_parts(recipe, stated={*changed, *base.stated()})
    choices = [*choices, *of_parts]
    recipe = with_folds(as_new_run(recipe), changed)
    check_trackers(recipe.track)

    watcher.note(f"training {kind}")
    for name, package in _hidden(recipe).items():
        watcher.note(f"{name}: the built-in one, not that of the package {package}")
    own_recipe = kind == "a Recipe" or kind.startswith("recipe file")
    asked = recipe.stated().keys() if own_recipe else changed
    recipe, idle = without_idle(recipe, asked)
    choices = [*choices, *idle]
    prepared = prepare(recipe, watcher, asked, choices, free=free)

    # afterwards, since a loader that reads the folder says better what belongs into it
    _check_there(recipe)
    for line in prepared.lines(verbose=verbose):
        watcher.note(line)
    watcher.close()
    return prepared


def _named(what: str | Recipe, changes: dict[str, Any]) -> tuple[Recipe, str]:
    """Return the recipe that the user means, and which kind of thing was named.

    A task of the user's own is approved first, since it says which fields there are.
    """
    task = changes.get("task")
    if isinstance(task, type):
        task = changes["task"] = own_code.give(task)
    task = task if isinstance(task, str) else None  # `Recipe` refuses other types
    if task is not None:
        approve_task(task)
    base, kind = (what, "a Recipe") if isinstance(what, Recipe) else resolve(str(what), task)
    approve_task(base.task)
    return base, kind


def train_by_processes(
    count: int,
    arguments: Sequence[str],
    what: str | Recipe,
    *,
    out: str | Path = "runs",
    name: str | None = None,
    resume: str | Path | None = None,
    **changes: Any,
) -> int:
    """Train by `tintype ARGUMENTS` in `count` processes; return the exit code of process 0.

    The other arguments are what these ask for.

    Raises:
        UserError: the processes cannot train this together; none of them was started.
    """
    if resume is None:
        refuse_name(out, name)
        base, _ = _named(what, changes)
        changed = {ALIASES.get(key, key) for key in changes}
        with_parts(base.replace(**changes), {*changed, *base.stated()}, count)
    elif not remote.address_of(resume):  # what is there is looked at when it was fetched
        with_parts(RunFolder.open(resume).recipe, {"parts"}, count)

    return launch(count, arguments)


def train(
    what: str | Recipe,
    watcher: Watcher,
    *,
    out: str | Path,
    command: str,
    name: str | None = None,
    verbose: bool = False,
    watchers: Sequence[OneWatcher] = (),
    **changes: Any,
) -> RunFolder:
    """Train a new run, measure it and write its report.

    Args:
        what: as for `plan`.
        watcher: is shown the progress.
        out: the folder that the run folder is made in, or an address that it is uploaded to.
        command: how to repeat the run, for the report.
        name: of the run folder, which must be new; by default that of `what`.
        verbose: as for `plan`.
        watchers: the user's own, see `tintype.interface.watching`.
        changes: any field of the recipe.

    Raises:
        UserError: a mistake that can be mended; the message says how.
        Interrupted: stopped by a signal; `resume` goes on.
    """
    with led(re.sub(" at 0x[0-9a-f]+", "", f"{what!r} {sorted(changes.items())!r}")) as followed:
        if followed is not None:
            return followed
        if again := of_launcher(out, command):
            run = _resumed(again, watcher, watchers, command, {})
        else:
            run = _begun(what, watcher, watchers, command, out, name, verbose=verbose, **changes)
        return run


def _begun(
    what: str | Recipe,
    watcher: Watcher,
    watchers: Sequence[OneWatcher],
    command: str,
    out: str | Path,
    name: str | None,
    *,
    verbose: bool,
    **changes: Any,
) -> RunFolder:
    """Begin a new run, and train it to its end."""
    refuse_name(out, name)  # at once, not after the data was read
    with remote.claimed(out, lambda: name or _default_name(what), exact=name is not None) as claim:
        prepared = plan(what, watcher, verbose=verbose, **changes)
        chosen = claim.name or name or _default_name(what)
        run = RunFolder.create(claim.folder, chosen, exact=claim.exact, recipe=prepared.recipe)
        claim.keep(run.path)
    note_launcher(run, command)
    memory.write_down(run.path, prepared.recipe.data, target_of(prepared.recipe))
    _to_the_end(run, prepared, watcher, watchers, command)
    return run


def refuse_name(out: str | Path, name: str | None) -> None:
    """Refuse what can be no name, or is that of a run already; nothing is changed.

    Raises:
        UserError: the run would not begin.
    """
    if name is None:
        return
    check_name(name, "run")
    address = remote.address_of(out)
    if address is not None:
        remote.refuse_taken(address, name)
    elif not RunFolder.is_unstarted(Path(out) / name):
        RunFolder.refuse_taken(Path(out) / name)


def resume(
    path: str | Path,
    watcher: Watcher,
    *,
    command: str,
    watchers: Sequence[OneWatcher] = (),
    **moved: Any,
) -> RunFolder:
    """Go on with a run that was stopped; a finished one is left as it is.

    Args:
        path: the run folder.
        watcher: is shown the progress.
        command: how to repeat the run, if the folder does not say it.
        watchers: the user's own, see `tintype.interface.watching`.
        moved: `data` and `data_root`, if the same photos now are somewhere else.

    Raises:
        UserError: a mistake that can be mended; the message says how.
        Interrupted: stopped by a signal; `resume` goes on.
    """
    with led(f"resume {sorted(moved.items())!r}") as followed:
        return followed or _resumed(path, watcher, watchers, command, moved)


def _resumed(
    path: str | Path,
    watcher: Watcher,
    watchers: Sequence[OneWatcher],
    command: str,
    moved: dict[str, Any],
) -> RunFolder:
    if address := remote.address_of(path):
        path = remote.taken_here(address)
    run = RunFolder.open(path)
    current().folder = run.path
    if run.status.get("state") == "finished":
        with remote.mirrored(run, watcher.note):
            _leave_finished(run, watcher, moved)
        return run

    if (run.path / "environment.json").exists():
        command = run.read("environment.json")["command"]

    code.refuse_missing_packages(run.path)
    with code.trusted(run.path, run.own_code):
        recipe = _with_absolute_paths(run.recipe.replace(**moved)) if moved else run.recipe
        recipe, of_parts = with_parts(recipe, stated={"parts"})
        prepared = _prepared_again(recipe, watcher, path)
        prepared.choices.extend(of_parts)
        _to_the_end(run, prepared, watcher, watchers, command)
    return run


def _prepared_again(recipe: Recipe, watcher: Watcher, path: str | Path) -> Prepared:
    """Prepare a run that goes on; an error that names its images says how to give their place."""
    try:
        return prepare(recipe, watcher)
    except UserError as error:
        places = [place for place in (recipe.data, recipe.data_root) if place]
        if not any(place in str(error) for place in places):
            raise
        raise UserError(
            f"{error}\nIf the photos were moved, unchanged: tintype train --resume {path} --data "
            "NEW (or --data-root NEW)"
        ) from None


def _leave_finished(run: RunFolder, watcher: Watcher, moved: dict[str, Any]) -> None:
    _check_there(run.recipe.replace(**moved), moved)
    watcher.note(f"{run.path} is finished; nothing is left to do")
    for key in moved:
        watcher.note(f"warning: --{key.replace('_', '-')} changes nothing of a finished run")

    if not (run.path / "report.html").exists():  # stopped while it was written
        _show_and_report(run, watcher)
    elif watcher.show_result is not None:
        watcher.show_result(run.path)


@contextmanager
def led(arguments: str) -> Iterator[RunFolder | None]:
    """Join the processes that train together; yield, in those that follow, the finished run.

    Args:
        arguments: what was asked for, which all have to agree in.
    """
    with joined(arguments) as group:
        if group.is_first:
            yield None
            group.ask(str(group.folder))  # nothing more is to be trained
        else:
            yield RunFolder(follow(group, train_run))


def _to_the_end(
    run: RunFolder,
    prepared: Prepared,
    watcher: Watcher,
    watchers: Sequence[OneWatcher],
    command: str,
) -> None:
    watcher.note(f"run: {run.path}")
    with (
        interruptible(run.path),
        watched(run.path, watcher, watchers) as follower,
        tracked(run, prepared.recipe, follower) as follower,
        remote.mirrored(run, follower.note),
    ):
        train_run(run, prepared, follower, command)
        _show_and_report(run, watcher)


def _show_and_report(run: RunFolder, watcher: Watcher) -> None:
    """Show the figures of a run, and write its report if it was measured."""
    if watcher.show_result is not None:
        watcher.show_result(run.path)
    if not run.is_measured:
        return
    page = write_report(run.path)
    if watcher.show_result is None:
        watcher.note(f"report: {page}")


def write_report(folder: Path) -> Path:
    """Write the report of a run, see `tintype.pages.report`."""
    from tintype.pages import report  # late: with the libraries for figures it takes a second

    return report.write_report(folder)


def train_run(run: RunFolder, prepared: Prepared, watcher: Watcher, command: str) -> None:
    """Train and measure `run` from where it stands.

    Raises:
        UserError: the data is no longer that of the run, or training cannot go on.
        Interrupted: a signal came; the state is saved.
    """
    threads, _ = choose_threads(prepared.recipe.threads)
    exact = prepared.recipe.exact
    with run.locked(), computing(threads, str(prepared.device), exact=exact) as without:
        # by another process, while this one prepared itself
        if run.status.get("state") == "finished":
            watcher.note(f"{run.path} is finished; nothing is left to do")
            return

        announce(run, prepared, command)
        departure = write_origin(run, prepared, command)
        if departure:
            watcher.note(f"not bit-equal from here: {departure}")

        run.set_status("running", total_steps=prepared.plan.total_steps)
        with _said_in_status(run, prepared, watcher):
            engine = _fit_and_measure(run, prepared, watcher)
        if without:
            why = f"there is no deterministic kernel for {', '.join(without)}"
            choice = Choice("exact", "no", why)
            watcher.note(str(choice))
            replace_choice(run, choice)

        run.set_status("finished", step=engine.step, seconds=round(engine.seconds, 3))


@contextmanager
def _said_in_status(run: RunFolder, prepared: Prepared, watcher: Watcher) -> Iterator[None]:
    """Write into the folder how training ended, if it did not end well."""
    try:
        yield
    except ProcessLost:
        run.set_status("stopped")
        raise
    except UserError:
        run.set_status("failed")
        raise
    except BaseException as error:
        if memory_is_full(error):
            run.set_status("failed")
            raise _does_not_fit(run.recipe, prepared) from error
        run.set_status("stopped")
        raise
    finally:
        watcher.close()


def _does_not_fit(recipe: Recipe, prepared: Prepared) -> UserError:
    """Return the error of a run for which the memory of its device is not enough."""
    spec = prepared.splits.spec
    batch = prepared.plan.batch_size
    remedies = [] if recipe.options.without_steps else [f"--batch-size {max(1, batch // 2)}"]
    if not recipe.options.without_steps and recipe.accumulate * 2 <= batch:
        halves = f"--set accumulate={recipe.accumulate * 2}"
        remedies.append(f"{halves} (the same batches, in smaller parts)")
    if max(spec.height, spec.width) > 64:
        remedies.append(f"--image-size {max(spec.height, spec.width) // 2}")
    if prepared.device.type != "cpu":
        remedies.append("--device cpu")

    return UserError(
        f"the memory of the device ({prepared.device}) is not enough for batches of {batch:,} "
        f"images of {spec.height}x{spec.width} with {recipe.model}. "
        f"Start again with one of: {'; '.join(remedies)}."
    )


def _fit_and_measure(run: RunFolder, prepared: Prepared, watcher: Watcher) -> Engine:
    """Train the networks, save the result, measure it, and write down how long that took."""
    task = prepared.task
    splits, of_pixels = on_device(prepared.splits, prepared.device)
    for choice in of_pixels:
        replace_choice(run, choice)
        watcher.note(str(choice))
    started = time.perf_counter()
    task.groups = splits.groups
    seen = task.sources(splits, watcher.on_work)
    task.selection = task.validation.selecting_part(seen.val)
    watcher.close()
    recipe = with_rate(run, prepared, seen.train, watcher)
    recipe = within_time(run, prepared, recipe, seen, watcher, started)
    preparing = time.perf_counter() - started

    engine = Engine(task, recipe, run, watcher, device=prepared.device, compile=prepared.compile)
    engine.fit(seen.train, task.selection)
    trained = time.perf_counter()
    with dealing(engine.group):
        chosen = task.finish()
    if not engine.group.is_first:  # process 0 does the rest, and asks for what it shares
        follow(engine.group, train_run, partial(evaluate_along, task, seen))
        return engine

    if engine.ended:
        reached = f"at step {engine.step:,} of {prepared.plan.total_steps:,}"
        replace_choice(run, Choice("end", reached, engine.ended))
    for choice in chosen:
        replace_choice(run, choice)
        watcher.note(str(choice))
    for line in task.remarks():
        watcher.note(line)

    save_model(run, task.result(), prepared.model)
    with helped(engine.group):
        if recipe.fold is not None:  # one of several, which only lends its answers
            measure_fold(run, seen, task, watcher)
        elif recipe.measure != "none":
            _measured(run, prepared, seen, splits, engine, watcher)

    write_times(
        run,
        preparing=preparing,
        training=engine.seconds,
        measuring=time.perf_counter() - trained,
        images=engine.step * prepared.plan.batch_size,
    )
    return engine


def _measured(
    run: RunFolder,
    prepared: Prepared,
    seen: DataSplits,
    splits: DataSplits,
    engine: Engine,
    watcher: Watcher,
) -> None:
    """Measure a run that is trained, and record what it knows of its images."""
    recipe = run.recipe
    task = prepared.task
    if own_code.is_own(recipe.model) and recipe.measure == "test":  # others are thrown away
        record_graph(run, task, splits, watcher)
    record_photos(run, prepared.splits)
    record_typical(run, prepared.splits, recipe, task)

    if recipe.folds and recipe.measure == "test":
        answers = answered_by_folds(run, prepared, seen, watcher, train_run)
        measure_by_folds(run, seen, splits, task, answers, watcher)
    else:
        measure_run(run, seen, splits, task, watcher)
    if chosen := engine.choice_by_validation():
        evaluation = run.read("evaluation.json")
        run.write("evaluation.json", {**evaluation, "chosen_by_validation": chosen})


def on_device(splits: DataSplits, device: torch.device) -> tuple[DataSplits, list[Choice]]:
    """Move resident pixels to the device, where they leave it enough memory to compute in."""
    if device.type == "cpu":
        return splits, []
    if device.type == "cuda":
        needed = sum(_pixel_bytes(splits[name]) for name in ("train", "val", "test"))
        free, _ = torch.cuda.mem_get_info(device)
        if needed > SHARE_FOR_PIXELS * free:
            why = (
                f"they take {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB of the GPU's "
                "memory are free; each batch is copied"
            )
            return splits, [Choice("pixels", "in the computer's memory", why)]

    def move(source: ImageSource) -> ImageSource:
        if not isinstance(source, StoredSource):
            return source
        store = source.store.to(device)
        return StoredSource(
            source.spec, store, source.targets, source.names, source.weights, source.shards
        )

    moved = {name: move(splits[name]) for name in ("train", "val", "test")}
    return replace(splits, **moved), []


def _pixel_bytes(source: ImageSource) -> int:
    """Return how many bytes the pixels of a source take, 0 where they stay on disk."""
    if not isinstance(source, StoredSource) or source.kind != "resident":
        return 0
    return math.prod(source.store.shape) * source.store.dtype.itemsize


def _check_there(recipe: Recipe, named: Collection[str] = ("data_root",)) -> None:
    """Raise if a place that the user has named does not exist, even if the data set needs none.

    Raises:
        UserError: it does not exist.
    """
    root = recipe.data_root
    if "data_root" in named and root and not Path(root).expanduser().is_dir():
        raise UserError(
            f"there is no folder {root}. Expected one for --data-root "
            "that holds the files of the data set."
        )
    if "data" in named and not _is_set(recipe) and not Path(recipe.data).expanduser().exists():
        raise UserError(f"there is no folder or file '{recipe.data}' (looked from {Path.cwd()}).")


def _with_absolute_paths(recipe: Recipe) -> Recipe:
    """Return the recipe with paths that hold from every folder, so that it resumes from any."""
    changes: dict[str, Any] = {
        field: str(Path(file).expanduser().resolve())
        for field, file in recipe.options.places().items()
        if Path(file).expanduser().exists()
    }
    weights = recipe.fields().get("weights")
    if weights and weights not in ("default", "none"):
        changes["weights"] = str(Path(weights).expanduser().resolve())

    changes.update(recipe.with_own_code(own_code.absolute))
    if recipe.data_root:
        changes["data_root"] = str(Path(recipe.data_root).expanduser().resolve())
    if names_shards(recipe.data) and recipe.data not in data_sets(recipe.task):
        changes["data"] = absolute(recipe.data)
    elif recipe.data and not _is_set(recipe) and Path(recipe.data).expanduser().exists():
        changes["data"] = str(Path(recipe.data).expanduser().resolve())
    return recipe.replace(**changes) if changes else recipe


def _hidden(recipe: Recipe) -> dict[str, str]:
    """Return the packages that have a plug-in of a name that the recipe uses for a built-in one."""
    fields = recipe.fields()
    return {
        name: package
        for field, kind in KIND_OF.items()
        for name, package in hidden(kind).items()
        if name == fields.get(field)
    }


def _is_set(recipe: Recipe) -> bool:
    """Return whether the data are no folder or file that this module looks for."""
    is_named = recipe.data in data_sets(recipe.task) or own_code.is_own(recipe.data)
    return is_named or names_shards(recipe.data)


def _default_name(what: str | Recipe) -> str:
    data = str(what.data if isinstance(what, Recipe) else what)
    if data.startswith(own_code.IN_PYTHON):
        return own_code.plain_name(data)
    if own_code.is_code(data):
        return own_code.name_of(data)

    if names_shards(data):
        return plain_name(data)
    path = Path(data).expanduser().resolve()
    is_file = path.suffix.lower() in (".yaml", ".yml", ".csv", ".tsv", ".jsonl")
    return (path.stem if is_file else path.name) or "run"
