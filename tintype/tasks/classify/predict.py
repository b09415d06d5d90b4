"""What `tintype predict` asks of classification; an exported model needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tintype.data.typical import Typical
from tintype.errors import UserError
from tintype.tasks.classify.answering import Classifier

if TYPE_CHECKING:
    from tintype.runs.folder import RunFolder


def open_run(run: RunFolder, device: str = "auto") -> Classifier:
    """Load the classifier of a run.

    Raises:
        UserError: the run has no finished model, or the device is not there.
    """
    from tintype.tasks.classify.predictor import RunClassifier

    return RunClassifier.of(run, device=device)


def open_exported(session: Any, about: Mapping[str, Any]) -> OnnxClassifier:
    """Open a classifier that `tintype export` has made.

    Raises:
        KeyError, TypeError, ValueError: what the file says of itself is incomplete or broken.
    """
    return OnnxClassifier(session, about)


class OnnxClassifier(Classifier):
    """A classifier in an ONNX file: NumPy, Pillow and ONNX Runtime are all that it needs."""

    def __init__(self, session: Any, about: Mapping[str, Any], batch_size: int = 64) -> None:
        typical = Typical.of(about.get("typical"))
        super().__init__(
            about["class_names"], about["preprocessing"], about["abstain"], batch_size, typical
        )
        self.session = session

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        # The graph takes RGB; a grey picture in three equal channels comes out of it as it was.
        images = np.repeat(pixels, 3, axis=3) if self.channels == 1 else pixels
        return self.session.run(None, {"images": np.ascontiguousarray(images)})[0]

    def heat_maps(self, pixels: np.ndarray) -> list[np.ndarray]:
        del pixels
        raise UserError(
            "heat maps need the gradients of the run itself. "
            "Give the run folder in place of the exported file."
        )
