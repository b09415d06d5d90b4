"""The sections of a report on generated images: figures with their floors, both losses, a time lapse, sheets of images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tintype.report import figures, print_figures, words
from tintype.report.figures import Panel, Series
from tintype.report.folder import RunFiles
from tintype.report.pictures import data_uri, enlarged, png_bytes
from tintype.report.section import SPLIT_NAMES, Chart, Section
from tintype.report.verdict import looks, verdict

MOST_FRAMES = 40
SHARPEST = 640  # pixels that a sheet of small images is enlarged to, in whole steps
LABELS = {
    "num_generated": "Images of each kind",
    "diversity": "Difference among images, real is 1",
    "classes_present": "Classes present",
    "largest_class_share": "Largest share of a class",
    "mean_confidence": "Mean confidence of the classifier",
    "class_accuracy": "Shows the class that was asked for",
}


def headline(run: RunFiles) -> Section:
    """Open with the distance that counts beside its floor, and the table of all figures."""
    splits = run.splits
    main = splits.get(run.split) or {}
    name = next((key for key in main if key.startswith("fd_") and not key.endswith("_floor")), None)
    context = {
        "finished": bool(name),
        "reached": run.reached,
        "of": SPLIT_NAMES[run.split],
        "name": name,
        "value": main.get(name) if name else None,
        "floor": main.get(f"{name}_floor"),
        "count": main.get("num_generated"),
        "protocol": run.evaluation.get("protocol") or {},
        "strip": _strip(splits, name, main.get(f"{name}_floor")) if name else [],
        "fid": _strip({run.split: main}, "fid", main.get("fid_floor")) if "fid" in main else [],
        "table": _table(splits),
        "verdict": verdict(run),
        "looks": looks(run),
    }
    return Section("result", "Result", "generate_headline.html", context)


def _strip(splits: Mapping[str, Mapping[str, Any]], name: str, floor: float | None) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = [(f"against {SPLIT_NAMES[s]}", figures[name]) for s, figures in splits.items()]
    return [*rows, ("real against real", floor)] if floor is not None else rows


def _table(splits: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    keys = dict.fromkeys(
        key
        for split in splits.values()
        for key, v in split.items()
        if isinstance(v, int | float) and key != "num_images"
    )
    if not keys:
        return None
    rows = [(_label(key), [words.number(split.get(key)) for split in splits.values()]) for key in keys]
    return {"columns": [SPLIT_NAMES[name] for name in splits], "rows": rows}


def _label(key: str) -> str:
    if key in LABELS:
        return LABELS[key]
    return f"{key.removesuffix('_floor')}, real against real" if key.endswith("_floor") else key


def history(run: RunFiles) -> Section | None:
    """Show both losses, how often the discriminator is right, and the distance on validation."""
    panels = history_panels(run.metrics)
    if not panels:
        return None
    chart = Chart(
        "history",
        figures.history(panels, "step"),
        print_figures.png(print_figures.history(panels, "step")),
        "Line diagrams over the training: " + ", ".join(panel.title.lower() for panel in panels) + ".",
    )
    adversarial = bool(run.metrics.get("loss_discriminator"))
    context = {"chart": chart, "adversarial": adversarial}
    return Section("history", "Training curves", "generate_history.html", context, {chart.name: chart.png})


def history_panels(metrics: Mapping[str, Sequence[float]]) -> list[Panel]:
    """Arrange the columns of metrics.csv: losses, the discriminator's accuracy, distances; empty ones are left out."""
    x = metrics.get("step") or []
    losses: list[Series] = []
    for column, name, role in (
        ("loss_generator", "generator", "val"), ("loss_discriminator", "discriminator", "train"),
        ("loss_penalty", "penalty", "rate"), ("loss", "training", "train"),
    ):  # fmt: skip
        losses += _noisy(name, x, metrics.get(column, []), role)
    panels = [Panel("Loss", losses, 1.0)]
    right = _noisy("right", x, metrics.get("discriminator_accuracy", []), "train")
    panels.append(Panel("How often the discriminator is right", right, 0.6, percent=True))
    strength = _noisy("probability", x, metrics.get("augment_probability", []), "rate")
    panels.append(Panel("Strength of augmentation", strength, 0.4, percent=True))
    for column, values in metrics.items():
        if column.startswith("val_fd_"):
            panels.append(Panel(f"{column.removeprefix('val_')} on validation", [_points(x, values, "test")], 0.6))
    return [panel for panel in panels if any(series.x for series in panel.series)]


