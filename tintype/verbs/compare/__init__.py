"""Which of several runs is better, by how much, and whether that could be luck.

Runs are compared on the same test images only: image by image, with intervals and tests for paired
data, corrected for the number of comparisons. What was measured on other data or by another
protocol stands in a group of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tintype.interface.calls import public
from tintype.interface.lazy import Lazy
from tintype.interface.notebook import frame_of
from tintype.progress import working
from tintype.runs.folder import RunFolder
from tintype.tasks.contract.compare import Group, Pair, Progress, compare_part
from tintype.tasks.contract.compared_run import Compared, open_all
from tintype.verbs.compare.settings import Row, confounded, side_by_side

if TYPE_CHECKING:
    import pandas
    from rich import console

    from tintype.pages import section
    from tintype.verbs.compare import figures as drawn
else:
    console = Lazy("rich.console")
    drawn = Lazy("tintype.verbs.compare.figures")
    pandas = Lazy("pandas")
    section = Lazy("tintype.pages.section")

__all__ = ["Comparison", "Group", "Pair", "compare", "compare_command"]


@dataclass
class Comparison:
    """Runs of one task, compared.

    Attributes:
        task: the task of all runs.
        split: "test" or "val".
        groups: runs that may be ranked against each other, each group with its rows, pairs and
            sentences.
        remarks: what concerns all of them.
        machine: where latencies were measured; empty where they were not.
        setup: data, splits and preprocessing of the runs side by side, and what their training
            differs in.
        names: the names of the runs, in the order in which `setup` has them.
    """

    task: str
    split: str
    groups: list[Group]
    remarks: list[str] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)
    setup: list[Row] = field(default_factory=list, repr=False)
    names: list[str] = field(default_factory=list, repr=False)

    @property
    def pairs(self) -> list[Pair]:
        """The paired differences of all groups."""
        return [pair for group in self.groups for pair in group.pairs]

    def table(self) -> list[dict[str, Any]]:
        """Return a row of plain figures for each run, group by group, the best ones first."""
        return [
            {"group": number, "rank": rank, **row}
            for number, group in enumerate(self.groups, 1)
            for rank, row in enumerate(group.rows, 1)
        ]

    def sentences(self) -> list[str]:
        """Return what can be said: the conclusion of each group, and the first run of each against
        the others.
        """
        said = [each.sentence() for group in self.groups for each in group.confounding]
        for group in self.groups:
            said += [group.conclusion, *(f"{pair.sentence}." for pair in group.against_best())]
        return said

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data, for JSON."""
        return {
            "task": self.task,
            "split": self.split,
            "groups": [group.to_dict() for group in self.groups],
            "remarks": self.remarks,
            "machine": self.machine,
            "setup": [
                {
                    "part": row.part,
                    "what": row.what,
                    "values": dict(zip(self.names, row.values, strict=True)),
                    "differs": row.differs,
                }
                for row in self.setup
            ],
        }

    def lines(self) -> list[console.RenderableType]:
        """Return what the terminal shows: for each group a table and its sentences."""
        from tintype.verbs.compare.terminal import lines

        return lines(self)

    def frame(self) -> pandas.DataFrame:
        """Return the table as a pandas frame.

        Raises:
            UserError: pandas is not installed.
        """
        return frame_of(self.table())

    def sections(
        self, progress: Progress | None = None, page: Path | None = None
    ) -> list[section.Section]:
        """Return the sections of the page.

        Pictures are computed or read now, and left out where that cannot be. Reports of the runs
        are linked where `page` says where the page will be.
        """
        from tintype.verbs.compare.page import comparison_sections

        return comparison_sections(self, progress, page)

    def write_html(
        self, path: str | Path, *, title: str | None = None, progress: Progress | None = None
    ) -> Path:
        """Write the page and return its path.

        An earlier page of a comparison is replaced, anything else is refused.

        Raises:
            UserError: the file is there and is no such page, or cannot be written.
        """
        from tintype.verbs.compare.page import write_comparison

        return write_comparison(Path(path), title or self.title, self.sections, progress)

    @property
    def figures(self) -> drawn.DrawnFigures:
        """The figures of the page as objects: `.ranking()`, `.against("parameters")`, `.history()`,
        `.confusion()`.
        """
        from tintype.verbs.compare.figures import figures_of

        return figures_of(self)

    @property
    def title(self) -> str:
        """What the comparison is called: "4 runs on digits"."""
        names = dict.fromkeys(str(row["data"]) for row in self.table())
        return f"{len(self.table())} runs on {' and '.join(names)}"

    def __repr__(self) -> str:
        return f"Comparison({self.title}: {' '.join(group.conclusion for group in self.groups)})"

    def _repr_html_(self) -> str:
        from tintype.verbs.compare.page import comparison_table

        return comparison_table(self)


