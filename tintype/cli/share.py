"""Commands that give a run to others: card, pack, load, push, pull."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tintype.cli.base import USE, app

Licence = Annotated[
    str | None,
    typer.Option(
        "--licence", "--license", help="Of the weights, such as apache-2.0; none is assumed."
    ),
]
Out = Annotated[Path, typer.Option(help="Folder that holds the run folders.")]
Name = Annotated[str | None, typer.Option(help="Name of the run folder; must be new.")]


@app.command(rich_help_panel=USE)
def card(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    out: Annotated[
        Path | None, typer.Option(help="File; RUN/MODEL_CARD.md by default, - to print.")
    ] = None,
    licence: Licence = None,
) -> None:
    """Write a model card: what it is, how good, where it fails, how to use it."""
    from tintype import load

    written = load(str(run)).card(out, licence=licence)
    print(written if isinstance(written, str) else f"model card written to {written}")


@app.command(rich_help_panel=USE)
def pack(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    out: Annotated[
        Path | None, typer.Option(help="File; NAME.zip by default. Must be new.")
    ] = None,
) -> None:
    """Make one zip file of a run that `tintype load`, and every command, opens elsewhere."""
    from tintype import load

    print(f"packed into {load(str(run)).pack(out)}")


@app.command("load", rich_help_panel=USE)
def load_(
    file: Annotated[Path, typer.Argument(help="Zip file of `tintype pack`.")],
    out: Out = Path("runs"),
    name: Name = None,
) -> None:
    """Unpack a packed run into a run folder of its own."""
    from tintype.errors import UserError
    from tintype.runs.packed import unpack

    if not file.is_file():
        raise UserError(f"there is no file {file}.")
    folder = out / (name or file.stem)
    unpack(file, folder)
    print(f"run: {folder}")


@app.command(rich_help_panel=USE)
def push(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    repository: Annotated[
        str, typer.Argument(metavar="REPO", help="OWNER/NAME on the hub; made if it is not there.")
    ],
    private: Annotated[
        bool, typer.Option("--private", help="A new repository is shown to nobody else.")
    ] = False,
    licence: Licence = None,
) -> None:
    """Upload a run to the Hugging Face hub: safetensors, config, preprocessing and card."""
    from tintype.runs.folder import RunFolder
    from tintype.verbs.share.hub import push as push_run

    print(
        f"pushed to {push_run(RunFolder.open(run), repository, private=private, licence=licence)}"
    )


@app.command(rich_help_panel=USE)
def pull(
    repository: Annotated[str, typer.Argument(metavar="REPO", help="OWNER/NAME on the hub.")],
    out: Out = Path("runs"),
    name: Name = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
) -> None:
    """Download a run of tintype from the Hugging Face hub."""
    from tintype.verbs.share.hub import pull as pull_run

    print(
        f"run: {pull_run(repository, out / (name or repository.rpartition('/')[2]), revision=revision).path}"
    )
