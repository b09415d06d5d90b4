"""What is exported: the network together with all that stands around it, from uint8 in to the
answer out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tintype.runs.model import resize_of
from tintype.tasks.classify.classifier import Classify, views
from tintype.tasks.contract.resizing import Resizer
from tintype.tasks.generate import sampling
from tintype.tasks.generate.task import SAMPLE_SEED, Generate
from tintype.tasks.task import Task
from tintype.tasks.upscale.task import Upscale


class ClassifierGraph(nn.Module):
    """Pictures (N, H, W, 3) uint8 of any size to calibrated class probabilities (N, K) float32."""

    def __init__(self, task: Classify, network: nn.Module, description: Mapping[str, Any]) -> None:
        super().__init__()
        spec = task.spec
        self.resizer = Resizer(spec.channels, spec.height, spec.width, resize_of(dict(description)))
        self.network, self.tta, self.temperature = network, task.tta, task.temperature
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (spec.mean, spec.std))
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)

    def forward(self, images: Tensor) -> Tensor:
        pixels = self.resizer(images) * self.scale + self.shift
        logits = sum(weight * self.network(view) for weight, view in views(pixels, self.tta))
        return torch.softmax(torch.as_tensor(logits) / self.temperature, dim=1)


class GeneratorGraph(nn.Module):
    """Noise (N, *latent_shape) float32, and classes (N,) int64 where it knows some, to pictures (N,
    H, W, C) uint8.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, noise: Tensor, classes: Tensor | None = None) -> Tensor:
        return sampling.to_pixels(self.network(noise, classes)).permute(0, 2, 3, 1)


class UpscalerGraph(nn.Module):
    """Pictures (N, H, W, 3) uint8 of any size to pictures (N, scale * H, scale * W, 3) uint8."""

    def __init__(self, task: Upscale, network: nn.Module) -> None:
        super().__init__()
        self.network, self.enlarged = network, task.enlarged

    def forward(self, images: Tensor) -> Tensor:
        large = self.enlarged(self.network, images.permute(0, 3, 1, 2).float())
        return large.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


class Half(nn.Module):
    """A network that computes in float16, for float32 in and out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.half()

    def forward(self, x: Tensor, *more: Any) -> Tensor:
        return self.network(x.half(), *more).float()


@dataclass(frozen=True)
class Graph:
    """A module to export, with its named inputs (examples of two) and output, and which sides of
    them may change.
    """

    module: nn.Module
    inputs: dict[str, Tensor]
    output: str
    dynamic: dict[str, dict[int, str]]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the examples as arrays."""
        return {name: tensor.numpy() for name, tensor in self.inputs.items()}


def graph_of(task: Task, network: nn.Module, description: Mapping[str, Any]) -> Graph:
    """Return what is exported of a task around `network`, which is the task's own or one of another
    precision.
    """
    graph = _graph(task, network, description)
    # once for real: constants that are computed at first use must not be made of traced values
    with torch.no_grad():
        graph.module(*graph.inputs.values())
    return graph


def _graph(task: Task, network: nn.Module, description: Mapping[str, Any]) -> Graph:
    if isinstance(task, Classify):
        # Neither square nor of the model's size, so that no side is taken for another.
        images = torch.arange(2 * 37 * 41 * 3).reshape(2, 37, 41, 3).to(torch.uint8)
        dynamic = {"images": {0: "batch", 1: "height", 2: "width"}}
        return Graph(
            ClassifierGraph(task, network, description),
            {"images": images},
            "probabilities",
            dynamic,
        )
    if isinstance(task, Upscale):
        images = torch.arange(2 * 24 * 20 * 3).reshape(2, 24, 20, 3).to(torch.uint8)
        dynamic = {"images": {0: "batch", 1: "height", 2: "width"}}
        return Graph(UpscalerGraph(task, network), {"images": images}, "large", dynamic)

    if isinstance(task, Generate):
        noise = torch.from_numpy(
            sampling.latents(SAMPLE_SEED, range(2), task.generator.latent_shape)
        )
        inputs, dynamic = {"noise": noise}, {"noise": {0: "batch"}}
        if task.conditional:
            inputs["classes"], dynamic["classes"] = torch.tensor(task.turns(range(2))), {0: "batch"}
        return Graph(GeneratorGraph(network), inputs, "images", dynamic)

    raise TypeError(f"no graph is known for {type(task).__name__}")
