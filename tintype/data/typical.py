"""What the training images have in common, by a few plain properties.

An image that is unlike all of them can so be named. A classifier chooses one of its classes
whatever it is shown, and may be sure of it: its confidence was calibrated on images like the
training images, and holds for no others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from tintype.errors import UserError

# the share of colour (or grey) images up to which one of that kind is unlike the others
RARE = 0.005
LEAST_IMAGES = 50  # of fewer, the ranges are not known well enough
TAIL = 0.01  # at each end of a range, before it is widened
FALSE_ALARMS = 0.005  # of training and validation images, at most
SHARPEST_SIDE = 64  # pixels; of larger images every second, third, ... is looked at
COLOUR = 8  # levels between the channels: JPEG moves those of a grey picture apart by less
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as Pillow makes colours grey


class Property(NamedTuple):
    """Something measured of an image: how far outside it goes unseen, and what is said beyond."""

    tolerance: float
    below: str
    above: str


PROPERTIES = {
    "brightness": Property(16, "it is darker", "it is brighter"),
    "contrast": Property(24, "it has less contrast", "it has more contrast"),
    "border": Property(24, "its border is darker", "its border is brighter"),
    "polarity": Property(
        8, "its middle is darker, beside its border,", "its middle is brighter, beside its border,"
    ),
    "darkest": Property(40, "its darkest parts are darker", "its darkest parts are brighter"),
    "brightest": Property(40, "its brightest parts are darker", "its brightest parts are brighter"),
    "roughness": Property(5, "it is smoother (blurred or enlarged?)", "it is rougher (noise?)"),
    "colourfulness": Property(8, "it has less colour", "it has more colour"),
}


@dataclass(frozen=True)
class Typical:
    """The ranges of the training images.

    Attributes:
        ranges: of each property, (low, high), widened until nearly no validation image is outside.
        coloured: the share of the training images that have colour; None where their files are not
            known.
    """

    ranges: Mapping[str, tuple[float, float]]
    coloured: float | None = None

    def reasons(self, pixels: np.ndarray, has_colour: Iterable[bool | None]) -> list[str]:
        """Return for each image why it is unlike the training images, "" where it is like them.

        Args:
            pixels: (N, H, W, C) uint8, as the model takes them.
            has_colour: whether their files show colour, which the pixels of a grey model no longer
                do; None unknown.
        """
        measured = measure(pixels)
        shows = colours(pixels) if pixels.shape[3] == 3 else has_colour
        return [
            self._reason({name: float(values[i]) for name, values in measured.items()}, coloured)
            for i, coloured in enumerate(shows)
        ]

    def _reason(self, measured: Mapping[str, float], has_colour: bool | None) -> str:
        if self.coloured is not None and has_colour is not None:
            if has_colour and self.coloured <= RARE:
                return "it has colour, and the training images are grey"
            if not has_colour and self.coloured >= 1 - RARE:
                return "it is grey, and the training images have colour"

        outside = self._outside(measured)
        if not any(outside.values()):
            return ""
        if not any(self._outside(_negative(measured)).values()):
            usual = sum(self.ranges["polarity"])
            if measured["polarity"] < 0 < usual:
                return "it is dark on light, and the training images are light on dark"
            if measured["polarity"] > 0 > usual:
                return "it is light on dark, and the training images are dark on light"
            return "light and dark are exchanged, as in a negative"
        name = max(outside, key=lambda each: abs(outside[each]))
        words = PROPERTIES[name].below if outside[name] < 0 else PROPERTIES[name].above
        return f"{words} than the training images"

    def _outside(self, measured: Mapping[str, float]) -> dict[str, float]:
        """Return how far each property is outside, in widths of its range; negative below, 0 in."""
        outside = {}
        for name, (low, high) in self.ranges.items():
            beyond = max(measured[name] - high, 0.0) - max(low - measured[name], 0.0)
            outside[name] = beyond / max(high - low, 1e-9)
        return outside

    def to_dict(self) -> dict[str, Any]:
        """Return what model.json keeps."""
        return {
            "ranges": {name: list(ends) for name, ends in self.ranges.items()},
            "coloured": self.coloured,
        }

    @classmethod
    def of(cls, record: Any) -> Typical | None:
        """Return what model.json or an exported file kept; None where it holds nothing of this.

        Raises:
            UserError: it is broken.
        """
        if record is None:
            return None

        try:
            ranges = {
                name: (float(low), float(high))
                for name, (low, high) in dict(record["ranges"]).items()
            }
            coloured = record["coloured"]
            # grey models have no colourfulness
            if unknown := (set(ranges) | {"colourfulness"}) ^ set(PROPERTIES):
                raise ValueError(f"ranges of {', '.join(sorted(unknown))}")
            if not all(np.isfinite(ends).all() for ends in ranges.values()):
                raise ValueError("a range has no end")
            return cls(ranges, None if coloured is None else float(coloured))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(
                "what the model says of its training images (typical) "
                f"is incomplete or broken ({error})."
            ) from None


def sentence(reason: str) -> str:
    """Return what is said of an image that is unlike the training images."""
    return f"This image is unlike the training images: {reason}. Its confidence does not apply."


def learn(
    train: Iterable[np.ndarray], val: Iterable[np.ndarray], *, coloured: float | None
) -> Typical | None:
    """Return the ranges of training images, None where they are too few.

    A range begins as the middle 98 % of the training images, and all are widened by one factor,
    until at most one of 200 training images and of 200 validation images is outside of any; by half
    their width on each side at least, and more where there are few images.

    Args:
        train: batches (N, H, W, C) uint8 of training images, as the model takes them, not
            augmented.
        val: the same of validation images.
        coloured: the share of training files with colour, where the images are grey; None if
            unknown.
    """
    parts = [(measure(batch), colours(batch)) for batch in train]
    images = _joined([measured for measured, _ in parts])
    count = len(next(iter(images.values()), ()))
    if count < LEAST_IMAGES:
        return None

    ends = {name: _ends(values, PROPERTIES[name].tolerance) for name, values in images.items()}
    held_out = _joined([measure(batch) for batch in val])
    factor = max(
        1.5 + 5 / count**0.5,
        *(_factor(measured, ends) for measured in (images, held_out) if measured),
    )
    ranges = {
        name: (
            round(middle - factor * (middle - low), 3),
            round(middle + factor * (high - middle), 3),
        )
        for name, (low, middle, high) in ends.items()
    }
    shown = np.concatenate([shows for _, shows in parts])

    return Typical(ranges, float(shown.mean().round(5)) if "colourfulness" in images else coloured)


def measure(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Return the properties (N,) float64 of images (N, H, W, C) uint8.

    They are in levels of 0 to 255, roughness in per cent. `polarity` is the brightness of the
    middle less that of the border; `roughness` the mean difference of neighbours as a part of the
    contrast.
    """
    count, height, width, channels = pixels.shape
    step = max(1, min(height, width) // SHARPEST_SIDE)
    sparse = pixels[:, ::step, ::step].astype(np.float32)
    grey = sparse[..., 0] if channels == 1 else sparse @ LUMA
    rows, columns = grey.shape[1:]

    edge = max(1, round(min(rows, columns) / 8))
    inner = grey[:, edge : rows - edge, edge : columns - edge]
    inside = inner.shape[1] * inner.shape[2]
    border = (grey.sum(axis=(1, 2)) - inner.sum(axis=(1, 2))) / (rows * columns - inside)
    middle = grey[:, rows // 4 : rows - rows // 4, columns // 4 : columns - columns // 4].mean(
        axis=(1, 2)
    )

    darkest, brightest = np.quantile(grey.reshape(count, rows * columns), (0.02, 0.98), axis=1)
    contrast = grey.std(axis=(1, 2))
    found = {
        "brightness": grey.mean(axis=(1, 2)),
        "contrast": contrast,
        "border": border,
        "polarity": middle - border,
        "darkest": darkest,
        "brightest": brightest,
        "roughness": 100 * _steps(pixels) / (contrast + 4),
    }
    if channels == 3:
        found["colourfulness"] = _between_channels(sparse).mean(axis=(1, 2))
    return {name: np.asarray(values, np.float64) for name, values in found.items()}


def _negative(measured: Mapping[str, float]) -> dict[str, float]:
    """Return the properties of an image of which light and dark are exchanged."""
    exchanged = {
        "brightness": 255 - measured["brightness"],
        "border": 255 - measured["border"],
        "polarity": -measured["polarity"],
        "darkest": 255 - measured["brightest"],
        "brightest": 255 - measured["darkest"],
    }
    return {**measured, **exchanged}


def colours(pixels: np.ndarray) -> np.ndarray:
    """Return which images (N, H, W, C) uint8 show colour (N,) bool, in more than some noise."""
    step = max(1, min(pixels.shape[1:3]) // SHARPEST_SIDE)
    return (_between_channels(pixels[:, ::step, ::step]) > COLOUR).mean(axis=(1, 2)) > 0.02


def _steps(pixels: np.ndarray) -> np.ndarray:
    """Return the mean difference of neighbouring pixels (N,) of green, at full resolution."""
    plane = np.ascontiguousarray(pixels[..., pixels.shape[3] // 2])
    neighbours = (plane[:, 1:], plane[:, :-1]), (plane[:, :, 1:], plane[:, :, :-1])
    along = [
        np.maximum(one, other) - np.minimum(one, other) for one, other in neighbours if one.size
    ]
    return sum((each.mean(axis=(1, 2)) for each in along), np.zeros(len(plane))) / max(
        1, len(along)
    )


def _between_channels(pixels: np.ndarray) -> np.ndarray:
    """Return the highest less the lowest channel (N, H, W), ten times as fast as `np.ptp`."""
    planes = [pixels[..., channel] for channel in range(pixels.shape[3])]
    return reduce(np.maximum, planes) - reduce(np.minimum, planes)


def _ends(values: np.ndarray, tolerance: float) -> tuple[float, float, float]:
    low, middle, high = np.quantile(values, (TAIL, 0.5, 1 - TAIL))
    return min(low, middle - tolerance), middle, max(high, middle + tolerance)


def _factor(
    measured: Mapping[str, np.ndarray], ends: Mapping[str, tuple[float, float, float]]
) -> float:
    """Return how much wider the ranges must be so that nearly no image is outside of any."""
    furthest = np.max(
        [
            np.maximum((middle - values) / (middle - low), (values - middle) / (high - middle))
            for (low, middle, high), values in ((ends[name], measured[name]) for name in ends)
        ],
        axis=0,
    )
    # Of one more image, by the quantile of split conformal prediction (Vovk et al. 2005).
    rank = min(len(furthest), int(np.ceil((len(furthest) + 1) * (1 - FALSE_ALARMS))))
    return float(np.sort(furthest)[rank - 1])


def _joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return (
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
    )
