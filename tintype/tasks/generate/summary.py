"""The result of a generator in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from tintype.runs.summary import plain_table


def result_table(splits: Mapping[str, Mapping[str, Any]], *, called: str = "") -> Table:
    """Return a row for each figure."""
    return plain_table(splits)


def details(figures: Mapping[str, Any]) -> list[Table]:
    """Return no further tables."""
    return []


def lines(evaluation: Mapping[str, Any]) -> list[str]:
    """Return why the FID was not measured, where it was asked for."""
    fid = (evaluation.get("protocol") or {}).get("fid", "")
    return [f"FID is {fid}."] if fid.startswith("left out") else []


def in_words(figures: Mapping[str, Any]) -> tuple[str, str]:
    """Return the distance of a split, and that between two sets of real images."""
    names = (key for key in figures if key.startswith(("fid", "fd_")) and "_floor" not in key)
    name = next(names, "")
    if not name:
        return "", ""
    floor = figures.get(f"{name}_floor")
    real = f"real against real {floor:.4g}" if floor is not None else ""
    return f"{name} {figures[name]:.4g}", real
