"""Turn an image file into pixels of a given shape: the one way in, to train and to predict.

Every picture ends as (H, W, C) uint8. EXIF orientation is applied, grey stays grey or becomes three
equal channels, palettes are looked up, transparency is laid on white, CMYK becomes RGB, and more
than 8 bits are scaled (`levels.py`).
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import struct
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, features

from tintype.data.bounds import refuse_costly_file, refuse_costly_picture
from tintype.data.kinds import kind_of
from tintype.data.levels import is_deep, scaled
from tintype.errors import UserError, unknown_name

RESIZE_MODES = ("crop", "squash", "pad")
INTERPOLATIONS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
EXTENSIONS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif",
    ".ppm", ".pgm", ".pbm", ".heic", ".heif", ".avif",
)  # fmt: skip
# Pillow before 11.3 does not know the name. `features.get_supported` would ask all of Pillow's
# parts, of which Tk's changes the locale of the process.
READS_AVIF = "avif" in features.modules and features.check_module("avif")
# Only these decoders are tried: others reach programs outside (EPS) or see little testing.
FORMATS = (
    *("JPEG", "PNG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "PPM"),
    *(("AVIF",) if READS_AVIF else ()),
)

# Pillow logs what it cannot decode; without a handler Python would print that beside our own
# reason.
logging.getLogger("PIL").addHandler(logging.NullHandler())

# A picture above this is skipped as a decompression bomb; a 12,000 x 9,000 photo (108 million) is
# read.
MAX_PIXELS = 200_000_000
Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, MAX_PIXELS)

# Pictures above this are decoded one at a time, which bounds memory when several threads meet
# hostile files.
LARGE_PIXELS = 30_000_000
_one_large_at_a_time = threading.Lock()

# How much larger than the target a JPEG is decoded at least. Against full decoding, on two photos
# at six sizes: 1 gives 35 dB (PSNR) in the worst case, 1.5 gives 42 dB, 2 gives 44 dB, and each
# costs more time than the one before.
DRAFT = 1.5

_ORIENTATION = 0x0112  # EXIF 2.32, table 4: what turns (H, W, C) upright
# where a PNG may hold it: its own chunk, ImageMagick's text, and Adobe's
_PNG_ORIENTED = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")
_TURN: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: p[::-1].transpose(1, 0, 2),
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
    8: lambda p: p[:, ::-1].transpose(1, 0, 2),
}


class Resize(NamedTuple):
    """How a picture is brought to a size.

    "crop" scales until the target is covered and cuts the centre, "squash" ignores the aspect
    ratio, "pad" scales until the picture fits and fills the rest with black. With a `crop_fraction`
    below 1, "crop" takes that part of the centre only: 224 pixels with 224 / 256 are torchvision's
    Resize(256) and CenterCrop(224).

    `white` is the value that is white in pictures of more than 8 bits; None judges each by itself.
    """

    mode: str = "crop"
    crop_fraction: float = 1.0
    interpolation: str = "bilinear"
    white: float | None = None

    def __str__(self) -> str:
        """Return the mode alone where the rest is as usual: what cache keys hold."""
        white = "" if self.white is None else f" white {self.white:.6g}"
        if self[1:3] == (1.0, "bilinear"):
            return self.mode + white
        return f"{self.mode} {self.crop_fraction:.6g} {self.interpolation}{white}"


def as_resize(value: str | Resize) -> Resize:
    """Return what a mode alone, or more, says; a fraction counts for "crop" only.

    Raises:
        UserError: unknown mode or interpolation, or a fraction that is not above 0 and at most 1.
    """
    resize = Resize(value) if isinstance(value, str) else Resize(*value)
    if resize.mode not in RESIZE_MODES:
        raise unknown_name("resize mode", resize.mode, RESIZE_MODES)
    if resize.interpolation not in INTERPOLATIONS:
        raise unknown_name("interpolation", resize.interpolation, INTERPOLATIONS)
    if not 0 < resize.crop_fraction <= 1:
        raise UserError(
            f"the crop fraction is {resize.crop_fraction}; expected more than 0 and at most 1."
        )
    return resize if resize.mode == "crop" else resize._replace(crop_fraction=1.0)


class Shape(NamedTuple):
    """What a picture is brought to; `height` and `width` None keep its own size."""

    height: int | None
    width: int | None
    channels: int
    resize: Resize = Resize()


class Unreadable(Exception):
    """A file that gives no picture; the message is a reason of a few words."""


def decode(
    source: str | os.PathLike[str] | bytes,
    *,
    height: int | None,
    width: int | None,
    channels: int,
    resize: str | Resize = "crop",
    on_note: Callable[[str], None] | None = None,
) -> np.ndarray:
    """Return the picture in a file (or in the bytes of one) as (H, W, C) uint8.

    JPEG is decoded at reduced scale (the DCT's own) where 1.5 times the target remain. Of an
    animation the first frame counts. `height` and `width` None keep the picture's own size.
    `on_note` is called with what had to be judged.

    Raises:
        Unreadable: not an image, damaged, truncated, unsupported, or of more than MAX_PIXELS
            pixels.
    """
    shape = Shape(height, width, channels, as_resize(resize))
    return decode_each(source, [shape], on_note)[0]


def decode_each(
    source: str | os.PathLike[str] | bytes,
    shapes: Sequence[Shape],
    on_note: Callable[[str], None] | None = None,
) -> list[np.ndarray]:
    """Return what `decode` makes of one file for each of several shapes, to the last bit.

    Shapes for which a file is decoded in the same way share one decoding: all of them, but for
    those JPEG files that are taken at different scales.

    Raises:
        Unreadable: as `decode` does.
    """

    def read(source: str | os.PathLike[str] | bytes) -> list[np.ndarray]:
        with _open(source) as image:
            if image.width * image.height > LARGE_PIXELS:
                with _one_large_at_a_time:
                    return _decode_shapes(source, image, shapes, on_note)
            return _decode_shapes(source, image, shapes, on_note)

    with quiet_pillow():
        try:
            return read(source)
        except Unreadable:
            raise
        # a damaged file makes decoders raise nearly anything, and must not end the run
        except Exception as error:
            plain = _without_texts(error, source)
            if plain is None:
                raise Unreadable(_reason(error, source)) from error
        try:
            return read(plain)
        except Exception as error:
            raise Unreadable(_reason(error, source)) from error


def fit(
    image: Image.Image | np.ndarray,
    *,
    height: int | None,
    width: int | None,
    channels: int,
    resize: str | Resize = "crop",
    on_note: Callable[[str], None] | None = None,
) -> np.ndarray:
    """Return a picture in memory as (H, W, C) uint8: turned upright, converted, resized.

    The filter is antialiased. A picture of the target's size passes bit for bit, unless a part is
    cut out.

    Args:
        image: a Pillow image, or (H, W), (H, W, 1) or (H, W, 3) uint8.
        resize: "crop", "squash" or "pad", or a Resize.
    """
    if isinstance(image, np.ndarray):
        image = Image.fromarray(
            image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image
        )
    with quiet_pillow():
        shape = Shape(height, width, channels, as_resize(resize))
        return _fit(image, _prepared(image, None), shape, on_note)


COLOUR_SHAPE = Shape(32, 32, 3)  # at which it is seen whether a picture has colour


def shows_colour(image: str | os.PathLike[str] | bytes | Image.Image | np.ndarray) -> bool:
    """Return whether a picture has colour: one that is grey in a colour file has none.

    Raises:
        Unreadable: as `decode` does.
    """
    if isinstance(image, str | os.PathLike | bytes):
        if read_header(image).grey:
            return False
        return _coloured(decode_each(image, [COLOUR_SHAPE])[0])
    return _coloured(fit(image, height=32, width=32, channels=3))


def decode_judged(
    source: str | os.PathLike[str] | bytes,
    shape: Shape,
    on_note: Callable[[str], None] | None = None,
) -> tuple[np.ndarray, bool]:
    """Return what `decode` and `shows_colour` make of a file, in one decoding where that will do.

    Raises:
        Unreadable: as `decode` does.
    """
    if read_header(source).grey:
        return decode_each(source, [shape], on_note)[0], False
    pixels, seen = decode_each(source, [shape, COLOUR_SHAPE], on_note)
    return pixels, _coloured(seen)


def _coloured(pixels: np.ndarray) -> bool:
    # The highest less the lowest channel, ten times as fast as `np.ptp`. JPEG moves the channels of
    # a grey picture apart by a little.
    red, green, blue = np.moveaxis(pixels, 2, 0)
    highest = np.maximum(np.maximum(red, green), blue)
    return bool((highest - np.minimum(np.minimum(red, green), blue)).max() > 8)


_quiet_lock = threading.Lock()
_quiet_inside = 0
_quiet_catcher = warnings.catch_warnings()


@contextlib.contextmanager
def quiet_pillow() -> Iterator[None]:
    """Keep Pillow's warnings on odd but readable files off the user's terminal.

    Such are damaged EXIF data and very large pictures. Filters belong to the process and not to a
    thread, so the first of several threads sets them and the last takes them back; warnings of
    other libraries are not touched.
    """
    global _quiet_inside, _quiet_catcher
    with _quiet_lock:
        if _quiet_inside == 0:
            _quiet_catcher = warnings.catch_warnings()
            _quiet_catcher.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\.")
        _quiet_inside += 1

    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_inside -= 1
            if _quiet_inside == 0:
                _quiet_catcher.__exit__(None, None, None)


class Header(NamedTuple):
    """What a file says of its picture before it is decoded.

    The size is the one seen after EXIF orientation.
    """

    width: int
    height: int
    grey: bool


def read_header(source: str | os.PathLike[str] | bytes) -> Header:
    """Return size and colour of the picture in a file without decoding it.

    Raises:
        Unreadable: not an image that can be read.
    """
    try:
        with quiet_pillow(), _open(source) as image:
            turned = image.format in ("JPEG", "MPO") and _orientation(image) >= 5
            width, height = (image.height, image.width) if turned else image.size
            grey = image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;16")
            return Header(width, height, grey)

    except Unreadable:
        raise
    except Exception as error:  # as in decode
        raise Unreadable(_reason(error, source)) from error


def image_files(path: str | os.PathLike[str]) -> list[Path]:
    """Return the image files in a folder and those below it, in natural order.

    A file gives itself. Hidden files and folders are passed over. The order is by relative path,
    with numbers by value.
    """
    path = Path(path)
    if not path.is_dir():
        return [path]
    return [path / name for name in walk_images(path).files]


class Walk(NamedTuple):
    """The image files below a folder (relative, with "/"), and what was passed over or failed.

    `folders` are all that were entered, `own` those that tintype made, which were not.
    """

    files: list[str]
    others: Counter[str]
    problems: list[tuple[str, str]]
    folders: list[str]
    own: list[str]


def walk_images(root: str | os.PathLike[str]) -> Walk:
    """Return the image files below `root`, by their extensions.

    Files without a known one are found by their first bytes. A folder is entered once, under its
    own name before any link to it, so that loops of symbolic links end. Folders of runs, studies
    and tunings below `root` are not entered.
    """
    seen: set[tuple[int, int]] = set()
    found = Walk([], Counter(), [], [], [])

    folders = [""]
    links: list[str] = []
    while folders or links:
        relative = folders.pop() if folders else links.pop()
        try:
            folder = os.path.join(root, relative)
            identity = folder_identity(folder)
            if relative and identity in seen:
                found.problems.append(
                    (relative, "a link to a folder that is read in its own place")
                )
                continue
            seen.add(identity)
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name, reverse=True)
        except OSError as error:
            found.problems.append(
                (relative or str(root), f"folder cannot be read: {error.strerror}")
            )
            continue
        if relative and _made_by_tintype({entry.name for entry in entries}):
            found.own.append(relative)
            continue
        if relative:
            found.folders.append(relative)
        for entry in entries:
            name = f"{relative}/{entry.name}" if relative else entry.name
            if is_hidden(entry.name):
                continue
            if _is_folder(entry):
                (links if entry.is_symlink() else folders).append(name)
            elif _is_image(entry):
                found.files.append(name)
            else:
                found.others[os.path.splitext(entry.name)[1].lower() or "no extension"] += 1

    found.files.sort(key=natural_key)
    return found


def folder_identity(folder: str | os.PathLike[str]) -> tuple[int, int]:
    """Return what is the same for a folder under all its names: device and inode."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is none of the user's own: hidden, or left by a system."""
    return name.startswith((".", "@eaDir")) or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


_MADE_BY_TINTYPE = (
    {"recipe.yaml", "status.json"},
    {"recipe.yaml", "model.json"},
    {"study.yaml", "study.json"},
    {"tune.yaml", "optuna.db"},
)


def _made_by_tintype(names: set[str]) -> bool:
    """Return whether a folder with these entries is a run, a study or a tuning."""
    return any(marks <= names for marks in _MADE_BY_TINTYPE)


def natural_key(name: str) -> tuple[str, str]:
    """Return a sort key that puts "cat2" before "cat10"."""
    return _NUMBER.sub(lambda number: number[0].zfill(20), name), name


_NUMBER = re.compile("[0-9]+")
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\0", b"MM\0*")
_NEVER_IMAGES = (
    ".txt",
    ".csv",
    ".tsv",
    ".json",
    ".jsonl",
    ".xml",
    ".yaml",
    ".yml",
    ".md",
    ".html",
    ".py",
    ".npy",
    ".zip",
)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that points to itself
        return False


def _is_image(entry: os.DirEntry[str]) -> bool:
    extension = os.path.splitext(entry.name)[1].lower()
    if extension in EXTENSIONS:
        return True
    if extension in _NEVER_IMAGES:
        return False

    try:
        if not entry.is_file():  # opening a pipe would wait for ever
            return False
        with open(entry.path, "rb") as file:
            start = file.read(12)
    except OSError:
        return False

    return start.startswith(_MAGIC) or (start.startswith(b"RIFF") and start.endswith(b"WEBP"))


def open_picture(source: str | os.PathLike[str] | bytes) -> Image.Image:
    """Return an open picture of a file, in one of the formats that are read.

    Raises:
        Unreadable: it has more than MAX_PIXELS pixels. Pillow's own errors pass through.
    """
    return _open(source)


def _open(source: str | os.PathLike[str] | bytes) -> Image.Image:
    refuse_costly_file(source)
    # by itself it would load the reader for the file's ending, and then those of all 45 formats
    Image.preinit()
    image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise Unreadable(
            f"{image.width} x {image.height} pixels, more than {MAX_PIXELS:,} (decompression bomb?)"
        )

    try:
        refuse_costly_picture(image)
    except ValueError as error:
        image.close()
        raise Unreadable(str(error)) from None

    return image


class _Prepared(NamedTuple):
    """How an open picture is read: its `orientation`, and its true width and height in pixels.

    The latter are fractional where a scaled JPEG ends within its last pixel. `mode` is Pillow's.
    """

    orientation: int
    extent: tuple[float, float]
    mode: str


def _decode_shapes(
    source: str | os.PathLike[str] | bytes,
    image: Image.Image,
    shapes: Sequence[Shape],
    on_note: Callable[[str], None] | None,
) -> list[np.ndarray]:
    prepared = _prepared(image, shapes[0])
    found = [_fit(image, prepared, shapes[0], on_note)]
    for shape in shapes[1:]:
        if image.format not in ("JPEG", "MPO"):
            found.append(_fit(image, prepared, shape, on_note))
            continue

        # an open JPEG takes one scale only
        with _open(source) as again:
            other = _prepared(again, shape, prepared.orientation)
            found.append(_fit(image if other == prepared else again, other, shape, on_note))
    return found


def _prepared(image: Image.Image, shape: Shape | None, orientation: int | None = None) -> _Prepared:
    """Choose how an open picture is read for a shape; None for one that is in memory already."""
    if shape is None or image.format not in ("JPEG", "MPO"):
        # PNG may state its orientation only after its pixels; TIFF is turned by Pillow itself
        image.load()
        return _Prepared(orientation or _orientation(image), image.size, image.mode)

    orientation = orientation or _orientation(image)
    extent: tuple[float, float] = image.size
    height, width = _before_turning(orientation, shape)
    if height is not None and width is not None:
        wide, tall = _scaled_size(image.width, image.height, width, height, shape.resize)
        reduced = image.draft(
            "L" if shape.channels == 1 else None, (int(DRAFT * wide), int(DRAFT * tall))
        )
        extent = reduced[1][2:] if reduced else extent

    return _Prepared(orientation, extent, image.mode)


def _before_turning(orientation: int, shape: Shape) -> tuple[int | None, int | None]:
    if orientation >= 5:
        return shape.width, shape.height
    return shape.height, shape.width


def _orientation(image: Image.Image) -> int:
    # parsing what is not there costs as much as decoding a small picture
    if image.format in ("JPEG", "MPO") and "exif" not in image.info:
        return 1
    if image.format == "PNG" and not any(key in image.info for key in _PNG_ORIENTED):
        return 1
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF says nothing of the picture, which is read all the same
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _scaled_size(
    width: float, height: float, to_width: int, to_height: int, resize: Resize
) -> tuple[int, int]:
    """Return the size at which a picture meets the target in the given mode."""
    if resize.mode == "squash":
        return to_width, to_height
    scales = to_width / width, to_height / height
    scale = max(scales) / resize.crop_fraction if resize.mode == "crop" else min(scales)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _fit(
    image: Image.Image,
    prepared: _Prepared,
    shape: Shape,
    on_note: Callable[[str], None] | None,
) -> np.ndarray:
    """Return an open picture in a shape, upright."""
    height, width = _before_turning(prepared.orientation, shape)
    if is_deep(image.mode):
        values, note = scaled(image, shape.resize.white)
        image = Image.fromarray(np.rint(values.clip(0, 1) * 255).astype(np.uint8))
        if note and on_note is not None:
            on_note(note)
    image = _convert(image, shape.channels)
    if height is not None and width is not None:
        image = _resized(image, prepared.extent, width, height, shape.resize)
    pixels = np.asarray(image)
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels

    # The resized picture is turned, not the large one. The filters are symmetric, so it comes to
    # the same.
    return np.ascontiguousarray(_TURN[prepared.orientation](pixels))


def _resized(
    image: Image.Image, extent: tuple[float, float], width: int, height: int, resize: Resize
) -> Image.Image:
    """Return the picture at the target's size.

    `extent` is its true width and height in pixels, fractional where a scaled JPEG ends within its
    last pixel.
    """
    if image.size == (width, height) == extent and resize.crop_fraction == 1:
        return image
    box = (0, 0, *extent)
    size = (width, height)

    if resize.mode == "crop":
        box = _centre(extent, width, height, resize.crop_fraction)
    elif resize.mode == "pad":
        size = _scaled_size(extent[0], extent[1], width, height, resize)

    # reducing_gap averages whole pixels first where that cannot be seen: several times faster on
    # large pictures
    image = image.resize(size, INTERPOLATIONS[resize.interpolation], box=box, reducing_gap=3.0)
    if size == (width, height):
        return image

    padded = Image.new(image.mode, (width, height))
    padded.paste(image, ((width - size[0]) // 2, (height - size[1]) // 2))
    return padded


def _centre(
    extent: tuple[float, float], width: int, height: int, fraction: float
) -> tuple[float, float, float, float]:
    """Return the part of the source that fills the target: (left, top, right, bottom).

    It is `fraction` of the centre.
    Below a fraction of 1, it is what torchvision's Resize and CenterCrop give, which round to whole
    pixels.
    """
    scale = max(width / extent[0], height / extent[1]) / fraction
    if fraction == 1:
        wide = min(width / scale, extent[0])
        tall = min(height / scale, extent[1])
        left = (extent[0] - wide) / 2
        top = (extent[1] - tall) / 2
        return left, top, left + wide, top + tall

    columns, rows = (int(side * scale + 1e-6) for side in extent)
    left = round((columns - width) / 2)
    top = round((rows - height) / 2)
    x = extent[0] / columns
    y = extent[1] / rows
    return left * x, top * y, (left + width) * x, (top + height) * y


def _convert(image: Image.Image, channels: int) -> Image.Image:
    """Return the picture as "L" (one channel) or "RGB" (three), 8 bits each."""
    mode = "L" if channels == 1 else "RGB"
    if image.mode == mode and "transparency" not in image.info:
        return image
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    elif image.mode not in ("1", "L", "RGB"):
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def _without_texts(error: Exception, source: str | os.PathLike[str] | bytes) -> bytes | None:
    """Return a PNG without its texts and colour profile where these made Pillow stop, else None.

    Renderers write megabytes of settings into a picture. They are no part of it.
    """
    if not re.search(r"MAX_TEXT|text (chunk|memory)|too large for PngImagePlugin", str(error)):
        return None
    try:
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
        return b"".join([content[:8], *_png_chunks(content)])
    except (OSError, struct.error):
        return None


def _png_chunks(content: bytes) -> Iterator[bytes]:
    position = 8
    while position + 12 <= len(content):
        (length,) = struct.unpack(">I", content[position : position + 4])
        end = position + 12 + length
        if content[position + 4 : position + 8] not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
            yield content[position:end]
        position = end


def _reason(error: Exception, source: str | os.PathLike[str] | bytes) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        empty = not source if isinstance(source, bytes) else os.path.getsize(source) == 0
        return "empty file" if empty else kind_of(source) or "not an image"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"more than {MAX_PIXELS:,} pixels (decompression bomb?)"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"
    text = str(error).split("\n")[0]
    if "truncated" in text.lower() or "broken data stream" in text.lower():
        return "truncated"
    return f"damaged: {text[:80] or type(error).__name__}"
