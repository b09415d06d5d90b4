"""Generators: distances to real images, ranked where one protocol measured them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from tintype.runs.ranking import Criterion
from tintype.tasks.contract.compare import (
    ALONE,
    Column,
    Group,
    HistoryCurve,
    PairColumn,
    Progress,
    Ranked,
    figure_column,
)
from tintype.tasks.contract.compared_run import Compared

COLUMNS: Sequence[str] = ()
NUMBERS: Sequence[str] = ()
APART = "different data or protocols"
PAIRED = ""  # generators have no paired differences
METHOD = ""
HISTORY_AXIS = "step"

FIRST = ("fid", "fd_")  # the distances by which runs may be ranked, the most usual first
Measure = tuple[str, str, int]  # figure, how it was measured, number of generated images


def groups(runs: Sequence[Compared]) -> list[Group]:
    """Return the runs in groups that share data and a distance by one protocol.

    Each group is ranked by this distance.
    """
    by_data: dict[str, list[Compared]] = {}
    for run in runs:
        by_data.setdefault(str(run.data.get("fingerprint")), []).append(run)

    found = []
    for members in by_data.values():
        left = members
        while left:
            measure = _most_shared(left)
            inside = [run for run in left if measure is None or measure in measures(run)]
            found.append(_group(inside, measure))
            left = [run for run in left if run not in inside]

    return found


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
            f"{', '.join(apart)}: not measured by the same protocol "
            "in all of these runs, so left out."
        )
    if len(runs) > 1:
        group.remarks.append(
            "A distance comes from one set of generated images of one training, "
            "so it has no interval here: only runs with "
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


# ---- tables and figures --------------------------------------------------------------------------


def figures(group: Group) -> list[Ranked]:
    """Return the distance by which the runs are ranked."""
    key = group.details["measure"]
    criterion = Criterion(key, key, higher_is_better=False)
    return [Ranked(criterion, f"{key}, lower is nearer", "{:.4g}".format)]


def columns(group: Group) -> dict[str, Column]:
    """Return every figure; with one distance, those beside it need not name its features."""
    single = len(group.details["protocols"]) == 1
    return {
        key: figure_column(
            key, _head(key, single), "{:,}".format if type(value) is int else "{:.4g}".format
        )
        for key, value in group.rows[0].items()
        if key not in COSTS and isinstance(value, int | float)
    }


COSTS = ("parameters", "multiply_adds", "training_seconds")


def _head(key: str, single: bool) -> str:
    kind, _, features = key.removesuffix("_floor").partition("_")
    if key == "num_generated":
        return "images"
    if key.endswith("_floor"):
        return "real to real" if single else f"{key.removesuffix('_floor')}, real"
    if kind in ("kid", "precision", "recall"):
        name = "KID" if kind == "kid" else kind
        return name if single else f"{name} {features}"
    return key if key.startswith(FIRST) else key.replace("_", " ")


def pair_columns(group: Group) -> list[PairColumn]:
    """Return nothing: generators are not paired."""
    return []


def curves(group: Group) -> list[HistoryCurve]:
    """Return the distance on validation."""
    key = group.details["measure"]
    return [HistoryCurve(f"val_{key}", f"{key} on validation")]


def facts(run: Compared) -> dict[tuple[str, str], Any]:
    """Return the number of classes of the training images."""
    names = run.data.get("class_names") or []
    return {("data", "classes"): f"{len(names):,}" if names else None}


def measure_costs(
    runs: Sequence[Compared], device: str, progress: Progress | None
) -> dict[str, Any]:
    """Measure nothing."""
    return {}
