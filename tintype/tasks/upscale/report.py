"""The sections of a report on enlarged pictures: PSNR beside bicubic, pictures to wipe over, zoomed
crops, errors, history.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import uniform_filter

from tintype.pages import figures, sections, words
from tintype.pages.drawings import Drawing
from tintype.pages.figures import Panel, Series
from tintype.pages.pictures import data_uri, png_bytes
from tintype.pages.section import SPLIT_NAMES, Section
from tintype.pages.sections import history_chart, history_drawing, warnings
from tintype.pages.verdict import looks, verdict
from tintype.runs.reading import RunFiles
from tintype.tasks.upscale.equations import learning
from tintype.tasks.upscale.summary import protocol_in_words

KINDS = {"low": "small", "bicubic": "bicubic", "ours": "this model", "original": "original"}
CROP = 48  # pixels of the side of a zoomed crop
AMPLIFIED = 4  # how many times brighter the error maps are than the error
MOST_ROWS = 500
FEWEST_FOR_INTERVAL = 3  # photos
TITLES = {
    "sharpens": "Sharper than bicubic.",
    "may sharpen": "Probably sharper than bicubic.",
    "does not sharpen": "Not sharper than bicubic.",
    "is not shown to sharpen": "Not shown to be sharper than bicubic.",
}


def headline(run: RunFiles) -> Section:
    """Open with the gain over bicubic on the test photos, with its paired interval where there are
    photos enough.
    """
    splits = run.splits
    main = splits.get(run.split) or {}
    found = verdict(run)
    context = {
        "finished": bool(splits),
        "reached": run.reached,
        "main": main,
        "interval": _gain_interval(main),
        "of": SPLIT_NAMES[run.split],
        "scale": run.evaluation.get("scale"),
        "verdict": {**found, "title": TITLES.get(found["word"], "")},
        "looks": looks(run),
        "table": _table(splits),
        "protocol": protocol_in_words(str(main.get("protocol") or "")),
        "tiles": (run.data.get("num_images") or {}).get("train"),
        "train_photos": (splits.get("train") or {}).get("num_images"),
    }

    return Section("result", "Result", "upscale/headline.html", context)


def _gain_interval(figures: Mapping[str, Any]) -> Sequence[float] | None:
    """Return the interval of the gain; earlier versions wrote one of two photos too, which says
    nothing.
    """
    enough = (figures.get("num_images") or 0) >= FEWEST_FOR_INTERVAL
    return figures.get("gain_ci95") if enough else None


def _table(splits: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the figures of all splits, the gain first, since PSNR itself depends on the photos."""
    if not splits:
        return None

    each = list(splits.values())
    rows = [
        ("Photos", [words.number(split.get("num_images")) for split in each]),
        ("Gain over bicubic, dB", [f"{split['gain']:+.2f}" for split in each]),
    ]
    if any(_gain_interval(split) for split in each):
        rows.append(("95 % interval", [_interval_text(_gain_interval(split)) for split in each]))

    for title, unit, key, digits in (("PSNR", ", dB", "psnr_y", 2), ("SSIM", "", "ssim_y", 4)):
        rows.append((f"{title}{unit}", [words.fixed(split[key], digits) for split in each]))
        for name in ("bicubic", "nearest"):
            rows.append(
                (
                    f"{title} of {name}{unit}",
                    [words.fixed(split[name][key], digits) for split in each],
                )
            )
    rows.append(("PSNR of RGB, dB", [words.fixed(split.get("psnr_rgb"), 2) for split in each]))
    return {"columns": [SPLIT_NAMES[name] for name in splits], "rows": rows}


def _interval_text(bounds: Sequence[float] | None) -> str:
    return f"{bounds[0]:+.2f} to {bounds[1]:+.2f}" if bounds else "–"


def history(run: RunFiles) -> Section | None:
    """Show the loss, PSNR and SSIM on validation, and the learning rate."""
    chart = history_chart(history_panels(run.metrics), "epoch")
    if chart is None:
        return None

    floor = ((run.evaluation.get("splits") or {}).get("val") or {}).get("bicubic") or {}
    context = {"chart": chart, "bicubic": floor.get("psnr_y")}

    return Section(
        "history", "Training curves", "upscale/history.html", context, {chart.name: chart.png}
    )


def history_panels(metrics: Mapping[str, Sequence[float]], *, smooth: bool = True) -> list[Panel]:
    """Arrange the columns of metrics.csv as loss, PSNR, SSIM and learning rate.

    What was never logged is left out. Without `smooth`, every value of the training loss is drawn
    as it was logged.
    """
    known = {key: metrics[key] for key in ("epoch", "step", "loss", "lr") if key in metrics}
    panels = figures.history_panels(known, smooth=smooth)
    for column, title in (
        ("val_psnr_y", "PSNR on validation, dB"),
        ("val_ssim_y", "SSIM on validation"),
    ):
        x, y = metrics.get("epoch", []), metrics.get(column, [])
        points = [(a, b) for a, b in zip(x, y, strict=False) if not math.isnan(a + b)]
        if points:
            xs, ys = zip(*points, strict=True)
            panels.insert(-1, Panel(title, [Series("validation", xs, ys, "val", "points")], 0.6))

    return panels


