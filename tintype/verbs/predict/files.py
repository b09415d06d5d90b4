"""Which files are to be predicted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

from tintype.data.decode import image_files
from tintype.errors import UserError
from tintype.files.shard_names import names_shards


def list_images(paths: Sequence[str | Path]) -> list[Path]:
    """Return the image files among `paths`, folders searched.

    Raises:
        UserError: a path does not exist, or no image was found.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found += image_files(path)
        elif path.exists():
            found.append(path)
        else:
            raise UserError(f"there is no file or folder {path}.")

    if not found:
        shards = [path for path in paths if names_shards(str(path))]
        instead = (
            f"Shards are measured, not predicted: tintype evaluate RUN --data {shards[0]}"
            if shards
            else "Expected files such as .jpg or .png."
        )
        raise UserError(f"there is no image in {', '.join(map(str, paths))}. {instead}")
    return found


def names_from(stream: IO[bytes]) -> list[str]:
    """Return the names on a stream: one a line, or ended by NUL bytes as `find -print0` gives them.

    Raises:
        UserError: there is none.
    """
    import os

    text = stream.read()
    names = text.split(b"\0") if b"\0" in text else text.splitlines()
    try:
        paths = [str(Path(os.fsdecode(name))) for name in names if name.strip()]
    except (
        UnicodeDecodeError
    ):  # on Windows, where it depends on the shell what comes through a pipe
        raise UserError("the names on standard input are not in UTF-8. Write them so.") from None
    if not paths:
        raise UserError(
            "there is no name on standard input. Expected one a line: "
            "find photos -name '*.jpg' | tintype ..."
        )
    return paths


def without(files: Iterable[str | Path], folders: Sequence[Path | None]) -> list[str]:
    """Return the names of the files that lie in none of the folders, which the command fills."""
    filled = [folder.resolve() for folder in folders if folder is not None]
    if not filled:
        return [str(file) for file in files]
    return [
        str(file)
        for file in files
        if not any(folder in Path(file).absolute().parents for folder in filled)
    ]
