"""What is exported of a regression, and how its numbers are checked beside PyTorch's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tintype import statistics
from tintype.data.decode import Resize
from tintype.models.parts.backbone import for_inference
from tintype.runs.model import resize_of
from tintype.tasks.contract.agreement import refused
from tintype.tasks.contract.check_images import CheckImages, batches, validation_images
from tintype.tasks.contract.export import Answer, Exportable, Graph
from tintype.tasks.contract.resizing import Resizer
from tintype.tasks.regress.metrics import in_digits
from tintype.tasks.regress.objective import split_outputs
from tintype.tasks.regress.regressor import Regress

# In deviations of the training numbers, between the numbers of the graph and PyTorch's.
SAME = {"float32": 1e-3, "float16": 0.05}
FURTHEST = 0.1  # on average, by resizing in the graph
MOST_PERCENT = 5.0  # by which a quantised model may be further off by default


class RegressorGraph(nn.Module):
    """Pictures (N, H, W, 3) uint8 of any size to numbers and then their scales (N, 2 K) float32."""

    scale: Tensor
    shift: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(self, task: Regress, network: nn.Module, resize: Resize) -> None:
        super().__init__()
        spec = task.spec
        self.resizer = Resizer(spec.channels, spec.height, spec.width, resize)
        self.network = network
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (spec.mean, spec.std))
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)
        self.register_buffer("mean", torch.tensor(task.mean))
        self.register_buffer("deviation", torch.tensor(task.deviation))

    def forward(self, images: Tensor) -> Tensor:
        pixels = self.resizer(images) * self.scale + self.shift
        numbers, log_scales = split_outputs(self.network(pixels))
        numbers = numbers * self.deviation + self.mean
        return torch.cat([numbers, log_scales.exp() * self.deviation], dim=1)


class Export(Exportable[Regress]):
    """A regression: its numbers must be PyTorch's, and 8 bits may cost a part of the error."""

    # 8 bits of the last layer would be steps between which no number lies
    keeps_ends = True
    described_by = ("columns", "preprocessing", "level", "quantiles", "typical")
    images: CheckImages

    def read_images(self, data: str | None) -> None:
        self.images, _ = validation_images(self.run, self.description, data)

    def network(self) -> nn.Module:
        """Return a copy with batch norms folded into convolutions, which 8 bits need."""
        return for_inference(self.task.networks[self.task.main], self.task.spec)

    def graph(self, network: nn.Module) -> Graph:
        # Neither square nor of the model's size, so that no side is taken for another.
        images = torch.arange(2 * 37 * 41 * 3).reshape(2, 37, 41, 3).to(torch.uint8)
        dynamic = {"images": {0: "batch", 1: "height", 2: "width"}}
        module = RegressorGraph(self.task, network, self.resize)
        return Graph(module, {"images": images}, "numbers", dynamic)

    @property
    def resize(self) -> Resize:
        """How a picture is brought to the model's size."""
        return resize_of(dict(self.description))

    def calibration(self) -> Iterator[dict[str, np.ndarray]]:
        calibrating, self.images = self.images.divided()
        for image in calibrating.rgb():
            yield {"images": image[None]}

    def check(self, answer: Answer, precision: str, max_loss: float | None) -> dict[str, Any]:
        expected = self._pytorch(self.images.pixels)
        got = _exported(answer, self.images.rgb())
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
        difference = abs(self._pytorch(fitted) - _exported(answer, rgb)) / self._units()
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

    def timed(self, answer: Answer, graph: Graph) -> tuple[Callable[[], Any], Callable[[], Any]]:
        network = self.task.networks[self.task.main]
        one = np.ascontiguousarray(self.images.rgb()[:1])
        pixels = torch.from_numpy(np.ascontiguousarray(self.images.pixels[:1])).permute(0, 3, 1, 2)
        return (
            lambda: answer({"images": one}),
            lambda: self.task.predict(network, pixels),
        )

    def _pytorch(self, pixels: np.ndarray) -> np.ndarray:
        network = self.task.networks[self.task.main]
        images = (torch.from_numpy(part).permute(0, 3, 1, 2) for part in batches(pixels))
        answers = [torch.cat(self.task.predict(network, some), dim=1) for some in images]
        return torch.cat(answers).cpu().numpy()


def _exported(answer: Answer, rgb: np.ndarray) -> np.ndarray:
    return np.concatenate([answer({"images": part}) for part in batches(rgb)])
