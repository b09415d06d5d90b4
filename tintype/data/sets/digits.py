"""1,797 handwritten digits, 8x8 grey, 10 classes; part of scikit-learn, needs no network"""

from __future__ import annotations

import numpy as np

from tintype.data.decode import Resize
from tintype.data.sets.folder import Photo
from tintype.data.source import Images
from tintype.data.targets import CLASSES, TargetKind
from tintype.progress import Progress

TARGETS = ("class", "numbers", "none")


def load(
    name: str = "digits",
    *,
    data_root: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    resize: str | Resize = "crop",
    progress: Progress | None = None,
    target: TargetKind = CLASSES,
) -> Images:
    """Return scikit-learn's digits, the values 0..16 scaled to 0..255."""
    from sklearn.datasets import load_digits

    values, targets = load_digits(return_X_y=True)
    pixels = np.rint(np.asarray(values).reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    names = [f"{i:04d}" for i in range(len(pixels))]

    photos = [
        Photo("", name, target.of_path(str(digit), name))
        for name, digit in zip(names, targets, strict=True)
    ]
    kind, targets = target.collect(photos, photos, name, [])
    return Images(pixels, targets, names, kind)
