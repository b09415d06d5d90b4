"""Measure a machine in some twenty seconds, and say how long usual trainings will take on it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tintype.data.cache import cache_folder
from tintype.data.decode import decode
from tintype.data.memory import given
from tintype.data.source import DataSpec
from tintype.data.targets import Classes
from tintype.errors import UserError
from tintype.hardware.arithmetic import computing
from tintype.hardware.cores import Load, num_cores
from tintype.hardware.device import choose_device, choose_precision
from tintype.progress import Watcher
from tintype.recipe import Recipe, resolve
from tintype.runs.folder import RunFolder
from tintype.training.backbone import INSTALLED
from tintype.training.engine import Engine, Plan
from tintype.training.measure import CLEAN_TRAINING_IMAGES
from tintype.training.run import plan
from tintype.training.speed import inference_speed

LOOK_SECONDS = 0.4  # how long each figure of the hardware is measured
PHOTO = (1024, 768)  # width and height of the photos that are decoded

# Images of CIFAR-10 as the recipe splits them, with the sample of training images measured at the
# end.
CIFAR10 = {"train": 48_000, "val": 2_000, "test": 10_000}


@dataclass(frozen=True)
class Prediction:
    """How long a command will take.

    Attributes:
        command: what is typed.
        seconds: of the whole command, the sum of its parts.
        parts: seconds by what they are spent on.
    """

    command: str
    seconds: float
    parts: dict[str, float]

    @classmethod
    def of(cls, command: str, **parts: float) -> Prediction:
        return cls(command, sum(parts.values()), parts)


@dataclass
class Speed:
    """What a machine does in a second, and what follows for usual trainings.

    Attributes:
        measured: figures by name, which ends with the unit.
        predictions: of usual commands.
        busy_cores: what other processes computed meanwhile, which makes all else look slower.
        seconds: how long it took to measure.
    """

    measured: dict[str, float] = field(default_factory=dict)
    predictions: list[Prediction] = field(default_factory=list)
    busy_cores: float = 0.0
    seconds: float = 0.0

    def lines(self) -> list[str]:
        """Return what is printed."""
        shown = [f"{name:32} {value:10,.1f}" for name, value in self.measured.items()]
        if self.busy_cores >= 0.5:
            shown.append(f"other processes kept {self.busy_cores:.1f} cores busy meanwhile")
        for prediction in self.predictions:
            parts = ", ".join(f"{name} {value:.0f} s" for name, value in prediction.parts.items())
            shown.append(f"{prediction.command:32} {prediction.seconds:8,.0f} s ({parts})")
        return shown

    def to_dict(self) -> dict[str, Any]:
        predictions = [vars(prediction) for prediction in self.predictions]
        return {**vars(self), "predictions": predictions}


def measure_speed(watcher: Watcher | None = None) -> Speed:
    """Measure cores, memory, disk, decoding and the steps of usual networks.

    Args:
        watcher: is shown the progress.

    Raises:
        UserError: a short training, which the figures rest on, fails here.
    """
    watcher = watcher or Watcher()
    began = time.perf_counter()
    found = Speed(busy_cores=round(Load().others(), 2))

    watcher.on_work("measuring cores, memory and disk", 0, 3)
    _hardware(found.measured)
    _photos(found.measured)
    watcher.on_work("measuring the training steps", 1, 3)
    with tempfile.TemporaryDirectory(prefix="tintype-speed-") as folder:
        digits = _steps("digits", Path(folder))
        cifar10 = _steps("cifar10", Path(folder))
        watcher.on_work("measuring a short training", 2, 3)
        around = _around("digits", "--steps", "1", folder=Path(folder), name="one-step")
    watcher.close()

    found.measured["digits, step, ms"] = digits.step * 1e3
    found.measured["cifar10, step, ms"] = cifar10.step * 1e3
    found.predictions = [
        digits.prediction("tintype train digits", around),
        cifar10.prediction("tintype train cifar10", around),
    ]
    found.seconds = time.perf_counter() - began
    return found


# ---- hardware ------------------------------------------------------------------------------------


def _hardware(measured: dict[str, float]) -> None:
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        measured[f"product of matrices, {name}, GFLOP/s"] = matrix_speed(dtype) / 1e9
    block = torch.zeros(2**25)  # 128 MB, more than caches hold
    other = torch.empty_like(block)
    seconds = fastest(lambda: other.copy_(block))
    measured["memory, copied, GB/s"] = 2 * block.nbytes / seconds / 1e9
    measured["disk, written, MB/s"] = _disk_speed() / 1e6


def matrix_speed(dtype: torch.dtype, side: int = 1024) -> float:
    """Return how many floating-point operations a second a product of square matrices reaches; a
    multiply-add counts as two.
    """
    one, other = torch.randn(2, side, side, dtype=dtype)
    return 2 * side**3 / fastest(lambda: one @ other)


def fastest(call: Callable[[], Any]) -> float:
    """Return the shortest time of a call, as many as fit into LOOK_SECONDS and at least three."""
    spent: list[float] = []
    while len(spent) < 3 or sum(spent) < LOOK_SECONDS:
        started = time.perf_counter()
        call()
        spent.append(time.perf_counter() - started)
    return min(spent)


def _disk_speed() -> float:
    """Return how many bytes a second reach the disk of the cache, or of temporary files."""
    folder = cache_folder()
    content = os.urandom(2**25)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            return _written(file, content)
    except OSError:
        with tempfile.TemporaryFile() as file:
            return _written(file, content)


def _written(file: Any, content: bytes) -> float:
    started = time.perf_counter()
    file.write(content)
    file.flush()
    os.fsync(file.fileno())
    return len(content) / (time.perf_counter() - started)


# ---- photos --------------------------------------------------------------------------------------


def _made_photo(number: int) -> bytes:
    """Return a JPEG of a made scene with grain, about as large as a photo of its size."""
    width, height = PHOTO
    generator = np.random.default_rng(number)
    scene = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(scene.resize(PHOTO, Image.Resampling.BICUBIC), np.float32)
    grain = generator.normal(0, 4, (height, width, 1))
    photo = Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8))
    held = io.BytesIO()
    photo.save(held, "JPEG", quality=90)
    return held.getvalue()


def _photos(measured: dict[str, float]) -> None:
    photo = _made_photo(0)
    spec = _spec(224)
    recipe = Recipe(model=INSTALLED, resize="crop")

    def read(_: int) -> Any:
        return decode(photo, height=224, width=224, channels=3)

    cores = num_cores()
    with ThreadPoolExecutor(cores) as pool:
        seconds = fastest(lambda: list(pool.map(read, range(8 * cores))))
    measured["photos, decoded, per second"] = 8 * cores / seconds

    device, dtype = _machine()
    speed = inference_speed(recipe, spec, device, dtype)
    measured[f"photos, {INSTALLED}, per second"] = speed


def _spec(side: int) -> DataSpec:
    """Return what a network is made for: coloured images of two classes."""
    three = (0.5, 0.5, 0.5)
    return DataSpec("made", 3, side, side, Classes(("a", "b")), three, three, "")


def _machine() -> tuple[torch.device, torch.dtype]:
    device, _ = choose_device("auto")
    dtype, _ = choose_precision("auto", device)
    return device, dtype


# ---- trainings -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Steps:
    """What the steps of a recipe cost.

    Attributes:
        step: seconds of one, averaged over the run.
        evaluation: seconds that validation takes for each of its images.
        plan: how many there are.
        num_val: images of each evaluation.
        num_final: images that are measured at the end.
    """

    step: float
    evaluation: float
    plan: Plan
    num_val: int
    num_final: int

    def prediction(self, command: str, around: float) -> Prediction:
        """Return how long a command takes, of which `around` seconds are none of its steps."""
        evaluations = self.plan.num_evaluations * self.num_val * self.evaluation
        return Prediction.of(
            command,
            around=around,
            training=self.plan.total_steps * self.step + evaluations,
            measuring=self.num_final * self.evaluation,
        )


def _steps(name: str, folder: Path) -> Steps:
    """Time some steps of a recipe; for CIFAR-10 on made images, so no files are needed."""
    what, fields, sizes = name, {}, None
    if name == "cifar10":
        what, fields = _made_cifar10()
        sizes = CIFAR10

    prepared = plan(what, Watcher(), **fields)
    splits, recipe = prepared.splits, prepared.recipe
    sizes = sizes or {split: len(splits[split]) for split in ("train", "val", "test")}
    run = RunFolder.create(folder, name, exact=True, recipe=recipe)
    with computing(int(recipe.threads), recipe.device, exact=recipe.exact):
        engine = Engine(
            prepared.task, recipe, run, Watcher(), device=prepared.device, compile=prepared.compile
        )
        step, evaluation = engine.timing(splits.train, splits.val, most_seconds=1.0)

    final = {**sizes, "train": min(sizes["train"], CLEAN_TRAINING_IMAGES)}
    return Steps(
        step,
        evaluation / max(1, len(splits.val)),
        Plan.of(recipe, sizes["train"]),
        sizes["val"],
        sum(final.values()),
    )


def _made_cifar10() -> tuple[Any, dict[str, Any]]:
    recipe, _ = resolve("cifar10")
    stated = {name: value for name, value in recipe.stated().items() if name != "data"}
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (1_500, 32, 32, 3), dtype=np.uint8)
    labels = [f"class{number % 10}" for number in range(len(images))]
    return given((images, labels), {**stated, "val_fraction": 0.1, "test_fraction": 0.1})


def _around(*what: str, folder: Path, name: str) -> float:
    """Return the seconds of a whole training in a process of its own, without its steps.

    Raises:
        UserError: it fails.
    """
    command = [sys.executable, "-m", "tintype", "train", *what, "--out", str(folder)]
    environment = {**os.environ, "TINTYPE_CACHE": str(folder / "cache")}
    started = time.perf_counter()
    done = subprocess.run(
        [*command, "--name", name], capture_output=True, encoding="utf-8", env=environment
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        why = done.stderr.strip().splitlines()[-1:] or ["no reason was given"]
        raise UserError(
            f"a short training fails here, so the speed cannot be measured: {why[0]}. "
            "`tintype doctor` says what is broken."
        )
    return seconds - RunFolder(folder / name).read("environment.json")["training_seconds"]
