"""The figure that runs of a task are ranked by; the task says which, in `tasks/NAME/ranking.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from tintype import plugins
from tintype.errors import UserError
from tintype.own_code import may_run


@dataclass(frozen=True)
class Criterion:
    """The figure that runs of a task are ranked by.

    Attributes:
        key: its name in evaluation.json.
        label: what it is called in a sentence.
        unit: what a difference is counted in: "points" for a share, "dB", or nothing.
        scale: what a value is multiplied by where it is written.
        digits: decimals where it is written; without, four significant digits.
        higher_is_better: whether the larger of two values is the better one.
    """

    key: str
    label: str
    unit: str = ""
    scale: float = 1.0
    digits: int | None = None
    higher_is_better: bool = True

    @property
    def is_share(self) -> bool:
        """Whether it is a share, written in percent."""
        return self.unit == "points"

    @property
    def sign(self) -> int:
        """1 where higher is better, and -1 where lower is."""
        return 1 if self.higher_is_better else -1

    @property
    def axis(self) -> tuple[str, str]:
        """How values are written at an axis: the format (of d3), and what follows it."""
        if self.is_share:
            return ".1~%", ""
        suffix = f" {self.unit}" if self.unit else ""
        return ("~g" if self.digits is None else f".{self.digits}f"), suffix

    def said(self, value: float | None, digits: int | None = None) -> str:
        """Return a figure in words: "93.2 %"."""
        if value is None:
            return "–"
        unit = "%" if self.is_share else self.unit
        return f"{self.number(value, digits)} {unit}".rstrip()

    def signed(self, value: float) -> str:
        """Return a difference without its unit: "+1.8"."""
        return ("−" if value < 0 else "+") + self.number(abs(value))

    def difference(self, value: float) -> str:
        """Return a difference in words: "+1.8 points"."""
        return f"{self.signed(value)} {self.unit}".rstrip()

    def interval(self, bounds: Sequence[float] | None) -> str:
        """Return the bounds of a difference: "0.6 to 3.0"."""
        if not bounds:
            return "not known"
        signed = (("−" if bound < 0 else "") + self.number(abs(bound)) for bound in bounds)
        return " to ".join(signed)

    def number(self, value: float, digits: int | None = None) -> str:
        """Return a figure or a difference without its unit."""
        digits = self.digits if digits is None else digits
        return f"{value * self.scale:.4g}" if digits is None else f"{value * self.scale:.{digits}f}"

    def row_of_value(self, row: Mapping[str, Any]) -> tuple[str, str, str, str]:
        """Return what a table shows of the images of one value of a column: the value, how many
        images, the figure, and its interval.
        """
        value, ends = row.get(self.key), row.get(f"{self.key}_ci95")
        known = isinstance(value, int | float)
        both = isinstance(ends, list) and all(isinstance(end, int | float) for end in ends)
        interval = f"{self.said(ends[0])} to {self.said(ends[1])}" if ends and both else ""
        images = f"{row['num_images']:,}"
        return row["value"], images, self.said(value if known else None), interval

    def tick(self, value: float, step: float) -> str:
        """Return what stands at a mark of a scale whose marks are `step` apart, in full."""
        value, step = value * self.scale, step * self.scale
        digits = next((d for d in range(6) if abs(round(step, d) - step) < 1e-3 * step), 6)
        return f"{value:.{digits}f}"


class RankingPart(Protocol):
    """The module `tasks/NAME/ranking.py`; it must not import PyTorch.

    Attributes:
        FURTHER: figures that are drawn beside the first one, such as the log loss.
        COUNTED: whether `image_figure` is 1 or 0 (right or wrong), which has tests of its own.
    """

    FURTHER: Sequence[Criterion]
    COUNTED: bool

    def ranked_by(self, figures: Mapping[str, Any]) -> Criterion:
        """Return the figure that runs are ranked by.

        Args:
            figures: those of a split in evaluation.json, or whatever else is known by name; a task
                with several protocols chooses by it.
        """
        ...

    def image_figure(self, row: Mapping[str, str]) -> float | None:
        """Return what one image reached, from its row of predictions.csv.

        None where the images of a run have no figure of their own, so that nothing can be paired.
        """
        ...


def ranking_part(task: str, purpose: str = "be ranked") -> RankingPart:
    """Return the ranking part of a task.

    Raises:
        UserError: there is no such task, or it does not say what its runs are ranked by.
    """
    own = plugins.own_task(task)
    if own is not None and may_run(own) and not plugins.has_part(task, "ranking"):
        return ByScore(plugins.find("tasks", task).task)
    return cast(RankingPart, plugins.find_part(task, "ranking", purpose))


def criterion_called(task: str, figure: str) -> Criterion:
    """Return how a figure is written, also of a task that is not there or may not run here."""
    try:
        criterion = criterion_of(task, {figure: 0})
    except UserError:
        criterion = None
    if criterion is None or criterion.key != figure:
        return Criterion(figure, figure.replace("_", " "))
    return criterion


class ByScore:
    """The ranking part of a task of the user's own that brings none: runs rank by its score.

    Args:
        task: the class of the task.
    """

    FURTHER: Sequence[Criterion] = ()
    COUNTED: bool = False

    def __init__(self, task: Any) -> None:
        name = task.score_name
        self.criterion = Criterion(
            name, name.replace("_", " "), higher_is_better=task.higher_is_better
        )

    def ranked_by(self, figures: Mapping[str, Any]) -> Criterion:
        del figures
        return self.criterion

    def image_figure(self, row: Mapping[str, str]) -> float | None:
        del row
        return None


def criterion_of(task: str, figures: Mapping[str, Any]) -> Criterion:
    """Return the figure that runs of a task are ranked by, given the figures of one split.

    Raises:
        UserError: as `ranking_part`.
    """
    return ranking_part(task).ranked_by(figures)
