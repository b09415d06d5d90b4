"""A finished regression as the service holds it: it says numbers of photos, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tintype.runs.folder import RunFolder
from tintype.tasks.contract.predict import Picture
from tintype.tasks.contract.routes import Parameters
from tintype.tasks.contract.serve import Served, ServedPhotos, refuse_large
from tintype.tasks.regress import predict
from tintype.tasks.regress.answering import NumberPrediction, NumberPredictor
from tintype.tasks.regress.metrics import in_digits


def open_run(name: str, run: RunFolder, device: str) -> Served:
    """Load a run for the service.

    Raises:
        UserError: the run has no finished model, it is broken, or the device is not there.
    """
    from tintype.tasks.regress.predictor import RunRegressor
    from tintype.tasks.regress.regressor import Regress
    from tintype.tasks.restoring import load_task_of

    task, description = load_task_of(Regress, run, device)
    return PhotoNumbers(name, description, run, RunRegressor(task, description))


def open_exported(name: str, session: Any, about: Mapping[str, Any]) -> Served:
    """Open an exported regression.

    Raises:
        KeyError, TypeError, ValueError: what it says of itself is incomplete or broken.
    """
    predictor = predict.open_exported(session, about)
    how = {"height": predictor.height, "width": predictor.width, "channels": predictor.channels}
    return PhotoNumbers(name, {"preprocessing": how}, None, predictor)


class PhotoNumbers(ServedPhotos):
    """Says numbers of photos."""

    kind = "regress"
    sample_names = r"test-\d+\.png"

    def __init__(
        self,
        name: str,
        description: dict[str, Any],
        run: RunFolder | None,
        predictor: NumberPredictor,
    ) -> None:
        super().__init__(name, description, run)
        self.predictor = predictor

    def describe(self) -> dict[str, Any]:
        return {
            **super().describe(),
            "address": "/v1/numbers",
            "columns": list(self.predictor.columns),
            "level": self.predictor.level,
            "test": self.test_figures("mae", "mae_ci95", "rmse", "r2", "num_images"),
        }

    def sentence(self) -> str:
        names = " and ".join(self.predictor.columns)
        error = self.test_figures("mae").get("mae")
        known = "" if error is None else f", off by {in_digits(error)} on average on test"
        return f"answers with {names} as numbers{known}"

    def warm_up(self) -> None:
        shape = (self.predictor.height, self.predictor.width, self.predictor.channels)
        self.answer([(Picture(np.zeros(shape, np.uint8)), Parameters())])

    def picture(self, content: bytes, max_pixels: int) -> Picture:
        refuse_large(content, max_pixels)
        return self.predictor.picture(content)

    def answer(self, works: Sequence[tuple[Picture, Parameters]]) -> list[NumberPrediction]:
        """Answer photos, all at once."""
        return self.predictor.answer([""] * len(works), [picture for picture, _ in works])

    def item(self, answer: NumberPrediction, parameters: Parameters) -> dict[str, Any]:
        item: dict[str, Any] = {"numbers": answer.to_dict()}
        return {**item, "unlike": answer.unlike} if answer.unlike else item
