"""A module that is imported when a name of it is asked for.

Annotations of public functions name types of heavy or optional packages; with these in place of the
imports, `typing.get_type_hints` finds them, and nobody else pays for them.
"""

from __future__ import annotations

import importlib
from typing import Any


class Lazy:
    """Stands for a module until a name of it is needed."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self._name), name)
