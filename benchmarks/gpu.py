"""Whether runs on this device end bit-equal when they are resumed, and what that costs, for each task.

python benchmarks/gpu.py [--device auto] [--minutes 6] [--quick] [--out gpu.json]

For a classifier, a head on a pretrained backbone, a generator and an upscaler: a run with `exact:
true` is trained whole, then stopped half-way and resumed, and the weights are compared bit for bit.
The cost is the time of the whole run with `exact: true` over that with `exact: false`, by turns, as
the median over rounds. It needs no network: the backbone's weights are random. `--quick` takes
sizes that a CPU does in seconds. Prints a table and writes JSON; exits with 1 where a promise is
broken.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torchvision.models import resnet18

from tintype.errors import Interrupted
from tintype.hardware.device import choose_device
from tintype.progress import Watcher
from tintype.recipe import Recipe, build, resolve
from tintype.runs.folder import RunFolder
from tintype.training.prepare import prepare
from tintype.training.run import train_run

HEAD = {
    "data": "digits", "model": "resnet18", "tune": "head", "augment": "photos", "views": 2, "batch_size": 64, "epochs": 20
}  # fmt: skip
# A recipe's name or fields, what is changed, and what is changed for --quick.
TASKS: dict[str, tuple[str | dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "classify": ("digits-cnn", {"evaluate_every": 2}, {"epochs": 2, "evaluate_every": 1}),
    "transfer head": (HEAD, {"image_size": 128}, {"image_size": 32, "epochs": 2, "views": 0}),
    "generate": ("digits-gan", {"steps": 1000}, {"steps": 10, "evaluate_every": 0.25}),
    "upscale": ("photos-x2", {"steps": 300}, {"steps": 4, "batch_size": 4, "evaluate_every": 1}),
}


@dataclass
class Measured:
    """What a task came to: equal bits or not, why they are not promised, where it was stopped,
    seconds and their ratio.
    """

    task: str
    bit_equal: bool
    promised: str
    stopped_at: str
    exact_seconds: float
    fast_seconds: float
    cost: float
    rounds: int


class Halfway(Watcher):
    """Stops a run half-way, as Ctrl-C does."""

    def on_step(self, step: int, total_steps: int, loss: float, images_per_second: float) -> None:
        if 2 * step >= total_steps:
            os.kill(os.getpid(), signal.SIGTERM)


def train(run: RunFolder, recipe: Recipe, watcher: Watcher) -> float:
    """Train in `run`, from where it stands, with an empty cache; return the seconds of preparing
    and training.
    """
    with tempfile.TemporaryDirectory(prefix="tintype-gpu-") as cache:
        os.environ["TINTYPE_CACHE"] = cache  # features are computed, not read
        prepared = prepare(recipe, watcher)
        if not (run.path / "recipe.yaml").exists():
            run.path.mkdir(parents=True)
            run.write_recipe(prepared.recipe)
        train_run(run, prepared, watcher, "benchmarks/gpu.py")
        del prepared  # pixels may be mapped from the cache
    environment = run.read("environment.json")
    return environment["preparing_seconds"] + environment["training_seconds"]


def stopped_and_resumed(folder: Path, recipe: Recipe) -> tuple[RunFolder, str]:
    """Train in two parts; return the run and the step between them."""
    run = RunFolder(folder)
    try:
        train(run, recipe, Halfway())
    except Interrupted:
        status = run.status
        train(run, run.recipe, Watcher())
        return run, f"{status['step']} of {status['total_steps']}"
    raise RuntimeError(f"{recipe.model} came to its end before it could be stopped")


def measure(task: str, recipe: Recipe, folder: Path, seconds: float) -> Measured:
    """Compare a resumed run with a whole one, then time both settings by turns for about `seconds`."""
    began = time.perf_counter()
    whole = RunFolder(folder / "whole")
    train(whole, recipe, Watcher())  # the first call of every kernel is slower, so it is not timed
    resumed, stopped_at = stopped_and_resumed(folder / "resumed", recipe)
    files = ("model.safetensors", "metrics.csv")
    equal = all(
        (whole.path / file).read_bytes() == (resumed.path / file).read_bytes() for file in files
    )
    choice = next(c for c in whole.read("environment.json")["choices"] if c["name"] == "exact")

    times: dict[bool, list[float]] = {True: [], False: []}
    while True:
        round_began = time.perf_counter()
        for exact, found in times.items():
            run = RunFolder(folder / f"{exact}-{len(found)}")
            found.append(train(run, recipe.replace(exact=exact), Watcher()))
        now = time.perf_counter()
        if now - began + (now - round_began) > seconds:  # another round would not fit
            break
    slow, fast = statistics.median(times[True]), statistics.median(times[False])
    return Measured(
        task, equal, f"{choice['choice']}: {choice['reason']}", stopped_at, round(slow, 3), round(fast, 3),
        round(slow / fast, 3), len(times[True]),
    )  # fmt: skip


def main() -> None:
    """Measure every task and say what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    parser.add_argument("--minutes", type=float, default=6.0, help="about how long it may take")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes and one round, to see that it works"
    )
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="JSON of the table")
    options = parser.parse_args()

    device, _ = choose_device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    print(f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(
        f"{'task':15}{'resumed':>10}{'stopped at':>14}{'exact s':>10}{'fast s':>10}{'cost':>8}{'rounds':>8}"
    )
    found = []
    with tempfile.TemporaryDirectory(prefix="tintype-gpu-") as folder:
        weights = Path(folder) / "resnet18.safetensors"
        torch.manual_seed(0)
        save_file(resnet18().state_dict(), weights)
        for task, (what, sizes, quick) in TASKS.items():
            recipe = (
                resolve(what)[0]
                if isinstance(what, str)
                else build({**what, "weights": str(weights)}, where="")
            )
            recipe = recipe.replace(
                **{**sizes, **(quick if options.quick else {})}, device=options.device
            )
            share = 0.0 if options.quick else 60 * options.minutes / len(TASKS)
            one = measure(task, recipe, Path(folder) / task.replace(" ", "-"), share)
            found.append(one)
            resumed = "bit-equal" if one.bit_equal else "DIFFERS"
            print(
                f"{one.task:15}{resumed:>10}{one.stopped_at:>14}{one.exact_seconds:>10.2f}{one.fast_seconds:>10.2f}"
                f"{one.cost:>8.2f}{one.rounds:>8}",
                flush=True,
            )
    content = {
        "device": name,
        "torch": torch.__version__,
        "quick": options.quick,
        "tasks": [asdict(m) for m in found],
    }
    options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    for one in found:
        if not one.promised.startswith("yes"):
            print(f"{one.task}: not promised ({one.promised})")
    if any(one.promised.startswith("yes") and not one.bit_equal for one in found):
        sys.exit("a promise was broken: a resumed run that should be bit-equal is not")


if __name__ == "__main__":
    main()
