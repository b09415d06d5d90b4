"""A batch in parts: the same gradient, and nothing that depends on which part came before."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from test_resume import Stop, Stopper, assert_same_result
from torch import Tensor, nn

from tintype.data.source import Batch
from tintype.errors import UserError
from tintype.progress import Watcher
from tintype.recipe import build
from tintype.training.parts import Parts
from tintype.training.prepare import prepare


def batch_of(count: int) -> Batch:
    images = torch.randn(count, 3, generator=torch.Generator().manual_seed(0))
    return Batch(images, torch.arange(count), torch.arange(count))


class Keeps(nn.Module):
    """Has buffers of every kind."""

    mean: Tensor
    mask: Tensor
    third: Tensor
    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.idle = nn.Parameter(torch.ones(2))
        self.norm = nn.BatchNorm1d(3, affine=False)
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("mask", torch.tensor([-math.inf, 0.0]))
        self.register_buffer("third", torch.tensor(1 / 3, dtype=torch.float64))
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        self.mean = self.mean * 0.5 + x.mean(0).detach()
        self.calls += 1
        return (self.norm(x) * self.weight).square().sum(1)


def added(network: nn.Module, batch: Batch, count: int) -> dict[str, Tensor]:
    parts = Parts(count, [network])

    def backward(part: Batch, number: int, total: int) -> dict[str, Tensor]:
        loss = network(part.images).sum() / total
        loss.backward()
        return {"loss": loss.detach(), "number": torch.tensor(float(number))}

    return parts.gradients(batch, len(batch.images), list(network.parameters()), backward)


def test_parts_add_up_to_the_gradient_of_the_batch():
    batch = batch_of(13)
    networks = [nn.Linear(3, 1) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    whole, in_parts = (added(n, batch, count) for n, count in zip(networks, (1, 4), strict=True))
    torch.testing.assert_close(whole["loss"], in_parts["loss"])
    assert in_parts["number"] == 0 + 1 + 2 + 3
    for one, other in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_buffers_end_with_the_mean_of_the_parts():
    batch = batch_of(13)
    network = Keeps()
    network.mean += 2
    added(network, batch, 4)

    pieces = batch.images.tensor_split(4)
    shares = torch.tensor([len(piece) / 13 for piece in pieces])
    means = torch.stack([piece.mean(0) for piece in pieces])
    of_batch = (shares[:, None] * means).sum(0)
    torch.testing.assert_close(network.mean, 1 + of_batch)
    torch.testing.assert_close(network.norm.running_mean, 0.1 * of_batch)
    deviations = torch.stack([piece.var(0) for piece in pieces])
    torch.testing.assert_close(
        network.norm.running_var, 0.9 + 0.1 * (shares[:, None] * deviations).sum(0)
    )

    # what no part changes keeps its bits, and what counts counts the step once
    assert network.mask.tolist() == [-math.inf, 0.0]
    assert network.third == torch.tensor(1 / 3, dtype=torch.float64)
    assert network.third.dtype == torch.float64
    assert network.calls == 1
    assert network.norm.num_batches_tracked == 1
    assert network.idle.grad is None, "no part has reached it"


GAN = {
    "task": "generate", "model": "resnet-gan", "optimizer": "adam", "lr": 1e-3, "augment": "none",
    "model_options": {"width": 4, "latent": 4, "spectral_norm": True}, "loss": "hinge",
    "diff_augment": ["translation", "cutout"], "ada": 0.1,
}  # fmt: skip


def of_kind(kind: str, **changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "gan": GAN,
        "classifier": {
            "model": "cnn", "model_options": {"widths": [4], "hidden": [8], "batch_norm": True, "dropout": 0.3},
            "optimizer": "muon", "lr": 0.05, "ema": 0.9, "augment": "flip,mixup=0.4", "accumulate": 2, "clip": 1.0,
        },
    }[kind]  # fmt: skip
    usual = {"data": "digits", "device": "cpu", "precision": "fp32", "parts": 4, "batch_size": 50}
    return {**usual, "steps": 6, **fields, **changes}


@pytest.mark.parametrize("kind", ["classifier", "gan"])
def test_a_run_in_parts_goes_on(train_in, tmp_path, monkeypatch, kind):
    monkeypatch.setattr("tintype.training.engine.CHECKPOINT_SECONDS", 0.0)
    recipe = build(of_kind(kind), where="")
    whole = train_in(tmp_path / "whole" / "run", recipe)
    with pytest.raises(Stop):
        train_in(tmp_path / "stopped" / "run", recipe, Stopper(4))
    train_in(tmp_path / "stopped" / "run", recipe)
    assert_same_result(whole.path, tmp_path / "stopped" / "run")


def test_an_adaptive_strength_decides_once_a_step():
    """It moves at every fourth batch by all images of four, however many parts they have."""
    task: Any = prepare(build(of_kind("gan"), where=""), Watcher()).task
    strength, discriminator = task.adversarial.strength, task.phases[0]
    moved = []
    for _ in range(8):
        logged = {"discriminator_accuracy": torch.tensor(0.75), "signs": torch.tensor(0.5)}
        shown = task.decide(discriminator, logged, 50)
        moved.append(strength.probability)
        assert shown.keys() == {"discriminator_accuracy", "augment_probability"}
    step = 4 * 50 / 100_000
    assert moved == pytest.approx([0, 0, 0, step, step, step, step, 2 * step])
    assert task.trouble.state()["num_judged"] == 8

    of_generator = {"loss_generator": torch.tensor(1.0)}
    assert task.decide(task.phases[-1], of_generator, 50) == of_generator


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parts": 3}, "parts is 3; expected a power of two"),
        ({"parts": 64, "batch_size": 50}, "parts times accumulate"),
    ],
)
def test_parts_that_cannot_be(changes, message):
    with pytest.raises(UserError, match=message):
        build(of_kind("classifier", **changes), where="")


def test_parts_need_images():
    with pytest.raises(UserError, match=r"needs at least 2 images at once.*fewer parts"):
        prepare(build(of_kind("classifier", batch_size=8), where=""), Watcher())
