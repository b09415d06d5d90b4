"""When photos were taken, and by which camera, as their EXIF data says."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from PIL import Image

from tintype.data.cache import in_order
from tintype.data.decode import Unreadable, open_picture, quiet_pillow
from tintype.grouping import Taken
from tintype.progress import Progress

# EXIF 2.32, section 4.6.5. The time of the last change (0x0132) is not read: programs set it for
# many photos at once.
_MAKE = 0x010F
_MODEL = 0x0110
_EXIF = 0x8769
_ORIGINAL = (0x9003, 0x9291)  # the time, and its fraction of a second
_DIGITISED = (0x9004, 0x9292)
_SERIAL = 0xA431


def taken(image: Image.Image) -> Taken | None:
    """Return when an open picture was taken, or None where it does not say."""
    if image.format in ("JPEG", "MPO") and "exif" not in image.info:
        return None
    try:
        exif = image.getexif()
        inner = exif.get_ifd(_EXIF)
        values = {**dict(exif), **dict(inner)}
    except Exception:  # damaged EXIF makes Pillow raise nearly anything, and says nothing
        return None

    camera = " ".join(filter(None, (_text(values.get(tag)) for tag in (_MAKE, _MODEL, _SERIAL))))
    for whole, fraction in (_ORIGINAL, _DIGITISED):
        seconds = _seconds(_text(values.get(whole)), _text(values.get(fraction)))
        if seconds is not None:
            return Taken(seconds, camera)
    return None


def read_taken(paths: Sequence[str], progress: Progress | None = None) -> list[Taken | None]:
    """Return when each photo was taken, None where it does not say or cannot be read; the pixels
    are not decoded.
    """

    def read(i: int) -> Taken | None:
        try:
            with open_picture(paths[i]) as image:
                return taken(image)
        except (Unreadable, OSError, SyntaxError, ValueError):
            return None

    found: list[Taken | None] = []
    with quiet_pillow():
        for each in in_order(read, len(paths)):
            found.append(None if isinstance(each, Unreadable) else each)
            if progress and len(found) % 256 == 0:
                progress("reading EXIF times", len(found), len(paths))
    return found


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    return value.strip("\0 ") if isinstance(value, str) else ""


def _seconds(text: str, fraction: str) -> float | None:
    """Return the seconds of "2024:05:01 12:00:03" and a fraction of digits; the camera's clock has
    no time zone here.
    """
    try:
        moment = datetime.datetime.strptime(text, "%Y:%m:%d %H:%M:%S").replace(tzinfo=datetime.UTC)
    except ValueError:  # empty, "0000:00:00 00:00:00", or another form
        return None
    return moment.timestamp() + (
        float(f"0.{fraction}") if fraction.isascii() and fraction.isdigit() else 0.0
    )
