"""Generators are ranked by the Fréchet distance to real images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tintype.runs.ranking import Criterion

FURTHER: Sequence[Criterion] = ()
COUNTED = False


def ranked_by(figures: Mapping[str, Any]) -> Criterion:
    """Return the first Fréchet distance that was measured."""
    names = (name for name in figures if name.startswith("fd_") and not name.endswith("_floor"))
    name = next(names, "fd")
    return Criterion(name, "Fréchet distance", higher_is_better=False)


def image_figure(row: Mapping[str, str]) -> float | None:
    """Return None: a distance is one of whole sets of images."""
    return None
