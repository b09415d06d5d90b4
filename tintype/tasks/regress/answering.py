"""Numbers as answers: what a model says of an image, as an object and as a row of a table."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tintype.data.typical import Typical
from tintype.errors import UserError
from tintype.interface.cards import card
from tintype.tasks.contract.predict import AnswerOptions, Picture, Predictor, Row, Rows
from tintype.tasks.regress.conformal import interval_ends
from tintype.tasks.regress.metrics import in_digits

# Numbers may differ by this part of the range of their scale where the same model computes in other
# batches or on another device.
SAME = 0.02


@dataclass(frozen=True)
class NumberPrediction:
    """What a model says of one image: K numbers, each with its predictive interval.

    `low` and `high` are infinite where the run had too few images to calibrate intervals.
    """

    name: str
    columns: tuple[str, ...]
    values: np.ndarray  # (K,) float64
    scales: np.ndarray  # (K,) float64, the expected size of the error
    low: np.ndarray  # (K,) float64
    high: np.ndarray  # (K,) float64
    # why the image is unlike the training images, so that the interval says nothing of it
    unlike: str = ""
    error: str = ""  # why the image cannot be read; the numbers are then NaN
    # (H, W, C) uint8, a small copy of what the network saw; None where many were asked about
    thumbnail: np.ndarray | None = field(default=None, repr=False, compare=False)

    def __repr__(self) -> str:
        """Return for example `NumberPrediction('anna.jpg': age 31.2 (24.9 to 37.5))`."""
        return f"NumberPrediction({self.name!r}: {self.error or self})"

    def to_row(self) -> dict[str, Any]:
        """Return the answer as a row: name, the numbers with their intervals, unlike and error."""
        ends = np.stack([self.values, self.low, self.high], axis=1).ravel().tolist()
        numbers = dict(zip(value_columns(self.columns), ends, strict=True))
        return {"name": self.name, **numbers, "unlike": self.unlike, "error": self.error}

    def _repr_html_(self) -> str:
        unlike = f"unlike the training images: {self.unlike}" if self.unlike else ""
        answers = [self.error] if self.error else str(self).split(", ")
        return card(self.name, self.thumbnail, lines=(*answers, unlike))

    @property
    def value(self) -> float:
        """The first number."""
        return float(self.values[0])

    def to_dict(self) -> dict[str, dict[str, float | None]]:
        """Return each number with its interval, by name (JSON-ready)."""
        rows = zip(self.columns, self.values, self.low, self.high, strict=True)
        return {
            column: {"value": plain(value), "low": plain(low), "high": plain(high)}
            for column, value, low, high in rows
        }

    def __str__(self) -> str:
        """Return for example "age 31.2 (24.9 to 37.5)"."""
        return sentence(self.to_dict())


def plain(value: float) -> float | None:
    """Return a number in six significant digits, or None for an infinite one, as JSON holds it."""
    return float(f"{value:.6g}") if np.isfinite(value) else None


def sentence(answer: Mapping[str, Mapping[str, float | None]]) -> str:
    """Return numbers with their intervals as a line."""
    return ", ".join(
        f"{column} {_text(each['value'])}{_between(each)}" for column, each in answer.items()
    )


def _text(value: float | None) -> str:
    return "?" if value is None else in_digits(value)


def _between(each: Mapping[str, float | None]) -> str:
    if each["low"] is None or each["high"] is None:
        return ""
    return f" ({in_digits(each['low'])} to {in_digits(each['high'])})"


def value_columns(columns: Sequence[str]) -> list[str]:
    """Return the columns of a table of answers; of several numbers each with the number's name."""
    kinds = ("value", "low", "high")
    if len(columns) == 1:
        return list(kinds)
    return [f"{kind} {column}" for column in columns for kind in kinds]


class NumberRows(Rows):
    """Rows of numbers with their intervals.

    Args:
        columns: the names of the numbers.
        typical: whether a column says why an image is unlike the training images.
    """

    def __init__(self, columns: Sequence[str], *, typical: bool = False) -> None:
        self.names, self.typical = tuple(columns), typical
        kinds: dict[str, type] = dict.fromkeys(value_columns(columns), float)
        if typical:
            kinds["unlike"] = str
        self.columns: Mapping[str, type] = kinds

    def row(self, prediction: NumberPrediction) -> Row:
        ends = (
            each[key] for each in prediction.to_dict().values() for key in ("value", "low", "high")
        )
        row: Row = dict(zip(value_columns(self.names), ends, strict=True))
        if self.typical:
            row["unlike"] = prediction.unlike or None
        return row

    def line(self, row: Row) -> str:
        values = iter(value_columns(self.names))
        return sentence(
            {
                name: {key: row[next(values)] for key in ("value", "low", "high")}
                for name in self.names
            }
        )

    def check(self, row: Row) -> None:
        for column in value_columns(self.names)[::3]:
            try:
                float(row[column])
            except (KeyError, TypeError, ValueError):
                raise ValueError(f"the answer to {row['file']} has no number in {column}") from None

    def difference(self, row: Row, prediction: NumberPrediction) -> tuple[str, str] | None:
        before = [float(row[column]) for column in value_columns(self.names)[::3]]
        if (abs(prediction.values - before) <= SAME * prediction.scales).all():
            return None
        return ", ".join(map(in_digits, before)), ", ".join(map(in_digits, prediction.values))


class NumberPredictor(Predictor):
    """A regressor ready to answer; a subclass brings what computes.

    Attributes:
        columns: the names of the numbers.
        quantiles: what scales are multiplied by for the intervals.
        level: how often an interval holds the number.
    """

    def __init__(self, about: Mapping[str, Any], batch_size: int = 64) -> None:
        typical = Typical.of(about.get("typical"))
        super().__init__(about["preprocessing"], batch_size, typical)
        self.columns = tuple(about["columns"])
        self.quantiles = list(about["quantiles"])
        self.level = float(about["level"])

    @abstractmethod
    def numbers(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return numbers and scales, each (N, K), of prepared pictures.

        They are (N, height, width, channels) uint8.
        """

    def answer(self, names: Sequence[str], pictures: Sequence[Picture]) -> list[NumberPrediction]:
        """Return a NumberPrediction for each prepared picture."""
        pixels = np.stack([picture.pixels for picture in pictures])
        values, scales = (each.astype(np.float64) for each in self.numbers(pixels))
        low, high = interval_ends(values, scales, self.quantiles)
        rows = zip(names, values, scales, low, high, self.unlike(pictures), strict=True)
        return [
            NumberPrediction(name, self.columns, value, scale, below, above, why)
            for name, value, scale, below, above, why in rows
        ]

    def unanswered(self, name: str, error: str) -> NumberPrediction:
        nan = np.full(len(self.columns), np.nan)
        return NumberPrediction(name, self.columns, nan, nan, nan, nan, error=error)

    def rows(self, options: AnswerOptions) -> NumberRows:
        if options.accuracy is not None:
            raise UserError(
                f"a number is not right or wrong; its interval holds it in {self.level:.0%} of new "
                "photos. Leave --abstain out."
            )
        if options.top > 1:
            raise UserError("there is one answer for each photo, no list of them. Leave --top out.")
        rows = NumberRows(self.columns, typical=self.typical is not None)
        if None in self.quantiles:
            rows.notes = ("no intervals: the run had too few validation images to promise any",)
        return rows
