"""Your own network, loss, augmentation, metric, callback and data, on the digits of scikit-learn.

python examples/own_code.py
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import tintype as tt


# A network. What is called like a fact of the images is filled in: num_classes, channels, height,
# width, image_size, or spec for all of them. The rest comes from model_options.
class Net(nn.Module):
    def __init__(self, num_classes: int, channels: int, filters: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, filters, 3, padding=1),
            nn.BatchNorm2d(filters),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(filters, 2 * filters, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.LazyLinear(num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:  # (N, C, H, W) float32, normalised
        return self.body(images)


# A loss: a scalar, or a number for each image.
def focal(logits: Tensor, targets: Tensor) -> Tensor:
    losses = F.cross_entropy(logits, targets, reduction="none")
    return (1 - (-losses).exp()) ** 2 * losses


# An augmentation of a batch (N, C, H, W) uint8.
def moved(images: Tensor) -> Tensor:
    shift = int(torch.randint(-1, 2, ()))
    return images.roll(shift, dims=3)


# A figure of a whole split.
def sure(answers: np.ndarray, targets: np.ndarray) -> float:
    """Return the share of images that are answered rightly, with at least 90 %."""
    right = answers.argmax(1) == targets
    return float((right & (answers.max(1) >= 0.9)).mean())


# A callback at each evaluation; True ends the run.
def until_good(step: int, epoch: float, figures: dict[str, float]) -> bool:
    return figures["accuracy"] >= 0.98


digits = cast(Any, load_digits())
images = (digits.images * 255 / 16).astype(np.uint8)  # (N, 8, 8)

run = tt.train(
    data=(images, digits.target),
    model=Net,
    model_options={"filters": 12},
    loss=focal,
    augment=moved,
    metrics=[sure],
    watchers=[until_good],
    optimizer="adamw",
    lr=0.01,
    epochs=10,
    name="own-code",
)

test = run.metrics["test"]
print(f"test accuracy {test['accuracy']:.1%}, {test['sure']:.1%} right and sure of it")

# Back to PyTorch.
network = run.model  # in eval mode
with torch.no_grad():
    logits = network(run.preprocess(images[0])[None])
print(f"the first picture is a {run.class_names[int(logits.argmax())]}")

# The run keeps the text of the code, and opening it elsewhere executes none of it. To train on, to
# resume, or for run.model there, name the code: tt.load(run.path, trust=Net).
print("\n".join(f"{code['field']}: {code['reference']}" for code in run.read("model.json")["code"]))
