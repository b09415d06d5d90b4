"""Images: decoded, kept, divided. `open_data` opens a set by name, a folder or a CSV file.

Names are imported at first use: `tintype.data.decode` serves exported models too, where torch may
not be installed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tintype.data.opening import locate, open_data, open_whole
    from tintype.data.source import (
        Batch,
        DataSpec,
        DataSplits,
        Images,
        ImageSource,
        StoredSource,
    )
    from tintype.data.targets import Classes, Labels, NoTarget, Numbers, TargetKind

__all__ = [
    "Batch",
    "Classes",
    "DataSpec",
    "DataSplits",
    "ImageSource",
    "Images",
    "Labels",
    "NoTarget",
    "Numbers",
    "StoredSource",
    "TargetKind",
    "locate",
    "open_data",
    "open_whole",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'tintype.data' has no attribute '{name}'")
    where = "source"
    if name in ("locate", "open_data", "open_whole"):
        where = "opening"
    elif name in ("Classes", "Labels", "NoTarget", "Numbers", "TargetKind"):
        where = "targets"
    return getattr(importlib.import_module(f"tintype.data.{where}"), name)
