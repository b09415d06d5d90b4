"""What is exported of a classifier, and how its answers are checked beside PyTorch's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tintype import statistics
from tintype.data.decode import Resize
from tintype.errors import UserError
from tintype.models.parts.backbone import for_inference
from tintype.runs.folder import RunFolder
from tintype.runs.model import resize_of
from tintype.tasks.classify.classifier import Classify, views
from tintype.tasks.contract.agreement import refused
from tintype.tasks.contract.check_images import CheckImages, batches, validation_images
from tintype.tasks.contract.export import Answer, Exportable, Graph
from tintype.tasks.contract.resizing import Resizer

SAME = 0.999  # of the top-1 answers must be identical
FURTHEST = 0.02  # mean difference of probabilities that resizing in the graph may make
MOST_POINTS = 2.0  # of accuracy that a quantised model may lose by default


class ClassifierGraph(nn.Module):
    """Pictures (N, H, W, 3) uint8 of any size to calibrated class probabilities (N, K) float32."""

    def __init__(self, task: Classify, network: nn.Module, resize: Resize) -> None:
        super().__init__()
        spec = task.spec
        self.resizer = Resizer(spec.channels, spec.height, spec.width, resize)
        self.network, self.tta, self.temperature = network, task.tta, task.temperature
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (spec.mean, spec.std))
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)

    def forward(self, images: Tensor) -> Tensor:
        pixels = self.resizer(images) * self.scale + self.shift
        logits = sum(weight * self.network(view) for weight, view in views(pixels, self.tta))
        return torch.softmax(torch.as_tensor(logits) / self.temperature, dim=1)


class Export(Exportable[Classify]):
    """A classifier: its probabilities must be PyTorch's, and 8 bits may cost some accuracy."""

    described_by = ("class_names", "preprocessing", "temperature", "abstain", "typical", "tta")
    images: CheckImages

    def read_images(self, data: str | None) -> None:
        self.images = classified_images(self.run, self.description, data)

    def about(self) -> dict[str, Any]:
        # absent from models that were made before thresholds were fitted
        return {"abstain": [], **super().about()}

    def network(self) -> nn.Module:
        """Return a copy with batch norms folded into convolutions, which 8 bits need."""
        return for_inference(self.task.networks[self.task.main], self.task.spec)

    def graph(self, network: nn.Module) -> Graph:
        # Neither square nor of the model's size, so that no side is taken for another.
        images = torch.arange(2 * 37 * 41 * 3).reshape(2, 37, 41, 3).to(torch.uint8)
        dynamic = {"images": {0: "batch", 1: "height", 2: "width"}}
        module = ClassifierGraph(self.task, network, self.resize)
        return Graph(module, {"images": images}, "probabilities", dynamic)

    @property
    def resize(self) -> Resize:
        return resize_of(dict(self.description))

    def calibration(self) -> Iterator[dict[str, np.ndarray]]:
        calibrating, self.images = self.images.divided()
        for image in calibrating.rgb():
            yield {"images": image[None]}

    def check(self, answer: Answer, precision: str, max_loss: float | None) -> dict[str, Any]:
        allowed = None
        if precision == "int8":
            allowed = (MOST_POINTS if max_loss is None else max_loss) / 100
        return check_classifier(self.task, self.images, answer, self.resize, max_loss=allowed)

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

    def timed(self, answer: Answer, graph: Graph) -> tuple[Callable[[], Any], Callable[[], Any]]:
        network = self.task.networks[self.task.main]
        one = np.ascontiguousarray(self.images.rgb()[:1])
        pixels = torch.from_numpy(np.ascontiguousarray(self.images.pixels[:1])).permute(0, 3, 1, 2)
        return (
            lambda: answer({"images": one}),
            lambda: self.task.probabilities(network, pixels),
        )


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


def check_classifier(
    task: Classify, images: CheckImages, answer: Answer, resize: Resize, *, max_loss: float | None
) -> dict[str, Any]:
    """Return how the answers of an exported classifier agree with PyTorch's in float32.

    Args:
        task: the task around the network of the run.
        images: validation images that calibration has not seen.
        answer: the exported graph.
        resize: how the model brings pictures to size.
        max_loss: None where the answers must be the same; for a quantised model, how much accuracy
            it may surely lose.

    Raises:
        UserError: they do not agree, or too much accuracy is lost.
    """
    expected = _pytorch(task, images.pixels)
    got = _exported(answer, images.rgb())
    if not np.isfinite(got).all():
        raise refused("some answers are not finite numbers.")

    same = expected.argmax(1) == got.argmax(1)
    right_before = expected.argmax(1) == images.targets
    right_after = got.argmax(1) == images.targets
    figures: dict[str, Any] = {
        "images": images.words,
        "num_images": len(same),
        "top1_same": float(same.mean()),
        "largest_difference": float(np.abs(expected - got).max()),
        "accuracy_pytorch": float(right_before.mean()),
        "accuracy": float(right_after.mean()),
    }

    if max_loss is not None:
        return figures | _accuracy_lost(right_before, right_after, images.words, max_loss)
    if figures["top1_same"] < SAME:
        raise refused(
            f"the top-1 answers are the same for {same.mean():.2%} of {images.words}; expected "
            f"{SAME:.1%} (largest difference of a probability {figures['largest_difference']:.2g})."
        )
    figures["any_size"] = _check_resizing(task, images, answer, resize)
    return figures


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


def _check_resizing(
    task: Classify, images: CheckImages, answer: Answer, resize: Resize
) -> dict[str, Any]:
    """Return how the graph agrees with Pillow and PyTorch on pictures that it resizes itself."""
    fitted, rgb, size = images.resized(task.spec, resize)
    expected, got = _pytorch(task, fitted), _exported(answer, rgb)
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


def _pytorch(task: Classify, pixels: np.ndarray) -> np.ndarray:
    network = task.networks[task.main]
    images = (torch.from_numpy(part).permute(0, 3, 1, 2) for part in batches(pixels))
    return np.concatenate([task.probabilities(network, some).cpu().numpy() for some in images])


def _exported(answer: Answer, rgb: np.ndarray) -> np.ndarray:
    return np.concatenate([answer({"images": part}) for part in batches(rgb)])
