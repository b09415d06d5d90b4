"""The command that puts finished runs on the network: serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tintype.cli.base import USE, Device, app


@app.command(rich_help_panel=USE)
def serve(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Run folders, packed runs (.zip), or exported classifiers (.onnx)."),
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets others connect.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes any that is free.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="TINTYPE_TOKEN", help="What clients must show; better given in TINTYPE_TOKEN."
        ),
    ] = None,
    latency_ms: Annotated[
        float, typer.Option(help="How long a photo may wait for others to be computed with it.")
    ] = 10.0,
    max_batch: Annotated[int, typer.Option(help="Photos that are computed at once, at most.")] = 64,
    queue: Annotated[
        int, typer.Option(help="Photos accepted and not yet answered; more are told to come again.")
    ] = 256,
    max_upload: Annotated[
        float, typer.Option(metavar="MB", help="Megabytes of one request.")
    ] = 20.0,
    max_megapixels: Annotated[
        float, typer.Option(help="Of one photo, and of one that was enlarged.")
    ] = 50.0,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="For which a request may take.")
    ] = 60.0,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Further name under which the service may be asked."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of torch; one less than it would take.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Serve models over HTTP, with a page to try them."""
    from functools import partial

    from tintype.verbs.serve.server import serve as run_service

    run_service(
        runs, host=host, port=port, token=token, latency_ms=latency_ms, max_batch=max_batch, queue=queue,
        max_upload_mb=max_upload, max_megapixels=max_megapixels, timeout=timeout, allow_hosts=allow_host or [],
        threads=threads, device=device, say=partial(print, flush=True),
    )  # fmt: skip
