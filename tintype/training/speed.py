"""How fast a network is on this device, and how much time a run has."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tintype.data.source import DataSpec
from tintype.hardware.cores import Load
from tintype.hardware.device import autocast
from tintype.models import build_model
from tintype.models.parts.backbone import for_inference
from tintype.recipe import Recipe, parse_duration

DEFAULT_SECONDS = 300.0

# Steps are compared in spans of this many seconds. Images that grow and layers that thaw make steps
# longer too, so it takes others that compute, and more than they would do alone, to warn.
SPAN_SECONDS = 5.0
SEVERAL_TIMES = 2.5
BUSY_CORES = 0.5


def seconds_of(recipe: Recipe) -> float:
    """Return the time that a recipe has, the usual one where it does not say."""
    return parse_duration(recipe.time) if recipe.time else DEFAULT_SECONDS


@torch.no_grad()
def inference_speed(
    recipe: Recipe, spec: DataSpec, device: torch.device, dtype: torch.dtype
) -> float:
    """Return how many images a second the recipe's network takes on this device, measured for about
    a second.
    """
    network = for_inference(
        build_model(recipe.model, spec, recipe.model_options, recipe.seed).to(device), spec
    )
    images = torch.zeros(16, spec.channels, spec.height, spec.width, device=device)
    images = images.to(memory_format=torch.channels_last)

    def seconds(call: Callable[[], Any]) -> float:
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    with autocast(device, dtype):
        network(images)  # the first call is slower
        return len(images) / min(seconds(lambda: network(images)) for _ in range(2))


class Clock:
    """How long a run has trained, and how long ago something was done.

    Args:
        seconds: of the parts of the run before this one.
        step: at which this one begins.
    """

    def __init__(self, seconds: float, step: int) -> None:
        self.started = time.perf_counter()
        self.saved_at = self.started
        self.read_at = self.started
        self.seconds_before = seconds
        self.first_step = step

    def seconds(self, now: float | None = None) -> float:
        """Return the seconds of the run until now."""
        return self.seconds_before + (now or time.perf_counter()) - self.started

    def since_saving(self) -> float:
        return time.perf_counter() - self.saved_at

    def since_reading(self) -> float:
        return time.perf_counter() - self.read_at


class Pace:
    """Notices that steps have become several times slower because other processes compute.

    Args:
        threads: how many share the arithmetic of the run.
        path: the run folder, which the remedy names.
    """

    def __init__(self, threads: int, path: Path) -> None:
        self.threads, self.path = threads, path
        self.fastest = math.inf
        self.load: Load | None = Load() if threads > 1 else None
        self._clear()

    def _clear(self) -> None:
        self.seconds, self.num_steps = 0.0, 0

    def step(self, seconds: float) -> str:
        """Count a step; return the only warning when it is due, and else ""."""
        if self.load is None:
            return ""
        self.seconds += seconds
        self.num_steps += 1
        if self.seconds < SPAN_SECONDS:
            return ""

        step, others = self.seconds / self.num_steps, self.load.others()
        self._clear()
        times = step / self.fastest
        self.fastest = min(self.fastest, step)
        if times < SEVERAL_TIMES or others < BUSY_CORES:
            return ""

        self.load = None
        fewer = max(1, self.threads - round(others))
        return (
            f"warning: steps take {times:.1f} times as long as before, and other processes keep "
            f"{others:.1f} cores busy. {fewer} thread{'s' if fewer > 1 else ''} would be faster "
            f"beside them: stop, set threads: {fewer} in {self.path / 'recipe.yaml'} and type: "
            f"tintype train --resume {self.path} (not bit-equal from there)"
        )
