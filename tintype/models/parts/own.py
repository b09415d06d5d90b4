"""A network of the user's own: a module, a class of modules, or a function that returns one."""

from __future__ import annotations

import copy
import inspect
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from tintype.data.source import DataSpec
from tintype.errors import UserError, unknown_name
from tintype.own_code import find, name_of, running

BATCH = 2  # images of the first pass through a network; batch norm takes no fewer


def build_own(reference: str, spec: DataSpec, options: Mapping[str, Any], seed: int) -> nn.Module:
    """Build a network of the user's own for images of `spec`, in training mode on the CPU.

    A module is copied, and its weights are kept. A class or function is called, with weights drawn
    from `seed`: what is named like a fact of the images is filled in, the rest comes from
    `options`.

    Args:
        reference: names the network, see `tintype.own_code`.
        spec: shape and target of the images.
        options: of the class or function.
        seed: of the weights.

    Raises:
        UserError: there is no such network, it does not take the options, or it cannot be built.
    """
    thing = find(reference, "model", "build", _can_be_network)
    if isinstance(thing, nn.Module):
        if options:
            raise UserError(
                f"model {name_of(reference)} is built already, and takes no options (got "
                f"{', '.join(options)}). Give its class, or a function that builds it."
            )
        network = copy.deepcopy(thing)
    else:
        arguments = _arguments(reference, thing, spec, options)
        network = _called(reference, thing, arguments, seed)

    network = _without_compiler(network).cpu().float().train()
    if any(isinstance(part, LazyModuleMixin) for part in network.modules()):
        with _drawing_from(seed), torch.no_grad():
            _answer(name_of(reference), network, spec)
    return network


def try_out(
    reference: str, network: nn.Module, spec: DataSpec, expected: Sequence[int], what: str
) -> None:
    """Pass a batch through a network of the user's own, before anything is written.

    The network stays as it is.

    Args:
        reference: names the network.
        network: in training mode, on the CPU.
        spec: shape of the images.
        expected: shape of the answer to one image.
        what: that answer, in words.

    Raises:
        UserError: it has nothing to train, it answers with another shape, or it draws random
            numbers that a resumed run cannot draw again.
        OwnCodeError: it fails.
    """
    name = name_of(reference)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise UserError(
            f"model {name} has no parameters that can be trained. Expected layers that are "
            "attributes of the module, or stand in an nn.ModuleList, and that are not all frozen."
        )

    first, second = (_tried(name, copy.deepcopy(network), spec) for _ in range(2))
    got = f"shape {tuple(first.shape)}" if isinstance(first, Tensor) else type(first).__name__
    shape = (BATCH, *expected)
    if not isinstance(first, Tensor) or tuple(first.shape) != shape:
        raise UserError(
            f"model {name} answers a batch of {BATCH} images with {got}. Expected shape {shape}: "
            f"{what}."
        )
    if not torch.allclose(first, second, equal_nan=True):
        raise UserError(
            f"model {name} answers the same images differently, with the same seed of torch, so "
            "that a run could not be resumed. Expected random numbers of torch's global generator "
            "alone, and no memory outside parameters and buffers."
        )


def _tried(name: str, network: nn.Module, spec: DataSpec) -> Any:
    """Return the answer to a batch of noise, after a pass back through the network."""
    with _kept_generators():
        torch.manual_seed(0)
        answer = _answer(name, network, spec)
        if isinstance(answer, Tensor) and answer.requires_grad:
            with running(f"the backward pass of model {name}"):
                answer.float().sum().backward()
    return answer.detach() if isinstance(answer, Tensor) else answer


def _can_be_network(thing: Any) -> bool:
    """Return whether an object of a file is a network, or builds one."""
    if isinstance(thing, type):
        return issubclass(thing, nn.Module)
    return callable(thing)


def _called(
    reference: str, build: Callable[..., Any], arguments: Mapping[str, Any], seed: int
) -> nn.Module:
    with _drawing_from(seed), running(f"building model {name_of(reference)}"):
        network = build(**arguments)

    if not isinstance(network, nn.Module):
        raise UserError(
            f"building model {name_of(reference)} returns {type(network).__name__}. Expected a "
            "torch.nn.Module."
        )
    return network


def _arguments(
    reference: str, build: Callable[..., Any], spec: DataSpec, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what a class or function is called with.

    Raises:
        UserError: it does not take an option, or asks for what is neither a fact nor an option.
    """
    parameters = inspect.signature(build).parameters
    named = {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for option in options:
        if option not in named and not takes_all:
            raise unknown_name(f"option of model {name_of(reference)}:", option, named)

    facts = {name: value for name, value in _facts(spec).items() if name in named}
    arguments = {**facts, **options}
    missing = [
        name
        for name, parameter in named.items()
        if parameter.default is parameter.empty and name not in arguments
    ]
    if missing:
        raise UserError(
            f"model {name_of(reference)} asks for {missing[0]}, which is no fact of the images "
            f"({', '.join(_facts(spec))}). Give it as an option: --set model.{missing[0]}=VALUE."
        )
    return arguments


def _facts(spec: DataSpec) -> dict[str, Any]:
    """Return what a network may be built by, under the names of its parameters."""
    square = spec.height == spec.width
    return {
        "spec": spec,
        "num_classes": spec.num_outputs,
        "num_outputs": spec.num_outputs,
        "channels": spec.channels,
        "in_channels": spec.channels,
        "height": spec.height,
        "width": spec.width,
        "image_size": spec.height if square else (spec.height, spec.width),
    }


def _answer(name: str, network: nn.Module, spec: DataSpec) -> Any:
    """Return the answer to a batch of noise.

    Raises:
        OwnCodeError: the network fails.
    """
    images = torch.randn(BATCH, spec.channels, spec.height, spec.width)
    with running(f"model {name} on images of shape {tuple(images.shape)}"):
        return network(images)


def _without_compiler(network: nn.Module) -> nn.Module:
    """Return the module inside what torch.compile returns."""
    inside = getattr(network, "_orig_mod", network)
    return inside if isinstance(inside, nn.Module) else network


@contextmanager
def _drawing_from(seed: int) -> Iterator[None]:
    """Let the global generators draw from a seed, and put them back afterwards."""
    with _kept_generators():
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        yield


@contextmanager
def _kept_generators() -> Iterator[None]:
    of_numpy, of_python = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            np.random.set_state(of_numpy)
            random.setstate(of_python)
