"""The result of a run in the terminal: a small table and the verdict."""

from __future__ import annotations

from typing import Any

from rich.table import Table


def result_table(splits: dict[str, dict[str, Any]]) -> Table:
    """Return a table with a row for each split: images, accuracy with its interval, top-5, macro F1, loss, calibration."""
    top5 = any("top5_accuracy" in figures for figures in splits.values())
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "images", "accuracy", "95 % interval", *(["top-5"] if top5 else []), "macro F1", "loss", "ECE"):
        table.add_column(column, justify="left" if not column else "right")
    for split, figures in splits.items():
        low, high = figures["accuracy_ci95"]
        table.add_row(
            f"[bold]{split}[/bold]",
            f"{figures['num_images']:,}",
            f"[bold]{figures['accuracy']:.2%}[/bold]",
            f"{low:.2%} to {high:.2%}",
            *([f"{figures['top5_accuracy']:.2%}"] if top5 else []),
            f"{figures['macro_f1']:.3f}",
            f"{figures['loss']:.4f}",
            f"{figures['expected_calibration_error']:.3f}",
        )
    return table


def verdict_line(evaluation: dict[str, Any]) -> str:
    """Return the verdict and how often the test split was looked at."""
    looks = evaluation["test_looks"]
    times = "once" if looks["data"] == 1 else f"{looks['data']} times"
    return f"{evaluation['verdict']['text']}\nThe test images were looked at {times} by the runs in this folder."
