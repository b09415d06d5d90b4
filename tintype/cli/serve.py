"""The command `serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tintype.cli.base import USE, Device, Port, Trust, app


@app.command(rich_help_panel=USE)
def serve(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Run folders, packed runs (.zip), or exported classifiers (.onnx)."),
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines connect.")
    ] = "127.0.0.1",
    port: Port = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="TINTYPE_TOKEN",
            help="Token that clients must send; safer in the variable TINTYPE_TOKEN.",
        ),
    ] = None,
    latency_ms: Annotated[
        float, typer.Option(help="Longest time a photo waits to be computed together with others.")
    ] = 10.0,
    max_batch: Annotated[int, typer.Option(help="Largest number of photos computed at once.")] = 64,
    queue: Annotated[
        int, typer.Option(help="Photos that may wait; further ones are refused with 429.")
    ] = 256,
    max_upload: Annotated[
        float, typer.Option(metavar="MB", help="Largest size of one request.")
    ] = 20.0,
    max_megapixels: Annotated[
        float, typer.Option(help="Largest size of one photo, before and after it is enlarged.")
    ] = 50.0,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="Longest time for one request.")
    ] = 60.0,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Additional host name that requests may use (may be repeated)."
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="CPU threads (default: one fewer than PyTorch would use)."),
    ] = None,
    trust: Trust = None,
    device: Device = "auto",
) -> None:
    """Serve models over HTTP, with a web page to try them."""
    from functools import partial

    from tintype.verbs.serve.server import serve as run_service

    run_service(
        runs, host=host, port=port, token=token, latency_ms=latency_ms, max_batch=max_batch,
        queue=queue, max_upload_mb=max_upload, max_megapixels=max_megapixels, timeout=timeout,
        allow_hosts=allow_host or [], threads=threads, device=device,
        say=partial(print, flush=True),
    )  # fmt: skip
