"""What a task offers so that the audit can doubt labels by the folds of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np


class Judgements(NamedTuple):
    """Logits (N, C) of photos from models that have not seen them, and the labels (N,) that these
    models learned from; `names` (C,) are the classes.
    """

    names: tuple[str, ...]
    logits: np.ndarray
    targets: np.ndarray


class DoubtsPart(Protocol):
    """What `tasks/NAME/doubts.py` holds."""

    def judgements(self, answers: Mapping[str, np.ndarray], model: Mapping[str, Any]) -> Judgements:
        """Return what the folds of a run say of each photo.

        Raises:
            UserError: the answers do not fit the model.
        """
        ...