@public(hint="Runs are given as one list: tt.compare([a, b]).")
def compare(
    runs: Sequence[str | Path | RunFolder],
    *,
    names: Sequence[str] | None = None,
    split: str = "test",
    latency: bool = True,
    device: str = "auto",
    progress: Progress | None = None,
    verbose: bool | None = None,
) -> Comparison:
    """Compare finished runs of one task.

    Args:
        runs: run folders, or Runs; two or more.
        names: what to call them, in their order; by default the folders' names.
        split: "test", or "val" where the choice among the runs is yet to be made.
        latency: measure what a prediction costs on this machine, now, where the task measures it.
        device: where to measure that.
        progress: called as progress(what, done, total) while something takes long; by default a
            bar or lines show it.
        verbose: False shows no progress, and keeps libraries silent too.

    Returns:
        The Comparison, which shows itself in a notebook.

    Raises:
        UserError: fewer than two runs, one twice, equal names, different tasks, or a run that is
            not finished or has no
            predictions.
    """
    opened = open_all(runs, names, split)
    task = opened[0].task
    part = compare_part(task)

    with working(verbose, progress) as report:
        machine = part.measure_costs(opened, device, report) if latency else {}
    groups = part.groups(opened)
    for group in groups:
        group.confounding = confounded(group.runs)

    names_in_order = [run.name for run in opened]
    comparison = Comparison(
        task,
        opened[0].split,
        groups,
        _remarks(opened),
        machine,
        side_by_side(opened),
        names_in_order,
    )
    if len(comparison.groups) > 1:
        _tell_apart(comparison.groups)
        comparison.remarks.insert(0, _why_apart(part.APART, comparison.groups))

    return comparison


def _why_apart(why: str, groups: Sequence[Group]) -> str:
    """Return the sentence that comes before everything else where not all runs can be ranked
    against each other.
    """
    some = any(len(group.runs) > 1 for group in groups)
    start = "Not all of these runs can be compared" if some else "These runs cannot be compared"
    sets = "; ".join(
        f"{group.title}: {', '.join(run.name for run in group.runs)}" for group in groups
    )
    return f"{start}: {why}. {sets}."


def _tell_apart(groups: Sequence[Group]) -> None:
    """Number the groups whose titles are equal, as those of two divisions of one data set are."""
    titles = [group.title for group in groups]
    for number, group in enumerate(groups):
        if titles.count(group.title) > 1:
            group.title += f", set {titles[: number + 1].count(titles[number])}"


def _remarks(runs: Sequence[Compared]) -> list[str]:
    machines = {
        tuple(run.environment.get(key) for key in ("cpu", "device", "threads")) for run in runs
    }
    if len(machines) > 1:
        return [
            "The runs were trained on different machines or with other threads: "
            "do not compare their training times."
        ]
    return []


def compare_command(
    runs: Sequence[Path],
    *,
    names: Sequence[str] | None = None,
    split: str = "test",
    latency: bool = True,
    device: str = "auto",
    html: Path | None = None,
    figures: Path | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compare runs, and write the page and the figures that are asked for.

    Paths that cannot be written are refused before any work.

    The figures are written into the folder `figures`, by default into `default_figures(html)`
    beside the page.

    Raises:
        UserError: as `compare`, `Comparison.write_html` and `Comparison.figures.save`.
    """
    figures = figures or (default_figures(html) if html is not None else None)
    if html is not None:
        from tintype.verbs.compare.page import check_replaceable

        check_replaceable(html)
    if figures is not None:
        from tintype.pages.drawings import check_folder

        check_folder(figures)
    comparison = compare(
        runs, names=names, split=split, latency=latency, device=device, progress=progress
    )
    if figures is not None:
        comparison.figures.save(figures)
    if html is not None:
        comparison.write_html(html, progress=progress)
    return comparison


def default_figures(page: Path) -> Path:
    """Return the folder beside a page in which its figures lie: of comparison.html,
    comparison-figures.
    """
    return page.with_name(f"{page.stem}-figures")
