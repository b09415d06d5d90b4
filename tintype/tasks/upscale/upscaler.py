"""A network that enlarges, ready for any picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import distance_transform_edt

from tintype.errors import UserError
from tintype.hardware.device import choose_device
from tintype.runs.folder import RunFolder
from tintype.runs.packed import is_packed
from tintype.tasks.restoring import load_task
from tintype.tasks.upscale.foreign import load_foreign
from tintype.tasks.upscale.pictures import from_pillow, read_picture, to_pillow
from tintype.tasks.upscale.task import TILE, Upscale

LARGEST_OUTPUT = 1_000_000_000  # pixels: 3 GB of memory for the picture alone


class Upscaler:
    """A network that enlarges, ready to be used."""

    def __init__(self, task: Upscale, tile: int = TILE) -> None:
        if tile < 16:
            raise UserError(f"a tile of {tile} pixels is too small. Expected 16 or more.")
        self.task = task
        self.tile = tile

    @classmethod
    def of(cls, run: RunFolder | Path, *, tile: int = TILE, device: str = "auto") -> Upscaler:
        """Load the model of a run, or a weight file of somebody else's network.

        Raises:
            UserError: the run has no finished model, or it is none that enlarges.
        """
        if isinstance(run, Path):
            if run.is_file() and not is_packed(run):
                return cls(load_foreign(run, choose_device(device)[0]), tile)
            run = RunFolder.open(run)
        task, description = load_task(run, device)
        if not isinstance(task, Upscale):
            raise UserError(
                f"{run.path} is a run of task {description['task']}, which enlarges nothing. "
                "Train one that does: tintype train photos-x2"
            )
        return cls(task, tile)

    @property
    def scale(self) -> int:
        """How many times larger the pictures become."""
        return self.task.scale

    def enlarge(
        self, pixels: np.ndarray, on_progress: Callable[[int, int], None] | None = None
    ) -> np.ndarray:
        """Return pixels (H, W, C) uint8 or uint16 enlarged.

        Alpha, the last of 2 or 4 channels, is enlarged by bicubic.

        Colours count by their alpha. Those under full transparency mean nothing and are not kept.

        Raises:
            UserError: the result would be too large.
        """
        height, width = pixels.shape[:2]
        if height * width * self.scale**2 > LARGEST_OUTPUT:
            raise UserError(
                f"it would become {width * self.scale} x {height * self.scale} pixels, "
                "more than a billion."
            )
        network = self.task.networks[self.task.main]
        return self._enlarged(
            pixels,
            lambda low: self.task.enlarge(network, low, tile=self.tile, on_progress=on_progress),
        )

    def bicubic(self, pixels: np.ndarray) -> np.ndarray:
        """Return pixels (H, W, C) uint8 or uint16 enlarged by bicubic interpolation."""
        return self._enlarged(pixels, lambda low: self.task.bicubic(low, tile=self.tile))

    def _enlarged(
        self, pixels: np.ndarray, enlarge: Callable[[torch.Tensor], torch.Tensor]
    ) -> np.ndarray:
        if pixels.shape[2] not in (2, 4):
            return _array(enlarge(_planes(pixels)), pixels.dtype)
        if pixels[:, :, -1].min() < np.iinfo(pixels.dtype).max:
            return _array(enlarge(_planes(visible_colours(pixels))), pixels.dtype)

        large = _array(enlarge(_planes(pixels[:, :, :-1])), pixels.dtype)
        opaque = np.full((*large.shape[:2], 1), np.iinfo(pixels.dtype).max, pixels.dtype)
        return np.concatenate([large, opaque], axis=2)

    def __call__(self, image: Any, on_progress: Callable[[int, int], None] | None = None) -> Any:
        """Enlarge a file, a Pillow image, or an array (H, W) or (H, W, C) of uint8 or uint16."""
        if isinstance(image, np.ndarray):
            return self._of_array(image, on_progress)
        picture = (
            from_pillow(image) if isinstance(image, Image.Image) else read_picture(Path(image))
        )
        picture.pixels = self.enlarge(picture.pixels, on_progress)
        return to_pillow(picture)

    def _of_array(
        self, pixels: np.ndarray, on_progress: Callable[[int, int], None] | None
    ) -> np.ndarray:
        right_shape = pixels.ndim == 2 or (pixels.ndim == 3 and 1 <= pixels.shape[2] <= 4)
        if pixels.dtype not in (np.uint8, np.uint16) or not right_shape or not pixels.size:
            raise UserError(
                f"cannot enlarge an array {pixels.shape} of {pixels.dtype}. Expected (H, W) or (H, "
                "W, C) of uint8 or uint16, with 1 to 4 channels."
            )
        large = self.enlarge(pixels.reshape(*pixels.shape[:2], -1), on_progress)
        return large[:, :, 0] if pixels.ndim == 2 else large


def visible_colours(pixels: np.ndarray) -> np.ndarray:
    """Return pixels (H, W, C) whose invisible ones have the colour of the nearest visible pixel."""
    hidden = pixels[:, :, -1] == 0
    if not hidden.any() or hidden.all():
        return pixels
    rows, columns = distance_transform_edt(  # pyright: ignore[reportGeneralTypeIssues]
        hidden, return_distances=False, return_indices=True
    )
    filled = pixels[rows, columns]
    filled[:, :, -1] = pixels[:, :, -1]
    return filled


def _planes(pixels: np.ndarray) -> torch.Tensor:
    """Return (C, H, W) uint8, or int32 for 16 bits, on which torch can compute."""
    wide = pixels.astype(np.int32) if pixels.dtype == np.uint16 else np.array(pixels)
    return torch.from_numpy(wide).permute(2, 0, 1)


def _array(planes: torch.Tensor, dtype: Any) -> np.ndarray:
    return planes.permute(1, 2, 0).contiguous().numpy().astype(dtype, copy=False)
