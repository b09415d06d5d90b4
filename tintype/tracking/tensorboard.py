"""TensorBoard: writes curves, images and the recipe; `tensorboard --logdir runs` shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from tintype.tracking.tracker import RunInfo, Tracker, numbers

NEEDS = "tensorboard"


def start(info: RunInfo) -> Tracker:
    """Write to the folder `tensorboard` inside the run."""
    return TensorBoard(info)


class TensorBoard(Tracker):
    """Write event files. A resumed run adds one, and TensorBoard joins them."""

    def __init__(self, info: RunInfo) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        folder = info.folder / "tensorboard"
        self.writer = SummaryWriter(str(folder))
        self.id = "tensorboard"
        self.where = f"tensorboard --logdir {info.root}"

        if info.id is None:
            recipe = yaml.safe_dump(dict(info.recipe), sort_keys=False, allow_unicode=True)
            self.writer.add_text(
                "recipe", "".join(f"    {line}\n" for line in recipe.splitlines()), 0
            )

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            for name, value in numbers(row).items():
                self.writer.add_scalar(name, value, int(row["step"]))
        self.writer.flush()

    def picture(self, name: str, path: Path, step: int) -> None:
        with Image.open(path) as image:
            self.writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def figures(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self.writer.add_scalar(f"final/{name}", value, step)

    def file(self, path: Path) -> None:
        # Event files cannot hold files, so the path of the page is logged instead.
        self.writer.add_text(f"files/{path.name}", f"`{path}`", 0)

    def finish(self, state: str) -> None:
        self.writer.add_text("state", state, 0)
        self.writer.close()
