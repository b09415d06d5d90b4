"""What a batch in parts costs, and how many cards can share one before they mostly wait.

    python benchmarks/parts.py [--recipe digits] [--data-root DIR] [--only one four two paper]
                               [--seconds 4] [--blocks 20]

"one" sets the engine at parts = 1 beside itself without anything that parts have brought, and
"four" sets parts = 4 on one process beside parts = 1: steps of both alternate in one process, the
median ratio of neighbouring ones is that of a block, and 20 blocks give a 95 % interval. "two" sets two processes of one
thread beside one process of two threads; both wait while the other computes. "paper" computes from
the weights of a recipe and the multiply-adds of its step, as torch counts them, after how many
cards half of the time is exchange, if a card computes --tflops and receives --gigabytes a second.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tintype import api
from tintype.data.source import Batch
from tintype.hardware.arithmetic import computing, processor
from tintype.hardware.processes import joined
from tintype.progress import Watcher
from tintype.recipe import Recipe
from tintype.runs.folder import RunFolder
from tintype.seeds import fold, seed_generators
from tintype.statistics import mean_interval
from tintype.tasks.task import Phase, StepContext
from tintype.training.engine import Engine, Plan
from tintype.training.order import batches

PARTS = ("one", "four", "two", "paper")

# Recipes of the table with the shape of their images (channels, side, classes); None has its own.
RECIPES: dict[str, tuple[int, int, int] | None] = {
    "digits": None,
    "mnist": (1, 28, 10),
    "cifar10": (3, 32, 10),
    "cifar10-fast": (3, 32, 10),
    "cifar10-fcn-large": (3, 32, 10),
    "cifar100-small-filters": (3, 32, 100),
    "cifar100-resnet50": (3, 32, 100),
    "cifar100-vgg16": (3, 32, 100),
    "digits-gan": None,
    "cifar100-gan": (3, 32, 100),
    "mnist-flow": (1, 28, 10),
    "photos-x2": None,
    "photos-x4-gan": None,
}


class Without(Engine):
    """The engine as it was before a batch had parts."""

    def _gradients(self, phase: Phase, batch: Batch, plan: Plan) -> dict[str, Tensor]:
        generator = torch.Generator(batch.images.device).manual_seed(
            fold(self.recipe.seed, phase.name, self.step)
        )
        context = StepContext(
            self.step,
            self.step * plan.batch_size // plan.num_images,
            self.step / plan.total_steps,
            generator,
        )
        return self._backward(phase, batch, len(batch.targets), context)


class Steps:
    """An engine whose steps can be timed, block by block."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        prepared = api.plan(recipe, watcher=Watcher())
        self.train = prepared.splits.train
        self.engine = Engine(
            prepared.task, prepared.recipe, RunFolder(folder), Watcher(), device=prepared.device
        )
        self.plan = Plan.of(prepared.recipe, len(self.train))
        self.batches = self._endless()
        prepared.task.start(self.train)
        for network in prepared.task.networks.values():
            network.train()

    def _endless(self) -> Iterator[Batch]:
        order = self.engine._order(self.train, self.plan)
        yield from batches(self.train, order, 0, 10**9, self.engine.parts.own_images)

    def take(self, count: int) -> float:
        """Return the seconds of so many steps."""
        started = time.perf_counter()
        for _ in range(count):
            self.engine._train_step(next(self.batches), self.plan, 0.01)
            self.engine.step = (self.engine.step + 1) % self.plan.total_steps
        return time.perf_counter() - started


@dataclass
class Kind:
    """The steps of an engine, taken as another kind of engine would."""

    steps: Steps
    kind: type[Engine]

    def take(self, count: int) -> float:
        self.steps.engine.__class__ = self.kind
        return self.steps.take(count)


def ratio(logs: Sequence[float]) -> str:
    """Return the ratio whose logarithms were measured in blocks, with its 95 % interval."""
    low, high = mean_interval(np.array(logs)) or (math.nan, math.nan)
    middle, low, high = (math.exp(value) for value in (float(np.mean(logs)), low, high))
    return f"{middle:.4f} (95 % interval {low:.4f} to {high:.4f}, {len(logs)} blocks)"


