"""The page of a comparison: sections for each group of runs that may be ranked, from their plain
files and pictures.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tintype.pages import figures, words
from tintype.pages.pages import check_replaceable as check_page
from tintype.pages.pages import templates, write_sections
from tintype.pages.section import Section
from tintype.plugins import task_title
from tintype.tasks.contract.compare import compare_page_part, compare_part
from tintype.verbs.compare import terminal
from tintype.verbs.compare.figures import against_costs, histories

if TYPE_CHECKING:
    from tintype.runs.ranking import Criterion
    from tintype.tasks.contract.compare import Group, Pair, Progress
    from tintype.verbs.compare import Comparison
    from tintype.verbs.compare.settings import Row

MADE_BY = "tintype compare"
MOST_STRIPS = 12


def write_comparison(
    path: Path,
    title: str,
    make_sections: Callable[[Progress | None, Path], list[Section]],
    progress: Progress | None,
) -> Path:
    """Write the page; whatever is in its way is refused before the sections are made.

    Raises:
        UserError: there is something else at `path`, or it cannot be written.
    """
    check_replaceable(path)
    sections = make_sections(progress, path)
    return write_sections(path, title, ["Comparison"], sections, made_by=MADE_BY)


def check_replaceable(path: Path) -> None:
    """Raise where the page could not be written.

    Raises:
        UserError: there is something else at `path`, or it cannot be written.
    """
    check_page(path, MADE_BY)


def comparison_sections(
    comparison: Comparison, progress: Progress | None = None, page: Path | None = None
) -> list[Section]:
    """Return the sections of a comparison.

    The result of all groups comes first, then the sections of each group with two runs or more.
    `page` is where the page will be, so that it can link the reports of the runs.
    """
    reports = {
        run.name: _link(run.folder.path, page) for group in comparison.groups for run in group.runs
    }
    sections = [_result(comparison, reports)]

    ranked = [group for group in comparison.groups if len(group.rows) > 1]
    for group in ranked:
        number = comparison.groups.index(group) + 1
        suffix, after = (f"-{number}", f" · {group.title}") if len(ranked) > 1 else ("", "")
        for section in _on_group(comparison, group, suffix, progress):
            titled = replace(section, id=f"{section.id}{suffix}", title=section.title + after)
            sections.append(titled)

    return [*sections, _setup(comparison), _remarks(comparison, reports)]


def _on_group(
    comparison: Comparison, group: Group, suffix: str, progress: Progress | None
) -> list[Section]:
    """Return what is shown of one group: differences, pictures, costs, training."""
    part = compare_page_part(comparison.task)
    made = [
        _differences(comparison, group),
        *(part.sections(group, progress) if part else []),
        _cost(comparison, group, suffix),
        _history(comparison, group, suffix),
    ]
    return [section for section in made if section is not None]


def _link(run: Path, page: Path | None) -> str:
    """Return the address of a run's report as seen from the page, or "" where there is none."""
    report = run / "report.html"
    if page is None or not report.is_file():
        return ""
    try:
        return quote(Path(os.path.relpath(report, page.parent)).as_posix())
    except ValueError:  # on another drive
        return ""


def comparison_table(comparison: Comparison) -> str:
    """Return the tables and conclusions as plain HTML, for notebooks."""
    groups = [(group, *_cells(comparison.task, group)) for group in comparison.groups]
    return (
        templates()
        .get_template("comparison_table.html")
        .render(groups=groups, comparison=comparison)
    )


# ---- the result ----------------------------------------------------------------------------------


def _result(comparison: Comparison, reports: Mapping[str, str]) -> Section:
    groups = []
    for group in comparison.groups:
        heads, rows = _cells(comparison.task, group)
        colours = figures.class_colours(len(group.rows))
        groups.append(
            {
                "group": group,
                "confounding": terminal.told_first(group),
                "plate": _plate(comparison.task, group),
                "heads": heads,
                "rows": [
                    (row["name"], colour, cells)
                    for row, colour, cells in zip(group.rows, colours, rows, strict=True)
                ],
            }
        )

    context = {
        "groups": groups,
        "task": task_title(comparison.task),
        "reports": reports,
        "remarks": comparison.remarks[:1] if len(groups) > 1 else [],
    }
    return Section("result", "Result", "comparison_result.html", context)


