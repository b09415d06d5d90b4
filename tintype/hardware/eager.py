"""Keep PyTorch's compiler unloaded in runs that compile nothing.

Importing `torch._dynamo` takes as long as importing torch, and functions that must not become part
of a compiled graph import it when they are first called: steps and states of optimizers, operations
on tensors without values, the counter of multiply-adds. In eager code that changes no number.
"""

from __future__ import annotations

import gc
import importlib
import inspect
import logging
import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any, TypeVar

import torch

Kind = TypeVar("Kind", bound=torch.optim.Optimizer)

# Where torch keeps how to call such a function, once it has been called.
REMEMBERED = "__dynamo_disable"
_marked: list[Callable[..., Any]] = []


def leave_compiler_unloaded() -> None:
    """Mark functions that torch keeps out of compiled graphs as if they had been called before.

    Where torch is built otherwise, or the compiler is loaded already, nothing happens.
    """
    if _marked or "torch._dynamo" in sys.modules:
        return
    _import_counter()

    # all of them are closures of one function, hence share its code
    code = torch.optim.Optimizer.zero_grad.__code__
    if "fn" not in code.co_freevars:
        return
    place = code.co_freevars.index("fn")
    for closure in gc.get_referrers(code):
        if not isinstance(closure, FunctionType) or closure.__closure__ is None:
            continue
        original = closure.__closure__[place].cell_contents
        if not hasattr(original, REMEMBERED):
            setattr(original, REMEMBERED, original)
            _marked.append(original)


def _import_counter() -> None:
    """Import the counter of multiply-adds without Triton, whose kernels it would count."""
    if "triton" in sys.modules:
        return
    name = "torch.utils.flop_counter"
    logger = logging.getLogger(name)
    was_disabled, logger.disabled = logger.disabled, True  # it would miss Triton aloud
    sys.modules["triton"] = None  # pyright: ignore[reportArgumentType] (so an import fails)
    try:
        importlib.import_module(name)
    finally:
        del sys.modules["triton"]
        logger.disabled = was_disabled


def let_compiler_load() -> None:
    """Take the marks back, before something is compiled."""
    while _marked:
        delattr(_marked.pop(), REMEMBERED)


def eager(optimizer: type[Kind]) -> type[Kind]:
    """Return an optimizer of torch whose `step` computes the same and asks for no compiler."""
    step = torch.no_grad()(inspect.unwrap(optimizer.step))
    made: Any = type(optimizer.__name__, (optimizer,), {"step": step})
    return made
