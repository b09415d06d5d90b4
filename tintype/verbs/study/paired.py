"""What a difference is on the images of the runs at hand: paired image by image, whatever other
seeds would give.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tintype import statistics
from tintype.data.source import group_numbers
from tintype.runs.ranking import ranking_part
from tintype.verbs.study.figures import Finished, image_figures, image_groups


@dataclass
class OnImages:
    """The mean difference on the images of these runs, averaged over the pairs of runs.

    It has its interval and test. `test` is "McNemar" for one pair of classifiers, "sign flips" for
    several or where images belong together in groups, and "t" for figures that are no counts.
    `num_groups` is None where each image stands alone.
    """

    estimate: float
    ci95: tuple[float, float] | None
    p: float | None
    num_images: int
    num_groups: int | None
    test: str
    p_holm: float | None = None


def on_images(pairs: Sequence[tuple[Finished, Finished]], split: str) -> OnImages | None:
    """Return the difference of the first runs of some pairs from the second ones; None if their
    images are not the same.
    """
    several: list[NDArray[np.float64]] = []
    names: tuple[str, ...] | None = None
    for a, b in pairs:
        of_a, of_b = image_figures(a, split), image_figures(b, split)
        if of_a is None or of_b is None or of_a[0] != of_b[0] or names not in (None, of_a[0]):
            return None
        names = of_a[0]
        several.append(of_a[1] - of_b[1])

    if names is None:
        return None
    known = (image_groups(run, split) for pair in pairs for run in pair)
    groups = next((found for found in known if found), {})
    numbers = group_numbers(names, groups)
    counted = ranking_part(pairs[0][0].task).COUNTED

    return _counted(several, numbers) if counted else _measured(several, numbers)


def _counted(several: Sequence[NDArray[np.float64]], groups: NDArray[np.int64] | None) -> OnImages:
    """Return the difference of classifiers: each image is right (1) or wrong (0)."""
    total = np.sum(several, axis=0)
    values = total / len(several)
    p = statistics.sign_flip_p(total, groups)
    first, second = values > 0, values < 0

    if len(several) > 1:
        interval = _interval(values, groups)
    elif groups is not None:
        interval = statistics.clustered_pair(first, second, groups)[0]
    else:
        interval = statistics.paired_interval(int(first.sum()), int(second.sum()), len(values))

    test = "McNemar" if len(several) == 1 and groups is None else "sign flips"
    return OnImages(float(values.mean()), interval, p, len(values), _num(groups), test)


def _measured(several: Sequence[NDArray[np.float64]], groups: NDArray[np.int64] | None) -> OnImages:
    values = np.mean(several, axis=0)
    means = values if groups is None else np.bincount(groups, weights=values) / np.bincount(groups)
    p = statistics.paired_p(means)
    return OnImages(
        float(values.mean()), _interval(values, groups), p, len(values), _num(groups), "t"
    )


def _interval(
    values: NDArray[np.float64], groups: NDArray[np.int64] | None
) -> tuple[float, float] | None:
    return (
        statistics.mean_interval(values)
        if groups is None
        else statistics.clustered_mean_interval(values, groups)
    )


def _num(groups: NDArray[np.int64] | None) -> int | None:
    return None if groups is None else int(groups.max()) + 1
