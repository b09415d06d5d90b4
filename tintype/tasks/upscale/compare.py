"""Super-resolution on the same test pictures: paired differences of PSNR and SSIM by picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tintype.tasks.contract.compare import (
    Column,
    Group,
    HistoryCurve,
    Pair,
    PairColumn,
    Progress,
    Ranked,
    conclude,
    figure_column,
    more_needed,
)
from tintype.tasks.contract.compared_run import Compared, groups_of, remark_on_groups
from tintype.tasks.contract.paired import gathered, paired_means
from tintype.tasks.upscale.ranking import PSNR
from tintype.tasks.upscale.summary import protocol_in_words

COLUMNS: Sequence[str] = ()
NUMBERS = ("psnr_y", "ssim_y", "bicubic_psnr_y", "bicubic_ssim_y")
APART = "different data or protocols"
PAIRED = (
    "Each run compared with {best} on the same photos: how many dB of PSNR it is behind on "
    "average, with Student's paired 95 % interval and p-value"
)
METHOD = (
    "Runs are ranked by PSNR. Differences are paired photo by photo; one is called significant if "
    "p < 0.05 in the paired t-test after Holm's correction for all pairs."
)
HISTORY_AXIS = "epoch"

SAME_DB = 0.01  # the floors of the same picture on two machines differ by less
DIGITS = {"psnr_y": 2, "ssim_y": 4}
UNITS = {"psnr_y": " dB", "ssim_y": " SSIM"}


def groups(runs: Sequence[Compared]) -> list[Group]:
    """Return the runs in groups that share scale, protocol and test pictures.

    They are ranked by PSNR, with all paired differences.

    Raises:
        UserError: a run has no predictions.
    """
    return [_group(members) for members in gathered(runs, same_pictures)]


def same_pictures(one: Compared, other: Compared) -> bool:
    """Return whether two runs were measured on the same pictures by the same protocol.

    Names must be equal, and so must what bicubic and nearest reach on each: that depends on pixels,
    scale and damage alone.
    """
    if one.evaluation.get("scale") != other.evaluation.get("scale"):
        return False
    if (
        one.figures["protocol"] != other.figures["protocol"]
        or one.table["name"] != other.table["name"]
    ):
        return False
    floors = ("bicubic_psnr_y", "nearest_psnr_y")
    return all(
        bool((abs(_column(one, key) - _column(other, key)) < SAME_DB).all()) for key in floors
    )


def _column(run: Compared, key: str) -> np.ndarray:
    return np.array(run.table[key], np.float64)


def _group(runs: list[Compared]) -> Group:
    runs = sorted(runs, key=lambda run: -run.figures["psnr_y"])
    figures, count = runs[0].figures, runs[0].figures["num_images"]
    pictures = f"{count:,} {'picture' if count == 1 else 'pictures'}"
    title = (
        f"{runs[0].data.get('name')}, {pictures} enlarged {runs[0].evaluation.get('scale')} times"
    )
    group = Group(title, runs, [_row(run) for run in runs])
    group.details = {"protocol": figures["protocol"], "scale": runs[0].evaluation.get("scale")}
    psnr, ssim = (
        paired_means(runs, [_column(run, key) for run in runs], key, _sentence)
        for key in ("psnr_y", "ssim_y")
    )
    for pair, of_ssim in zip(psnr, ssim, strict=True):
        pair.more["ssim_y"] = of_ssim.to_dict()
    group.pairs = psnr
    group.conclusion = conclude(
        group,
        f"the highest PSNR, {figures['psnr_y']:.2f} dB (bicubic "
        f"{figures['bicubic']['psnr_y']:.2f})",
    )
    group.remarks = [f"{protocol_in_words(figures['protocol'])}."]
    if count == 1 and len(runs) > 1:
        group.remarks.append("One picture is too few to tell a difference from chance.")

    group.remarks += remark_on_groups(groups_of(runs), "pictures")
    return group


def _row(run: Compared) -> dict[str, Any]:
    figures = run.figures
    return {
        **run.facts,
        "num_images": figures["num_images"],
        "psnr_y": figures["psnr_y"],
        "ssim_y": figures["ssim_y"],
        "psnr_rgb": figures.get("psnr_rgb"),
        "bicubic_psnr_y": figures["bicubic"]["psnr_y"],
        "gain": figures["gain"],
        "gain_ci95": figures["gain_ci95"],
        **{key: value for key, value in figures.items() if key.startswith("lpips_")},
    }


def _sentence(pair: Pair) -> str:
    digits, unit = DIGITS[pair.figure], UNITS[pair.figure]
    size = f"{abs(pair.estimate):.{digits}f}{unit}"
    if pair.ci95:
        size += f" ({pair.ci95[0]:.{digits}f} to {pair.ci95[1]:.{digits}f})"

    if pair.shown:
        one, two = (pair.better, pair.other) if pair.estimate > 0 else (pair.other, pair.better)
        return f"{one} is better than {two} by {size}"

    text = f"no difference can be shown between {pair.better} and {pair.other}"
    if not pair.ci95:
        return f"{text} on one picture: {size}"
    if not pair.estimate:
        return f"{text}: {size}"

    return f"{text}: {size}{more_needed(pair.more['more_images'], 'test pictures')}"


# ---- tables and figures --------------------------------------------------------------------------


def figures(group: Group) -> list[Ranked]:
    """Return the PSNR."""
    return [Ranked(PSNR, "PSNR", lambda value: f"{value:.2f} dB")]


def columns(group: Group) -> dict[str, Column]:
    """Return PSNR beside bicubic, the gain, SSIM, and LPIPS where it was measured."""
    perceptual = [key for key in group.rows[0] if "lpips" in key]
    return {
        "psnr_y": figure_column("psnr_y", "PSNR", "{:.2f}".format),
        "bicubic_psnr_y": figure_column("bicubic_psnr_y", "bicubic", "{:.2f}".format),
        "gain": figure_column("gain", "gain", "{:+.2f}".format),
        "ssim_y": figure_column("ssim_y", "SSIM", "{:.4f}".format),
        **{key: figure_column(key, key.replace("_", " "), "{:.4f}".format) for key in perceptual},
    }


def pair_columns(group: Group) -> list[PairColumn]:
    """Return on how many photos the better run is better, and the difference in SSIM."""
    return [
        PairColumn(
            "Better on",
            lambda pair: pair.more["num_better"],
            lambda pair: f"{pair.more['num_better']} of {pair.more['num_images']:,}",
        ),
        PairColumn("SSIM", lambda pair: pair.more["ssim_y"]["estimate"], _ssim),
    ]


def _ssim(pair: Pair) -> str:
    found = pair.more["ssim_y"]
    interval = found["ci95"]
    within = f" ({interval[0]:+.4f} to {interval[1]:+.4f})" if interval else ""
    return f"{found['estimate']:+.4f}{within}"


def curves(group: Group) -> list[HistoryCurve]:
    """Return PSNR and SSIM on validation."""
    return [
        HistoryCurve("val_psnr_y", "PSNR on validation, dB"),
        HistoryCurve("val_ssim_y", "SSIM on validation"),
    ]


def facts(run: Compared) -> dict[tuple[str, str], Any]:
    """Return nothing beyond what every run has."""
    return {}


def measure_costs(
    runs: Sequence[Compared], device: str, progress: Progress | None
) -> dict[str, Any]:
    """Measure nothing."""
    return {}
