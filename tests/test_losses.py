"""The loss against torch, the class weights against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor

from tintype.errors import UserError
from tintype.tasks.losses import batch_accuracy, class_weights, cross_entropy


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(257, 7, generator=generator)
    return logits, torch.randint(0, 7, (257,), generator=generator)


WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 0.0, 3.0, 0.1, 1.0])


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_integer_targets_agree_with_torch(
    batch: tuple[Tensor, Tensor], smoothing: float, weights: Tensor | None
) -> None:
    logits, targets = batch
    logits = logits.requires_grad_()
    ours = cross_entropy(logits, targets, label_smoothing=smoothing, class_weights=weights)
    theirs = F.cross_entropy(logits, targets, weight=weights, label_smoothing=smoothing)
    torch.testing.assert_close(ours, theirs)
    assert ours.shape == ()
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs)))


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_one_hot_targets_agree_exactly(
    batch: tuple[Tensor, Tensor], smoothing: float, weights: Tensor | None
) -> None:
    logits, targets = batch
    of_integers = cross_entropy(logits, targets, label_smoothing=smoothing, class_weights=weights)
    one_hot = F.one_hot(targets, 7)
    for form in (one_hot, one_hot.float(), one_hot.double()):
        of_one_hot = cross_entropy(logits, form, label_smoothing=smoothing, class_weights=weights)
        assert torch.equal(of_integers, of_one_hot)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_soft_targets_agree_with_torch(batch: tuple[Tensor, Tensor], smoothing: float) -> None:
    logits, _ = batch
    soft = torch.softmax(torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)), 1)
    theirs = F.cross_entropy(logits, soft, label_smoothing=smoothing)
    torch.testing.assert_close(cross_entropy(logits, soft, label_smoothing=smoothing), theirs)


def test_mixed_targets_give_the_mixed_loss(batch: tuple[Tensor, Tensor]) -> None:
    logits, targets = batch
    other = targets.roll(1)
    mixed = 0.3 * F.one_hot(targets, 7) + 0.7 * F.one_hot(other, 7)
    expected = 0.3 * cross_entropy(logits, targets) + 0.7 * cross_entropy(logits, other)
    torch.testing.assert_close(cross_entropy(logits, mixed), expected)


def test_half_precision_is_computed_in_float32(batch: tuple[Tensor, Tensor]) -> None:
    logits, targets = batch
    rounded = logits.bfloat16()
    assert torch.equal(cross_entropy(rounded, targets), cross_entropy(rounded.float(), targets))
    assert cross_entropy(rounded, targets).dtype == torch.float32


def test_targets_that_do_not_fit_are_refused(batch: tuple[Tensor, Tensor]) -> None:
    logits, targets = batch
    for wrong in (targets[:5], F.one_hot(targets, 8)):
        with pytest.raises(ValueError, match="do not fit"):
            cross_entropy(logits, wrong)


def test_balanced_weights_agree_with_scikit_learn(batch: tuple[Tensor, Tensor]) -> None:
    targets = batch[1].clamp(max=4)
    reference = compute_class_weight("balanced", classes=np.arange(5), y=targets.numpy())
    weights = class_weights(targets, 5, "balanced")
    assert weights is not None
    torch.testing.assert_close(weights, torch.tensor(reference, dtype=torch.float32))


def test_balanced_weights_make_every_class_count_the_same(batch: tuple[Tensor, Tensor]) -> None:
    targets = torch.cat([torch.zeros(90), torch.ones(10)]).long()
    weights = class_weights(targets, 3, "balanced")
    assert weights is not None
    assert weights[2] == 0  # no images
    shares = torch.stack([weights[targets[targets == k]].sum() for k in (0, 1)])
    torch.testing.assert_close(shares[0], shares[1])


def test_given_weights_are_checked() -> None:
    targets = torch.tensor([0, 1, 2])
    assert class_weights(targets, 3, None) is None
    given = class_weights(targets, 3, [1, 2.5, 0])
    assert given is not None
    assert given.tolist() == [1, 2.5, 0]
    for wrong in (
        "balance",
        [1, 2],
        [1, -1, 1],
        [1, float("nan"), 1],
        [0, 0, 0],
        ["a", "b", "c"],
        3,
    ):
        with pytest.raises(UserError, match="expected 'balanced' or 3 numbers"):
            class_weights(targets, 3, wrong)  # pyright: ignore[reportArgumentType]


def test_the_accuracy_of_a_batch_is_that_of_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 7, generator=generator)
    targets = torch.randint(7, (200,), generator=generator)
    expected = accuracy_score(targets, logits.argmax(1))
    assert float(batch_accuracy(logits, targets)) == pytest.approx(expected)
    assert float(batch_accuracy(logits, F.one_hot(targets, 7).float())) == pytest.approx(expected)

    # Of two images mixed, an answer for either class counts by its share.
    others = targets.roll(1)
    mixed = 0.7 * F.one_hot(targets, 7) + 0.3 * F.one_hot(others, 7)
    shares = 0.7 * expected + 0.3 * accuracy_score(others, logits.argmax(1))
    assert float(batch_accuracy(logits, mixed)) == pytest.approx(shares)
