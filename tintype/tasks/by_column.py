"""The figures of a split by each value of a column that the data brings, such as a camera."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tintype.data.source import group_numbers
from tintype.errors import UserError
from tintype.runs.ranking import criterion_of
from tintype.tasks.contract.evaluation import Evaluation, Kind
from tintype.tasks.task import Task


def by_column(
    task: Task,
    name: str,
    evaluation: Evaluation,
    names: Sequence[str],
    columns: Mapping[str, Mapping[str, str]],
) -> list[dict[str, Any]]:
    """Return for each column its values, each with its images and the figure that counts.

    Args:
        task: that measured; one whose figures cannot be made of answers to single images gives
            nothing.
        name: of the task.
        evaluation: of a split.
        names: of the images of the split, in the order of its answers.
        columns: the text of each image, by its name.
    """
    if not columns or not names:
        return []
    try:
        answers = task.answers(evaluation)
        key = criterion_of(name, evaluation.figures).key
    except (NotImplementedError, UserError):  # of a task whose figures are of all images at once
        return []

    out_of_fold = evaluation.of is not None and evaluation.of.kind is Kind.FOLDS
    groups = group_numbers(names, task.groups)
    if groups is not None:
        answers = {**answers, "groups": groups}
    return [
        {
            "column": column,
            "figure": key,
            "values": _values(task, key, answers, names, texts, out_of_fold=out_of_fold),
        }
        for column, texts in columns.items()
    ]


def _values(
    task: Task,
    key: str,
    answers: Mapping[str, np.ndarray],
    names: Sequence[str],
    texts: Mapping[str, str],
    *,
    out_of_fold: bool,
) -> list[dict[str, Any]]:
    """Return the figure of the images of each value, in the order of the values; "" is none."""
    said = np.array([texts.get(name, "") for name in names])
    rows = []
    for value in sorted(set(said.tolist()) - {""}):
        inside = said == value
        figures = task.evaluation_of({k: each[inside] for k, each in answers.items()}).figures
        named = (key,) if out_of_fold else (key, f"{key}_ci95")  # folds share training images
        kept = {k: figures[k] for k in named if k in figures}
        rows.append({"value": value, "num_images": int(inside.sum()), **kept})
    return rows
