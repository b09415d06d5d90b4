"""Files and folders of photos, enlarged one by one; what cannot be enlarged is passed over and named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tintype.data.decode import image_files
from tintype.errors import UserError
from tintype.run import RunFolder
from tintype.tasks.upscale import TILE
from tintype.upscaling.pictures import KEPT, Picture, read_picture, write_picture
from tintype.upscaling.upscaler import Upscaler

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Enlarged:
    """The files that were written, and those passed over, each with its reason."""

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
    """Enlarge files and folders; a file that cannot be enlarged is passed over and named.

    `photo.jpg` becomes `photo-x2.jpg`, in `out` or beside the photo; folders keep their shape below `out`.

    Raises:
        UserError: no run that enlarges, no such path, or no image in it.
    """
    upscaler = Upscaler.of(run, tile=tile, device=device)
    written: list[Path] = []
    skipped: list[tuple[str, str]] = []
    for path, below in list_files(paths, scale=upscaler.scale):
        try:
            written += _one_file(upscaler, path, (out / below) if out else path.parent, compare, force, progress)
        except UserError as error:
            skipped.append((str(path), str(error)))
    return Enlarged(written, skipped)


def list_files(paths: Sequence[str | Path], scale: int) -> list[tuple[Path, Path]]:
    """Return each image file with the folder below the output in which its result belongs.

    What an earlier call has written into a folder (`-x2`) is left out.

    Raises:
        UserError: a path does not exist, or there is no image.
    """
    found: list[tuple[Path, Path]] = []
    for path in map(Path, paths):
        if path.is_dir():
            files = [f for f in image_files(path) if not f.stem.endswith((f"-x{scale}", f"-x{scale}-compare"))]
            found += [(file, file.relative_to(path).parent) for file in files]
        elif path.exists():
            found.append((path, Path()))
        else:
            raise UserError(f"there is no file or folder {path}.")
    if not found:
        raise UserError(f"there is no image in {', '.join(map(str, paths))}. Expected files such as .jpg or .png.")
    return found


def _one_file(
    upscaler: Upscaler, path: Path, folder: Path, compare: bool, force: bool, progress: Progress | None
) -> list[Path]:
    picture = read_picture(path)
    suffix, longest = KEPT[picture.format]
    if path.suffix.lower() in (".jpeg", ".jpe", ".jfif") and picture.format == "JPEG":
        suffix = path.suffix
    target = folder / f"{path.stem}-x{upscaler.scale}{suffix}"
    beside = folder / f"{path.stem}-x{upscaler.scale}-compare.png"
    for file in (target, beside) if compare else (target,):
        if file.exists() and not force:
            raise UserError(f"{file} is there already, and nothing is overwritten without --force.")
    sides = [side * upscaler.scale for side in picture.pixels.shape[:2]]
    if max(sides) > longest:
        raise UserError(
            f"it would become {sides[1]} x {sides[0]} pixels; {picture.format} holds {longest} at most. Give a PNG."
        )
    small = picture.pixels
    picture.pixels = upscaler.enlarge(small, None if progress is None else lambda i, n: progress(path.name, i, n))
    write_picture(target, picture)
    if not compare:
        return [target]
    write_picture(beside, Picture(side_by_side(upscaler, small, picture.pixels), "PNG", b"", picture.profile))
    return [target, beside]


def side_by_side(upscaler: Upscaler, small: np.ndarray, large: np.ndarray) -> np.ndarray:
    """Return the small picture with its pixels repeated, bicubic, and ours beside each other, a white line between."""
    repeated = small.repeat(upscaler.scale, axis=0).repeat(upscaler.scale, axis=1)
    line = np.full((len(large), 4, large.shape[2]), np.iinfo(large.dtype).max, large.dtype)
    return np.concatenate([repeated, line, upscaler.bicubic(small), line, large], axis=1)
