"""Accuracy by seconds of training on CIFAR and MNIST; CIFAR-10 beside airbench94, moved to the CPU.

    python benchmarks/cifar10.py --data-root DATA --airbench FOLDER --out OUT
    python benchmarks/cifar10.py --data-root DATA --airbench FOLDER --out OUT --seconds-per-epoch
    python benchmarks/cifar10.py --data-root DATA --out OUT --set cifar100
    python benchmarks/cifar10.py --out OUT --table-only

FOLDER holds airbench94.py and airbench94_muon.py of KellerJordan/cifar10-airbench (at commit
f1c599c, where the former is in legacy/). They run as they are but for the device: what asks for
CUDA, half precision or a compiler is replaced before they are loaded. Both sides compute in bfloat16
under autocast where the processor has units for it, else in float32; weights are float32, which is
more exact than the half precision that they were written for, and freed memory is held for all.

All train on the same images, all of them: a recipe of tintype is refitted without validation, and its
settings, length included, are fixed beforehand. Each model looks at the test images once, at the end,
with the views that it averages. Seconds are those of training alone. Seeds are interleaved. A cell is
one contender with one seed: a file in OUT once it has finished, which is never computed again. A
killed cell of tintype goes on where it stopped, and those of airbench start over.

`--seconds-per-epoch` measures some steps of each in place of training, in two minutes or less.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import tintype
from tintype.data import open_data
from tintype.files.whole import written_whole
from tintype.hardware.arithmetic import processor
from tintype.hardware.device import bf16_units, choose_precision, hold_memory
from tintype.progress import Watcher
from tintype.recipe import Recipe, as_new_run, resolve
from tintype.statistics import mean_interval, wilson_interval
from tintype.tasks.task import StepContext
from tintype.training.prepare import prepare

CPU = torch.device("cpu")
PEERS = ("airbench94", "airbench94_muon")


class Contender(NamedTuple):
    """A recipe of tintype, and the fields that are changed."""

    recipe: str
    changes: Mapping[str, Any]


# A fast CNN that sees small images first, pools early and ends wide, as in the study cifar10-speed.
SMALL_FIRST = {
    "model_options": {"widths": [64, 256, 512], "pool_first": True, "stem_bias": False},
    "resolutions": [(0.0, 24), (0.5, 28), (0.75, 32)],
}

# The lengths of each set make a front of accuracy by minutes.
CONTENDERS: dict[str, dict[str, Contender]] = {
    "cifar10": {"cifar10-fast": Contender("cifar10-fast", {})},
    "cifar100": {
        f"cifar100, {epochs} epochs": Contender("cifar100", {"epochs": epochs})
        for epochs in (3, 6, 9, 12)
    }
    | {
        f"cifar100, small first, {epochs} epochs": Contender(
            "cifar100", {**SMALL_FIRST, "epochs": epochs}
        )
        for epochs in (5, 8, 12)
    },
    "mnist": {
        f"mnist, {epochs} epochs": Contender("mnist", {"epochs": epochs}) for epochs in (2, 4, 8)
    },
    "fashion-mnist": {
        f"fashion-mnist, {epochs} epochs": Contender("fashion-mnist", {"epochs": epochs})
        for epochs in (3, 6, 10)
    },
}


class Options(NamedTuple):
    """What the command line says."""

    data_set: str
    data_root: str | None
    airbench: Path | None
    out: Path
    steps: int


# ---- one cell --------------------------------------------------------------------------------


def ours(contender: Contender, seed: int, options: Options, name: str) -> dict[str, Any]:
    """Train on all training images, and look at the test images once."""
    folder = options.out / "runs" / f"{_file_name(name)}-{seed}"
    status = folder / "status.json"
    if status.exists() and json.loads(status.read_text(encoding="utf-8"))["state"] == "finished":
        run = tintype.load(folder)
    elif folder.exists():
        run = tintype.train(resume=folder, watcher=Watcher())
    else:
        recipe = _refit(contender, options).replace(seed=seed)
        run = tintype.train(recipe, out=folder.parent, name=folder.name, watcher=Watcher())

    recipe = run.recipe
    epochs = recipe.epochs or 0
    return {
        "accuracy": run.evaluate(split="test")["accuracy"],
        "seconds": run.read("environment.json")["training_seconds"],
        "multiply_adds": multiply_adds_of(recipe) * epochs * _num_images(options),
        "epochs": epochs,
        "recipe": recipe.model_dump(mode="json"),
    }


def _refit(contender: Contender, options: Options) -> Recipe:
    recipe, _ = resolve(contender.recipe)
    changes = {"data_root": options.data_root, "val_fraction": 0, "measure": "none"}
    return as_new_run(recipe).replace(**changes, **contender.changes)


def multiply_adds_of(recipe: Recipe, batch: int = 20) -> float:
    """Return the multiply-adds of an image in a step, forward and backward, averaged over the run.

    Those of the optimizer are left out.
    """
    prepared = prepare(recipe, Watcher())
    task = prepared.task
    train = prepared.splits.train
    task.start(train)
    images = train.take(torch.arange(batch))
    for network in task.networks.values():
        network.train()

    num_parts = 40
    total = 0
    for part in range(num_parts):
        generator = torch.Generator().manual_seed(0)
        context = StepContext(0, 0, (part + 0.5) / num_parts, generator)
        with FlopCounterMode(display=False) as counter:
            loss, _ = task.loss(task.phases[0], images, context)
            loss.backward()
        total += counter.get_total_flops()
    return total / 2 / num_parts / batch


def _num_images(options: Options) -> int:
    return 60_000 if "mnist" in options.data_set else 50_000


# ---- airbench on a CPU -----------------------------------------------------------------------


class Stop(Exception):
    """Enough steps were measured."""


class Clock:
    """In the place of torch.cuda.Event: pairs of marks, as those scripts set them.

    Attributes:
        spans: the seconds between the two marks of each pair.
        open: when the newest pair was begun.
    """

    spans: ClassVar[list[float]] = []
    open: ClassVar[float] = 0.0

    def __init__(self, **_: Any) -> None:
        self.at = 0.0

    def record(self) -> None:
        self.at = Clock.open = time.perf_counter()

    def elapsed_time(self, other: Clock) -> float:
        """Return the milliseconds until the other mark."""
        Clock.spans.append(other.at - self.at)
        return 1000 * (other.at - self.at)


def move_to_cpu() -> None:
    """Replace what asks for CUDA, half precision or a compiler by what a CPU has."""

    def same(self: Any, *_: Any, **__: Any) -> Any:
        return self

    def load(path: Any, **_: Any) -> Any:
        return stored(path, weights_only=True)

    stored = torch.load
    replaced: list[tuple[Any, str, Any]] = [
        (torch, "load", load),
        (torch, "compile", lambda function=None, **_: function or (lambda inner: inner)),
        (torch.Tensor, "cuda", same),
        (torch.Tensor, "half", torch.Tensor.float),
        (nn.Module, "cuda", same),
        (nn.Module, "half", nn.Module.float),
        (nn.Module, "compile", same),
        (torch.cuda, "Event", Clock),
        (torch.cuda, "synchronize", lambda *_: None),
    ]
    if not bf16_units():  # it would be emulated
        replaced.append((torch.Tensor, "bfloat16", torch.Tensor.float))
    for owner, name, value in replaced:
        setattr(owner, name, value)


class Airbench:
    """One of the scripts, loaded on a CPU, with its data as it reads them."""

    def __init__(self, name: str, options: Options) -> None:
        assert options.airbench is not None
        self.lay_out_data(options)
        move_to_cpu()
        place = importlib.util.spec_from_file_location(name, options.airbench / f"{name}.py")
        assert place is not None
        assert place.loader is not None
        self.module: Any = importlib.util.module_from_spec(place)
        place.loader.exec_module(self.module)
        self.dtype, self.precision = choose_precision("auto", CPU)
        self.times: list[float] = []  # when each step of training began
        self.most_steps = 0  # after which training is broken off; 0: never

        # It looks at the test images after each epoch, and chooses nothing by it: only the last
        # look, with all views, is kept.
        measure = self.module.evaluate
        self.module.evaluate = lambda model, loader, tta_level=0: (
            measure(model, loader, tta_level) if tta_level else float("nan")
        )
        if name == "airbench94":
            make = self.module.make_net
            self.module.make_net = lambda: self.watched(make())

    def lay_out_data(self, options: Options) -> None:
        """Write train.pt and test.pt, in an order of their own, as the whitening needs it.

        It is computed from the first 5,000 images, which come class by class from folders.
        """
        folder = options.out / "airbench" / "cifar10"
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(folder.parent)
        if (folder / "test.pt").exists():
            return
        splits = open_data("cifar10", data_root=options.data_root, val_fraction=0)
        for part in ("train", "test"):
            source = splits[part]
            order = torch.randperm(len(source), generator=torch.Generator().manual_seed(0))
            batch = source.take(order)
            stored = {
                "images": batch.images.permute(0, 2, 3, 1).contiguous(),
                "labels": batch.targets,
                "classes": list(splits.spec.class_names),
            }
            torch.save(stored, folder / f"{part}.pt")

    def network(self) -> nn.Module | None:
        """Return the network that `main` takes, where it takes one."""
        if not hasattr(self.module, "CifarNet"):
            return None
        return self.watched(self.module.CifarNet().to(memory_format=torch.channels_last))

    def watched(self, network: nn.Module) -> nn.Module:
        """Have a network compute under autocast, and note when each step began."""
        compute = network.forward

        def forward(*inputs: Any, **named: Any) -> Tensor:
            if network.training and torch.is_grad_enabled():
                self.times.append(time.perf_counter())
                if 0 < self.most_steps < len(self.times):
                    raise Stop
            with torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32):
                return compute(*inputs, **named).float()

        network.forward = forward
        return network

    def train(self) -> float:
        """Train and return the accuracy on the test images."""
        network = self.network()
        main = self.module.main
        return float(main(0) if network is None else main(0, network))

    def length(self) -> tuple[float, int, int]:
        """Return its epochs, the steps of one, and the images of a step; the rest is left out."""
        if hasattr(self.module, "hyp"):
            opt = self.module.hyp["opt"]
            return opt["train_epochs"], 50_000 // opt["batch_size"], opt["batch_size"]
        return 8, 25, 2000

    def multiply_adds(self, batch: int = 20) -> float:
        """Return the multiply-adds of an image in a step, forward and backward."""
        network = self.network() or self.module.make_net()
        images = torch.randn(batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
        with FlopCounterMode(display=False) as counter:
            F.cross_entropy(network(images), torch.zeros(batch, dtype=torch.long)).backward()
        return counter.get_total_flops() / 2 / batch


def peer(name: str, seed: int, options: Options) -> dict[str, Any]:
    """Train one of airbench's networks with a seed."""
    script = Airbench(name, options)
    cost = script.multiply_adds()
    torch.manual_seed(seed)
    script.times.clear()
    accuracy = script.train()
    epochs, steps, batch = script.length()
    return {
        "accuracy": accuracy,
        "seconds": sum(Clock.spans[:-1]),  # the last span is that of the test
        "multiply_adds": cost * epochs * steps * batch,
        "epochs": epochs,
    }


