"""Enlarge photos with a finished run: any size, in tiles; alpha, grey, 16 bits, EXIF and colour profile are kept."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from tintype.data.decode import FORMATS, MAX_PIXELS, image_files
from tintype.distributed import choose_device
from tintype.errors import UserError
from tintype.foreign import ENDINGS, load_foreign
from tintype.png16 import png16, read_png16
from tintype.predict import load_task
from tintype.run import RunFolder, written_whole
from tintype.tasks.upscale import TILE, Upscale

# What is read and written as it is; everything else becomes PNG, which loses nothing. The longest side each can hold.
KEPT = {"PNG": (".png", 2**31 - 1), "JPEG": (".jpg", 65_535), "WEBP": (".webp", 16_383)}
QUALITY = 95  # of JPEG and WebP
LARGEST_OUTPUT = 1_000_000_000  # pixels: 3 GB of memory for the picture alone
Progress = Callable[[str, int, int], None]


@dataclass
class Picture:
    """A decoded picture, upright, with what must travel along."""

    pixels: np.ndarray  # (H, W, C) uint8 or uint16; C: 1 grey, 2 grey and alpha, 3 colour, 4 colour and alpha
    format: str = "PNG"
    exif: bytes = b""
    profile: bytes = b""


class Upscaler:
    """A network that enlarges, ready to be used."""

    def __init__(self, task: Upscale, tile: int = TILE) -> None:
        if tile < 16:
            raise UserError(f"a tile of {tile} pixels is too small. Expected 16 or more.")
        self.task, self.tile = task, tile

    @classmethod
    def of(cls, run: RunFolder | Path, *, tile: int = TILE, device: str = "auto") -> Upscaler:
        """Load the model of a run, or a weight file of somebody else's network.

        Raises:
            UserError: the run has no finished model, or it is none that enlarges.
        """
        if isinstance(run, Path):
            if run.is_file() and run.suffix in ENDINGS:
                return cls(load_foreign(run, choose_device(device)[0]), tile)
            run = RunFolder.open(run)
        task, description = load_task(run, device)
        if not isinstance(task, Upscale):
            raise UserError(
                f"{run.path} is a run of task {description['task']}, which enlarges nothing. "
                "Train one that does: tintype train photos-x2"
            )
        return cls(task, tile)

    @property
    def scale(self) -> int:
        """How many times larger the pictures become."""
        return self.task.scale

    def enlarge(self, pixels: np.ndarray, on_progress: Callable[[int, int], None] | None = None) -> np.ndarray:
        """Return pixels (H, W, C) uint8 or uint16 enlarged; alpha, the last of 2 or 4 channels, by bicubic.

        Raises:
            UserError: the result would be too large.
        """
        height, width, channels = pixels.shape
        if height * width * self.scale**2 > LARGEST_OUTPUT:
            raise UserError(
                f"it would become {width * self.scale} x {height * self.scale} pixels, more than a billion."
            )
        low = _planes(pixels)
        network = self.task.networks[self.task.main]
        colour = self.task.enlarge(network, low[: 3 if channels > 2 else 1], tile=self.tile, on_progress=on_progress)
        large = _array(colour, pixels.dtype)
        if channels not in (2, 4):
            return large
        alpha = _array(self.task.bicubic(low[-1:], tile=self.tile), pixels.dtype)
        return np.concatenate([large, alpha], axis=2)

    def bicubic(self, pixels: np.ndarray) -> np.ndarray:
        """Return pixels (H, W, C) uint8 or uint16 enlarged by bicubic interpolation."""
        return _array(self.task.bicubic(_planes(pixels), tile=self.tile), pixels.dtype)

    def __call__(self, image: Any) -> Any:
        """Enlarge a file (giving a Pillow image), a Pillow image, or an array (H, W) or (H, W, C) of uint8 or uint16."""
        if isinstance(image, np.ndarray):
            return self._of_array(image)
        picture = _of_pillow(image) if isinstance(image, Image.Image) else read_picture(Path(image))
        picture.pixels = self.enlarge(picture.pixels)
        return _to_pillow(picture)

    def _of_array(self, pixels: np.ndarray) -> np.ndarray:
        right_shape = pixels.ndim == 2 or (pixels.ndim == 3 and 1 <= pixels.shape[2] <= 4)
        if pixels.dtype not in (np.uint8, np.uint16) or not right_shape or not pixels.size:
            raise UserError(
                f"cannot enlarge an array {pixels.shape} of {pixels.dtype}. Expected (H, W) or (H, W, C) of uint8 or uint16, "
                "with 1 to 4 channels."
            )
        large = self.enlarge(pixels.reshape(*pixels.shape[:2], -1))
        return large[:, :, 0] if pixels.ndim == 2 else large


def _planes(pixels: np.ndarray) -> torch.Tensor:
    """Return (C, H, W) uint8, or int32 for 16 bits, on which torch can compute."""
    wide = pixels.astype(np.int32) if pixels.dtype == np.uint16 else np.array(pixels)
    return torch.from_numpy(wide).permute(2, 0, 1)


def _array(planes: torch.Tensor, dtype: Any) -> np.ndarray:
    return planes.permute(1, 2, 0).contiguous().numpy().astype(dtype, copy=False)


# ---- files ------------------------------------------------------------------------------------------------------------


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


def read_picture(path: Path) -> Picture:
    """Read a picture with all its bits and channels, turned upright.

    Raises:
        UserError: it cannot be read, is animated, or too large.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
                raise UserError(f"{path.name} is animated ({image.n_frames} frames); only still pictures are enlarged.")  # pyright: ignore[reportAttributeAccessIssue]
            if image.width * image.height > MAX_PIXELS:
                raise UserError(f"{path.name} has more than {MAX_PIXELS:,} pixels (decompression bomb?).")
            deep = read_png16(path) if image.format == "PNG" else None
            image.load()
            if deep is not None:
                exif, profile = image.getexif(), image.info.get("icc_profile") or b""
                return Picture(deep, "PNG", exif.tobytes() if exif else b"", profile)
            return _of_pillow(image)
    except UserError:
        raise
    except Exception as error:  # a damaged file makes decoders raise nearly anything
        empty = path.is_file() and path.stat().st_size == 0
        line = "it is empty" if empty else str(error).split("\n")[0][:100]
        raise UserError(f"{path.name} cannot be read as an image: {line}.") from None


