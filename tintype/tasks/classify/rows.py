"""A classifier's answers as rows of a table: classes with their probabilities, or "unsure"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tintype.tasks.contract.predict import Row, Rows
from tintype.tasks.contract.prediction import Prediction

UNSURE = "unsure"
# A probability may differ by so much where the same model computes in other batches or on another
# device.
SAME = 1e-3


class ClassRows(Rows):
    """Rows of a class, its confidence, and the next probable classes.

    Args:
        top: classes in each row.
        threshold: below this confidence, and for images unlike the training images, the answer is
            "unsure"; None gives every answer.
        typical: whether a column says why an image is unlike the training images.
    """

    def __init__(
        self, top: int = 1, threshold: float | None = None, *, typical: bool = False
    ) -> None:
        self.top, self.threshold, self.typical = top, threshold, typical

        columns: dict[str, type] = {"prediction": str, "confidence": float}
        for rank in range(2, top + 1):
            columns[f"prediction{rank}"] = str
            columns[f"confidence{rank}"] = float
        if threshold is not None:
            columns["most_probable"] = str
        if typical:
            columns["unlike"] = str
        self.columns: Mapping[str, type] = columns

    def row(self, prediction: Prediction) -> Row:
        top = [
            {"class": name, "probability": round(share, 6)}
            for name, share in prediction.top(self.top)
        ]
        row: Row = {
            "prediction": top[0]["class"],
            "confidence": top[0]["probability"],
            "top": top,
        }

        if self.threshold is not None:
            row["most_probable"] = row["prediction"]
            # What validation promises holds for images like those of validation.
            if prediction.confidence < self.threshold or prediction.unlike:
                row["prediction"] = UNSURE

        if self.typical:
            row["unlike"] = prediction.unlike or None
        return row

    def flattened(self, row: Row) -> Row:
        """Return a row with the further classes of `top` in columns of their own."""
        flat = {key: value for key, value in row.items() if key != "top"}
        for rank, entry in enumerate(row.get("top", ())[1:], 2):
            flat[f"prediction{rank}"] = entry["class"]
            flat[f"confidence{rank}"] = entry["probability"]
        return flat

    def line(self, row: Row) -> str:
        answers = ", ".join(f"{entry['class']} {entry['probability']:.1%}" for entry in row["top"])
        is_unsure = row["prediction"] != row["top"][0]["class"]
        return f"unsure ({answers})" if is_unsure else answers

    def check(self, row: Row) -> None:
        try:
            share = float(row["confidence"])
        except (KeyError, TypeError, ValueError):
            share = -1.0

        if not row.get("prediction") or not 0 <= share <= 1:
            raise ValueError(
                f"the answer to {row['file']} has no prediction, "
                "or its confidence is no number from 0 to 1"
            )

    def difference(self, row: Row, prediction: Prediction) -> tuple[str, str] | None:
        name = row.get("most_probable") or row["prediction"]
        confidence = float(row["confidence"])
        if prediction.top1 == name and abs(prediction.confidence - confidence) <= SAME:
            return None

        return f"{name} ({confidence:.1%})", f"{prediction.top1} ({prediction.confidence:.1%})"

    def folder(self, row: Row) -> str:
        return row["prediction"]

    def label(self, row: Row) -> str:
        return row.get("most_probable") or row["prediction"]


def promise(accuracy: Any, *, judged: bool) -> str:
    """Return the line for the user where validation promises an accuracy for every answer."""
    but = ", but for photos that are unlike the training images" if judged else ""
    return (
        f"every answer counts{but}: by validation, at least {accuracy:.0%} of all answers are right"
    )
