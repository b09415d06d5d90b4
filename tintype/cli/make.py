"""The commands `train` and `shard`."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tintype.cli.base import (
    MAKE,
    Data,
    DataRoot,
    Epochs,
    Json,
    RunsFolder,
    Steps,
    Threads,
    TrainingDevice,
    Trust,
    Weights,
    app,
    fields,
)
from tintype.errors import UserError
from tintype.files.shard_names import ENDINGS, as_pattern
from tintype.hardware.processes import number_to_start, planned, silence_others

if TYPE_CHECKING:
    from tintype.progress import Watcher


@app.command(rich_help_panel=MAKE)
def train(
    context: typer.Context,
    what: Annotated[
        list[str] | None,
        typer.Argument(
            help="Name or file of a recipe, name of a data set, a folder of images, or shards "
            "(.tar, .parquet, s3://...)."
        ),
    ] = None,
    data: Data = None,
    data_root: DataRoot = None,
    test: Annotated[
        str | None,
        typer.Option(
            metavar="PART",
            help="Test split if the data has none: 0.2, a number of photos, or none for no test.",
        ),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(help="Answer every photo by a model trained without it, in so many folds."),
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="Photos that count as one: '{group}_*.jpg', a regular expression, or exif:60s.",
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="What is learned; `tintype list tasks`, or your own: my_task.py."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Name of the network; `tintype list models` shows them.")
    ] = None,
    epochs: Epochs = None,
    steps: Steps = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", "--batch", help="Images per step.")
    ] = None,
    lr: Annotated[
        str | None, typer.Option(help="Peak learning rate, or auto to find it with a range test.")
    ] = None,
    weights: Weights = None,
    tune: Annotated[
        str | None,
        typer.Option(help="Part of a pretrained network to train: head, last:N, all or auto."),
    ] = None,
    time: Annotated[
        str | None, typer.Option(help="Time limit for training, such as 90s, 5m or 1h.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option("--image-size", "--imgsz", help="Side of the images in pixels.")
    ] = None,
    augment: Annotated[
        str | None,
        typer.Option(
            help="Augmentation: a preset (light), or a list such as flip,crop=4,my_aug.py:noisy."
        ),
    ] = None,
    loss: Annotated[
        str | None, typer.Option(help="Loss, such as one of your own: my_loss.py:focal.")
    ] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="Optimizer: sgd, adam, adamw, muon, or my_file.py:make.")
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(help="Figures of your own on validation and test: my_metrics.py:kappa."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Random seed (weights, order, augmentation, dropout).")
    ] = None,
    track: Annotated[
        str | None,
        typer.Option(help="Also log to tensorboard, mlflow, wandb or trackio (comma-separated)."),
    ] = None,
    device: TrainingDevice = None,
    precision: Annotated[
        str | None, typer.Option(help="Precision of the arithmetic: auto, fp32 or bf16.")
    ] = None,
    threads: Threads = None,
    cache_size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="What is kept on disk of data in shards, such as 20GB."),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(help="Processes that share the training, on cores or GPUs; see docs."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Set any field of the recipe (may be repeated)."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the new run folder.")] = None,
    out: RunsFolder = Path("runs"),
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="Continue a stopped run; add --data NEW if its photos were moved."
        ),
    ] = None,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            help="Also print how the run uses the machine: memory, precision and so on.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done, then exit.")
    ] = False,
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Train a model, measure it honestly, and write a report."""
    from tintype.progress import make_watcher

    named = _named(what or [])
    changes = fields(
        set_,
        data=data, data_root=data_root, test_fraction=_number(test), folds=folds, groups=groups,
        task=task, model=model, epochs=epochs, steps=steps, batch_size=batch_size, lr=_number(lr),
        weights=weights, tune=tune, time=time, image_size=image_size, augment=augment, loss=loss,
        optimizer=optimizer, metrics=metrics, seed=seed, device=device, precision=precision,
        track=track, threads=threads, cache_size=cache_size,
    )  # fmt: skip
    arguments = context.obj or sys.argv[1:]
    place: dict[str, Any] = {"out": out, "name": name, "resume": resume}

    silence_others()
    num_to_start = number_to_start(processes)
    if num_to_start and not dry_run:
        from tintype.training.run import train_by_processes

        sys.exit(train_by_processes(num_to_start, arguments, named or "digits", **place, **changes))

    watcher = make_watcher(to_stderr=as_json)
    if dry_run:
        with planned(num_to_start):
            _print_plan(named, place, watcher, changes, verbose=verbose, as_json=as_json)
        return

    from tintype import api

    if not as_json:
        watcher.show_result = _print_result
    command = shlex.join(["tintype", *arguments])
    run = api.train(named, watcher=watcher, verbose=verbose, command=command, **place, **changes)

    if as_json:
        print(json.dumps(run.result(), indent=1))
    elif run.is_measured:
        print(f"report  {run.path / 'report.html'}")


