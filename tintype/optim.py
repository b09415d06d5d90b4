"""Optimizers, parameter groups, Muon for filters, and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tintype import own_code
from tintype.errors import UserError
from tintype.hardware.device import bf16_units
from tintype.hardware.eager import eager
from tintype.own_code import is_own

# Muon's lr is a relative step of a weight, Adam's an absolute one. Of the ratios tried this one was
# the best (docs/log.md).
ABSOLUTE = 1 / 50

# What `clear_traces` leaves none of. It lies so far above the smallest normal float32 (1.2e-38)
# that no weight gets from one to the other between two calls, and so far below what a step adds
# that no other weight changes.
NEARLY_ZERO = 1e-30

# What a model or a task says of single weights stands on the weights themselves, as attributes that
# only this file reads:
#
# scale_invariant  True for a filter that a normalisation follows: its length has no effect on the
#                  output, so Muon keeps it at sqrt(rows). Without it the length matters.
# lr_scale         A factor on the learning rate, with Muon alone. Such a weight, and every weight
#                  of one dimension, is trained by AdamW beside Muon.
# layer_scale      A factor on the learning rate with every optimizer, lower for earlier stages of a
#                  pretrained network.


def mark_scale_invariant(weight: Tensor) -> None:
    """Mark a filter that a normalisation follows, so that Muon may fix its length."""
    weight.scale_invariant = True  # pyright: ignore[reportAttributeAccessIssue]


def scale_lr(weight: Tensor, factor: float) -> None:
    """Have a weight trained by AdamW beside Muon, at `factor` times its learning rate."""
    weight.lr_scale = factor  # pyright: ignore[reportAttributeAccessIssue]


def scale_layer(weight: Tensor, factor: float) -> None:
    """Multiply the learning rate of a weight by `factor`, whatever the optimizer."""
    weight.layer_scale = factor  # pyright: ignore[reportAttributeAccessIssue]


def _is_scale_invariant(weight: Tensor) -> bool:
    return getattr(weight, "scale_invariant", False)


def _lr_scale(weight: Tensor) -> float | None:
    return getattr(weight, "lr_scale", None)


def _layer_scale(weight: Tensor) -> float:
    return getattr(weight, "layer_scale", 1.0)


def orthogonalize(matrix: Tensor, num_iterations: int = 3) -> Tensor:
    """Return a matrix (rows, columns) near the closest orthogonal one.

    Its singular vectors are about the same, and its singular values are near one. Newton-Schulz
    iteration with the quintic coefficients of Jordan et al., "Muon" (2024), computed in bfloat16 as
    there, in float32 on a CPU that only emulates bfloat16.
    """
    x = matrix.float() if matrix.device.type == "cpu" and not bf16_units() else matrix.bfloat16()
    x = x / (x.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    for _ in range(num_iterations):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum whose step is orthogonalized, for weights of two or more dimensions.

    Filters are flattened. torch.optim.Muon takes matrices only; convolution filters (O, I, kh, kw)
    are seen here as (O, I*kh*kw) as Jordan does. `lr` is the relative step of a weight marked by
    `mark_scale_invariant`, which is kept at the length sqrt(O). Any other weight has a length that
    matters: it takes lr * ABSOLUTE as the rate of steps the size of Adam's (0.2 for each element,
    Liu et al., "Muon is scalable", 2025) and decays by `weight_decay`. So one `lr` suits networks
    with and without norms.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.1,
        momentum: float = 0.6,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, closure: Callable[[], float] | None = None
    ) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, group)

    def _update(self, weight: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        assert weight.grad is not None
        buffer = state["momentum_buffer"].mul_(group["momentum"]).add_(weight.grad)
        gradient = weight.grad.add(buffer, alpha=group["momentum"])
        rows = weight.shape[0]
        direction = orthogonalize(gradient.reshape(rows, -1)).view_as(weight)

        if _is_scale_invariant(weight):
            weight.mul_(math.sqrt(rows) / weight.norm()).add_(direction, alpha=-group["lr"])
        else:
            columns = weight.numel() // rows
            lr, size = group["lr"] * ABSOLUTE, 0.2 * math.sqrt(max(rows, columns))
            weight.mul_(1 - lr * group["weight_decay"]).add_(direction, alpha=-lr * size)


def parameter_groups(network: nn.Module, weight_decay: float, lr: float) -> list[dict[str, Any]]:
    """Split trainable parameters: weights decay, biases and norms (one dimension) do not.

    The learning rate of a group is multiplied by the `layer_scale` of its weights.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for p in network.parameters():
        if p.requires_grad:
            decay = weight_decay if p.ndim > 1 else 0.0
            groups.setdefault((_layer_scale(p), decay), []).append(p)
    return [
        {"params": found, "weight_decay": decay, "lr": lr * scale}
        for (scale, decay), found in groups.items()
    ]


