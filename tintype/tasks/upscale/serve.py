"""A finished network that enlarges, as the service holds it: it makes photos larger."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from tintype.errors import UserError
from tintype.runs.folder import RunFolder
from tintype.tasks.contract.serve import Between, Served, png_bytes, refuse_large
from tintype.tasks.upscale.pictures import encoded, read_picture

if TYPE_CHECKING:
    from tintype.tasks.upscale.upscaler import Upscaler

TILE = 128  # pixels; between two tiles of a large picture, photos are classified


def open_run(name: str, run: RunFolder, device: str) -> Served:
    """Load a run for the service.

    Raises:
        UserError: the run has no finished model, it is broken, or the device is not there.
    """
    from tintype.tasks.restoring import load_task_of
    from tintype.tasks.upscale.task import Upscale
    from tintype.tasks.upscale.upscaler import Upscaler

    task, description = load_task_of(Upscale, run, device)
    return PhotoEnlarger(name, description, run, Upscaler(task, tile=TILE))


def open_exported(name: str, session: Any, about: Mapping[str, Any]) -> Served:
    """Refuse an exported network.

    Raises:
        UserError: always.
    """
    del session, about
    raise UserError(
        f"{name} is an exported network that enlarges. Give the service its run folder."
    )


class PhotoEnlarger(Served):
    """Makes photos larger."""

    kind = "upscale"
    sample_names = r"test-\d+-low\.png"

    def __init__(
        self, name: str, description: dict[str, Any], run: RunFolder, upscaler: Upscaler
    ) -> None:
        super().__init__(name, description, run)
        self.upscaler = upscaler

    def describe(self) -> dict[str, Any]:
        return {
            **super().describe(),
            "scale": self.upscaler.scale,
            "test": self.test_figures("psnr_y", "ssim_y", "gain"),
        }

    def sentence(self) -> str:
        gain = self.test_figures("gain").get("gain")
        return f"enlarges photos x{self.upscaler.scale}" + (
            "" if gain is None else f", {gain:+.2f} dB over bicubic on test"
        )

    def sample(self, number: int) -> bytes:
        """Return a small test picture, PNG; the run keeps it with each pixel repeated."""
        with Image.open(io.BytesIO(super().sample(number))) as image:
            step = self.upscaler.scale
            return png_bytes(np.ascontiguousarray(np.asarray(image.convert("RGB"))[::step, ::step]))

    def warm_up(self) -> None:
        self.upscaler.enlarge(np.zeros((16, 16, 3), np.uint8))

    def read(self, content: bytes, max_pixels: int) -> Any:
        """Decode the bytes of a file with all its bits and channels. In any thread.

        Raises:
            UserError: it is no still image, damaged, or would become more than `max_pixels` pixels.
        """
        refuse_large(content, max_pixels // self.upscaler.scale**2)
        with tempfile.TemporaryDirectory(prefix="tintype-") as folder:
            path = Path(folder) / "the image"
            path.write_bytes(content)
            return read_picture(path)

    def enlarge(self, between: Between, picture: Any) -> Any:
        """Return the picture enlarged."""
        picture.pixels = self.upscaler.enlarge(picture.pixels, lambda _, __: between())
        return picture

    @staticmethod
    def png(picture: Any) -> bytes:
        """Encode a picture, 16 bits, alpha, EXIF and colour profile kept. In any thread."""
        picture.format = "PNG"
        return encoded(picture)
