"""The sections of a report on generated images: figures with their floors, both losses, a time
lapse, sheets of images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tintype.pages import figures, words
from tintype.pages.drawings import Drawing
from tintype.pages.figures import Panel, Series
from tintype.pages.pictures import data_uri, enlarged, png_bytes
from tintype.pages.section import SPLIT_NAMES, Section
from tintype.pages.sections import history_chart, history_drawing, warnings
from tintype.pages.verdict import looks, verdict
from tintype.runs.reading import RunFiles
from tintype.tasks.class_counts import making
from tintype.tasks.generate.equations import learning

MOST_FRAMES = 40
GAP = 2  # pixels between the images of a sheet
# as in the verdict: distance to the nearest training image as a part of that of test images
COPIED = 0.5
SHARPEST = 640  # pixels that a sheet of small images is enlarged to, in whole steps
LABELS = {
    "num_generated": "Images of each kind",
    "diversity": "Diversity, as a share of real images'",
    "classes_present": "Classes present",
    "largest_class_share": "Largest share of a class",
    "mean_confidence": "Mean confidence of the classifier",
    "class_accuracy": "Images that show the class asked for",
}
KINDS = {
    "fd": "Fréchet distance",
    "fid": "FID",
    "kid": "Kernel distance (KID)",
    "precision": "Precision: generated images that resemble real ones",
    "recall": "Recall: real images that generated ones resemble",
}
SHARES = (
    "diversity",
    "largest_class_share",
    "mean_confidence",
    "class_accuracy",
    "precision",
    "recall",
)
AS_VARIED = 0.9  # of the difference among real images
AS_FAR = 0.9  # of the distance that unseen real images have from the training images

SHEETS = ("real-8x8", "generated-8x8", "real-4x4", "generated-4x4")


def headline(run: RunFiles) -> Section:
    """Open with generated images beside real ones, a verdict in plain words, and the distance with
    what it means.
    """
    splits = run.splits
    main = splits.get(run.split) or {}
    name = next((key for key in main if key.startswith("fd_") and not key.endswith("_floor")), None)
    sheets = [
        sheet for kind in ("generated", "real") if (sheet := _sheet(run, f"{kind}-8x8", kind))
    ]
    context = {
        "sheets": sheets if len(sheets) == 2 else [],
        "finished": bool(name),
        "reached": run.reached,
        "of": SPLIT_NAMES[run.split],
        "value": main.get(name) if name else None,
        "floor": main.get(f"{name}_floor"),
        "count": main.get("num_generated"),
        "protocol": run.evaluation.get("protocol") or {},
        "strip": _strip(splits, name, main.get(f"{name}_floor")) if name else [],
        "fid": _strip({run.split: main}, "fid", main.get("fid_floor")) if "fid" in main else [],
        "table": _table(splits),
        "verdict": _plain_verdict(run, main),
        "looks": looks(run),
    }
    files = _files(run, *SHEETS) if context["sheets"] else {}

    return Section("result", "Result", "generate/headline.html", context, files)


def _plain_verdict(run: RunFiles, figures: Mapping[str, Any]) -> dict[str, str]:
    """Return the verdict with a title in plain words; of an unknown word the title is left to the
    page.
    """
    found = verdict(run)
    diversity = figures.get("diversity") or 0.0
    varied = (
        "As varied as real images"
        if diversity >= AS_VARIED
        else f"{diversity:.0%} as varied as real images"
    )
    titles = {
        "varies": f"{varied}, and no copies.",
        "memorises": "Copies of training images.",
        "collapses": "Hardly any variety: the generator has collapsed.",
        "misses classes": "Some classes are missing.",
        "lacks variety": "Too little variety.",
    }

    return {**found, "title": titles.get(found["word"], "")}


def _strip(
    splits: Mapping[str, Mapping[str, Any]], name: str, floor: float | None
) -> list[tuple[str, str]]:
    rows = [
        (f"To {SPLIT_NAMES[split]} images", figures.get(name)) for split, figures in splits.items()
    ]
    if floor is not None:
        rows.append(("Between two sets of real images", floor))
    digits = _decimals([value for _, value in rows])
    return [(label, words.fixed(value, digits)) for label, value in rows]


def _table(splits: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    keys = dict.fromkeys(
        key
        for split in splits.values()
        for key, v in split.items()
        if isinstance(v, int | float) and key != "num_images"
    )
    if not keys:
        return None

    rows = [
        (_label(key), _texts(key, [split.get(key) for split in splits.values()])) for key in keys
    ]
    return {"columns": [SPLIT_NAMES[name] for name in splits], "rows": rows}


def _label(key: str) -> str:
    if key in LABELS:
        return LABELS[key]
    kind, _, features = key.removesuffix("_floor").partition("_")
    label = KINDS.get(kind, kind) + (f" ({features})" if features else "")
    return f"{label}, two sets of real images" if key.endswith("_floor") else label


def _texts(key: str, values: Sequence[Any]) -> list[str]:
    """Return the figures of a row with the same number of decimals: counts, shares in percent,
    distances.
    """
    if key.startswith(SHARES):
        return [words.percent(value) for value in values]
    if all(value is None or isinstance(value, int) for value in values):
        return [words.number(value) for value in values]
    digits = 5 if key.startswith("kid") else _decimals(values)
    return [words.fixed(value, digits) for value in values]


def _decimals(values: Sequence[Any]) -> int:
    """Return how many decimals distances need, so that the largest has about three digits."""
    largest = max((abs(value) for value in values if isinstance(value, int | float)), default=0.0)
    if largest < 10:
        return 3
    return 2 if largest < 100 else 1


def history(run: RunFiles) -> Section | None:
    """Show both losses, how often the discriminator is right, and the distance on validation."""
    chart = history_chart(history_panels(run.metrics), "step")
    if chart is None:
        return None

    adversarial = bool(run.metrics.get("loss_discriminator"))
    context = {"chart": chart, "adversarial": adversarial}

    return Section(
        "history", "Training curves", "generate/history.html", context, {chart.name: chart.png}
    )


def history_panels(metrics: Mapping[str, Sequence[float]], *, smooth: bool = True) -> list[Panel]:
    """Arrange the columns of metrics.csv: losses, the discriminator's accuracy, distances.

    Empty ones are left out. Without `smooth`, the value of every step is drawn as it was logged.
    """
    x = metrics.get("step") or []
    losses: list[Series] = []
    for column, name, role in (
        ("loss_generator", "generator", "val"), ("loss_discriminator", "discriminator", "train"),
        ("loss_penalty", "penalty", "rate"), ("loss", "training", "train"),
    ):  # fmt: skip
        losses += _noisy(name, x, metrics.get(column, []), role, smooth)

    panels = [Panel("Loss", losses, 1.0)]
    right = _noisy("right", x, metrics.get("discriminator_accuracy", []), "train", smooth)
    panels.append(Panel("Discriminator accuracy", right, 0.6, percent=True))
    strength = _noisy("probability", x, metrics.get("augment_probability", []), "rate", smooth)
    panels.append(Panel("Strength of augmentation", strength, 0.4, percent=True))

    for column, values in metrics.items():
        if column.startswith("val_fd_"):
            panels.append(
                Panel("Fréchet distance on validation", [_points(x, values, "test")], 0.6)
            )

    return [panel for panel in panels if any(series.x for series in panel.series)]


def _known(x: Sequence[float], y: Sequence[float]) -> np.ndarray:
    rows = [(a, b) for a, b in zip(x, y, strict=False) if not math.isnan(a + b)]
    return np.array(rows).reshape(-1, 2)


def _noisy(
    name: str, x: Sequence[float], y: Sequence[float], role: str, smooth: bool
) -> list[Series]:
    points = _known(x, y)
    if not len(points):
        return []
    if not smooth:
        return [Series(name, points[:, 0].tolist(), points[:, 1].tolist(), role)]
    xs, ys = (values.tolist() for values in figures.thinned(points))
    return [
        Series(f"{name}, each step", xs, ys, role, "faint"),
        Series(name, xs, figures.smoothed(ys), role),
    ]


def _points(x: Sequence[float], y: Sequence[float], role: str) -> Series:
    points = _known(x, y)
    return Series("validation", points[:, 0].tolist(), points[:, 1].tolist(), role, "points")


def lapse(run: RunFiles) -> Section | None:
    """Show how images from the same noise come about."""
    files = sorted((run.folder / "samples").glob("step-*.png"))
    if not files:
        return None

    chosen = sorted(
        {round(i * (len(files) - 1) / max(1, MOST_FRAMES - 1)) for i in range(MOST_FRAMES)}
    )
    frames = []
    for number in [i for i in chosen if i < len(files)]:
        image = _open(files[number])
        if image is not None:
            frames.append(
                {
                    "step": int(files[number].stem.removeprefix("step-")),
                    "uri": data_uri(png_bytes(image)),
                }
            )

    if not frames:
        return None
    context = {
        "frames": frames,
        "last": frames[-1],
        "total": len(files),
        "count": _count(run, files[-1]),
    }
    return Section("lapse", "Progress during training", "generate/lapse.html", context)


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
    return Section(
        "classes", "Images by class", "generate/classes.html", context, _files(run, "classes")
    )


def ways(run: RunFiles) -> Section | None:
    """Show images between images."""
    sheet = _sheet(run, "interpolation", "each row goes from one image to the next")
    if sheet is None:
        return None
    files = _files(run, "interpolation")
    return Section(
        "interpolation", "Latent interpolation", "generate/ways.html", {"sheet": sheet}, files
    )


def memory(run: RunFiles) -> Section | None:
    """Show generated images above the nearest training image of each."""
    sheet = _sheet(run, "nearest", "generated above, the nearest training image below")
    if sheet is None:
        return None
    nearest = run.evaluation.get("nearest") or {}
    context = {"sheet": sheet, "nearest": nearest, "said": _said_of_copies(nearest)}
    return Section(
        "memory", "Nearest training images", "generate/memory.html", context, _files(run, "nearest")
    )


def _said_of_copies(nearest: Mapping[str, Any]) -> str:
    """Say whether generated images are nearer to training images than unseen real ones are."""
    if not nearest.get("median_test"):
        return ""
    part = nearest["median_generated"] / nearest["median_test"]
    if part >= AS_FAR:
        return "They are as far from the training images as unseen real images are: no copies."
    near = f"They are {part:.0%} as far from the training images as unseen real images are"
    return f"{near}: copies." if part < COPIED else f"{near}, but are no copies."


def _count(run: RunFiles, path: Path) -> int | None:
    """Return how many images a sheet holds, where the size of one is known."""
    sheet, height, width = _open(path), run.data.get("height"), run.data.get("width")
    if sheet is None or not height or not width:
        return None
    return ((sheet.width + GAP) // (width + GAP)) * ((sheet.height + GAP) // (height + GAP))


def _open(path: Path) -> Image.Image | None:
    try:
        with Image.open(path) as image:
            return image.convert("L" if image.mode == "L" else "RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _sheet(run: RunFiles, name: str, alt: str) -> dict[str, Any] | None:
    """Return a sheet of samples/ for the page; browsers enlarge small ones unsmoothed."""
    image = _open(run.folder / "samples" / f"{name}.png")
    if image is None:
        return None
    factor = max(1, min(4, SHARPEST // image.width))
    return {
        "uri": data_uri(png_bytes(image)),
        "width": image.width * factor,
        "alt": alt,
        "height": image.height * factor,
        "count": _count(run, run.folder / "samples" / f"{name}.png"),
    }


def _files(run: RunFiles, *names: str) -> dict[str, bytes]:
    found = {name: _open(run.folder / "samples" / f"{name}.png") for name in names}
    return {name: png_bytes(enlarged(image)) for name, image in found.items() if image is not None}


def draw_history(run: RunFiles, *, smooth: bool = True) -> Drawing | None:
    """Return losses and distances over the training as a figure."""
    return history_drawing(history_panels(run.metrics, smooth=smooth), "step")


SECTIONS = (headline, warnings, memory, classes, lapse, ways, history, learning, making)
FIGURES: Mapping[str, Callable[[RunFiles], Drawing | None]] = {}
