"""A prediction job: files in, rows out; photos sorted and heat maps drawn on the way; stopped and
resumed at will.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tintype.errors import UserError
from tintype.verbs.predict.classifier import Classifier
from tintype.verbs.predict.output import Output, Row, flattened
from tintype.verbs.predict.pipeline import Answered, answered
from tintype.verbs.predict.sorting import Sorter, folder_name, longest_name, name_within

UNSURE = "unsure"
# last answers of an earlier part that a resumed job gives again, to see that the model is the same
LOOKED_AT = 8
# by which a probability may differ where the same model computes in other batches or on another
# device
SAME = 1e-3


@dataclass(frozen=True)
class JobOptions:
    """What a job is to do beside predicting.

    Attributes:
        top: classes in each row.
        threshold: below this confidence, and of images unlike the training images, the answer is
            "unsure"; None answers
            always.
        sort_into: a folder in which each photo is put into a folder of its class.
        link: links in place of copies.
        heatmaps: a new folder for a picture of each photo that shows where the network looked.
    """

    top: int = 1
    threshold: float | None = None
    sort_into: Path | None = None
    link: bool = False
    heatmaps: Path | None = None

    def columns(self, classifier: Classifier | None = None) -> list[str]:
        """Return the columns of a table of answers."""
        more = [
            f"{what}{rank}"
            for rank in range(2, self.top + 1)
            for what in ("prediction", "confidence")
        ]
        names = ["file", "prediction", "confidence", *more]
        names += ["most_probable"] * (self.threshold is not None)
        names += ["unlike"] * (classifier is not None and classifier.typical is not None)
        names += ["sorted_to"] * (self.sort_into is not None)
        names += ["heatmap"] * (self.heatmaps is not None)
        return [*names, "error"]


@dataclass
class Summary:
    """What a job has done: counts by class, photos unlike the training images by reason, files passed over with the
    reason, and how many an earlier part had done.
    """

    classes: Counter[str] = field(default_factory=Counter)
    unlike: Counter[str] = field(default_factory=Counter)
    passed_over: list[tuple[str, str]] = field(default_factory=list)
    before: int = 0

    @property
    def num_predicted(self) -> int:
        """How many photos have an answer, "unsure" included."""
        return sum(self.classes.values())

    @property
    def num_passed_over(self) -> int:
        """How many files could not be read."""
        return len(self.passed_over)


def run_job(
    classifier: Classifier,
    files: Sequence[str | Path],
    options: JobOptions,
    *,
    output: Output | None = None,
    on_row: Callable[[Row], None] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    decoders: int | None = None,
) -> Summary:
    """Predict files, and write a row for each: `file`, `prediction`, `confidence`, `top`, or `file` and `error`.

    Rows are written before their photos are sorted; a resumed job first puts those in place that
    were written and not sorted. So nothing is lost or done twice, whenever it is killed.

    Args:
        classifier: what answers.
        files: what is predicted, less what `output` holds already.
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
        return _run_job(classifier, files, options, output, on_row, progress, decoders)
    finally:
        if output:
            output.release()


def _run_job(
    classifier: Classifier,
    files: Sequence[str | Path],
    options: JobOptions,
    output: Output | None,
    on_row: Callable[[Row], None] | None,
    progress: Callable[[str, int, int], None] | None,
    decoders: int | None,
) -> Summary:
    done = output.done if output else []
    summary = Summary(before=len(done))
    sorter = _sorter(options, done)
    painter = (
        _Painter(classifier, options.heatmaps, done, bool(output and output.resume))
        if options.heatmaps
        else None
    )
    if output and done:
        _check_same_model(classifier, done, output.path)

    known = {row["file"] for row in done}
    left = [file for file in dict.fromkeys(map(str, files)) if file not in known]
    for batch in answered(classifier, left, decoders=decoders):
        rows = [_row(item, options, judged=classifier.typical is not None) for item in batch]
        if sorter:
            for row in rows:
                if "error" not in row:
                    row["sorted_to"] = sorter.name_for(row["file"], row["prediction"])
        if painter:
            painter.paint(batch, rows)
        if output:
            output.append([flattened(row) for row in rows] if output.kind == ".csv" else rows)
        for row in rows:
            if sorter and "sorted_to" in row:
                sorter.put(row["file"], row["sorted_to"])
            if "error" in row:
                summary.passed_over.append((row["file"], row["error"]))
            else:
                summary.classes[row["prediction"]] += 1
                summary.unlike.update([row["unlike"]] if row.get("unlike") else [])
            if on_row:
                on_row(row)
        if progress:
            progress("photos", summary.num_predicted + summary.num_passed_over, len(left))

    if output and (summary.num_predicted or summary.before):
        output.close()
    elif output:
        output.discard()

    return summary


