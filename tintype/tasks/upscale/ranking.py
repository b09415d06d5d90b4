"""Networks for super-resolution are ranked by PSNR on luma."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tintype.runs.ranking import Criterion

PSNR = Criterion("psnr_y", "PSNR on luma", "dB", digits=2)

FURTHER: Sequence[Criterion] = ()
COUNTED = False


def ranked_by(figures: Mapping[str, Any]) -> Criterion:
    """Return the PSNR."""
    return PSNR


def image_figure(row: Mapping[str, str]) -> float | None:
    """Return the PSNR of one photo."""
    return float(row["psnr_y"])
