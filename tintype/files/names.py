"""Names of files and folders that people choose, and which of them a system can hold."""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePosixPath, PureWindowsPath

from tintype.errors import UserError
from tintype.files import system

# What Windows takes for a device in every folder, whatever comes after the first dot.
_DEVICE = re.compile(r"(con|prn|aux|nul|con(in|out)\$|(com|lpt)[0-9¹²³]) *(\..*)?", re.IGNORECASE)
_WINDOWS_PATH = re.compile(r"[a-z]:[\\/]|\\\\", re.IGNORECASE)  # with a drive, or of a network
_NOT_ON_WINDOWS = re.compile(r'[<>:"|?*\x00-\x1f]|[. ]$')


def is_device(name: str) -> bool:
    """Return whether Windows takes a name for a device, such as NUL or aux.txt."""
    return _DEVICE.fullmatch(name) is not None


def check_name(name: str, kind: str) -> None:
    """Raise unless `name` can be that of a new folder on this system.

    Args:
        name: as the user gave it.
        kind: what the folder is for: "run", "study".

    Raises:
        UserError: it cannot.
    """
    if not name or name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise UserError(
            f"'{name}' cannot be a {kind}'s name. Expected a plain name without slashes."
        )
    if system.WINDOWS and (is_device(name) or _NOT_ON_WINDOWS.search(name)):
        raise UserError(
            f"'{name}' cannot be a {kind}'s name on Windows. Expected a name that is no device "
            'such as NUL, without <>:"|?* and without a dot or space at its end.'
        )


def loosely(name: str) -> str:
    """Return what is the same for two names that some file system takes for one.

    macOS and Windows see no difference of case, and macOS none of how accents are written.
    """
    return unicodedata.normalize("NFC", name).casefold()


def looks_like_path(text: str) -> bool:
    """Return whether somebody means a path rather than a name, on whatever system."""
    return "/" in text or "\\" in text or text.startswith((".", "~"))


def last_part(text: str) -> str:
    """Return what comes after the last slash of a path, and any other text as it is.

    Recipes hold whole paths, and may come from Windows.
    """
    path = PureWindowsPath(text) if _WINDOWS_PATH.match(text) else PurePosixPath(text)
    return path.name if "/" in text or _WINDOWS_PATH.match(text) else text
