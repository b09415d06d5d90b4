"""Pictures for the page: samples with their predictions, first-layer filters, and data URIs."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

TINY = 64  # pictures with no side of at least this many pixels are enlarged without smoothing
THUMBNAIL = 224  # larger ones are embedded at this size where nothing else is said
MAX_PIXELS = 40_000_000


@dataclass(frozen=True)
class Card:
    """A picture with what it is and what it was taken for."""

    image: Image.Image
    name: str
    target: str
    prediction: str
    confidence: float
    correct: bool

    @property
    def tiny(self) -> bool:
        return max(self.image.size) < TINY

    @property
    def alt(self) -> str:
        verdict = "rightly" if self.correct else f"true class {self.target}, wrongly"
        return f"{self.name}: {verdict} taken for {self.prediction} with {self.confidence:.0%} confidence"

    @property
    def uri(self) -> str:
        """The picture as a data URI: PNG where it is tiny, else JPEG, which takes a tenth of the
        space.
        """
        if self.tiny:
            return data_uri(png_bytes(self.image))
        buffer = io.BytesIO()
        self.image.convert("RGB").save(buffer, format="JPEG", quality=85)
        return data_uri(buffer.getvalue(), "image/jpeg")


def read_cards(
    folder: Path, entries: Iterable[Mapping[str, Any]], largest: int = THUMBNAIL
) -> list[Card]:
    """Read the pictures that `entries` of samples.json name, at most `largest` pixels a side; what cannot be read is left out.

    Only files that lie in `folder` itself are read, whatever path an entry holds: run folders are
    passed around.
    """
    cards = []
    for entry in entries:
        image = _open(folder / Path(str(entry.get("file", ""))).name, largest)
        if image is None:
            continue
        target, prediction = str(entry.get("target", "")), str(entry.get("prediction", ""))
        confidence = float(entry.get("confidence") or 0.0)
        correct = bool(entry.get("correct", target == prediction))
        cards.append(
            Card(image, str(entry.get("name", "")), target, prediction, confidence, correct)
        )

    return cards


def _open(path: Path, largest: int) -> Image.Image | None:
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                return None
            picture = image.convert("L" if image.mode in ("1", "L", "I;16") else "RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    if max(picture.size) > largest:
        picture.thumbnail((largest, largest))
    return picture


def filter_sheet(weights: np.ndarray, max_filters: int = 128) -> Image.Image:
    """Lay out first-layer filters (O, I, kh, kw), I of 1 or 3, on a transparent sheet, 4 x 4 pixels for each weight.

    Each filter is scaled by its own largest weight, with zero at middle grey.
    """
    weights = weights[:max_filters]
    scale = np.abs(weights).max(axis=(1, 2, 3), keepdims=True)
    pixels = 127.5 + 127.5 * weights / np.where(scale > 0, scale, 1)
    pixels = (
        np.broadcast_to(pixels, (len(pixels), 3, *pixels.shape[2:]))
        .transpose(0, 2, 3, 1)
        .round()
        .astype(np.uint8)
    )
    pixels = pixels.repeat(4, axis=1).repeat(4, axis=2)
    height, width = pixels.shape[1:3]
    columns = min(len(pixels), max(8, math.ceil(math.sqrt(2 * len(pixels)))))
    rows, gap = -(-len(pixels) // columns), 3

    sheet = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap, 4), np.uint8)
    for number, pixel in enumerate(pixels):
        top, left = (number // columns) * (height + gap), (number % columns) * (width + gap)
        sheet[top : top + height, left : left + width, :3] = pixel
        sheet[top : top + height, left : left + width, 3] = 255

    return Image.fromarray(sheet)


def enlarged(image: Image.Image, width: int = 1200) -> Image.Image:
    """Return a picture enlarged by a whole factor to about `width` pixels, each pixel a crisp
    square.
    """
    factor = max(1, width // image.width)
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def png_bytes(image: Image.Image) -> bytes:
    """Encode a picture as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def data_uri(content: bytes, mime: str = "image/png") -> str:
    """Return `content` as a data URI, so that a page can hold it."""
    return f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"