def _check_same_model(classifier: Classifier, done: Sequence[Row], path: Path) -> None:
    """Answer the last photos of an earlier part again, and refuse to go on where this model says
    something else of one.
    """
    told = [row for row in done[-LOOKED_AT:] if not row.get("error")]
    for item in (
        each for batch in answered(classifier, [row["file"] for row in told]) for each in batch
    ):
        before = next(row for row in told if row["file"] == item.file)
        name, confidence = (
            before.get("most_probable") or before["prediction"],
            float(before["confidence"]),
        )
        if item.prediction is None:
            continue
        if item.prediction.top1 != name or abs(item.prediction.confidence - confidence) > SAME:
            raise UserError(
                f"{path} was begun with another model: it says {name} ({confidence:.1%}) of {item.file}, and this one "
                f"{item.prediction.top1} ({item.prediction.confidence:.1%}). Name the same model, or another --out."
            )


def _row(item: Answered, options: JobOptions, *, judged: bool) -> Row:
    if item.prediction is None:
        return {"file": item.file, "error": item.reason}
    top = [
        {"class": name, "probability": round(share, 6)}
        for name, share in item.prediction.top(options.top)
    ]
    row: Row = {
        "file": item.file,
        "prediction": top[0]["class"],
        "confidence": top[0]["probability"],
        "top": top,
    }

    if options.threshold is not None:
        row["most_probable"] = row["prediction"]
        # What validation promises holds for images like those of validation.
        if item.prediction.confidence < options.threshold or item.prediction.unlike:
            row["prediction"] = UNSURE

    if judged:
        row["unlike"] = item.prediction.unlike or None
    return row


def _sorter(options: JobOptions, done: Sequence[Row]) -> Sorter | None:
    if options.sort_into is None:
        return None
    placed = {row["file"]: row["sorted_to"] for row in done if row.get("sorted_to")}
    sorter = Sorter(options.sort_into, link=options.link, placed=set(placed.values()))
    for file, place in placed.items():
        sorter.put(file, place)
    return sorter


class _Painter:
    """Writes a heat map for each photo, under a name of its own."""

    def __init__(
        self, classifier: Classifier, folder: Path, done: Sequence[Row], resume: bool
    ) -> None:
        if not resume and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(
                f"{folder} already holds files, and nothing is overwritten. Go on with an earlier job: --resume; "
                "or choose another --heatmaps."
            )
        self.classifier, self.folder = classifier, folder
        self._longest = longest_name(folder)
        self._taken = {row["heatmap"] for row in done if row.get("heatmap")}

    def paint(self, batch: Sequence[Answered], rows: Sequence[Row]) -> None:
        """Write the pictures of a batch and note their names in the rows."""
        from tintype.files.whole import write_picture

        readable = [
            (item, row) for item, row in zip(batch, rows, strict=True) if item.pixels is not None
        ]
        if not readable:
            return
        pixels = np.stack([item.pixels for item, _ in readable if item.pixels is not None])
        pictures = self.classifier.heat_maps(pixels)
        for picture, (item, row) in zip(pictures, readable, strict=True):
            row["heatmap"] = self._name(item.file, row.get("most_probable") or row["prediction"])
            write_picture(self.folder / row["heatmap"], picture)

    def _name(self, file: str, class_name: str) -> str:
        number, of_class = 1, f"-{folder_name(class_name)}"
        # at least half of the name is left for that of the photo
        if len(os.fsencode(of_class)) > self._longest // 2:
            of_class = ""
        while True:
            more = f"{of_class}.png" if number == 1 else f"{of_class}-{number}.png"
            name = name_within(Path(file).stem, self._longest, more)
            if name not in self._taken:
                self._taken.add(name)
                return name
            number += 1


def _short(reason: str) -> str:
    """Return a reason by which equal ones are counted."""
    return "no such file" if reason.startswith("there is no file") else reason


def summary_lines(summary: Summary, seconds: float) -> list[str]:
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
