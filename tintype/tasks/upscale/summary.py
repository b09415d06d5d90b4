"""The result of super-resolution in the terminal."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rich.table import Table


def result_table(splits: Mapping[str, Mapping[str, Any]], *, called: str = "") -> Table:
    """Return PSNR and SSIM of each split beside bicubic and nearest, and how they are measured."""
    table = Table(box=None, pad_edge=False, header_style="bold", caption_justify="left")
    table.caption = protocol_in_words(next(iter(splits.values()))["protocol"])

    looks = [key for key in next(iter(splits.values())) if key.startswith("lpips_")]
    more = [head for key in looks for head in (key, "bicubic")]
    for head in (
        "",
        "images",
        "PSNR",
        "bicubic",
        "nearest",
        "gain on bicubic (95 %)",
        "SSIM",
        "bicubic",
        *more,
    ):
        table.add_column(head, justify="left" if not head else "right", no_wrap=not looks)

    for split, figures in splits.items():
        bicubic, interval = figures["bicubic"], figures["gain_ci95"]
        within = f" ({interval[0]:+.2f} to {interval[1]:+.2f})" if interval else ""
        table.add_row(
            f"[bold]{split}[/bold]",
            f"{figures['num_images']:,}",
            f"[bold]{figures['psnr_y']:.2f}[/bold]",
            f"{bicubic['psnr_y']:.2f}",
            f"{figures['nearest']['psnr_y']:.2f}",
            f"{figures['gain']:+.2f}{within}",
            f"{figures['ssim_y']:.4f}",
            f"{bicubic['ssim_y']:.4f}",
            *(f"{which[key]:.4f}" for key in looks for which in (figures, bicubic)),
        )

    return table


def protocol_in_words(protocol: str) -> str:
    """Return what PSNR and SSIM are of by the protocol of that name, in words."""
    known = re.fullmatch(r"Y, border (\d+), 8 bit, mean of images(.*)", protocol)
    if known is None:
        return f"PSNR and SSIM by the protocol: {protocol}"
    border, more = known.groups()
    return (
        f"PSNR and SSIM of the brightness channel, without a {border}-pixel border, "
        f"averaged over images{more}"
    )


def details(figures: Mapping[str, Any]) -> list[Table]:
    """Return no further tables."""
    return []


def lines(evaluation: Mapping[str, Any]) -> list[str]:
    """Return nothing beyond the verdict."""
    return []


def in_words(figures: Mapping[str, Any]) -> tuple[str, str]:
    """Return the PSNR of a split, and the gain over bicubic."""
    if "psnr_y" not in figures:
        return "", ""
    gain = f"gain {figures['gain']:+.2f} dB"
    interval = figures.get("gain_ci95")
    if interval:
        gain += f" ({interval[0]:+.2f} to {interval[1]:+.2f})"
    return f"PSNR {figures['psnr_y']:.2f} dB", gain
