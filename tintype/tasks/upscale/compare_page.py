"""What the page of a comparison shows of super-resolution.

Crops of the same photos side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from tintype.errors import UserError
from tintype.pages.drawings import Drawing
from tintype.pages.pictures import data_uri, png_bytes
from tintype.pages.section import Section
from tintype.runs.reading import read_run
from tintype.tasks.contract.compare import Group, Progress
from tintype.tasks.contract.compared_run import Compared
from tintype.tasks.upscale.report import CROP, ShownPhoto, read_shown

MOST_RUNS = 6
MOST_PHOTOS = 4


def sections(group: Group, progress: Progress | None) -> list[Section]:
    """Return crops of the photos that the first run kept."""
    found = crops(group, progress)
    if not found["pictures"]:
        return []
    return [Section("crops", "Photos side by side", "upscale/compare_crops.html", found)]


def drawings(group: Group) -> list[Drawing]:
    """Return nothing: super-resolution has no figures of its own."""
    return []


def crops(group: Group, progress: Progress | None = None) -> dict[str, Any]:
    """Return zoomed crops of test pictures: small, bicubic, each run's, original.

    They are taken where bicubic is furthest from the original. The pictures are those that the
    first run kept. What another run did not keep it computes again from the small one.
    """
    runs = group.runs[:MOST_RUNS]
    kept = {
        run.name: {shown.name: shown for shown in read_shown(read_run(run.folder.path))}
        for run in runs
    }
    shown = list(kept[runs[0].name].values())
    shown = (
        [
            shown[i]
            for i in np.unique(np.linspace(0, len(shown) - 1, MOST_PHOTOS).round().astype(int))
        ]
        if shown
        else []
    )
    problems: list[str] = []

    forms: dict[tuple[str, str], np.ndarray] = {}
    for number, run in enumerate(runs, 1):
        try:
            forms |= {
                (each.name, run.name): pixels
                for each, pixels in zip(shown, _enlarged(run, shown, kept), strict=True)
            }
        except UserError as error:
            problems.append(str(error))
        if progress:
            progress("enlarging", number, len(runs))

    pictures = [{"name": each.name, "crops": _crops(each, runs, forms)} for each in shown]
    return {
        "pictures": pictures,
        "problems": problems,
        "side": CROP,
        "left_out": len(group.runs) - len(runs),
    }


def _enlarged(
    run: Compared, shown: Sequence[ShownPhoto], kept: dict[str, dict[str, ShownPhoto]]
) -> list[np.ndarray]:
    from tintype.tasks.upscale.upscaler import Upscaler

    upscaler, found = None, []
    for each in shown:
        own = kept[run.name].get(each.name)
        if own is not None and own.size == each.size:
            found.append(own.forms["ours"])
            continue
        upscaler = upscaler or Upscaler.of(run.folder)
        step = upscaler.scale  # the small picture lies in `forms` with its pixels repeated
        found.append(upscaler.enlarge(np.ascontiguousarray(each.forms["low"][::step, ::step])))
    return found


def _crops(
    shown: ShownPhoto, runs: Sequence[Compared], forms: dict[tuple[str, str], np.ndarray]
) -> list[tuple[str, str, str]]:
    """Return title, caption and data URI of each crop of a picture."""
    bicubic = runs[0].table["bicubic_psnr_y"][runs[0].table["name"].index(shown.name)]
    found = [
        ("small", "", shown.crop("low")),
        ("bicubic", _decibel(bicubic), shown.crop("bicubic")),
    ]

    for run in runs:
        if (shown.name, run.name) in forms:
            psnr = run.table["psnr_y"][run.table["name"].index(shown.name)]
            whole = ShownPhoto(
                shown.name, shown.figures, {**shown.forms, "ours": forms[shown.name, run.name]}
            )
            found.append((run.name, _decibel(psnr), whole.crop("ours")))

    found.append(("original", "", shown.crop("original")))
    return [
        (title, caption, data_uri(png_bytes(Image.fromarray(pixels))))
        for title, caption, pixels in found
    ]


def _decibel(text: str) -> str:
    return f"{float(text):.2f} dB"
