"""Open programs of torch.export and TorchScript, the only files whose reading can run code.

Both formats hold a program and not weights alone, and torch's readers unpickle parts of them and
evaluate text that is in them; docs/limits.md lists the calls. So a program is opened here and
nowhere else, and only if the user has said to trust exactly these bytes, or this process has
written them itself.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tintype import own_code
from tintype.errors import UserError
from tintype.files.bounded import read_bytes

# {what a program is, in words: the names of entries that tell it from other zip archives}
_KINDS = {
    "a TorchScript archive, which holds a program": r"(^|/)code/.*\.py$|(^|/)constants\.pkl$",
    "a program of torch.export": (
        r"(^|/)(archive_format|serialized_exported_program\.json)$|(^|/)models/.*\.json$"
    ),
}


@dataclass(frozen=True)
class Program:
    """An opened program.

    Attributes:
        module: computes it; takes and returns tensors.
        tensors: its parameters and buffers by name.
        extra: the text of the extra file that was asked for, "" where it has none.
    """

    module: Callable[..., Tensor]
    tensors: dict[str, Tensor]
    extra: str

    @torch.inference_mode()
    def run(self, outputs: Sequence[str] | None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Compute the only output, as a session of ONNX Runtime does."""
        del outputs
        tensors = [torch.from_numpy(np.ascontiguousarray(value)) for value in inputs.values()]
        return [self.module(*tensors).numpy()]


def kind_among(entries: Iterable[str]) -> str | None:
    """Return which kind of program a zip archive with these entries is, or None."""
    names = list(entries)
    for kind, pattern in _KINDS.items():
        if any(re.search(pattern, name) for name in names):
            return kind
    return None


def kind_of(path: Path) -> str | None:
    """Return which kind of program a file is, or None for everything else; nothing in it runs."""
    try:
        with zipfile.ZipFile(path) as archive:
            return kind_among(archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return None


def open_program(path: Path, extra: str = "", instead: str = "") -> Program:
    """Return the program in a file that the user trusts.

    Args:
        path: of the file.
        extra: name of the extra file whose text is returned.
        instead: what would do in its place, for the message.

    Raises:
        UserError: it is not trusted, is no program, or cannot be read.
    """
    kind = kind_of(path)
    if kind is None:
        raise UserError(f"{path} is neither a program of torch.export nor of TorchScript.")

    content = read_bytes(path)
    if not own_code.is_trusted_content(content):
        raise UserError(
            f"{path} is {kind}: opening it can run code. "
            + (f"{instead} " if instead else "")
            + f"If you trust whoever made it: --trust {path}"
        )

    read = _exported if kind == "a program of torch.export" else _torchscript
    try:
        with quiet():
            return read(io.BytesIO(content), extra)
    except Exception as error:  # whatever a damaged file makes torch raise
        line = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise UserError(f"{path} is {kind} that cannot be read ({line[:120]}).") from None


def _exported(content: io.BytesIO, extra: str) -> Program:
    files = {extra: ""}
    program = torch.export.load(content, extra_files=files)
    tensors = {name: tensor.detach() for name, tensor in program.state_dict.items()}
    return Program(program.module(), tensors, str(files.get(extra, "")))


def _torchscript(content: io.BytesIO, extra: str) -> Program:
    files: dict[str, Any] = {extra: ""} if extra else {}
    module = torch.jit.load(content, map_location="cpu", _extra_files=files)
    text = files.get(extra, "")
    text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    tensors = {name: tensor.detach() for name, tensor in module.state_dict().items()}
    return Program(module.eval(), tensors, text)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence torch's exporters and readers: a check afterwards finds what matters.

    torch calls TorchScript deprecated on every use; our documentation says it once.
    """
    loud = [
        logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")
    ]
    levels = [logger.level for logger in loud]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loud:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loud, levels, strict=True):
                logger.setLevel(level)
