"""The application that every command is added to, and the options that several of them share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from tintype.interface.spelling import on_the_command_line

app = typer.Typer(
    name="tintype",
    help="Train models that classify, generate or upscale images, and know how good they are.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# The groups in which `tintype --help` shows the commands.
MAKE = "Train and try"
LOOK = "Measure and look"
USE = "Put to use"

# Options and arguments that several commands share.
Json = Annotated[
    bool,
    typer.Option("--json", help="Print a single JSON object on standard output and nothing else."),
]
Run = Annotated[Path, typer.Argument(help="Run folder, or its address.")]
DataRoot = Annotated[
    str | None, typer.Option(help="Folder that already holds the files of the data set.")
]
Steps = Annotated[
    int | None, typer.Option(help="Number of batches to train on, instead of --epochs.")
]
TrainingDevice = Annotated[
    str | None, typer.Option(help="Device to compute on: auto, cpu, cuda, cuda:1 or mps.")
]
StudiesFolder = Annotated[
    Path, typer.Option(help="Folder that holds the folders of studies and runs.")
]
Data = Annotated[str | None, typer.Option(help="Name of a data set, a folder, or a CSV file.")]
Epochs = Annotated[float | None, typer.Option(help="Number of passes over the training images.")]
Weights = Annotated[
    str | None,
    typer.Option(
        help="Initial weights: default (downloaded once), a file, an earlier run, or none."
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        help="CPU threads; recorded, because the number can change the last bits of a result."
    ),
]
Port = Annotated[int, typer.Option(help="Port to listen on; 0 picks a free one.")]
RunsFolder = Annotated[
    Path, typer.Option(help="Folder that holds the run folders, or an address: s3://bucket/runs.")
]
Device = Annotated[str, typer.Option(help="Device to compute on: auto, cpu, cuda, cuda:1 or mps.")]


def _trust(named: list[str] | None) -> list[str]:
    from tintype import own_code

    for what in named or []:
        own_code.trust(what)
    return named or []


Trust = Annotated[
    list[str] | None,
    typer.Option(
        "--trust",
        metavar="FILE",
        callback=_trust,
        help="Allow the code in this file, which the run or model needs (may be repeated).",
    ),
]


@contextmanager
def sharing_cores() -> Iterator[None]:
    """Leave the cores on which other processes compute to them within the block, and say so."""
    from tintype.hardware import cores  # noqa: F401 (looks at the load while torch is imported)
    from tintype.hardware.arithmetic import beside_others

    with beside_others() as said:
        if said:
            print(said, file=sys.stderr)
        yield


def fields(assignments: list[str] | None, **named: Any) -> dict[str, Any]:
    """Return the fields of a recipe that were given by options or by --set, which wins.

    Raises:
        UserError: one of `assignments` is not KEY=VALUE.
    """
    from tintype.recipe import parse_assignments

    given = {name: value for name, value in named.items() if value is not None}
    return given | parse_assignments(assignments or [])


def _version(show: bool) -> None:
    if show:
        from tintype.version import __version__

        print(f"tintype {__version__}")
        raise typer.Exit


@app.callback()
def _global(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback when an error occurs.")
    ] = False,
) -> None:
    context.with_resource(on_the_command_line())
