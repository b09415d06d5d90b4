"""How a finished classifier is measured again: on its own images, or on others with its classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tintype.data import open_whole
from tintype.data.layout import class_name
from tintype.data.opening import shadowed
from tintype.data.source import DataSplits, ImageSource, group_numbers
from tintype.errors import UserError
from tintype.tasks.classify import metrics
from tintype.tasks.classify.classifier import Classify
from tintype.tasks.contract.measure import Measured, Measurement
from tintype.tasks.contract.own_data import model_input, open_divided
from tintype.tasks.contract.seen import UNKNOWN, seen_before


class Measure(Measurement[Classify]):
    """Accuracy and its kin, for each class as well where that is asked for."""

    reads = ("classes",)

    def own(self, splits: DataSplits, split: str) -> dict[str, Any]:
        evaluation = self.measured(splits, split)
        details = evaluation.details
        classes = self._by_class(details["probabilities"], details["targets"])
        return evaluation.figures | classes | self.by_column(evaluation, splits, split)

    def other(self, data: str) -> Measured:
        source, groups, more = self._opened(data)
        network = self.task.networks[self.task.main]
        probabilities = self.task.predict_source(network, source, self.options.measuring)
        targets = self._numbers_in_model(source)[source.targets.numpy()]

        numbers = group_numbers(source.names, groups)
        figures = metrics.classification_figures(probabilities, targets, numbers)
        figures |= self._by_class(probabilities, targets)

        remarks = list(shadowed(data))
        seen = seen_before(self.run, source)
        if seen is None:
            remarks.append(UNKNOWN)
        else:
            figures["seen"] = seen.counts
            remarks.append(seen.remark())
        if seen is not None and seen.new is not None:
            names = [source.names[int(i)] for i in seen.new]
            figures["without_seen"] = metrics.classification_figures(
                probabilities[seen.new], targets[seen.new], group_numbers(names, groups)
            )

        remarks += [*more, *self._about_groups(figures)]
        return Measured(source.spec.name, figures, remarks, source)

    def _opened(self, data: str) -> tuple[ImageSource, Mapping[str, str], list[str]]:
        """Return other images, the groups of some by their names, and remarks on the groups."""
        options = self.options
        if options.split is not None:
            splits = open_divided(self.run, self.description, data, groups=options.groups)
            return splits[options.split], splits.groups, []
        shape = model_input(self.description)
        return open_whole(data, groups=options.groups, progress=options.progress, **shape)

    def _numbers_in_model(self, source: ImageSource) -> np.ndarray:
        """Return for each class of other images its number in the model.

        Raises:
            UserError: the model does not know one of the classes.
        """
        known = {class_name(name): k for k, name in enumerate(self.task.spec.class_names)}
        unknown = [name for name in source.spec.class_names if name not in known]
        if unknown:
            raise UserError(
                f"the model does not know the classes {', '.join(unknown[:5])} of "
                f"{source.spec.name}. It knows: {', '.join(list(known)[:10])}."
            )
        return np.array([known[name] for name in source.spec.class_names])

    def _by_class(self, probabilities: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
        """Return precision, recall and F1 of each class, and their averages, if asked for."""
        if not self.options.classes:
            return {}
        names = self.task.spec.class_names
        confusion = metrics.confusion_matrix(probabilities.argmax(1), targets, len(names))
        return {
            "per_class": metrics.per_class(confusion, names),
            "averages": metrics.averages(confusion),
        }

    def _about_groups(self, figures: Mapping[str, Any]) -> list[str]:
        """Return sentences on intervals by group, and on groups that may be missing."""
        lines = []
        if figures.get("num_groups"):
            lines.append(
                f"Intervals are by group: {figures['num_images']:,} images in "
                f"{figures['num_groups']:,} groups."
            )

        of_run = self.run.recipe.groups
        if of_run is not None and self.options.groups is None:
            lines.append(
                f"The run was trained with groups {of_run}; "
                "where these images are named alike, type --groups too."
            )
        return lines

    @staticmethod
    def table(figures: Mapping[str, Any]) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        rows = metrics.report_rows(figures["split"], figures["per_class"], figures["averages"])
        return metrics.REPORT_HEADER, rows
