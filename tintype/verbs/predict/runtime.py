"""Exported models without torch: NumPy, Pillow and ONNX Runtime are all that is needed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tintype.data.typical import Typical
from tintype.errors import UserError
from tintype.verbs.predict.classifier import Classifier

FORMAT = 1  # of what lies under ABOUT; raise it when an older tintype would misread the file
ABOUT = "tintype"  # the metadata entry that holds, as JSON, what belongs to the model


class OnnxClassifier(Classifier):
    """A classifier in an ONNX file that `tintype export` has made."""

    def __init__(self, session: Any, about: Mapping[str, Any], batch_size: int = 64) -> None:
        typical = Typical.of(about.get("typical"))
        super().__init__(
            about["class_names"], about["preprocessing"], about["abstain"], batch_size, typical
        )
        self.session = session

    @classmethod
    def of(cls, path: str | Path, *, threads: int | None = None) -> OnnxClassifier:
        """Open an exported classifier.

        Raises:
            UserError: the file cannot be read, was not made by tintype or by a newer one, or is no
                classifier.
        """
        session = open_session(Path(path), threads)
        about = read_about(Path(path), session)
        if about.get("task") != "classify":
            raise UserError(
                f"{path} is an export of task {about.get('task')}, not a classifier, so it predicts no class."
            )

        try:
            return cls(session, about)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"what {path} says of itself is incomplete or broken ({error}). Export it again."
            ) from None

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        # The graph takes RGB; a grey picture in three equal channels comes out of it as it was.
        images = np.repeat(pixels, 3, axis=3) if self.channels == 1 else pixels
        return self.session.run(None, {"images": np.ascontiguousarray(images)})[0]


def open_session(path: Path, threads: int | None = None) -> Any:
    """Return an ONNX Runtime session on the CPU for a file.

    Raises:
        UserError: ONNX Runtime is not installed, there is no such file, or it is no ONNX model.
    """
    try:
        import onnxruntime
    except ImportError:
        raise UserError(
            "exported models are computed by ONNX Runtime, which is not installed. Type: pip install onnxruntime"
        ) from None

    if not path.is_file():
        raise UserError(f"there is no file {path}.")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; warnings speak of the optimiser's inner life

    options.intra_op_num_threads = threads or 0
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's exceptions share no class of their own
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{path} cannot be read as an ONNX model: {reason}") from None


def read_about(path: Path, session: Any) -> dict[str, Any]:
    """Return what an exported file says of itself: task, classes, preprocessing, recipe.

    Raises:
        UserError: tintype did not make it, or a newer one did.
    """
    text = session.get_modelmeta().custom_metadata_map.get(ABOUT)
    if text is None:
        raise UserError(
            f"{path} is an ONNX model, but not one of `tintype export`: it does not say what its answers mean."
        )

    try:
        about = json.loads(text)
        version = int(about["format"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"what {path} says of itself is broken. Export it again.") from None

    if version > FORMAT:
        raise UserError(
            f"{path} was made by a newer tintype (format {version}, this one reads {FORMAT}). Update tintype."
        )
    return about
