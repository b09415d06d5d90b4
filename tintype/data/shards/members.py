"""One image of a shard, and what is said of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

MOST_CELL = 300  # letters of a value; longer ones are captions and such


class Member(NamedTuple):
    """An image in a shard: its name there, where its bytes lie, and texts by column."""

    name: str
    offset: int
    size: int
    cells: dict[str, str]


def as_cells(said: Mapping[str, Any]) -> dict[str, str]:
    """Return the values that are short as texts, as a table has them; of lists, all joined."""
    found = {str(column): _as_cell(value) for column, value in said.items()}
    return {column: text for column, text in found.items() if text is not None}


def _as_cell(value: Any) -> str | None:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, list | tuple):
        parts = [_as_cell(each) for each in value]
        value = ";".join(part for part in parts if part is not None)
    if not isinstance(value, str | int | float):
        return None
    text = f"{value!r}" if isinstance(value, float) else str(value)
    return text if len(text) <= MOST_CELL else None
