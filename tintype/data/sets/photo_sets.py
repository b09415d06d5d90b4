"""Sets of photos that are read from a folder (`--data-root`) and not downloaded by tintype."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tintype.data.decode import Resize
from tintype.data.sets import folder
from tintype.data.source import Glance, Images
from tintype.data.targets import CLASSES, TargetKind
from tintype.errors import UserError
from tintype.progress import Progress

NAMES = {
    "trashnet": "2,527 photos of rubbish, 512x384 colour, 6 classes; read from --data-root",
    "own-photos": "photos of your own; read from --data-root, which holds a folder for each class",
}
TARGETS = ("class", "numbers", "labels", "none")
# Where a set may lie below the root that is given, and where to get it.
PLACES = {"trashnet": ("trashnet", "dataset-resized", "trashnet/dataset-resized", ".")}
ORIGIN = {
    "trashnet": "Get dataset-resized.zip from https://github.com/garythung/trashnet (data/), "
    "unpack it, and type --data-root FOLDER",
    "own-photos": "This recipe is for photos of your own. Type --data-root FOLDER, "
    "where each class has a folder",
}


def load(
    name: str,
    *,
    data_root: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    resize: str | Resize = "crop",
    progress: Progress | None = None,
    target: TargetKind = CLASSES,
) -> Images:
    """Return the photos of a set, or of one's own.

    Raises:
        UserError: no root is given, or the photos are not in it.
    """
    found = _place(name, data_root)
    how: dict[str, Any] = {
        "image_size": image_size,
        "channels": channels,
        "resize": resize,
        "target": target,
    }
    try:
        images = folder.load(str(found), progress=progress, **how)
    except UserError as error:
        raise _explained(error, name) from None

    found_classes = images.target.num_outputs
    if name == "trashnet" and target.offer == "class" and found_classes != 6:
        raise UserError(
            f"{found} has {found_classes} classes, where trashnet has 6. {ORIGIN[name]}; "
            f"other photos are trained by: tintype train {found}"
        )
    return images


def glance(
    name: str, *, data_root: str | None = None, target: TargetKind = CLASSES
) -> Glance | None:
    """Return the number of photos of a set and their usual size.

    Raises:
        UserError: as `load` does.
    """
    found = _place(name, data_root)
    try:
        return folder.glance(str(found), target=target)
    except UserError as error:
        raise _explained(error, name) from None


def _explained(error: UserError, name: str) -> UserError:
    """Return an error that says where a set is to be had."""
    return error if name == "own-photos" else UserError(f"{error}\n{ORIGIN[name]}.")


def _place(name: str, data_root: str | None) -> Path:
    """Return the folder of a set.

    Raises:
        UserError: no root is given, or the photos are not in it.
    """
    if data_root is None:
        raise UserError(f"{name} is not downloaded by tintype. {ORIGIN[name]}.")
    root = Path(data_root).expanduser()
    found = next(
        (root / place for place in PLACES.get(name, (".",)) if (root / place).is_dir()), None
    )
    if found is None:
        raise UserError(f"there is no folder {root}. {ORIGIN[name]}.")
    return found
