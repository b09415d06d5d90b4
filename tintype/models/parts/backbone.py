"""What networks with a linear head have in common: head, stages, features, and how to freeze them.

All of it is found from the structure of a network, so that torchvision's, timm's and our own need
no table. Nothing here changes a name in the state dict.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from tintype.data.source import DataSpec
from tintype.models.parts.head import features_before, head_of
from tintype.optim import clear_traces

# Containers whose children are the units that stages are made of (torchvision, timm).
_CONTAINERS = {"features", "encoder", "layers", "blocks", "stages", "trunk_output"}
# Attributes of a module that say how it is being trained, and nothing about what it computes.
_MODES = {"training", "norm_in_eval"}


@dataclass(frozen=True)
class Parts:
    """The parts of a network that ends in a linear layer.

    Attributes:
        network: the network itself, head included.
        head_name: the head's prefix in the state dict.
        num_features: the number of values that the head sees.
        stages: names of sub-modules from input to output, cut where the resolution is reduced. In
            networks of one resolution (vision transformers) every block is a stage. The head
            belongs to none, nor does what follows the last weights before it, such as dropout.
    """

    network: nn.Module
    head_name: str
    num_features: int
    stages: list[list[str]]

    @property
    def features_of_stages(self) -> tuple[int, ...]:
        """How many of the features each stage brings that the head sees, in their order; empty
        where the network does not say so.
        """
        said = tuple(getattr(self.network, "features_of_stages", ()))
        return said if sum(said) == self.num_features else ()

    @property
    def head(self) -> nn.Module:
        """The head: a linear layer, or what has replaced it since."""
        return self.network.get_submodule(self.head_name)

    def features(self, images: Tensor) -> Tensor:
        """Return what the head sees (N, F) of normalised images (N, C, H, W).

        In eval mode `head(features)` is the network's output. The mode is left to the caller.
        """
        return features_before(self.network, self.head_name)(images)

    def parameters(self) -> list[list[nn.Parameter]]:
        """Return the parameters of each stage from input to output, and those of the head last.

        Parameters outside all sub-modules (class token, position embedding) count with the first
        stage.
        """
        groups: list[list[nn.Parameter]] = [[] for _ in (*self.stages, self.head_name)]
        for name, parameter in self.network.named_parameters():
            groups[self.stage_of(name)].append(parameter)
        return groups

    def stage_of(self, parameter_name: str) -> int:
        """Return the stage that a parameter belongs to; the head's is the one after the last."""
        for number, units in enumerate([*self.stages, [self.head_name]]):
            if any(parameter_name.startswith(f"{unit}.") for unit in units):
                return number
        return 0

    def digest(self) -> str:
        """Return a hash of the architecture and the weights of all but the head."""
        digest = hashlib.blake2b(digest_size=16)
        for name, module in self.network.named_modules():
            if not f"{name}.".startswith(f"{self.head_name}."):
                settings = {
                    key: value
                    for key, value in vars(module).items()
                    if isinstance(value, bool | int | float | str) and key not in _MODES
                }
                kind = type(module).__qualname__
                digest.update(f"{name} {kind} {module.extra_repr()} {settings}\n".encode())

        for name, tensor in self.network.state_dict().items():
            if not name.startswith(f"{self.head_name}."):
                content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
                digest.update(content.numpy().data)

        return digest.hexdigest()


def backbone_parts(network: nn.Module, spec: DataSpec) -> Parts:
    """Return the parts of a network for images of `spec` that ends in a linear layer.

    Raises:
        ValueError: it ends in something else.
    """
    name = head_of(network, spec)
    head = network.get_submodule(name)
    if not isinstance(head, nn.Linear):
        raise ValueError(
            f"the network does not end in a linear layer: its head, {name}, is a "
            f"{type(head).__name__}."
        )
    return Parts(network, name, head.in_features, _stages(network, list(_units(network, "", name))))


