"""ONNX files, opened by ONNX Runtime without torch and without the onnx package.

Such a file is data: the runtime knows the operators, and loads no library that a file names. What a
file could still do is to name other files that hold its weights, so that opening it would read
them. None of tintype's does, and such a file is refused before the runtime sees it.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tintype.errors import UserError
from tintype.files.bounded import regular_only

LARGEST = 2_000_000_000  # bytes: what one protobuf file can hold

# Where tensors may be inside a model: {message: {number of a field: message in it}}, from the
# standard's onnx.proto. Messages inside messages that hold no tensor are passed over.
_INSIDE: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "tensor": {},
}
_NAME, _EXTERNAL_DATA, _DATA_LOCATION = 8, 13, 14  # fields of a tensor
_DEEPEST = 50  # graphs inside graphs


def open_session(
    path: Path, threads: int | None = None, weights: Mapping[str, np.ndarray] | None = None
) -> Any:
    """Return an ONNX Runtime session on the CPU for a file.

    Args:
        path: of the file.
        threads: with which it computes; those of the runtime by default.
        weights: the values of the tensors that the file leaves out, by name; the session computes
            with these arrays, which must outlive it.

    Raises:
        UserError: ONNX Runtime is not installed, there is no such file, it is no ONNX model, or it
            takes values from other files.
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
    try:
        left_out = names_left_out(path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, getattr(error, "strerror", None) or error) from None

    given = dict(weights or {})
    if not left_out <= given.keys():
        raise UserError(
            f"{path} takes weights from another file, which is not followed. Expected a model in "
            "one file, as `tintype export` writes it."
        )

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised; warnings are about the optimiser alone
    options.intra_op_num_threads = threads or 0
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(given[name]) for name in left_out}
    try:
        options.add_external_initializers(list(values), list(values.values()))
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's exceptions share no class of their own
        raise _unreadable(path, error) from None


def names_left_out(path: Path) -> set[str]:
    """Return the names of the tensors of an ONNX model whose values are in other files.

    Raises:
        OSError: it is no regular file, or cannot be read.
        ValueError: it is no protobuf message, or larger than one can be.
    """
    with open(path, "rb", opener=regular_only) as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if len(content) > LARGEST:
        raise ValueError(f"it is larger than {LARGEST:,} bytes")
    return set(_left_out(memoryview(content), "model"))


def _unreadable(path: Path, error: object) -> UserError:
    reason = " ".join(str(error).split())[:160]
    return UserError(f"{path} cannot be read as an ONNX model: {reason}")


def _left_out(message: memoryview, kind: str, depth: int = 0) -> Iterator[str]:
    """Yield the names of the tensors of a message whose values are in other files.

    Raises:
        ValueError: it is no protobuf message, or is nested too deeply.
    """
    if depth > 3 * _DEEPEST:  # a node, an attribute and a graph each
        raise ValueError("its graphs are nested too deeply")
    if kind == "tensor":
        fields = dict(_fields(message))
        if fields.get(_DATA_LOCATION) == 1 or _EXTERNAL_DATA in fields:
            name = fields.get(_NAME)
            yield bytes(name).decode("utf-8", "replace") if isinstance(name, memoryview) else ""
        return

    for number, value in _fields(message):
        inside = _INSIDE[kind].get(number)
        if inside is not None and isinstance(value, memoryview):
            yield from _left_out(value, inside, depth + 1)


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the fields of a protobuf message, a number or bytes each.

    Raises:
        ValueError: it is none.
    """
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        kind = key & 7
        if kind == 0:
            value, place = _varint(message, place)
            yield key >> 3, value
            continue

        if kind == 2:
            length, place = _varint(message, place)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError("it is no protobuf message")
        if place + length > len(message):
            raise ValueError("it breaks off")
        yield key >> 3, message[place : place + length]
        place += length


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """Return the number at a place, and the place after it."""
    number = 0
    for count in range(10):
        if place >= len(message):
            raise ValueError("it breaks off")
        byte = message[place]
        place += 1
        number |= (byte & 127) << (7 * count)
        if byte < 128:
            return number, place
    raise ValueError("it is no protobuf message")
