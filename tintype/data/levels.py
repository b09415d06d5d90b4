"""Pictures of more than 8 bits: which value is white.

It follows from the format and the set, never from one pixel. A microscope writes 12 bits into a
container of 16, a renderer puts 1.01 into a picture of 0 to 1. So the range is the smallest usual
one that holds nearly all values, of the whole set where there is one, and the tags of the file come
first.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

BITS = (8, 10, 12, 14, 16, 24, 31)
FLOATS = (1.0, 255.0, 65_535.0)

# Nearly all: one value in a thousand may lie above (hot pixels), and resampling overshoots by a
# part of the range.
SHARE = 0.999
OVERSHOOT = {"integer": 1.1, "float": 1.5}
MOST_VALUES = 1_000_000  # of a picture, evenly spaced

_LARGEST_SAMPLE = (281, 341)  # TIFF 6.0: MaxSampleValue and SMaxSampleValue


Opener = Callable[[str | os.PathLike[str]], Image.Image]


class Levels(NamedTuple):
    """The value that is white, and the largest that the format can hold (1 for floats)."""

    white: float
    full: float

    @property
    def note(self) -> str:
        """What was decided, in a few words; empty where nothing had to be."""
        if self.white == self.full:
            return ""
        if self.full == 1:
            return f"floating-point values were read as 0 to {self.white:,.0f}"
        used, held = (int(np.log2(value + 1)) for value in (self.white, self.full))
        return f"only {used} of {held} bits are filled, so {self.white:,.0f} was read as white"


def is_deep(mode: str) -> bool:
    """Return whether a Pillow mode holds more than 8 bits a pixel, which Pillow would clip."""
    return mode in ("I", "F") or mode.startswith("I;16")


def levels_of(image: Image.Image) -> Levels:
    """Return the levels of one deep picture."""
    full = 1.0 if image.mode == "F" else 65_535.0
    declared = [white for tag in _LARGEST_SAMPLE if (white := _tag(image, tag)) > 0]
    if declared:
        return Levels(max(declared), max(full, *declared))

    values = np.asarray(image).reshape(-1)
    values = values[:: -(-len(values) // MOST_VALUES) or 1].astype(np.float64)
    top = float(np.quantile(np.nan_to_num(values), SHARE, method="lower")) if len(values) else 0.0
    white = _smallest(top, image.mode)
    return Levels(white, white if image.mode != "F" and white > full else full)


def white_of_set(paths: Sequence[str | os.PathLike[str]], open_image: Opener) -> float | None:
    """Return the white of all deep pictures among some files; None for none, or for two kinds.

    `open_image(path)` returns an open Pillow image; whatever it raises leaves the file out.
    """
    found: dict[bool, float] = {}
    for path in paths:
        try:
            with open_image(path) as image:
                if not is_deep(image.mode):
                    continue
                is_float = image.mode == "F"
                found[is_float] = max(found.get(is_float, 0.0), levels_of(image).white)
        except Exception:
            continue  # it will be skipped with its reason when it is decoded
    return next(iter(found.values())) if len(found) == 1 else None


def scaled(image: Image.Image, white: float | None) -> tuple[np.ndarray, str]:
    """Return a deep picture as 0 to 1 float64, and a note where its range had to be judged.

    `white` is that of the set; a picture that it does not hold is judged by itself.
    """
    own = levels_of(image)
    used = white if white is not None and own.white <= white else own.white
    values = np.nan_to_num(np.asarray(image).astype(np.float64)) / used
    return values, own.note if used != white else ""


def _smallest(top: float, mode: str) -> float:
    if mode == "F":
        return next((white for white in FLOATS if top <= white * OVERSHOOT["float"]), FLOATS[-1])
    whites = [2.0**bits - 1 for bits in BITS]
    return next((white for white in whites if top <= white * OVERSHOOT["integer"]), whites[-1])


def _tag(image: Image.Image, tag: int) -> float:
    value = getattr(image, "tag_v2", {}).get(tag, 0)
    value = max(value) if isinstance(value, tuple) else value
    return float(value) if isinstance(value, int | float) else 0.0
