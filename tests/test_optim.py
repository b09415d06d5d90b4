"""Optimizers, schedules and weight averages, against torch, SciPy's decompositions and closed
forms.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import lr_scheduler

from tintype.hardware.eager import eager
from tintype.optim import (
    ABSOLUTE,
    Muon,
    WeightAverage,
    build_optimizers,
    clear_traces,
    lr_factor,
    mark_scale_invariant,
    orthogonalize,
    parameter_groups,
)

SCHEDULES = ["constant", "step", "cosine", "one-cycle", "linear"]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(6, 4))


# ---- schedules --------------------------------------------------------------------------------------------------------


def torch_factors(make, total_steps: int) -> list[float]:
    """Return the learning rates that a scheduler of torch gives at steps 0 ..

    total_steps - 1, for a peak of 1.
    """
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    rates = []
    for _ in range(total_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def ours(schedule: str, total_steps: int, warmup: float = 0.0) -> list[float]:
    return [lr_factor(schedule, step / total_steps, warmup) for step in range(total_steps)]


def test_cosine_agrees_with_torch():
    theirs = torch_factors(lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=50), 50)
    assert ours("cosine", 50) == pytest.approx(theirs, abs=1e-9)


def test_linear_agrees_with_torch():
    theirs = torch_factors(
        lambda o: lr_scheduler.LinearLR(o, start_factor=1.0, end_factor=1e-12, total_iters=50), 50
    )
    assert ours("linear", 50) == pytest.approx(theirs, abs=1e-6)


def test_step_agrees_with_torch():
    theirs = torch_factors(
        lambda o: lr_scheduler.MultiStepLR(o, milestones=[20, 30], gamma=0.1), 40
    )
    assert ours("step", 40) == pytest.approx(theirs)


def test_one_cycle_agrees_with_torch():
    """torch counts to the last step where we count to the end of the run, hence one step more there.

    Its start is a 25th of the peak and its end a 10,000th of the start; ours ends at a 10,000th of
    the peak.
    """
    theirs = torch_factors(
        lambda o: lr_scheduler.OneCycleLR(
            o, 1.0, total_steps=1001, pct_start=0.3001, final_div_factor=400
        ),
        1000,
    )
    assert ours("one-cycle", 1000) == pytest.approx(theirs, abs=5e-3)
    assert lr_factor("one-cycle", 0.0) == pytest.approx(1 / 25)
    assert lr_factor("one-cycle", 0.3) == pytest.approx(1.0)
    assert lr_factor("one-cycle", 1.0) == pytest.approx(1e-4)


@given(st.sampled_from(SCHEDULES), st.floats(0, 1), st.floats(0, 0.9))
def test_factors_lie_between_zero_and_one(schedule, progress, warmup):
    assert 0 <= lr_factor(schedule, progress, warmup) <= 1


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_warm_up_rises_along_a_line_and_then_the_schedule_begins(schedule):
    assert lr_factor(schedule, 0.0, 0.2) == 0.0
    assert lr_factor(schedule, 0.05, 0.2) == pytest.approx(0.25)
    assert lr_factor(schedule, 0.2, 0.2) == pytest.approx(lr_factor(schedule, 0.0))
    assert lr_factor(schedule, 0.4, 0.2) == pytest.approx(lr_factor(schedule, 0.25))


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="unknown schedule"):
        lr_factor("cosines", 0.5)


# ---- parameter groups -------------------------------------------------------------------------------------------------


def test_norms_and_biases_do_not_decay():
    net = network()
    decay, free = parameter_groups(net, 0.1, lr=1.0)
    assert (decay["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert {id(p) for p in decay["params"]} == {id(net[0].weight), id(net[3].weight)}
    assert {id(p) for p in free["params"]} == {
        id(net[0].bias),
        id(net[1].weight),
        id(net[1].bias),
        id(net[3].bias),
    }


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "muon"])
def test_every_trainable_parameter_is_trained_once_and_a_fixed_one_never(name):
    net = network()
    net[1].weight.requires_grad_(False)
    groups = [
        group
        for o in build_optimizers(net, name, lr=0.1, weight_decay=0.1)
        for group in o.param_groups
    ]
    trained = [id(p) for group in groups for p in group["params"]]
    assert sorted(trained) == sorted(id(p) for p in net.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "muon"])
def test_decay_alone_shrinks_weights_and_leaves_biases(name):
    net = network()
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    optimizers = build_optimizers(net, name, lr=0.1, momentum=0.0, weight_decay=0.5)
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    for optimizer in optimizers:
        optimizer.step()
    for n, p in net.named_parameters():
        if p.ndim > 1:
            assert p.norm().item() < before[n].norm().item(), n
        else:
            assert torch.equal(p, before[n]), n


@pytest.mark.machines
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_steps_are_those_of_torch(name):
    net, twin = network(), network()
    reference = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
        "adam": lambda p: torch.optim.Adam(p, lr=0.1),
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.0),
    }[name](twin.parameters())
    (optimizer,) = build_optimizers(net, name, lr=0.1, momentum=0.9)
    for seed in range(3):
        for one, step in ((net, optimizer), (twin, reference)):
            generator = torch.Generator().manual_seed(seed)
            for p in one.parameters():
                p.grad = torch.randn(p.shape, generator=generator)
            step.step()
    for a, b in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


# ---- Muon -------------------------------------------------------------------------------------------------------------


@pytest.mark.machines
@pytest.mark.parametrize("shape", [(16, 16), (8, 40), (40, 8)])
def test_orthogonalize_keeps_singular_vectors_and_brings_values_near_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u, values, vt = torch.linalg.svd(matrix, full_matrices=False)
    # Well-conditioned, as five iterations of the quintic lift values above about 0.01 of the norm
    # only.
    matrix = u @ torch.diag(values.clamp(min=0.2 * float(values.max()))) @ vt
    result = orthogonalize(matrix, num_iterations=5)
    assert result.dtype == torch.float64
    core = u.T @ result @ vt.T  # diagonal where the singular vectors are the same
    assert core.diag().min() > 0.5
    assert core.diag().max() < 1.4
    assert (core - torch.diag(core.diag())).abs().max() < 0.1  # bfloat16 has eight bits


def test_orthogonalize_computes_in_float32_where_bfloat16_is_emulated(monkeypatch):
    """On a CPU without bf16 units the products of bfloat16 matrices are up to 50 times slower than
    those of float32.
    """
    matrix = torch.randn(8, 20, generator=torch.Generator().manual_seed(2))
    monkeypatch.setattr("tintype.optim.bf16_units", list)
    precise = orthogonalize(matrix)
    monkeypatch.setattr("tintype.optim.bf16_units", lambda: ["avx512_bf16"])
    coarse = orthogonalize(matrix)
    assert not torch.equal(coarse, precise)
    assert torch.equal(coarse, coarse.bfloat16().float())
    assert not torch.equal(precise, precise.bfloat16().float())
    torch.testing.assert_close(coarse, precise, rtol=0, atol=0.03)


def test_orthogonalize_does_not_see_the_scale():
    matrix = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        orthogonalize(matrix), orthogonalize(matrix * 1024), rtol=0, atol=0.02
    )
    assert bool(orthogonalize(torch.zeros(3, 4)).isfinite().all())


def test_muon_solves_a_quadratic():
    target = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    weight = nn.Parameter(torch.zeros_like(target))
    lr = 1.0 / ABSOLUTE
    optimizer = Muon([weight], lr=lr, momentum=0.6)
    start = (weight - target).square().mean().item()
    for step in range(100):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / 100)
        optimizer.zero_grad()
        (weight - target).square().sum().backward()
        optimizer.step()
    assert (weight - target).square().mean().item() < 0.01 * start


def test_muon_holds_the_length_of_a_scale_invariant_filter():
    weight = nn.Parameter(torch.randn(8, 3, 3, 3, generator=torch.Generator().manual_seed(0)) * 5)
    mark_scale_invariant(weight)
    optimizer = Muon([weight], lr=1e-9)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert weight.norm().item() == pytest.approx(math.sqrt(8), rel=1e-5)


def test_muon_passes_over_a_weight_without_gradient():
    weight = nn.Parameter(torch.ones(2, 2))
    Muon([weight]).step()
    assert torch.equal(weight, torch.ones(2, 2))


# ---- the weight average -----------------------------------------------------------------------------------------------


def test_the_average_follows_its_closed_form():
    net = nn.Linear(1, 1, bias=False)
    values, decay = [1.0, 2.0, 4.0, 8.0], 0.15
    net.weight.data.fill_(values[0])
    average = WeightAverage(net, decay)
    expected = values[0]
    for n, value in enumerate(values[1:], 1):
        net.weight.data.fill_(value)
        average.update(net)
        d = min(decay, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * value
    assert float(average.tensors["weight"]) == pytest.approx(expected, rel=1e-6)
    assert net.weight.item() == values[-1], "the network itself is left alone"


def test_a_short_run_is_not_ruled_by_its_start():
    net = nn.Linear(1, 1, bias=False)
    net.weight.data.fill_(100.0)
    average = WeightAverage(net, 0.9999)
    net.weight.data.fill_(1.0)
    for _ in range(20):
        average.update(net)
    assert float(average.tensors["weight"]) < 1.01


def test_buffers_are_averaged_and_counters_copied():
    net = nn.BatchNorm1d(2)
    average = WeightAverage(net, 0.5)
    net.load_state_dict(
        {**net.state_dict(), "running_mean": torch.ones(2), "num_batches_tracked": torch.tensor(7)}
    )
    average.update(net)
    assert 0 < float(average.tensors["running_mean"][0]) < 1
    assert int(average.tensors["num_batches_tracked"]) == 7


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        (torch.optim.Adam, {"weight_decay": 0.1}),
        (torch.optim.AdamW, {}),
    ],
)
def test_without_the_compiler_steps_are_those_of_torch(kind, options):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    images = torch.randn(4, 6)

    def trained(make: Any) -> list[torch.Tensor]:
        copied = copy.deepcopy(network)
        optimizer = make(copied.parameters(), lr=0.05, fused=True, **options)
        for _ in range(5):
            optimizer.zero_grad()
            copied(images).square().sum().backward()
            optimizer.step()
        assert all(weight.requires_grad for weight in copied.parameters())
        return list(copied.state_dict().values())

    for ours, theirs in zip(trained(eager(kind)), trained(kind), strict=True):
        assert torch.equal(ours, theirs)


# ---- numbers that are nearly zero --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "muon"])
def test_what_is_nearly_zero_becomes_zero_in_weights_and_in_what_optimizers_keep(name: str):
    trained = network()
    optimizers = build_optimizers(trained, name, lr=0.01)
    trained(torch.randn(4, 2, 3, 3)).square().mean().backward()
    for optimizer in optimizers:
        optimizer.step()
    kept = [
        value
        for optimizer in optimizers
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor) and value.ndim
    ]
    tensors = [*trained.parameters(), *kept]
    assert len(kept) >= len(list(trained.parameters()))
    with torch.no_grad():
        for each in tensors:
            each.view(-1)[:4] = torch.tensor([1e-40, -1e-31, 1e-29, math.nan])
    before = [each.clone() for each in tensors]

    clear_traces(trained.parameters(), optimizers)
    for each, was in zip(tensors, before, strict=True):
        assert each.view(-1)[:2].tolist() == [0, 0]
        assert torch.equal(each.view(-1)[2:3], was.view(-1)[2:3])
        assert each.view(-1)[3].isnan()
        assert torch.equal(each.view(-1)[4:], was.view(-1)[4:])
