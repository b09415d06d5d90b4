"""1,797 handwritten digits, 8x8 grey, 10 classes; part of scikit-learn, needs no network"""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

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
    values, targets = read_digits()
    pixels = np.rint(values[..., None] * (255 / 16)).astype(np.uint8)
    names = [f"{i:04d}" for i in range(len(pixels))]

    photos = [
        Photo("", name, target.of_path(str(digit), name))
        for name, digit in zip(names, targets, strict=True)
    ]
    kind, targets = target.collect(photos, photos, name, [])
    return Images(pixels, targets, names, kind)


def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return the digits of scikit-learn (1797, 8, 8) as float64 of 0..16, and their values (1797,).

    Its file is read without importing scikit-learn, which would take longer than training on them.
    """
    package = find_spec("sklearn")
    places = (package.submodule_search_locations if package else None) or ()
    files = [Path(place) / "datasets" / "data" / "digits.csv.gz" for place in places]
    file = next((file for file in files if file.is_file()), None)

    if file is None:  # it lies elsewhere in this version
        from sklearn.datasets import load_digits

        values, targets = load_digits(return_X_y=True)
    else:
        with gzip.open(file, "rt", encoding="ascii") as lines:
            table = np.loadtxt(lines, delimiter=",")
        values, targets = table[:, :-1], table[:, -1].astype(np.int64)
    return np.asarray(values).reshape(-1, 8, 8), np.asarray(targets)