def _print_plan(
    named: str | None,
    place: dict[str, Any],
    watcher: Watcher,
    changes: dict[str, Any],
    *,
    verbose: bool,
    as_json: bool,
) -> None:
    """Print the recipe of a run that is only planned, or as JSON what it comes to."""
    from tintype import api
    from tintype.training.run import refuse_name

    if place["resume"]:
        raise UserError(
            "--dry-run and --resume cannot be combined: a resumed run keeps its own settings, "
            "which its recipe.yaml shows."
        )
    refuse_name(place["out"], place["name"])
    prepared = api.plan(named or "digits", watcher=watcher, verbose=verbose, **changes)
    if as_json:
        print(json.dumps(prepared.summary(), indent=1))
    else:
        print(prepared.recipe.to_yaml(), end="")


def _named(what: list[str]) -> str | None:
    """Return what was named; several shards, as a shell makes them of *.tar, as one pattern."""
    if len(what) < 2:
        return what[0] if what else None
    others = [name for name in what if not name.lower().endswith(ENDINGS)]
    if others:
        raise UserError(
            f"'{others[0]}' is one name of {len(what)}. Expected one recipe or data set, or "
            "shards alone (.tar, .parquet)."
        )
    return as_pattern(what)


def _number(text: str | None) -> float | str | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return text  # refused by the recipe, unless it is a word that it knows


def _print_result(folder: Path) -> None:
    from rich.console import Console

    from tintype.runs.folder import called
    from tintype.runs.summary import result_table, verdict_line
    from tintype.verbs.run import Run

    console = Console(highlight=False)
    run = Run(folder)
    if not run.is_measured:
        console.print(f"model   {run.path}, not measured (measure: none)", soft_wrap=True)
        return

    evaluation = run.read("evaluation.json")
    console.print(result_table(run.recipe.task, run.metrics, called=called(evaluation)))
    console.print(verdict_line(evaluation), markup=False)


@app.command(rich_help_panel=MAKE)
def shard(
    data: Annotated[str, typer.Argument(help="Folder of photos, or a CSV file.")],
    out: Annotated[Path, typer.Argument(help="New folder for the shards.")],
    size: Annotated[str, typer.Option(help="Size of a shard, about.")] = "100MB",
    columns: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Columns of a CSV file with numbers, by commas."),
    ] = None,
    labels: Annotated[
        bool, typer.Option("--labels/--no-labels", help="Whether the photos have labels.")
    ] = True,
    data_root: DataRoot = None,
    seed: Annotated[int, typer.Option(help="Seed of the order in which photos lie.")] = 0,
    as_json: Json = False,
) -> None:
    """Write photos as tar shards with an index, for sets larger than memory and disk."""
    from tintype.progress import make_watcher
    from tintype.verbs import shard as verb

    watcher = make_watcher(to_stderr=as_json)
    written = verb.shard(
        data, out, size=size, columns=columns, labels=labels, data_root=data_root, seed=seed,
        progress=watcher.on_work,
    )  # fmt: skip
    watcher.close()
    if as_json:
        figures = {"out": str(out), **vars(written), "skipped": dict(written.skipped)}
        print(json.dumps(figures, indent=1))
        return

    from tintype.files.whole import format_bytes

    shards = "1 shard" if written.num_shards == 1 else f"{written.num_shards:,} shards"
    print(f"{written.num_images:,} images in {shards}, {format_bytes(written.num_bytes)}")
    if written.skipped:
        name, reason = written.skipped[0]
        print(f"{len(written.skipped):,} cannot be read and stay unused: {name} ({reason}), ...")
    print(f"train on them: tintype train {shlex.quote(str(out))}")
