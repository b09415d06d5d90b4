"""Files that appear complete or not at all: JSON, images, and anything written in one go."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from tintype.errors import UserError
from tintype.files.bounded import regular_without_links, temporary_for
from tintype.files.system import lock, replace, why


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path; on success flush and rename it to `path`, on failure remove it.

    Raises:
        UserError: the folder cannot be written to, or the disk is full.
    """
    temporary = temporary_for(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary

        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {why(error)}. Free some space or choose another --out."
        ) from error
    finally:
        with suppress(OSError):  # already renamed, or never made
            temporary.unlink()


@contextmanager
def held(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock file `path` for this process.

    Raises:
        BlockingIOError: another process holds it, and `wait` is false.
        UserError: it cannot be opened, or is no regular file.
    """
    try:
        # Opened for appending, so that its content stays as it is.
        file = open(path, "a", encoding="utf-8", opener=regular_without_links)  # noqa: SIM115
    except OSError as error:
        raise UserError(f"cannot lock {path}: {error.strerror or error}.") from error
    with file:
        lock(file, wait=wait)
        yield


def write_json(path: Path, content: Any) -> None:
    """Write `content` as readable JSON, completely or not at all."""
    with written_whole(path) as temporary:
        temporary.write_text(
            json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
            encoding="utf-8",
        )


def write_picture(path: Path, pixels: np.ndarray) -> None:
    """Write (H, W, 1) or (H, W, 3) uint8 as a PNG file, completely or not at all."""
    from PIL import Image

    image = Image.fromarray(
        pixels[:, :, 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels)
    )
    with written_whole(path) as temporary:
        image.save(temporary, format="PNG")


def parse_bytes(text: str) -> int:
    """Return the bytes that a size such as 20GB, 500 MB or 1.5TB stands for.

    Raises:
        ValueError: it is no such size, or not above zero.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?\s*", text, re.IGNORECASE)
    num_bytes = float(found[1]) * 1000 ** " kmgt".index(found[2].lower() or " ") if found else 0
    if num_bytes < 1:
        raise ValueError(f"'{text}' is no size. Expected one such as 20GB or 500MB")
    return int(num_bytes)


def format_bytes(num_bytes: float) -> str:
    """Return a readable number of bytes, as in "184 MB" (powers of 1000)."""
    units = ["bytes", "kB", "MB", "GB", "TB"]
    while num_bytes >= 999.5 and len(units) > 1:
        num_bytes /= 1000
        del units[0]
    unit = units[0]
    return (
        f"{num_bytes:.0f} {unit}"
        if num_bytes >= 10 or unit == "bytes"
        else f"{num_bytes:.1f} {unit}"
    )
