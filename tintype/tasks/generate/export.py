"""What is exported of a generator, and how its pictures are checked beside PyTorch's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tintype.tasks.contract.agreement import compare_pictures, picture_lines
from tintype.tasks.contract.export import Answer, Exportable, Graph
from tintype.tasks.generate import sampling
from tintype.tasks.generate.task import SAMPLE_SEED, Generate

NUM_CHECKED = 32


class GeneratorGraph(nn.Module):
    """Noise (N, *latent_shape) float32 to pictures (N, H, W, C) uint8.

    A generator that knows classes takes them as well, (N,) int64.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, noise: Tensor, classes: Tensor | None = None) -> Tensor:
        return sampling.to_pixels(self.network(noise, classes)).permute(0, 2, 3, 1)


class Export(Exportable[Generate]):
    """A generator: its pictures must be PyTorch's for the same noise."""

    described_by = ("class_names", "preprocessing", "latent_shape", "conditional")
    refuses_int8 = (
        "--int8 is for classifiers and for networks that enlarge; "
        "a generator keeps its floats. Try --fp16."
    )

    def graph(self, network: nn.Module) -> Graph:
        inputs = {name: torch.from_numpy(value) for name, value in self._inputs(2).items()}
        dynamic = {name: {0: "batch"} for name in inputs}
        return Graph(GeneratorGraph(network), inputs, "images", dynamic)

    def _inputs(self, count: int) -> dict[str, np.ndarray]:
        shape = self.task.generator.latent_shape
        inputs: dict[str, np.ndarray] = {
            "noise": sampling.latents(SAMPLE_SEED, range(count), shape)
        }
        if self.task.conditional:
            inputs["classes"] = np.array(self.task.turns(range(count)), np.int64)
        return inputs

    def check(self, answer: Answer, precision: str, max_loss: float | None) -> dict[str, Any]:
        del max_loss  # it is not quantised
        inputs = self._inputs(NUM_CHECKED)
        expected = self._pytorch(inputs).permute(0, 2, 3, 1).cpu().numpy()
        words = f"{NUM_CHECKED} generated images"
        return compare_pictures(list(expected), list(answer(inputs)), words, precision)

    def _pytorch(self, inputs: Mapping[str, np.ndarray]) -> Tensor:
        noise = inputs["noise"]
        classes = inputs["classes"].tolist() if "classes" in inputs else [0] * len(noise)
        return self.task.make_images(self.task.networks[self.task.main], noise, classes)

    def lines(self, checked: Mapping[str, Any]) -> list[str]:
        return picture_lines(checked)

    def timed(self, answer: Answer, graph: Graph) -> tuple[Callable[[], Any], Callable[[], Any]]:
        inputs = {name: value[:1] for name, value in graph.arrays().items()}
        return lambda: answer(inputs), lambda: self._pytorch(inputs)
