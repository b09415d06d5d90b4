"""How a finished network that enlarges is measured again: on whole photos, its own or others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tintype.data.source import DataSplits
from tintype.runs.folder import RunFolder
from tintype.runs.model import resize_of
from tintype.tasks.contract.measure import Measured, Measurement
from tintype.tasks.contract.own_data import division
from tintype.tasks.upscale.sets.pairs import group_photos, open_pairs, open_whole
from tintype.tasks.upscale.task import Upscale


def open_own(run: RunFolder, description: Mapping[str, Any]) -> DataSplits:
    """Open the photos of a run, divided as they were in training.

    Raises:
        UserError: they are not there.
    """
    recipe = run.recipe
    options = recipe.task_options
    return open_pairs(
        recipe.data,
        data_root=recipe.data_root,
        image_size=recipe.image_size,
        resize=resize_of(dict(description)),
        **division(recipe),
        **{name: options[name] for name in ("scale", "patch") if name in options},
    )


class Measure(Measurement[Upscale]):
    """PSNR and SSIM of enlarged photos, and LPIPS by the network that the user names."""

    reads = ("features",)

    def open_own(self) -> DataSplits:
        return open_own(self.run, self.description)

    def own(self, splits: DataSplits, split: str) -> dict[str, Any]:
        self.task.measure_by(self.options.features)
        return super().own(splits, split)

    def other(self, data: str) -> Measured:
        options = self.options
        self.task.measure_by(options.features)
        network = self.task.networks[self.task.main]
        photos = open_whole(data, self.task.scale, options.split)
        if options.groups is not None:
            self.task.groups = group_photos(photos.photos, options.groups, options.progress)[0]

        figures = self.task.evaluate(network, photos, options.measuring).figures
        return Measured(photos.spec.name, figures)
