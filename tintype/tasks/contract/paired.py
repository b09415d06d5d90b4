"""Runs that were measured on the same images, and paired differences of a mean over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from tintype import statistics
from tintype.tasks.contract.compare import CLAIM, Pair, correct
from tintype.tasks.contract.compared_run import Compared, groups_of


def gathered(
    runs: Sequence[Compared], alike: Callable[[Compared, Compared], bool]
) -> list[list[Compared]]:
    """Put runs together that are alike; the first of each list is what the others are held to."""
    found: list[list[Compared]] = []
    for run in runs:
        members = next((members for members in found if alike(members[0], run)), None)
        if members is None:
            found.append([run])
        else:
            members.append(run)
    return found


def paired_means(
    runs: Sequence[Compared],
    values: Sequence[np.ndarray],
    figure: str,
    sentence: Callable[[Pair], str],
    *,
    higher_is_better: bool = True,
    further: Callable[[np.ndarray], Mapping[str, Any]] = lambda differences: {},
) -> list[Pair]:
    """Return the pair of each two runs, in the runs' order, by Student's paired t-test.

    Args:
        runs: the better ones first.
        values: of each run, one for each image (N,), in the same order.
        figure: the name of the mean of `values`.
        sentence: says in words what a finished pair shows.
        further: what else a pair holds of its differences (N,).
    """
    groups = groups_of(runs)
    pairs: list[Pair] = []
    all_differences: list[np.ndarray] = []

    for a, b in combinations(range(len(runs)), 2):
        differences = values[a] - values[b]
        gains = differences if higher_is_better else -differences
        more = {
            "num_images": len(differences),
            "num_better": int((gains > 0).sum()),
            **further(differences),
        }
        if groups is not None:
            effect = statistics.clusters_of(differences, groups).design_effect
            more |= {"num_groups": int(groups.max()) + 1, "design_effect": effect}

        interval = statistics.mean_interval(differences, groups=groups)
        p = statistics.paired_p(differences, groups)
        estimate = float(differences.mean())
        pairs.append(Pair(runs[a].name, runs[b].name, figure, estimate, interval, p, more=more))
        all_differences.append(differences)

    correct(pairs)
    for pair, differences in zip(pairs, all_differences, strict=True):
        needed = None
        if not pair.shown:
            effect = pair.more.get("design_effect", 1.0)
            needed = statistics.more_cases_of_mean(
                differences, alpha=CLAIM / len(pairs), design_effect=effect
            )
        pair.more["more_images"] = needed
        pair.sentence = sentence(pair)
    return pairs
