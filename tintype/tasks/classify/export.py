"""What is exported of a classifier, and how its answers are checked beside PyTorch's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tintype import statistics
from tintype.data.decode import Resize
from tintype.errors import UserError
from tintype.runs.folder import RunFolder
from tintype.tasks.classify.classifier import Classify, views
from tintype.tasks.contract.agreement import refused
from tintype.tasks.contract.check_images import CheckImages, validation_images
from tintype.tasks.contract.export import Answer
from tintype.tasks.contract.photo_export import PhotoExport, PhotoGraph

SAME = 0.999  # of the top-1 answers must be identical
FURTHEST = 0.02  # mean difference of probabilities that resizing in the graph may make
MOST_POINTS = 2.0  # of accuracy that a quantised model may lose by default


class ClassifierGraph(PhotoGraph):
    """Pictures of any size to calibrated class probabilities (N, K) float32."""

    def __init__(self, task: Classify, network: nn.Module, resize: Resize) -> None:
        super().__init__(task.spec, network, resize)
        self.tta = task.tta
        self.temperature = task.temperature

    def forward(self, images: Tensor) -> Tensor:
        seen = views(self.pixels(images), self.tta)
        logits = sum(weight * self.network(view) for weight, view in seen)
        return torch.softmax(torch.as_tensor(logits) / self.temperature, dim=1)


class Export(PhotoExport[Classify]):
    """A classifier: its probabilities must be PyTorch's, and 8 bits may cost some accuracy."""

    described_by = ("class_names", "preprocessing", "temperature", "abstain", "typical", "tta")
    output = "probabilities"

    def read_images(self, data: str | None) -> None:
        self.images = classified_images(self.run, self.description, data)

    def about(self) -> dict[str, Any]:
        # absent from models that were made before thresholds were fitted
        return {"abstain": [], **super().about()}

    def photo_graph(self, network: nn.Module) -> PhotoGraph:
        return ClassifierGraph(self.task, network, self.resize)

    def computed(self, network: nn.Module, images: Tensor) -> Tensor:
        return self.task.probabilities(network, images)

    def check(self, answer: Answer, precision: str, max_loss: float | None) -> dict[str, Any]:
        expected = self.by_pytorch(self.images.pixels)
        got = self.by_graph(answer, self.images.rgb())
        if not np.isfinite(got).all():
            raise refused("some answers are not finite numbers.")

        same = expected.argmax(1) == got.argmax(1)
        right_before = expected.argmax(1) == self.images.targets
        right_after = got.argmax(1) == self.images.targets
        figures: dict[str, Any] = {
            "images": self.images.words,
            "num_images": len(same),
            "top1_same": float(same.mean()),
            "largest_difference": float(np.abs(expected - got).max()),
            "accuracy_pytorch": float(right_before.mean()),
            "accuracy": float(right_after.mean()),
        }

        if precision == "int8":
            allowed = (MOST_POINTS if max_loss is None else max_loss) / 100
            return figures | _accuracy_lost(right_before, right_after, self.images.words, allowed)
        if figures["top1_same"] < SAME:
            raise refused(
                f"the top-1 answers are the same for {same.mean():.2%} of {self.images.words}; "
                f"expected {SAME:.1%} (largest difference of a probability "
                f"{figures['largest_difference']:.2g})."
            )
        figures["any_size"] = self._check_resizing(answer)
        return figures

    def _check_resizing(self, answer: Answer) -> dict[str, Any]:
        """Return how the graph agrees with Pillow where it resizes pictures itself."""
        fitted, rgb, size = self.images.resized(self.task.spec, self.resize)
        expected = self.by_pytorch(fitted)
        got = self.by_graph(answer, rgb)
        difference = np.abs(expected - got)

        figures = {
            "num_images": len(rgb),
            "size": size,
            "top1_same": float((expected.argmax(1) == got.argmax(1)).mean()),
            "largest_difference": float(difference.max()),
        }
        if difference.mean() > FURTHEST:
            raise refused(
                f"pictures of {size} pixels give other answers than Pillow's resizing does "
                f"(probabilities differ by up to {figures['largest_difference']:.2g})."
            )
        return figures

    def lines(self, checked: Mapping[str, Any]) -> list[str]:
        lines = [
            f"checked   on {checked['images']}: top-1 the same in {checked['top1_same']:.2%}, "
            f"largest difference of a probability {checked['largest_difference']:.2g}"
        ]

        if "accuracy_lost" in checked:
            low, high = (100 * end for end in checked["accuracy_lost_ci95"])
            lines.append(
                f"accuracy  {checked['accuracy']:.2%} instead of "
                f"{checked['accuracy_pytorch']:.2%}: "
                f"{100 * checked['accuracy_lost']:+.2f} points lost "
                f"(95 % paired interval {low:+.2f} to {high:+.2f})"
            )

        if "any_size" in checked:
            other = checked["any_size"]
            lines.append(
                f"resizing  of {other['size']} inside the graph, {other['num_images']} pictures: "
                f"top-1 the same in {other['top1_same']:.2%}, "
                f"largest difference {other['largest_difference']:.2g}"
            )
        return lines


def classified_images(
    run: RunFolder, description: Mapping[str, Any], data: str | None
) -> CheckImages:
    """Return validation images of a classifier's own data, or of `data` with the same classes.

    Raises:
        UserError: the data is not there, or has other classes.
    """
    names = list(description["class_names"])
    images, splits = validation_images(run, description, data)
    unknown = set(splits.spec.class_names) - set(names)
    if unknown:
        raise UserError(
            f"the model does not know the classes {', '.join(sorted(unknown)[:5])} "
            f"of {splits.spec.name}."
        )

    to_model = np.array([names.index(name) for name in splits.spec.class_names])
    return replace(images, targets=to_model[images.targets])


def _accuracy_lost(
    right_before: np.ndarray, right_after: np.ndarray, words: str, max_loss: float
) -> dict[str, Any]:
    only_before = int((right_before & ~right_after).sum())
    only_after = int((~right_before & right_after).sum())
    lost = (only_before - only_after) / len(right_before)
    low, high = statistics.paired_interval(only_before, only_after, len(right_before))

    if low > max_loss:
        raise refused(
            f"accuracy falls by {100 * lost:.1f} points (95 % interval {100 * low:.1f} to "
            f"{100 * high:.1f}) on {words}. "
            f"Allow it with --max-loss {math.ceil(100 * low)}, or leave --int8 out."
        )
    return {"accuracy_lost": lost, "accuracy_lost_ci95": [low, high]}
