"""What a task offers to a comparison, and what a comparison holds: groups of runs, and pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast

from tintype import plugins
from tintype.errors import UserError
from tintype.own_code import is_own
from tintype.runs.ranking import Criterion
from tintype.statistics import holm

if TYPE_CHECKING:
    from tintype.pages.drawings import Drawing
    from tintype.pages.section import Section
    from tintype.tasks.contract.compared_run import Compared
    from tintype.verbs.compare.settings import Confounding

# a difference is claimed where its p-value, corrected for the number of pairs, is below
CLAIM = 0.05

ALONE = "No other run here can be ranked against it."

Row = Mapping[str, Any]  # the figures of a run, as `Group.rows` holds them
Progress = Callable[[str, int, int], None]  # what is done, how much of it, and of how much


@dataclass
class Pair:
    """A paired difference of two runs on the same images; `better` has the higher figure.

    `estimate` is the figure of `better` less that of `other`, `ci95` its 95 % interval (None where
    it is not known), `p` the p-value of no difference and `p_holm` the same, corrected for all
    pairs of the group (Holm).
    """

    better: str
    other: str
    figure: str
    estimate: float
    ci95: tuple[float, float] | None
    p: float | None
    p_holm: float | None = None
    sentence: str = ""
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def shown(self) -> bool:
        """Whether the difference is beyond chance."""
        return self.p_holm is not None and self.p_holm < CLAIM

    def to_dict(self) -> dict[str, Any]:
        """Return the pair as plain data."""
        return {**asdict(self), "shown": self.shown}


@dataclass
class Group:
    """Runs that were measured on the same images by the same protocol.

    Only these are ranked against each other. `rows` holds the figures of each run, the best first,
    and `runs` the runs in that order. `pairs` holds every pair. `confounding` names the runs that
    differ from the first one in more than one setting.
    """

    title: str
    runs: list[Compared] = field(repr=False)
    rows: list[dict[str, Any]] = field(repr=False)
    pairs: list[Pair] = field(default_factory=list, repr=False)
    conclusion: str = ""
    remarks: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict, repr=False)
    confounding: list[Confounding] = field(default_factory=list, repr=False)

    @property
    def best(self) -> str:
        """The name of the run that stands first."""
        return self.rows[0]["name"]

    def against_best(self) -> list[Pair]:
        """Return the pairs of the first run with each other one."""
        return [pair for pair in self.pairs if pair.better == self.best]

    def to_dict(self) -> dict[str, Any]:
        """Return the group as plain data."""
        return {
            "title": self.title,
            "confounding": [each.to_dict() for each in self.confounding],
            "runs": self.rows,
            "pairs": [pair.to_dict() for pair in self.pairs],
            "conclusion": self.conclusion,
            "remarks": self.remarks,
        }


def correct(pairs: Sequence[Pair]) -> None:
    """Set `p_holm` of the pairs that have a p-value."""
    known = [pair for pair in pairs if pair.p is not None]
    for pair, p in zip(known, holm([pair.p for pair in known if pair.p is not None]), strict=True):
        pair.p_holm = p


def conclude(group: Group, figure: str) -> str:
    """Return what may be said of the first run of a group; `figure` is what it has, as "the highest
    accuracy, 98.6 %".
    """
    others = group.against_best()
    behind, equal = [p.other for p in others if p.shown], [p.other for p in others if not p.shown]
    text = f"{group.best} has {figure}"
    if not others:
        return f"{group.best}: {figure.removeprefix('the highest ')}. {ALONE}"
    if not equal:
        return f"{text}, and is significantly better than {_all(behind)}."

    unclear = f"no difference from {listed(equal)} can be shown"
    return (
        f"{text}. It is significantly better than {listed(behind)}; {unclear}."
        if behind
        else f"{text}, but {unclear}."
    )


def _all(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    return "both others" if len(names) == 2 else f"all {len(names)} others"


def listed(names: Sequence[str], most: int = 6) -> str:
    """Return "A, B and C", of many the first ones and the number of the rest."""
    if len(names) > most:
        return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def about(count: int) -> str:
    """Return a number in two significant digits, as "2,400"."""
    digits = max(0, math.floor(math.log10(count)) - 1) if count > 0 else 0
    return f"{round(count / 10**digits) * 10**digits:,}"


def more_needed(count: int | None, what: str) -> str:
    """Return the part of a sentence on how many further images would show a difference of the size
    that was seen.
    """
    if count is None:
        return ""
    if count > 10_000_000:
        return f"; more {what} than any test set holds would be needed"
    return (
        f"; about {about(count)} more {what if count > 1 else what.removesuffix('s')} "
        "would be needed"
    )


# ---- what a task offers --------------------------------------------------------------------------


@dataclass(frozen=True)
class Ranked:
    """A figure that is drawn for each run of a group; by the first one they are ranked.

    Attributes:
        criterion: its key in a row, its unit and its direction.
        title: what its axis is called.
        text: how a value is written.
        interval: the key of its interval in a row, "" where it has none.
    """

    criterion: Criterion
    title: str
    text: Callable[[float], str]
    interval: str = ""


@dataclass(frozen=True)
class Column:
    """A column of a table: its head, and how the cell of a row is written."""

    head: str
    text: Callable[[Row], str]
    cost: bool = False


def figure_column(key: str, head: str, form: Callable[[Any], str], *, cost: bool = False) -> Column:
    """Return a column with one figure of a row, and a dash where a row lacks it."""
    return Column(head, lambda row: "–" if row.get(key) is None else form(row[key]), cost)


@dataclass(frozen=True)
class PairColumn:
    """A column of the table of all pairs: its head, what it is sorted by, how it is written."""

    head: str
    value: Callable[[Pair], float]
    text: Callable[[Pair], str]


@dataclass(frozen=True)
class HistoryCurve:
    """A column of metrics.csv that is drawn over the training of all runs."""

    column: str
    title: str
    percent: bool = False


class ComparePart(Protocol):
    """The module `tasks/NAME/compare.py`; it must not import PyTorch or draw anything.

    Attributes:
        COLUMNS: the columns of predictions.csv without which runs cannot be compared.
        NUMBERS: those of its columns that hold numbers, where they are there.
        APART: why runs of this task end up in different groups, as "different data".
        PAIRED: what a difference to the best run ({best}) is, and by which interval and test.
        METHOD: by what runs are ranked and when a difference is called significant.
        HISTORY_AXIS: the column of metrics.csv that curves are drawn over.
    """

    COLUMNS: Sequence[str]
    NUMBERS: Collection[str]
    APART: str
    PAIRED: str
    METHOD: str
    HISTORY_AXIS: str

    def groups(self, runs: Sequence[Compared]) -> list[Group]:
        """Return the runs in groups that can be ranked, with their rows, pairs and conclusion."""
        ...

    def figures(self, group: Group) -> list[Ranked]:
        """Return the figures that are drawn; the first one is that by which runs are ranked."""
        ...

    def columns(self, group: Group) -> dict[str, Column]:
        """Return the columns of the table of a group, by the key that they are sorted by."""
        ...

    def pair_columns(self, group: Group) -> list[PairColumn]:
        """Return what the table of all pairs shows besides the difference and its p-values."""
        ...

    def curves(self, group: Group) -> list[HistoryCurve]:
        """Return what is drawn over the training of all runs."""
        ...

    def facts(self, run: Compared) -> dict[tuple[str, str], Any]:
        """Return what the table of data and preprocessing adds, by part and name of the row."""
        ...

    def measure_costs(
        self, runs: Sequence[Compared], device: str, progress: Progress | None
    ) -> dict[str, Any]:
        """Measure now what a prediction costs, and return where (device, threads), or nothing."""
        ...


class ComparePagePart(Protocol):
    """The module `tasks/NAME/compare_page.py`: what the page shows besides what all tasks have."""

    def sections(self, group: Group, progress: Progress | None) -> list[Section]:
        """Return the sections on a group of two or more runs, such as pictures side by side."""
        ...

    def drawings(self, group: Group) -> list[Drawing]:
        """Return the figures on a group of two or more runs."""
        ...


def compare_part(task: str) -> ComparePart:
    """Return the compare part of a task.

    Raises:
        UserError: runs of this task cannot be compared.
    """
    if task not in plugins.names("tasks") and not is_own(task):
        raise UserError(f"runs of task {task} cannot be compared.")
    return cast(ComparePart, plugins.find_part(task, "compare", "be compared"))


def compare_page_part(task: str) -> ComparePagePart | None:
    """Return what the page of a task adds, or None where it adds nothing."""
    if not plugins.has_part(task, "compare_page"):
        return None
    return cast(ComparePagePart, plugins.find_part(task, "compare_page", "be compared on a page"))
