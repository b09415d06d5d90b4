"""The command line: each command is a few lines that call one function of the package."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tintype.errors import UserError

app = typer.Typer(
    name="tintype",
    help="Image models made on the spot: classify images, and know how good the model is.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on standard output.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]


def _version(show: bool) -> None:
    if show:
        from tintype import __version__

        print(f"tintype {__version__}")
        raise typer.Exit


@app.callback()
def _global(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    pass


@app.command()
def train(
    context: typer.Context,
    what: Annotated[
        str | None, typer.Argument(help="A recipe's name or file, a data set's name, or a folder of images.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Data set's name, folder, or CSV file.")] = None,
    data_root: Annotated[str | None, typer.Option(help="Folder that holds the data set's files already.")] = None,
    model: Annotated[str | None, typer.Option(help="Network (`tintype list models`).")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the training images.")] = None,
    steps: Annotated[int | None, typer.Option(help="Batches, instead of epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", "--batch", help="Images a step.")] = None,
    lr: Annotated[str | None, typer.Option(help="Peak learning rate, or auto: measured by a range test.")] = None,
    weights: Annotated[
        str | None, typer.Option(help="What a backbone starts from: default (downloaded once), a file, or none.")
    ] = None,
    tune: Annotated[str | None, typer.Option(help="What of a backbone is trained: head, last:N, all or auto.")] = None,
    time: Annotated[str | None, typer.Option(help="What tune auto may take: 90s, 5m, 1h.")] = None,
    image_size: Annotated[int | None, typer.Option("--image-size", "--imgsz", help="Side in pixels.")] = None,
    augment: Annotated[str | None, typer.Option(help="Preset or list: light, or flip,crop=4,rotate=15.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order, augmentation and dropout.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32 or bf16.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any field of the recipe; repeat for more.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run folder; must be new.")] = None,
    out: Annotated[Path, typer.Option(help="Folder that holds the run folders.")] = Path("runs"),
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Go on with a run that was stopped.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Train a model, measure it honestly, and write a report."""
    from tintype import api
    from tintype.progress import make_watcher
    from tintype.recipe import parse_assignments

    given: dict[str, Any] = {
        "data": data, "data_root": data_root, "model": model, "epochs": epochs, "steps": steps, "batch_size": batch_size,
        "lr": _number(lr), "weights": weights, "tune": tune, "time": time,
        "image_size": image_size, "augment": augment, "seed": seed, "device": device, "precision": precision,
    }  # fmt: skip
    changes = {key: value for key, value in given.items() if value is not None}
    changes.update(parse_assignments(set_ or []))
    watcher = make_watcher(to_stderr=as_json)
    command = shlex.join(["tintype", *(context.obj or sys.argv[1:])])
    if dry_run and resume:
        raise UserError("--dry-run shows a new run; with --resume the plan lies in the run's recipe.yaml.")
    if dry_run:
        prepared = api.plan(what or "digits", watcher=watcher, **changes)
        if as_json:
            print(json.dumps(prepared.summary(), indent=1))
        else:
            print(prepared.recipe.to_yaml(), end="")
        return
    run = api.train(what, out=out, name=name, resume=resume, watcher=watcher, command=command, **changes)
    if as_json:
        print(json.dumps(run.result(), indent=1))
    else:
        _print_result(run)


def _number(text: str | None) -> float | str | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return text  # refused by the recipe, unless it is a word that it knows


