"""Super-resolution: figures on a test set, and the time for a picture of 1280x720, of every network or of finished runs.

python benchmarks/upscale.py floor FOLDER          bicubic and nearest (published for Set5: 33.66,
30.39, 28.42) python benchmarks/upscale.py speed [RUN ...]       seconds and multiply-adds for an
output of 1280x720 python benchmarks/upscale.py memory RUN [--side N] peak memory for an output of N
x N pixels (10,000 is 100 megapixels) python benchmarks/upscale.py table FOLDER RUN ...  PSNR, SSIM,
parameters, multiply-adds and seconds of runs, as a table

Times are the median of several rounds in one process, each network by turns, and stand beside
SRCNN's from the same rounds.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time

import numpy as np
import torch
from torch import nn

from tintype.data.source import DataSpec
from tintype.data.targets import NoTarget
from tintype.hardware.device import hold_memory
from tintype.models import build_model, count_parameters
from tintype.runs.folder import RunFolder
from tintype.tasks.restoring import load_task
from tintype.tasks.upscale import quality
from tintype.tasks.upscale.sets.pairs import open_whole
from tintype.tasks.upscale.task import Upscale, merged
from tintype.tasks.upscale.upscaler import Upscaler

ROUNDS = 3


def floor(folder: str) -> None:
    """Print what bicubic and nearest reach on a folder, by the protocol."""
    for scale in (2, 3, 4):
        task = _task("srcnn", scale)
        figures = task.evaluate(task.networks[task.main], open_whole(folder, scale)).figures
        parts = (
            f"{name} {figures[name]['psnr_y']:.2f} dB, SSIM {figures[name]['ssim_y']:.4f}"
            for name in ("bicubic", "nearest")
        )
        print(f"x{scale}: {'; '.join(parts)}  ({quality.protocol(scale)})")


def _task(model: str, scale: int) -> Upscale:
    spec = DataSpec("", 1, 96, 96, NoTarget(), (0.0,), (1.0,), "")
    return Upscale(
        build_model(model, spec, {"scale": scale}, 0), spec, torch.device("cpu"), scale=scale
    )


def _tasks(runs: list[str]) -> dict[str, Upscale]:
    tasks = {"srcnn (9-1-5) x2": _task("srcnn", 2)}
    if not runs:
        tasks |= {f"{name} x2": _task(name, 2) for name in ("espcn", "fsrcnn", "fast-sr")}
    for run in runs:
        task, description = load_task(RunFolder.open(run), "cpu")
        if isinstance(task, Upscale):
            tasks[f"{run} ({description['architecture']['name']} x{task.scale})"] = task
    return tasks


def seconds(tasks: dict[str, Upscale]) -> dict[str, float]:
    """Return the median time of each network for an output of 1280x720, colour included."""
    networks = {
        name: merged(task.networks[task.main]).to(memory_format=torch.channels_last)
        for name, task in tasks.items()
    }  # pyright: ignore[reportCallIssue]
    taken: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(ROUNDS + 1):
        for name, task in tasks.items():
            low = torch.randint(256, (3, 720 // task.scale, 1280 // task.scale), dtype=torch.uint8)
            started = time.perf_counter()
            task.enlarge(networks[name], low)
            taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(times[1:]) for name, times in taken.items()}


def speed(runs: list[str]) -> None:
    """Print seconds, the ratio to SRCNN, parameters and multiply-adds for an output of 1280x720."""
    tasks = _tasks(runs)
    found = seconds(tasks)
    first = next(iter(found.values()))
    for name, task in tasks.items():
        parameters = count_parameters(merged(task.networks[task.main]))
        giga = task.multiply_adds() / 1e9
        print(
            f"{name:40} {found[name]:6.3f} s  {first / found[name]:5.2f} x  {parameters:9,} parameters  "
            f"{giga:6.2f} G multiply-adds"
        )
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")


def table(folder: str, runs: list[str]) -> None:
    """Print a row for each run: figures on FOLDER, size and time."""
    tasks = {run: load_task(RunFolder.open(run), "cpu")[0] for run in runs}
    times = seconds({name: task for name, task in tasks.items() if isinstance(task, Upscale)})
    print(
        "| run | scale | PSNR | bicubic | gain (95 %) | SSIM | parameters | G multiply-adds | seconds for 1280x720 |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for run, task in tasks.items():
        if not isinstance(task, Upscale):
            continue
        network: nn.Module = task.networks[task.main]
        f = task.evaluate(network, open_whole(folder, task.scale)).figures
        low, high = f["gain_ci95"] or (float("nan"), float("nan"))
        gain = f"{f['gain']:+.2f} ({low:+.2f} to {high:+.2f})"
        parameters, giga = count_parameters(network), task.multiply_adds() / 1e9
        print(
            f"| {run} | x{task.scale} | {f['psnr_y']:.2f} | {f['bicubic']['psnr_y']:.2f} | {gain} | {f['ssim_y']:.4f} "
            f"| {parameters:,} | {giga:.2f} | {times[run]:.2f} |"
        )


def memory(run: str, side: int) -> None:
    """Print by how much an output of `side` x `side` raises the peak memory, beside the size of the
    picture itself.
    """
    upscaler = Upscaler.of(RunFolder.open(run))
    pixels = np.random.default_rng(0).integers(
        0, 256, (side // upscaler.scale, side // upscaler.scale, 3), np.uint8
    )
    upscaler.enlarge(pixels[:512, :512])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    large = upscaler.enlarge(pixels)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    taken, extra = time.perf_counter() - started, (after - before) / 1024
    print(
        f"{large.shape[1]} x {large.shape[0]} in {taken:.0f} s: {extra:,.0f} MB more than for 1024 x 1024; "
        f"the picture itself is {large.nbytes / 2**20:,.0f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("floor", "speed", "memory", "table"))
    parser.add_argument("paths", nargs="*")
    parser.add_argument("--side", type=int, default=10_000)
    given = parser.parse_args()
    hold_memory()
    if given.what == "floor":
        floor(given.paths[0])
    elif given.what == "speed":
        speed(given.paths)
    elif given.what == "table":
        table(given.paths[0], given.paths[1:])
    else:
        memory(given.paths[0], given.side)


if __name__ == "__main__":
    main()
