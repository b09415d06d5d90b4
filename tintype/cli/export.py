"""The command `export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tintype.cli.base import USE, Json, Run, Trust, app


@app.command(rich_help_panel=USE)
def export(
    run: Run,
    format: Annotated[
        str, typer.Option(help="File format: onnx, torchscript or pt2 (torch.export).")
    ] = "onnx",
    int8: Annotated[
        bool,
        typer.Option(
            "--int8", help="Use 8-bit integers, calibrated on validation images (ONNX only)."
        ),
    ] = False,
    fp16: Annotated[
        bool, typer.Option("--fp16", help="Use 16-bit floats, which halves the size.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="File to write, which must not exist yet (default: RUN/exports/NAME)."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Images with the same classes to check the file on, if the run's own are gone."
        ),
    ] = None,
    max_loss: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Largest loss to accept with --int8 (default: 2 points of accuracy or 0.3 dB).",
        ),
    ] = None,
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Export the model to one file for other programs, checked on real images first."""
    from tintype import load
    from tintype.progress import make_watcher

    watcher = make_watcher(to_stderr=True)
    try:
        done = load(str(run)).export(
            format=format,
            int8=int8,
            fp16=fp16,
            out=out,
            data=data,
            max_loss=max_loss,
            progress=watcher.on_work,
        )
    finally:
        watcher.close()
    print(json.dumps(done.to_dict(), indent=1) if as_json else "\n".join(done.lines()))
