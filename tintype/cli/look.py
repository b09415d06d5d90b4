"""Commands that measure and show: evaluate, report, audit, list, doctor, cache."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tintype.cli.base import (
    LOOK,
    DataRoot,
    Device,
    Json,
    Run,
    RunsFolder,
    Trust,
    app,
    sharing_cores,
)

if TYPE_CHECKING:
    from tintype.verbs.audit import Audit


@app.command(rich_help_panel=LOOK)
def evaluate(
    run: Run,
    data: Annotated[
        str | None,
        typer.Option(help="Other data with the same classes (all of it, unless --split is given)."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Split to measure on: val, test or train (default: test).")
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            help="Network whose features compare images: a run, a weight file or "
            "efficientnet_lite0; alexnet for LPIPS."
        ),
    ] = None,
    inception_weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Weights for FID by the standard protocol (torch-fidelity's), or 'download'.",
        ),
    ] = None,
    classes: Annotated[
        bool,
        typer.Option(
            "--classes",
            help="Also print precision, recall and F1 for each class, and their averages.",
        ),
    ] = False,
    csv: Annotated[
        Path | None,
        typer.Option(
            help="Write the figures for each class to this file, which must not exist yet."
        ),
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="Images of --data that count as one: '{group}_*.jpg', exif:60s, ...",
        ),
    ] = None,
    device: Device = "auto",
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Measure a finished run again, on its own data or on another set.

    Each use of the test split is counted.
    """
    from tintype import load
    from tintype.verbs.evaluate import refuse_taken, write_table

    if csv is not None:
        refuse_taken(csv)

    opened = load(str(run))
    figures = opened.evaluate(
        data=data, split=split, features=features, inception_weights=inception_weights,
        groups=groups, classes=classes or csv is not None, device=device,
    )  # fmt: skip
    if csv is not None:
        write_table(csv, opened, figures)
    if as_json:
        print(json.dumps(figures, indent=1))
        return

    from rich.console import Console

    from tintype.runs.folder import BY_VALIDATION, without_test
    from tintype.runs.summary import column_tables, result_table, summary_part

    console = Console(highlight=False)
    untested = without_test(figures) and figures["split"] == "val"
    task = opened.recipe.task
    console.print(
        result_table(task, {figures["split"]: figures}, called=BY_VALIDATION if untested else "")
    )
    part = summary_part(task)
    for table in part.details(figures) if part else ():
        console.print()
        console.print(table)
    for table in column_tables(task, figures.get("by_column", ())):
        console.print()
        console.print(table)
    if "remark" in figures:
        console.print(figures["remark"], markup=False, soft_wrap=True)

    # a mapping names how each figure was measured; a plain name already stands under the table
    protocol = figures.get("protocol")
    for name, how in protocol.items() if isinstance(protocol, dict) else ():
        console.print(f"{name}: {how}", markup=False, soft_wrap=True)


@app.command(rich_help_panel=LOOK)
def report(run: Run) -> None:
    """Rebuild the report of a run from its files."""
    from tintype import load

    print(load(str(run)).report())


