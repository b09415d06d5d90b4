"""Losses that tasks share.

Cross-entropy with class weights, adversarial losses with their penalties, and those that compare a
restored picture with its original.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tintype.errors import UserError


def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Return the mean cross-entropy of a batch as a scalar, computed in float32.

    One-hot targets give exactly the value of the integer targets they stand for. With class weights
    that holds because both forms divide by the sum of the weights of the targets, as torch does for
    integers (for soft targets torch divides by N instead). Smoothing mixes every target with the
    uniform distribution (Szegedy et al., 2016).

    Args:
        logits: (N, K), any float dtype.
        targets: (N,) int64, or (N, K) float whose rows sum to one.
        label_smoothing: the part of every target given to the uniform distribution, 0..1.
        class_weights: (K,) float32, or None for equal weights.
        weights: (N,) float32 of the images, by which their losses are multiplied; the divisor stays
            as it is, since their mean over all training images is 1.

    Raises:
        ValueError: targets whose shape does not fit the logits.
    """
    if targets.shape not in (logits.shape[:1], logits.shape):
        raise ValueError(
            f"targets of shape {tuple(targets.shape)} do not fit logits of {tuple(logits.shape)}"
        )
    log_probabilities = F.log_softmax(logits.float(), dim=1)  # (N, K)
    weighted = log_probabilities if class_weights is None else log_probabilities * class_weights

    if targets.ndim == 1:
        per_image = weighted.gather(1, targets[:, None])[:, 0]
        normaliser = len(targets) if class_weights is None else class_weights[targets].sum()
    else:
        targets = targets.float()
        per_image = (weighted * targets).sum(1)
        normaliser = (
            len(targets) if class_weights is None else (targets * class_weights).sum(1).sum()
        )

    total = _summed(per_image, weights)
    if label_smoothing:
        uniform = _summed(weighted.mean(1), weights)
        total = (1 - label_smoothing) * total + label_smoothing * uniform
    return -total / normaliser


def _summed(values: Tensor, weights: Tensor | None) -> Tensor:
    """Return the sum of values (N,), each times its weight."""
    return values.sum() if weights is None else (values * weights).sum()


def check_finite(*values: Tensor) -> None:
    """Raise where a network answers with numbers that are not finite.

    Raises:
        UserError: it does.
    """
    if not all(bool(each.isfinite().all()) for each in values):
        raise UserError(
            "the answers of the network are not finite: training has diverged. "
            "Try a lower --lr, --set clip=1 or --set warmup=0.1."
        )


def batch_accuracy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the share of a batch that is classified correctly.

    It is a scalar float32 on the device of the logits.

    Of mixed images (mixup, CutMix) an answer counts as much as its class is in the target.

    Args:
        logits: (N, K), any float dtype.
        targets: (N,) int64, or (N, K) float whose rows sum to one.
    """
    answers = logits.detach().argmax(1)
    if targets.ndim == 1:
        return (answers == targets).float().mean()

    return targets.gather(1, answers[:, None]).float().mean()


def class_weights(
    targets: Tensor, num_classes: int, how: str | Sequence[float] | None
) -> Tensor | None:
    """Return the weight of each class (K,) float32 in the loss, or None for equal weights.

    Args:
        targets: (N,) int64 of the training images.
        num_classes: K.
        how: None; "balanced" for N / (K * count), as scikit-learn has it, and 0 for a class without
            images;
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
    if (
        len(weights) != num_classes
        or not all(math.isfinite(w) and w >= 0 for w in weights)
        or not any(weights)
    ):
        expected = f"'balanced' or {num_classes} numbers of 0 or more, one for each class"
        raise UserError(f"class_weights: expected {expected}, got {how!r}.")

    return torch.tensor(weights, dtype=torch.float32, device=targets.device)


# ---- adversarial training: logits (N,) of a discriminator, above zero for "real" -----------------


