"""The loss of classification, and the weights of classes in it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tintype.errors import UserError


def cross_entropy(
    logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0, class_weights: Tensor | None = None
) -> Tensor:
    """Return the mean cross-entropy of a batch as a scalar, computed in float32.

    One-hot targets give exactly the value of the integer targets they stand for. With class weights that holds because
    both forms divide by the sum of the weights of the targets, as torch does for integers (for soft targets torch
    divides by N instead). Smoothing mixes every target with the uniform distribution (Szegedy et al., 2016).

    Args:
        logits: (N, K), any float dtype.
        targets: (N,) int64, or (N, K) float whose rows sum to one.
        label_smoothing: the part of every target given to the uniform distribution, 0..1.
        class_weights: (K,) float32, or None for equal weights.

    Raises:
        ValueError: targets whose shape does not fit the logits.
    """
    if targets.shape not in (logits.shape[:1], logits.shape):
        raise ValueError(f"targets of shape {tuple(targets.shape)} do not fit logits of {tuple(logits.shape)}")
    log_probabilities = F.log_softmax(logits.float(), dim=1)  # (N, K)
    weighted = log_probabilities if class_weights is None else log_probabilities * class_weights
    if targets.ndim == 1:
        per_image = weighted.gather(1, targets[:, None])[:, 0]
        normaliser = len(targets) if class_weights is None else class_weights[targets].sum()
    else:
        targets = targets.float()
        per_image = (weighted * targets).sum(1)
        normaliser = len(targets) if class_weights is None else (targets * class_weights).sum(1).sum()
    total = per_image.sum()
    if label_smoothing:
        total = (1 - label_smoothing) * total + label_smoothing * weighted.mean(1).sum()
    return -total / normaliser


def class_weights(targets: Tensor, num_classes: int, how: str | Sequence[float] | None) -> Tensor | None:
    """Return the weight of each class (K,) float32 in the loss, or None for equal weights.

    Args:
        targets: (N,) int64 of the training images.
        num_classes: K.
        how: None; "balanced" for N / (K * count), as scikit-learn has it, and 0 for a class without images;
            or a number for each class.

    Raises:
        UserError: another word, not K numbers, a negative or non-finite one, or all of them zero.
    """
    if how is None:
        return None
    if how == "balanced":
        counts = torch.bincount(targets, minlength=num_classes).float()
        return torch.where(counts > 0, len(targets) / (num_classes * counts.clamp(min=1)), 0.0)
    try:
        weights = [] if isinstance(how, str) else [float(weight) for weight in how]
    except (TypeError, ValueError):
        weights = []
    if len(weights) != num_classes or not all(math.isfinite(w) and w >= 0 for w in weights) or not any(weights):
        expected = f"'balanced' or {num_classes} numbers of 0 or more, one for each class"
        raise UserError(f"class_weights: expected {expected}, got {how!r}.")
    return torch.tensor(weights, dtype=torch.float32, device=targets.device)