def run_cell(name: str, seed: int, options: Options) -> dict[str, Any]:
    hold_memory()
    contender = CONTENDERS[options.data_set].get(name)
    found = peer(name, seed, options) if contender is None else ours(contender, seed, options, name)
    _, precision = choose_precision("auto", CPU)
    where = {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "precision": str(precision.choice),
        "torch": torch.__version__,
    }
    return {"contender": name, "set": options.data_set, "seed": seed, **found, **where}


# ---- seconds of an epoch, before hours are spent -----------------------------------------------


class Steps(Watcher):
    """Notes when each step ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step(self, step: int, total_steps: int, loss: float, images_per_second: float) -> None:
        self.times.append(time.perf_counter())


def seconds_per_epoch(name: str, options: Options) -> dict[str, float]:
    """Return seconds and multiply-adds of an epoch, and the epochs of the whole training.

    A recipe is trained for a few steps, so that resolutions change within them as in the whole run.
    """
    hold_memory()
    contender = CONTENDERS[options.data_set].get(name)
    if contender is None:
        script = Airbench(name, options)
        epochs, steps, batch = script.length()
        cost = script.multiply_adds() * steps * batch
        script.times.clear()
        script.most_steps = max(3, options.steps // 4)  # its batches are two to four times larger
        with suppress(Stop):
            script.train()
        times = np.array(script.times)
        before = times[0] - Clock.open  # all images are shifted at once
        seconds = before + steps * float(np.median(np.diff(times)[1:]))
        return {"seconds": seconds, "multiply_adds": cost, "epochs": epochs}

    watcher = Steps()
    recipe = _refit(contender, options)
    epochs = recipe.epochs or 0
    short = recipe.replace(epochs=None, steps=options.steps)
    with tempfile.TemporaryDirectory() as out:
        tintype.train(short, out=out, watcher=watcher)
    step = (watcher.times[-1] - watcher.times[0]) / (len(watcher.times) - 1)
    return {
        "seconds": step * _num_images(options) / recipe.batch_size,
        "multiply_adds": multiply_adds_of(recipe) * _num_images(options),
        "epochs": epochs,
    }


# ---- all of them -------------------------------------------------------------------------------


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)


def names_of(options: Options) -> list[str]:
    """Return the contenders of a set; without its folder, airbench is left out."""
    peers = PEERS if options.data_set == "cifar10" and options.airbench else ()
    return [*CONTENDERS[options.data_set], *peers]


def cells_in(options: Options) -> list[dict[str, Any]]:
    """Return the finished cells of a set."""
    files = sorted((options.out / "cells").glob(f"{options.data_set}~*.json"))
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def speed_table(options: Options, names: Sequence[str]) -> list[str]:
    """Measure an epoch of each contender, in a process of its own; return a table in Markdown."""
    measured = {name: json.loads(_in_process(name, None, options)) for name in names}
    rows = [
        "| contender | epochs | seconds an epoch | seconds | to airbench94 | 10^12 multiply-adds "
        "| 10^9 a second |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    peer = measured.get("airbench94")
    for name, each in measured.items():
        seconds = each["seconds"] * each["epochs"]
        ratio = seconds / (peer["seconds"] * peer["epochs"]) if peer else float("nan")
        rows.append(
            f"| {name} | {each['epochs']:g} | {each['seconds']:.1f} | {seconds:.0f} | {ratio:.2f} "
            f"| {each['multiply_adds'] * each['epochs'] / 1e12:.1f} "
            f"| {each['multiply_adds'] / each['seconds'] / 1e9:.0f} |"
        )
    return rows


def table(cells: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """Return the table of the finished cells in Markdown.

    The interval is that of the mean over seeds; of one seed, that of its test images.
    """
    rows = [
        "| contender | seeds | epochs | test accuracy (95 % interval) | seconds "
        f"| to {' | to '.join(PEERS)} | 10^12 multiply-adds | 10^9 a second |",
        "|---|---:|---:|---|---:|---:|---:|---:|---:|",
    ]
    for name in names:
        own = [cell for cell in cells if cell["contender"] == name]
        if not own:
            continue
        accuracies = [cell["accuracy"] for cell in own]
        mean = statistics.mean(accuracies)
        low, high = mean_interval(accuracies) or wilson_interval(round(mean * 10_000), 10_000)
        seconds = statistics.mean(cell["seconds"] for cell in own)
        cost = own[0]["multiply_adds"]
        ratios = [_ratio(own, cells, peer) for peer in PEERS]
        rows.append(
            f"| {name} | {len(own)} | {own[0]['epochs']:g} "
            f"| {mean:.2%} ({low:.2%} to {high:.2%}) | {seconds:.0f} | {' | '.join(ratios)} "
            f"| {cost / 1e12:.1f} | {cost / seconds / 1e9:.0f} |"
        )
    return rows


def _ratio(own: Sequence[Mapping[str, Any]], cells: Sequence[Mapping[str, Any]], peer: str) -> str:
    """Return the median over common seeds of the seconds, to those of `peer`."""
    theirs = {cell["seed"]: cell["seconds"] for cell in cells if cell["contender"] == peer}
    ratios = [cell["seconds"] / theirs[cell["seed"]] for cell in own if cell["seed"] in theirs]
    return f"{statistics.median(ratios):.2f}" if ratios else ""


def _in_process(name: str, seed: int | None, options: Options) -> str:
    """Run a cell, or the measurement of its speed, by itself; return the last line it prints."""
    command = [sys.executable, __file__, "--contender", name, "--out", str(options.out)]
    command += ["--set", options.data_set, "--steps", str(options.steps)]
    command += [] if seed is None else ["--seed", str(seed)]
    command += ["--data-root", options.data_root] if options.data_root else []
    command += ["--airbench", str(options.airbench)] if options.airbench else []
    done = subprocess.run(command, stdout=subprocess.PIPE, encoding="utf-8", check=True)
    return done.stdout.splitlines()[-1]


def run_all(options: Options, names: Sequence[str], seeds: Sequence[int]) -> None:
    """Compute the cells that are not there, seed by seed."""
    (options.out / "cells").mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        for name in names:
            file = options.out / "cells" / f"{options.data_set}~{_file_name(name)}~{seed}.json"
            if file.exists():
                continue
            print(f"{name}, seed {seed}, since {time.strftime('%H:%M')}", flush=True)
            cell = json.loads(_in_process(name, seed, options))
            with written_whole(file) as temporary:
                temporary.write_text(json.dumps(cell, indent=1), encoding="utf-8")
            print(f"  test {cell['accuracy']:.2%}, {cell['seconds']:.0f} s", flush=True)


def main() -> None:
    """Run the cells and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", help="folder that holds the data sets")
    parser.add_argument("--airbench", type=Path, help="folder of airbench94.py and its Muon form")
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished cells")
    parser.add_argument("--set", choices=sorted(CONTENDERS), default="cifar10")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--only", nargs="+", help="contenders to run")
    parser.add_argument("--seconds-per-epoch", action="store_true", help="measure some steps")
    parser.add_argument("--steps", type=int, default=16, help="steps to measure, of a recipe")
    parser.add_argument("--table-only", action="store_true", help="print what is finished")
    parser.add_argument("--contender", help=argparse.SUPPRESS)  # one cell, in this process
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    options = Options(
        asked.set,
        asked.data_root,
        asked.airbench and asked.airbench.absolute(),
        asked.out.absolute(),
        asked.steps,
    )

    if asked.contender and asked.seed is None:
        print(json.dumps(seconds_per_epoch(asked.contender, options)))
        return
    if asked.contender:
        print(json.dumps(run_cell(asked.contender, asked.seed, options)))
        return

    names = [name for name in names_of(options) if not asked.only or name in asked.only]
    if not names:
        sys.exit(f"no such contender; expected some of {', '.join(names_of(options))}")
    if asked.seconds_per_epoch:
        print(*speed_table(options, names), sep="\n")
        return
    if not asked.table_only:
        run_all(options, names, asked.seeds)
    found = cells_in(options)
    print(*table(found, list(dict.fromkeys(cell["contender"] for cell in found))), sep="\n")


if __name__ == "__main__":
    main()
