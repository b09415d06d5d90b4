"""Generate images with a finished run; a seed and an index always give the same image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tintype.errors import UserError, unknown_name
from tintype.files.bounded import regular_only
from tintype.files.whole import write_picture
from tintype.runs.folder import RunFolder
from tintype.tasks.generate import sampling
from tintype.tasks.generate.task import SAMPLE_SEED, Generate
from tintype.tasks.restoring import load_task

# Always so many images are computed together, from an index that this divides: a convolution's last
# bits may depend on the size of the batch, and an image must not depend on how many were asked for.
AT_ONCE = 16
MOST = 1_000_000
MOST_SHEET_PIXELS = 200_000_000
STEPS_BETWEEN = 8  # images from one point to the next of an interpolation


class Sampler:
    """A generator ready to make images."""

    def __init__(self, task: Generate) -> None:
        self.task = task
        self.network = task.networks[task.main]

    @classmethod
    def of(cls, run: RunFolder, *, device: str = "auto") -> Sampler:
        """Load the generator of a run.

        Raises:
            UserError: the run has no finished model, it makes no images, or the device is not
                there.
        """
        task, description = load_task(run, device)
        if not isinstance(task, Generate):
            raise UserError(
                f"{run.path} is a run of task {description['task']} and cannot generate images. "
                "Train one that can: tintype train digits-gan"
            )
        return cls(task)

    def images(
        self,
        count: int,
        *,
        start: int = 0,
        seed: int = SAMPLE_SEED,
        class_name: str | int | None = None,
        truncation: float | None = None,
        interpolate: bool = False,
    ) -> Iterator[np.ndarray]:
        """Yield `count` images (H, W, C) uint8.

        Args:
            count: how many.
            start: index of the first one.
            seed: image i follows from (seed, i) alone.
            class_name: what to show, its name or a whole number that is one; by default the classes
                by turns, where the
                generator knows classes.
            truncation: bound of the noise; lower is more typical and less varied (1 is strong, 3
                changes little).
            interpolate: images on a way from one to the next, 8 for each stretch.

        Raises:
            UserError: a count, start, seed, class or truncation that cannot be.
        """
        if type(count) is not int or not 1 <= count <= MOST:
            raise UserError(f"count is {count!r}. Expected a whole number from 1 to {MOST:,}.")
        if type(start) is not int or not 0 <= start <= MOST:
            raise UserError(f"start is {start!r}. Expected a whole number from 0 to {MOST:,}.")
        if type(seed) is not int or not 0 <= seed < 2**32:
            raise UserError(f"seed is {seed!r}. Expected a whole number from 0 to {2**32 - 1:,}.")
        if truncation is not None and not (
            isinstance(truncation, int | float) and 0 < truncation <= 10
        ):
            raise UserError(
                f"truncation is {truncation!r}. "
                "Expected a number above 0, as 1 (typical) or 3 (hardly changed)."
            )

        label = self._label(class_name)
        return self._images(range(start, start + count), seed, label, truncation, interpolate)

    def _label(self, class_name: str | int | None) -> int | None:
        names = self.task.spec.class_names
        class_name = str(class_name) if type(class_name) is int else class_name
        if class_name is None:
            return None
        if not self.task.conditional:
            raise UserError(
                "this generator knows no classes. Train one with --set model.conditional=true."
            )
        if class_name not in names:
            raise unknown_name("class", str(class_name), names)
        return names.index(class_name)

    def _images(
        self,
        wanted: range,
        seed: int,
        label: int | None,
        truncation: float | None,
        interpolate: bool,
    ) -> Iterator[np.ndarray]:
        shape = self.task.generator.latent_shape
        for start in range(wanted.start - wanted.start % AT_ONCE, wanted.stop, AT_ONCE):
            # Always the same batches, so that an image is the same to the last bit.
            indices = range(start, start + AT_ONCE)
            if interpolate:
                noise = sampling.path(seed, indices, shape, STEPS_BETWEEN)
                # There is nothing between two classes: each stretch has one.
                turns = self.task.turns([i // STEPS_BETWEEN for i in indices])
                classes = turns if label is None else [label] * AT_ONCE
            else:
                noise = sampling.latents(seed, indices, shape)
                classes = self.task.turns(indices) if label is None else [label] * AT_ONCE
            noise = noise if truncation is None else sampling.truncated(noise, truncation)

            made = self.task.make_images(self.network, noise, classes)
            pixels = made.permute(0, 2, 3, 1).cpu().numpy()
            yield from pixels[max(0, wanted.start - start) : wanted.stop - start]


def generate_files(
    run: str | Path,
    *,
    count: int,
    start: int = 0,
    out: Path | None = None,
    grid: Path | None = None,
    columns: int | None = None,
    scale: int | None = None,
    device: str = "auto",
    **how: Any,
) -> Path:
    """Write images as PNG files in a folder, or as one sheet; return the folder or the file.

    Without `out` and `grid` the folder is RUN/generated. Images that exist are kept,
    so that a stopped call can be repeated to continue.

    Args:
        run: the run folder.
        count: how many images.
        start: index of the first one.
        out: folder for a file each.
        grid: file of the sheet.
        columns: images in a row of the sheet; by default the sheet is nearly square.
        scale: whole-number factor at which the images are enlarged on the sheet; by default small
            ones are.
        device: where to compute.
        how: further arguments of `Sampler.images`.

    Raises:
        UserError: no such run, a file is there already, or it cannot be written.
    """
    if out is not None and grid is not None:
        raise UserError(
            "--out writes a file for each image and --grid one sheet. Give one of them."
        )
    for option, value in (("--columns", columns), ("--scale", scale)):
        if value is None:
            continue
        if grid is None:
            raise UserError(f"{option} is for a sheet. Add --grid FILE.png, or leave it out.")
        if value < 1:
            raise UserError(f"{option} is {value}. Expected a whole number from 1 up.")

    folder = RunFolder.open(run)
    sampler = Sampler.of(folder, device=device)
    images = sampler.images(count, start=start, **how)

    if grid is not None:
        if columns is None and how.get("interpolate"):
            columns = STEPS_BETWEEN  # a row for each stretch
        spec = sampler.task.spec
        return _write_sheet(grid, images, count, (spec.height, spec.width), columns, scale)

    out = folder.path / "generated" if out is None else out
    if out.exists() and not out.is_dir():
        raise UserError(
            f"{out} is a file. Expected a folder for --out; --grid writes a single file."
        )

    prefix = "-".join(_parts(**how))
    paths = [out / f"{prefix}-{index:06d}.png" for index in range(start, start + count)]
    if all(path.exists() for path in paths):
        _refuse_taken(paths[0], "--out")

    for path, image in zip(paths, images, strict=True):
        # otherwise a call that was stopped, or one for fewer images, has made it
        if not _shows(path, image):
            _refuse_taken(path, "--out")
            write_picture(path, image)

    return out


def _shows(path: Path, image: np.ndarray) -> bool:
    """Return whether a file holds this image (H, W, C)."""
    try:
        with open(path, "rb", opener=regular_only) as file, Image.open(file) as there:
            return np.array_equal(np.asarray(there).reshape(image.shape), image)
    except (OSError, ValueError):  # none there, no picture, or one of another size
        return False


def _parts(
    seed: int = SAMPLE_SEED,
    class_name: str | None = None,
    truncation: float | None = None,
    interpolate: bool = False,
) -> list[str]:
    """Return the parts of a file name that distinguish these images from others of the run."""
    plain = "".join(c if c.isalnum() else "_" for c in class_name or "")
    parts = [
        f"seed{seed}",
        plain,
        "" if truncation is None else f"truncation{truncation!r}",
        "way" * interpolate,
    ]
    return [part for part in parts if part]


def _write_sheet(
    path: Path,
    images: Iterator[np.ndarray],
    count: int,
    size: tuple[int, int],
    columns: int | None,
    scale: int | None,
) -> Path:
    if path.suffix.lower() != ".png":
        raise UserError(f"--grid {path}: expected a file that ends in .png.")
    if count > 10_000:
        raise UserError(
            f"a sheet of {count:,} images is too large to look at. "
            "Expected at most 10,000, or --out DIR."
        )
    _refuse_taken(path, "--grid")

    columns = min(columns or sampling.square_columns(count), count)
    height, width = size
    scale = scale or sampling.viewing_scale(size, columns)
    if count * height * width * scale**2 > MOST_SHEET_PIXELS:
        raise UserError(
            f"a sheet of {count:,} images of {width * scale:,} x {height * scale:,} pixels is too "
            "large to look at. "
            "Try a smaller --scale, or --out DIR."
        )

    stacked = np.stack(list(images))
    write_picture(path, sampling.grid(sampling.enlarged(stacked, scale), columns))
    return path


def _refuse_taken(path: Path, option: str) -> None:
    if path.exists():
        raise UserError(
            f"{path} already exists, and nothing is overwritten. Choose another {option}."
        )
