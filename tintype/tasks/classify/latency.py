"""How long a classifier takes for an answer on this machine: for one image, and for a batch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from tintype.runs.folder import RunFolder
from tintype.tasks.classify.classifier import Classify
from tintype.tasks.restoring import load_task

BATCH = 64
MOST_REPEATS = 20
SECONDS = 0.08  # of measuring, for each batch size, where one pass is shorter than that
SLOW = 0.25  # seconds for one image from which on the batch is measured once, without a pass before


def measure_latency(run: RunFolder, device: str = "auto") -> dict[str, float]:
    """Return the milliseconds that a classifier takes for one image, and for 64.

    The keys are `latency_1_ms` and `latency_64_ms`.

    The median of several passes over made pixels, from uint8 pixels of the model's size to
    probabilities, in the model's precision and with its test-time views; decoding of files is not
    in it.

    Raises:
        UserError: the run has no finished model, or the device is not there.
    """
    task, _ = load_task(run, device)
    if not isinstance(task, Classify):
        return {}
    spec, network = task.spec, task.networks[task.main]
    pixels = torch.arange(
        BATCH * spec.height * spec.width * spec.channels, dtype=torch.int64
    ).remainder(251)
    images = (
        pixels.to(torch.uint8)
        .view(BATCH, spec.height, spec.width, spec.channels)
        .permute(0, 3, 1, 2)
    )

    def answer(count: int) -> None:
        task.probabilities(network, images[:count]).cpu()  # which also waits for a GPU

    one = _median_seconds(lambda: answer(1), warm=True)
    many = _median_seconds(lambda: answer(BATCH), warm=one < SLOW)
    return {"latency_1_ms": 1000 * one, f"latency_{BATCH}_ms": 1000 * many}


def _median_seconds(work: Callable[[], None], *, warm: bool) -> float:
    if warm:
        work()
    taken: list[float] = []
    while len(taken) < MOST_REPEATS and (len(taken) < 1 or sum(taken) < SECONDS):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)
