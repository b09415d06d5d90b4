"""Pictures turned by an angle that is to be found, from -45 to 45 degrees.

Positive angles are counterclockwise. No corner gives the angle away: of a photo the square inside
its circle is kept, all of whose pixels were there before it was turned; of a digit what lies inside
a circle, on black.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, rotate, zoom

from tintype.data.decode import Resize, Unreadable, decode, walk_images
from tintype.data.sets.digits import read_digits
from tintype.data.source import Images
from tintype.data.targets import Numbers, TargetKind
from tintype.errors import UserError
from tintype.progress import Progress

NAMES = {
    "turned-digits": "1,797 handwritten digits turned by up to 45 degrees, 32x32 grey",
    "turned-photos": "photos of your own, each turned by up to 45 degrees; read from --data-root",
}
TARGETS = ("numbers",)

MOST = 45.0  # degrees
INSIDE = 2**-0.5  # side of the square inside a circle, of its diameter
DIGIT_SIDE = 32
PHOTO_SIDE = 64
BLUR = 0.65  # deviation of the filter, in pixels of the original digit
SOFT = 4  # pixels over which the edge of a digit's circle fades
TURNS = 4  # copies of a photo, each turned by an angle of its own


def load(
    name: str,
    *,
    target: TargetKind | None = None,
    data_root: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    resize: str | Resize = "crop",
    progress: Progress | None = None,
) -> Images:
    """Return turned pictures with their angles in degrees.

    Raises:
        UserError: no folder is given for photos, or no photo in it can be read.
    """
    if name == "turned-digits":
        return _digits()
    if data_root is None:
        raise UserError(
            f"{name} are made of photos of your own. Say where they are: --data-root FOLDER"
        )
    side = max(image_size) if isinstance(image_size, tuple) else image_size or PHOTO_SIDE
    return _photos(Path(data_root).expanduser(), side, channels or 3, progress)


def _digits() -> Images:
    values, _ = read_digits()
    names = [f"{i:04d}" for i in range(len(values))]
    angles = [angle_of(name) for name in names]

    pixels = np.stack([_turned_digit(v, a) for v, a in zip(values, angles, strict=True)])
    return _images(pixels[..., None], angles, names)


def _turned_digit(values: np.ndarray, angle: float) -> np.ndarray:
    """Return a digit (8, 8) of 0..16 as (32, 32) uint8, turned, of which a soft circle is seen.

    Strokes end at the frame of the original, whose straight edges would be easier to measure than
    the digit. So would be its coarse pixels: the filter leaves less than a grey level of them.
    """
    factor = DIGIT_SIDE // len(values)
    digit = zoom(values * (255 / 16), factor, order=3, mode="nearest", grid_mode=True)
    turned = rotate(gaussian_filter(digit, BLUR * factor), angle, reshape=False, mode="nearest")

    places = np.arange(DIGIT_SIDE) - (DIGIT_SIDE - 1) / 2
    distance = np.hypot(places, places[:, None])  # pixels from the centre
    seen = np.clip((DIGIT_SIDE / 2 - distance) / SOFT, 0, 1)
    return np.rint((turned * seen).clip(0, 255)).astype(np.uint8)


def _photos(root: Path, side: int, channels: int, progress: Progress | None) -> Images:
    if not root.is_dir():
        raise UserError(f"there is no folder {root}. Give one with photos: --data-root FOLDER")
    files = walk_images(root).files

    pixels: list[np.ndarray] = []
    names: list[str] = []
    groups: list[str] = []
    skipped: list[tuple[str, str]] = []
    for number, file in enumerate(files):
        # large enough for the square inside the circle to have the side that is wanted
        before = round(side / INSIDE) + 1
        try:
            photo = decode(root / file, height=before, width=before, channels=channels)
        except Unreadable as error:
            skipped.append((file, str(error)))
            continue
        for turn in range(TURNS):
            names.append(f"{file} turn {turn}")
            groups.append(file)
            pixels.append(turned_inside(photo, angle_of(names[-1]), side))
        if progress:
            progress("turning photos", number + 1, len(files))

    if not pixels:
        raise UserError(f"no photo in {root} can be read. Expected files such as .jpg or .png.")
    images = _images(np.stack(pixels), [angle_of(name) for name in names], names)
    images.groups = np.array(groups)
    images.skipped = tuple(skipped)
    return images


def turned_inside(photo: np.ndarray, angle: float, side: int) -> np.ndarray:
    """Return the square inside the circle of a square photo (H, H, C) uint8, turned."""
    diameter = photo.shape[0]
    if photo.shape[2] == 1:
        turned = Image.fromarray(photo[:, :, 0]).rotate(angle, Image.Resampling.BICUBIC)
    else:
        turned = Image.fromarray(photo).rotate(angle, Image.Resampling.BICUBIC)

    edge = (diameter - diameter * INSIDE) / 2
    box = (edge, edge, diameter - edge, diameter - edge)
    inside = turned.resize((side, side), Image.Resampling.BICUBIC, box=box)
    return np.asarray(inside).reshape(side, side, photo.shape[2])


def angle_of(name: str) -> float:
    """Return the angle of a picture, evenly spread, which follows from its name alone."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return round((int.from_bytes(digest, "little") / 2**64 * 2 - 1) * MOST, 2)


def _images(pixels: np.ndarray, angles: Sequence[float], names: list[str]) -> Images:
    targets = np.array(angles, np.float32)[:, None]
    return Images(pixels, targets, names, Numbers(("degrees",)))
