"""Read weight files without running code: which kind a file is, and which tensors are meant.

Training states hold more than weights, and wrappers put their own names before every key. What is
taken and what is left is decided here by the structure of the file, and reported.
"""

from __future__ import annotations

import argparse
import pathlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tintype.errors import UserError
from tintype.models.parts import programs

LONGEST_HEADER = 100_000_000  # bytes, of safetensors
DEEPEST = 3  # dicts inside dicts of a training state

# Names of the usual places, in order; any other name will do where it is the only one.
USUAL = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "params",
    "weights",
    "module",
    "backbone",
    "encoder",
)
_AVERAGED = re.compile(r"(^|[_.])(ema|swa|avg|averaged?|polyak|shadow)([_.]|$)", re.IGNORECASE)
# Single numbers that say how an average was made, not what the network is.
_COUNTERS_OF_AVERAGES = {"n_averaged", "num_updates", "initted", "step", "decay"}

# Objects that hold settings beside the weights in other tools' checkpoints. They are plain data:
# making one does nothing.
# Paths become pure ones, since those of the other system cannot be made.
_PATHS = {
    f"{module}.{prefix}{system}Path": pure
    for module in ("pathlib", "pathlib._local")  # the latter is Python 3.13's
    for prefix in ("", "Pure")
    for system, pure in (
        ("Posix", pathlib.PurePosixPath),
        ("Windows", pathlib.PureWindowsPath),
    )
}
_PLAIN_DATA: list[Any] = [
    argparse.Namespace,
    pathlib.PurePath,
    *((pure, name) for name, pure in _PATHS.items()),
]

EXPECTED = (
    "Expected a state dict: .safetensors, "
    "or .pth as torch.save(network.state_dict(), FILE) writes it."
)

