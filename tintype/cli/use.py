"""The commands that use a finished run: predict, generate and upscale."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from tintype.cli.base import USE, Device, Json, Run, Trust, app, sharing_cores
from tintype.errors import UserError


@app.command(rich_help_panel=USE)
def predict(
    run: Annotated[
        Path,
        typer.Argument(
            help="Run folder, packed run (.zip), or exported model (.onnx, without PyTorch)."
        ),
    ],
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Images, folders of images, or - to read file names from standard input."
        ),
    ],
    top: Annotated[int, typer.Option(min=1, help="Number of classes to show for each image.")] = 1,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "--csv",
            help="File to write, .csv, .jsonl or .parquet, which must not exist yet.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the file of --out where an earlier call stopped."),
    ] = False,
    abstain: Annotated[
        bool,
        typer.Option(
            "--abstain",
            help="Answer 'unsure' where the confidence is too low for the accuracy of --target.",
        ),
    ] = False,
    target: Annotated[
        float | None,
        typer.Option(
            help="With --abstain: share of answers that must be right, from 0.8 to 0.99 (default: "
            "0.95)."
        ),
    ] = None,
    wish: Annotated[float | None, typer.Option(hidden=True)] = None,
    sort_into: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Copy each image into a folder for its class; nothing is overwritten.",
        ),
    ] = None,
    link: Annotated[
        bool, typer.Option("--link", help="With --sort-into: create links instead of copies.")
    ] = False,
    heatmaps: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write images that show where the network looked into this new folder.",
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="K/N", help="Predict only this part of the images, as in 3/64."),
    ] = None,
    merge: Annotated[
        bool,
        typer.Option("--merge", help="Join the files of all shards, named in place of a run."),
    ] = False,
    device: Device = "auto",
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Say what is in photos, in a few or in a million."""
    from tintype.tasks.contract.exported import is_exported
    from tintype.verbs.predict.command import merge_command, predict_command

    if merge:
        merge_command([run, *files], out)
        return
    wanted = target if wish is None else wish  # the option's name in earlier versions
    if target is not None and not abstain:
        raise UserError("--target says how many answers must be right. Give --abstain as well.")
    accuracy = None
    if abstain:
        accuracy = 0.95 if wanted is None else wanted

    # an exported model computes without torch, whose threads these are
    with nullcontext() if is_exported(run) else sharing_cores():
        predict_command(
            run, files, top=top, out=out, resume=resume, accuracy=accuracy,
            sort_into=sort_into, link=link, heatmaps=heatmaps, device=device, as_json=as_json,
            shard=shard,
        )  # fmt: skip


@app.command(rich_help_panel=USE)
def similar(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="[RUN] PHOTO FOLDER",
            help="Photo, and folders of photos to look in. A run folder before them looks at the "
            "photos; by default EfficientNet-Lite0 does, whose ImageNet weights are installed.",
        ),
    ],
    top: Annotated[int, typer.Option(min=1, help="Number of photos to find.")] = 12,
    out: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Write a page (.html), a contact sheet (.png) or the table (.csv, .json); may be "
            "repeated.",
        ),
    ] = None,
    device: Device = "auto",
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Find the photos of a folder that are most like a photo."""
    from tintype.verbs.similar.command import similar_command

    with sharing_cores():
        similar_command(paths, top=top, out=out or [], device=device, as_json=as_json)


@app.command(rich_help_panel=USE)
def generate(
    run: Run,
    count: Annotated[int, typer.Option(help="Number of images.")] = 64,
    start: Annotated[
        int, typer.Option(help="Index of the first image; 64 continues after the first 64.")
    ] = 0,
    seed: Annotated[
        int, typer.Option(help="Random seed; the same seed and index always give the same image.")
    ] = 0,
    class_: Annotated[
        str | None, typer.Option("--class", help="Class to draw, if the generator knows classes.")
    ] = None,
    truncation: Annotated[
        float | None,
        typer.Option(help="Limit on the random input; lower is more typical and less varied."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the PNG files (default: RUN/generated).")
    ] = None,
    grid: Annotated[
        Path | None, typer.Option(help="Write one sheet of images instead, to a new .png file.")
    ] = None,
    columns: Annotated[
        int | None, typer.Option(help="Images per row of the sheet (default: nearly square).")
    ] = None,
    scale: Annotated[
        int | None,
        typer.Option(
            help="Whole-number factor for images on the sheet (default: small ones are enlarged)."
        ),
    ] = None,
    interpolate: Annotated[
        bool, typer.Option("--interpolate", help="Blend from each image to the next in 8 steps.")
    ] = False,
    trust: Trust = None,
    device: Device = "auto",
) -> None:
    """Generate images with a finished run."""
    from tintype.tasks.generate.images import generate_files

    # with all threads, as ever: another number could change the last bits of an image
    written = generate_files(
        run, count=count, start=start, out=out, grid=grid, columns=columns, scale=scale,
        device=device, seed=seed, class_name=class_, truncation=truncation, interpolate=interpolate,
    )  # fmt: skip
    print(f"{count:,} images written to {written}")


@app.command(rich_help_panel=USE)
def upscale(
    run: Annotated[
        Path,
        typer.Argument(help="Run folder, or weights of another project (needs spandrel)."),
    ],
    files: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results (default: next to each image).")
    ] = None,
    tile: Annotated[
        int, typer.Option(min=16, help="Side of the tiles, in pixels of the small image.")
    ] = 256,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Also write the small image, the bicubic one and the result side by side.",
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False,
    device: Device = "auto",
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Enlarge photos with a super-resolution run."""
    from tintype.progress import make_watcher
    from tintype.tasks.upscale.files import upscale_files

    watcher = make_watcher(to_stderr=as_json)
    with sharing_cores():
        done = upscale_files(
            run,
            files,
            out=out,
            tile=tile,
            compare=compare,
            force=force,
            device=device,
            progress=watcher.on_work,
        )
    watcher.close()

    for file, reason in done.skipped:
        print(f"passed over {file}: {reason}", file=sys.stderr)
    if as_json:
        written = [str(path) for path in done.written]
        print(json.dumps({"written": written, "skipped": done.skipped}, indent=1))
    else:
        for path in done.written:
            print(path)

    if not done.written:
        raise UserError("no image was enlarged; the lines above say why.")
    if done.skipped:
        print(f"{len(done.written)} written, {len(done.skipped)} skipped", file=sys.stderr)
