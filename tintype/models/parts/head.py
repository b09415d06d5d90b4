"""The head of a network: the layer whose output the network gives, and what that layer sees.

It is found by following one pass backwards from the output, so that neither auxiliary heads nor
layers that are never used are taken for it, in whatever order they were registered. This is the one
place that says what "before the head" means: of a head with hidden layers it is what the last of
its layers sees, and maps or tokens are averaged over their places.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.conv import _ConvNd

from tintype.data.source import DataSpec

Node = torch.autograd.graph.Node
# What a layer answered: its name, and where autograd computed the answer (None without gradients).
Answer = tuple[str, Node | None]
SMALL = 2**31  # multiply-adds that cost less than what a pass on shapes imports
# Of a weight for each value of an image: networks for photos use one 85 to 280 times at 224 pixels.
USES = 300 / (3 * 224**2)


def head_of(network: nn.Module, spec: DataSpec) -> str:
    """Return the name of the head of a network for images of `spec`, as `find_head` does.

    Raises:
        ValueError: the output comes from no layer.
    """
    return find_head(network, torch.zeros(1, spec.channels, spec.height, spec.width))


def find_head(network: nn.Module, example: Tensor) -> str:
    """Return the name of the layer whose output is the network's output.

    A layer is a linear layer, a convolution, or any module with weights of its own and none inside.
    What follows it without weights, such as pooling, does not count. If the output has several
    sources, as where two heads are averaged, it is the one that computed last. The network, its
    mode and the generators of random numbers stay as they are.

    Args:
        network: any network on any device.
        example: an input of it for one image (1, ...), of which only the shape counts.

    Raises:
        ValueError: the output comes from no layer.
    """
    modes = {module: module.training for module in network.modules()}
    for module in modes:
        module.training = False

    try:
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=[]))
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")  # what a network asks for is not the user's concern
            if "torch._dynamo" in sys.modules:  # importing it takes seconds
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            output, weights, answers = _pass(network, example)
    finally:
        for module, mode in modes.items():
            module.training = mode

    found = _sources(output, {id(weight) for weight in weights.values()}, answers)
    if not found:
        raise ValueError(
            "the network's output comes from no layer (nn.Linear, nn.Conv2d or a module with "
            "weights), so there is nothing before one."
        )
    return found


@contextmanager
def before_head(network: nn.Module, head: str) -> Iterator[list[Tensor]]:
    """Collect what the layer `head` sees: each pass through the network adds a tensor (N, F)."""
    layer = network.get_submodule(head)
    collected: list[Tensor] = []

    def look(_: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        seen = inputs[0] if inputs else next(iter(named.values()))
        collected.append(_one_vector(layer, seen))

    handle = layer.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield collected
    finally:
        handle.remove()


def features_before(network: nn.Module, head: str) -> Callable[[Tensor], Tensor]:
    """Return a function from images (N, C, H, W) to what the layer `head` sees (N, F).

    The mode of the network (eval or train) is left to the caller.
    """

    def features(images: Tensor) -> Tensor:
        with before_head(network, head) as seen:
            network(images)
        return seen[0]

    return features


def _one_vector(layer: nn.Module, seen: Tensor) -> Tensor:
    """Return the input of a layer as (N, F): maps and tokens are averaged over their places."""
    if seen.ndim <= 2:
        return seen
    maps = isinstance(layer, _ConvNd) or (seen.ndim == 4 and not isinstance(layer, nn.Linear))
    places = range(2, seen.ndim) if maps else range(1, seen.ndim - 1)
    precise = torch.promote_types(seen.dtype, torch.float32)
    return seen.mean(tuple(places), dtype=precise)


def _pass(
    network: nn.Module, example: Tensor
) -> tuple[Tensor | None, dict[str, Tensor], list[Answer]]:
    """Return output, weights and the answers of all layers of a pass on `example`.

    It is computed on shapes alone if numbers would take longer, unless the network asks for values.
    """
    first = next(network.parameters(), example)
    num_weights = sum(weight.numel() for weight in network.parameters())
    # on the first tensor without values, torch imports SymPy, which takes half a second
    if num_weights * example.numel() * USES > SMALL:
        # whatever a network of a stranger makes of tensors without values
        with suppress(Exception):
            return _pass_on(network, example, torch.device("meta"))
    return _pass_on(network, example.to(first.dtype), first.device)


def _pass_on(
    network: nn.Module, example: Tensor, device: torch.device
) -> tuple[Tensor | None, dict[str, Tensor], list[Answer]]:
    weights = {name: _leaf(weight, device) for name, weight in network.named_parameters()}
    buffers = {name: buffer.to(device, copy=True) for name, buffer in network.named_buffers()}

    answers: list[Answer] = []
    handles = [
        module.register_forward_hook(partial(_note, answers, name))
        for name, module in network.named_modules()
        if _is_layer(module)
    ]
    try:
        output = functional_call(network, {**weights, **buffers}, (_leaf(example, device),))
    finally:
        for handle in handles:
            handle.remove()

    return _first_tensor(output), weights, answers


def _leaf(tensor: Tensor, device: torch.device) -> Tensor:
    moved = tensor.detach().to(device)
    moved = moved.clone() if moved.is_inference() else moved
    return moved.requires_grad_(moved.is_floating_point())


def _is_layer(module: nn.Module) -> bool:
    if isinstance(module, nn.Linear | _ConvNd):
        return True
    own = [weight for weight in module.parameters(recurse=False) if weight.ndim > 1]
    inside = sum(1 for child in module.children() for _ in child.parameters())
    return bool(own) and not inside


def _note(answers: list[Answer], name: str, _: nn.Module, __: Any, output: Any) -> None:
    tensor = _first_tensor(output)
    if tensor is not None:
        answers.append((name, tensor.grad_fn))


def _first_tensor(output: Any) -> Tensor | None:
    """Return the first tensor of what a module answered, which may be a tuple or a mapping."""
    if isinstance(output, Tensor):
        return output
    parts = output.values() if isinstance(output, Mapping) else output
    if not isinstance(output, Mapping | tuple | list):
        return None
    return next((tensor for part in parts if (tensor := _first_tensor(part)) is not None), None)


def _sources(output: Tensor | None, weights: set[int], answers: list[Answer]) -> str:
    """Return the name of the layer that the output comes from, "" where it comes from none."""
    if output is None or output.grad_fn is None:  # cut off from the layers, by detach() for example
        return answers[-1][0] if answers else ""

    place: dict[Node, int] = {}
    for number, (_, node) in enumerate(answers):
        if node is not None:
            place.setdefault(node, number)

    last = -1
    waiting: list[Node | None] = [output.grad_fn]
    seen: set[Node] = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node in place:
            last = max(last, place[node])
            continue
        weight = getattr(node, "variable", None)
        if weight is not None and weight.ndim > 1 and id(weight) in weights:
            return ""  # a weight of no layer stands between the layers and the output
        waiting += [before for before, _ in node.next_functions]

    return answers[last][0] if last >= 0 else ""
