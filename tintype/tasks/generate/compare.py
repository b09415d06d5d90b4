"""Generators: distances to the real images, ranked only where they were measured by one protocol."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from tintype.tasks.contract.compare import ALONE, Group
from tintype.tasks.contract.compared_run import Compared

FIRST = ("fid", "fd_")  # the distances by which runs may be ranked, the most usual first
Measure = tuple[str, str, int]  # figure, how it was measured, number of generated images


def compare_generators(runs: Sequence[Compared]) -> list[Group]:
    """Return the runs in groups that share data and a distance by the same protocol, ranked by it."""
    by_data: dict[str, list[Compared]] = {}
    for run in runs:
        by_data.setdefault(str(run.data.get("fingerprint")), []).append(run)

    groups = []
    for members in by_data.values():
        left = members
        while left:
            measure = _most_shared(left)
            inside = [run for run in left if measure is None or measure in measures(run)]
            groups.append(_group(inside, measure))
            left = [run for run in left if run not in inside]

    return groups


def measures(run: Compared) -> list[Measure]:
    """Return the distances of a run with their protocols, those first by which it is ranked."""
    protocol, count = (
        run.evaluation.get("protocol") or {},
        int(run.figures.get("num_generated") or 0),
    )
    found = [
        (key, str(protocol.get(key, "")), count)
        for key in run.figures
        if key.startswith(FIRST) and not key.endswith("_floor")
    ]
    return sorted(found, key=lambda measure: measure[0] != "fid")


def _most_shared(runs: Sequence[Compared]) -> Measure | None:
    counts = Counter(measure for run in runs for measure in measures(run))
    return max(counts, key=lambda m: (counts[m], m[0] == "fid"), default=None)


def _group(runs: list[Compared], measure: Measure | None) -> Group:
    key = measure[0] if measure else ""
    runs = sorted(runs, key=lambda run: run.figures.get(key, float("inf")))
    shared = [each for each in measures(runs[0]) if all(each in measures(run) for run in runs)]
    title = (
        f"{runs[0].data.get('name')}, by {key} of {measure[2]:,} images"
        if measure
        else str(runs[0].data.get("name"))
    )
    group = Group(title, runs, [_row(run, shared) for run in runs])
    group.details = {"measure": key, "protocols": {name: how for name, how, _ in shared}}
    group.conclusion = _conclusion(group, key)
    apart = sorted({m[0] for run in runs for m in measures(run)} - {name for name, *_ in shared})
    if apart:
        group.remarks.append(
            f"{', '.join(apart)}: not measured by the same protocol in all of these runs, so left out."
        )
    if len(runs) > 1:
        group.remarks.append(
            "A distance comes from one set of generated images of one training, so it has no interval here: only runs with "
            "several seeds tell whether a difference holds."
        )

    return group


def _row(run: Compared, shared: Sequence[Measure]) -> dict[str, Any]:
    figures = run.figures
    row = {**run.facts, "num_generated": figures.get("num_generated")}
    for key, _, _ in shared:
        features = "inception" if key == "fid" else key.removeprefix("fd_")
        names = (
            key,
            f"{key}_floor",
            f"kid_{features}",
            f"precision_{features}",
            f"recall_{features}",
        )
        row |= {name: figures[name] for name in names if name in figures}

    return row | {
        key: figures[key]
        for key in ("diversity", "classes_present", "class_accuracy")
        if key in figures
    }


def _conclusion(group: Group, key: str) -> str:
    rows = group.rows
    if not key:
        return "No distance was measured, so nothing can be ranked."

    floor = rows[0].get(f"{key}_floor")
    text = f"{rows[0]['name']} comes nearest to the real images, {key} {rows[0][key]:.4g}"
    if len(rows) == 1:
        text = f"{rows[0]['name']}: {key} {rows[0][key]:.4g}"
    if floor is not None:
        text += f" (real against real {floor:.4g})"
    if len(rows) == 1:
        return f"{text}. {ALONE}"

    return f"{text}; next is {rows[1]['name']} with {rows[1][key]:.4g}."
