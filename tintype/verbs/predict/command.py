"""What `tintype predict` does: open the model, run the job, and say what came of it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tintype.data.typical import sentence
from tintype.errors import UserError
from tintype.progress import make_watcher
from tintype.tasks.contract.predict import AnswerOptions, Row
from tintype.verbs.predict.files import list_images, names_from, without
from tintype.verbs.predict.job import JobOptions, JobSummary, run_job, summary_lines
from tintype.verbs.predict.opening import open_model
from tintype.verbs.predict.output import Output
from tintype.verbs.predict.shards import Shard, ShardNote, merge, note_of

MOST_NAMED = 20  # files that are passed over and named on standard error; the output has them all


def predict_command(
    model: Path,
    paths: Sequence[Path],
    *,
    top: int,
    out: Path | None,
    resume: bool,
    accuracy: float | None,
    sort_into: Path | None,
    link: bool,
    heatmaps: Path | None,
    device: str,
    as_json: bool,
    shard: str | None = None,
) -> None:
    """Predict, and print answers as they come, or as one JSON object, or where they were written.

    Raises:
        UserError: a mistake that can be mended, or no image could be read.
    """
    _check(out, resume, sort_into, link, as_json)
    part = None if shard is None else _part(shard, out, sort_into or heatmaps)
    predictor = open_model(model, device)
    rows = predictor.rows(AnswerOptions(top, accuracy))
    for note in rows.notes:
        print(note, file=sys.stderr)

    options = JobOptions(sort_into, link, heatmaps, is_shard=part is not None)
    output = None if out is None else Output(out, rows, options.columns, resume=resume)
    answers: list[Row] = []
    named = 0

    def show(row: Row) -> None:
        nonlocal named
        if "error" in row:
            named += 1
            if named <= MOST_NAMED:
                print(f"passed over {row['file']}: {row['error']}", file=sys.stderr)
        elif as_json:
            answers.append(row)
        elif output is None:
            print(f"{row['file']}: {rows.line(row)}")
            if row.get("unlike"):
                print(f"  {sentence(row['unlike'])}")

    filled = [sort_into, heatmaps]
    watcher = make_watcher(to_stderr=True)
    begin = time.perf_counter()
    # Where answers are printed one by one, they are the progress.
    progress = watcher.on_work if output is not None or as_json else None
    try:
        piped = list(map(str, paths)) == ["-"]
        names = without(names_from(sys.stdin.buffer) if piped else list_images(paths), filled)
        if part is not None and out is not None:
            asked = {"top": top, "accuracy": accuracy}
            note = ShardNote(out, part, model, asked, names, resume=resume)
            note.write()
            names = note.names
        summary = run_job(
            predictor,
            names,
            rows,
            options,
            output=output,
            on_row=show,
            progress=progress,
        )
    finally:
        watcher.close()
        if output is not None:
            output.release()
    _close(summary, answers, output, as_json, time.perf_counter() - begin, predictor.notes)


def merge_command(paths: Sequence[Path], out: Path | None) -> None:
    """Join the answers of shards, and say where they are.

    Raises:
        UserError: they are not all shards of one prediction.
    """
    count = merge(paths, out)
    print(f"{count:,} predictions of {len(paths)} shards written to {out}")


def _part(shard: str, out: Path | None, fills: Path | None) -> Shard:
    part = Shard.parse(shard)
    if out is None:
        raise UserError("--shard writes a part of the answers. Name its file: --out part-3.jsonl")
    if fills is not None:
        raise UserError(
            "--shard only writes answers, since many processes would fill one folder. "
            "Leave --sort-into and --heatmaps out."
        )
    return part


def _check(
    out: Path | None, resume: bool, sort_into: Path | None, link: bool, as_json: bool
) -> None:
    if resume and out is None:
        raise UserError("--resume goes on with a file of answers. Name it: --out answers.jsonl")
    if link and sort_into is None:
        raise UserError(
            "--link says how --sort-into puts photos into folders. Give --sort-into DIR as well."
        )
    if as_json and out is not None:
        raise UserError(
            "--json prints the answers and --out writes them. Give one of the two; "
            "--out FILE.jsonl is JSON."
        )


def _close(
    summary: JobSummary,
    answers: list[Row],
    output: Output | None,
    as_json: bool,
    seconds: float,
    notes: Mapping[str, int],
) -> None:
    is_part = output is not None and note_of(output.path).exists()
    if not summary.num_predicted and not summary.before and not is_part:
        raise UserError("no image could be read.")
    if as_json:
        skipped = [[file, reason] for file, reason in summary.passed_over]
        print(
            json.dumps({"predictions": answers, "skipped": skipped}, indent=1, ensure_ascii=False)
        )
    elif output is not None:
        print(f"{summary.num_predicted:,} predictions written to {output.path}")

    if output is not None and summary.unlike:
        reasons = "; ".join(
            f"{count:,} because {reason}" for reason, count in summary.unlike.most_common(5)
        )
        print(
            f"{summary.unlike.total():,} of {summary.num_predicted:,} are unlike the training "
            f"images, so that their confidence does not apply: {reasons}",
            file=sys.stderr,
        )

    for note, count in notes.items():
        print(f"{count:,} picture{'s' if count > 1 else ''}: {note}", file=sys.stderr)
    if summary.num_passed_over or summary.before or summary.num_predicted > 100:
        print("; ".join(summary_lines(summary, seconds)), file=sys.stderr)
