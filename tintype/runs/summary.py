"""The result of a run in the terminal: a small table and the verdict, as its task has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

from rich.table import Table

from tintype import plugins
from tintype.runs.folder import shown_split, without_test
from tintype.runs.ranking import criterion_called


class SummaryPart(Protocol):
    """The module `tasks/NAME/summary.py`; without it, every figure is shown as it is called."""

    def result_table(self, splits: Mapping[str, Mapping[str, Any]], *, called: str = "") -> Table:
        """Return the figures of the splits; `called` says what they are where no test part was
        measured.
        """
        ...

    def details(self, figures: Mapping[str, Any]) -> list[Table]:
        """Return what `tintype evaluate` shows of one split below that table."""
        ...

    def lines(self, evaluation: Mapping[str, Any]) -> list[str]:
        """Return what is said below the verdict, from evaluation.json."""
        ...

    def in_words(self, figures: Mapping[str, Any]) -> tuple[str, str]:
        """Return the figure of a split that counts, and its interval or what it compares with."""
        ...


def summary_part(task: str) -> SummaryPart | None:
    """Return how a task sums up its runs, or None where it does not say."""
    if not plugins.is_there(task, "summary"):
        return None
    return cast(SummaryPart, plugins.find_part(task, "summary", "be summed up"))


def result_table(task: str, splits: Mapping[str, Mapping[str, Any]], *, called: str = "") -> Table:
    """Return the figures of a run as a table.

    Where there was no test part, `called` says what its figures are, and it holds those of folds
    or validation alone.
    """
    if called:
        shown = shown_split({"splits": splits})
        splits = {shown: splits[shown]}
    part = summary_part(task)
    return part.result_table(splits, called=called) if part else plain_table(splits)


def with_clean_rows(splits: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return the figures of each split, followed by those without leaked or seen images."""
    rows: dict[str, Mapping[str, Any]] = {}
    for split, figures in splits.items():
        rows[split] = figures
        if "without_leaked" in figures:
            rows[f"{split} without leaks"] = figures["without_leaked"]
        if "without_seen" in figures:
            rows[f"{split} without seen"] = figures["without_seen"]
    return rows


def by_groups(splits: Mapping[str, Mapping[str, Any]]) -> str:
    """Return that the intervals of a run are by group, and of how many, or an empty text."""
    words = {"train": "training", "val": "validation", "test": "test", "folds": "out-of-fold"}
    counts = [
        f"{figures['num_images']:,} {words.get(split, split)} images in {figures['num_groups']:,}"
        for split, figures in splits.items()
        if figures.get("num_groups")
    ]
    if not counts:
        return ""

    return (
        "Intervals are by group, since images that belong together say less than as many separate "
        f"ones: {', '.join(counts)}."
    )


def column_tables(task: str, by_column: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Return for each column of the data a table of its values, with the figure that counts."""
    tables = []
    for each in by_column:
        criterion = criterion_called(task, each["figure"])
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column(each["column"], overflow="fold")
        for title in ("images", criterion.label, "95 % interval"):
            table.add_column(title, justify="right", no_wrap=True)
        for row in each["values"]:
            table.add_row(*criterion.row_of_value(row))
        tables.append(table)
    return tables


def plain_table(splits: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return a table with a row for each figure that is a number, and a column for each split."""
    names = dict.fromkeys(
        n for figures in splits.values() for n, v in figures.items() if isinstance(v, int | float)
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", *splits):
        table.add_column(column, justify="left" if not column else "right", no_wrap=True)

    for name in names:
        values = (figures.get(name) for figures in splits.values())
        table.add_row(name, *map(_cell, values))

    return table


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def verdict_line(evaluation: dict[str, Any]) -> str:
    """Return the verdict, what calibration changed, and how often the test set was used."""
    looks = (evaluation.get("test_looks") or {}).get("data", 0)
    lines = [evaluation["verdict"]["text"]]
    lines += [evaluation["chosen_by_validation"]] if evaluation.get("chosen_by_validation") else []
    if by_group := by_groups(evaluation.get("splits", {})):
        lines.append(by_group)

    part = summary_part(str(evaluation.get("task")))
    lines += part.lines(evaluation) if part else []
    lines += own_lines(evaluation)
    lines += [f"Warning: {line}" for line in evaluation.get("warnings", ())]
    if evaluation.get("folds"):
        lines.append(_uses(looks, "The folds have", "looked at"))
    elif not without_test(evaluation):
        lines.append(_uses(looks))

    return "\n".join(lines)


def own_lines(evaluation: Mapping[str, Any]) -> list[str]:
    """Return a line for each figure of the user's own making."""
    splits = evaluation.get("splits", {})
    lines = []
    for name, cells in own_rows(evaluation, splits):
        each = zip(splits, cells, strict=True)
        lines.append(f"{name}: {', '.join(f'{split} {cell}' for split, cell in each)}")
    return lines


def own_rows(
    evaluation: Mapping[str, Any], splits: Mapping[str, Mapping[str, Any]]
) -> list[tuple[str, list[str]]]:
    """Return each figure of the user's own making: its name, and a text for each split."""
    names = evaluation.get("own_figures") or ()
    return [(name, [_cell(each.get(name)) for each in splits.values()]) for name in names]


def _uses(count: int, what: str = "The test set has", used: str = "used") -> str:
    """Return how often the runs in a folder used the test set, or looked at their folds."""
    if not count:
        return f"{what} not been {used}."
    often = "once" if count == 1 else f"{count} times by the runs in this folder"
    return f"{what} been {used} {often}."
