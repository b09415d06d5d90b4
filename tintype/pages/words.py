"""Numbers as a reader wants them: percentages, intervals, large counts, durations, dates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

THIN = "\u202f"  # a narrow space that does not break the line, between a number and its unit


def percent(value: Any, digits: int = 1) -> str:
    """Return 0.9123 as "91.2 %", and a dash for what is not a number."""
    return f"{100 * value:.{digits}f}{THIN}%" if _is_number(value) else "–"


def interval(bounds: Any, digits: int = 1) -> str:
    """Return [0.904, 0.919] as "90.4 to 91.9 %"."""
    if not isinstance(bounds, Sequence) or len(bounds) != 2 or not all(map(_is_number, bounds)):
        return "–"
    return f"{100 * bounds[0]:.{digits}f} to {100 * bounds[1]:.{digits}f}{THIN}%"


def short_interval(bounds: Any, digits: int = 1) -> str:
    """Return [0.904, 0.919] as "90.4–91.9", for tables."""
    return interval(bounds, digits).replace(" to ", "–").removesuffix(f"{THIN}%")


def points(value: Any) -> str:
    """Return a difference of shares, 0.031, as "+3.1"."""
    return f"{100 * value:+.1f}".replace("-", "−") if _is_number(value) else "–"


def number(value: Any) -> str:
    """Return 1234567 as "1,234,567", 0.034567 as "0.0346"."""
    if not _is_number(value):
        return "–" if value is None or isinstance(value, float) else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def fixed(value: Any, digits: int = 4) -> str:
    """Return 0.066 as "0.0660", so that the figures of a row have equally many decimals."""
    return f"{value:.{digits}f}".replace("-", "−") if _is_number(value) else "–"


def magnitude(value: Any) -> str:
    """Return 56789012 as "56.8 million"."""
    if not _is_number(value):
        return "–"
    for size, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if value >= size:
            return f"{value / size:.3g}{THIN}{name}"
    return f"{value:,}"


def duration(seconds: Any) -> str:
    """Return 4352.1 as "1 h 12 min"."""
    if not _is_number(seconds):
        return "–"
    if round(seconds, 1) < 60:
        return f"{seconds:.1f}{THIN}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}{THIN}h {minutes}{THIN}min" if hours else f"{minutes}{THIN}min {rest}{THIN}s"


def date(text: Any) -> str:
    """Return an ISO time as "20 November 2025, 12:00 UTC"; text that is none stays as it is."""
    try:
        time = datetime.strptime(str(text), "%Y-%m-%dT%H:%M:%S%z")
    except ValueError:
        return str(text)
    return f"{time.day} {time:%B %Y, %H:%M}" + (f" {time.tzname()}" if time.tzinfo else "")


def times(count: int) -> str:
    """Return 1 as "once", 3 as "3 times"."""
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def plural(count: int, noun: str) -> str:
    """Return (1, "image") as "1 image", (1234, "image") as "1,234 images"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def networks(parameters: Mapping[str, Any]) -> str:
    """Return {"generator": 370624, "discriminator": 167808} as "370,624 (generator) + 167,808
    (discriminator) = 538,432".
    """
    counts = {str(name): count for name, count in parameters.items() if isinstance(count, int)}
    each = " + ".join(f"{count:,} ({name})" for name, count in counts.items())
    return f"{each} = {sum(counts.values()):,}" if len(counts) > 1 else each


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
