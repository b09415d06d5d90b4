"""Where the arithmetic of a training step goes: each layer of fast-cnn beside the peak of the cores.

    python benchmarks/layers.py [--precision fp32 bf16] [--batch 500] [--side 32] [--threads N]
                                [--layout channels-last contiguous] [--without-onednn]
    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 python benchmarks/layers.py --precision fp32

For each layer it prints the multiply-adds of an image in a step (forward, and backward as far as it
is needed), the milliseconds of a batch forward and backward, and which share of the peak that is.
The peak is what a product of square matrices reaches here in the same precision, so an environment
that limits the instruction set limits both. "step" is the whole network, forward and backward, with
its optimizer.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tintype.data.source import DataSpec
from tintype.data.targets import Classes
from tintype.hardware.arithmetic import onednn_instructions, processor
from tintype.hardware.device import autocast, hold_memory
from tintype.models import build_model
from tintype.models.fast_cnn import FastCNN
from tintype.optim import build_optimizers
from tintype.verbs.speed import fastest, matrix_speed

CPU = torch.device("cpu")
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LAYOUTS = {"channels-last": torch.channels_last, "contiguous": torch.contiguous_format}


class Layer(NamedTuple):
    """A part of the network, with what enters it."""

    name: str
    call: Callable[[Tensor], Tensor]
    enters: Tensor
    weights: Sequence[Tensor]


def network(side: int) -> FastCNN:
    names = tuple(map(str, range(10)))
    spec = DataSpec("made", 3, side, side, Classes(names), (0.5,) * 3, (0.25,) * 3, "")
    made = build_model("fast-cnn", spec, {}, seed=0)
    assert isinstance(made, FastCNN)
    return made


def layers(net: FastCNN, images: Tensor) -> Iterator[Layer]:
    """Yield the parts of the network in the order in which an image passes them."""
    x = images

    def part(name: str, call: Callable[[Tensor], Tensor], module: nn.Module | None = None) -> Layer:
        nonlocal x
        trained = [w for w in module.parameters() if w.requires_grad] if module else []
        layer = Layer(name, call, x.detach(), trained)
        with torch.no_grad():
            x = call(x)
        return layer

    yield part("whitening", net.whitening, net.whitening)
    yield part("gelu", F.gelu)
    for number, block in enumerate(net.blocks, 1):
        assert isinstance(block, nn.Module)
        convs, norms = list(block.convs), list(block.norms)  # pyright: ignore[reportArgumentType]
        for i, (conv, norm) in enumerate(zip(convs, norms, strict=True)):
            yield part(f"block {number}, convolution {i + 1}", conv, conv)
            if i == 0:
                pool = partial(F.max_pool2d, kernel_size=2, ceil_mode=bool(block.round_up))
                yield part(f"block {number}, pool", pool)
            yield part(f"block {number}, norm {i + 1}", norm, norm)
            yield part(f"block {number}, gelu {i + 1}", F.gelu)
    yield part("head", lambda x: net.head(x.amax((2, 3))), net.head)


def multiply_adds(layer: Layer, *, first: bool) -> int:
    """Return how many a convolution takes for an image in a step: once forward, and once more for
    each gradient.
    """
    if isinstance(layer.call, nn.Conv2d):
        weight = layer.call.weight
    elif layer.name == "whitening":
        weight = layer.call.weight  # pyright: ignore[reportFunctionMemberAccess]
    else:
        return 0
    with torch.no_grad():
        positions = layer.call(layer.enters[:1]).shape[-1] ** 2
    once = positions * weight.numel()
    return once * (1 + (not first) + (weight in set(layer.weights)))


def times(layer: Layer, *, first: bool, inside: Callable[[], Any]) -> tuple[float, float]:
    """Return the seconds of a layer forward, and backward."""
    enters = layer.enters.clone(memory_format=torch.preserve_format).requires_grad_(not first)
    wanted = [*layer.weights, *([] if first else [enters])]

    def forward() -> Tensor:
        with inside():
            return layer.call(enters)

    leaves = forward()
    gradient = torch.ones_like(leaves)

    def both() -> None:
        torch.autograd.grad(forward(), wanted, gradient)

    with torch.no_grad():
        ahead = fastest(forward)
    return ahead, max(0.0, fastest(both) - ahead) if wanted else 0.0


def step_seconds(net: FastCNN, images: Tensor, inside: Callable[[], Any]) -> float:
    """Return the seconds of a step of the whole network with its optimizer."""
    optimizers = build_optimizers(net, "muon", lr=1e-4)
    targets = torch.arange(len(images)) % 10

    def step() -> None:
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        with inside():
            logits = net(images)
        F.cross_entropy(logits.float(), targets).backward()
        for optimizer in optimizers:
            optimizer.step()

    return fastest(step)


def show(precision: str, layout: str, options: argparse.Namespace) -> None:
    """Print the table of one precision and layout."""
    dtype = TYPES[precision]
    peak = matrix_speed(dtype)
    net = network(options.side).to(memory_format=LAYOUTS[layout])  # pyright: ignore[reportCallIssue]
    images = torch.randn(options.batch, 3, options.side, options.side)
    images = images.contiguous(memory_format=LAYOUTS[layout])

    def inside() -> AbstractContextManager[Any]:
        return autocast(CPU, dtype)

    print(f"\n{precision}, {layout}: peak {peak / 1e9:,.0f} GFLOP/s")
    print(
        f"{'layer':26} {'M multiply-adds':>16} {'forward ms':>11} {'backward ms':>12} {'of peak':>8}"
    )
    total, counted = 0.0, 0
    with inside():  # what enters a layer has the precision that it has in training
        parts = list(layers(net, images))
    for number, layer in enumerate(parts):
        ahead, back = times(layer, first=number == 0, inside=inside)
        with inside():
            count = multiply_adds(layer, first=number == 0)
        share = f"{2 * count * options.batch / (ahead + back) / peak:8.0%}" if count else ""
        total += ahead + back
        counted += count
        cost = f"{count / 1e6:16,.1f}" if count else " " * 16
        print(f"{layer.name:26} {cost} {ahead * 1e3:11,.1f} {back * 1e3:12,.1f} {share}")

    step = step_seconds(net, images, inside)
    for name, seconds in (("all layers", total), ("step", step)):
        share = 2 * counted * options.batch / seconds / peak
        print(f"{name:26} {counted / 1e6:16,.1f} {seconds * 1e3:24,.1f} {share:8.0%}")


def main() -> None:
    """Print a table for each precision and layout."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--precision", nargs="+", choices=TYPES, default=["fp32", "bf16"])
    parser.add_argument("--layout", nargs="+", choices=LAYOUTS, default=["channels-last"])
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--side", type=int, default=32, help="pixels of a side")
    parser.add_argument("--threads", type=int, help="by default as PyTorch chooses")
    parser.add_argument(
        "--without-onednn", action="store_true", help="take PyTorch's own convolutions"
    )
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    hold_memory()

    own = torch.backends.mkldnn.flags(enabled=False) if options.without_onednn else nullcontext()
    instructions = f"{torch.backends.cpu.get_cpu_capability()}, oneDNN {onednn_instructions()}"
    print(f"{processor()}, {instructions}, {torch.get_num_threads()} threads")
    with own:
        for precision in options.precision:
            for layout in options.layout:
                show(precision, layout, options)


if __name__ == "__main__":
    main()
