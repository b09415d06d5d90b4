"""The regressor of a run, computed by torch: decoding, size and normalisation as in training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from tintype.runs.folder import RunFolder
from tintype.tasks.contract.network_predictor import NetworkPredictor
from tintype.tasks.regress.answering import NumberPredictor
from tintype.tasks.regress.regressor import Regress
from tintype.tasks.restoring import load_task_of


class RunRegressor(NetworkPredictor[Regress], NumberPredictor):
    """A regressor of a run, computed by torch."""

    def __init__(self, task: Regress, description: Mapping[str, Any], batch_size: int = 64) -> None:
        super().__init__(description, batch_size)
        self.task = task

    @classmethod
    def of(cls, run: RunFolder, *, device: str = "auto") -> RunRegressor:
        """Load the model of a run.

        Raises:
            UserError: the run has no finished model, or the device is not there.
        """
        return cls(*load_task_of(Regress, run, device))

    def numbers(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        numbers, scales = self.task.predict(self.network, images)
        return numbers.cpu().numpy(), scales.cpu().numpy()