def freeze(network: nn.Module, parts: Parts, thawed: int) -> None:
    """Train the last `thawed` stages and the head, and freeze what comes before them.

    It may be called again with another number. Frozen stages need no gradient and stay in eval mode
    (batch-norm statistics, dropout), whatever `network.train()` says. Parameters that were not
    trainable before the first call stay so.

    Raises:
        ValueError: `thawed` is negative.
    """
    if thawed < 0:
        raise ValueError(f"the number of thawed stages is {thawed}, expected 0 or more.")
    if not hasattr(network, "never_trained"):
        frozen = frozenset(n for n, p in network.named_parameters() if not p.requires_grad)
        network.never_trained = frozen  # pyright: ignore[reportArgumentType]

    never: Any = network.never_trained
    first = max(0, len(parts.stages) - thawed)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(parts.stage_of(name) >= first and name not in never)

    for number, units in enumerate(parts.stages):
        for module in map(network.get_submodule, units):
            if number < first:
                _hold_in_eval(module)
            elif "train" in vars(module) and not hasattr(module, "norm_in_eval"):
                del module.train
                module.train(network.training)


def make_head(
    num_features: int, num_classes: int, hidden: Sequence[int] = (), dropout: float = 0.0
) -> nn.Module:
    """Return a linear layer, after hidden layers with ReLU and dropout where `hidden` has sizes."""
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(num_features, size), nn.ReLU(), nn.Dropout(dropout)]
        num_features = size
    last = nn.Linear(num_features, num_classes)
    return nn.Sequential(*layers, last) if layers else last


def keep_norm_in_eval(network: nn.Module) -> int:
    """Keep every batch norm in eval mode from now on, and return how many there are.

    Scale and shift are still trained. With few images the statistics of a batch are worse than
    those that came with the weights.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.norm_in_eval = True  # pyright: ignore[reportArgumentType]
        _hold_in_eval(norm)
    return len(norms)


def _hold_in_eval(module: nn.Module) -> None:
    """Replace the module's `train`, which `network.train()` calls; a copy keeps it."""
    module.train = MethodType(_stay_in_eval, module)
    module.train()


def _stay_in_eval(module: nn.Module, mode: bool = True) -> nn.Module:
    return type(module).train(module, False)


def expand_grey(network: nn.Module) -> nn.Module:
    """Let a network for colour images take grey ones (N, 1, H, W) too, as three equal channels."""
    network.register_forward_pre_hook(_three_channels)
    return network


def _three_channels(_: nn.Module, inputs: tuple[Tensor]) -> Tensor | None:
    return inputs[0].expand(-1, 3, -1, -1) if inputs[0].shape[1] == 1 else None


def for_inference(network: nn.Module, spec: DataSpec) -> nn.Module:
    """Return a copy for inference in eval mode, with batch norms folded into the convolutions.

    It has no gradients and no weights that are nearly zero, and is channels_last. Names of modules
    stay, so that the head of the network is that of the copy; its state dict is not the network's.
    Which norm follows which convolution is observed on one pass. Where the folded copy differs from
    the network by more than 1e-4, the copy is not folded.

    Args:
        network: any network for images of `spec`, on any device.
        spec: the shape of the images.
    """
    first = next(network.parameters(), torch.empty(0))  # a graph has none
    noise = torch.randn(
        1, spec.channels, spec.height, spec.width, generator=torch.Generator().manual_seed(0)
    )
    image = noise.to(first.device, first.dtype)
    plain = copy.deepcopy(network).requires_grad_(False).eval()
    clear_traces(plain.parameters())

    plain = plain.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    # In bfloat16 both would differ by their rounding alone.
    with torch.no_grad(), torch.autocast(first.device.type, enabled=False):
        expected = plain(image)
        folded = copy.deepcopy(plain)
        for conv_name, norm_name in _norms_after_convolutions(folded, image):
            _fold(folded, conv_name, norm_name)
        same = torch.allclose(
            folded(image), expected, rtol=1e-4, atol=1e-4 * max(1.0, float(expected.abs().max()))
        )

    return folded if same else plain


