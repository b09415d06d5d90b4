"""What a task offers to `tintype export`: its graph, real inputs, and a check of the answers.

`tasks/NAME/export.py` holds a subclass of `Exportable` by the name of `Export`.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from tintype.runs.folder import RunFolder
from tintype.tasks.task import Task

Answer = Callable[[dict[str, np.ndarray]], np.ndarray]
T = TypeVar("T", bound=Task)


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

    def warm_up(self) -> None:
        """Compute once for real: what is made at first use must not be made of traced values."""
        with torch.no_grad():
            self.module(*self.inputs.values())


class Exportable(ABC, Generic[T]):
    """A finished model as it is exported.

    The command calls `read_images`, `network` and `graph`, for 8 bits `calibration`, and then
    `check` and `timed`.

    Attributes:
        described_by: fields of model.json that the file keeps, where they are there.
        refuses_int8: why the model cannot be quantised, in words for the user; "" where it can.
        keeps_ends: whether the first and the last layer of a quantised model stay in floats.
    """

    described_by: ClassVar[tuple[str, ...]] = ("preprocessing",)
    refuses_int8: ClassVar[str] = ""
    keeps_ends: ClassVar[bool] = False

    def __init__(self, run: RunFolder, task: Task, description: Mapping[str, Any]) -> None:
        self.run = run
        self.task = cast(T, task)  # of the class in the same folder
        self.description = description

    def read_images(self, data: str | None) -> None:
        """Open the images to calibrate and to check on: the run's own, or `data`.

        Raises:
            UserError: they are not there, or do not fit the model.
        """
        del data  # a model that takes no images

    def network(self) -> nn.Module:
        """Return a copy of the network that may be changed."""
        return copy.deepcopy(self.task.networks[self.task.main]).eval()

    def about(self) -> dict[str, Any]:
        """Return what the file says of the model (JSON-ready)."""
        known = self.description
        return {name: known[name] for name in self.described_by if name in known}

    @abstractmethod
    def graph(self, network: nn.Module) -> Graph:
        """Return what is exported around `network`, the task's own or one of another precision."""

    def calibration(self) -> Iterator[dict[str, np.ndarray]]:
        """Yield inputs of the graph, one by one, that the ranges of 8 bits are measured on.

        The check must leave them out where seeing them would make it too good.
        """
        raise NotImplementedError(f"{type(self).__name__} has no images to calibrate on")

    @abstractmethod
    def check(self, answer: Answer, precision: str, max_loss: float | None) -> dict[str, Any]:
        """Return how the answers of the exported graph agree with PyTorch's in float32.

        Args:
            answer: the exported graph.
            precision: "float32", "float16" or "int8".
            max_loss: what a quantised model may lose, in the unit of the task; None for its usual.

        Raises:
            UserError: they do not agree, or too much is lost.
        """

    @abstractmethod
    def lines(self, checked: Mapping[str, Any]) -> list[str]:
        """Return what `check` found as lines for the terminal."""

    @abstractmethod
    def timed(self, answer: Answer, graph: Graph) -> tuple[Callable[[], Any], Callable[[], Any]]:
        """Return two calls that compute one picture: by the exported graph, and by PyTorch."""


class ExportPart(Protocol):
    """What `tasks/NAME/export.py` holds."""

    Export: type[Exportable[Any]]
