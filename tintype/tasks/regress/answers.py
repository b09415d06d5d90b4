"""Answers as predictions.csv holds them, for reports and comparisons: nothing here needs torch."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tintype.tasks.regress.charts import Answers

KINDS = ("target", "prediction", "low", "high")


def answer_columns(columns: Sequence[str]) -> list[str]:
    """Return the columns of predictions.csv that hold targets, answers and intervals.

    Of one number they are plain; of several each is followed by the number's name.
    """
    if len(columns) == 1:
        return list(KINDS)
    return [f"{kind} {column}" for column in columns for kind in KINDS]


def answers_of(table: Mapping[str, Sequence[str]], columns: Sequence[str]) -> list[Answers]:
    """Return the answers of a table of texts, one for each number.

    Raises:
        KeyError, ValueError: a column is missing, or holds something else than numbers.
    """
    headings = iter(answer_columns(columns))
    return [
        Answers(
            column,
            list(table["name"]),
            *(np.array([_number(text) for text in table[next(headings)]]) for _ in KINDS),
        )
        for column in columns
    ]


def read_answers(folder: Path, split: str, columns: Sequence[str]) -> list[Answers]:
    """Return the answers of a run on one split; none where the file is missing or damaged."""
    try:
        with (folder / "predictions.csv").open(encoding="utf-8", newline="") as lines:
            rows = [row for row in csv.DictReader(lines) if row.get("split") == split]
        table = {name: [row[name] for row in rows] for name in rows[0]} if rows else {}
        return answers_of(table, columns) if rows else []
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _number(text: str) -> float:
    return float(text) if text else math.nan