def _print_result(run: Any) -> None:
    from rich.console import Console

    from tintype.summary import result_table, verdict_line

    console = Console(highlight=False)
    console.print(result_table(run.metrics))
    console.print(verdict_line(run.read("evaluation.json")), markup=False)
    console.print(f"report  {run.path / 'report.html'}", markup=False, soft_wrap=True)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    data: Annotated[str | None, typer.Option(help="Other data with the same classes; all of it by default.")] = None,
    split: Annotated[str | None, typer.Option(help="val, test or train; test by default.")] = None,
    features: Annotated[
        str | None, typer.Option(help="What generated images are measured on: a classifier's run, or a weight file.")
    ] = None,
    inception_weights: Annotated[
        str | None, typer.Option(metavar="FILE", help="Weights for FID by the standard protocol (torch-fidelity's).")
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure a finished run again, on its own data or on another set. Looks at the test split are counted."""
    from tintype import load

    figures = load(str(run)).evaluate(
        data=data, split=split, features=features, inception_weights=inception_weights, device=device
    )
    if as_json:
        print(json.dumps(figures, indent=1))
        return
    from rich.console import Console

    from tintype.summary import result_table

    console = Console(highlight=False)
    console.print(result_table({figures["split"]: figures}))
    protocol = figures.get("protocol")  # of super-resolution it is one name, which stands under the table
    for name, how in protocol.items() if isinstance(protocol, dict) else ():
        console.print(f"{name}: {how}", markup=False, soft_wrap=True)


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    files: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    top: Annotated[int, typer.Option(min=1, help="Classes to show for each image.")] = 1,
    csv: Annotated[Path | None, typer.Option(help="Write a CSV file instead of printing; must be new.")] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Say what is on photos."""
    from tintype.predict import predict_files

    answers = predict_files(run, files, device=device)
    for file, reason in answers.skipped:
        print(f"passed over {file}: {reason}", file=sys.stderr)
    if not answers.predictions:
        raise UserError("no image could be read.")
    if as_json:
        rows = [
            {"file": p.name, "top": [{"class": c, "probability": round(v, 6)} for c, v in p.top(top)]}
            for p in answers.predictions
        ]
        print(json.dumps({"predictions": rows, "skipped": answers.skipped}, indent=1, ensure_ascii=False))
    elif csv is not None:
        answers.write_csv(csv, top)
        print(f"{len(answers.predictions)} predictions written to {csv}")
    else:
        for p in answers.predictions:
            print(f"{p.name}: " + ", ".join(f"{name} {share:.1%}" for name, share in p.top(top)))


@app.command()
def generate(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    count: Annotated[int, typer.Option(help="How many images.")] = 64,
    seed: Annotated[int, typer.Option(help="Image i follows from seed and i alone.")] = 0,
    class_: Annotated[
        str | None, typer.Option("--class", help="What to show, where the generator knows classes.")
    ] = None,
    truncation: Annotated[
        float | None, typer.Option(help="Bound of the noise: lower is more typical and less varied.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the PNG files; RUN/generated by default.")] = None,
    grid: Annotated[Path | None, typer.Option(help="Write one sheet instead, a .png file; must be new.")] = None,
    interpolate: Annotated[bool, typer.Option("--interpolate", help="A way from image to image, in 8 steps.")] = False,
    device: Device = "auto",
) -> None:
    """Make images with a finished run of a generator."""
    from tintype.generate import generate_files

    written = generate_files(
        run, count=count, out=out, grid=grid, device=device,
        seed=seed, class_name=class_, truncation=truncation, interpolate=interpolate,
    )  # fmt: skip
    print(f"{count:,} images written to {written}")


@app.command()
def upscale(
    run: Annotated[Path, typer.Argument(help="Run folder, or weights of somebody else's network (needs spandrel).")],
    files: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the results; by default beside each image.")] = None,
    tile: Annotated[int, typer.Option(min=16, help="Side of the tiles in pixels of the small image.")] = 256,
    compare: Annotated[
        bool, typer.Option("--compare", help="Also write the small image, bicubic and ours side by side.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Enlarge photos with a run of super-resolution."""
    from tintype.progress import make_watcher
    from tintype.upscale import upscale_files

    watcher = make_watcher(to_stderr=as_json)
    done = upscale_files(
        run, files, out=out, tile=tile, compare=compare, force=force, device=device, progress=watcher.on_work
    )
    watcher.close()
    for file, reason in done.skipped:
        print(f"passed over {file}: {reason}", file=sys.stderr)
    if as_json:
        print(json.dumps({"written": [str(path) for path in done.written], "skipped": done.skipped}, indent=1))
    else:
        for path in done.written:
            print(path)
    if not done.written:
        raise UserError("no image was enlarged.")
    if done.skipped:
        print(f"{len(done.written)} written, {len(done.skipped)} passed over", file=sys.stderr)


@app.command()
def audit(
    data: Annotated[str, typer.Argument(help="Data set's name, folder, or CSV file.")],
    data_root: Annotated[str | None, typer.Option(help="Folder that holds the data set's files already.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page with the pictures.")] = None,
    fix: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Write a cleaned list of the photos; must be new.")
    ] = None,
    labels: Annotated[bool, typer.Option(help="Also look for labels that seem wrong.")] = True,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if something serious is found.")] = False,
    as_json: Json = False,
) -> None:
    """Look for broken files, duplicates, leaks, wrong labels and poor pictures, before training."""
    from tintype.auditing import audit_command
    from tintype.progress import make_watcher

    watcher = make_watcher(to_stderr=True)
    try:
        found, lines = audit_command(
            data, data_root=data_root, html=html, fix=fix, labels=labels, progress=watcher.on_work
        )
    finally:
        watcher.close()
    if as_json:
        print(json.dumps(found.to_dict(), indent=1))
    else:
        print("\n".join([*found.lines(), *lines]))
    if strict and found.serious:
        raise typer.Exit(1)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="Run folder.")]) -> None:
    """Make the report of a run again from its files."""
    from tintype import load

    print(load(str(run)).report())


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(help="recipes, models, data, augmentations, tasks or runs.")] = "recipes",
    out: Annotated[Path, typer.Option(help="Folder that holds the run folders.")] = Path("runs"),
    as_json: Json = False,
) -> None:
    """List recipes, models, data sets, augmentations or runs."""
    from tintype.listing import listing

    rows = listing(what, out)
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    if not rows:
        print(f"There are no {what} in {out}." if what == "runs" else f"There are no {what}.")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in rows[0]:
        table.add_column(column.replace("_", " "), overflow="fold", no_wrap=column == "name")
    for row in rows:
        table.add_row(*(f"{v:.2%}" if isinstance(v, float) else str(v) for v in (row.get(c, "") for c in rows[0])))
    Console(highlight=False).print(table)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check the installation: versions, devices, precision, memory, cache; explain what is broken."""
    from tintype.doctor import examine

    findings = examine()
    if as_json:
        print(json.dumps({"facts": findings.facts, "problems": findings.problems}, indent=1))
    else:
        for name, value in findings.facts.items():
            print(f"{name:14} {value}")
        for problem in findings.problems:
            print(f"PROBLEM        {problem}")
        print(f"{len(findings.problems)} problem(s)" if findings.problems else "all that was looked at is well")
    if findings.problems:
        raise typer.Exit(1)


@app.command()
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove all cached pixels; photos are never touched.")] = False,
    limit: Annotated[
        float | None, typer.Option(help="Remove the least recently used until this many GB are left.")
    ] = None,
) -> None:
    """Show, bound or clear the cache of decoded photos."""
    from tintype.data.cache import cache_entries, cache_folder, clear_cache, format_bytes, trim_cache

    if clear:
        print(f"freed {format_bytes(clear_cache())} in {cache_folder()}")
    elif limit is not None:
        print(f"removed {trim_cache(round(limit * 1e9))} entries from {cache_folder()}")
    else:
        entries = cache_entries()
        for entry in entries:
            print(f"{format_bytes(entry.num_bytes):>9}  {entry.num_images:,} images of {entry.source}")
        print(f"{format_bytes(sum(e.num_bytes for e in entries))} in {len(entries)} entries in {cache_folder()}")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a mistake of the user is one line on standard error and exit code 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    try:
        app(args=arguments, prog_name="tintype", obj=arguments, standalone_mode=True)
    except UserError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as end:
        if end.code == 130:  # Ctrl-C, which Typer turns into a silent exit
            print("stopped", file=sys.stderr)
        raise
    except Exception as error:
        if debug:
            raise
        number = getattr(error, "number", None)  # engine.Interrupted, which is not imported here for speed
        if type(error).__name__ == "Interrupted" and number:
            print(error, file=sys.stderr)
            sys.exit(128 + number)
        print(
            f"error: {type(error).__name__}: {error}\n"
            "This is a fault of tintype, not of yours. `tintype --debug ...` shows where.",
            file=sys.stderr,
        )
        sys.exit(1)
