"""The command `compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tintype.cli.base import LOOK, Device, Json, Trust, app


@app.command(rich_help_panel=LOOK)
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two or more run folders of the same task.")],
    names: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Names for the runs, in the same order.")
    ] = None,
    split: Annotated[
        str,
        typer.Option(
            help="Split to compare on: test (or folds), or val while you are still choosing."
        ),
    ] = "test",
    latency: Annotated[
        bool, typer.Option(help="Measure how long each model takes per image on this machine.")
    ] = True,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a page with figures and example images."),
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write the figures as PNG and SVG into this folder (default: next to the page).",
        ),
    ] = None,
    device: Device = "auto",
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Say which of several runs is better, by how much, and whether it could be luck."""
    from tintype.progress import make_watcher
    from tintype.verbs.compare import compare_command, default_figures

    watcher = make_watcher(to_stderr=True)
    try:
        comparison = compare_command(
            runs, names=names.split(",") if names is not None else None, split=split,
            latency=latency, device=device, html=html, figures=figures, progress=watcher.on_work,
        )  # fmt: skip
    finally:
        watcher.close()

    if as_json:
        print(json.dumps(comparison.to_dict(), indent=1, ensure_ascii=False))
        return

    from rich.console import Console

    console = Console(highlight=False, markup=False)
    for line in comparison.lines():
        console.print(line, soft_wrap=not hasattr(line, "columns"))
    if html is not None:
        console.print(f"page  {html}", markup=False, soft_wrap=True)
    if figures is not None or html is not None:
        console.print(
            f"figures  {figures or default_figures(html or Path())}", markup=False, soft_wrap=True
        )
