"""A first look at a data set, before its pixels are read: how many images, and of what size."""

from __future__ import annotations

from tintype import own_code, plugins
from tintype.data.opening import locate
from tintype.data.source import Glance
from tintype.data.targets import CLASSES, TargetKind


def glance(
    data: str, *, data_root: str | None = None, target: TargetKind = CLASSES
) -> Glance | None:
    """Return what a look at the files says, or None where a set says nothing before it is read.

    The arguments are those of `open_data`.

    Raises:
        UserError: the data cannot be found, or hold no image.
    """
    if not own_code.is_in_python(data) and plugins.reference("data", data) is not None:
        return None
    module, _ = locate(data, target)
    look = getattr(module, "glance", None)
    return None if look is None else look(data, data_root=data_root, target=target)
