"""Predict photos with a finished run: the same decoding, size and normalisation as in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tintype.data.typical import Typical
from tintype.errors import UserError
from tintype.runs.folder import RunFolder
from tintype.tasks.classify.analysis.heatmaps import grad_cam, overlaid
from tintype.tasks.classify.task import Classify
from tintype.tasks.restoring import load_task
from tintype.tasks.task import Prediction
from tintype.verbs.predict.classifier import Classifier
from tintype.verbs.predict.files import list_images
from tintype.verbs.predict.pipeline import answered

__all__ = ["Answers", "Predictor", "list_images", "load_task", "predict_files"]


class Predictor(Classifier):
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
    def of(cls, run: RunFolder, *, device: str = "auto") -> Predictor:
        """Load the model of a run.

        Raises:
            UserError: the run has no finished model, or the device is not there.
        """
        task, description = load_task(run, device)
        if not isinstance(task, Classify):
            raise UserError(
                f"{run.path} is a run of task {description['task']}, not a classifier, so it predicts no class."
            )
        return cls(task, description)

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        return self.task.probabilities(self.task.networks[self.task.main], images).cpu().numpy()

    def heat_maps(self, pixels: np.ndarray) -> list[np.ndarray]:
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        network = self.task.networks[self.task.main]
        classes = self.task.logits(network, images).argmax(1)
        found = grad_cam(network, self.task.normalise(images), classes)
        if found is None:
            raise UserError(
                "this network has no layer with maps, so no heat map can be drawn. Leave --heatmaps out."
            )
        return [overlaid(image, heat) for image, heat in zip(pixels, found.maps, strict=True)]


@dataclass(frozen=True)
class Answers:
    """The predictions for some files, and the files that could not be read, each with its reason."""

    predictions: list[Prediction]
    skipped: list[tuple[str, str]]


def predict_files(run: str | Path, paths: Sequence[str | Path], *, device: str = "auto") -> Answers:
    """Predict files and folders with a run; a file that is not an image is passed over and named.

    Raises:
        UserError: no run, no such file or folder, or no image in them.
    """
    predictor = Predictor.of(RunFolder.open(run), device=device)
    found = [item for batch in answered(predictor, list_images(paths)) for item in batch]
    return Answers(
        [item.prediction for item in found if item.prediction],
        [(i.file, i.reason) for i in found if not i.prediction],
    )
