"""Pictures for the page: samples with their predictions, first-layer filters, and data URIs."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

TINY = 64  # pictures with no side of at least this many pixels are enlarged without smoothing
THUMBNAIL = 224  # larger ones are embedded at this size where nothing else is said
MAX_PIXELS = 40_000_000


def open_picture(path: Path, largest: int = THUMBNAIL) -> Image.Image | None:
    """Open a picture, at most `largest` pixels a side; None where it cannot be read."""
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
