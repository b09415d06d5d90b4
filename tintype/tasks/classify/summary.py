"""The result of a classifier in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from tintype.runs.summary import with_clean_rows


def result_table(splits: Mapping[str, Mapping[str, Any]], *, called: str = "") -> Table:
    """Return a row for each split: images, accuracy with its interval, macro F1, loss, calibration.

    Without a test part, the heading says what they are `called`.
    """
    top5 = any("top5_accuracy" in figures for figures in splits.values())
    # With top-5 the columns stand closer, so that no figure is cut where a line has 80 characters.
    table = Table(box=None, pad_edge=False, collapse_padding=top5, header_style="bold")
    if called:
        table.title, table.title_justify = f"{called[:1].upper()}{called[1:]}", "left"

    head = "right" if called else "accuracy"
    for column in (
        "",
        "images",
        head,
        "95 % interval",
        *(["top-5"] if top5 else []),
        "macro F1",
        "loss",
        "ECE",
    ):
        table.add_column(column, justify="left" if not column else "right", no_wrap=True)

    for split, figures in with_clean_rows(splits).items():
        low, high = figures["accuracy_ci95"]
        clean = split.partition(" ")[2]  # "without leaks", under the row of its split
        table.add_row(
            f"[bold]{f'  {clean}' if clean else split}[/bold]",
            f"{figures['num_images']:,}",
            f"[bold]{figures['accuracy']:.2%}[/bold]",
            f"{low:.2%} to {high:.2%}",
            *([f"{figures['top5_accuracy']:.2%}"] if top5 else []),
            f"{figures['macro_f1']:.3f}",
            f"{figures['loss']:.4f}",
            f"{figures.get('calibration_error', figures['expected_calibration_error']):.3f}",
        )

    return table


def details(figures: Mapping[str, Any]) -> list[Table]:
    """Return the figures of each class, where they were measured."""
    return [class_table(figures)] if "averages" in figures else []


def class_table(figures: Mapping[str, Any]) -> Table:
    """Return a table with precision, recall, F1 and the number of images of each class, and their
    averages.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("class", "precision", "recall", "F1", "images"):
        table.add_column(
            column, justify="left" if column == "class" else "right", no_wrap=column != "class"
        )

    means = [
        {"name": f"{kind} average", **figures["averages"][kind]} for kind in ("macro", "weighted")
    ]
    last = len(figures["per_class"]) - 1
    for number, row in enumerate([*figures["per_class"], *means]):
        rates = (f"{row[key]:.3f}" for key in ("precision", "recall", "f1"))
        table.add_row(
            escape(row["name"]), *rates, f"{row['support']:,}", end_section=number == last
        )

    return table


def lines(evaluation: Mapping[str, Any]) -> list[str]:
    """Return what calibration changed, and how far the calibration error can be read."""
    lines = []
    calibration = evaluation.get("calibration")
    if calibration and calibration["temperature"] != 1.0:
        test = calibration["splits"]["test"]
        # runs of earlier versions have the plain one
        kind = "ece_debiased" if "ece_debiased_after" in test else "ece"
        lines.append(
            f"Confidence, calibrated on validation, is off by {test[f'{kind}_after']:.1%} on test "
            f"({test[f'{kind}_before']:.1%} before)."
        )

    plain = evaluation["splits"].get("test", {})
    if "calibration_error_if_perfect" in plain:
        lines.append(
            "ECE is debiased; the plain figure on test is "
            f"{plain['expected_calibration_error']:.3f}, and "
            f"{plain['calibration_error_if_perfect']:.3f} for a perfectly calibrated model."
        )

    return lines


def in_words(figures: Mapping[str, Any]) -> tuple[str, str]:
    """Return the accuracy of a split, and its interval."""
    if "accuracy" not in figures:
        return "", ""
    accuracy = f"accuracy {100 * figures['accuracy']:.1f} %"
    interval = figures.get("accuracy_ci95")
    if not interval:
        return accuracy, ""
    return accuracy, f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f} %"
