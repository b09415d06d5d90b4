"""What is exported of a regression, and how its numbers are checked beside PyTorch's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tintype import statistics
from tintype.data.decode import Resize
from tintype.tasks.contract.agreement import refused
from tintype.tasks.contract.export import Answer
from tintype.tasks.contract.photo_export import PhotoExport, PhotoGraph
from tintype.tasks.regress.metrics import in_digits
from tintype.tasks.regress.objective import split_outputs
from tintype.tasks.regress.regressor import Regress

# In deviations of the training numbers, between the numbers of the graph and PyTorch's.
SAME = {"float32": 1e-3, "float16": 0.05}
FURTHEST = 0.1  # on average, by resizing in the graph
MOST_PERCENT = 5.0  # by which a quantised model may be further off by default


class RegressorGraph(PhotoGraph):
    """Pictures of any size to numbers and then their scales (N, 2 K) float32."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, task: Regress, network: nn.Module, resize: Resize) -> None:
        super().__init__(task.spec, network, resize)
        self.register_buffer("mean", torch.tensor(task.mean))
        self.register_buffer("deviation", torch.tensor(task.deviation))

    def forward(self, images: Tensor) -> Tensor:
        numbers, log_scales = split_outputs(self.network(self.pixels(images)))
        numbers = numbers * self.deviation + self.mean
        return torch.cat([numbers, log_scales.exp() * self.deviation], dim=1)


class Export(PhotoExport[Regress]):
    """A regression: its numbers must be PyTorch's, and 8 bits may cost a part of the error."""

    # 8 bits of the last layer would be steps between which no number lies
    keeps_ends = True
    described_by = ("columns", "preprocessing", "level", "quantiles", "typical")
    output = "numbers"

    def photo_graph(self, network: nn.Module) -> PhotoGraph:
        return RegressorGraph(self.task, network, self.resize)

    def computed(self, network: nn.Module, images: Tensor) -> Tensor:
        return torch.cat(self.task.predict(network, images), dim=1)

    def check(self, answer: Answer, precision: str, max_loss: float | None) -> dict[str, Any]:
        expected = self.by_pytorch(self.images.pixels)
        got = self.by_graph(answer, self.images.rgb())
        if not np.isfinite(got).all():
            raise refused("some numbers are not finite.")

        difference = abs(expected - got)
        furthest = difference.max(0)[: len(self.task.columns)]
        checked: dict[str, Any] = {
            "images": self.images.words,
            "num_images": len(got),
            "largest_difference": furthest.tolist(),
        }
        if precision == "int8":
            allowed = (MOST_PERCENT if max_loss is None else max_loss) / 100
            return checked | self._error_added(expected, got, allowed)

        apart = float((difference / self._units()).max())
        if apart > SAME[precision]:
            raise refused(
                f"its numbers differ from PyTorch's by up to {apart:.2g} deviations of the "
                f"training numbers on {self.images.words}; expected {SAME[precision]:g} at most."
            )
        checked["any_size"] = self._check_resizing(answer)
        return checked

    def _units(self) -> np.ndarray:
        """Return the deviation of each output (2 K,)."""
        return np.array([*self.task.deviation, *self.task.deviation])

    def _error_added(
        self, expected: np.ndarray, got: np.ndarray, max_loss: float
    ) -> dict[str, Any]:
        """Return by how much a quantised model is further off, in parts of the error before."""
        targets = np.asarray(self.images.targets, np.float64)
        columns = targets.shape[1]
        units = np.array(self.task.deviation)
        before, after = (
            (abs(answers[:, :columns] - targets) / units).mean(1) for answers in (expected, got)
        )
        floor = max(float(before.mean()), 1e-9)
        added = (after - before) / floor
        low, high = statistics.mean_interval(added) or (math.nan, math.nan)

        if low > max_loss:
            raise refused(
                f"the mean absolute error rises by {added.mean():.1%} (95 % interval {low:.1%} to "
                f"{high:.1%}) on {self.images.words}. Allow it with --max-loss "
                f"{math.ceil(100 * low)}, or leave --int8 out."
            )
        return {"error_added": float(added.mean()), "error_added_ci95": [low, high]}

    def _check_resizing(self, answer: Answer) -> dict[str, Any]:
        """Return how the graph agrees with Pillow on pictures that it resizes itself."""
        fitted, rgb, size = self.images.resized(self.task.spec, self.resize)
        difference = abs(self.by_pytorch(fitted) - self.by_graph(answer, rgb)) / self._units()
        if difference.mean() > FURTHEST:
            raise refused(
                f"pictures of {size} pixels give other numbers than Pillow's resizing does (by "
                f"{difference.mean():.2g} deviations of the training numbers on average)."
            )
        return {"num_images": len(rgb), "size": size, "mean_difference": float(difference.mean())}

    def lines(self, checked: Mapping[str, Any]) -> list[str]:
        pairs = zip(self.task.columns, checked["largest_difference"], strict=True)
        furthest = ", ".join(f"{in_digits(each)} ({column})" for column, each in pairs)
        lines = [f"checked   on {checked['images']}: largest difference {furthest}"]

        if "error_added" in checked:
            low, high = checked["error_added_ci95"]
            lines.append(
                f"error     {checked['error_added']:+.1%} (95 % paired "
                f"interval {low:+.1%} to {high:+.1%})"
            )
        if "any_size" in checked:
            other = checked["any_size"]
            lines.append(
                f"resizing  of {other['size']} inside the graph, {other['num_images']} pictures: "
                f"{other['mean_difference']:.2g} deviations apart on average"
            )
        return lines