@app.command(rich_help_panel=LOOK)
def audit(
    data: Annotated[str, typer.Argument(help="Name of a data set, a folder, or a CSV file.")],
    data_root: DataRoot = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page that shows the images.")
    ] = None,
    fix: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv",
            help="Write a cleaned list to this new file; the photos stay as they are.",
        ),
    ] = None,
    labels: Annotated[bool, typer.Option(help="Also look for labels that may be wrong.")] = True,
    run: Annotated[
        Path | None,
        typer.Option(help="Run on this data with --folds, whose models assess the labels."),
    ] = None,
    decide: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv",
            help="Decide doubtful labels on a local page, which writes a list for `train`.",
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(help="Port of the page of --decide; 0 picks a free one.")
    ] = 8766,
    copies: Annotated[
        bool,
        typer.Option(
            help="Also look for cropped, turned or painted copies, and objects seen twice."
        ),
    ] = True,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with code 1 if a serious problem is found.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check images for broken files, duplicates, leaks, doubtful labels and poor quality."""
    from tintype.progress import make_watcher
    from tintype.verbs.audit import audit_command

    watcher = make_watcher(to_stderr=True)
    try:
        with sharing_cores():
            found, lines = audit_command(
                data,
                data_root=data_root,
                html=html,
                fix=fix,
                decide=decide,
                run=run,
                labels=labels,
                copies=copies,
                progress=watcher.on_work,
            )
    finally:
        watcher.close()

    if as_json:
        print(json.dumps(found.to_dict(), indent=1))
    else:
        print("\n".join([*found.lines(), *lines]), flush=True)
    if decide is not None:
        _serve_decisions(found, decide, port)

    if strict and found.serious:
        raise typer.Exit(1)


def _serve_decisions(found: Audit, manifest: Path, port: int) -> None:
    """Serve the page of decisions until Ctrl-C."""
    from tintype.verbs.audit.decide import deciding

    with deciding(found.doubted, manifest, port) as (server, address):
        print(f"decide labels at {address}  (press Ctrl-C to stop)", file=sys.stderr, flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()
    print(f"{manifest} is written: tintype train {manifest}", file=sys.stderr)


@app.command("list", rich_help_panel=LOOK)
def list_(
    what: Annotated[
        str,
        typer.Argument(
            help="recipes, studies, models, data, augmentations, tasks, tracking or runs."
        ),
    ] = "recipes",
    out: RunsFolder = Path("runs"),
    sort: Annotated[
        str | None,
        typer.Option(help="Sort runs by a field or figure, such as test_accuracy, largest first."),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION",
            help="Show only matching runs: data=digits, 'test_accuracy>0.9' (may be repeated).",
        ),
    ] = None,
    reverse: Annotated[bool, typer.Option("--reverse", help="Reverse the order.")] = False,
    wide: Annotated[
        bool,
        typer.Option(
            "--wide", help="Show the model and every figure of a run in a column of its own."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """List recipes, studies, models, data sets, augmentations, tasks, trackers or runs."""
    from tintype.verbs.listing import listing

    rows = listing(what, out, sort=sort, where=where or [], reverse=reverse)
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    if not rows:
        matching = "matching " if where else ""
        place = f" in {out}" if what == "runs" else ""
        print(f"There are no {matching}{what}{place}.")
        return

    if what == "runs" and not wide:
        rows = [_in_short(row, sort) for row in rows]
    if what == "recipes":
        _print_recipes(rows)
        return

    folded = ("name", "data", "model") if what == "runs" else ("description",)
    _print_rows(rows, folded)


def _print_recipes(rows: list[dict[str, Any]]) -> None:
    """Print the recipes under a heading for each task, and for each published work they rebuild."""
    from itertools import groupby

    from tintype.plugins import names

    width = max(len(row["name"]) for row in rows)
    tasks = names("tasks")

    for (task, source), group in groupby(rows, key=lambda row: (row["task"], row["source"])):
        heading = tasks[task].partition(":")[0]
        print(f"{heading}, rebuilt from {source}" if source else heading)
        _print_rows(
            [{"name": f"  {row['name']:{width}}", "text": row["description"]} for row in group],
            ("text",),
            heads=False,
        )
        print()

    print("Train one with `tintype train NAME`. The head of its YAML file says what was published,")
    print("what had to be chosen, and what it reaches.")


def _in_short(row: dict[str, Any], sort: str | None) -> dict[str, Any]:
    """Return what fits into 80 characters: one figure, from the test split or the folds if there
    are some.
    """
    short = {key: row.get(key, "") for key in ("name", "state", "task", "data")}
    figures = [key for key in row if key.startswith(("test_", "folds_", "val_"))]
    best = (
        sort
        if sort in figures
        else min(figures, key=lambda key: key.startswith("val_"), default="")
    )
    called = best.replace("_", " ", 1)
    if best.startswith("folds_"):
        called = f"{best.removeprefix('folds_')} {row['figures']}"
    elif best == "val_accuracy" and "folds" not in row.get("figures", ""):
        called = row.get("figures", called)
    short["figure"] = f"{_cell(best, row[best])} {called}" if best in row else ""
    if sort and sort not in short and sort != best:
        short[sort] = row.get(sort, "")

    return short


def _print_rows(rows: list[dict[str, Any]], folded: tuple[str, ...], *, heads: bool = True) -> None:
    """Print a table without cutting anything: long text wraps, and a pipe gets whole lines."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", show_header=heads)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold", no_wrap=column not in folded)
    for row in rows:
        table.add_row(*(Text(_cell(column, row.get(column, ""))) for column in columns))

    console = Console(highlight=False)
    natural = table.__rich_measure__(console, console.options.update(max_width=10_000)).maximum
    if not console.is_terminal:
        console.width = max(console.width, natural)
    console.print(table)


def _cell(column: str, value: object) -> str:
    if isinstance(value, float) and "accuracy" in column:
        return f"{100 * value:.2f} %"
    if isinstance(value, float):
        return f"{value:.2f} dB" if "psnr" in column else f"{value:.4g}"
    return str(value)


@app.command(rich_help_panel=LOOK)
def doctor(
    speed: Annotated[
        bool,
        typer.Option(
            "--speed",
            help="Measure the machine in half a minute and predict how long trainings take.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Check the installation (versions, devices, memory, cache) and explain what is broken."""
    from tintype.verbs.doctor import examine

    findings = examine()
    found: dict[str, Any] = {"facts": findings.facts, "problems": findings.problems}
    number = len(findings.problems)

    if not as_json:
        for name, value in findings.facts.items():
            print(f"{name:14} {value}")
        for problem in findings.problems:
            print(f"PROBLEM        {problem}")
        print(f"{number} problem(s)" if number else "everything checked is fine")

    if speed:
        from tintype.progress import make_watcher
        from tintype.verbs.speed import measure_speed

        measured = measure_speed(make_watcher(to_stderr=True))
        found["speed"] = measured.to_dict()
        if not as_json:
            print("\n" + "\n".join(measured.lines()))
    if as_json:
        print(json.dumps(found, indent=1))

    if findings.problems:
        raise typer.Exit(1)


@app.command(rich_help_panel=LOOK)
def cache(
    clear: Annotated[
        bool,
        typer.Option("--clear", help="Remove all cached pixels; your photos are never touched."),
    ] = False,
    limit: Annotated[
        float | None,
        typer.Option(
            help="Remove the least recently used entries until at most this many GB remain."
        ),
    ] = None,
) -> None:
    """Show, limit or clear the cache of decoded photos."""
    from tintype.data.cache import cache_entries, cache_folder, clear_cache, trim_cache
    from tintype.files.whole import format_bytes

    if clear:
        print(f"freed {format_bytes(clear_cache())} in {cache_folder()}")
    elif limit is not None:
        print(f"removed {trim_cache(round(limit * 1e9))} entries from {cache_folder()}")
    else:
        entries = cache_entries()
        for entry in entries:
            print(
                f"{format_bytes(entry.num_bytes):>9}  {entry.count:,} "
                f"{entry.what} of {entry.source}"
            )
        total = sum(entry.num_bytes for entry in entries)
        print(f"{format_bytes(total)} in {len(entries)} entries in {cache_folder()}")
