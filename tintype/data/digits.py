"""1,797 handwritten digits, 8x8 grey, 10 classes; part of scikit-learn, needs no network"""

from __future__ import annotations

import numpy as np

from tintype.data.cache import Progress
from tintype.data.source import Images


def load(
    name: str = "digits",
    *,
    data_root: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    resize: str = "crop",
    progress: Progress | None = None,
) -> Images:
    """Return scikit-learn's digits (UCI optical recognition of handwritten digits, test part), values 0..16 scaled to 0..255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    names = [f"{i:04d}" for i in range(len(pixels))]
    return Images(pixels, digits.target.astype(np.int64), names, tuple("0123456789"))
