"""What an export is checked on: the validation images of the run, or those of another data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tintype.data import open_data
from tintype.errors import UserError
from tintype.runs.folder import RunFolder
from tintype.runs.model import resize_of
from tintype.tasks.upscale.sets.pairs import open_pairs, open_whole
from tintype.tasks.upscale.task import Upscale

MOST = 2_000  # images that are compared at most
# of all of them together: about a minute for each side, on a small machine
MOST_MULTIPLY_ADDS = 2e12
LEAST = 64
MOST_PHOTOS = 16
LARGEST = 256  # pixels of a side of the small picture


@dataclass(frozen=True)
class CheckImages:
    """Images of the model's size (N, H, W, C) uint8 with their classes (N,) int64, and where they
    are from.
    """

    pixels: np.ndarray
    targets: np.ndarray
    words: str  # "720 validation images"

    def rgb(self) -> np.ndarray:
        """Return the pixels in three channels (N, H, W, 3)."""
        return np.array(np.broadcast_to(self.pixels, (*self.pixels.shape[:3], 3)))


def how_many(description: Mapping[str, Any]) -> int:
    """Return how many images to compare, so that the check of a large network ends in a minute or
    two.
    """
    return int(min(MOST, max(LEAST, MOST_MULTIPLY_ADDS / max(1, description["multiply_adds"]))))


def classified_images(
    run: RunFolder, description: Mapping[str, Any], data: str | None
) -> CheckImages:
    """Return validation images of a classifier's own data, or of `data` with the same classes; evenly spread ones of many.

    Raises:
        UserError: the data is not there, or has other classes.
    """
    recipe, how, names = run.recipe, description["preprocessing"], list(description["class_names"])
    loading = {
        key: getattr(recipe, key)
        for key in ("val_fraction", "test_fraction", "split_seed", "groups")
    }

    try:
        splits = open_data(
            data or recipe.data, data_root=None if data else recipe.data_root, image_size=(how["height"], how["width"]),
            channels=how["channels"], resize=resize_of(dict(description)), split_rule=recipe.split_rule, **loading,
        )  # fmt: skip
    except UserError as error:
        raise _not_there(recipe.data, data, error) from None

    unknown = set(splits.spec.class_names) - set(names)
    if unknown:
        raise UserError(
            f"the model does not know the classes {', '.join(sorted(unknown)[:5])} of {splits.spec.name}."
        )

    source = splits.val
    index = _spread(len(source), how_many(description))
    pixels = source.take(torch.from_numpy(index)).images.permute(0, 2, 3, 1).cpu().numpy()
    to_model = np.array([names.index(name) for name in splits.spec.class_names])
    targets = to_model[source.targets.numpy()[index]]
    of_many = f" of {len(source):,}" if len(index) < len(source) else ""

    return CheckImages(
        np.ascontiguousarray(pixels), targets, f"{len(index):,}{of_many} validation images"
    )


def photo_pairs(
    run: RunFolder, task: Upscale, description: Mapping[str, Any], data: str | None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return small pictures (h, w, 3) uint8 with the originals (H, W, 3): of validation photos, or of `data`.

    Of a large photo the upper left part is taken.

    Raises:
        UserError: the data is not there.
    """
    recipe = run.recipe
    loading = {
        key: getattr(recipe, key)
        for key in ("val_fraction", "test_fraction", "split_seed", "groups")
    }
    options = {
        key: recipe.task_options[key] for key in ("scale", "patch") if key in recipe.task_options
    }

    try:
        photos = (
            open_whole(data, task.scale, None)
            if data
            else open_pairs(
                recipe.data, data_root=recipe.data_root, image_size=recipe.image_size,
                resize=resize_of(dict(description)), **loading, **options,
            ).val
        )  # fmt: skip
    except UserError as error:
        raise _not_there(recipe.data, data, error) from None

    found = []
    for number in range(min(len(photos), MOST_PHOTOS)):
        low, high = task.measured_pair(photos, number)
        small = low[:, :LARGEST, :LARGEST].permute(1, 2, 0).numpy()
        found.append((_rgb(small), _rgb(high[: LARGEST * task.scale, : LARGEST * task.scale])))

    return found


def _rgb(picture: np.ndarray) -> np.ndarray:
    return np.array(np.broadcast_to(picture, (*picture.shape[:2], 3)))


def _not_there(own: str, data: str | None, error: UserError) -> UserError:
    if data:
        return error
    return UserError(
        f"an export is checked on validation images, and those of {own} cannot be opened: {error} "
        "Name other images of the same kind: --data FOLDER"
    )


def _spread(count: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))
