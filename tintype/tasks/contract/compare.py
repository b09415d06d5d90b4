"""What a comparison holds: groups of runs that may be ranked, paired differences, and sentences on
them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from tintype.statistics import holm

if TYPE_CHECKING:
    from tintype.tasks.contract.compared_run import Compared
    from tintype.verbs.compare.settings import Confounding

# a difference is claimed where its p-value, corrected for the number of pairs, is below
CLAIM = 0.05

ALONE = "No other run here can be ranked against it."


@dataclass
class Pair:
    """A paired difference of two runs on the same images; `better` has the higher figure.

    `estimate` is the figure of `better` less that of `other`, `ci95` its 95 % interval (None where
    it cannot be told), `p` the p-value of no difference and `p_holm` the same, corrected for all
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
    """Runs that were measured on the same images by the same protocol: only these are ranked against each other.

    `rows` holds the figures of each run, the best first, and `runs` the runs in that order. `pairs`
    holds every pair. `confounding` names the runs that differ from the first one in more than one
    setting.
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
    return (
        names[0]
        if len(names) == 1
        else f"all {len(names)} others"
        if len(names) > 2
        else "both others"
    )


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
    return f"; about {about(count)} more {what if count > 1 else what.removesuffix('s')} would be needed"