def alternated(
    ours: Callable[[], float], theirs: Callable[[], float], num_pairs: int
) -> np.ndarray:
    """Return seconds (N, 2) of both in turns; who begins alternates too."""
    pairs = np.empty((num_pairs, 2))
    for number in range(num_pairs):
        if number % 2:
            pairs[number, 1] = theirs()
            pairs[number, 0] = ours()
        else:
            pairs[number] = ours(), theirs()
    return pairs


def one(recipe: Recipe, folder: Path, *, num_blocks: int, seconds: float) -> None:
    # One engine takes both kinds of steps: of two, one lies better in memory.
    steps = Steps(recipe.replace(parts=1), folder)
    both = [Kind(steps, kind) for kind in (Engine, Without)]
    print(f"parts = 1 / without parts: {in_one_process(both, num_blocks, seconds)}")


def four(recipe: Recipe, folder: Path, *, num_blocks: int, seconds: float) -> None:
    both = [Steps(recipe.replace(parts=count), folder) for count in (4, 1)]
    print(f"parts = 4 / parts = 1, one process: {in_one_process(both, num_blocks, seconds)}")


def in_one_process(both: Sequence[Steps | Kind], num_blocks: int, seconds: float) -> str:
    """Return the ratio of the seconds of two engines, step by step in turns.

    Of a block counts the median over its pairs of neighbouring steps, between which hardly anything
    else on the machine has changed.
    """
    ours, theirs = (partial(each.take, 1) for each in both)
    first = alternated(ours, theirs, 5)  # warms up
    num_pairs = max(3, round(seconds / float(first[1:].sum(1).mean())))
    blocks = []
    steps = []
    for _ in range(num_blocks):
        gc.collect()
        gc.disable()  # it would fall into steps of either kind
        pairs = alternated(ours, theirs, num_pairs)
        gc.enable()
        blocks.append(float(np.median(np.log(pairs[:, 0] / pairs[:, 1]))))
        steps.append(float(np.median(pairs[:, 1])))
    step = 1e3 * float(np.median(steps))
    return f"{ratio(blocks)} of {num_pairs} pairs; a step takes {step:.1f} ms"


# ---- processes -----------------------------------------------------------------------------------


def two(options: argparse.Namespace, *, num_pairs: int, seconds: float) -> None:
    alone = Workers(options, 1, threads=2)
    together = Workers(options, 2, threads=1)
    count = max(1, round(seconds / alone.take(5) * 5))
    pairs = alternated(lambda: together.take(count), lambda: alone.take(count), num_pairs + 1)[1:]
    logs = np.log(pairs[:, 0] / pairs[:, 1])
    print(f"two processes of one thread / one of two threads: {ratio(logs.tolist())}")
    alone.end()
    together.end()


