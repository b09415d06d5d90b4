"""Gradients of depthwise convolutions in bfloat16 against PyTorch's own in double precision."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tintype.models.efficientnet_lite import SameConv2d
from tintype.models.parts.depthwise import depthwise, has_slow_gradients


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("side", [9, 12])
def test_values_and_gradients_are_those_of_a_convolution(side, kernel, stride, padding):
    torch.manual_seed(0)
    maps = torch.randn(3, 6, side, side + 3).to(memory_format=torch.channels_last).bfloat16()
    filters = torch.randn(6, 1, kernel, kernel).bfloat16()
    ours = [maps.clone().requires_grad_(), filters.clone().requires_grad_()]
    theirs = [maps.double().requires_grad_(), filters.double().requires_grad_()]

    answer = depthwise(ours[0], ours[1], stride, padding)
    expected = F.conv2d(theirs[0], theirs[1], None, stride, padding, 1, 6)
    slope = torch.randn_like(answer)
    answer.backward(slope)
    expected.backward(slope.double())

    pairs = [(answer, expected), *((a.grad, b.grad) for a, b in zip(ours, theirs, strict=True))]
    for found, wanted in pairs:
        assert found is not None
        assert wanted is not None
        assert found.shape == wanted.shape
        assert (found.double() - wanted).norm() < 4e-3 * wanted.norm()


def test_only_bfloat16_on_a_cpu_takes_another_way():
    maps = torch.zeros(1, 4, 8, 8)
    assert not has_slow_gradients(maps, 5, 1)
    assert has_slow_gradients(maps.bfloat16(), 5, 1)
    assert has_slow_gradients(maps.bfloat16(), 3, 2)
    assert not has_slow_gradients(maps.bfloat16(), 3, 1)
    with torch.autocast("cpu", torch.bfloat16):
        assert has_slow_gradients(maps, 5, 1)
        with torch.no_grad():
            assert not has_slow_gradients(maps, 5, 1)


def test_weights_that_stay_single_get_single_gradients_under_autocast():
    torch.manual_seed(0)
    layer = SameConv2d(4, 4, 5, stride=2, groups=4)
    maps = torch.randn(2, 4, 9, 9, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        answer = layer(maps)
    assert answer.dtype == torch.bfloat16
    answer.float().square().sum().backward()

    found = layer.weight.grad
    layer.weight.grad = None
    layer(maps).square().sum().backward()
    wanted = layer.weight.grad
    assert found is not None
    assert wanted is not None
    assert found.dtype == torch.float32
    assert (found - wanted).norm() < 0.03 * wanted.norm()
