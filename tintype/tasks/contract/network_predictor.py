"""A predictor whose network is at hand: what it is shown, and what it sees before its head."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from tintype.data.source import DataSpec
from tintype.hardware.device import autocast
from tintype.models.parts.head import features_before, head_of
from tintype.runs.code import is_trusted
from tintype.runs.graph import GraphNetwork
from tintype.tasks.contract.predict import Predictor


class PhotoTask(Protocol):
    """A task whose main network is shown one photo at a time."""

    networks: dict[str, nn.Module]
    main: str
    spec: DataSpec
    device: torch.device
    dtype: torch.dtype

    def normalise(self, images: Tensor) -> Tensor:
        """Turn images (N, C, H, W) in 0..255 into the network's input, float32."""
        ...


T = TypeVar("T", bound=PhotoTask)


class NetworkPredictor(Predictor, Generic[T]):
    """A model of a run, computed by torch.

    Attributes:
        task: the task around the network.
    """

    task: T

    @property
    def network(self) -> nn.Module:
        """The network that answers."""
        return self.task.networks[self.task.main]

    @property
    def outdated(self) -> bool:
        """Whether it computes a graph in place of code that has been trusted since."""
        return isinstance(self.network, GraphNetwork) and is_trusted(self.network.rows)

    def shown(self, pixels: np.ndarray) -> Tensor:
        """Return what the network is shown, (N, C, H, W) float32, of prepared pictures.

        They are (N, height, width, channels) uint8.
        """
        return self.task.normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2))

    def features(self, pixels: np.ndarray) -> np.ndarray:
        """Return what the network's head sees (N, F) float32, of prepared pictures as they are.

        Raises:
            ValueError: the network's output comes from no layer.
            UserError: the network is a graph, which shows none.
        """
        with torch.no_grad(), autocast(self.task.device, self.task.dtype):
            features = self._features(self.shown(pixels))
        return features.float().cpu().numpy()

    @cached_property
    def _features(self) -> Callable[[Tensor], Tensor]:
        if isinstance(self.network, GraphNetwork):
            raise self.network.needs_code("what its last layer sees")
        return features_before(self.network, head_of(self.network, self.task.spec))
