"""How fast a network is on this device, and how much time a run has."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from tintype.data.source import DataSpec
from tintype.hardware.device import autocast
from tintype.models import build_model
from tintype.models.parts.backbone import for_inference
from tintype.recipe import Recipe, parse_duration

DEFAULT_SECONDS = 300.0


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
