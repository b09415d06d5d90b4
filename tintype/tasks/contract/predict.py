"""What a task offers to `tintype predict`: a model ready to answer, and the rows of its answers.

`tasks/NAME/predict.py` holds the two functions of `PredictPart`. Nothing here needs torch, so that
an exported model predicts where torch is not installed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from tintype.data.decode import (
    Resize,
    Shape,
    Unreadable,
    decode_each,
    decode_judged,
    fit,
    shows_colour,
)
from tintype.data.typical import Typical
from tintype.errors import UserError

if TYPE_CHECKING:
    from tintype.runs.folder import RunFolder

Row = dict[str, Any]


class Picture(NamedTuple):
    """An image as a model takes it, with what its pixels no longer show."""

    pixels: np.ndarray  # (height, width, channels) uint8
    # of the file, for a model that sees it in grey; None where nobody looked
    has_colour: bool | None = None


@dataclass(frozen=True)
class AnswerOptions:
    """What the user asked for beside the answer itself.

    Attributes:
        top: how many answers to give for each image, best first.
        accuracy: the share of the answers that have to be right; the others are withheld. None
            gives every answer.
    """

    top: int = 1
    accuracy: float | None = None


class Rows(ABC):
    """How a task writes its answers: the columns of a table, and a row for each image.

    A row is JSON-ready. The job adds "file" in front, and "sorted_to", "heatmap" or "error" behind.

    Attributes:
        columns: the columns of a CSV or Parquet file, in order, each with its type: str or float.
        notes: lines for the user before the first answer.
    """

    columns: Mapping[str, type]
    notes: Sequence[str] = ()

    @abstractmethod
    def row(self, prediction: Any) -> Row:
        """Return the values of a prediction, without the name of its file."""

    @abstractmethod
    def line(self, row: Row) -> str:
        """Return the answer in a row as the terminal shows it behind the name of the file."""

    @abstractmethod
    def check(self, row: Row) -> None:
        """Refuse a row of an earlier job that this class did not write; values of CSV are text.

        Raises:
            ValueError: what is wrong with it.
        """

    @abstractmethod
    def difference(self, row: Row, prediction: Any) -> tuple[str, str] | None:
        """Return what a row of an earlier job says and what the model says now, or None.

        None stands for the same answer, up to what other batches or another device change.
        """

    def flattened(self, row: Row) -> Row:
        """Return a row with a value for each column, as CSV and Parquet have it."""
        return row

    def folder(self, row: Row) -> str:
        """Return the name of the folder that `--sort-into` puts the image into.

        Raises:
            UserError: the answers do not sort images.
        """
        raise UserError("the answers of this model are no classes. Leave --sort-into out.")

    def label(self, row: Row) -> str:
        """Return a word for the name of the picture that `--heatmaps` writes, or ""."""
        return ""


class Predictor(ABC):
    """A finished model, ready to answer; a subclass brings what computes.

    Attributes:
        channels, height, width, resize: how a picture is prepared.
        batch_size: how many pictures are computed at once.
        typical: what the training images have in common; None where it was not measured.
        notes: remarks on pictures from their decoding, and how often each was made.
    """

    def __init__(
        self,
        preprocessing: Mapping[str, Any],
        batch_size: int = 64,
        typical: Typical | None = None,
    ) -> None:
        self.channels = int(preprocessing["channels"])
        self.height = int(preprocessing["height"])
        self.width = int(preprocessing["width"])
        self.resize = Resize(
            preprocessing["resize"],
            preprocessing.get("crop_fraction", 1.0),
            preprocessing.get("interpolation", "bilinear"),
            preprocessing.get("white"),
        )

        self.batch_size = batch_size
        self.typical = typical
        self.notes: Counter[str] = Counter()

    @abstractmethod
    def answer(self, names: Sequence[str], pictures: Sequence[Picture]) -> list[Any]:
        """Return a prediction of the task for each prepared picture.

        Where it is a dataclass with a field `thumbnail`, that is set to a small picture.
        """

    def unanswered(self, name: str, error: str) -> Any:
        """Return what stands for an image among others that cannot be read: no answer, and why.

        Raises:
            UserError: predictions of this task cannot say so.
        """
        del name
        raise UserError(error)

    @abstractmethod
    def rows(self, options: AnswerOptions) -> Rows:
        """Return how the answers are written.

        Raises:
            UserError: an option that this model cannot follow.
        """

    def heat_maps(self, pixels: np.ndarray) -> list[np.ndarray]:
        """Return for each prepared picture one (H, W, 3) uint8 that shows what led to its answer.

        Raises:
            UserError: this model cannot show it.
        """
        del pixels
        raise UserError("this model draws no heat maps. Leave --heatmaps out.")

    def predict(self, images: Sequence[Any]) -> Iterator[Any]:
        """Yield a prediction for each image.

        An image is a path, the bytes of a file, a Pillow image or an array: (H, W), (H, W, 1) or
        (H, W, 3) uint8.

        Raises:
            UserError: a file is missing or is not an image.
        """
        for start in range(0, len(images), self.batch_size):
            some = images[start : start + self.batch_size]
            names = [_name(image) for image in some]
            yield from self.answer(names, [self.picture(image) for image in some])

    def unlike(self, pictures: Sequence[Picture]) -> list[str]:
        """Return for each picture why it is unlike the training images, or ""."""
        if self.typical is None:
            return [""] * len(pictures)
        pixels = np.stack([picture.pixels for picture in pictures])
        return self.typical.reasons(pixels, [picture.has_colour for picture in pictures])

    def picture(self, image: Any) -> Picture:
        """Return an image as the model takes it, with what a grey model does not see.

        Raises:
            UserError: it cannot be read.
        """
        judged = self.typical is not None and self.typical.coloured is not None
        if self.channels == 3 or not judged:
            return Picture(self.pixels(image))
        with _said_of(image):
            if isinstance(image, str | Path | bytes):
                return Picture(*decode_judged(_present(image), self._shape, self._note))
            return Picture(self.pixels(image), shows_colour(image))

    def pixels(self, image: Any) -> np.ndarray:
        """Return an image as the model takes it: (height, width, channels) uint8.

        Raises:
            UserError: it cannot be read.
        """
        with _said_of(image):
            if isinstance(image, str | Path | bytes):
                return decode_each(_present(image), [self._shape], self._note)[0]
            return fit(_in_memory(image), **self._shape._asdict(), on_note=self._note)

    @property
    def _shape(self) -> Shape:
        return Shape(self.height, self.width, self.channels, self.resize)

    def _note(self, text: str) -> None:
        self.notes[text] += 1


@runtime_checkable
class GivesProbabilities(Protocol):
    """A predictor that answers with a probability for each class."""

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """Return class probabilities (N, K) float32 of prepared pictures (N, height, width,
        channels) uint8.
        """
        ...


class PredictPart(Protocol):
    """The functions in `tasks/NAME/predict.py`."""

    def open_run(self, run: RunFolder, device: str = "auto") -> Predictor:
        """Load the model of a run.

        Raises:
            UserError: the run has no finished model, or the device is not there.
        """
        ...

    def open_exported(self, session: Any, about: Mapping[str, Any]) -> Predictor:
        """Open an ONNX file of `tintype export` from its session and from what it says of itself.

        Raises:
            KeyError, TypeError, ValueError: what it says of itself is incomplete or broken.
        """
        ...


@contextmanager
def _said_of(image: Any) -> Iterator[None]:
    """Turn what decoding raises into a line that names the image.

    Raises:
        UserError: it cannot be read.
    """
    try:
        yield
    except (Unreadable, OSError, ValueError) as error:
        raise UserError(f"{_name(image)} cannot be read as an image: {error}") from None


def _present(image: str | Path | bytes) -> str | Path | bytes:
    if not isinstance(image, bytes) and not Path(image).exists():
        raise UserError(f"there is no file {image}.")
    return image


def _in_memory(image: Any) -> np.ndarray | Image.Image:
    """Return a picture in memory, checked: a Pillow image, or an array (H, W), (H, W, 1) or (H, W,
    3) uint8.
    """
    if isinstance(image, Image.Image):
        return image
    if not isinstance(image, np.ndarray):
        raise UserError(
            f"cannot predict a {type(image).__name__}. "
            "Expected a file, a Pillow image or a NumPy array."
        )

    right_shape = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3))
    if image.dtype != np.uint8 or not right_shape or not image.size:
        raise UserError(
            f"cannot predict an array {image.shape} of {image.dtype}. "
            "Expected (H, W), (H, W, 1) or (H, W, 3) of uint8."
        )

    return image


def _name(image: Any) -> str:
    return str(image) if isinstance(image, str | Path) else "image"
