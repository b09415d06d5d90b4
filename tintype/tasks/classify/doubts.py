"""What models of single folds say of labels that they have not seen, for the audit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tintype.errors import UserError
from tintype.tasks.contract.doubts import Judgements


def judgements(answers: Mapping[str, np.ndarray], model: Mapping[str, Any]) -> Judgements:
    """Return the classes of a run with the logits that its folds gave.

    Args:
        answers: what all folds answered, as `Task.answers` gives it.
        model: the content of model.json.

    Raises:
        UserError: the two do not belong together.
    """
    names = tuple(model.get("class_names", ()))
    logits, targets = answers.get("logits"), answers.get("targets")
    if logits is None or targets is None or logits.shape != (len(targets), len(names)):
        raise UserError("the answers of the run's folds are not those of its classes.")
    return Judgements(names, logits, targets)
