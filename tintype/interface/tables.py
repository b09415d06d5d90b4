"""Figures as plain Python and NumPy objects that make a pandas frame or a table in a notebook."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tintype.errors import UserError
from tintype.interface.lazy import Lazy

if TYPE_CHECKING:
    import pandas
else:
    pandas = Lazy("pandas")

MOST_ROWS = 60  # of a table in a notebook; a longer one is cut
STYLE = "text-align: right; padding: .1em .6em"


class Figures(dict[str, dict[str, Any]]):
    """Figures of each split, as a dictionary: `figures["test"]["accuracy"]`."""

    def frame(self) -> pandas.DataFrame:
        """Return a pandas frame of numbers: a row for each split, two columns for an interval.

        Raises:
            UserError: pandas is not installed.
        """
        return _frame([flat(each) for each in self.values()], list(self), "split")

    def _repr_html_(self) -> str:
        columns = {split: flat(figures) for split, figures in self.items()}
        names = dict.fromkeys(name for figures in columns.values() for name in figures)
        return html_table(
            [
                {"": name, **{split: figures.get(name) for split, figures in columns.items()}}
                for name in names
            ]
        )


class Table(list[dict[str, Any]]):
    """Rows, as a list of dictionaries."""

    def frame(self) -> pandas.DataFrame:
        """Return a pandas frame: a row for each row, two columns for an interval.

        Raises:
            UserError: pandas is not installed.
        """
        return _frame([flat(each, texts=True) for each in self])

    def _repr_html_(self) -> str:
        return html_table([flat(each, texts=True) for each in self])


class ConfusionMatrix(np.ndarray):
    """How often images of each class (rows) got each answer (columns), as an array (K, K).

    Attributes:
        names: the classes.
    """

    names: tuple[str, ...]

    @classmethod
    def of(cls, counts: Any, names: Sequence[str]) -> ConfusionMatrix:
        """Return counts (K, K) with the names of the classes."""
        matrix = np.asarray(counts, np.int64).view(cls)
        matrix.names = tuple(names)
        return matrix

    def __array_finalize__(self, obj: Any) -> None:
        self.names = getattr(obj, "names", ())

    def frame(self) -> pandas.DataFrame:
        """Return a pandas frame whose index is the true class and whose columns are the answers.

        Raises:
            UserError: pandas is not installed.
        """
        rows = [dict(zip(self.names, row, strict=True)) for row in self.tolist()]
        frame = _frame(rows, list(self.names), "true class")
        return frame.rename_axis(columns="answer")

    def _repr_html_(self) -> str:
        if self.shape != (len(self.names),) * 2:  # a part of one, or what was computed from it
            return f"<pre>{html.escape(repr(self))}</pre>"
        rows = zip(self.names, self.tolist(), strict=True)
        return html_table(
            [{"true class": name, **dict(zip(self.names, row, strict=True))} for name, row in rows]
        )


def flat(figures: Mapping[str, Any], *, texts: bool = False) -> dict[str, Any]:
    """Return figures with two columns for each interval: accuracy_ci95 becomes accuracy_low, _high.

    What is neither a number nor, with `texts`, a text is left out; a missing number is NaN.
    """
    found: dict[str, Any] = {}
    for name, value in figures.items():
        if name.endswith("_ci95") and isinstance(value, Sequence) and len(value) == 2:
            short = name.removesuffix("_ci95")
            found |= {f"{short}_low": _number(value[0]), f"{short}_high": _number(value[1])}
        elif value is None or isinstance(value, int | float):
            found[name] = _number(value)
        elif texts and isinstance(value, str):
            found[name] = value
    return found


def html_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as a table; every text is escaped."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th style='{STYLE}'>{html.escape(str(name))}</th>" for name in columns)
    body = "".join(
        f"<tr>{_cells(row.get(name) for name in columns)}</tr>" for row in rows[:MOST_ROWS]
    )
    more = f"<p>{len(rows) - MOST_ROWS} more rows</p>" if len(rows) > MOST_ROWS else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _cells(values: Iterable[Any]) -> str:
    return "".join(f"<td style='{STYLE}'>{html.escape(_text(value))}</td>" for value in values)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "–" if np.isnan(value) else f"{value:.4g}"
    return "" if value is None else str(value)


def _number(value: Any) -> Any:
    return float("nan") if value is None else value


def _frame(
    rows: Sequence[Mapping[str, Any]], index: Any = None, name: str = ""
) -> pandas.DataFrame:
    try:
        import pandas
    except ImportError:
        raise UserError(
            "a frame needs pandas, which is not installed: pip install pandas"
        ) from None
    frame = pandas.DataFrame(list(rows), index=index)
    return frame.rename_axis(index=name) if name else frame
