"""Pictures in files with all that belongs to them: 16 bits, alpha, EXIF, the colour profile."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from tintype.data.bounds import refuse_costly_file, refuse_costly_picture
from tintype.data.decode import FORMATS, MAX_PIXELS
from tintype.errors import UserError
from tintype.files.whole import written_whole
from tintype.tasks.upscale.png16 import png16, read_png16

# What is read and written as it is; everything else becomes PNG, which loses nothing. The longest
# side each can hold.
KEPT = {"PNG": (".png", 2**31 - 1), "JPEG": (".jpg", 65_535), "WEBP": (".webp", 16_383)}
QUALITY = 95  # of JPEG and WebP


@dataclass
class DecodedPhoto:
    """A decoded picture, upright, with what must travel along."""

    # (H, W, C) uint8 or uint16; C: 1 grey, 2 grey and alpha, 3 colour, 4 colour and alpha
    pixels: np.ndarray
    format: str = "PNG"
    exif: bytes = b""
    profile: bytes = b""


def read_picture(path: Path) -> DecodedPhoto:
    """Read a picture with all its bits and channels, turned upright.

    Raises:
        UserError: it cannot be read, is animated, or too large.
    """
    try:
        refuse_costly_file(path)
        with Image.open(path, formats=FORMATS) as image:
            if getattr(image, "is_animated", False) and image.format != "MPO":
                # The pages of a TIFF are not counted: Pillow reads all their directories for that.
                frames = 0 if image.format == "TIFF" else image.n_frames  # pyright: ignore
                kind = f"is animated ({frames} frames)" if frames else "has several pages"
                raise UserError(f"{path.name} {kind}; only still pictures are enlarged.")

            if image.width * image.height > MAX_PIXELS:
                raise UserError(
                    f"{path.name} has more than {MAX_PIXELS:,} pixels (decompression bomb?)."
                )
            refuse_costly_picture(image)

            deep = read_png16(path) if image.format == "PNG" else None
            image.load()
            if deep is not None:
                exif = image.getexif()
                profile = image.info.get("icc_profile") or b""
                return DecodedPhoto(deep, "PNG", exif.tobytes() if exif else b"", profile)
            return from_pillow(image)
    except UserError:
        raise
    except Exception as error:  # a damaged file makes decoders raise nearly anything
        empty = path.is_file() and path.stat().st_size == 0
        line = "it is empty" if empty else str(error).split("\n")[0][:100]
        raise UserError(f"{path.name} cannot be read as an image: {line}.") from None


def from_pillow(image: Image.Image) -> DecodedPhoto:
    """Return a Pillow image as a picture, with all that Pillow still knows of it."""
    kept = {"MPO": "JPEG"}.get(image.format or "", image.format or "")
    profile = image.info.get("icc_profile") or b""
    if image.mode == "CMYK":
        profile = b""  # it describes inks
    upright = ImageOps.exif_transpose(image)
    exif = upright.getexif()
    exif_bytes = exif.tobytes() if exif else b""
    transparent = "transparency" in upright.info or upright.mode in (
        "LA",
        "La",
        "PA",
        "RGBA",
        "RGBa",
    )

    if upright.mode.startswith("I;16"):
        pixels = np.asarray(upright).astype(np.uint16)
    elif upright.mode == "I":
        pixels = np.asarray(upright).clip(0, 65535).astype(np.uint16)
    elif upright.mode == "F":
        raise UserError(
            "pictures of floating-point values are not enlarged; convert it to 16 bits."
        )
    elif upright.mode in ("1", "L", "LA", "La"):
        pixels = np.asarray(upright.convert("LA" if transparent else "L"))
    else:
        pixels = np.asarray(upright.convert("RGBA" if transparent else "RGB"))

    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    return DecodedPhoto(np.array(pixels), kept if kept in KEPT else "PNG", exif_bytes, profile)


def encoded(picture: DecodedPhoto) -> bytes:
    """Return the bytes of a file that holds a picture in its format."""
    buffer = io.BytesIO()
    more: dict[str, Any] = {"exif": picture.exif} if picture.exif else {}
    if picture.profile:
        more["icc_profile"] = picture.profile

    if picture.pixels.dtype == np.uint16:
        buffer.write(png16(picture.pixels, exif=picture.exif, profile=picture.profile))
    elif picture.format == "JPEG":
        to_pillow(picture).save(buffer, "JPEG", quality=QUALITY, subsampling=0, **more)
    elif picture.format == "WEBP":
        to_pillow(picture).save(buffer, "WEBP", quality=QUALITY, **more)
    else:
        to_pillow(picture).save(buffer, "PNG", **more)

    return buffer.getvalue()


def write_picture(path: Path, picture: DecodedPhoto) -> None:
    """Write a picture in its format, under a temporary name first.

    Raises:
        UserError: it cannot be written.
    """
    write_encoded(path, encoded(picture))


def write_encoded(path: Path, content: bytes) -> None:
    """Write the bytes of a picture, under a temporary name first.

    Raises:
        UserError: it cannot be written.
    """
    try:
        with written_whole(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}.") from None


def to_pillow(picture: DecodedPhoto) -> Image.Image:
    """Return a picture as a Pillow image.

    16 bits of more than one channel become 8, since Pillow has no such mode.
    """
    pixels = picture.pixels
    if pixels.dtype == np.uint16 and pixels.shape[2] > 1:
        pixels = ((pixels.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
