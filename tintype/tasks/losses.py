"""The losses: of classification with its class weights, of adversarial training with its penalties,
of flow matching.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

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

    total = per_image.sum()
    if label_smoothing:
        total = (1 - label_smoothing) * total + label_smoothing * weighted.mean(1).sum()
    return -total / normaliser


def batch_accuracy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the share of a batch that is classified correctly, as a scalar float32 on the device of the logits.

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


# ---- adversarial training: logits (N,) of a discriminator, above zero for "real" ---------------------------------------

ADVERSARIAL = ("bce", "minimax", "hinge", "wasserstein", "relativistic")

# Those in which the sign of a logit says "real" or "generated", and whose gradient fades where the
# discriminator is sure.
SIGNED = ("bce", "minimax", "hinge")


def discriminator_loss(kind: str, real: Tensor, fake: Tensor) -> Tensor:
    """Return what the discriminator minimises, a scalar in float32.

    bce and minimax: cross-entropy, the sum over real and generated (Goodfellow et al., 2014); hinge
    (Lim & Ye, 2017); wasserstein (Arjovsky et al., 2017); relativistic: cross-entropy of real -
    fake in pairs (Jolicoeur-Martineau, 2019, as in R3GAN).

    Args:
        kind: one of `ADVERSARIAL`.
        real: logits (N,) of real images.
        fake: logits (N,) of generated images.
    """
    real, fake = real.float(), fake.float()
    if kind in ("bce", "minimax"):
        return F.softplus(-real).mean() + F.softplus(fake).mean()
    if kind == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    if kind == "wasserstein":
        return fake.mean() - real.mean()
    if kind == "relativistic":
        return F.softplus(fake - real).mean()
    raise ValueError(f"unknown adversarial loss {kind}")


def generator_loss(kind: str, real: Tensor | None, fake: Tensor) -> Tensor:
    """Return what the generator minimises, a scalar in float32.

    minimax is log(1 - D(G(z))), the objective as Goodfellow et al. (2014) write it, which is what
    the discriminator maximises; its gradient fades where the discriminator is sure. bce is the form
    that they train by, -log D(G(z)), whose gradient does not ("non-saturating"). Only relativistic
    looks at `real`, the logits of as many real images.
    """
    fake = fake.float()
    if kind == "bce":
        return F.softplus(-fake).mean()
    if kind == "minimax":
        return -F.softplus(fake).mean()  # log(1 - sigmoid(x)) = -softplus(x)
    if kind in ("hinge", "wasserstein"):
        return -fake.mean()
    if kind == "relativistic" and real is not None:
        return F.softplus(real.float() - fake).mean()
    raise ValueError(f"unknown adversarial loss {kind}, or no real images")


def squared_gradient(images: Tensor, logits: Tensor) -> Tensor:
    """Return the squared length of each logit's gradient on its own image, (N,), differentiable.

    Half of its mean on real images is R1, on generated ones R2 (Mescheder et al., 2018).
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.float().square().flatten(1).sum(1)


def length_penalty(images: Tensor, logits: Tensor) -> Tensor:
    """Return the mean squared distance of the gradient's length from one (WGAN-GP, Gulrajani et
    al., 2017).
    """
    return ((squared_gradient(images, logits) + 1e-12).sqrt() - 1).square().mean()


# ---- restoration: pictures (N, C, H, W) of 0..1 against what they should be ---------------------------------------------

RESTORATION = ("mse", "l1", "charbonnier", "ssim")


def restoration_loss(kind: str, pictures: Tensor, originals: Tensor) -> Tensor:
    """Return how far pictures are from the originals, a scalar in float32.

    mse and l1 are means over all values; charbonnier is l1 made smooth at zero, with epsilon 0.001
    (Lai et al., 2017, LapSRN); ssim is one less the structural similarity.

    Args:
        kind: one of `RESTORATION`.
        pictures: (N, C, H, W) of 0..1.
        originals: the same shape.
    """
    difference = pictures.float() - originals.float()
    if kind == "mse":
        return difference.square().mean()
    if kind == "l1":
        return difference.abs().mean()
    if kind == "charbonnier":
        return (difference.square() + 1e-6).sqrt().mean()
    if kind == "ssim":
        return 1 - structural_similarity(pictures.float(), originals.float())
    raise ValueError(f"unknown loss {kind}")


def structural_similarity(pictures: Tensor, originals: Tensor) -> Tensor:
    """Return the SSIM of pictures (N, C, H, W) of 0..1, differentiable, averaged over images and channels.

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
