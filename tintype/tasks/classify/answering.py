"""A classifier ready to answer: the preprocessing that belongs to it, and whatever computes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tintype.data.typical import Typical
from tintype.errors import UserError
from tintype.tasks.classify.rows import ClassRows, promise
from tintype.tasks.contract.predict import AnswerOptions, Picture, Predictor
from tintype.tasks.contract.prediction import Prediction


class Classifier(Predictor):
    """A classifier ready to answer; a subclass brings what computes.

    Attributes:
        class_names: the classes, in the order of the probabilities.
        abstain: the confidence at which answers reach an accuracy: [{"accuracy": 0.95,
            "threshold": 0.7 or None}].
    """

    def __init__(
        self,
        class_names: Sequence[str],
        preprocessing: Mapping[str, Any],
        abstain: Sequence[Mapping[str, Any]] = (),
        batch_size: int = 64,
        typical: Typical | None = None,
    ) -> None:
        super().__init__(preprocessing, batch_size, typical)
        self.class_names = tuple(class_names)
        self.abstain = list(abstain)

    @abstractmethod
    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """Return class probabilities (N, K) float32 of prepared pictures (N, height, width,
        channels) uint8.
        """

    def answer(self, names: Sequence[str], pictures: Sequence[Picture]) -> list[Prediction]:
        """Return a Prediction for each prepared picture."""
        pixels = np.stack([picture.pixels for picture in pictures])
        answers = zip(names, self.probabilities(pixels), self.unlike(pictures), strict=True)
        return [Prediction(name, self.class_names, probs, why) for name, probs, why in answers]

    def unanswered(self, name: str, error: str) -> Prediction:
        nothing = np.full(len(self.class_names), np.nan, np.float32)
        return Prediction(name, self.class_names, nothing, error=error)

    def rows(self, options: AnswerOptions) -> ClassRows:
        threshold = None if options.accuracy is None else self.threshold(options.accuracy)
        judged = self.typical is not None
        rows = ClassRows(min(options.top, len(self.class_names)), threshold, typical=judged)
        if threshold == 0:
            rows.notes = (promise(options.accuracy, judged=judged),)
        return rows

    def threshold(self, accuracy: float) -> float:
        """Return the confidence at which answers reach an accuracy, by the validation images.

        Raises:
            UserError: no threshold was fitted for this accuracy, or validation cannot promise it.
        """
        known = {float(entry["accuracy"]): entry["threshold"] for entry in self.abstain}
        if not known:
            raise UserError(
                "this model has no thresholds: it was made before they were fitted. "
                "Train or export it again."
            )
        if accuracy not in known:
            raise UserError(
                f"no threshold was fitted for {accuracy:g}. "
                f"Expected one of {', '.join(f'{each:g}' for each in known)}."
            )

        if known[accuracy] is None:
            within = [each for each, threshold in known.items() if threshold is not None]
            best = "nor any of the others"
            if within:
                best = f"it can promise {max(within):g}: --target {max(within):g}"
            raise UserError(
                f"validation cannot promise that {accuracy:.0%} of the answers are right; {best}."
            )

        return float(known[accuracy])
