"""Put photos into a folder for each class, as copies or as links; nothing is overwritten."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

from tintype.errors import UserError


class Sorter:
    """Places in class folders for photos.

    Args:
        folder: where the class folders are made.
        link: symbolic links in place of copies.
        placed: names (relative to `folder`) that an earlier part of the job has given away.
    """

    def __init__(self, folder: Path, *, link: bool, placed: set[str] | None = None) -> None:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file. Expected a folder for --sort-into.")
        self.folder, self.link, self._taken = folder, link, set(placed or ())

    def name_for(self, file: str, class_name: str) -> str:
        """Return a free place for a photo, relative to the folder; where the name is taken it gets a number."""
        source, number = Path(file), 1
        while True:
            stem = source.stem if number == 1 else f"{source.stem}-{number}"
            place = f"{folder_name(class_name)}/{stem}{source.suffix}"
            if place not in self._taken and not os.path.lexists(self.folder / place):
                self._taken.add(place)
                return place
            number += 1

    def put(self, file: str, place: str) -> None:
        """Copy or link a photo to its place, unless it is there.

        Raises:
            UserError: it cannot be written.
        """
        target = self.folder / place
        if os.path.lexists(target):
            with suppress(OSError):  # what a kill left between the copy's link and the end
                target.with_name(f".{target.name}.partial").unlink()
            return
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if self.link:
                target.symlink_to(Path(file).absolute())
                return
            partial = target.with_name(f".{target.name}.partial")
            shutil.copy2(file, partial)
            try:
                os.link(partial, target)  # unlike a rename it never overwrites
                partial.unlink()
            except OSError:  # a file system without links
                os.replace(partial, target)
        except OSError as error:
            with suppress(OSError):
                target.with_name(f".{target.name}.partial").unlink()
            raise UserError(f"cannot write {target}: {error.strerror or error}.") from None


def folder_name(class_name: str) -> str:
    """Return a class name as a folder can have it: on every system, and never one that leads elsewhere."""
    plain = re.sub(r'[/\\:*?"<>|\x00-\x1f]', "_", class_name).strip(" .")
    return plain or "_"