_BY_START: tuple[tuple[bytes, str], ...] = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes it"),
    (b"GGUF", "a GGUF file, which holds quantised language models"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x1f\x8b", "packed by gzip; unpack it first"),
    (b"BZh", "packed by bzip2; unpack it first"),
    (b"\xfd7zXZ", "packed by xz; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "packed by zstd; unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (b"Rar!", "a RAR archive; unpack it first"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"%PDF", "a PDF"),
)  # fmt: skip
_IN_A_ZIP: tuple[tuple[str, str], ...] = (
    (r"(^|/)model\.weights\.h5$", "a Keras file"),
    (r"\.npy$", "an archive of NumPy arrays"),
)
# what may follow the version of its format
_FIELDS_OF_ONNX = (0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42)
# of files that torch.save wrote before it wrote zip archives
_TORCH_MAGIC = b"l\xfc\x9cF\xf9 j\xa8P\x19"
# TensorFlow's index of a checkpoint ends with it
_END_OF_A_TABLE = bytes.fromhex("57fb808b247547db")


class WeightFile(NamedTuple):
    """The tensors of a weight file.

    Attributes:
        tensors: by name, as the file has them but for the prefixes of wrappers.
        metadata: of a safetensors file.
        averaged: the name under which the averaged weights were found, where they were taken in
            place of the last ones.
        remark: what was left in the file, for the user; or "".
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    averaged: str = ""
    remark: str = ""


# ---- which kind of file ----


def other_kind(path: Path) -> str | None:
    """Return what a file without PyTorch weights is, by its bytes; None where it may hold some."""
    with path.open("rb") as file:
        start = file.read(512)
        file.seek(max(0, path.stat().st_size - len(_END_OF_A_TABLE)))
        end = file.read()

    if _begins_as_safetensors(start):
        return None
    if start.startswith(b"PK"):
        return _kind_of_zip(path)
    if start[:1] == b"\x80" and _TORCH_MAGIC not in start and end.endswith(pickle.STOP):
        return (
            "a pickle that torch.save did not write; reading it could run code, "
            "which tintype never does"
        )
    if start.startswith((b"version https://git-lfs", b"<")):
        return "a link or a web page, not weights. Download the file itself"

    for magic, kind in _BY_START:
        if start.startswith(magic):
            return kind

    if start[4:8] == b"TFL3":
        return "a TensorFlow Lite model"
    if start[257:262] == b"ustar":
        return "a tar archive; unpack it first"
    if end == _END_OF_A_TABLE or re.search(r"\.data-\d+-of-\d+$", path.name):
        return "a part of a TensorFlow checkpoint"
    if len(start) > 2 and start[0] == 0x08 and 1 <= start[1] <= 64 and start[2] in _FIELDS_OF_ONNX:
        return _kind_of_protobuf(path, start)
    if len(start) > 2 and 0x81 <= start[0] <= 0x8F and 0xA1 <= start[1] <= 0xBF:
        return "a MessagePack file, as Flax writes it"
    if start.lstrip()[:1] == b"{" and b"\0" not in start:
        return "text (JSON)"
    if start and all(byte in b"\t\n\r\f" or 32 <= byte < 127 for byte in start):
        return "text"

    return None


def _begins_as_safetensors(start: bytes) -> bool:
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") < LONGEST_HEADER


def _kind_of_zip(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return None  # damaged, which its reader says
    if program := programs.kind_among(names):
        return program
    for pattern, kind in _IN_A_ZIP:
        if any(re.search(pattern, name) for name in names):
            return kind
    if not any(re.search(r"(^|/)data\.pkl$", name) for name in names):
        return "a zip archive; unpack it first"
    return None


def _kind_of_protobuf(path: Path, start: bytes) -> str:
    if path.suffix == ".mlmodel":
        return "a Core ML model"
    if start[1] == 1 and path.suffix == ".pb":
        return "a TensorFlow SavedModel"
    return "an ONNX graph"


# ---- what it holds ----


def read_weights(path: Path) -> WeightFile:
    """Return the state dict of a file. No code runs.

    A training state is opened. Where it holds averaged weights beside those of the last step, they
    are taken, since they are what is meant to be used.

    Raises:
        UserError: damaged, of another kind, or only to be read by running code; or it does not tell
            which weights are meant.
    """
    content, metadata = read_content(path)
    found = dict(_state_dicts(content, ""))
    if not found:
        raise UserError(f"{path} holds no weights: expected a state dict, names and tensors.")
    averaged = [name for name in found if is_averaged(name)]
    plain = [name for name in found if not is_averaged(name)]
    last = found[_meant(plain, path)] if plain else {}
    if not averaged:
        return WeightFile(last, metadata, remark=_averages_without_names(content))

    taken = _meant(averaged, path)
    mean = found[taken]
    # averages of parameters alone: the statistics of the norms are those of the last step
    if set(mean) <= set(last):
        mean = {**last, **mean}
    return WeightFile(mean, metadata, averaged=taken if last else "")


def read_content(path: Path) -> tuple[Any, dict[str, str]]:
    """Return what a weight file holds, tensors in dicts, and the metadata of a safetensors file.

    Of a program that the user trusts, these are its parameters and buffers.

    Raises:
        UserError: damaged, of another kind, or only to be read by running code.
    """
    kind = other_kind(path)
    if kind is not None and programs.kind_of(path):
        return programs.open_program(path, instead=EXPECTED).tensors, {}
    if kind is not None:
        verb = "holds" if kind.startswith("a link") else "is"
        raise UserError(f"{path} {verb} {kind}. {EXPECTED}")
    with path.open("rb") as file:
        start = file.read(512)
    # A safetensors file begins with a length, whose first bytes may be those of a pickle or a zip.
    if not _begins_as_safetensors(start) and start.startswith((b"PK", b"\x80")):
        return _read_pickled(path), {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata = {
                key: value for key, value in (file.metadata() or {}).items() if key != "format"
            }
            return {key: file.get_tensor(key) for key in file.keys()}, metadata  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(_damaged(path, error)) from None


def _read_pickled(path: Path) -> Any:
    # As bytes and not by its name, from which torch would take a pickle called .safetensors for
    # what it is not.
    try:
        with (
            warnings.catch_warnings(),
            torch.serialization.safe_globals(_PLAIN_DATA),
            path.open("rb") as file,
        ):
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)

    except pickle.UnpicklingError as error:
        if re.search("GLOBAL|llowed global|nsupported (global|class)", str(error)):
            raise UserError(
                f"{path} can only be read by running code that it names, which tintype never does. "
                "Save the weights alone: torch.save(network.state_dict(), FILE), "
                "or as .safetensors."
            ) from None
        raise UserError(_damaged(path, ValueError("its pickle breaks off"))) from None
    except (
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        KeyError,
        AttributeError,
        TypeError,
        IndexError,
    ) as error:
        raise UserError(_damaged(path, error)) from None


def _damaged(path: Path, error: Exception) -> str:
    line = (str(error).strip() or type(error).__name__).split("\n")[0].rstrip(".")
    return (
        f"{path} is damaged, not complete, or not weights ({line[:120]}). "
        "Get it again; expected .safetensors or .pth."
    )


def _state_dicts(
    content: Any, name: str, depth: int = 0
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield each dict of named tensors with its own name, the outermost one under ""."""
    if not isinstance(content, Mapping) or depth > DEEPEST:
        return
    tensors = {
        key: value
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }
    weights = {
        key: value
        for key, value in tensors.items()
        if value.ndim or key not in _COUNTERS_OF_AVERAGES
    }
    if any(value.ndim for value in weights.values()):
        yield name, _unwrapped(weights)

    for key, value in content.items():
        if isinstance(key, str) and "optim" not in key:
            yield from _state_dicts(value, f"{name}.{key}" if name else key, depth + 1)


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors without what torch's own wrappers put before every key."""
    for prefix in ("module.", "_orig_mod.", "module."):
        if all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def _meant(names: list[str], path: Path) -> str:
    """Return which of several state dicts is meant, by its name.

    Raises:
        UserError: they have names that tell nothing.
    """
    if len(names) == 1:
        return names[0]
    for usual in ("", *USUAL):
        there = [
            name
            for name in names
            if _AVERAGED.sub("_", name.rpartition(".")[2]).strip("_") == usual
        ]
        if there:
            return there[0]

    raise UserError(
        f"{path} holds several state dicts: {', '.join(names[:5])}. "
        "Save the one that is meant alone."
    )


def _averages_without_names(content: Any) -> str:
    """Return a line where averaged weights are there without names, as torch_ema keeps them."""
    if not isinstance(content, Mapping):
        return ""
    for key, value in content.items():
        inside = list(value.values()) if isinstance(value, Mapping) else [value]
        lists = [
            each
            for each in inside
            if isinstance(each, list) and any(isinstance(part, Tensor) for part in each)
        ]
        if isinstance(key, str) and is_averaged(key) and lists:
            return (
                f"{key} holds averaged weights without names, so those of the last step are taken"
            )

    return ""


# ---- names in the file, names in the network ----


def without_prefix(
    tensors: Mapping[str, Tensor], expected: Collection[str], source: str
) -> tuple[dict[str, Tensor], str]:
    """Return the tensors under the names of the network, and the prefix that they had.

    Other tools name the attribute that holds the network ("model.", "net.", "encoder."), and keep
    more beside it. The prefix is the one under which most of `expected` is found; an averaged copy
    comes before the one it was made from.

    Raises:
        UserError: two copies fit equally well, and nothing tells which is meant.
    """
    wanted = set(expected)
    counts: dict[str, int] = {"": 0}
    for key in tensors:
        prefix, rest = "", key
        while True:
            if rest in wanted:
                counts[prefix] = counts.get(prefix, 0) + 1
            part, dot, rest = rest.partition(".")
            if not dot:
                break
            prefix += f"{part}."

    most = max(counts.values())
    best = [prefix for prefix, count in counts.items() if count == most]
    averaged = [prefix for prefix in best if is_averaged(prefix)]
    if averaged:
        best = averaged
    if "" in best or 2 * most < len(wanted):
        return dict(tensors), ""

    if len(best) > 1:
        shown = ", ".join(prefix.rstrip(".") for prefix in best)
        raise UserError(
            f"{source} holds several networks of this kind: {shown}. "
            "Save the one that is meant alone."
        )

    prefix = best[0]
    return {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }, prefix


def is_averaged(name: str) -> bool:
    """Return whether the name of a state dict or a prefix says that it holds averaged weights."""
    return _AVERAGED.search(name) is not None


def as_expected(given: Tensor, expected: Tensor) -> Tensor | None:
    """Return a tensor in the type that a network has, or None where it does not fit.

    A tensor of another shape or of quantised values does not. Whole numbers of a network count
    batches or name positions. Where a file rounded them, the network's own stand: they say nothing
    about what was learned.
    """
    if given.shape != expected.shape or given.is_complex() != expected.is_complex():
        return None
    if expected.is_floating_point():
        return given.to(expected.dtype) if given.is_floating_point() else None
    if not given.is_floating_point():
        return given
    values = given.to(torch.float64)
    whole = bool(values.isfinite().all()) and bool((values == values.round()).all())
    return values.to(expected.dtype) if whole else expected


def without_shared_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors without the prefix that all their names share."""
    found = dict(tensors)
    while len({key.partition(".")[0] for key in found}) == 1 and all("." in key for key in found):
        found = {key.partition(".")[2]: value for key, value in found.items()}
    return found
