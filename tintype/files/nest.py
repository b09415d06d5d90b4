"""Nests of dicts and lists of tensors and JSON values, taken apart so that no code is in them."""

from __future__ import annotations

import json
from typing import Any


def to_bytes(state: Any) -> bytes:
    """Return a nest as bytes: the length of its JSON, that JSON, and a safetensors file."""
    from safetensors.torch import save

    tensors: dict[str, Any] = {}
    skeleton = json.dumps(take_tensors(state, "", tensors)).encode()
    return len(skeleton).to_bytes(8, "little") + skeleton + (save(tensors) if tensors else b"")


def from_bytes(content: bytes) -> Any:
    """Return the nest that `to_bytes` wrote; of tuples, lists."""
    from safetensors.torch import load

    end = 8 + int.from_bytes(content[:8], "little")
    tensors = load(content[end:]) if len(content) > end else {}
    return put_tensors(json.loads(content[8:end]), tensors)


def take_tensors(state: Any, path: str, tensors: dict[str, Any]) -> Any:
    """Return a nest as JSON values; its tensors are added to `tensors`, by their path."""
    import torch

    if isinstance(state, torch.Tensor):
        # The file holds plain contiguous bytes; the memory format is the network's own affair when
        # it loads them.
        tensors[path] = state.detach().cpu().contiguous().clone()
        return {"tensor": path}
    if isinstance(state, dict):
        keys = [[type(k).__name__, k] for k in state]
        return {
            "keys": keys,
            "values": [take_tensors(v, f"{path}/{k}", tensors) for k, v in state.items()],
        }
    if isinstance(state, list | tuple):
        return {"list": [take_tensors(v, f"{path}/{i}", tensors) for i, v in enumerate(state)]}
    return {"plain": state}


def put_tensors(skeleton: Any, tensors: dict[str, Any]) -> Any:
    """Return the nest that `take_tensors` took apart."""
    if "tensor" in skeleton:
        return tensors[skeleton["tensor"]]
    if "keys" in skeleton:
        keys = [int(k) if kind == "int" else k for kind, k in skeleton["keys"]]
        return {k: put_tensors(v, tensors) for k, v in zip(keys, skeleton["values"], strict=True)}
    if "list" in skeleton:
        return [put_tensors(v, tensors) for v in skeleton["list"]]
    return skeleton["plain"]
