"""The classifier of a run, computed by torch: decoding, size and normalisation as in training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from tintype.data.typical import Typical
from tintype.errors import UserError
from tintype.runs.folder import RunFolder
from tintype.runs.graph import GraphNetwork
from tintype.tasks.classify.answering import Classifier
from tintype.tasks.classify.classifier import Classify
from tintype.tasks.contract.network_predictor import NetworkPredictor
from tintype.tasks.restoring import load_task_of


class RunClassifier(NetworkPredictor[Classify], Classifier):
    """A classifier of a run, computed by torch."""

    def __init__(
        self, task: Classify, description: Mapping[str, Any], batch_size: int = 64
    ) -> None:
        # absent from models that were made before they were fitted
        thresholds = description.get("abstain", [])
        typical = Typical.of(description.get("typical"))
        super().__init__(
            task.spec.class_names, description["preprocessing"], thresholds, batch_size, typical
        )
        self.task = task

    @classmethod
    def of(cls, run: RunFolder, *, device: str = "auto") -> RunClassifier:
        """Load the model of a run.

        Raises:
            UserError: the run has no finished model, or the device is not there.
        """
        return cls(*load_task_of(Classify, run, device))

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        return self.task.probabilities(self.network, images).cpu().numpy()

    def heat_maps(self, pixels: np.ndarray) -> list[np.ndarray]:
        """Return for each prepared picture what led to its most probable class."""
        from tintype.tasks.classify.analysis.heatmaps import grad_cam, overlaid

        if isinstance(self.network, GraphNetwork):
            raise self.network.needs_code("a heat map")
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        classes = self.task.logits(self.network, images).argmax(1)

        found = grad_cam(self.network, self.task.normalise(images), classes)
        if found is None:
            raise UserError(
                "this network has no layer with maps, so no heat map can be drawn. "
                "Leave --heatmaps out."
            )
        return [overlaid(image, heat) for image, heat in zip(pixels, found.maps, strict=True)]
