"""16-bit PNG with several channels, which Pillow cuts to 8 bits (PNG, 3rd edition, 2025)."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {2: 3, 4: 2, 6: 4}  # by colour type; grey (0) is left to Pillow


def read_png16(path: Path) -> np.ndarray | None:
    """Return the pixels (H, W, C) uint16 of such a file, None if it is another kind of PNG.

    Raises:
        ValueError: it is interlaced or damaged.
    """
    with path.open("rb") as file:
        head = file.read(33)
        if len(head) < 33 or head[:8] != _SIGNATURE or head[24] != 16 or head[25] not in _CHANNELS:
            return None
        rest = file.read()

    width, height = struct.unpack(">II", head[16:24])
    if head[28]:
        raise ValueError("interlaced PNG of 16 bits is not supported")

    bytes_per_pixel = 2 * _CHANNELS[head[25]]
    try:
        size = height * (1 + width * bytes_per_pixel)
        content = zlib.decompressobj().decompress(b"".join(_chunks(rest, b"IDAT")), size + 1)
        if len(content) > size:
            raise ValueError("it unpacks to more than its head says, a decompression bomb?")
        rows = np.frombuffer(content, np.uint8).reshape(height, 1 + width * bytes_per_pixel)
    except (zlib.error, struct.error, ValueError) as error:
        raise ValueError(f"damaged ({error})") from None

    values = _unfiltered(rows[:, 0], rows[:, 1:].reshape(height, width, bytes_per_pixel))
    return values.view(">u2").astype(np.uint16)


def _chunks(content: bytes, wanted: bytes) -> list[bytes]:
    found = []
    position = 0
    while position + 12 <= len(content):
        (length,) = struct.unpack(">I", content[position : position + 4])
        if content[position + 4 : position + 8] == wanted:
            found.append(content[position + 8 : position + 8 + length])
        position += length + 12
    return found


def _unfiltered(kinds: np.ndarray, filtered: np.ndarray) -> np.ndarray:
    """Undo the filters of rows (H, W, bytes), one diagonal at a time.

    Each pixel needs those to its left and above.
    """
    height, width, num_bytes = filtered.shape
    out = np.zeros((height + 1, width + 1, num_bytes), np.int16)
    for diagonal in range(height + width - 1):
        i = np.arange(max(0, diagonal - width + 1), min(height, diagonal + 1))
        j = diagonal - i
        left = out[i + 1, j]
        up = out[i, j + 1]
        corner = out[i, j]
        by_left = np.abs(up - corner)
        by_up = np.abs(left - corner)
        by_corner = np.abs(left + up - 2 * corner)
        nearest = np.where(
            (by_left <= by_up) & (by_left <= by_corner),
            left,
            np.where(by_up <= by_corner, up, corner),
        )
        choices = [np.zeros_like(left), left, up, (left + up) // 2, nearest]
        out[i + 1, j + 1] = (filtered[i, j] + np.choose(kinds[i][:, None], choices)) & 255

    return np.ascontiguousarray(out[1:, 1:].astype(np.uint8))


def png16(pixels: np.ndarray, *, exif: bytes = b"", profile: bytes = b"") -> bytes:
    """Encode pixels (H, W, 1 to 4) uint16."""
    height, width, channels = pixels.shape
    rows = np.ascontiguousarray(pixels.astype(">u2")).view(np.uint8).reshape(height, -1)
    filtered = np.empty((height, rows.shape[1] + 1), np.uint8)
    filtered[:, 0] = 2  # the difference to the row above
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    parts = [
        _SIGNATURE,
        _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)),
    ]
    if profile:
        parts.append(_chunk(b"iCCP", b"icc\0\0" + zlib.compress(profile)))
    if exif:
        parts.append(_chunk(b"eXIf", exif.removeprefix(b"Exif\0\0")))

    return b"".join(
        [*parts, _chunk(b"IDAT", zlib.compress(filtered.tobytes(), 6)), _chunk(b"IEND", b"")]
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))
