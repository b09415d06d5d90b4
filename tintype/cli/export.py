"""The command that turns a run into a file for other programs: export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tintype.cli.base import USE, Json, app


@app.command(rich_help_panel=USE)
def export(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    format: Annotated[str, typer.Option(help="onnx, torchscript or pt2 (torch.export).")] = "onnx",
    int8: Annotated[
        bool, typer.Option("--int8", help="8-bit integers, calibrated on validation images; ONNX.")
    ] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="16-bit floats: half the size.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="File; must be new. RUN/exports/NAME by default.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Images to check on, with the same classes, where the run's own are gone."
        ),
    ] = None,
    max_loss: Annotated[
        float | None,
        typer.Option(
            min=0, help="What --int8 may lose: points of accuracy, or dB; 2 and 0.3 by default."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the model as one file for other programs, checked on real images before it is kept."""
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
