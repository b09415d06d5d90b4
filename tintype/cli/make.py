"""Commands that make something of images: train."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tintype.cli.base import MAKE, Json, app
from tintype.errors import UserError


@app.command(rich_help_panel=MAKE)
def train(
    context: typer.Context,
    what: Annotated[
        str | None,
        typer.Argument(help="A recipe's name or file, a data set's name, or a folder of images."),
    ] = None,
    data: Annotated[str | None, typer.Option(help="Data set's name, folder, or CSV file.")] = None,
    data_root: Annotated[
        str | None, typer.Option(help="Folder that holds the data set's files already.")
    ] = None,
    test: Annotated[
        str | None,
        typer.Option(
            metavar="PART",
            help="Test part where the data brings none: 0.2, a number of photos, or none, so that all others train.",
        ),
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="Photos that belong together and count as one: '{group}_*.jpg', a regular expression, or exif:60s.",
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Network (`tintype list models`).")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the training images.")] = None,
    steps: Annotated[int | None, typer.Option(help="Batches, instead of epochs.")] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", "--batch", help="Images a step.")
    ] = None,
    lr: Annotated[
        str | None, typer.Option(help="Peak learning rate, or auto: measured by a range test.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="What it starts from: default (downloaded once), a file, an earlier run, or none."
        ),
    ] = None,
    tune: Annotated[
        str | None, typer.Option(help="What of a backbone is trained: head, last:N, all or auto.")
    ] = None,
    time: Annotated[
        str | None, typer.Option(help="What training may take at most: 90s, 5m, 1h.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option("--image-size", "--imgsz", help="Side in pixels.")
    ] = None,
    augment: Annotated[
        str | None, typer.Option(help="Preset or list: light, or flip,crop=4,rotate=15.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of weights, order, augmentation and dropout.")
    ] = None,
    track: Annotated[
        str | None,
        typer.Option(
            help="Tell other tools too: tensorboard, mlflow, wandb, trackio; several by commas."
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32 or bf16.")] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            help="That share the arithmetic; recorded, since another number adds in another order."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Any field of the recipe; repeat for more."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run folder; must be new.")] = None,
    out: Annotated[Path, typer.Option(help="Folder that holds the run folders.")] = Path("runs"),
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="Go on with a stopped run; --data NEW if its photos were moved."
        ),
    ] = None,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            help="Also print how the run uses the machine: memory, precision and the like.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done, and stop.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a model, measure it honestly, and write a report."""
    from tintype import api
    from tintype.progress import make_watcher
    from tintype.recipe import parse_assignments

    given: dict[str, Any] = {
        "data": data, "data_root": data_root, "test_fraction": _number(test), "groups": groups, "model": model,
        "epochs": epochs, "steps": steps, "batch_size": batch_size, "lr": _number(lr), "weights": weights, "tune": tune,
        "time": time, "image_size": image_size, "augment": augment, "seed": seed, "device": device, "precision": precision,
        "track": track, "threads": threads,
    }  # fmt: skip
    changes = {key: value for key, value in given.items() if value is not None}
    changes.update(parse_assignments(set_ or []))
    watcher = make_watcher(to_stderr=as_json)
    command = shlex.join(["tintype", *(context.obj or sys.argv[1:])])
    if dry_run and resume:
        raise UserError(
            "--dry-run shows a new run; with --resume the plan lies in the run's recipe.yaml."
        )
    if dry_run:
        from tintype.data.cache import DRY_RUN_BYTES, writing_at_most

        with writing_at_most(DRY_RUN_BYTES):
            prepared = api.plan(what or "digits", watcher=watcher, verbose=verbose, **changes)
        if as_json:
            print(json.dumps(prepared.summary(), indent=1))
        else:
            print(prepared.recipe.to_yaml(), end="")
        return
    run = api.train(
        what,
        out=out,
        name=name,
        resume=resume,
        watcher=watcher,
        verbose=verbose,
        command=command,
        **changes,
    )
    if as_json:
        print(json.dumps(run.result(), indent=1))
    else:
        _print_result(run)


def _number(text: str | None) -> float | str | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return text  # refused by the recipe, unless it is a word that it knows


def _print_result(run: Any) -> None:
    from rich.console import Console

    from tintype.runs.folder import without_test
    from tintype.runs.summary import result_table, verdict_line

    console = Console(highlight=False)
    evaluation = run.read("evaluation.json")
    console.print(result_table(run.metrics, tested=not without_test(evaluation)))
    console.print(verdict_line(evaluation), markup=False)
    console.print(f"report  {run.path / 'report.html'}", markup=False, soft_wrap=True)