class Workers:
    """Processes that train one recipe together, and wait when they are not asked for steps."""

    def __init__(self, options: argparse.Namespace, size: int, *, threads: int) -> None:
        with socket.socket() as found:
            found.bind(("localhost", 0))
            port = str(found.getsockname()[1])
        self.all = []
        for rank in range(size):
            place = {"RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "localhost"}
            place |= {"MASTER_PORT": port, "OMP_NUM_THREADS": threads}
            command = [sys.executable, __file__, "--worker", "--recipe", options.recipe]
            if options.data_root:
                command += ["--data-root", options.data_root]
            self.all.append(
                subprocess.Popen(
                    command,
                    env={**os.environ, **{name: str(value) for name, value in place.items()}},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    encoding="utf-8",
                )
            )

    def take(self, count: int) -> float:
        """Return the seconds of so many steps, those of the slowest process."""
        for worker in self.all:
            assert worker.stdin
            worker.stdin.write(f"{count}\n")
            worker.stdin.flush()
        return max(
            float(json.loads(worker.stdout.readline())) for worker in self.all if worker.stdout
        )

    def end(self) -> None:
        for worker in self.all:
            worker.communicate()


def work(recipe: Recipe) -> None:
    """Take as many steps as each line of the input says, and print their seconds."""
    with joined("benchmark") as group, tempfile.TemporaryDirectory() as folder:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        steps = Steps(recipe.replace(parts=group.size), Path(folder))
        seed_generators(0, steps.engine.device)
        for line in sys.stdin:
            print(json.dumps(steps.take(int(line))), flush=True)


# ---- on paper ------------------------------------------------------------------------------------


def paper(folder: Path, *, tflops: float, gigabytes: float) -> None:
    print(f"a card of {tflops:g} TFLOP/s that receives {gigabytes:g} GB/s:")
    print(
        "| recipe | batch | weights | 10^9 multiply-adds a step | MB a step and card | cards | all-reduce |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, shape in RECIPES.items():
        print(on_paper(name, shape, folder, tflops, gigabytes), flush=True)


def on_paper(
    name: str, shape: tuple[int, int, int] | None, folder: Path, tflops: float, gigabytes: float
) -> str:
    """Return a row: after how many cards half of the time is exchange.

    W cards compute a step of t seconds in t / W. By gathering, each receives the gradient of W - 1
    others, 4 P (W - 1) bytes for P weights; by all-reduce 8 P (W - 1) / W.
    """
    recipe = made(name, shape)
    batch_size = recipe.batch_size
    few = min(batch_size, 8)
    steps = Steps(
        recipe.replace(batch_size=few, accumulate=1, device="cpu", precision="fp32"), folder
    )
    weights = sum(w.numel() for each in steps.engine.trainable.values() for w in each)
    steps.engine.step = steps.plan.total_steps - 1  # where all phases have begun
    steps.engine.step -= steps.engine.step % math.lcm(*(p.every for p in steps.engine.task.phases))
    with FlopCounterMode(display=False) as counter:
        steps.engine._train_step(next(steps.batches), steps.plan, 0.01)

    operations = counter.get_total_flops() / few * batch_size
    seconds = operations / (tflops * 1e12)
    of_one = 4 * weights / (gigabytes * 1e9)  # seconds for one gradient
    cards = (1 + math.sqrt(1 + 4 * seconds / of_one)) / 2
    reduced = 1 + seconds / (2 * of_one)
    figures = [
        f"{batch_size}",
        f"{weights:,}",
        f"{operations / 2e9:.1f}",
        f"{4 * weights / 1e6:.1f} (W - 1)",
    ]
    return f"| `{name}` | {' | '.join(figures)} | {cards:.1f} | {reduced:.1f} |"


def made(name: str, shape: tuple[int, int, int] | None) -> Recipe:
    """Return a recipe on noise of the shape of its images."""
    changes: dict[str, Any] = {}
    if shape is not None:
        channels, side, num_classes = shape
        generator = np.random.default_rng(0)
        images = generator.integers(0, 255, (num_classes * 10, side, side, channels), np.uint8)
        changes["data"] = (images, np.arange(len(images)) % num_classes)
    if name.endswith(("resnet50", "vgg16")):  # what the weights are changes nothing here
        changes["weights"] = "none"
    return api.plan(name, watcher=Watcher(), val_fraction=0.1, **changes).recipe


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="digits")
    parser.add_argument("--data-root", help="folder with the data of the recipe")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seconds", type=float, default=4.0, help="of a block of steps")
    parser.add_argument("--blocks", type=int, default=20)
    parser.add_argument("--tflops", type=float, default=50.0)
    parser.add_argument("--gigabytes", type=float, default=25.0)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()

    place = {"data_root": options.data_root} if options.data_root else {}
    recipe = api.plan(options.recipe, watcher=Watcher(), device="cpu", **place).recipe
    if options.worker:
        work(recipe)
        return

    seconds = options.seconds
    print(f"{options.recipe} on {processor()}, batches of {recipe.batch_size}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with computing(1, "cpu", exact=True):
            if "one" in options.only:
                one(recipe, folder, num_blocks=options.blocks, seconds=seconds)
            if "four" in options.only:
                four(recipe, folder, num_blocks=options.blocks, seconds=seconds)
        if "two" in options.only:
            two(options, num_pairs=options.blocks, seconds=seconds / 2)
        if "paper" in options.only:
            paper(folder, tflops=options.tflops, gigabytes=options.gigabytes)


if __name__ == "__main__":
    main()
