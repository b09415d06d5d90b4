"""What a regression reached, in the terminal: errors beside those of the mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from tintype.runs.summary import with_clean_rows
from tintype.tasks.regress.metrics import in_digits

HEADS = ("images", "MAE", "95 % interval", "of the mean's", "RMSE", "R²")


def result_table(splits: Mapping[str, Mapping[str, Any]], *, called: str = "") -> Table:
    """Return a table with the errors of each split, and those without leaked or seen images."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    if "folds" in splits:
        table.title, table.title_justify = f"{called[:1].upper()}{called[1:]}", "left"
    for head in ("", *HEADS):
        table.add_column(head, justify="right" if head else "left", no_wrap=True)

    for split, figures in with_clean_rows(splits).items():
        table.add_row(
            f"[bold]{split}[/bold]",
            f"{figures['num_images']:,}",
            f"[bold]{in_digits(figures['mae'])}[/bold]",
            interval(figures["mae_ci95"]),
            f"{figures['relative_mae']:.0%}",
            in_digits(figures["rmse"]),
            in_digits(figures["r2"]),
        )
    return table


def details(figures: Mapping[str, Any]) -> list[Table]:
    """Return the errors of each number, and how often its intervals hold it."""
    tables = []
    if columns := figures.get("per_column"):
        table = _table("", "MAE", "95 % interval", "RMSE", "R²")
        for each in columns:
            table.add_row(
                escape(each["column"]),
                in_digits(each["mae"]),
                interval(each["mae_ci95"]),
                in_digits(each["rmse"]),
                in_digits(each["r2"]),
            )
        tables.append(table)

    if kept := figures.get("intervals"):
        table = _table("intervals", "meant to hold", "held", "95 % interval", "mean width")
        for each in kept:
            low, high = each["coverage_ci95"]
            table.add_row(
                escape(each["column"]),
                f"{figures['level']:.0%}",
                f"{each['coverage']:.1%}",
                f"{low:.1%} to {high:.1%}",
                in_digits(each["mean_width"]),
            )
        tables.append(table)
    return tables


def lines(evaluation: Mapping[str, Any]) -> list[str]:
    """Return how often the predictive intervals held the test images."""
    found = evaluation.get("intervals") or {}
    return [
        f"Intervals for {each['column']}, meant to hold {found['level']:.0%}, held "
        f"{each['coverage']:.1%} of the test images (mean width {in_digits(each['mean_width'])})."
        for each in found.get("test") or []
    ]


def in_words(figures: Mapping[str, Any]) -> tuple[str, str]:
    """Return the MAE, and its interval."""
    return f"MAE {in_digits(figures['mae'])}", interval(figures["mae_ci95"])


def interval(ends: Any) -> str:
    """Return the ends of an interval as "1.2 to 1.5"."""
    return f"{in_digits(ends[0])} to {in_digits(ends[1])}"


def _table(*heads: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, head in enumerate(heads):
        table.add_column(head, justify="right" if number else "left", no_wrap=True)
    return table