def _cells(task: str, group: Group) -> tuple[list[str], list[list[tuple[Any, str]]]]:
    """Return the heads of a group's table, and the values of each row with their text.

    The values are what is sorted by.
    """
    columns = terminal.columns(task, group)
    cells = [
        [(row.get(key) or 0, column.text(row)) for key, column in columns.items()]
        for row in group.rows
    ]
    return [column.head for column in columns.values()], cells


def _plate(task: str, group: Group) -> dict[str, Any] | None:
    """Return what the dark plate shows: the first run's figure, and all runs on a common scale."""
    ranked = compare_part(task).figures(group)[0]
    key = ranked.criterion.key
    interval = ranked.interval
    scale = ranked.criterion.scale
    rows = [row for row in group.rows if row.get(key) is not None][:MOST_STRIPS]
    if not rows:
        return None
    bounds = [row.get(interval) or (row[key], row[key]) for row in rows]
    low, high = min(b[0] for b in bounds), max(b[1] for b in bounds)
    top = high if high > low else low + max(abs(low), 1) * 0.01
    ticks = _ticks(low, top)
    first, last = ticks[0], ticks[-1]

    def place(value: float) -> float:
        return round(100 * min(1.0, max(0.0, (value - first) / (last - first))), 2)

    big, _, unit = ranked.text(rows[0][key]).replace(words.THIN, " ").partition(" ")
    strip = [
        {
            "name": row["name"],
            "text": ranked.text(row[key]),
            "dot": place(row[key]),
            "left": place(b[0]),
            "width": round(place(b[1]) - place(b[0]), 2) if interval else 0,
        }
        for row, b in zip(rows, bounds, strict=True)
    ]
    return {
        "title": ranked.title,
        "big": big,
        "unit": unit,
        "name": rows[0]["name"],
        "interval": rows[0].get(interval),
        "strip": strip,
        "left_out": len(group.rows) - len(strip),
        "has_interval": bool(interval),
        "ticks": [
            (place(tick), text) for tick, text in zip(ticks, _labels(ticks, scale), strict=True)
        ],
    }


def _ticks(low: float, high: float) -> list[float]:
    """Return round values from the one at or below `low` to the one at or above `high`."""
    from matplotlib.ticker import MaxNLocator

    return [float(tick) for tick in MaxNLocator(4, min_n_ticks=3).tick_values(low, high)]


def _labels(ticks: Sequence[float], scale: float) -> list[str]:
    """Return what is written at the ticks, with as many digits as their steps need."""
    step = scale * (ticks[1] - ticks[0])
    digits = next((d for d in range(4) if abs(step * 10**d - round(step * 10**d)) < 1e-6), 4)
    return [f"{scale * tick:.{digits}f}".replace("-", "−") for tick in ticks]


@dataclass(frozen=True)
class Line:
    """A number line that holds zero: where a value lies on it, in percent of its length, and its
    ticks.
    """

    low: float
    high: float
    ticks: list[tuple[float, str]]

    @classmethod
    def of(cls, values: Sequence[float], scale: float) -> Line:
        """Return the line on which `values` have room; `scale` turns a value into what is written
        at the ticks.
        """
        low, high = min(0.0, *values), max(0.0, *values)
        room = 0.04 * ((high - low) or 1)
        line = cls(low - room, high + room, [])
        inside = [tick for tick in _ticks(line.low, line.high) if line.low <= tick <= line.high]
        if len(inside) > 1:
            labels = _labels([tick + 0.0 for tick in inside], scale)
            line.ticks.extend(
                (line.place(tick), text) for tick, text in zip(inside, labels, strict=True)
            )
        return line

    def place(self, value: float) -> float:
        """Return where a value lies, in percent of the length."""
        return round(100 * (value - self.low) / (self.high - self.low), 2)


# ---- differences ---------------------------------------------------------------------------------


