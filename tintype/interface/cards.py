"""Answers in a notebook: a picture with what the model says, without a script or style sheet.

Colours are set only where they show on white and on black; texts keep those of the notebook.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from PIL import Image

from tintype.interface.tables import Table

if TYPE_CHECKING:
    from pandas import DataFrame

MOST_CARDS = 24  # of a list; how many more there are is said
SIDE = 96  # pixels of a picture on the screen
BAR = "#c76b2c"
CUT = "overflow: hidden; text-overflow: ellipsis; white-space: nowrap"


class Answer(Protocol):
    """What a model says of one image."""

    def to_row(self) -> dict[str, Any]:
        """Return it as a row of a table."""
        ...

    def _repr_html_(self) -> str: ...


A = TypeVar("A", bound=Answer)


class Predictions(list[A]):
    """Answers to many images: a list, which a notebook shows as pictures."""

    def frame(self) -> DataFrame:
        """Return a pandas frame with a row for each image.

        Raises:
            UserError: pandas is not installed.
        """
        return Table(answer.to_row() for answer in self).frame()

    def _repr_html_(self) -> str:
        cards = "".join(answer._repr_html_() for answer in self[:MOST_CARDS])
        hidden = len(self) - MOST_CARDS
        more = f"<p>and {hidden:,} more</p>" if hidden > 0 else ""
        return f"<div style='display: flex; flex-wrap: wrap; gap: .8em'>{cards}</div>{more}"


def card(
    name: str,
    thumbnail: np.ndarray | None,
    *,
    bars: Iterable[tuple[str, float]] = (),
    lines: Sequence[str] = (),
) -> str:
    """Return a picture with its name, a bar for each (label, share of one), and lines of text."""
    drawn = "".join(_bar(label, share) for label, share in bars)
    columns = "display: grid; grid-template-columns: fit-content(9em) 1fr auto; gap: 0 .6em"
    rows = f"<div style='{columns}; align-items: center'>{drawn}</div>" if drawn else ""
    rows += "".join(f"<div>{html.escape(line)}</div>" for line in lines if line)

    picture = "" if thumbnail is None else _picture(thumbnail, name)
    title = (
        f"<div title='{html.escape(name)}' style='{CUT}; opacity: .75'>{html.escape(name)}</div>"
    )
    return (
        "<div style='display: flex; gap: .6em; width: 24em; font-size: 12px; line-height: 1.5'>"
        f"{picture}<div style='flex: 1; min-width: 0'>{title}{rows}</div></div>"
    )


def _bar(label: str, share: float) -> str:
    text = html.escape(label)
    return (
        f"<span title='{text}' style='{CUT}'>{text}</span>"
        "<span style='background: rgba(128, 128, 128, .25)'>"
        f"<span style='display: block; height: .7em; width: {share:.1%}; background: {BAR}'>"
        f"</span></span><span style='text-align: right'>{share:.1%}</span>"
    )


def _picture(pixels: np.ndarray, name: str) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, format="PNG")
    source = base64.b64encode(file.getvalue()).decode()
    height, width = pixels.shape[:2]
    scale = SIDE / max(height, width)
    return (
        f"<img src='data:image/png;base64,{source}' alt='{html.escape(name)}' "
        f"width='{round(width * scale)}' height='{round(height * scale)}' "
        "style='image-rendering: pixelated; flex: none'>"
    )
