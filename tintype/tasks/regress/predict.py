"""What `tintype predict` asks of regression; an exported model needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tintype.tasks.regress.answering import NumberPredictor

if TYPE_CHECKING:
    from tintype.runs.folder import RunFolder


def open_run(run: RunFolder, device: str = "auto") -> NumberPredictor:
    """Load the regressor of a run.

    Raises:
        UserError: the run has no finished model, or the device is not there.
    """
    from tintype.tasks.regress.predictor import RunRegressor

    return RunRegressor.of(run, device=device)


def open_exported(session: Any, about: Mapping[str, Any]) -> OnnxRegressor:
    """Open a regressor that `tintype export` has made.

    Raises:
        KeyError, TypeError, ValueError: what the file says of itself is incomplete or broken.
    """
    return OnnxRegressor(session, about)


class OnnxRegressor(NumberPredictor):
    """A regressor in an ONNX file: NumPy, Pillow and ONNX Runtime are all that it needs."""

    def __init__(self, session: Any, about: Mapping[str, Any], batch_size: int = 64) -> None:
        super().__init__(about, batch_size)
        self.session = session

    def numbers(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # The graph takes RGB; a grey picture in three equal channels comes out of it as it was.
        images = np.repeat(pixels, 3, axis=3) if self.channels == 1 else pixels
        answers = self.session.run(None, {"images": np.ascontiguousarray(images)})[0]
        numbers, scales = np.split(answers, 2, axis=1)
        return numbers, scales