def _known(x: Sequence[float], y: Sequence[float]) -> np.ndarray:
    rows = [(a, b) for a, b in zip(x, y, strict=False) if not math.isnan(a + b)]
    return np.array(rows).reshape(-1, 2)


def _noisy(name: str, x: Sequence[float], y: Sequence[float], role: str) -> list[Series]:
    points = _known(x, y)
    if not len(points):
        return []
    xs, ys = (values.tolist() for values in figures.thinned(points))
    return [Series(f"{name}, each step", xs, ys, role, "faint"), Series(name, xs, figures.smoothed(ys), role)]


def _points(x: Sequence[float], y: Sequence[float], role: str) -> Series:
    points = _known(x, y)
    return Series("validation", points[:, 0].tolist(), points[:, 1].tolist(), role, "points")


def lapse(run: RunFiles) -> Section | None:
    """Show how images from the same noise come about."""
    files = sorted((run.folder / "samples").glob("step-*.png"))
    if not files:
        return None
    chosen = sorted({round(i * (len(files) - 1) / max(1, MOST_FRAMES - 1)) for i in range(MOST_FRAMES)})
    frames = []
    for number in [i for i in chosen if i < len(files)]:
        image = _open(files[number])
        if image is not None:
            frames.append({"step": int(files[number].stem.removeprefix("step-")), "uri": data_uri(png_bytes(image))})
    if not frames:
        return None
    context = {"frames": frames, "last": frames[-1], "total": len(files)}
    return Section("lapse", "Progress during training", "generate_lapse.html", context)


def sheets(run: RunFiles) -> Section | None:
    """Show sheets of real images beside generated ones."""
    pairs = [("8x8", "8 × 8"), ("4x4", "4 × 4")]
    rows = [
        (title, [sheet for kind in ("real", "generated") if (sheet := _sheet(run, f"{kind}-{size}", kind))])
        for size, title in pairs
    ]
    rows = [(title, found) for title, found in rows if len(found) == 2]
    if not rows:
        return None
    files = _files(run, "real-8x8", "generated-8x8")
    return Section("sheets", "Real and generated images", "generate_sheets.html", {"rows": rows}, files)


def classes(run: RunFiles) -> Section | None:
    """Show a row of images for each class, and how often a classifier saw each class."""
    sheet = _sheet(run, "classes", "a row for each class")
    shares = (run.splits.get(run.split) or {}).get("class_shares") or {}
    if sheet is None and not shares:
        return None
    names = [str(name) for name in run.model.get("class_names") or []][:20]
    largest = max([*shares.values(), 1e-9])
    rows = [(name, share, share / largest) for name, share in shares.items()]
    context = {"sheet": sheet, "names": names, "shares": rows}
    return Section("classes", "Images by class", "generate_classes.html", context, _files(run, "classes"))


def ways(run: RunFiles) -> Section | None:
    """Show images between images."""
    sheet = _sheet(run, "interpolation", "each row goes from one image to the next")
    if sheet is None:
        return None
    files = _files(run, "interpolation")
    return Section("interpolation", "Latent interpolation", "generate_ways.html", {"sheet": sheet}, files)


def memory(run: RunFiles) -> Section | None:
    """Show generated images above the nearest training image of each."""
    sheet = _sheet(run, "nearest", "generated above, the nearest training image below")
    if sheet is None:
        return None
    context = {"sheet": sheet, "nearest": run.evaluation.get("nearest") or {}}
    return Section("memory", "Nearest training images", "generate_memory.html", context, _files(run, "nearest"))


def _open(path: Path) -> Image.Image | None:
    try:
        with Image.open(path) as image:
            return image.convert("L" if image.mode == "L" else "RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _sheet(run: RunFiles, name: str, alt: str) -> dict[str, Any] | None:
    """Return a sheet of samples/ for the page; the browser enlarges small ones without smoothing."""
    image = _open(run.folder / "samples" / f"{name}.png")
    if image is None:
        return None
    factor = max(1, min(4, SHARPEST // image.width))
    return {
        "uri": data_uri(png_bytes(image)),
        "width": image.width * factor,
        "alt": alt,
        "height": image.height * factor,
    }


def _files(run: RunFiles, *names: str) -> dict[str, bytes]:
    found = {name: _open(run.folder / "samples" / f"{name}.png") for name in names}
    return {name: png_bytes(enlarged(image)) for name, image in found.items() if image is not None}
