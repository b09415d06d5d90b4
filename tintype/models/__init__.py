"""One file for each family of networks, each with `build(spec, **options) -> nn.Module`.

`tintype.plugins.find("models", name)` imports the file of that name; `build_model` checks the
options first.
"""

from __future__ import annotations

import functools
import inspect
import math
from typing import Any

import torch
from torch import nn

from tintype.data.source import DataSpec
from tintype.errors import UserError, unknown_name
from tintype.hardware.eager import leave_compiler_unloaded
from tintype.models.parts.modes import evaluating
from tintype.models.parts.own import build_own
from tintype.plugins import canonical, find, reference


def build_model(name: str, spec: DataSpec, options: dict[str, Any], seed: int) -> nn.Module:
    """Build a network for images of `spec`, with weights drawn from `seed`.

    Raises:
        UserError: unknown model or option, or images that the model cannot take.
    """
    leave_compiler_unloaded()
    elsewhere = reference("models", name)
    if elsewhere is not None:
        return build_own(elsewhere, spec, options, seed)
    module = find("models", name)
    build = module.build
    if hasattr(module, "NAMES"):  # the file builds several networks, and has to know which
        build = functools.partial(build, name=canonical("models", name))
    parameters = inspect.signature(build).parameters.values()

    known = {p.name: p for p in parameters if p.name not in ("spec", "name")}
    for option, value in options.items():
        if option not in known:
            raise unknown_name(f"option of model {name}:", option, known)
        _check(name, option, value, known[option])

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return build(spec, **options)
        except (TypeError, ValueError, RuntimeError) as error:
            line = str(error).split("\n")[0]
            raise UserError(f"model {name}: {line}") from error


def default_options(name: str) -> dict[str, Any]:
    """Return the options of a model with their default values; none of a network of the user's own.

    Raises:
        UserError: unknown model.
    """
    if reference("models", name) is not None:
        return {}
    parameters = inspect.signature(find("models", name).build).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _check(model: str, option: str, value: Any, known: inspect.Parameter) -> None:
    """Refuse values that no layer can take; a model's own limits are checked by its `build`."""
    annotation = known.annotation
    if annotation == "Sequence[int]":
        expected = "a list of whole numbers, each at least 1, as in [32, 64]"
        sizes = value if isinstance(value, list | tuple) else [None]
        whole = all(type(size) is int and size >= 1 for size in sizes)
        right = whole and (value or option == "hidden" or not known.default)
    elif annotation in ("int", "int | None"):
        expected = "a whole number of at least 1"
        right = (type(value) is int and value >= 1) or (value is None and "None" in annotation)
    elif annotation == "float":
        expected = "a number"
        number = isinstance(value, int | float) and not isinstance(value, bool)
        right = number and abs(value) < math.inf
    elif annotation == "bool":
        expected = "true or false"
        right = isinstance(value, bool)
    else:
        return

    if not right:
        raise UserError(f"model {model}: {option} is {value!r}. Expected {expected}.")


def count_parameters(network: nn.Module) -> int:
    """Return the number of parameters, frozen ones included."""
    return sum(p.numel() for p in network.parameters())


def count_multiply_adds(network: nn.Module, spec: DataSpec) -> int:
    """Count the multiply-adds of convolutions and matrix products for one image."""
    from torch.utils.flop_counter import FlopCounterMode

    first = next(network.parameters())
    image = torch.zeros(1, spec.channels, spec.height, spec.width, device=first.device)
    with torch.no_grad(), evaluating(network), FlopCounterMode(display=False) as counter:
        network(image)
    return counter.get_total_flops() // 2


def first_filter(network: nn.Module, spec: DataSpec) -> str | None:
    """Return the state-dict name of the filters that see the image, or None.

    It is the first weight (O, C, kh, kw) for the channels of the images; backbones see grey images
    as three equal channels.
    """
    for name, weight in network.state_dict().items():
        if weight.ndim == 4 and weight.shape[1] in (spec.channels, 3):
            return name
    return None
