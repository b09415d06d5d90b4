"""Images: decoded, kept, divided. `open_data` opens a data set by name, a folder of photos or a CSV file.

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
        MappedSource,
        ResidentSource,
    )

__all__ = [
    "Batch",
    "DataSpec",
    "DataSplits",
    "ImageSource",
    "Images",
    "MappedSource",
    "ResidentSource",
    "locate",
    "open_data",
    "open_whole",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'tintype.data' has no attribute '{name}'")
    where = "opening" if name in ("locate", "open_data", "open_whole") else "source"
    return getattr(importlib.import_module(f"tintype.data.{where}"), name)
