"""A network of the user's own: a module, a class of modules, or a function that returns one."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from tintype.data.source import DataSpec
from tintype.errors import UserError, unknown_name
from tintype.hardware.device import Choice
from tintype.own_code import find, give, is_in_python, name_of, running
from tintype.own_tasks import OwnTask
from tintype.plugins import own_task
from tintype.seeds import drawing_from, kept_generators

BATCH = 2  # images of the first pass through a network; batch norm takes no fewer


# ---- building ------------------------------------------------------------------------------------


def build_own(reference: str, spec: DataSpec, options: Mapping[str, Any], seed: int) -> nn.Module:
    """Build a network of the user's own for images of `spec`, in training mode on the CPU.

    A module is copied, and its weights are kept. A class or function is called, with weights drawn
    from `seed`: what is named like a fact of the images is filled in, the rest comes from
    `options`. The network sees contiguous float32 images, and of several answers the first counts.

    Args:
        reference: names the network, see `tintype.own_code`.
        spec: shape and target of the images.
        options: of the class or function.
        seed: of the weights.

    Raises:
        UserError: there is no such network, or it does not take the options.
        OwnCodeError: it cannot be built.
    """
    thing = find(reference, "model", "build", _can_be_network, _is_network_class)
    name = name_of(reference)
    for option, value in options.items():
        if not _is_plain(value):
            raise UserError(
                f"model {name}: {option} is {value!r}. Expected plain values (numbers, texts, "
                "lists), which a recipe can hold; for others give a function that builds the model."
            )
    if isinstance(thing, nn.Module):
        network = _copied(name, thing, options)
    else:
        network = _called(name, thing, _arguments(name, thing, spec, options), seed)

    network = _bare(network)
    if any(weight.device.type == "meta" for weight in network.parameters()):
        raise UserError(f"model {name} is on device meta, where weights have no values.")
    network = network.cpu().float().train()
    network.register_forward_pre_hook(_contiguous)
    network.register_forward_hook(_first_answer)
    if any(isinstance(part, LazyModuleMixin) for part in network.modules()):
        with drawing_from(seed), torch.no_grad():
            _answer(name, network, spec)
    return network


def network_beside(task: str) -> str | None:
    """Return the reference of the network that stands in the file of a task of the user's own, None
    where there is none, or several.
    """
    reference = own_task(task)
    if reference is None:
        return None
    file = OwnTask(reference).module
    kinds = [kind for kind in vars(file).values() if _is_network_of(file, kind)]
    if not hasattr(file, "build") and len(kinds) != 1:
        return None
    name = "build" if hasattr(file, "build") else kinds[0].__name__
    if is_in_python(reference):
        return give(getattr(file, name))
    path = reference if reference.endswith(".py") else reference.rpartition(":")[0]
    return f"{path}:{name}"


def _is_network_of(file: ModuleType, thing: Any) -> bool:
    """Return whether an object of a file is a class of networks that the file defines."""
    of_file = getattr(thing, "__module__", None) == file.__name__
    return of_file and isinstance(thing, type) and issubclass(thing, nn.Module)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(map(_is_plain, value.values()))
    return value is None or isinstance(value, str | int | float | bool)


def _is_network_class(thing: Any) -> bool:
    return isinstance(thing, type) and issubclass(thing, nn.Module)


def _can_be_network(thing: Any) -> bool:
    """Return whether an object of a file is a network, or builds one."""
    if isinstance(thing, type):
        return issubclass(thing, nn.Module)
    return callable(thing)


def _copied(name: str, network: nn.Module, options: Mapping[str, Any]) -> nn.Module:
    if options:
        raise UserError(
            f"model {name} is built already, and takes no options (got {', '.join(options)}). "
            "Give its class, or a function that builds it."
        )
    with running(f"copying model {name}"):
        return copy.deepcopy(network, dict(_blank_weights(network)))


def _blank_weights(network: nn.Module) -> Iterator[tuple[int, Tensor]]:
    """Yield new weights for those of lazy modules, which cannot be copied, by their identity."""
    for weight in (*network.parameters(), *network.buffers()):
        if isinstance(weight, UninitializedParameter | UninitializedBuffer):
            kind: Any = type(weight)
            yield id(weight), kind(requires_grad=weight.requires_grad, device=weight.device)


def _called(
    name: str, build: Callable[..., Any], arguments: Mapping[str, Any], seed: int
) -> nn.Module:
    with drawing_from(seed), running(f"building model {name}"):
        network = build(**arguments)

    if not isinstance(network, nn.Module):
        raise UserError(
            f"building model {name} returns {type(network).__name__}. Expected a torch.nn.Module."
        )
    return network


def _arguments(
    name: str, build: Callable[..., Any], spec: DataSpec, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what a class or function is called with.

    Raises:
        UserError: it does not take an option, or asks for what is neither a fact nor an option.
    """
    parameters = inspect.signature(build).parameters
    named = {
        parameter.name: parameter
        for parameter in parameters.values()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for option in options:
        if option not in named and not takes_all:
            raise unknown_name(f"option of model {name}:", option, named)

    known = _facts(spec)
    arguments = {**{fact: known[fact] for fact in known if fact in named}, **options}
    for parameter in named.values():
        if parameter.default is parameter.empty and parameter.name not in arguments:
            raise UserError(
                f"model {name} asks for {parameter.name}, which is no fact of the images "
                f"({', '.join(known)}). Give it: --set model.{parameter.name}=VALUE."
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


def _bare(network: nn.Module) -> nn.Module:
    """Return the module inside of torch.compile or DataParallel, whose work tintype does itself."""
    if isinstance(network, nn.DataParallel):
        return _bare(network.module)
    inside = getattr(network, "_orig_mod", None)
    return _bare(inside) if isinstance(inside, nn.Module) else network


def _contiguous(network: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Hand over images as most code expects them: tintype keeps the channels last in memory."""
    del network
    return tuple(_in_rows(x) if isinstance(x, Tensor) and x.ndim == 4 else x for x in inputs)


def _in_rows(x: Tensor) -> Tensor:
    """Return images (N, C, H, W) whose rows follow one another in memory.

    Of a single channel they do either way, but then a convolution goes by the strides.
    """
    _, channels, height, width = x.shape
    if x.stride() == (channels * height * width, height * width, width, 1):
        return x
    return x.contiguous().view(-1).view(x.shape)


def _first_answer(network: nn.Module, inputs: tuple[Any, ...], answer: Any) -> Any:
    """Return the answer that counts of several: the first one, of GoogLeNet's without its aids."""
    del network, inputs
    if isinstance(answer, Mapping) and answer:
        return next(iter(answer.values()))
    if isinstance(answer, tuple | list) and answer:
        return answer[0]
    return answer


# ---- the first batch -----------------------------------------------------------------------------


def try_out(
    reference: str, network: nn.Module, spec: DataSpec, expected: Sequence[int], what: str
) -> list[Choice]:
    """Pass a batch through a network of the user's own, before anything is written.

    The network stays as it is.

    Args:
        reference: names the network.
        network: as `build_own` returns it.
        spec: shape of the images.
        expected: shape of the answer to one image.
        what: that answer, in words.

    Returns:
        What was decided about the network.

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

    with kept_generators():
        given, answer = _tried_twice(name, network, spec)
    shape = (BATCH, *expected)
    if not isinstance(answer, Tensor) or tuple(answer.shape) != shape:
        is_tensor = isinstance(answer, Tensor)
        got = f"shape {tuple(answer.shape)}" if is_tensor else type(answer).__name__
        raise UserError(
            f"model {name} answers {BATCH} images with {got}. Expected a tensor of shape {shape}: "
            f"{what}."
        )
    return [*_which(reference), *_remarks(given, answer)]


def _tried_twice(name: str, network: nn.Module, spec: DataSpec) -> tuple[Any, Any]:
    """Return what a network gives for a batch of noise, and what of it counts.

    Raises:
        UserError: it gives something else the second time.
        OwnCodeError: it fails, forwards or backwards.
    """
    with running(f"copying model {name}"):
        tried = copy.deepcopy(network)
    given: list[Any] = []
    tried.register_forward_hook(lambda _, __, answer: given.append(answer), prepend=True)
    state = copy.deepcopy(tried.state_dict())

    answers: list[Any] = []
    for _ in range(2):
        tried.load_state_dict(state)
        torch.manual_seed(0)
        answers.append(_answer(name, tried, spec))
    first, second = answers
    if not isinstance(first, Tensor):
        return given[0], first

    same = isinstance(second, Tensor) and first.shape == second.shape
    if not same or not torch.allclose(first, second, equal_nan=True):
        raise UserError(
            f"model {name} answers the same images differently the second time, with the same seed "
            "of torch, so that a run could not be resumed. Expected random numbers of torch's "
            "global generator alone, and no memory outside parameters and buffers."
        )
    with running(f"the backward pass of model {name}"):
        second.float().sum().backward()
    return given[0], first.detach()


def _answer(name: str, network: nn.Module, spec: DataSpec) -> Any:
    """Return the answer to a batch of noise.

    Raises:
        OwnCodeError: the network fails.
    """
    images = torch.randn(BATCH, spec.channels, spec.height, spec.width)
    with running(f"model {name} on images of shape {tuple(images.shape)}"):
        return network(images)


def _which(reference: str) -> Iterator[Choice]:
    """Yield which network is meant, where a file that is named alone has functions beside it."""
    if not reference.endswith(".py"):
        return
    thing = find(reference, "model", "build", _can_be_network, _is_network_class)
    file = sys.modules[thing.__module__]
    others = [
        each for each in vars(file).values() if getattr(each, "__module__", "") == file.__name__
    ]
    if isinstance(thing, type) and any(inspect.isfunction(each) for each in others):
        yield Choice(
            "network", thing.__name__, f"the only network class of {name_of(reference)}.py"
        )


def _remarks(given: Any, answer: Tensor) -> Iterator[Choice]:
    if not isinstance(given, Tensor):
        why = (
            f"the network returns a {type(given).__name__} of {len(given)}; the loss sees no other"
        )
        yield Choice("answer", "the first", why)

    of_ones = torch.allclose(answer.sum(1), torch.ones(()), atol=1e-3)
    if answer.ndim == 2 and answer.shape[1] > 1 and bool((answer >= 0).all()) and of_ones:
        why = (
            "they are positive and sum to 1, but the loss applies the softmax itself; a network "
            "without a last softmax learns faster"
        )
        yield Choice("answer", "probabilities", why)