def _of_pillow(image: Image.Image) -> Picture:
    kept = {"MPO": "JPEG"}.get(image.format or "", image.format or "")
    profile = image.info.get("icc_profile") or b""
    if image.mode == "CMYK":
        profile = b""  # it describes inks
    upright = ImageOps.exif_transpose(image)
    exif = upright.getexif()
    exif_bytes = exif.tobytes() if exif else b""
    transparent = "transparency" in upright.info or upright.mode in ("LA", "La", "PA", "RGBA", "RGBa")
    if upright.mode.startswith("I;16"):
        pixels = np.asarray(upright).astype(np.uint16)
    elif upright.mode == "I":
        pixels = np.asarray(upright).clip(0, 65535).astype(np.uint16)
    elif upright.mode == "F":
        raise UserError("pictures of floating-point values are not enlarged; convert it to 16 bits.")
    elif upright.mode in ("1", "L", "LA", "La"):
        pixels = np.asarray(upright.convert("LA" if transparent else "L"))
    else:
        pixels = np.asarray(upright.convert("RGBA" if transparent else "RGB"))
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    return Picture(np.array(pixels), kept if kept in KEPT else "PNG", exif_bytes, profile)


def write_picture(path: Path, picture: Picture) -> None:
    """Write a picture in its format, under a temporary name first.

    Raises:
        UserError: it cannot be written.
    """
    buffer = io.BytesIO()
    more: dict[str, Any] = {"exif": picture.exif} if picture.exif else {}
    if picture.profile:
        more["icc_profile"] = picture.profile
    if picture.pixels.dtype == np.uint16:
        buffer.write(png16(picture.pixels, exif=picture.exif, profile=picture.profile))
    elif picture.format == "JPEG":
        _to_pillow(picture).save(buffer, "JPEG", quality=QUALITY, subsampling=0, **more)
    elif picture.format == "WEBP":
        _to_pillow(picture).save(buffer, "WEBP", quality=QUALITY, **more)
    else:
        _to_pillow(picture).save(buffer, "PNG", **more)
    try:
        with written_whole(path) as temporary:
            temporary.write_bytes(buffer.getbuffer())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}.") from None


def _to_pillow(picture: Picture) -> Image.Image:
    pixels = picture.pixels
    if pixels.dtype == np.uint16 and pixels.shape[2] > 1:
        pixels = ((pixels.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)  # Pillow has no such mode
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
