"""One file for each family of networks, each with `build(spec, **options) -> nn.Module`.

`tintype.plugins.find("models", name)` imports the file of that name; `build_model` checks the
options first.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch
from torch import nn

from tintype.data.source import DataSpec
from tintype.errors import UserError, unknown_name
from tintype.plugins import canonical, find


def build_model(name: str, spec: DataSpec, options: dict[str, Any], seed: int) -> nn.Module:
    """Build a network for images of `spec`, its weights drawn from `seed`.

    Raises:
        UserError: unknown model or option, or images that the model cannot take.
    """
    module = find("models", name)
    build = module.build
    if hasattr(module, "NAMES"):  # the file builds several networks, and is told which
        build = functools.partial(build, name=canonical("models", name))
    parameters = inspect.signature(build).parameters.values()

    known = {p.name: p.annotation for p in parameters if p.name not in ("spec", "name")}
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
    """Return the options of a model with the values that they have if they are not given.

    Raises:
        UserError: unknown model.
    """
    parameters = inspect.signature(find("models", name).build).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _check(model: str, option: str, value: Any, annotation: str) -> None:
    """Refuse sizes that no layer can have; what only one model knows, its `build` refuses."""
    if annotation == "Sequence[int]":
        whole = isinstance(value, list | tuple) and all(
            type(size) is int and size >= 1 for size in value
        )
        right, expected = (
            whole and (value or option == "hidden"),
            "a list of whole numbers from 1 on, as in [32, 64]",
        )
    elif annotation in ("int", "int | None"):
        right = (type(value) is int and value >= 1) or (value is None and "None" in annotation)
        expected = "a whole number from 1 on"
    elif annotation == "float":
        right, expected = isinstance(value, int | float) and not isinstance(value, bool), "a number"
    elif annotation == "bool":
        right, expected = isinstance(value, bool), "true or false"
    else:
        return

    if not right:
        raise UserError(f"model {model}: {option} is {value!r}. Expected {expected}.")


def count_parameters(network: nn.Module) -> int:
    """Return the number of parameters, frozen ones included."""
    return sum(p.numel() for p in network.parameters())


def count_multiply_adds(network: nn.Module, spec: DataSpec) -> int:
    """Return the multiply-adds of convolutions and matrix products for one image, counted on a
    forward pass.
    """
    from torch.utils.flop_counter import FlopCounterMode

    first = next(network.parameters())
    was_training = network.training
    network.eval()
    image = torch.zeros(1, spec.channels, spec.height, spec.width, device=first.device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(image)
    network.train(was_training)
    return counter.get_total_flops() // 2


def first_filter(network: nn.Module, spec: DataSpec) -> str | None:
    """Return the state-dict name of the filters that see the image: the first weight (O, C, kh, kw), else None.

    Backbones see grey images as three equal channels.
    """
    for name, weight in network.state_dict().items():
        if weight.ndim == 4 and weight.shape[1] in (spec.channels, 3):
            return name
    return None
