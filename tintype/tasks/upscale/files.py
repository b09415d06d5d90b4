"""Enlarge files and folders of photos one by one; skip and name what cannot be enlarged."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tintype.data.decode import Unreadable, image_files, read_header
from tintype.errors import UserError
from tintype.files.bounded import read_bytes
from tintype.files.names import loosely
from tintype.runs.folder import RunFolder
from tintype.tasks.upscale.pictures import KEPT, DecodedPhoto, encoded, read_picture, write_encoded
from tintype.tasks.upscale.task import TILE
from tintype.tasks.upscale.upscaler import Upscaler

COMPARED = "-compare"
LINE = 4  # pixels of white between the pictures of --compare
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Enlarged:
    """The files that were written, and those that were skipped, each with its reason."""

    written: list[Path]
    skipped: list[tuple[str, str]]


def upscale_files(
    run: RunFolder | Path,
    paths: Sequence[str | Path],
    *,
    out: Path | None = None,
    tile: int = TILE,
    compare: bool = False,
    force: bool = False,
    device: str = "auto",
    progress: Progress | None = None,
) -> Enlarged:
    """Enlarge files and folders; a file that cannot be enlarged is skipped and named.

    `photo.jpg` becomes `photo-x2.jpg`, in `out` or beside the photo; folders keep their shape below
    `out`. Where two photos would get one name (`a.png` and `a.bmp`), the first has it and the
    second is skipped, with `force` too.

    Raises:
        UserError: no run that enlarges, no such path, or no image in it.
    """
    upscaler = Upscaler.of(run, tile=tile, device=device)
    files, skipped = list_files(paths, scale=upscaler.scale)
    written: list[Path] = []

    taken = _Taken([path for path, _ in files])
    for path, below in files:
        folder = (out / below) if out else path.parent
        try:
            results = _one_file(upscaler, path, folder, compare, force, taken, progress)
        except UserError as error:
            skipped.append((str(path), str(error)))
            continue
        taken.add(results, path)
        written += results

    return Enlarged(written, skipped)


def list_files(
    paths: Sequence[str | Path], scale: int
) -> tuple[list[tuple[Path, Path]], list[tuple[str, str]]]:
    """Return each image file with its output subfolder, and what is skipped with the reason.

    Left out is what an earlier call made of a photo in the same folder. A file given by its name is
    never left out.

    Raises:
        UserError: a path does not exist, or there is no image.
    """
    found: list[tuple[Path, Path]] = []
    left_out: list[tuple[str, str]] = []
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"there is no file or folder {path}.")
        if not path.is_dir():
            found.append((path, Path()))
            continue
        files = image_files(path)
        beside: dict[tuple[Path, str], list[Path]] = {}
        for file in files:
            beside.setdefault((file.parent, file.stem), []).append(file)
        for file in files:
            original = _original(file, beside, scale)
            if original is None:
                found.append((file, file.relative_to(path).parent))
            else:
                reason = (
                    f"it was made from {original.name} next to it. "
                    "Give it by its name to enlarge it as well."
                )
                left_out.append((str(file), reason))

    if not found and not left_out:
        raise UserError(
            f"there is no image in {', '.join(map(str, paths))}. "
            "Expected files such as .jpg or .png."
        )
    return found, left_out


def _original(file: Path, beside: dict[tuple[Path, str], list[Path]], scale: int) -> Path | None:
    """Return the photo that an earlier call made a file from, or None.

    Args:
        beside: the files of each folder and stem.
    """
    result = f"-x{scale}"
    # what the name of the original lacks, and its rows and columns times what
    kinds = [(result, scale, scale, 0)]
    if file.stem.endswith(f"{result}{COMPARED}"):
        kinds = [(f"{result}{COMPARED}", scale, 3 * scale, 2 * LINE), (COMPARED, 1, 3, 2 * LINE)]

    for ending, height, width, lines in kinds:
        if not file.stem.endswith(ending):
            continue
        for original in beside.get((file.parent, file.stem.removesuffix(ending)), []):
            rows, columns = _size(original)
            # by its EXIF, which not every header tells
            turned = (columns * height, rows * width + lines)
            if rows and _size(file) in ((rows * height, columns * width + lines), turned):
                return original
    return None


def _size(file: Path) -> tuple[int, int]:
    """Return rows and columns of a picture; (0, 0) for one that cannot be read."""
    try:
        header = read_header(file)
    except Unreadable:
        return 0, 0
    return header.height, header.width


class _Taken:
    """Names that no result may take: the photos of this call and the results it has written.

    Names are compared as loosely as any file system does, and then it is asked whether they are one
    file.
    """

    def __init__(self, photos: Sequence[Path]) -> None:
        self._owners: dict[str, list[tuple[Path, str]]] = {}
        for photo in photos:
            self._put(photo, "it is one of the photos to enlarge")

    def add(self, results: Sequence[Path], photo: Path) -> None:
        """Note what was made of a photo."""
        for result in results:
            self._put(result, f"it was just made of {photo}")

    def reason(self, file: Path) -> str:
        """Return why a file may not be written, or nothing."""
        for other, reason in self._owners.get(_loosely(file), []):
            with suppress(OSError):
                if os.path.samefile(file, other):
                    return reason
        return ""

    def _put(self, file: Path, reason: str) -> None:
        self._owners.setdefault(_loosely(file), []).append((file, reason))


def _loosely(file: Path) -> str:
    return loosely(str(file.parent.resolve() / file.name))


def _one_file(
    upscaler: Upscaler,
    path: Path,
    folder: Path,
    compare: bool,
    force: bool,
    taken: _Taken,
    progress: Progress | None,
) -> list[Path]:
    picture = read_picture(path)
    suffix, longest = KEPT[picture.format]
    if path.suffix.lower() in (".jpeg", ".jpe", ".jfif") and picture.format == "JPEG":
        suffix = path.suffix
    target = folder / f"{path.stem}-x{upscaler.scale}{suffix}"
    beside = folder / f"{path.stem}-x{upscaler.scale}{COMPARED}.png"
    wanted = (target, beside) if compare else (target,)
    for file in wanted:
        reason = taken.reason(file)
        if reason:
            raise UserError(
                f"its result would be {file}, but {reason}. Rename one, or give another --out."
            )
    there = [] if force else [file for file in wanted if file.exists()]
    if len(there) == len(wanted):
        raise _taken(target)
    sides = [side * upscaler.scale for side in picture.pixels.shape[:2]]
    if max(sides) > longest:
        raise UserError(
            f"it would become {sides[1]} x {sides[0]} pixels; "
            f"{picture.format} holds {longest} at most. Give a PNG."
        )
    small = picture.pixels
    picture.pixels = upscaler.enlarge(
        small, None if progress is None else lambda i, n: progress(path.name, i, n)
    )
    contents = {target: encoded(picture)}
    if compare:
        compared = side_by_side(upscaler, small, picture.pixels)
        contents[beside] = encoded(DecodedPhoto(compared, "PNG", b"", picture.profile))

    # What a call that was killed between the two has left is completed; anything else stays as it
    # is.
    for file in there:
        if not _holds(file, contents[file]):
            raise _taken(file)
    missing = [file for file in wanted if file not in there]
    for file in missing:
        write_encoded(file, contents[file])
    return missing


def _taken(file: Path) -> UserError:
    return UserError(f"{file} already exists, and nothing is overwritten without --force.")


def _holds(file: Path, content: bytes) -> bool:
    try:
        return read_bytes(file, most=len(content)) == content
    except OSError:
        return False


def side_by_side(upscaler: Upscaler, small: np.ndarray, large: np.ndarray) -> np.ndarray:
    """Return the small image, bicubic and ours side by side, separated by a white line."""
    repeated = small.repeat(upscaler.scale, axis=0).repeat(upscaler.scale, axis=1)
    line = np.full((len(large), LINE, large.shape[2]), np.iinfo(large.dtype).max, large.dtype)
    return np.concatenate([repeated, line, upscaler.bicubic(small), line, large], axis=1)
