"""Whole runs of every task on a GPU that is only pretended (tests/pretended.py), and single steps on
one that is only claimed: tensors without data, whose operations refuse to mix devices.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import pytest
import torch
from pretended import lie_on, pretended
from safetensors.torch import save_file
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.models import resnet18

from tintype import api, cli
from tintype.data.source import Batch
from tintype.errors import Interrupted, UserError
from tintype.hardware.device import choose_device, doubled
from tintype.progress import Watcher
from tintype.tasks.task import StepContext
from tintype.training import engine, run
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


# ---- whole runs on a pretended GPU ---------------------------------------------------------------

GAN = {
    "task": "generate", "model": "dcgan", "model_options": {"width": 8, "latent": 8, "conditional": True},
    "steps": 6, "batch_size": 32, "optimizer": "adam", "lr": 0.001, "evaluate_every": 1, "ema": 0.9,
    "task_options": {"ada": 0.6, "diff_augment": ["colour", "translation", "cutout"]},
}  # fmt: skip
SHARP = {
    "task": "upscale", "data": "photos", "model": "fast-sr", "model_options": {"width": 8}, "steps": 2,
    "batch_size": 4, "evaluate_every": 1,
}  # fmt: skip
LOSSES = {"l1": 1.0, "perceptual": 0.1, "adversarial": 0.01}
PHOTO = {
    "colour": "rgb",
    "degrade": "photo",
    "loss": LOSSES,
    "feature_network": "efficientnet_lite0",
}
FAST = {
    "model": "fast-cnn", "model_options": {"widths": [8, 8]}, "resolutions": [[0, 6], [0.5, 8]],
    "optimizer": "muon", "augment": {"flip": {"mode": "alternate"}, "crop": 1, "erase": {}, "mixup": {}},
    "sampling": "balanced", "clip": 1.0, "accumulate": 2, "clean_sample": 100, "ema": 0.9,
    "keep": "best", "tta": "flip-shift", "epochs": 1, "batch_size": 200,
}  # fmt: skip
TUNED = {"augment": "photos", "tune": "all", "interpolate": True, "epochs": 1}
HEAD = {"tune": "head", "solver": "exact", "epochs": None}
NUMBER = {"task": "regress", "model": "fast-cnn", "model_options": {"widths": [8]}, "epochs": 1}

# What is trained, whether it starts from a backbone, and whether it runs in the short suite too.
RUNS: dict[str, tuple[dict[str, Any], bool, bool]] = {
    "classify": (FAST, False, True),
    "fine-tuned": (TUNED, True, True),
    "head by steps": ({"tune": "head", "views": 2, "augment": "photos"}, True, False),
    "exact head": (HEAD, True, True),
    "folds": ({**HEAD, "folds": 3}, True, False),
    "regress": (NUMBER, False, True),
    "regress, exact": ({**HEAD, "task": "regress"}, True, False),
    "generate": (GAN, False, True),
    "flow": ({**GAN, "model": "flow-unet", "model_options": {"width": 16, "levels": 1}, "task_options": {}}, False, False),
    "upscale": ({**SHARP, "task_options": PHOTO}, False, True),
}  # fmt: skip
IN_SHORT = {(name, "cuda") for name, (_, _, short) in RUNS.items() if short} | {("regress", "mps")}
CASES_OF_RUNS = [
    pytest.param(name, kind, marks=[] if (name, kind) in IN_SHORT else [pytest.mark.exhaustive])
    for name in RUNS
    for kind in ("cuda", "mps")
]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory, digit_files):
    """Fields of a run on a few photos by a backbone of random weights."""
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    torch.manual_seed(0)
    save_file(resnet18().state_dict(), path)
    return {
        "data": str(digit_files), "model": "resnet18", "model_options": {}, "weights": str(path),
        "image_size": 32, "val_fraction": 0.2, "batch_size": 64,
    }  # fmt: skip


def use(run: api.Run, kind: str) -> None:
    """Let the model of a run do all that its task can do."""
    picture = (np.arange(24 * 20 * 3).reshape(24, 20, 3) % 256).astype(np.uint8)
    run.evaluate(device=kind)
    if run.recipe.task == "generate":
        assert len(run.generate(4, device=kind)) == 4
        run.generate(4, interpolate=True, device=kind)
    elif run.recipe.task == "upscale":
        run.upscale(picture, tile=16, device=kind)
    else:
        assert len(run.predict([picture, picture], device=kind)) == 2
        assert len(run.embed([picture], device=kind)) == 1


@pytest.mark.usefixtures("short_reports")
@pytest.mark.parametrize(("name", "kind"), CASES_OF_RUNS)
def test_a_whole_run_mixes_no_devices(tiny, backbone, tmp_path, name, kind):
    fields, on_backbone, _ = RUNS[name]
    recipe = tiny(**{**(backbone if on_backbone else {}), **fields})
    with pretended(kind):
        run = api.train(recipe, out=tmp_path, device=kind, watcher=Watcher())
        use(run, kind)
    assert run.read("environment.json")["device"].startswith(kind)


def test_the_bits_are_those_of_the_cpu_where_the_arithmetic_is(tiny, train_in, tmp_path):
    here = train_in(tmp_path / "here", tiny(**FAST))
    with pretended():
        there = train_in(tmp_path / "there", tiny(**FAST, device="cuda"))
    for file in ("model.safetensors", "metrics.csv"):
        assert (here.path / file).read_bytes() == (there.path / file).read_bytes()


class Stops(Watcher):
    """Stops half-way as Ctrl-C does, and keeps what is said."""

    def __init__(self, *, stops: bool) -> None:
        self.stops = stops
        self.notes: list[str] = []

    def on_step(self, step: int, total_steps: int, loss: float, images_per_second: float) -> None:
        if self.stops and 2 * step >= total_steps:
            signal.raise_signal(signal.SIGTERM)

    def note(self, line: str) -> None:
        self.notes.append(line)


@pytest.mark.parametrize(("first", "then"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_run_goes_on_on_another_device_and_says_so(
    tiny, train_in, tmp_path, monkeypatch, first, then
):
    monkeypatch.setitem(engine.READ_SECONDS, "cuda", 0.0)  # so that it can be stopped half-way
    whole = train_in(tmp_path / "whole", tiny(**FAST))
    watcher = Stops(stops=False)
    with pretended():
        with pytest.raises(Interrupted):
            train_in(tmp_path / "moved", tiny(**FAST, device=first), Stops(stops=True))
        recipe = tmp_path / "moved" / "recipe.yaml"
        text = recipe.read_text(encoding="utf-8")
        recipe.write_text(text.replace(f"device: {first}", f"device: {then}"), encoding="utf-8")
        moved = train_in(tmp_path / "moved", tiny(), watcher)

    assert any(f"the device is {then} and was {first}" in line for line in watcher.notes)
    file = "model.safetensors"  # the pretended GPU computes as the CPU does
    assert (moved.path / file).read_bytes() == (whole.path / file).read_bytes()


@pytest.mark.parametrize("name", ["classify", "head by steps"])
def test_no_step_waits_for_the_device(tiny, backbone, name):
    fields, on_backbone, _ = RUNS[name]
    changes = {**(backbone if on_backbone else {}), **fields, "clip": None, "device": "cuda"}
    with pretended() as gpu:
        prepared = prepare(tiny(**changes), Watcher())
        splits, _ = run.on_device(prepared.splits, prepared.device)
        task = prepared.task
        train = task.sources(splits).train
        task.start(train)
        batch = train.take(torch.arange(8))
        generator = torch.Generator("cuda")
        gpu.waits.clear()
        for phase in task.phases:
            loss, figures = task.loss(phase, batch, StepContext(0, 0, 0.0, generator))
            loss.backward()
    assert lie_on([loss, *figures.values()]) == {"cuda"}
    assert not gpu.waits


def test_pixels_that_would_fill_the_gpu_stay_in_memory(tiny, train_in, tmp_path):
    with pretended(free=2**17):
        made = train_in(tmp_path / "run", tiny(**{**FAST, "device": "cuda"}))
    choice = next(c for c in made.read("environment.json")["choices"] if c["name"] == "pixels")
    assert choice["choice"] == "in the computer's memory"


def test_a_run_that_does_not_fit_says_what_would(tiny, train_in, tmp_path, monkeypatch):
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(engine.Engine, "_train_step", full)
    with pytest.raises(UserError, match=r"batch_size=50; accumulate=2 \(the same") as error:
        train_in(tmp_path / "run", tiny())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore."),
        ImportError("libtorch_cuda.so: failed to map segment from shared object"),
    ],
)
def test_full_memory_is_one_line(monkeypatch, capsys, error):
    def full(**_: Any) -> None:
        raise error

    monkeypatch.setattr(cli, "app", full)
    with pytest.raises(SystemExit) as end:
        cli.main(["predict"])
    assert end.value.code == 2
    assert "--device cpu" in capsys.readouterr().err


def test_several_gpus_are_named():
    with pretended(count=4):
        _, choice = choose_device("auto")
        assert choose_device("cuda:3")[0].index == 3
    assert "the first of 4 GPUs" in choice.reason
    assert "the others stay idle unless --processes 4 shares the run" in choice.reason
    with pretended():
        assert choose_device("auto")[1].reason == "a pretended GPU"


def test_one_line_says_that_gpus_stay_idle(tiny):
    for count, there in ((1, 0), (4, 1)):
        with pretended(count=count):
            lines = prepare(tiny(device="auto"), Watcher()).lines()
        assert sum("stay idle" in line for line in lines) == there


def test_the_pretended_gpu_refuses_what_a_real_one_refuses():
    with pretended():
        there = torch.zeros(3, device="cuda")
        assert there.device == THERE
        for mixed in (
            lambda: there + torch.zeros(3),
            lambda: torch.cat([there, torch.zeros(3)]),
            lambda: torch.zeros(3)[there.long()],
            lambda: torch.rand(3, generator=torch.Generator("cpu"), device="cuda"),
        ):
            with pytest.raises(RuntimeError, match="device"):
                mixed()
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        assert (there + torch.tensor(1.0)).sum() == 3  # a number may come from the CPU
    with pretended("mps"):
        there = torch.ones(3, device="mps")
        with pytest.raises(TypeError, match="float64"):
            there.double()
        assert doubled(there).dtype == torch.float64
