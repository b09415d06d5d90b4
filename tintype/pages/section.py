"""What a report is made of: sections, and charts that are interactive with a static twin."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup

from tintype.pages.pictures import data_uri

SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test", "folds": "out-of-fold"}


def in_script(content: Any) -> str:
    """Return JSON that can stand in a <script> element, whatever the names of classes are."""
    return _harmless(json.dumps(content))


def _harmless(text: str) -> str:
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@dataclass(frozen=True)
class Chart:
    """An interactive figure with its static twin, which is what print and a browser without
    JavaScript show.
    """

    name: str
    figure: go.Figure
    png: bytes
    alt: str

    @property
    def script(self) -> str:
        """The figure as JSON that can stand in a <script> element, whatever the names of classes
        are.
        """
        return _harmless(self.figure.to_json(engine="json") or "")

    @property
    def uri(self) -> str:
        return data_uri(self.png)


@dataclass(frozen=True)
class Section:
    """A part of the page: `template` is rendered with `context`.

    `static` are PNG files for papers, by name. `body` is what was rendered already; otherwise it is
    when the page is.
    """

    id: str
    title: str
    template: str
    context: Mapping[str, Any]
    static: Mapping[str, bytes] = field(default_factory=dict)
    body: Markup | None = None
