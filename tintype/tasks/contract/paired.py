"""Runs that were measured on the same images, and paired differences of a mean over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from tintype import statistics
from tintype.tasks.contract.compare import CLAIM, Group, Pair, PairColumn, correct
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


def across_folds(one: Compared, other: Compared, differences: np.ndarray) -> dict[str, Any] | None:
    """Return the difference of two runs over their folds: each fold's, interval and p-value.

    The corrected resampled t-test. None where the runs have no folds, or not the same ones.

    Args:
        one: a run.
        other: one with the same images in the same order.
        differences: of the two on each image (N,).
    """
    folds, theirs = one.folds(), other.folds()
    if folds is None or theirs is None or not (folds == theirs).all():
        return None
    numbers = np.unique(folds)
    means = [float(differences[folds == fold].mean()) for fold in numbers]
    found = statistics.corrected_resampled(means, 1 / (len(numbers) - 1))
    if found is None:
        return None
    return {"differences": means, "ci95": list(found[0]), "p": found[1]}


def folds_column(group: Group, said: Callable[[float], str]) -> list[PairColumn]:
    """Return the column of differences over folds, where each pair has them.

    Args:
        group: of runs that are compared.
        said: writes a difference.
    """
    if not group.pairs or not all("folds" in pair.more for pair in group.pairs):
        return []

    def text(pair: Pair) -> str:
        low, high = pair.more["folds"]["ci95"]
        return f"{said(low)} to {said(high)}, p {pair.more['folds']['p']:.2g}"

    return [PairColumn("Over folds (95 %)", lambda pair: pair.more["folds"]["p"], text)]


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
        if over_folds := across_folds(runs[a], runs[b], differences):
            more |= {"folds": over_folds, "p_images": p}
            p = None if p is None else max(p, over_folds["p"])
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
