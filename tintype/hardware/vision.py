"""torchvision, without PyTorch's compiler: importing that takes two seconds, this a tenth of it.

One operation of detectors asks the compiler, when it is called, whether it knows the device. The
names that torchvision takes for this are stood in for by functions that import the compiler then.
Whoever wants torchvision imports it from here.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo"
ASKED = f"{COMPILER}.utils"


@contextmanager
def _compiler_unloaded() -> Iterator[None]:
    """Let an import take functions of the compiler without loading it, where it is not loaded."""
    if COMPILER in sys.modules:
        yield
        return
    stand_in = ModuleType(ASKED)
    setattr(stand_in, "__getattr__", _called_later)  # noqa: B010 (no part of the declared type)
    sys.modules |= {COMPILER: ModuleType(COMPILER), ASKED: stand_in}
    try:
        yield
    finally:
        del sys.modules[COMPILER], sys.modules[ASKED]


def _called_later(name: str) -> Callable[..., Any]:
    """Return a function that loads the compiler when it is called, and calls the one there."""
    if name.startswith("__"):
        raise AttributeError(name)

    def call(*arguments: Any, **named: Any) -> Any:
        return getattr(importlib.import_module(ASKED), name)(*arguments, **named)

    return call


with _compiler_unloaded():
    import torchvision as torchvision
    from torchvision.models import feature_extraction as feature_extraction
