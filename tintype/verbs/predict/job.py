"""A prediction job: files in, rows out, photos sorted on the way; stopped and resumed at will."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tintype.errors import UserError
from tintype.tasks.contract.predict import Predictor, Row, Rows
from tintype.verbs.predict.output import Done, Output
from tintype.verbs.predict.pipeline import Answered, answered
from tintype.verbs.predict.sorting import Sorter, folder_name, longest_name, name_within


@dataclass(frozen=True)
class JobOptions:
    """What a job is to do beside predicting.

    Attributes:
        sort_into: a folder in which each photo is put into a folder of its answer.
        link: links in place of copies.
        heatmaps: a new folder for a picture of each photo that shows where the network looked.
        is_shard: whether others do other parts; then a file is made even where no photo can be
            read.
    """

    sort_into: Path | None = None
    link: bool = False
    heatmaps: Path | None = None
    is_shard: bool = False

    @property
    def columns(self) -> list[str]:
        """The columns of a table that hold what the job did with a photo."""
        names = ["sorted_to"] * (self.sort_into is not None)
        return names + ["heatmap"] * (self.heatmaps is not None)


@dataclass
class JobSummary:
    """What a job has done.

    Attributes:
        num_predicted: photos with an answer.
        unlike: photos unlike the training images, counted by reason.
        passed_over: files that could not be read, each with the reason.
        before: photos that an earlier part of the job had done.
    """

    num_predicted: int = 0
    unlike: Counter[str] = field(default_factory=Counter)
    passed_over: list[tuple[str, str]] = field(default_factory=list)
    before: int = 0

    @property
    def num_passed_over(self) -> int:
        """How many files could not be read."""
        return len(self.passed_over)

    def count(self, row: Row) -> None:
        """Count a photo by its row."""
        if "error" in row:
            self.passed_over.append((row["file"], row["error"]))
            return
        self.num_predicted += 1
        if row.get("unlike"):
            self.unlike[row["unlike"]] += 1


def run_job(
    predictor: Predictor,
    files: Sequence[str | Path],
    rows: Rows,
    options: JobOptions = JobOptions(),
    *,
    output: Output | None = None,
    on_row: Callable[[Row], None] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    decoders: int | None = None,
) -> JobSummary:
    """Predict files, and write a row for each: `file` with the answer, or `file` and `error`.

    Rows are written before their photos are sorted; a resumed job first puts those in place that
    were written and not sorted. So nothing is lost or done twice, whenever it is killed.

    Args:
        predictor: what answers.
        files: what is predicted, less what `output` holds already.
        rows: how the answers are written.
        options: what else is to be done.
        output: where rows are appended.
        on_row: called with each row.
        progress: called as progress(what, done, total).
        decoders: threads that decode; by default one for each core.

    Raises:
        UserError: something cannot be written, or cannot be done with this model; or another one
            began the file.
    """
    try:
        return _run_job(predictor, files, rows, options, output, on_row, progress, decoders)
    finally:
        if output:
            output.release()


def _run_job(
    predictor: Predictor,
    files: Sequence[str | Path],
    rows: Rows,
    options: JobOptions,
    output: Output | None,
    on_row: Callable[[Row], None] | None,
    progress: Callable[[str, int, int], None] | None,
    decoders: int | None,
) -> JobSummary:
    done = output.done if output else Done()
    summary = JobSummary(before=done.count)
    sorter = _sorter(options, done)
    painter = None
    if options.heatmaps:
        resumes = bool(output and output.resume)
        painter = _Painter(predictor, rows, options.heatmaps, done, resumes)
    if output and done.count:
        _check_same_model(predictor, rows, done, output.path)

    if output and options.is_shard:
        output.begin()
    left = list(done.without(dict.fromkeys(map(str, files))))
    for batch in answered(predictor, left, decoders=decoders):
        answers = [_row(item, rows) for item in batch]
        if sorter:
            for row in answers:
                if "error" not in row:
                    row["sorted_to"] = sorter.name_for(row["file"], rows.folder(row))
        if painter:
            painter.paint(batch, answers)

        # Written before a photo is put into its place: a kill in between loses neither.
        if output:
            output.append(answers)
        for row in answers:
            if sorter and "sorted_to" in row:
                sorter.put(row["file"], row["sorted_to"])
            summary.count(row)
            if on_row:
                on_row(row)
        if progress:
            progress("photos", summary.num_predicted + summary.num_passed_over, len(left))

    if output and (summary.num_predicted or summary.before or options.is_shard):
        output.close()
    elif output:
        output.discard()

    return summary


def _check_same_model(predictor: Predictor, rows: Rows, done: Done, path: Path) -> None:
    """Answer the last photos of an earlier part again, and refuse to go on with another model.

    Raises:
        UserError: the model says something else of one of them.
    """
    last = {row["file"]: row for row in done.last}

    for batch in answered(predictor, list(last)):
        for item in batch:
            if item.prediction is None:
                continue
            difference = rows.difference(last[item.file], item.prediction)
            if difference is not None:
                before, now = difference
                raise UserError(
                    f"{path} was begun with another model: it says {before} of {item.file}, and "
                    f"this one {now}. Name the same model, or another --out."
                )


def _row(item: Answered, rows: Rows) -> Row:
    if item.prediction is None:
        return {"file": item.file, "error": item.reason}
    return {"file": item.file, **rows.row(item.prediction)}


def _sorter(options: JobOptions, done: Done) -> Sorter | None:
    if options.sort_into is None:
        return None
    placed = done.places["sorted_to"]
    sorter = Sorter(options.sort_into, link=options.link, placed=set(placed.values()))
    for file, place in placed.items():
        sorter.put(file, place)
    return sorter


class _Painter:
    """Writes a heat map for each photo, under a name of its own."""

    def __init__(
        self, predictor: Predictor, rows: Rows, folder: Path, done: Done, resume: bool
    ) -> None:
        if not resume and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(
                f"{folder} already holds files, and nothing is overwritten. Go on with an earlier "
                "job: --resume; "
                "or choose another --heatmaps."
            )
        self.predictor = predictor
        self.rows = rows
        self.folder = folder
        self._longest = longest_name(folder)
        self._taken = set(done.places["heatmap"].values())

    def paint(self, batch: Sequence[Answered], rows: Sequence[Row]) -> None:
        """Write the pictures of a batch and note their names in the rows."""
        from tintype.files.whole import write_picture

        readable = [
            (item, row) for item, row in zip(batch, rows, strict=True) if item.pixels is not None
        ]
        if not readable:
            return
        pixels = np.stack([item.pixels for item, _ in readable if item.pixels is not None])
        pictures = self.predictor.heat_maps(pixels)
        for picture, (item, row) in zip(pictures, readable, strict=True):
            row["heatmap"] = self._name(item.file, self.rows.label(row))
            write_picture(self.folder / row["heatmap"], picture)

    def _name(self, file: str, label: str) -> str:
        number = 1
        ending = f"-{folder_name(label)}" if label else ""
        # at least half of the name is left for that of the photo
        if len(os.fsencode(ending)) > self._longest // 2:
            ending = ""

        while True:
            more = f"{ending}.png" if number == 1 else f"{ending}-{number}.png"
            name = name_within(Path(file).stem, self._longest, more)
            if name not in self._taken:
                self._taken.add(name)
                return name
            number += 1


def _short(reason: str) -> str:
    """Return a reason by which equal ones are counted."""
    return "no such file" if reason.startswith("there is no file") else reason


def summary_lines(summary: JobSummary, seconds: float) -> list[str]:
    """Return what is to be said at the end of a job."""
    count = summary.num_predicted + summary.num_passed_over
    lines: list[Any] = []
    if summary.before:
        lines.append(f"{summary.before:,} had been done before")
    if count > 1:
        lines.append(
            f"{count:,} files in {seconds:.1f} s, {count / max(seconds, 1e-9):,.0f} a second"
        )

    if summary.num_passed_over:
        counts = Counter(_short(reason) for _, reason in summary.passed_over)
        reasons = ", ".join(f"{reason} ({number:,})" for reason, number in counts.most_common(5))
        lines.append(f"{summary.num_passed_over:,} passed over: {reasons}")

    return lines
