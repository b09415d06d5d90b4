"""Checkpoints: a nest of dicts and lists of tensors and JSON values, in one safetensors file."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from tintype.files.nest import put_tensors, take_tensors
from tintype.files.whole import written_whole


def save_checkpoint(folder: Path, step: int, state: Any, keep: int = 2) -> None:
    """Write `state` as a checkpoint of `step`; keep the newest ones.

    `state` is made of nested dicts and lists of tensors and plain values. A safetensors file:
    tensors by their path, the rest as JSON in its metadata, and a digest of all of it.
    """
    from safetensors.torch import save_file

    tensors: dict[str, Any] = {}
    skeleton = json.dumps(take_tensors(state, "", tensors))
    metadata = {"state": skeleton, "digest": _digest(skeleton, tensors)}
    with written_whole(folder / f"step-{step:09d}.safetensors") as temporary:
        try:
            save_file(tensors, temporary, metadata=metadata)
        except Exception as error:  # safetensors reports a full disk with an error type of its own
            raise OSError(getattr(error, "errno", None), str(error)) from error
    for old in sorted(folder.glob("step-*.safetensors"))[:-keep]:
        with suppress(OSError):  # somebody reads it, where that forbids it (Windows)
            old.unlink()


def load_checkpoint(folder: Path) -> tuple[Any, list[str]]:
    """Return the newest checkpoint that is whole (None where there is none), and a line for each
    one that was not.
    """
    from safetensors import safe_open

    warnings = []
    for path in sorted(folder.glob("step-*.safetensors"), reverse=True):
        try:
            with safe_open(path, "pt") as file:
                names = file.keys()  # it is no dict, and cannot be iterated itself
                # Copies, since the file stays mapped into memory for as long as a tensor of it is
                # used, and what is mapped cannot be removed on Windows.
                tensors = {name: file.get_tensor(name).clone() for name in names}
                metadata = file.metadata()
            if metadata["digest"] != _digest(metadata["state"], tensors):
                raise ValueError("its digest does not match")
            return put_tensors(json.loads(metadata["state"]), tensors), warnings
        except Exception as error:  # whatever is wrong with a file, the one before it is the remedy
            reason = str(error).split("\n")[0][:100]
            warnings.append(f"checkpoint {path.name} is broken ({reason}) and passed over")
    return None, warnings


def _digest(skeleton: str, tensors: dict[str, Any]) -> str:
    import torch

    digest = hashlib.blake2b(skeleton.encode(), digest_size=16)
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(memoryview(tensors[name].reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()
