"""What one picture may cost: the kind of its file, and the scans of a JPEG (docs/limits.md)."""

from __future__ import annotations

import os
import re
from typing import IO

from PIL import Image

from tintype.files.bounded import refuse_special

MOST_SCANS = 200  # of a JPEG, each of which goes over all pixels; programs write about ten

_START_OF_SCAN = 0xDA
_END = 0xD9
# frames whose first scan may hold all components, and is then the last
_SEQUENTIAL = (0xC0, 0xC1, 0xC9)
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
# not a stuffed byte, and no restart between blocks
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")


def refuse_costly_file(source: str | os.PathLike[str] | bytes) -> None:
    """Refuse a pipe, a socket or a device, which would make whoever opens it wait.

    Raises:
        OSError: it is one.
    """
    if not isinstance(source, bytes):
        refuse_special(source)


def refuse_costly_picture(image: Image.Image) -> None:
    """Refuse an open picture whose pixels would cost far more than those of others of its size.

    Raises:
        ValueError: a JPEG of more than MOST_SCANS scans.
    """
    if image.format not in ("JPEG", "MPO"):
        return
    file: IO[bytes] = image.fp  # pyright: ignore[reportAttributeAccessIssue]
    position = file.tell()
    content = b""
    if _may_have_many(file):
        file.seek(0)
        content = file.read()
    file.seek(position)

    # The two bytes may also stand in a preview or behind the end, so the exact count decides; it is
    # seldom needed.
    if content.count(b"\xff\xda") > MOST_SCANS and count_scans(content) > MOST_SCANS:
        raise ValueError(f"a JPEG of more than {MOST_SCANS} scans (made to take long?)")


def _may_have_many(file: IO[bytes]) -> bool:
    """Return whether the decoder goes on after the first scan of a JPEG; only its head is read."""
    components = 0
    file.seek(2)
    while len(head := file.read(4)) == 4 and head[0] == 0xFF:
        length = int.from_bytes(head[2:], "big")
        if head[1] == _START_OF_SCAN:
            return file.read(1) != bytes([components])  # of a progressive frame none was noted
        if head[1] in _SEQUENTIAL:
            components = (file.read(6) or b"\0")[-1]
            length -= 6
        file.seek(length - 2, os.SEEK_CUR)
    return True


def count_scans(content: bytes) -> int:
    """Return how many scans the first picture in the bytes of a JPEG has (ITU T.81, B.1)."""
    num_scans = 0
    position = 2
    while found := _MARKER.search(content, position):
        marker = found[1][0]
        position = found.end()
        if marker == _END:
            break
        if marker in _WITHOUT_LENGTH:
            continue

        num_scans += marker == _START_OF_SCAN
        position += int.from_bytes(content[position : position + 2], "big")
    return num_scans
