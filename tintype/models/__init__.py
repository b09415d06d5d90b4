"""One file for each family of networks, each with `build(spec, **options) -> nn.Module`.

`tintype.plugins.find("models", name)` imports the file of that name; `build_model` checks the options first.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from tintype.data.source import DataSpec
from tintype.errors import UserError, unknown_name
from tintype.plugins import find


def build_model(name: str, spec: DataSpec, options: dict[str, Any], seed: int) -> nn.Module:
    """Build a network for images of `spec`, its weights drawn from `seed`.

    Raises:
        UserError: unknown model or option, or images that the model cannot take.
    """
    build = find("models", name).build
    known = [p for p in inspect.signature(build).parameters if p != "spec"]
    for option in options:
        if option not in known:
            raise unknown_name(f"option of model {name}:", option, known)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return build(spec, **options)
        except (TypeError, ValueError) as error:
            raise UserError(f"model {name}: {error}") from error


def count_parameters(network: nn.Module) -> int:
    """Return the number of parameters, frozen ones included."""
    return sum(p.numel() for p in network.parameters())


def count_multiply_adds(network: nn.Module, spec: DataSpec) -> int:
    """Return the multiply-adds of convolutions and matrix products for one image, counted on a forward pass."""
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
    """Return the state-dict name of the filters that see the image: the first weight (O, C, kh, kw), else None."""
    for name, weight in network.state_dict().items():
        if weight.ndim == 4 and weight.shape[1] == spec.channels:
            return name
    return None
