"""The images that an export is checked on: validation images of the run, or of another data set."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from tintype.data.decode import Resize, fit
from tintype.data.source import DataSpec, DataSplits
from tintype.errors import UserError
from tintype.runs.folder import RunFolder
from tintype.tasks.contract.own_data import not_there, open_divided

MOST = 2_000  # images that are compared at most
# of all of them together: about a minute for each side, on a small machine
MOST_MULTIPLY_ADDS = 2e12
LEAST = 64
MOST_CALIBRATION = 200  # images; more changes the ranges hardly
MOST_RESIZED = 64  # images that are also given at another size
ODD = (1.37, 1.61)  # of the height and the width: no whole factor, not the same


@dataclass(frozen=True)
class CheckImages:
    """Images of the model's size (N, H, W, C) uint8 with their targets, and where they are from.

    Attributes:
        pixels: the images.
        targets: (N, ...) as the task has them.
        words: what they are, as "720 validation images".
    """

    pixels: np.ndarray
    targets: np.ndarray
    words: str

    def __len__(self) -> int:
        return len(self.pixels)

    def rgb(self) -> np.ndarray:
        """Return the pixels in three channels (N, H, W, 3)."""
        return np.array(np.broadcast_to(self.pixels, (*self.pixels.shape[:3], 3)))

    def divided(self) -> tuple[CheckImages, CheckImages]:
        """Return images to calibrate a quantised model on, and the others to check it on."""
        seen = np.zeros(len(self), bool)
        seen[:: max(2, len(self) // MOST_CALIBRATION)] = True
        num_seen, num_left = int(seen.sum()), int((~seen).sum())
        words = f"{num_left:,} validation images, others than the {num_seen:,} that calibrated it"
        return (
            CheckImages(self.pixels[seen], self.targets[seen], f"{num_seen:,} validation images"),
            CheckImages(self.pixels[~seen], self.targets[~seen], words),
        )

    def resized(self, spec: DataSpec, resize: Resize) -> tuple[np.ndarray, np.ndarray, str]:
        """Return some of the images at another size, which a graph resizes itself.

        Returns:
            (N, h, w, C) uint8 as Pillow brings them to the model's size; (N, H, W, 3) uint8 at the
            other size; and that size in words.
        """
        size = (math.ceil(ODD[1] * spec.width), math.ceil(ODD[0] * spec.height))
        plain = [_plain(pixels) for pixels in self.pixels[:MOST_RESIZED]]
        odd = [Image.fromarray(p).resize(size, Image.Resampling.BICUBIC) for p in plain]

        to_size: dict[str, Any] = {
            "height": spec.height, "width": spec.width, "channels": spec.channels, "resize": resize,
        }  # fmt: skip
        fitted = np.stack([fit(np.asarray(picture), **to_size) for picture in odd])
        rgb = np.stack([np.asarray(picture.convert("RGB")) for picture in odd])
        return fitted, rgb, f"{size[0]}x{size[1]}"


def validation_images(
    run: RunFolder, description: Mapping[str, Any], data: str | None
) -> tuple[CheckImages, DataSplits]:
    """Return validation images of a run's own data, or of `data`, with what they were taken from.

    Of many, evenly spread ones are taken.

    Raises:
        UserError: the data is not there.
    """
    try:
        splits = open_divided(run, description, data)
    except UserError as error:
        raise not_there(run.recipe.data, data, error) from None

    source = splits.val
    index = _spread(len(source), how_many(description))
    pixels = source.take(torch.from_numpy(index)).images.permute(0, 2, 3, 1).cpu().numpy()
    of_many = f" of {len(source):,}" if len(index) < len(source) else ""
    words = f"{len(index):,}{of_many} validation images"
    targets = source.targets.numpy()[index]
    return CheckImages(np.ascontiguousarray(pixels), targets, words), splits


def how_many(description: Mapping[str, Any]) -> int:
    """Return how many images to compare, so that the check of a large network ends in a minute or
    two.
    """
    return int(min(MOST, max(LEAST, MOST_MULTIPLY_ADDS / max(1, description["multiply_adds"]))))


def batches(pixels: np.ndarray) -> Iterator[np.ndarray]:
    """Cut pictures into batches of about a million values, and of at most 50.

    So the check sees more than one batch size.
    """
    size = int(max(1, min(50, 4_000_000 // pixels[0].size)))
    for start in range(0, len(pixels), size):
        yield np.ascontiguousarray(pixels[start : start + size])


def _spread(count: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def _plain(pixels: np.ndarray) -> np.ndarray:
    return pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
