"""Files of `tintype export`, opened by ONNX Runtime, with what each says of itself; no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tintype.errors import UserError

FORMAT = 1  # of what lies under ABOUT; raise it when an older tintype would misread the file
ABOUT = "tintype"  # the metadata entry that holds, as JSON, what belongs to the model


def open_session(path: Path, threads: int | None = None) -> Any:
    """Return an ONNX Runtime session on the CPU for a file.

    Raises:
        UserError: ONNX Runtime is not installed, there is no such file, or it is no ONNX model.
    """
    try:
        import onnxruntime
    except ImportError:
        raise UserError(
            "exported models are computed by ONNX Runtime, which is not installed. Type: "
            "pip install onnxruntime"
        ) from None

    if not path.is_file():
        raise UserError(f"there is no file {path}.")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; warnings are about the optimiser alone

    options.intra_op_num_threads = threads or 0
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's exceptions share no class of their own
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{path} cannot be read as an ONNX model: {reason}") from None


def read_about(path: Path, session: Any) -> dict[str, Any]:
    """Return what an exported file says of itself: task, classes, preprocessing, recipe.

    Raises:
        UserError: tintype did not make it, or a newer one did.
    """
    text = session.get_modelmeta().custom_metadata_map.get(ABOUT)
    if text is None:
        raise UserError(
            f"{path} is an ONNX model, but not one of `tintype export`: "
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
