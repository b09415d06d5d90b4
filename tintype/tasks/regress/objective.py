"""What training minimises: the error of the numbers, and of the scale expected for it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

# In deviations of the training numbers, in which everything here is computed.
HUBER_FROM = 0.1  # errors below it count by their square, larger ones by their size
SMALLEST_LOG_SCALE = -4.0
LARGEST_LOG_SCALE = 2.0
SCALE_WEIGHT = 0.1


def regression_loss(
    kind: str, predictions: Tensor, targets: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Return the error of numbers (N, K) in deviations, a scalar in float32.

    mse is the mean squared error, mae the mean absolute error, huber the smooth L1 loss (Girshick,
    2015), quadratic below `HUBER_FROM`. `weights` (N,) are those of the images.
    """
    predictions = predictions.float()
    targets = targets.float()
    reduction = "mean" if weights is None else "none"
    if kind == "mse":
        errors = F.mse_loss(predictions, targets, reduction=reduction)
    elif kind == "mae":
        errors = F.l1_loss(predictions, targets, reduction=reduction)
    elif kind == "huber":
        errors = F.smooth_l1_loss(predictions, targets, beta=HUBER_FROM, reduction=reduction)
    else:
        raise ValueError(f"unknown loss {kind}")
    return errors if weights is None else (errors * weights[:, None]).mean()


def scale_loss(log_scales: Tensor, residuals: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the log loss of residuals (N, K) under Laplace distributions of these scales.

    It is least where the scale of an image is its expected absolute residual. Residuals are taken
    as given, so that the scale does not bend the numbers. `weights` (N,) are those of the images.
    """
    size = residuals.detach().abs().float()
    losses = size * (-log_scales).exp() + log_scales
    return losses.mean() if weights is None else (losses * weights[:, None]).mean()


def split_outputs(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the numbers (N, K) and the logarithm of their scales (N, K) of outputs (N, 2 K)."""
    numbers, log_scales = outputs.float().chunk(2, dim=1)
    return numbers, log_scales.clamp(SMALLEST_LOG_SCALE, LARGEST_LOG_SCALE)
