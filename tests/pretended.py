"""A GPU that is only pretended, so that whole runs can be made on one where there is none.

Every tensor lies in memory, has values and derivatives, and carries the device that it is claimed
to lie on. What a real GPU refuses is refused: operations between devices, a generator of another
device, NumPy's view of a tensor, and on MPS any number of 64 bits. Since the arithmetic is that of
the processor, a run ends with the same bits as one without the pretence.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

CPU = torch.device("cpu")

# What reads a value, so that the host waits for the device.
READING = (
    "item", "tolist", "__bool__", "__float__", "__int__", "__index__", "is_nonzero", "nonzero",
    "equal", "allclose", "unique", "masked_select", "__contains__", "bincount",
)  # fmt: skip

# What takes no tensor of another device, even one without dimensions.
STRICT = (
    "cat", "concat", "stack", "index_select", "gather", "scatter", "scatter_", "linear", "matmul",
    "mm", "bmm", "conv2d", "embedding", "_fused_adam_", "_fused_adamw_", "_fused_sgd_",
)  # fmt: skip


def claimed(tensor: Tensor) -> torch.device:
    """Return where a tensor is claimed to lie."""
    return getattr(tensor, "_pretended", CPU)


def _tensors(thing: Any) -> Iterator[Tensor]:
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, dict):
        yield from _tensors(list(thing.values()))
    elif isinstance(thing, list | tuple):
        for each in thing:
            yield from _tensors(each)


class Pretended(TorchFunctionMode):
    """The mode in which tensors carry the device that they are claimed to lie on.

    Attributes:
        device: what is pretended.
        waits: how often each operation made the host wait for the device.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.device = torch.device(kind, 0)
        self.waits: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", str(func))
        owner = getattr(getattr(func, "__self__", None), "__name__", "")

        if name == "__get__":
            return self._attribute(func, owner, args)
        if name == "__set__" and owner == "data":
            func(*args, **kwargs)
            args[0]._pretended = claimed(args[1])
            return None

        if name in ("to", "cpu", "cuda", "type"):
            return self._moved(func, name, args, kwargs)
        if name in ("numpy", "__array__") and claimed(args[0]) != CPU:
            raise TypeError(
                f"can't convert {claimed(args[0])} device type tensor to numpy. "
                "Use Tensor.cpu() to copy the tensor to host memory first."
            )
        if name == "pin_memory":
            return args[0]

        there = self._together(name, args, kwargs)
        if kwargs.get("device") is not None:
            there = self._place(kwargs["device"])
            kwargs["device"] = CPU if there.type == self.device.type else there
        self._check_generator(name, args, kwargs, there)
        if name in READING and there != CPU:
            self.waits[name] += 1
        return self._claim(func(*args, **kwargs), there)

    def _attribute(self, func: Any, name: str, args: Any) -> Any:
        there = claimed(args[0])
        if name == "device":
            real = func(*args)
            return real if real.type != "cpu" else there
        if name in ("is_cuda", "is_mps", "is_cpu"):
            return there.type == name.removeprefix("is_")
        found = func(*args)
        return self._claim(found, there) if isinstance(found, Tensor) else found

    def _moved(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        tensor = args[0]
        before = there = claimed(tensor)
        if name == "cpu":
            there = CPU
        elif name == "cuda":
            there, func, args, kwargs = self.device, Tensor.to, (tensor,), {}
        else:
            given = []
            for value in args[1:]:
                if isinstance(value, Tensor):
                    there = claimed(value)
                    given.append(value)
                elif isinstance(value, torch.device | str | int) and not isinstance(value, bool):
                    there = self._place(value)
                    given.append(CPU if there.type == self.device.type else there)
                else:
                    given.append(value)
            args = (tensor, *given)
            if kwargs.get("device") is not None:
                there = self._place(kwargs["device"])
                kwargs["device"] = CPU if there.type == self.device.type else there

        found = func(*args, **kwargs)
        if there == CPU and before != CPU:
            self.waits[name] += 1
        if found is tensor and there != before:
            found = tensor.clone()  # another memory
        return self._claim(found, there)

    def _place(self, device: Any) -> torch.device:
        place = torch.device(device)
        return self.device if place.type == self.device.type else place

    def _together(self, name: str, args: Any, kwargs: Any) -> torch.device:
        """Return where the tensors of a call lie, and refuse those that lie apart."""
        if name in ("__getitem__", "__setitem__"):
            return self._indexed(name, args)
        if name == "copy_":
            return claimed(args[0])
        if name == "_has_compatible_shallow_copy_type":  # asked before a network is moved
            return CPU

        found = list(_tensors([list(args), kwargs]))
        strict = name in STRICT
        places = {claimed(t) for t in found if strict or t.ndim}
        scalars = {claimed(t) for t in found if not t.ndim}
        if len(places) > 1 or (places == {CPU} and scalars - places):
            raise RuntimeError(
                f"Expected all tensors to be on the same device ({name}: "
                f"{', '.join(sorted({str(claimed(t)) for t in found}))})"
            )
        return next(iter(places or scalars - {CPU}), CPU)

    def _indexed(self, name: str, args: Any) -> torch.device:
        there = claimed(args[0])
        index = list(_tensors(args[1]))
        for each in index:
            if claimed(each) not in (CPU, there):
                raise RuntimeError(
                    "indices should be either on cpu or on the same device as the indexed tensor "
                    f"({there})"
                )
            if each.dtype == torch.bool and there != CPU and name == "__getitem__":
                self.waits["mask"] += 1
        if name == "__setitem__" and isinstance(args[2], Tensor):
            apart = claimed(args[2]) != there and args[2].ndim
            if apart and (index or isinstance(args[1], list)):
                raise RuntimeError("Expected all tensors to be on the same device (index_put)")
        return there

    def _check_generator(self, name: str, args: Any, kwargs: Any, there: torch.device) -> None:
        generator = kwargs.get("generator")
        generator = generator or next((a for a in args if isinstance(a, torch.Generator)), None)
        if generator is not None and generator.device.type != there.type:
            raise RuntimeError(
                f"Expected a '{there.type}' device type for generator but found "
                f"'{generator.device.type}' ({name})"
            )

    def _claim(self, found: Any, there: torch.device) -> Any:
        for tensor in _tensors(found):
            if there.type == "mps" and tensor.dtype in (torch.float64, torch.complex128):
                raise TypeError(
                    "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't "
                    "support float64. Please use float32 instead."
                )
            tensor._pretended = there  # pyright: ignore[reportAttributeAccessIssue]
        return found


class _Stream(torch.Generator):
    """A generator that is claimed to lie on a device."""

    place: torch.device

    def __new__(cls, device: Any = "cpu") -> _Stream:
        made: _Stream = super().__new__(cls, "cpu")  # pyright: ignore[reportCallIssue]
        made.place = torch.device(device)
        return made

    @property
    def device(self) -> torch.device:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.place


def _carrying(make: Callable[..., Any]) -> Callable[..., Any]:
    """Let a parameter that is made of a tensor lie where that lies."""

    @functools.wraps(make)
    def made(cls: Any, data: Any = None, *more: Any, **options: Any) -> Any:
        found = make(cls, data, *more, **options)
        if isinstance(data, Tensor):
            found._pretended = claimed(data)
        return found

    return made


def _loading(load: Callable[..., Any]) -> Callable[..., Any]:
    """Let a dict of tensors be loaded to where `map_location` says."""

    def loaded(file: Any, *, map_location: Any = "cpu", **options: Any) -> Any:
        found = load(file, map_location="cpu", **options)
        return {k: v.to(map_location) if isinstance(v, Tensor) else v for k, v in found.items()}

    return loaded


@contextmanager
def pretended(kind: str = "cuda", *, count: int = 1, free: int = 2**33) -> Iterator[Pretended]:
    """Pretend a GPU within the block, "cuda" or "mps", and let `device: auto` find it.

    Of CUDA there are `count`, with so many free bytes of memory.
    """
    autocast = torch.autocast
    with pytest.MonkeyPatch.context() as changed:
        of_cuda = {
            "is_available": lambda: True,
            "device_count": lambda: count,
            "current_device": lambda: 0,
            "get_device_name": lambda device=None: "a pretended GPU",
            "get_device_capability": lambda device=None: (8, 0),
            "synchronize": lambda device=None: None,
            "get_rng_state": lambda device=None: torch.zeros(1, dtype=torch.uint8),
            "set_rng_state": lambda state, device=None: None,
            "mem_get_info": lambda device=None: (free, 2 * free),
            "get_device_properties": lambda device=None: SimpleNamespace(
                name="a pretended GPU", total_memory=2 * free
            ),
            "reset_peak_memory_stats": lambda device=None: None,
            "max_memory_allocated": lambda device=None: 2**20,
        }
        if kind == "cuda":
            for name, stands_in in of_cuda.items():
                changed.setattr(torch.cuda, name, stands_in)
        else:
            changed.setattr(torch.backends.mps, "is_available", lambda: True)
        changed.setattr(torch, "Generator", _Stream)
        graphs = "_accelerator_graph_capture_health_check"  # asks the driver
        changed.setattr(torch.optim.Optimizer, graphs, lambda self: None)
        changed.setattr(
            torch, "autocast", lambda device_type, *a, **more: autocast("cpu", *a, **more)
        )
        changed.setattr(torch, "load", _loading(torch.load))
        changed.setattr(nn.Parameter, "__new__", _carrying(nn.Parameter.__new__))
        with Pretended(kind) as mode:
            yield mode


def lie_on(tensors: Iterable[Tensor]) -> set[str]:
    """Return the kinds of devices that tensors are claimed to lie on."""
    return {claimed(tensor).type for tensor in tensors}
