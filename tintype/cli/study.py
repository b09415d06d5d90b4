"""The commands for many runs: study, tune and board."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tintype.cli.base import (
    LOOK,
    MAKE,
    Data,
    DataRoot,
    Epochs,
    Json,
    Port,
    Steps,
    StudiesFolder,
    Threads,
    TrainingDevice,
    Weights,
    app,
    fields,
)


@app.command(rich_help_panel=MAKE)
def study(
    context: typer.Context,
    what: Annotated[
        str,
        typer.Argument(
            help="Name of a study, or of a recipe for several seeds of it; a YAML file; or the "
            "folder of a study to continue."
        ),
    ],
    data: Annotated[
        str | None, typer.Option(help="Data for every run: a name, a folder, or a CSV file.")
    ] = None,
    data_root: DataRoot = None,
    epochs: Annotated[
        float | None, typer.Option(help="Number of passes over the training images in every run.")
    ] = None,
    steps: Steps = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Weights for pretrained networks: a file, a folder with one file each, or none."
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Number of seeds, in place of those the study declares.")
    ] = None,
    device: TrainingDevice = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads for each run (default: 1).")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Set a field of every run (may be repeated)."
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(help="Number of processes that train at once; 0 leaves the runs to --join."),
    ] = 1,
    join: Annotated[
        bool,
        typer.Option("--join", help="Help with a study that was begun, from any machine."),
    ] = False,
    on: Annotated[
        str | None,
        typer.Option(metavar="ray", help="Train the runs as tasks of a Ray cluster (RAY_ADDRESS)."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the study's folder (default: the name of the study)."),
    ] = None,
    out: StudiesFolder = Path("runs"),
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check every variant, print the planned runs, then exit."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Start even with more than 500 runs.")] = False,
    as_json: Json = False,
) -> None:
    """Train every combination of settings and say which is better, or whether it may be luck."""
    from tintype.progress import make_watcher

    changes = fields(
        set_, data=data, data_root=data_root, epochs=epochs, steps=steps, device=device,
        threads=threads,
    )  # fmt: skip
    watcher = make_watcher(to_stderr=as_json)
    if dry_run:
        _print_plan(what, as_json, seeds=seeds, weights=weights, **changes)
        return

    from tintype.verbs import study as studying

    command = shlex.join(["tintype", *(context.obj or sys.argv[1:])])
    found = studying.study(
        what, out=out, name=name, seeds=seeds, weights=weights, workers=workers,
        join=join, on=on, yes=yes, watcher=watcher, command=command, **changes,
    )  # fmt: skip

    if as_json:
        print(json.dumps(found.to_dict(), indent=1))
    elif workers:
        from rich.console import Console

        console = Console(highlight=False, markup=False)
        for line in found.lines():
            console.print(line)
        console.print(f"page  {found.path / 'study.html'}", markup=False, soft_wrap=True)

    if found.failures():
        raise typer.Exit(1)


def _print_plan(what: str, as_json: bool, **changes: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    from tintype.data.cache import DRY_RUN_BYTES, writing_at_most
    from tintype.verbs import study as studying

    with writing_at_most(DRY_RUN_BYTES):
        rows = studying.plan(what, **changes)
    declaration = studying.declare(what).replace(**changes)
    confounding = studying.declared_confounding(declaration)

    if as_json:
        found = []
        for run, summary in rows:
            levels = [declaration.shown(*level) for level in run.levels.items()]
            differing = [each.to_dict() for each in confounding if each.name in levels]
            about = {"run": run.name, "variant": run.variant, "seed": run.seed}
            found.append({**about, **summary, "confounding": differing})
        print(json.dumps(found, indent=1))
        return

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("run", "variant", "seed", "parameters", "multiply-adds", "steps"):
        table.add_column(
            column, justify="left" if column in ("run", "variant") else "right", overflow="fold"
        )
    for run, summary in rows:
        numbers = (run.seed, summary["parameters"], summary["multiply_adds"], summary["steps"])
        table.add_row(run.name, run.variant, *(f"{number:,}" for number in numbers))

    console = Console(highlight=False, markup=False)
    for each in confounding:
        console.print(each.sentence())
    console.print(table)
    console.print(f"{len(rows)} runs planned; nothing was trained.")


@app.command(rich_help_panel=MAKE)
def tune(
    what: Annotated[
        str,
        typer.Argument(
            help="Name or file of a recipe, data, or the folder of a tuning to continue."
        ),
    ],
    trials: Annotated[
        int | None,
        typer.Option(help="Number of trials in total (default: 20, unless --time is given)."),
    ] = None,
    time: Annotated[
        str | None, typer.Option(help="Start no new trial after this time: 90s, 30m or 8h.")
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Database shared by several machines (default: SQLite in the folder).",
        ),
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(
            help="Number of times to retrain and test the winner; 0 leaves the test split unused."
        ),
    ] = 3,
    prune: Annotated[
        bool, typer.Option(help="Stop trials early if they fall behind on validation.")
    ] = True,
    workers: Annotated[
        int,
        typer.Option(help="Number of processes that run trials; 0 leaves them to --join."),
    ] = 1,
    join: Annotated[
        bool,
        typer.Option("--join", help="Help with a tuning that was begun with --workers."),
    ] = False,
    data: Data = None,
    data_root: DataRoot = None,
    epochs: Epochs = None,
    steps: Steps = None,
    weights: Weights = None,
    device: TrainingDevice = None,
    threads: Threads = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Set any field, such as 'search={lr: {low: 0.01, high: 1, log: true}}'.",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the folder (default: the name of the recipe with -tune)."),
    ] = None,
    out: StudiesFolder = Path("runs"),
    as_json: Json = False,
) -> None:
    """Search for good settings on validation images, then retrain the best ones and test them."""
    from tintype.progress import make_watcher
    from tintype.verbs import tune as tuning

    changes = fields(
        set_, data=data, data_root=data_root, epochs=epochs, steps=steps, weights=weights,
        device=device, threads=threads,
    )  # fmt: skip
    found = tuning.tune(
        what, trials=trials, time=time, storage=storage, seeds=seeds, prune=prune, workers=workers,
        join=join, out=out, name=name, watcher=make_watcher(to_stderr=as_json), **changes,
    )  # fmt: skip

    if as_json:
        print(json.dumps(found.to_dict(), indent=1))
        return
    if workers:
        print("\n".join(found.sentences()))
        print(f"page  {found.path / 'tuning.html'}")


@app.command(rich_help_panel=LOOK)
def board(
    folder: Annotated[Path, typer.Argument(help="Folder that holds the run folders.")] = Path(
        "runs"
    ),
    host: Annotated[
        str, typer.Option(help="Address to listen on (default: this machine only).")
    ] = "127.0.0.1",
    port: Port = 8765,
) -> None:
    """Show the runs in a folder as a live web page with curves, figures and reports."""
    from tintype.verbs.board import make_server

    with make_server(folder, host=host, port=port) as server:
        address, number = server.server_address[:2]
        print(f"http://{address!s}:{number}/  (press Ctrl-C to stop)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
