"""A step of classification and of generation on an accelerator that is only claimed: tensors without data, whose operations
refuse to mix devices. Super-resolution is not here: it reads where to crop from its random numbers,
which have no values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tintype.data.source import Batch
from tintype.progress import Watcher
from tintype.tasks.task import StepContext
from tintype.training.prepare import prepare

DRAWING = ("rand", "randn", "randint", "randperm")
THERE = torch.device("cuda:0")


class Stream:
    """Stands for a generator on the accelerator, which cannot be made where there is none."""

    device = THERE


@contextmanager
def accelerator() -> Iterator[None]:
    """Let tensors lie on an accelerator that is not there.

    Derivatives are left out: they would need it.
    """

    def without_stream(draw: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def drawn(*shape: Any, generator: Any, device: Any = "cpu", **more: Any) -> torch.Tensor:
            assert isinstance(generator, Stream), "drawn from another stream"
            assert torch.device(device).type == "cuda", (
                "a stream on the accelerator draws on the accelerator"
            )
            return draw(*shape, device=device, **more)

        return drawn

    with pytest.MonkeyPatch.context() as changed, FakeTensorMode(allow_non_fake_inputs=True):
        for name in DRAWING:
            changed.setattr(torch, name, without_stream(getattr(torch, name)))
        changed.setattr(
            torch.autograd, "grad", lambda output, inputs, **_: (torch.zeros_like(inputs),)
        )
        before = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        try:
            yield
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(before)


def on_accelerator(thing: Any) -> None:
    """Move the networks and the tensors of a task there, as if it had been built there."""
    thing.device = THERE
    for network in thing.networks.values():
        network.to(THERE)
    for name, value in vars(thing).items():
        if isinstance(value, torch.Tensor):
            setattr(thing, name, value.to(THERE))
    if getattr(thing, "adversarial", None):
        thing.adversarial.device = THERE


AUGMENTATIONS = [
    {"flip": {"mode": "alternate"}, "crop": 1, "erase": {}, "grey": {}},
    {"rotate": 10, "affine": {}, "resized_crop": {}, "translate": 1, "vertical_flip": 0.5},
    {"colour_jitter": {}, "cutout": 3},
    {"mixup": {}, "cutmix": {}},
]
OBJECTIVES = [
    {"loss": "bce", "diff_augment": ["colour", "translation", "cutout"], "ada": 0.6},
    {"loss": "hinge", "r1": 1.0, "penalty_every": 2},
    {"loss": "wgan-gp", "discriminator_steps": 2},
    {"loss": "relativistic", "r1": 1.0, "r2": 1.0},
]
CASES: list[dict[str, Any]] = [
    *({"augment": augment} for augment in AUGMENTATIONS),
    {"model": "cnn", "class_weights": "balanced", "one_hot": True, "label_smoothing": 0.1},
    {"model": "fast-cnn", "model_options": {"widths": [8, 8]}, "resolutions": [[0, 6], [0.5, 8]], "optimizer": "muon"},
    *(
        {"task": "generate", "model": "dcgan", "model_options": {"norm": "none", "conditional": True}, "task_options": task}
        for task in OBJECTIVES
    ),
    {"task": "generate", "model": "dcgan", "model_options": {"minibatch": "discrimination"}},
    {"task": "generate", "model": "mlp-gan", "model_options": {"conditional": True}},
    {"task": "generate", "model": "fast-gan", "model_options": {"width": 8}, "task_options": {"loss": "hinge"}},
    {"task": "generate", "model": "resnet-gan", "model_options": {"attention": True, "conditional": True}},
    {"task": "generate", "model": "flow-unet", "model_options": {"width": 16, "levels": 1}},
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:CUDA is not available")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_step_leaves_nothing_on_another_device(tiny, case):
    prepared = prepare(tiny(**case), Watcher())
    task, batch = prepared.task, prepared.splits.train.take(torch.arange(8))
    with accelerator():
        on_accelerator(task)
        there = Batch(batch.images.to(THERE), batch.targets.to(THERE), batch.index)
        for phase in task.phases:
            loss, _ = task.loss(
                phase, there, StepContext(0, 0, 0.0, cast(torch.Generator, Stream()))
            )
            assert loss.device == THERE, phase.name


def test_the_claimed_accelerator_refuses_what_a_real_one_refuses():
    with accelerator():
        there, here = torch.zeros(3, device=THERE), torch.zeros(3)
        with pytest.raises(RuntimeError, match="device"):
            torch.add(there, here)
        with pytest.raises(AssertionError, match="draws on the accelerator"):
            torch.rand(3, generator=cast(torch.Generator, Stream()))
