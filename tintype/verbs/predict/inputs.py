"""What may be given as images from Python: one, many, or a stream of them, each with a name."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from tintype.errors import UserError
from tintype.verbs.predict.files import list_images

Named = tuple[str, Any]  # an image with its name

EXPECTED = (
    "Expected files, bytes, Pillow images, arrays or tensors: one, a list, a generator, a batch "
    "(N, H, W, C), a pandas column of paths, a folder or a pattern such as 'photos/*.jpg'."
)
PATH_COLUMNS = ("path", "file", "filename", "image", "name")
CHANNELS = (1, 3)


@dataclass(frozen=True)
class Given:
    """Images as a caller gave them.

    Attributes:
        form: "one" is answered by one answer, "many" by a list, a "stream" by an iterator.
        images: each with its name; a path, bytes, a Pillow image or (H, W, C) uint8.
    """

    form: Literal["one", "many", "stream"]
    images: Iterable[Named]
    total: int = 0  # how many there are, where that is known
    decoders: int = 0  # threads that read ahead


def given_images(images: Any, channels: int) -> Given:
    """Return what a caller gave as images to a model of `channels`.

    A path that is a folder, or a pattern with * or ?, stands for the images there. Arrays of
    three axes are one image if their last axis (of tensors: their first) has 1 or 3 values, else
    grey images (N, H, W). Images of a generator are read as they are asked for.

    Raises:
        UserError: they are none, or of another type; what is wrong with an image of a stream comes
            when its turn does.
    """
    if isinstance(images, str | Path):
        paths = _paths(images)
        return _one(images) if paths is None else _many(paths)
    if isinstance(images, bytes | bytearray | memoryview | Image.Image):
        return _one(images)

    if isinstance(images, np.ndarray) and images.ndim == 1 and images.dtype.kind in "UO":
        return _many(images.tolist())  # of paths, as pandas and os.listdir give them
    array = _array(images)
    if array is not None:
        one, batch = _of_array(array, channels, tensor=array is not images)
        if one is not None:
            return Given("one", [("image", one)])
        return _many(batch)

    if _is_pandas(images):
        return _many(_column(images))
    if isinstance(images, Mapping) or not isinstance(images, Iterable):
        raise UserError(f"cannot predict a {type(images).__name__}. {EXPECTED}")
    if isinstance(images, Sequence | set | frozenset):
        return _many(sorted(images) if isinstance(images, set | frozenset) else images)
    return Given("stream", _numbered(images))


def num_decoders() -> int:
    """Return how many threads decode: one for each core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def one_image(image: Any, channels: int) -> Any:
    """Return an image as a predictor takes it: a path, bytes, a Pillow image or (H, W, C) uint8.

    Raises:
        UserError: it is none, or several.
    """
    if isinstance(image, str | Path):
        _refuse_address(image)
        return image
    if isinstance(image, bytearray | memoryview):
        return bytes(image)
    if isinstance(image, bytes | Image.Image):
        return image

    array = _array(image)
    if array is None:
        pair = isinstance(image, tuple | list)
        hint = " Of a data set give the images alone: (image for image, _ in data)." if pair else ""
        raise UserError(f"cannot predict a {type(image).__name__}. {EXPECTED}{hint}")
    one, _ = _of_array(array, channels, tensor=array is not image)
    if one is None:
        raise UserError(
            f"cannot predict an array {array.shape} as one image. Expected (H, W), (H, W, C) or, "
            "of a tensor, (C, H, W), with 1 or 3 channels."
        )
    return one


def name_of(image: Any, number: int) -> str:
    """Return what an image is called: its path, else its number."""
    if isinstance(image, str | Path):
        return str(image)
    return str(getattr(image, "filename", "") or f"image {number}")


def _one(image: Any) -> Given:
    name = str(image) if isinstance(image, str | Path) else getattr(image, "filename", "")
    return Given("one", [(name or "image", one_image(image, 0))])


def _many(images: Sequence[Any] | np.ndarray) -> Given:
    files = len(images) > 1 and isinstance(images[0], str | Path | bytes)
    return Given("many", _numbered(images), len(images), num_decoders() if files else 0)


def _numbered(images: Iterable[Any]) -> Iterator[Named]:
    return ((name_of(image, number), image) for number, image in enumerate(images))


def _paths(given: str | Path) -> list[Path] | None:
    """Return the files that a folder or a pattern stands for; None for one file."""
    _refuse_address(given)
    if Path(given).is_dir():
        return list_images([given])
    if Path(given).exists() or not re.search(r"[*?\[]", str(given)):
        return None

    found = [Path(name) for name in sorted(glob(str(given), recursive=True))]
    files = [path for path in found if path.is_file()]
    if not files:
        raise UserError(f"there is no file {given}.")
    return files


def _refuse_address(given: str | Path) -> None:
    if isinstance(given, str) and re.match(r"[A-Za-z][\w+.-]+://", given):
        raise UserError(
            f"{given} is an address, and tintype loads nothing from the network to predict it. "
            "Download it, or give its bytes."
        )


def _is_pandas(images: Any) -> bool:
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(images, pandas.DataFrame | pandas.Series)


def _column(frame: Any) -> list[Any]:
    """Return the images of a pandas Series, or of the column of paths of a DataFrame."""
    if frame.ndim == 1:
        return list(frame)
    named = {str(column).lower(): column for column in frame.columns}
    found = [named[name] for name in PATH_COLUMNS if name in named]
    if not found and len(named) == 1:
        found = list(frame.columns)
    if not found:
        columns = ", ".join(map(str, frame.columns))
        raise UserError(
            f"which column holds the paths of the images? There are {columns}. "
            "Expected one called path, or a single column: frame['NAME']."
        )
    return list(frame[found[0]])


def _array(images: Any) -> np.ndarray | None:
    """Return an array or a tensor as an array, None for anything else."""
    if isinstance(images, np.ndarray):
        return images
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(images, torch.Tensor):
        from tintype.data.memory.arrays import as_array

        return as_array(images)
    return None


def _of_array(
    array: np.ndarray, channels: int, *, tensor: bool
) -> tuple[np.ndarray | None, np.ndarray]:
    """Return the one image (H, W, C) uint8 that an array is, else None and the images of a batch.

    Raises:
        UserError: no axes or values of images.
    """
    from tintype.data.memory.arrays import pixels_of

    if not array.size:
        raise UserError(f"cannot predict an array {array.shape}: it is empty.")
    single = _as_batch_of_one(array, channels, tensor=tensor)
    if single is not None:
        return pixels_of(single)[0][0], array
    return None, pixels_of(array)[0]


def _as_batch_of_one(array: np.ndarray, channels: int, *, tensor: bool) -> np.ndarray | None:
    """Return an array that is one image as (1, H, W, C), None where it is a batch."""
    if array.ndim == 2:
        return array[None, :, :, None]
    if array.ndim != 3:
        return None

    first, last = array.shape[0] in CHANNELS, array.shape[2] in CHANNELS
    if tensor and first:
        return array.transpose(1, 2, 0)[None]
    if last:
        return array[None]
    if array.shape[2] == 4:
        raise UserError(
            f"cannot predict an array {array.shape}: it has 4 channels. Expected 1 or 3; without "
            "alpha: image[..., :3]."
        )
    if first and channels != 1 and array.shape[0] == 3:
        raise UserError(
            f"is the array {array.shape} one image or three grey ones? For one, put the channels "
            "last: image.transpose(1, 2, 0); for three, give (N, H, W, 1): images[..., None]."
        )
    return None