def _norms_after_convolutions(network: nn.Module, image: Tensor) -> list[tuple[str, str]]:
    """Return (convolution, batch norm), by name, where only the norm sees the output.

    A network may look at an image more than once; then that has to hold each time.
    """
    # Tensors are held so that no other takes their place in memory.
    read: list[tuple[str, Tensor]] = []
    answered: list[tuple[str, Tensor]] = []

    handles = []
    for name, module in network.named_modules():
        if next(module.children(), None) is None or isinstance(module, nn.BatchNorm2d):
            handles.append(module.register_forward_pre_hook(partial(_note_input, read, name)))
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(partial(_note_answer, answered, name)))

    try:
        network(image)
    finally:
        for handle in handles:
            handle.remove()

    readers: dict[int, list[str]] = {}
    for name, tensor in read:
        readers.setdefault(id(tensor), []).append(name)
    readers_of: dict[str, set[tuple[str, ...]]] = {}
    for conv, answer in answered:
        readers_of.setdefault(conv, set()).add(tuple(readers.get(id(answer), ())))

    pairs = [(conv, next(iter(some))) for conv, some in readers_of.items() if len(some) == 1]
    return [
        (conv, norms[0])
        for conv, norms in pairs
        if len(norms) == 1 and isinstance(network.get_submodule(norms[0]), nn.BatchNorm2d)
    ]


def _note_input(
    found: list[tuple[str, Tensor]], name: str, _: nn.Module, inputs: tuple[Tensor, ...]
) -> None:
    found.extend((name, tensor) for tensor in inputs[:1])


def _note_answer(
    found: list[tuple[str, Tensor]], name: str, _: nn.Module, __: Any, answer: Tensor
) -> None:
    found.append((name, answer))


def _fold(network: nn.Module, conv_name: str, norm_name: str) -> None:
    """Fold a batch norm into the convolution before it.

    What the norm's module does besides stays in its place (timm's activations).
    """
    conv = network.get_submodule(conv_name)
    norm = network.get_submodule(norm_name)
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight,
        conv.bias,
        norm.running_mean,  # pyright: ignore[reportArgumentType]
        norm.running_var,  # pyright: ignore[reportArgumentType]
        norm.eps,
        norm.weight,
        norm.bias,
    )

    rest = [child for _, child in norm.named_children()]
    parent, _, own_name = norm_name.rpartition(".")
    setattr(
        network.get_submodule(parent), own_name, nn.Sequential(*rest) if rest else nn.Identity()
    )


def _units(module: nn.Module, prefix: str, head_name: str) -> Iterator[str]:
    """Yield the names of the modules other than the head, in order; containers are opened."""
    for child_name, child in module.named_children():
        name = prefix + child_name
        if name == head_name:
            continue
        if head_name.startswith(f"{name}.") or (
            child_name in _CONTAINERS and next(child.children(), None) is not None
        ):
            yield from _units(child, f"{name}.", head_name)
        else:
            yield name


def _stages(network: nn.Module, units: list[str]) -> list[list[str]]:
    """Group units into stages.

    A stage begins where the resolution is reduced, and at the first of several linear layers.
    """
    modules = {unit: network.get_submodule(unit) for unit in units}
    one_resolution = sum(map(_reduces, modules.values())) <= 1

    stages: list[list[str]] = []
    for unit, module in modules.items():
        fresh_linear = isinstance(module, nn.Linear) and not any(
            isinstance(modules[other], nn.Linear) for other in (stages[-1] if stages else [])
        )
        fresh_block = one_resolution and any(p.ndim > 1 for p in module.parameters())
        if not stages or _reduces(module) or fresh_linear or fresh_block:
            stages.append([])
        stages[-1].append(unit)

    return _with_parameters(stages, modules)


def _reduces(module: nn.Module) -> bool:
    """Return whether a module makes images smaller, by a stride or by merging patches (Swin)."""
    for part in module.modules():
        stride = getattr(part, "stride", 1)
        if "PatchMerging" in type(part).__name__ or (
            stride not in (1, (1, 1)) and not isinstance(part, nn.Identity)
        ):
            return True
    return False


def _with_parameters(stages: list[list[str]], modules: dict[str, nn.Module]) -> list[list[str]]:
    """Join stages without parameters to the one before; drop what follows the last parameters."""
    joined: list[list[str]] = []
    for stage in stages:
        if joined and not any(_weights(modules[unit]) for unit in stage):
            joined[-1] += stage
        else:
            joined.append(list(stage))
    while joined and joined[-1] and not _weights(modules[joined[-1][-1]]):
        joined[-1].pop()
    return [stage for stage in joined if stage]


def _weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None
