"""A network that enlarges, ready for any picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tintype.distributed import choose_device
from tintype.errors import UserError
from tintype.predict import load_task
from tintype.run import RunFolder
from tintype.tasks.upscale import TILE, Upscale
from tintype.upscaling.foreign import ENDINGS, load_foreign
from tintype.upscaling.pictures import from_pillow, read_picture, to_pillow

LARGEST_OUTPUT = 1_000_000_000  # pixels: 3 GB of memory for the picture alone


class Upscaler:
    """A network that enlarges, ready to be used."""

    def __init__(self, task: Upscale, tile: int = TILE) -> None:
        if tile < 16:
            raise UserError(f"a tile of {tile} pixels is too small. Expected 16 or more.")
        self.task, self.tile = task, tile

    @classmethod
    def of(cls, run: RunFolder | Path, *, tile: int = TILE, device: str = "auto") -> Upscaler:
        """Load the model of a run, or a weight file of somebody else's network.

        Raises:
            UserError: the run has no finished model, or it is none that enlarges.
        """
        if isinstance(run, Path):
            if run.is_file() and run.suffix in ENDINGS:
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

    def enlarge(self, pixels: np.ndarray, on_progress: Callable[[int, int], None] | None = None) -> np.ndarray:
        """Return pixels (H, W, C) uint8 or uint16 enlarged; alpha, the last of 2 or 4 channels, by bicubic.

        Raises:
            UserError: the result would be too large.
        """
        height, width, channels = pixels.shape
        if height * width * self.scale**2 > LARGEST_OUTPUT:
            raise UserError(
                f"it would become {width * self.scale} x {height * self.scale} pixels, more than a billion."
            )
        low = _planes(pixels)
        network = self.task.networks[self.task.main]
        colour = self.task.enlarge(network, low[: 3 if channels > 2 else 1], tile=self.tile, on_progress=on_progress)
        large = _array(colour, pixels.dtype)
        if channels not in (2, 4):
            return large
        alpha = _array(self.task.bicubic(low[-1:], tile=self.tile), pixels.dtype)
        return np.concatenate([large, alpha], axis=2)

    def bicubic(self, pixels: np.ndarray) -> np.ndarray:
        """Return pixels (H, W, C) uint8 or uint16 enlarged by bicubic interpolation."""
        return _array(self.task.bicubic(_planes(pixels), tile=self.tile), pixels.dtype)

    def __call__(self, image: Any) -> Any:
        """Enlarge a file (giving a Pillow image), a Pillow image, or an array (H, W) or (H, W, C) of uint8 or uint16."""
        if isinstance(image, np.ndarray):
            return self._of_array(image)
        picture = from_pillow(image) if isinstance(image, Image.Image) else read_picture(Path(image))
        picture.pixels = self.enlarge(picture.pixels)
        return to_pillow(picture)

    def _of_array(self, pixels: np.ndarray) -> np.ndarray:
        right_shape = pixels.ndim == 2 or (pixels.ndim == 3 and 1 <= pixels.shape[2] <= 4)
        if pixels.dtype not in (np.uint8, np.uint16) or not right_shape or not pixels.size:
            raise UserError(
                f"cannot enlarge an array {pixels.shape} of {pixels.dtype}. Expected (H, W) or (H, W, C) of uint8 or uint16, "
                "with 1 to 4 channels."
            )
        large = self.enlarge(pixels.reshape(*pixels.shape[:2], -1))
        return large[:, :, 0] if pixels.ndim == 2 else large


def _planes(pixels: np.ndarray) -> torch.Tensor:
    """Return (C, H, W) uint8, or int32 for 16 bits, on which torch can compute."""
    wide = pixels.astype(np.int32) if pixels.dtype == np.uint16 else np.array(pixels)
    return torch.from_numpy(wide).permute(2, 0, 1)


def _array(planes: torch.Tensor, dtype: Any) -> np.ndarray:
    return planes.permute(1, 2, 0).contiguous().numpy().astype(dtype, copy=False)