def _differences(comparison: Comparison, group: Group) -> Section | None:
    """Show each run against the first one, and all pairs in a table."""
    pairs = group.against_best()
    if not pairs:
        return None
    part = compare_part(comparison.task)
    criterion = part.figures(group)[0].criterion
    ends = [end for pair in pairs for end in (pair.ci95 or (pair.estimate, pair.estimate))]
    line = Line.of(ends, criterion.scale)
    place = line.place

    forest = [
        {
            "pair": pair,
            "dot": place(pair.estimate),
            "left": place(pair.ci95[0] if pair.ci95 else pair.estimate),
            "right": place(pair.ci95[1] if pair.ci95 else pair.estimate),
            "text": _size(pair, criterion),
        }
        for pair in pairs
    ]
    context = {
        "best": group.best,
        "forest": forest,
        "zero": place(0.0),
        "ticks": line.ticks,
        "unit": criterion.unit or criterion.label,
        "lede": part.PAIRED.format(best=group.best),
        "pairs": group.pairs,
        "columns": part.pair_columns(group),
        "size": lambda pair: _size(pair, criterion),
        "p_text": p_text,
    }
    return Section("differences", "Differences", "comparison_differences.html", context)


def _size(pair: Pair, criterion: Criterion) -> str:
    text = criterion.number(pair.estimate).replace("-", "−")
    return f"{text} ({criterion.interval(pair.ci95)})" if pair.ci95 else text


def p_text(p: float | None) -> str:
    """Return a p-value as it is printed."""
    if p is None:
        return "–"
    if p < 0.001:
        return "< 0.001"
    return f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


# ---- cost ----------------------------------------------------------------------------------------


def _cost(comparison: Comparison, group: Group, suffix: str) -> Section | None:
    """Show what each run reaches against what it costs, with the Pareto front."""
    found = against_costs(comparison.task, group, suffix)
    if not found:
        return None

    first, *further = compare_part(comparison.task).figures(group)
    others = " or ".join(f"the {ranked.criterion.label}" for ranked in further)
    colours = figures.class_colours(len(group.rows))
    context = {
        "charts": [drawing.chart(legend=False) for _, drawing in found],
        "costs": [cost for cost, _ in found],
        "machine": comparison.machine,
        "what": f"{first.title}, or {others}," if others else first.title,
        "runs": [(row["name"], colour) for row, colour in zip(group.rows, colours, strict=True)],
    }

    return Section("cost", "What it costs", "comparison_cost.html", context)


# ---- training ------------------------------------------------------------------------------------


def _history(comparison: Comparison, group: Group, suffix: str) -> Section | None:
    """Show the validation figures of all runs over their training."""
    drawing = histories(comparison.task, group, suffix)
    if drawing is None:
        return None
    return Section(
        "training", "Training curves", "comparison_history.html", {"chart": drawing.chart()}
    )


def _setup(comparison: Comparison) -> Section:
    """Lay data, splits and preprocessing of all runs side by side."""
    parts: dict[str, list[Row]] = {}
    for row in comparison.setup:
        parts.setdefault(row.part, []).append(row)
    context = {
        "names": comparison.names,
        "parts": parts,
        "differ": any(row.differs for row in comparison.setup),
    }
    return Section("setup", "Data, splits and preprocessing", "comparison_setup.html", context)


def _remarks(comparison: Comparison, reports: Mapping[str, str]) -> Section:
    """Gather how the figures came about, and what is to be known of them."""
    context = {
        "remarks": [
            *comparison.remarks,
            *(remark for group in comparison.groups for remark in group.remarks),
        ],
        "method": compare_part(comparison.task).METHOD,
        "many": max(len(group.rows) for group in comparison.groups) > 2
        and comparison.split == "test",
        "protocols": {
            k: v
            for group in comparison.groups
            for k, v in (group.details.get("protocols") or {}).items()
        },
        "runs": [
            (run.name, str(run.folder.path), reports[run.name])
            for group in comparison.groups
            for run in group.runs
        ],
    }
    return Section("how", "How this was compared", "comparison_how.html", context)
