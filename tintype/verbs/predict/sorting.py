"""Put photos into a folder for each class, as copies or as links; nothing is overwritten."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

from tintype.errors import UserError
from tintype.files.names import is_device, loosely
from tintype.files.system import replace

LONGEST_NAME = 255  # bytes, on nearly every file system
NO_PRIVILEGE = 1314  # of Windows, for links


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
        self.folder, self.link = folder, link
        self._taken = set(map(loosely, placed or ()))
        self._longest = longest_name(folder)

    def name_for(self, file: str, class_name: str) -> str:
        """Return a free place for a photo, relative to the folder; where the name is taken it gets
        a number.
        """
        source, number = Path(file), 1
        while True:
            more = source.suffix if number == 1 else f"-{number}{source.suffix}"
            place = f"{folder_name(class_name)}/{name_within(source.stem, self._longest, more)}"
            if loosely(place) not in self._taken and not os.path.lexists(self.folder / place):
                self._taken.add(loosely(place))
                return place
            number += 1

    def put(self, file: str, place: str) -> None:
        """Copy or link a photo to its place, unless it is there.

        Raises:
            UserError: it cannot be written.
        """
        target = self.folder / place
        # Not the target's own name with more to it, which may be too long.
        partial = target.with_name(
            f".{hashlib.blake2b(os.fsencode(target.name), digest_size=8).hexdigest()}.partial"
        )

        if os.path.lexists(target):
            # What a kill left between the copy's link and the end; earlier versions had another
            # name for it.
            for left in (partial, target.parent / f".{target.name}.partial"):
                with suppress(OSError):
                    left.unlink()
            return
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if self.link:
                self._link(target, Path(file).absolute())
                return
            shutil.copy2(file, partial)
            try:
                os.link(partial, target)  # unlike a rename it never overwrites
                partial.unlink()
            except FileExistsError:  # it has come meanwhile
                partial.unlink()
            except OSError:  # a file system without links
                replace(partial, target)
        except OSError as error:
            with suppress(OSError):
                partial.unlink()
            raise UserError(f"cannot write {target}: {error.strerror or error}.") from None

    @staticmethod
    def _link(target: Path, photo: Path) -> None:
        try:
            target.symlink_to(photo)
        except OSError as error:
            if getattr(error, "winerror", None) != NO_PRIVILEGE:
                raise
            raise UserError(
                "Windows makes links for administrators and in developer mode alone. "
                "Leave out --link for copies."
            ) from None


def folder_name(class_name: str) -> str:
    """Return a class name as a folder can have it: on every system, and never one that leads
    elsewhere.
    """
    plain = re.sub(r'[/\\:*?"<>|\x00-\x1f]', "_", class_name).strip(" .") or "_"
    plain = f"_{plain}" if is_device(plain) else plain
    if len(os.fsencode(plain)) <= LONGEST_NAME:
        return plain
    return name_within(
        plain, LONGEST_NAME, f"-{hashlib.blake2b(os.fsencode(plain), digest_size=4).hexdigest()}"
    )


def name_within(start: str, longest: int, end: str) -> str:
    """Return a name of at most `longest` bytes; what is too long is cut off from its start."""
    if len(os.fsencode(end)) >= longest:  # no ending, but a name with a dot somewhere
        start, end = start + end, ""
    while start and len(os.fsencode(start + end)) > longest:
        start = start[:-1]
    return start + end


def longest_name(folder: Path) -> int:
    """Return how many bytes a name in a folder, which need not exist yet, may have."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    try:
        return min(os.pathconf(there, "PC_NAME_MAX"), LONGEST_NAME)
    except (AttributeError, OSError, ValueError):  # Windows, and file systems that do not say it
        return LONGEST_NAME
