"""How a finished generator is measured again: its images beside those of the run's own data."""

from __future__ import annotations

from typing import Any

from tintype.data.source import DataSplits
from tintype.tasks.contract.measure import Measurement
from tintype.tasks.contract.own_data import open_divided
from tintype.tasks.generate.task import Generate


class Measure(Measurement[Generate]):
    """Distances between generated and real images, by the features that the user names."""

    reads = ("features", "inception_weights")

    def open_own(self) -> DataSplits:
        return open_divided(self.run, self.description, test_optional=False)

    def own(self, splits: DataSplits, split: str) -> dict[str, Any]:
        options = self.options
        self.task.measure_by(
            splits.train, options.features, options.inception_weights, options.progress
        )
        protocol = self.task.protocol()
        return {**super().own(splits, split), "protocol": protocol}
