"""Figures of the user's own: functions `(answers, targets) -> float` of a whole split."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from tintype import own_code
from tintype.errors import UserError


class OwnMetrics:
    """Measure the figures of the user's own on whole splits.

    A function is called with arrays of NumPy, answers (N, K) and targets (N, ...), and returns a
    number. Higher is better, unless it has an attribute `higher_is_better` that is false.

    Args:
        references: see `tintype.own_code`.
        taken: names that other figures of the task have.

    Attributes:
        monitors: every figure by its name, with whether higher is better.

    Raises:
        UserError: there is no such function, or its name is taken.
    """

    def __init__(self, references: Sequence[str], taken: Collection[str]) -> None:
        self.functions: dict[str, Any] = {}
        for reference in references:
            name = own_code.name_of(reference)
            if name in taken or name in self.functions:
                raise UserError(
                    f"the metric {name} has the name of another figure. Give it another one, as in "
                    f"metrics={{'my_{name}': function}}."
                )
            self.functions[name] = own_code.find(reference, "metric", "metric")

        self.monitors = {
            name: bool(getattr(function, "higher_is_better", True))
            for name, function in self.functions.items()
        }

    def __bool__(self) -> bool:
        return bool(self.functions)

    def figures(self, answers: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """Return every figure by its name.

        Raises:
            UserError: a function fails, or returns no number.
        """
        return {name: self._figure(name, answers, targets) for name in self.functions}

    def _figure(self, name: str, answers: np.ndarray, targets: np.ndarray) -> float:
        with own_code.running(f"the metric {name}"):
            value = self.functions[name](answers.copy(), targets.copy())

        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise UserError(
                f"the metric {name} returns {_said(value)} for answers {answers.shape} and targets "
                f"{targets.shape}. Expected a finite number."
            )
        return number


def _said(value: object) -> str:
    return str(value) if isinstance(value, float) else type(value).__name__
