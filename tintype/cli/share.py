"""The commands that share a run: card, pack, load, push and pull."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tintype.cli.base import USE, Run, app

Licence = Annotated[
    str | None,
    typer.Option(
        "--licence",
        "--license",
        help="Licence of the weights, such as apache-2.0 (default: none is stated).",
    ),
]
Out = Annotated[Path, typer.Option(help="Folder that holds the run folders.")]
Name = Annotated[str | None, typer.Option(help="Name of the new run folder.")]


@app.command(rich_help_panel=USE)
def card(
    run: Run,
    out: Annotated[
        Path | None,
        typer.Option(help="File to write, or - to print it (default: RUN/MODEL_CARD.md)."),
    ] = None,
    licence: Licence = None,
) -> None:
    """Write a model card: what the model is, how good it is, where it fails, how to use it."""
    from tintype import load

    written = load(str(run)).card(out, licence=licence)
    print(written if isinstance(written, str) else f"model card written to {written}")


@app.command(rich_help_panel=USE)
def pack(
    run: Run,
    out: Annotated[
        Path | None,
        typer.Option(help="Zip file to write, which must not exist yet (default: NAME.zip)."),
    ] = None,
) -> None:
    """Pack a run into one zip file that every command can open, also elsewhere."""
    from tintype import load

    print(f"packed into {load(str(run)).pack(out)}")


@app.command("load", rich_help_panel=USE)
def load_(
    file: Annotated[Path, typer.Argument(help="Zip file written by `tintype pack`.")],
    out: Out = Path("runs"),
    name: Name = None,
) -> None:
    """Unpack a packed run into a new run folder."""
    from tintype.errors import UserError
    from tintype.runs.packed import unpack

    if not file.is_file():
        raise UserError(f"there is no file {file}. Expected a zip file written by `tintype pack`.")
    folder = out / (name or file.stem)
    unpack(file, folder)
    print(f"run: {folder}")


@app.command(rich_help_panel=USE)
def push(
    run: Run,
    repository: Annotated[
        str,
        typer.Argument(metavar="REPO", help="OWNER/NAME on the hub; created if it does not exist."),
    ],
    private: Annotated[
        bool, typer.Option("--private", help="Create the repository as private.")
    ] = False,
    licence: Licence = None,
) -> None:
    """Upload a run to the Hugging Face Hub: safetensors, config, preprocessing and card."""
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
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit to download.")] = None,
) -> None:
    """Download a tintype run from the Hugging Face Hub."""
    from tintype.verbs.share.hub import pull as pull_run

    folder = out / (name or repository.rpartition("/")[2])
    print(f"run: {pull_run(repository, folder, revision=revision).path}")
