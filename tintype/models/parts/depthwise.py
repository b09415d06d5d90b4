"""Depthwise convolutions whose gradients in bfloat16 take a CPU as long as they need to.

oneDNN (PyTorch 2.x) has kernels in bfloat16 for the gradients of 3 x 3 filters with stride 1; all
others take a general way, ten to a hundred times as long. Of a step of fine-tuning EfficientNet
they are two thirds.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

FAST_KERNEL = 3  # the side of a filter whose gradients have kernels of their own


def has_slow_gradients(input: Tensor, kernel: int, stride: int) -> bool:
    """Return whether PyTorch's own gradients of such a depthwise convolution are slow here."""
    if input.device.type != "cpu" or not torch.is_grad_enabled():
        return False
    autocast = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if autocast else input.dtype
    return dtype == torch.bfloat16 and (kernel > FAST_KERNEL or stride > 1)


def depthwise(input: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Return maps (N, C, H, W) in bfloat16, each convolved with its filter of weight (C, 1, K, K).

    Values are those of `conv2d` with as many groups as maps, and so are gradients, but for the
    order in which they are added up.
    """
    return _Depthwise.apply(  # pyright: ignore[reportReturnType]
        input.to(torch.bfloat16), weight.to(torch.bfloat16), stride, padding
    )


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution with square filters."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.stride = stride
        ctx.padding = padding
        return F.conv2d(input, weight, None, stride, padding, 1, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        input, weight = ctx.saved_tensors
        of_input = of_weight = None
        if ctx.needs_input_grad[0]:
            of_input = _slope_of_input(slope, weight, input.shape, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[1]:
            of_weight = _slope_of_weight(slope, input, weight, ctx.stride, ctx.padding)
        return of_input, of_weight, None, None


def _slope_of_input(
    slope: Tensor, weight: Tensor, shape: torch.Size, stride: int, padding: int
) -> Tensor:
    """Return the gradient of the input: the slopes, spread out, under the turned filter."""
    rows, columns = shape[2] + 2 * padding, shape[3] + 2 * padding
    kernel = weight.shape[2]
    spread = slope
    if stride > 1:
        num, channels, height, width = slope.shape
        tall, wide = rows - kernel + 1, columns - kernel + 1
        spread = slope.new_zeros(num, tall, wide, channels).permute(0, 3, 1, 2)
        spread[:, :, ::stride, ::stride] = slope[:, :, :height, :width]

    return F.conv2d(spread, weight.flip(2, 3), None, 1, kernel - 1 - padding, 1, len(weight))


def _slope_of_weight(
    slope: Tensor, input: Tensor, weight: Tensor, stride: int, padding: int
) -> Tensor:
    """Return the gradient of the filters, of large ones in single precision, which has kernels."""
    dtype = torch.float32 if weight.shape[2] > FAST_KERNEL else slope.dtype
    _, found, _ = torch.ops.aten.convolution_backward(
        slope.to(dtype),
        input.to(dtype),
        weight.to(dtype),
        None,
        [stride, stride],
        [padding, padding],
        [1, 1],
        False,
        [0, 0],
        len(weight),
        [False, True, False],
    )
    return found.to(weight.dtype)
