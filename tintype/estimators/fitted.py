"""The model of a fitted estimator, apart from the run that it was trained in."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tintype import own_code
from tintype.estimators.pixels import Files, Given, Pictures, Range, Values
from tintype.verbs.run import Run

if TYPE_CHECKING:
    from tintype.tasks.contract.predict import Predictor

# What is kept of a run: plain data, from which the model is loaded.
KEPT = ("recipe.yaml", "model.json", "model.safetensors")
BATCH_VALUES = 4_000_000  # of pixels that are computed at once

# Training and loading change what belongs to the whole process: threads, random numbers, signals,
# and the code that was given in Python.
process = threading.Lock()


class FittedModel:
    """A finished model as the files of its run, opened when it is first asked.

    It is pickled as these files, so that it holds weights and no code. Code of the user's own is
    pickled as Python does it: by its name.

    Args:
        files: the content of the files that are kept of the run.
        range: which values are black and white.
        own: code of the user's own by its reference; None for what is in a file.
        device: where to compute.
    """

    def __init__(
        self, files: Mapping[str, bytes], range: Range, own: Mapping[str, Any], device: str
    ) -> None:
        self.files = dict(files)
        self.range = range
        self.own = dict(own)
        self.device = device
        self._predictor: Predictor | None = None

    @classmethod
    def of(cls, run: Run, range: Range, own: Mapping[str, Any]) -> FittedModel:
        """Return the model of a finished run."""
        files = {name: (run.path / name).read_bytes() for name in KEPT}
        return cls(files, range, own, run.recipe.device)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_predictor": None}

    def answers(self, given: Given, answer: Callable[[Any, np.ndarray], np.ndarray]) -> np.ndarray:
        """Return `answer(predictor, pixels)` of all images, batch by batch, in one array.

        Raises:
            UserError: a file cannot be read, or the images are not such as were trained on.
        """
        with process:
            predictor = self._predictor = self._predictor or self._opened()
        size = (predictor.height, predictor.width, predictor.channels)
        step = max(1, BATCH_VALUES // prod(size))

        found: list[np.ndarray] = []
        for start in range(0, len(given), step):
            images = self._images(given, slice(start, start + step))
            if not isinstance(images, np.ndarray) or images.shape[1:] != size:
                images = np.stack([predictor.pixels(image) for image in images])
            found.append(answer(predictor, images))
        return np.concatenate(found)

    def _images(self, given: Given, part: slice) -> Any:
        if isinstance(given, Files):
            return given.paths[part]
        if isinstance(given, Pictures):
            return given.pictures[part]
        return self.range.pixels(Values(given.array[part], given.table))

    def _opened(self) -> Predictor:
        from tintype.verbs.predict.opening import open_run

        with tempfile.TemporaryDirectory(prefix="tintype-") as folder, ExitStack() as stack:
            for name, content in self.files.items():
                (Path(folder) / name).write_bytes(content)
            for reference, thing in self.own.items():
                if thing is None:
                    own_code.trust(reference)
                else:
                    stack.enter_context(own_code.given(thing, own_code.name_of(reference)))
            return open_run(Run(folder), self.device)
