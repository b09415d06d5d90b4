"""The export of a model that answers each photo with numbers: its graph, its images, its timing."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from tintype.data.decode import Resize
from tintype.data.source import DataSpec
from tintype.models.parts.backbone import for_inference
from tintype.runs.model import resize_of
from tintype.tasks.contract.check_images import CheckImages, batches, validation_images
from tintype.tasks.contract.export import Answer, Exportable, Graph
from tintype.tasks.contract.resizing import Resizer
from tintype.tasks.task import Task

T = TypeVar("T", bound=Task)


class PhotoGraph(nn.Module):
    """Takes pictures (N, H, W, 3) uint8 of any size, as every exported model of photos does."""

    scale: Tensor
    shift: Tensor

    def __init__(self, spec: DataSpec, network: nn.Module, resize: Resize) -> None:
        super().__init__()
        self.resizer = Resizer(spec.channels, spec.height, spec.width, resize)
        self.network = network
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (spec.mean, spec.std))
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)

    def pixels(self, images: Tensor) -> Tensor:
        """Return what the network expects (N, C, H, W)."""
        return self.resizer(images) * self.scale + self.shift


class PhotoExport(Exportable[T]):
    """What a subclass adds is its graph, what PyTorch answers, and the check.

    Attributes:
        output: the name of the graph's output.
        images: of validation, with their targets.
    """

    output: ClassVar[str]
    images: CheckImages

    @abstractmethod
    def photo_graph(self, network: nn.Module) -> PhotoGraph:
        """Return the module that is exported around `network`."""

    @abstractmethod
    def computed(self, network: nn.Module, images: Tensor) -> Tensor:
        """Return what PyTorch answers to images (N, C, H, W) uint8 of the model's size."""

    def read_images(self, data: str | None) -> None:
        self.images, _ = validation_images(self.run, self.description, data)

    def network(self) -> nn.Module:
        """Return a copy with batch norms folded into convolutions, which 8 bits need."""
        return for_inference(self.task.networks[self.task.main], self.task.spec)

    def graph(self, network: nn.Module) -> Graph:
        # Neither square nor of the model's size, so that no side is taken for another.
        images = torch.arange(2 * 37 * 41 * 3).reshape(2, 37, 41, 3).to(torch.uint8)
        dynamic = {"images": {0: "batch", 1: "height", 2: "width"}}
        return Graph(self.photo_graph(network), {"images": images}, self.output, dynamic)

    @property
    def resize(self) -> Resize:
        """How a picture is brought to the model's size."""
        return resize_of(dict(self.description))

    def calibration(self) -> Iterator[dict[str, np.ndarray]]:
        calibrating, self.images = self.images.divided()
        for image in calibrating.rgb():
            yield {"images": image[None]}

    def by_pytorch(self, pixels: np.ndarray) -> np.ndarray:
        """Return PyTorch's answers to pixels (N, H, W, C) uint8 of the model's size."""
        network = self.task.networks[self.task.main]
        images = (torch.from_numpy(part).permute(0, 3, 1, 2) for part in batches(pixels))
        return np.concatenate([self.computed(network, some).cpu().numpy() for some in images])

    def by_graph(self, answer: Answer, rgb: np.ndarray) -> np.ndarray:
        """Return the graph's answers to pictures (N, H, W, 3) uint8."""
        return np.concatenate([answer({"images": part}) for part in batches(rgb)])

    def timed(self, answer: Answer, graph: Graph) -> tuple[Callable[[], Any], Callable[[], Any]]:
        network = self.task.networks[self.task.main]
        one = np.ascontiguousarray(self.images.rgb()[:1])
        pixels = torch.from_numpy(np.ascontiguousarray(self.images.pixels[:1])).permute(0, 3, 1, 2)
        return lambda: answer({"images": one}), lambda: self.computed(network, pixels)