@dataclass(frozen=True)
class AdversarialLoss:
    """What the two networks of a GAN minimise, scalars in float32.

    Attributes:
        discriminator: takes the logits (N,) of real and of generated images.
        generator: takes the same; `real` is None where the loss does not read it.
        signed: whether the sign of a logit says "real" or "generated", and the gradient fades where
            the discriminator is sure.
        paired: whether the generator's loss reads the logits of as many real images.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor | None, Tensor], Tensor]
    signed: bool = False
    paired: bool = False


def _cross_entropy_of_both(real: Tensor, fake: Tensor) -> Tensor:
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def _hinge(real: Tensor, fake: Tensor) -> Tensor:
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def _relativistic(real: Tensor | None, fake: Tensor) -> Tensor:
    assert real is not None
    return F.softplus(real - fake).mean()


# To add an objective is to add a row; the first one is the default. Formulas for the report stand
# in tasks/generate/equations.py.
ADVERSARIAL: dict[str, AdversarialLoss] = {
    # Cross-entropy; -log D(G(z)), the form that Goodfellow et al. (2014) train by, whose gradient
    # does not fade ("non-saturating").
    "bce": AdversarialLoss(
        _cross_entropy_of_both, lambda _, fake: F.softplus(-fake).mean(), signed=True
    ),
    # The same; log(1 - D(G(z))), the objective as they write it. log(1 - sigmoid(x)) = -softplus(x)
    "minimax": AdversarialLoss(
        _cross_entropy_of_both, lambda _, fake: -F.softplus(fake).mean(), signed=True
    ),
    # Lim & Ye, 2017
    "hinge": AdversarialLoss(_hinge, lambda _, fake: -fake.mean(), signed=True),
    # Arjovsky et al., 2017
    "wasserstein": AdversarialLoss(
        lambda real, fake: fake.mean() - real.mean(), lambda _, fake: -fake.mean()
    ),
    # Cross-entropy of the difference in pairs (Jolicoeur-Martineau, 2019, as in R3GAN)
    "relativistic": AdversarialLoss(
        lambda real, fake: F.softplus(fake - real).mean(), _relativistic, paired=True
    ),
}


def discriminator_loss(kind: str, real: Tensor, fake: Tensor) -> Tensor:
    """Return what the discriminator minimises, a scalar in float32.

    Args:
        kind: one of `ADVERSARIAL`.
        real: logits (N,) of real images.
        fake: logits (N,) of generated images.
    """
    return ADVERSARIAL[kind].discriminator(real.float(), fake.float())


def generator_loss(kind: str, real: Tensor | None, fake: Tensor) -> Tensor:
    """Return what the generator minimises, a scalar in float32.

    Only a paired loss reads `real`, the logits of as many real images.

    Raises:
        ValueError: a paired loss without real images.
    """
    loss = ADVERSARIAL[kind]
    if loss.paired and real is None:
        raise ValueError(f"adversarial loss {kind} needs the logits of real images")

    return loss.generator(real.float() if real is not None else None, fake.float())


def squared_gradient(images: Tensor, logits: Tensor) -> Tensor:
    """Return the squared length of each logit's gradient on its own image, (N,), differentiable.

    Half of its mean on real images is R1, on generated ones R2 (Mescheder et al., 2018).
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.float().square().flatten(1).sum(1)


def length_penalty(images: Tensor, logits: Tensor) -> Tensor:
    """Return the mean squared distance of the gradient's length from one.

    WGAN-GP, Gulrajani et al., 2017.
    """
    return ((squared_gradient(images, logits) + 1e-12).sqrt() - 1).square().mean()


# ---- restoration: pictures (N, C, H, W) of 0..1 against what they should be ----------------------

# Each takes pictures and originals (N, C, H, W) float32 of 0..1. To add a loss is to add a row; its
# formula for the report stands in tasks/upscale/equations.py.
RESTORATION: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": lambda pictures, originals: (pictures - originals).square().mean(),
    "l1": lambda pictures, originals: (pictures - originals).abs().mean(),
    # l1 made smooth at zero, with epsilon 0.001 (Lai et al., 2017, LapSRN)
    "charbonnier": lambda pictures, originals: (
        ((pictures - originals).square() + 1e-6).sqrt().mean()
    ),
    "ssim": lambda pictures, originals: 1 - structural_similarity(pictures, originals),
}


def restoration_loss(kind: str, pictures: Tensor, originals: Tensor) -> Tensor:
    """Return how far pictures are from the originals, a scalar in float32.

    Args:
        kind: one of `RESTORATION`.
        pictures: (N, C, H, W) of 0..1.
        originals: the same shape.
    """
    return RESTORATION[kind](pictures.float(), originals.float())


def structural_similarity(pictures: Tensor, originals: Tensor) -> Tensor:
    """Return the SSIM of pictures (N, C, H, W) of 0..1, differentiable.

    It is averaged over images and channels.

    A Gaussian window of 11x11 with a deviation of 1.5, where it lies wholly inside (Wang et al.,
    2004); both sides must have 11 pixels.
    """
    line = torch.exp(-0.5 * (torch.arange(-5, 6, device=pictures.device) / 1.5) ** 2)
    line = line / line.sum()
    x, y = (t.reshape(-1, 1, *t.shape[2:]) for t in (pictures, originals))

    def blurred(images: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(images, line.view(1, 1, 11, 1)), line.view(1, 1, 1, 11))

    mean_x, mean_y = blurred(x), blurred(y)
    variance_x, variance_y = blurred(x * x) - mean_x**2, blurred(y * y) - mean_y**2
    covariance = blurred(x * y) - mean_x * mean_y
    similarity = (2 * mean_x * mean_y + 0.01**2) * (2 * covariance + 0.03**2)
    similarity = similarity / (
        (mean_x**2 + mean_y**2 + 0.01**2) * (variance_x + variance_y + 0.03**2)
    )
    return similarity.mean()
