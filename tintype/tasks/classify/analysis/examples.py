"""Pictures that explain mistakes.

Confused pairs side by side, and the worst mistakes with what is near them in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from tintype.data.source import ImageSource
from tintype.files.whole import write_picture
from tintype.tasks.classify import metrics
from tintype.tasks.classify.analysis.heatmaps import grad_cam, overlaid
from tintype.tasks.classify.classifier import Classify
from tintype.tasks.task import Evaluation

PAIRS = 5
EXAMPLES = 4  # of each kind in a pair
WORST = 12
NEIGHBOURS = 4
# mean difference of the pixels (0..255) below which two pictures are called the same
SAME_PICTURE = 4.0
CHUNK = 16  # pictures at once with gradients


@dataclass(frozen=True)
class Answers:
    """What the model says of the images of a split."""

    targets: np.ndarray  # (N,) int64
    guesses: np.ndarray  # (N,) int64
    confidence: np.ndarray  # (N,) float32
    features: np.ndarray  # (N, D) float16 of unit length, D 0 where there are none
    class_names: Sequence[str]
    split: str = ""
    source: ImageSource | None = None

    @classmethod
    def of(
        cls,
        task: Classify,
        evaluation: Evaluation,
        source: ImageSource | None = None,
        split: str = "",
    ) -> Self:
        """Read an evaluation at the temperature that the task has now."""
        details = evaluation.details
        probabilities = task.softmax(torch.from_numpy(details["logits"])).numpy()
        return cls(
            details["targets"], probabilities.argmax(1), probabilities.max(1), details["features"],
            task.spec.class_names, split, source,
        )  # fmt: skip

    @property
    def right(self) -> np.ndarray:
        return self.guesses == self.targets

    def mistakes(self) -> np.ndarray:
        """Return the positions of the wrong answers, the surest first."""
        wrong = np.flatnonzero(~self.right)
        return wrong[np.argsort(-self.confidence[wrong], kind="stable")]

    def pixels(self, position: int) -> np.ndarray:
        """Return one image (H, W, C) uint8."""
        assert self.source is not None
        return self.source.take(torch.tensor([position])).images[0].permute(1, 2, 0).cpu().numpy()

    def item(self, position: int) -> dict[str, Any]:
        """Return what the report says of an image, as samples.json does."""
        assert self.source is not None
        target, guess = int(self.targets[position]), int(self.guesses[position])
        return {
            "file": f"{self.split}-{position:06d}.png",
            "position": int(position),
            "name": str(self.source.names[position]),
            "target": self.class_names[target],
            "prediction": self.class_names[guess],
            "confidence": round(float(self.confidence[position]), 4),
            "correct": target == guess,
        }

    def written(self, folder: Path, position: int) -> dict[str, Any]:
        """Write the picture of an image unless it is there, and return its item."""
        item = self.item(position)
        if not (folder / item["file"]).exists():
            write_picture(folder / item["file"], self.pixels(position))
        return item


def confused_pairs(folder: Path, test: Answers) -> list[dict[str, Any]]:
    """Return the most confused pairs, each with pictures.

    They show A taken for B (the surest first), and A and B as recognised.
    """
    confusion = metrics.confusion_matrix(test.guesses, test.targets, len(test.class_names))
    number = {name: k for k, name in enumerate(test.class_names)}
    draw = np.random.default_rng(0)

    pairs = []
    for pair in metrics.most_confused(confusion, test.class_names, PAIRS):
        a, b = number[pair["target"]], number[pair["prediction"]]
        mistakes = test.mistakes()
        taken = mistakes[(test.targets[mistakes] == a) & (test.guesses[mistakes] == b)]
        groups = {
            "mistakes": taken,
            "of_target": _recognised(test, a, draw),
            "of_prediction": _recognised(test, b, draw),
        }
        shown = {
            key: [test.written(folder, i) for i in group[:EXAMPLES].tolist()]
            for key, group in groups.items()
        }
        pairs.append({**pair, **shown})

    return pairs


def _recognised(test: Answers, label: int, draw: np.random.Generator) -> np.ndarray:
    return draw.permutation(np.flatnonzero(test.right & (test.targets == label)))


def worst_mistakes(
    folder: Path, task: Classify, network: nn.Module, test: Answers, train: Answers
) -> dict[str, Any]:
    """Return the surest mistakes, each with its heat map and its nearest training images.

    `train` are the clean training images that were measured, at most 10,000.
    """
    positions = test.mistakes()[:WORST].tolist()
    items = [test.written(folder, i) for i in positions]
    layer = _write_heatmaps(folder, task, network, test, items)

    nearest = nearest_images(test.features[positions], train.features, NEIGHBOURS)
    for item, neighbours in zip(items, nearest, strict=True):
        item["neighbours"] = [
            {
                **train.written(folder, i),
                "similarity": round(similarity, 4),
                "same": _is_same(item, i, test, train),
            }
            for i, similarity in neighbours
        ]

    return {
        "items": items,
        "layer": layer,
        "num_searched": len(train.targets) if train.features.size else 0,
    }


def nearest_images(
    features: np.ndarray, among: np.ndarray, count: int
) -> list[list[tuple[int, float]]]:
    """Return the nearest rows of `among` (N, D) to each row of `features` (M, D).

    There are `count` for each, with their cosine similarity. Rows are of unit length; of equal ones
    the earlier wins.
    """
    if not among.size or not features.size:
        return [[] for _ in features]
    similarity = features.astype(np.float32) @ among.astype(np.float32).T
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :count]
    return [
        [(int(i), float(row[i])) for i in best] for row, best in zip(similarity, order, strict=True)
    ]


def _is_same(item: dict[str, Any], position: int, test: Answers, train: Answers) -> bool:
    """Return whether a training image is (nearly) the same picture.

    The test split is then not as unseen as it should be.
    """
    one, other = (
        test.pixels(item["position"]).astype(np.float32),
        train.pixels(position).astype(np.float32),
    )
    return bool(np.abs(one - other).mean() < SAME_PICTURE)


def _write_heatmaps(
    folder: Path, task: Classify, network: nn.Module, test: Answers, items: list[dict[str, Any]]
) -> str | None:
    """Write a heat map of each item for the class that was predicted.

    The layer is returned, or None where there is none.
    """
    layer = None
    for start in range(0, len(items), CHUNK):
        some = items[start : start + CHUNK]
        assert test.source is not None
        index = torch.tensor([item["position"] for item in some])
        images = test.source.take(index).images
        found = grad_cam(
            network, task.normalise(images), torch.from_numpy(test.guesses[index.numpy()])
        )
        if found is None:
            return None
        layer = found.layer
        for item, image, heat in zip(some, images, found.maps, strict=True):
            item["heat"] = f"heat-{item['position']:06d}.png"
            write_picture(
                folder / item["heat"], overlaid(image.permute(1, 2, 0).cpu().numpy(), heat)
            )

    return layer
