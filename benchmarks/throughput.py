"""Training images per second: the engine, the bare step, and the usual DataLoader loop, in turn in one run.

    python benchmarks/throughput.py --data-root DIR            # CIFAR-10, see `tintype train
    --data-root` python benchmarks/throughput.py --data-root DIR --beside 1 # with another busy
    process beside it

All three train the 3-block CNN 64-128-256 at batch 256 with crop and flip (the bare step on one
fixed batch). (a) is the engine's own network, precision, memory format and optimizer without data;
(b) is the loop of the usual tutorial: torchvision transforms for each image in two DataLoader
workers, float32, default memory format.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from tintype.data import open_data
from tintype.data.source import DataSplits
from tintype.hardware.device import autocast, choose_precision, hold_memory
from tintype.models import build_model
from tintype.optim import build_optimizers
from tintype.progress import Watcher
from tintype.recipe import Recipe
from tintype.runs.folder import RunFolder
from tintype.tasks.classify.task import Classify
from tintype.training.engine import Engine

BATCH = 256
WIDTHS = {"widths": [64, 128, 256], "hidden": [], "dropout": 0}
CPU = torch.device("cpu")


class Clock(Watcher):
    """Notes when each step ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step(self, step: int, total_steps: int, loss: float, images_per_second: float) -> None:
        self.times.append(time.perf_counter())

    def speed(self) -> float:
        """Return images per second after the first steps, which warm up."""
        times = self.times[3:]
        return BATCH * (len(times) - 1) / (times[-1] - times[0])


def network(splits: DataSplits) -> nn.Module:
    return build_model("cnn", splits.spec, WIDTHS, seed=0)


def engine(splits: DataSplits, steps: int) -> float:
    """Return images per second of the engine with crop and flip."""
    dtype, _ = choose_precision("auto", CPU)
    recipe = Recipe(
        model="cnn",
        steps=steps,
        batch_size=BATCH,
        optimizer="adamw",
        lr=1e-3,
        evaluate_every=1000,
        augment="standard",
    )
    net = network(splits).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    task = Classify(net, splits.spec, CPU, augment={"flip": True, "crop": 4}, dtype=dtype)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        Engine(task, recipe, RunFolder(folder), clock, device=CPU).fit(splits.train, splits.val)
    return clock.speed()


def bare_step(splits: DataSplits, steps: int) -> float:
    """Return images per second of forward, backward and optimizer step on one fixed batch."""
    dtype, _ = choose_precision("auto", CPU)
    net = network(splits).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    # Nothing is to be learned: a batch that is known by heart, here after four steps, has gradients
    # so small (denormal) that processors compute with them up to forty times slower.
    (optimizer,) = build_optimizers(net, "adamw", lr=1e-9)
    images = torch.rand(BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    targets = splits.train.targets[:BATCH]
    clock = Clock()
    for step in range(steps):
        optimizer.zero_grad(set_to_none=True)
        with autocast(CPU, dtype):
            logits = net(images)
        F.cross_entropy(logits.float(), targets).backward()
        optimizer.step()
        clock.on_step(step, steps, 0.0, 0.0)
    return clock.speed()


def usual_loop(splits: DataSplits, steps: int) -> float:
    """Return images per second of a DataLoader with two workers and torchvision transforms, in
    float32.
    """
    from torchvision import transforms

    spec = splits.spec
    transform = transforms.Compose(
        [
            transforms.ToPILImage(),
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(spec.mean, spec.std),
        ]
    )
    whole = splits.train.take(torch.arange(len(splits.train)))
    pixels, targets = whole.images.permute(0, 2, 3, 1).numpy(), whole.targets

    class Images(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(targets)

        def __getitem__(self, i: int) -> Any:
            return transform(pixels[i]), targets[i]

    net = network(splits)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    loader = torch.utils.data.DataLoader(
        Images(), BATCH, shuffle=True, num_workers=2, drop_last=True
    )
    clock = Clock()
    for step, (images, labels) in enumerate(loader):
        if step == steps:
            break
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()
        clock.on_step(step, steps, 0.0, 0.0)
    return clock.speed()


def _spin() -> None:
    while True:
        pass


def main() -> None:
    """Measure in turn and print medians and ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", type=Path, help="folder that holds CIFAR-10")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30, help="steps of a round")
    parser.add_argument("--beside", type=int, default=0, help="busy processes beside it")
    options = parser.parse_args()
    splits = open_data("cifar10", data_root=options.data_root and str(options.data_root))
    print(
        f"{torch.get_num_threads()} threads, {choose_precision('auto', CPU)[1]}, {options.beside} busy processes beside"
    )
    # The usual loop runs as users run it: before glibc is told to hold its memory, in every round
    # of its own process.
    fork = multiprocessing.get_context("fork")
    busy = [fork.Process(target=_spin, daemon=True) for _ in range(options.beside)]
    for process in busy:
        process.start()
    speeds: dict[str, list[float]] = {"engine": [], "bare step": [], "usual loop": []}
    usual = [usual_loop(splits, options.steps) for _ in range(options.rounds)]
    speeds["usual loop"] = usual
    hold_memory()
    for _ in range(options.rounds):
        speeds["engine"].append(engine(splits, options.steps))
        speeds["bare step"].append(bare_step(splits, options.steps))
    for process in busy:
        process.kill()
    for name, values in speeds.items():
        print(
            f"{name:11} {statistics.median(values):8,.0f} images/s  (rounds: {', '.join(f'{v:,.0f}' for v in values)})"
        )
    ratio = [e / b for e, b in zip(speeds["engine"], speeds["bare step"], strict=True)]
    print(f"engine / bare step   {statistics.median(ratio):.3f}")
    print(
        f"engine / usual loop  {statistics.median(speeds['engine']) / statistics.median(usual):.2f}"
    )


if __name__ == "__main__":
    main()