def build_optimizers(
    network: nn.Module,
    name: str,
    *,
    lr: float,
    momentum: float = 0.9,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
) -> Sequence[torch.optim.Optimizer]:
    """Make the optimizers of one network.

    There is one, of the user's own where `name` is a reference, or two for "muon": filters and
    matrices by Muon, the rest by AdamW, and so are weights that carry `lr_scale`.
    """
    if is_own(name):
        return [OwnOptimizer(name).of(parameter_groups(network, weight_decay, lr), lr)]
    fused = next(network.parameters()).device.type in ("cpu", "cuda")
    groups = parameter_groups(network, weight_decay, lr)
    if name == "sgd":
        return [
            eager(torch.optim.SGD)(
                groups, lr=lr, momentum=momentum, nesterov=momentum > 0, fused=fused
            )
        ]
    if name == "adam":
        # Decay is decoupled in AdamW only; in Adam it is added to the gradient, as in the paper.
        return [eager(torch.optim.Adam)(groups, lr=lr, betas=betas, fused=fused)]
    if name == "adamw":
        return [eager(torch.optim.AdamW)(groups, lr=lr, betas=betas, fused=fused)]

    return _muon_and_adamw(network, lr, momentum, weight_decay, fused)


class OwnOptimizer:
    """A class or function of the user's own, `(params, lr=...) -> torch.optim.Optimizer`.

    `params` are the weights in a list; or groups of them, as torch has them, where some have
    another learning rate than others, or a weight decay.

    Args:
        reference: see `tintype.own_code`.

    Raises:
        UserError: there is no such optimizer.
    """

    def __init__(self, reference: str) -> None:
        self.name = own_code.name_of(reference)
        self.make = own_code.find(reference, "optimizer", "optimizer")

    def of(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        """Return the optimizer of groups of weights; without a weight decay its own one holds.

        Raises:
            UserError: it fails, or is no optimizer of these weights.
        """
        weights = [weight for group in groups for weight in group["params"]]
        if not any(group["weight_decay"] for group in groups):
            groups = [{"params": group["params"], "lr": group["lr"]} for group in groups]
            groups = groups if any(group["lr"] != lr for group in groups) else []

        with own_code.running(f"the optimizer {self.name}"):
            optimizer = self.make(groups or weights, lr=lr)

        if not isinstance(optimizer, torch.optim.Optimizer):
            raise UserError(
                f"the optimizer {self.name} returns {type(optimizer).__name__}. Expected a "
                "torch.optim.Optimizer of the weights that it is given."
            )
        held = [weight for group in optimizer.param_groups for weight in group["params"]]
        if {id(weight) for weight in held} != {id(weight) for weight in weights}:
            raise UserError(
                f"the optimizer {self.name} holds {len(held)} weights, which are not the "
                f"{len(weights)} that it was given."
            )
        return optimizer

    def try_out(self, lr: float) -> None:
        """Try a step on a small network, before anything is written.

        Raises:
            UserError: as `of` does, or the step fails.
        """
        network = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
        optimizer = self.of(parameter_groups(network, 0.0, lr), lr)

        network(torch.ones(2, 3)).square().sum().backward()
        with own_code.running(f"a step of the optimizer {self.name}"):
            optimizer.step()  # pyright: ignore[reportCallIssue]


def _muon_and_adamw(
    network: nn.Module, lr: float, momentum: float, weight_decay: float, fused: bool
) -> list[torch.optim.Optimizer]:
    hidden: dict[float, list[nn.Parameter]] = {}
    rest: dict[float, list[nn.Parameter]] = {}
    for p in network.parameters():
        if not p.requires_grad:
            continue
        scale = _lr_scale(p)
        if p.ndim > 1 and scale is None:
            hidden.setdefault(_layer_scale(p), []).append(p)
        else:
            factor = 1.0 if scale is None else scale
            rest.setdefault(factor * _layer_scale(p), []).append(p)

    optimizers: list[torch.optim.Optimizer] = []
    if hidden:
        groups = [{"params": found, "lr": lr * scale} for scale, found in hidden.items()]
        optimizers.append(Muon(groups, lr=lr, momentum=momentum, weight_decay=weight_decay))

    if rest:
        lr *= ABSOLUTE
        groups = [{"params": p, "lr": lr * scale} for scale, p in rest.items()]
        optimizers.append(
            eager(torch.optim.AdamW)(
                groups, lr=lr, betas=(0.9, 0.95), weight_decay=0.0, fused=fused
            )
        )

    return optimizers


def lr_factor(
    schedule: str,
    progress: float,
    warmup: float = 0.0,
    *,
    milestones: Sequence[float] = (),
    step_factor: float = 0.1,
) -> float:
    """Return the factor on the peak learning rate at `progress` (0..1) of the run.

    constant; step (times `step_factor` at each milestone, a part of the run, as torch's
    MultiStepLR; without milestones at 1/2 and again at 3/4 of what follows the warmup, He et al.
    2016); cosine (to zero, Loshchilov & Hutter 2017); linear (to zero); one-cycle (rises for 30 %
    from 1/25, then falls along a cosine to 1/10,000, Smith 2018). `warmup` is the part of the run
    in which the factor rises from zero along a line.
    """
    if progress < warmup:
        return progress / warmup
    rest = (progress - warmup) / (1 - warmup)
    if schedule == "constant":
        return 1.0

    if schedule == "step":
        passed = [progress >= m for m in milestones] or [rest >= 0.5, rest >= 0.75]
        return step_factor ** sum(passed)

    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * rest))
    if schedule == "linear":
        return 1 - rest

    if schedule == "one-cycle":
        rise = 0.3
        if rest < rise:
            return _between(1 / 25, 1.0, rest / rise)
        return _between(1.0, 1e-4, (rest - rise) / (1 - rise))

    raise ValueError(f"unknown schedule {schedule}")


