"""How a finished regression is measured again: on its own images, or on others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tintype.data import open_whole
from tintype.data.opening import shadowed
from tintype.data.source import DataSplits, ImageSource, group_numbers
from tintype.data.targets import Numbers
from tintype.errors import UserError
from tintype.tasks.contract.measure import Measured, Measurement
from tintype.tasks.contract.own_data import model_input, open_divided, target_of
from tintype.tasks.contract.seen import UNKNOWN, seen_before
from tintype.tasks.regress.regressor import Regress
from tintype.tasks.task import Evaluation


class Measure(Measurement[Regress]):
    """MAE and its kin, and how often the predictive intervals hold."""

    def own(self, splits: DataSplits, split: str) -> dict[str, Any]:
        evaluation = self.measured(splits, split)
        more = self.by_column(evaluation, splits, split)
        return evaluation.figures | self._coverage(evaluation) | more

    def other(self, data: str) -> Measured:
        source, groups = self._opened(data)
        if source.spec.target.names != tuple(self.task.columns):
            raise UserError(
                f"the model answers with {', '.join(self.task.columns)}, and {data} holds "
                f"{', '.join(source.spec.target.names)}."
            )

        self.task.groups = groups
        evaluation = self.task.evaluate(
            self.task.networks[self.task.main], source, self.options.measuring
        )
        figures = evaluation.figures | self._coverage(evaluation)
        remarks = list(shadowed(data, Numbers.offer))

        seen = seen_before(self.run, source)
        if seen is None:
            remarks.append(UNKNOWN)
        else:
            figures["seen"] = seen.counts
            remarks.append(seen.remark())
        if seen is not None and seen.new is not None:
            names = [source.names[int(i)] for i in seen.new]
            rest = self._rest(evaluation, seen.new, group_numbers(names, groups))
            figures["without_seen"] = rest.figures

        return Measured(source.spec.name, figures, remarks, source)

    def _opened(self, data: str) -> tuple[ImageSource, Mapping[str, str]]:
        """Return other images, and the groups of some by their names."""
        options = self.options
        if options.split is not None:
            splits = open_divided(self.run, self.description, data, groups=options.groups)
            return splits[options.split], splits.groups

        opened = open_whole(
            data,
            target=target_of(self.run.recipe),
            groups=options.groups,
            progress=options.progress,
            **model_input(self.description),
        )
        return opened.source, opened.groups

    def _coverage(self, evaluation: Evaluation) -> dict[str, Any]:
        found = self.task.coverage(evaluation.details)
        if not found:
            return {}
        coverage = float(np.mean([each["coverage"] for each in found]))
        return {"coverage": coverage, "level": self.task.level, "intervals": found}

    def _rest(
        self, evaluation: Evaluation, kept: np.ndarray, groups: np.ndarray | None
    ) -> Evaluation:
        details = {
            name: values[kept] for name, values in evaluation.details.items() if name != "groups"
        }
        return self.task.evaluation(details if groups is None else {**details, "groups": groups})
