"""A classifier ready to answer: the preprocessing that belongs to it, and whatever computes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tintype.data.decode import Resize, Unreadable, decode, fit, shows_colour
from tintype.data.typical import Typical
from tintype.errors import UserError
from tintype.tasks.contract.prediction import Prediction


class Picture(NamedTuple):
    """An image as a model takes it, with what its pixels no longer show."""

    pixels: np.ndarray  # (height, width, channels) uint8
    # of the file, for a model that sees it in grey; None where nobody looked
    has_colour: bool | None = None


class Classifier(ABC):
    """A classifier ready to answer; a subclass brings what computes.

    Attributes:
        class_names: the classes, in the order of the probabilities.
        channels, height, width, resize: how a picture is prepared.
        abstain: from which confidence on answers are right how often: [{"accuracy": 0.95,
            "threshold": 0.7 or None}].
        batch_size: how many pictures are computed at once.
        typical: what the training images have in common; None where it was not measured.
        notes: what had to be judged while pictures were decoded, and how often.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        preprocessing: Mapping[str, Any],
        abstain: Sequence[Mapping[str, Any]] = (),
        batch_size: int = 64,
        typical: Typical | None = None,
    ) -> None:
        self.class_names = tuple(class_names)
        self.channels, self.height, self.width = (
            int(preprocessing[key]) for key in ("channels", "height", "width")
        )
        self.resize = Resize(
            preprocessing["resize"],
            preprocessing.get("crop_fraction", 1.0),
            preprocessing.get("interpolation", "bilinear"),
            preprocessing.get("white"),
        )
        self.abstain, self.batch_size, self.typical = list(abstain), batch_size, typical
        self.notes: Counter[str] = Counter()

    @abstractmethod
    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """Return class probabilities (N, K) float32 of prepared pictures (N, height, width,
        channels) uint8.
        """

    def heat_maps(self, pixels: np.ndarray) -> list[np.ndarray]:
        """Return for each prepared picture one (H, W, 3) uint8 that shows what spoke for its most probable class.

        Raises:
            UserError: this model cannot tell.
        """
        del pixels
        raise UserError(
            "heat maps need the gradients of the run itself. Give the run folder in place of the exported file."
        )

    def predict(self, images: Sequence[Any]) -> Iterator[Prediction]:
        """Yield a Prediction for each image: a path, a Pillow image, or a NumPy array (H, W), (H, W, 1) or (H, W, 3) uint8.

        Raises:
            UserError: a file is missing or is not an image.
        """
        for start in range(0, len(images), self.batch_size):
            some = images[start : start + self.batch_size]
            yield from self.answer(
                [_name(image) for image in some], [self.picture(image) for image in some]
            )

    def answer(self, names: Sequence[str], pictures: Sequence[Picture]) -> list[Prediction]:
        """Return a Prediction for each prepared picture."""
        pixels = np.stack([picture.pixels for picture in pictures])
        probabilities = self.probabilities(pixels)
        reasons = [""] * len(pictures)
        if self.typical is not None:
            reasons = self.typical.reasons(pixels, [picture.has_colour for picture in pictures])
        return [
            Prediction(name, self.class_names, probs, reason)
            for name, probs, reason in zip(names, probabilities, reasons, strict=True)
        ]

    def picture(self, image: Any) -> Picture:
        """Return an image as the model takes it, and whether it has colour that a grey model does not see.

        Raises:
            UserError: it cannot be read.
        """
        pixels = self.pixels(image)
        if self.channels == 3 or self.typical is None or self.typical.coloured is None:
            return Picture(pixels)
        try:
            return Picture(pixels, shows_colour(image))
        except (Unreadable, OSError, ValueError):  # a file that was replaced since
            return Picture(pixels)

    def pixels(self, image: Any) -> np.ndarray:
        """Return an image as the model takes it: (height, width, channels) uint8.

        Raises:
            UserError: it cannot be read.
        """
        to_size: dict[str, Any] = {
            "height": self.height, "width": self.width, "channels": self.channels, "resize": self.resize, "on_note": self._note,
        }  # fmt: skip
        try:
            if isinstance(image, str | Path | bytes):
                if not isinstance(image, bytes) and not Path(image).exists():
                    raise UserError(f"there is no file {image}.")
                return decode(image, **to_size)
            return fit(_picture(image), **to_size)
        except (Unreadable, OSError, ValueError) as error:
            raise UserError(f"{_name(image)} cannot be read as an image: {error}") from None

    def _note(self, text: str) -> None:
        self.notes[text] += 1

    def threshold(self, wish: float) -> float:
        """Return the confidence from which on answers are right at least as often as wished, by the validation images.

        Raises:
            UserError: no threshold was fitted for this wish, or validation cannot promise it.
        """
        known = {float(entry["accuracy"]): entry["threshold"] for entry in self.abstain}
        if not known:
            raise UserError(
                "this model has no thresholds: it was made before they were fitted. Train or export it anew."
            )
        if wish not in known:
            raise UserError(
                f"no threshold was fitted for {wish:g}. Expected one of {', '.join(f'{w:g}' for w in known)}."
            )

        if known[wish] is None:
            within = [w for w, threshold in known.items() if threshold is not None]
            best = (
                f"it can promise {max(within):g}: --wish {max(within):g}"
                if within
                else "nor any of the others"
            )
            raise UserError(
                f"validation cannot promise that {wish:.0%} of the answers are right; {best}."
            )

        return float(known[wish])


def _picture(image: Any) -> np.ndarray | Image.Image:
    """Return a picture in memory, checked: a Pillow image, or an array (H, W), (H, W, 1) or (H, W,
    3) uint8.
    """
    if isinstance(image, Image.Image):
        return image
    if not isinstance(image, np.ndarray):
        raise UserError(
            f"cannot predict a {type(image).__name__}. Expected a file, a Pillow image or a NumPy array."
        )

    right_shape = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3))
    if image.dtype != np.uint8 or not right_shape or not image.size:
        raise UserError(
            f"cannot predict an array {image.shape} of {image.dtype}. Expected (H, W), (H, W, 1) or (H, W, 3) of uint8."
        )

    return image


def _name(image: Any) -> str:
    return str(image) if isinstance(image, str | Path) else "image"
