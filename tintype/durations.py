"""Durations as people type them: 90s, 5m, 1h."""

from __future__ import annotations

import re

from tintype.errors import UserError


def parse_duration(text: str) -> float:
    """Return the seconds in "90", "90s", "5m" or "1.5h".

    Raises:
        UserError: it is none of these, or not above zero.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|m|min|h)?\s*", text.lower())
    seconds = (
        float(found[1]) * {"s": 1, "m": 60, "min": 60, "h": 3600, None: 1}[found[2]]
        if found
        else 0.0
    )
    if seconds <= 0:
        raise UserError(f"time is '{text}'. Expected a duration such as 90s, 5m or 1h.")
    return seconds
