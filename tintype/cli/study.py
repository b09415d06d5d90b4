"""Commands for many runs: study, tune, board."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tintype.cli.base import LOOK, MAKE, Json, app


@app.command(rich_help_panel=MAKE)
def study(
    context: typer.Context,
    what: Annotated[
        str,
        typer.Argument(help="A study's name, a YAML file, or the folder of a study to go on with."),
    ],
    data: Annotated[
        str | None, typer.Option(help="Data of every run: a name, folder, or CSV file.")
    ] = None,
    data_root: Annotated[
        str | None, typer.Option(help="Folder that holds the data set's files already.")
    ] = None,
    epochs: Annotated[
        float | None, typer.Option(help="Passes over the training images, of every run.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Batches, instead of epochs.")] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Of runs that start from pretrained weights: a file, a folder with one for each, or none."
        ),
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="How many, in place of those declared.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = None,
    threads: Annotated[
        int | None, typer.Option(help="That share the arithmetic of each run; 1 by default.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any field of every run; repeat for more."),
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that train at once.")] = 1,
    name: Annotated[
        str | None, typer.Option(help="Name of the study's folder; by default that of the study.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder that holds the folders of studies and runs.")
    ] = Path("runs"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check every variant, print the runs, and stop.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Begin also with more than 500 runs.")] = False,
    as_json: Json = False,
) -> None:
    """Train every combination of what varies, and say what is better, by how much, and whether that
    could be luck.
    """
    from tintype.progress import make_watcher
    from tintype.recipe import parse_assignments

    given: dict[str, Any] = {
        "data": data, "data_root": data_root, "epochs": epochs, "steps": steps, "device": device, "threads": threads,
    }  # fmt: skip
    changes = {key: value for key, value in given.items() if value is not None} | parse_assignments(
        set_ or []
    )
    watcher = make_watcher(to_stderr=as_json)
    if dry_run:
        _print_plan(what, as_json, seeds=seeds, weights=weights, **changes)
        return
    from tintype.verbs import study as studying

    command = shlex.join(["tintype", *(context.obj or sys.argv[1:])])
    found = studying.study(
        what, out=out, name=name, seeds=seeds, weights=weights, workers=workers, yes=yes, watcher=watcher, command=command,
        **changes,
    )  # fmt: skip
    if as_json:
        print(json.dumps(found.to_dict(), indent=1))
    else:
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
    console.print(f"{len(rows)} runs; nothing was trained.")


@app.command(rich_help_panel=MAKE)
def tune(
    what: Annotated[
        str,
        typer.Argument(
            help="A recipe's name or file, data, or the folder of a tuning to go on with."
        ),
    ],
    trials: Annotated[
        int | None, typer.Option(help="How many in all; 20 where no time is given.")
    ] = None,
    time: Annotated[
        str | None, typer.Option(help="Begin no trial after this: 90s, 30m, 8h.")
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Database that several machines share; SQLite in the folder by default.",
        ),
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(help="How often the winner is trained anew and tested; 0 leaves test alone."),
    ] = 3,
    prune: Annotated[
        bool, typer.Option(help="Stop trials early that fall behind on validation.")
    ] = True,
    data: Annotated[str | None, typer.Option(help="Data set's name, folder, or CSV file.")] = None,
    data_root: Annotated[
        str | None, typer.Option(help="Folder that holds the data set's files already.")
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the training images.")] = None,
    steps: Annotated[int | None, typer.Option(help="Batches, instead of epochs.")] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="What trials start from: default (downloaded once), a file, an earlier run, or none."
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            help="That share the arithmetic; recorded, since another number adds in another order."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any field; 'search={lr: {low: 0.01, high: 1, log: true}}'.",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the folder; by default that of the recipe with -tune."),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder that holds the folders of studies and runs.")
    ] = Path("runs"),
    as_json: Json = False,
) -> None:
    """Search for good settings by validation, train the best ones anew, and test those."""
    from tintype.progress import make_watcher
    from tintype.recipe import parse_assignments
    from tintype.verbs import tune as tuning

    given: dict[str, Any] = {
        "data": data, "data_root": data_root, "epochs": epochs, "steps": steps, "weights": weights, "device": device,
        "threads": threads,
    }  # fmt: skip
    changes = {key: value for key, value in given.items() if value is not None} | parse_assignments(
        set_ or []
    )
    found = tuning.tune(
        what, trials=trials, time=time, storage=storage, seeds=seeds, prune=prune, out=out, name=name,
        watcher=make_watcher(to_stderr=as_json), **changes,
    )  # fmt: skip
    if as_json:
        print(json.dumps(found.to_dict(), indent=1))
        return
    print("\n".join(found.sentences()))
    print(f"page  {found.path / 'tuning.html'}")


@app.command(rich_help_panel=LOOK)
def board(
    folder: Annotated[Path, typer.Argument(help="Folder that holds the run folders.")] = Path(
        "runs"
    ),
    host: Annotated[
        str, typer.Option(help="Address to listen on; only this machine by default.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes any that is free.")] = 8765,
) -> None:
    """Serve a live page of the runs in a folder: curves, figures, reports. Ctrl-C ends it."""
    from tintype.verbs.board import make_server

    with make_server(folder, host=host, port=port) as server:
        address, number = server.server_address[:2]
        print(f"http://{address!s}:{number}/  (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