def _between(start: float, end: float, part: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * part))


def steepest_rate(curve: Sequence[tuple[float, float]]) -> float:
    """Return the learning rate at which the loss of a range test falls fastest.

    It is the steepest slope over the logarithm of the rate. The losses are smoothed over a tenth of
    the curve; only what comes before the smallest loss counts.

    Raises:
        ValueError: the curve has fewer than ten points, or never falls.
    """
    if len(curve) < 10:
        raise ValueError("the loss grew at once, from the smallest learning rate on")
    width = max(2, len(curve) // 10)
    rates = [rate for rate, _ in curve]
    losses = [loss for _, loss in curve]
    smooth = [
        sum(part) / len(part)
        for i in range(len(losses))
        if (part := losses[max(0, i - width) : i + width + 1])
    ]
    end = max(2, min(range(len(smooth)), key=smooth.__getitem__))
    slopes = [(smooth[i + 1] - smooth[i - 1]) for i in range(1, end)]
    steepest = min(range(len(slopes)), key=slopes.__getitem__)
    if slopes[steepest] >= 0:
        raise ValueError("the loss never falls, whatever the learning rate")

    return rates[steepest + 1]


@torch.no_grad()
def clear_traces(
    weights: Iterable[Tensor], optimizers: Iterable[torch.optim.Optimizer] = ()
) -> None:
    """Set weights, and what their optimizers keep of them, to zero where they are nearly that.

    A weight that no gradient reaches (of a unit that is never active, of a pixel that is always
    black) decays by a factor at each step where an adaptive optimizer adds the decay to the
    gradient, and so does its momentum with every optimizer. Both end as denormal numbers, which
    some processors compute two hundred times as slowly as others.
    """
    kept = (
        value
        for optimizer in optimizers
        for state in optimizer.state.values()
        for value in state.values()
    )
    for each in (*weights, *kept):
        if isinstance(each, Tensor) and each.is_floating_point() and each.ndim:
            each.copy_(nn.functional.hardshrink(each, NEARLY_ZERO))


class WeightAverage:
    """An exponential moving average of a network's weights and buffers (Polyak & Juditsky 1992).

    The decay warms up as (1 + n) / (10 + n), so that a short run is not ruled by its start.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self.tensors = {k: v.detach().clone() for k, v in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                self.tensors[name].lerp_(value, 1 - decay)
            else:
                self.tensors[name].copy_(value)
