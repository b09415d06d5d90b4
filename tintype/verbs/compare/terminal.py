"""A comparison in the terminal: a table for each group, and what can be said of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from tintype.tasks.contract.compare import Column, compare_part, figure_column, listed

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tintype.tasks.contract.compare import Group
    from tintype.verbs.compare import Comparison

MOST_SENTENCES = 12
MOST_CONFOUNDED = 6
MOST_COLUMNS = 5  # runs that stand side by side in a terminal


def _magnitude(value: float) -> str:
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:g}"


def _milliseconds(value: float) -> str:
    return f"{value:.3g} ms" if value < 1000 else f"{value / 1000:.3g} s"


def _seconds(value: float) -> str:
    if value < 120:
        return f"{value:.1f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


COST = {
    "parameters": ("parameters", _magnitude),
    "multiply_adds": ("multiply-adds", _magnitude),
    "training_seconds": ("training", _seconds),
    "latency_1_ms": ("one image", _milliseconds),
    "latency_64_ms": ("batch of 64", _milliseconds),
}


def columns(task: str, group: Group) -> dict[str, Column]:
    """Return the columns of a group's table that hold something, by the figure that they show."""
    known = compare_part(task).columns(group)
    known |= {key: figure_column(key, *how, cost=True) for key, how in COST.items()}
    return {
        key: shown
        for key, shown in known.items()
        if any(row.get(key) is not None for row in group.rows)
    }


def lines(comparison: Comparison) -> list[RenderableType]:
    """Return what the terminal shows."""
    # Where there are several groups, the first remark says why; without it the tables would be
    # misread.
    first = 1 if len(comparison.groups) > 1 else 0
    shown: list[RenderableType] = [
        Text(remark, style="bold") for remark in comparison.remarks[:first]
    ]

    for group in comparison.groups:
        shown += [Text(said) for said in told_first(group)]
        shown += [
            Text(group.title, style="bold"),
            *group_tables(comparison.task, group),
            Text(group.conclusion),
        ]
        pairs = (
            group.pairs
            if len(group.pairs) <= MOST_SENTENCES
            else group.against_best()[:MOST_SENTENCES]
        )
        shown += [Text(f"- {pair.sentence}.") for pair in pairs]
        if len(group.pairs) > len(pairs):
            shown.append(
                Text(f"- {len(group.pairs) - len(pairs):,} further pairs: --html FILE or --json")
            )
        shown += [Text(remark) for remark in group.remarks]
        shown.append(Text(""))

    if len(comparison.pairs) > 1:
        shown.append(
            Text("A difference is significant if p < 0.05 after Holm's correction for all pairs.")
        )
    if comparison.machine:
        threads, device = comparison.machine["threads"], comparison.machine["device"]
        shown.append(
            Text(
                f"Latency was measured now, on {device} with {threads} "
                f"thread{'s' if threads > 1 else ''}."
            )
        )

    shown += setup_lines(comparison)
    return [*shown, *(Text(remark) for remark in comparison.remarks[first:])]


def told_first(group: Group) -> list[str]:
    """Return in what the runs of a group differ beside the one thing that a figure might be
    credited to.
    """
    said = [each.sentence() for each in group.confounding[:MOST_CONFOUNDED]]
    left = len(group.confounding) - len(said)
    if left:
        said.append(
            f"{left} more {'run differs' if left == 1 else 'runs differ'} "
            f"from {group.best} in several settings."
        )
    return said


def setup_lines(comparison: Comparison) -> list[RenderableType]:
    """Return data, splits and preprocessing side by side: where the runs differ as a table, the
    rest as a line.
    """
    if not comparison.setup:
        return []
    head = "Data, splits and preprocessing; ≠ marks where the runs differ"
    shown: list[RenderableType] = [Text(head, style="bold")]
    differing = [row for row in comparison.setup if row.differs]

    if len(comparison.names) <= MOST_COLUMNS:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("", no_wrap=True)
        for name in comparison.names:
            table.add_column(Text(name), overflow="fold")
        for row in differing:
            table.add_row(Text(f"≠ {row.what}"), *(Text(value) for value in row.values))
        shown += [table] if differing else []
    else:
        for row in differing:
            by_value: dict[str, list[str]] = {}
            for name, value in zip(comparison.names, row.values, strict=True):
                by_value.setdefault(value, []).append(name)
            each = [f"{value} ({listed(names)})" for value, names in by_value.items()]
            shown.append(Text(f"≠ {row.what}: {'; '.join(each)}"))

    same = [f"{row.what} {row.values[0]}" for row in comparison.setup if not row.differs]
    return [*shown, *([Text(f"The same in all: {', '.join(same)}.")] if same else [])]


def group_tables(task: str, group: Group) -> list[Table]:
    """Return two tables of one group, the best run first: what was reached, and what it costs."""
    known = columns(task, group)
    parts = [[column for column in known.values() if column.cost == cost] for cost in (False, True)]

    tables = []
    for part in filter(None, parts):
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("", overflow="fold", min_width=8)
        for column in part:
            table.add_column(column.head, justify="right")
        for row in group.rows:
            table.add_row(Text(row["name"]), *(column.text(row) for column in part))
        tables.append(table)

    return tables
