"""Files of `tintype export`, with what each says of itself; ONNX Runtime needs no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tintype.errors import UserError
from tintype.files.onnx_files import open_session

FORMAT = 1  # of what lies under ABOUT; raise it when an older tintype would misread the file
ABOUT = "tintype"  # the metadata entry that holds, as JSON, what belongs to the model


def is_exported(path: Path) -> bool:
    """Return whether a file is a model in one of the formats of `tintype export`."""
    if path.suffix.lower() == ".onnx":
        return True
    if path.suffix.lower() == ".zip" or not path.is_file():
        return False
    from tintype.models.parts import programs  # which needs torch

    return programs.kind_of(path) is not None


def open_file(path: Path, threads: int | None = None) -> tuple[Any, dict[str, Any]]:
    """Return what computes an exported file, by `run(None, inputs)`, and what the file says of it.

    Raises:
        UserError: it cannot be read, was not made by tintype or by a newer one, or is a program
            that the user does not trust.
    """
    if path.suffix.lower() == ".onnx":
        session = open_session(path, threads)
        text = session.get_modelmeta().custom_metadata_map.get(ABOUT)
        return session, _about(path, text, "an ONNX model")

    from tintype.models.parts import programs

    instead = "An .onnx file and a run folder hold data alone."
    program = programs.open_program(path, ABOUT, instead)
    return program, _about(path, program.extra or None, "a program of torch")


def _about(path: Path, text: str | None, kind: str) -> dict[str, Any]:
    """Return what an exported file says of itself: task, classes, preprocessing, recipe.

    Raises:
        UserError: tintype did not make it, or a newer one did.
    """
    if text is None:
        raise UserError(
            f"{path} is {kind}, but not one of `tintype export`: "
            "it does not say what its answers mean."
        )

    try:
        about = json.loads(text)
        version = int(about["format"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"what {path} says of itself is broken. Export it again.") from None

    if version > FORMAT:
        raise UserError(
            f"{path} was made by a newer tintype (format {version}, "
            f"this one reads {FORMAT}). Update tintype."
        )
    return about


@contextmanager
def intact(path: Path) -> Iterator[None]:
    """Turn what a task raises that finds an incomplete description into a line for the user.

    Raises:
        UserError: what the file says of itself is incomplete or broken.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"what {path} says of itself is incomplete or broken ({error}). Export it again."
        ) from None