@dataclass(frozen=True)
class ShownPhoto:
    """One test picture in all its forms, (H, W, 3) uint8; `low` with its pixels repeated."""

    name: str
    figures: Mapping[str, float]
    forms: dict[str, np.ndarray]

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.forms["original"].shape[:2]
        return width, height

    def uri(self, kind: str) -> str:
        """Return the whole picture; JPEG of high quality takes a third of PNG's space."""
        buffer = io.BytesIO()
        Image.fromarray(self.forms[kind]).save(buffer, "JPEG", quality=95, subsampling=0)
        return data_uri(buffer.getvalue(), "image/jpeg")

    def crop(self, kind: str) -> np.ndarray:
        """Return the part in which bicubic is furthest from the original, which is where there is
        something to gain.
        """
        error = np.abs(self.forms["bicubic"].astype(float) - self.forms["original"]).mean(2)
        height, width = error.shape
        mean = uniform_filter(error, CROP)
        half = CROP // 2
        inside = mean[half : max(half + 1, height - half), half : max(half + 1, width - half)]
        top, left = np.unravel_index(int(inside.argmax()), inside.shape)
        return self.forms[kind][top : top + CROP, left : left + CROP]

    def crops(self) -> list[tuple[str, str, str]]:
        """Return title, caption and data URI of each crop."""
        psnr = {"bicubic": self.figures.get("bicubic_psnr_y"), "ours": self.figures.get("psnr_y")}
        captions = {kind: f"{value:.2f} dB" for kind, value in psnr.items() if value is not None}
        return [
            (title, captions.get(kind, ""), data_uri(png_bytes(Image.fromarray(self.crop(kind)))))
            for kind, title in KINDS.items()
        ]

    def errors(self) -> list[tuple[str, str]]:
        """Return title and data URI of the error maps of bicubic and ours, equally amplified."""
        found = []
        for kind in ("bicubic", "ours"):
            error = (
                np.abs(self.forms[kind].astype(float) - self.forms["original"]).mean(2) * AMPLIFIED
            )
            image = Image.fromarray(error.clip(0, 255).astype(np.uint8))
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=85)
            found.append((KINDS[kind], data_uri(buffer.getvalue(), "image/jpeg")))
        return found


def pictures(run: RunFiles) -> Section | None:
    """Show test pictures: bicubic and ours under a wipe, zoomed crops, and where the errors are."""
    shown = read_shown(run)
    if not shown:
        return None
    context = {"shown": shown, "amplified": AMPLIFIED, "side": CROP}
    return Section(
        "pictures",
        "Test photos",
        "upscale/pictures.html",
        context,
        {"comparison": png_bytes(contact_sheet(shown))},
    )


def read_shown(run: RunFiles) -> list[ShownPhoto]:
    """Read the pictures that samples.json names; one with a form missing or broken is left out."""
    by_position: dict[Any, list[Mapping[str, Any]]] = {}
    for item in run.samples.get("pictures") or []:
        by_position.setdefault(item.get("position"), []).append(item)

    shown = []
    for items in by_position.values():
        forms: dict[str, np.ndarray] = {}
        for item in items:
            # Only files in samples/ itself are read, whatever path an entry holds.
            path = (
                run.folder / "samples" / str(item.get("file", "")).replace("\\", "/").split("/")[-1]
            )
            try:
                with Image.open(path) as image:
                    forms[str(item.get("kind"))] = np.asarray(image.convert("RGB"))
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
                continue
        if set(forms) != set(KINDS):
            continue
        scale = forms["original"].shape[0] // max(1, forms["low"].shape[0])
        forms["low"] = forms["low"].repeat(scale, axis=0).repeat(scale, axis=1)
        if len({form.shape for form in forms.values()}) == 1:
            shown.append(ShownPhoto(str(items[0].get("name", "")), items[0], forms))

    return shown


def contact_sheet(shown: list[ShownPhoto], zoom: int = 4, gap: int = 6) -> Image.Image:
    """Lay out the crops of each picture in a row: small, bicubic, ours, original."""
    rows = [[Image.fromarray(each.crop(kind)) for kind in KINDS] for each in shown]
    side = CROP * zoom
    sheet = Image.new(
        "RGB", (len(KINDS) * (side + gap) - gap, len(rows) * (side + gap) - gap), "white"
    )
    for y, row in enumerate(rows):
        for x, crop in enumerate(row):
            large = crop.resize((crop.width * zoom, crop.height * zoom), Image.Resampling.NEAREST)
            sheet.paste(large, (x * (side + gap), y * (side + gap)))
    return sheet


def by_picture(run: RunFiles) -> Section | None:
    """List PSNR and SSIM of each test photo beside bicubic."""
    try:
        with (run.folder / "predictions.csv").open(encoding="utf-8", newline="") as lines:
            rows = [row for row in csv.DictReader(lines) if row.get("split") == "test"]
        table = [_row(row) for row in rows[:MOST_ROWS]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not table:
        return None
    largest = max(max(row["gain"] for row in table), 1e-9)
    context = {"rows": table, "left_out": len(rows) - len(table), "largest": largest}
    return Section("by-picture", "Results by photo", "upscale/table.html", context)


def _row(row: Mapping[str, str]) -> dict[str, Any]:
    keys = ("psnr_y", "bicubic_psnr_y", "nearest_psnr_y", "ssim_y", "bicubic_ssim_y", "psnr_rgb")
    values = {key: float(row[key]) for key in keys}
    return {"name": row["name"], **values, "gain": values["psnr_y"] - values["bicubic_psnr_y"]}


def making(run: RunFiles) -> Section:
    """Show how the run was made; its training images are tiles of photos."""
    return sections.making(run, units={"train": "tiles"})


def draw_history(run: RunFiles, *, smooth: bool = True) -> Drawing | None:
    """Return loss, PSNR, SSIM and learning rate over the training as a figure."""
    return history_drawing(history_panels(run.metrics, smooth=smooth), "epoch")


SECTIONS = (headline, warnings, pictures, by_picture, history, learning, making)
FIGURES: Mapping[str, Callable[[RunFiles], Drawing | None]] = {}
