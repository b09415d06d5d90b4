"""The pictures of a comparison: images that one run alone gets right, the same noise, zoomed crops
side by side.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from tintype.errors import UserError
from tintype.pages.pictures import TINY, data_uri, png_bytes
from tintype.runs.reading import read_run
from tintype.tasks.upscale.report import CROP, Shown, read_shown

if TYPE_CHECKING:
    from tintype.tasks.contract.compare import Group
    from tintype.tasks.contract.compared_run import Compared

Progress = Callable[[str, int, int], None]

MOST_RUNS = 6
MOST_IMAGES = 8  # of each run
MOST_PICTURES = 4
NOISE_SEED = 0


@dataclass(frozen=True)
class Picture:
    """A test image with what the runs said of it."""

    uri: str
    width: int
    height: int
    name: str
    target: str
    said: list[tuple[str, str]]  # run, class

    @property
    def tiny(self) -> bool:
        return max(self.width, self.height) < TINY


# ---- classification -------------------------------------------------------------------------------------------------


def only_one_right(group: Group, progress: Progress | None = None) -> dict[str, Any]:
    """Return, for each of the first runs, how many images it alone among them gets right, and some of these as pictures.

    The images are those on which it is most ahead: by its log loss less the mean of the others'.
    """
    runs, details = group.runs[:MOST_RUNS], group.details
    right = np.stack([guess == details["targets"] for guess in details["predictions"][: len(runs)]])
    losses = np.stack(details["losses"][: len(runs)])

    chosen: list[list[int]] = []
    for i in range(len(runs)):
        alone = np.flatnonzero(right[i] & (right.sum(0) == 1))
        ahead = (losses[:, alone].sum(0) - losses[i, alone]) / (len(runs) - 1) - losses[i, alone]
        chosen.append(alone[np.argsort(-ahead, kind="stable")][:MOST_IMAGES].tolist())

    pixels, problem = _test_images(runs, sorted({n for each in chosen for n in each}), progress)
    rows = [
        {
            "name": run.name,
            "pictures": [_picture(runs, i, n, pixels[n]) for n in numbers if n in pixels],
        }
        for i, (run, numbers) in enumerate(zip(runs, chosen, strict=True))
    ]
    counts = [(run.name, int((right[i] & (right.sum(0) == 1)).sum())) for i, run in enumerate(runs)]
    together = {
        "all": int(right.all(0).sum()),
        "none": int((~right.any(0)).sum()),
        "num_images": right.shape[1],
    }
    left_out = len(group.runs) - len(runs)

    return {"counts": counts, "rows": rows, "problem": problem, "left_out": left_out, **together}


def _picture(runs: Sequence[Compared], winner: int, number: int, pixels: np.ndarray) -> Picture:
    image = Image.fromarray(
        pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    )
    table = runs[winner].table
    said = [
        (run.name, run.table["prediction"][number]) for i, run in enumerate(runs) if i != winner
    ]
    return Picture(_uri(image), *image.size, table["name"][number], table["target"][number], said)


def _uri(image: Image.Image) -> str:
    if max(image.size) < TINY:
        return data_uri(png_bytes(image))
    image = image.convert("RGB")
    image.thumbnail((224, 224))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return data_uri(buffer.getvalue(), "image/jpeg")


def _test_images(
    runs: Sequence[Compared], numbers: Sequence[int], progress: Progress | None
) -> tuple[dict[int, np.ndarray], str]:
    """Return pixels of test images by their number in the tables, and what is to be said where some are missing.

    Most lie in samples/ of a run, since one of the runs is wrong on them; the data is opened for
    the rest.
    """
    found: dict[int, np.ndarray] = {}
    for number in numbers:
        for run in runs if runs[0].split == "test" else ():
            file = (
                run.folder.path / "samples" / f"test-{int(run.table['position'][number]):06d}.png"
            )
            try:
                with Image.open(file) as image:
                    found[number] = np.asarray(image.convert("L" if image.mode == "L" else "RGB"))
                break
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
                continue

    missing = [number for number in numbers if number not in found]
    if not missing:
        return found, ""

    try:
        return found | _from_data(runs[0], missing, progress), ""
    except UserError as error:
        return found, f"{len(missing):,} more images cannot be shown: {error}"


def _from_data(
    run: Compared, numbers: Sequence[int], progress: Progress | None
) -> dict[int, np.ndarray]:
    import torch

    from tintype.data import open_data
    from tintype.runs.model import resize_of

    recipe, how = run.folder.recipe, run.model["preprocessing"]
    splits = open_data(
        recipe.data, data_root=recipe.data_root, image_size=(how["height"], how["width"]), channels=how["channels"],
        resize=resize_of(run.model), val_fraction=recipe.val_fraction, test_fraction=recipe.test_fraction,
        split_seed=recipe.split_seed, split_rule=recipe.split_rule, groups=recipe.groups, progress=progress,
    )  # fmt: skip
    if splits.spec.fingerprint != run.data.get("fingerprint"):
        raise UserError(f"the images of {splits.spec.name} have changed since the run was trained.")
    positions = torch.tensor([int(run.table["position"][number]) for number in numbers])
    images = splits[run.split].take(positions).images.permute(0, 2, 3, 1).cpu().numpy()
    return dict(zip(numbers, images, strict=True))


# ---- generation -----------------------------------------------------------------------------------------------------


def samples(group: Group, progress: Progress | None = None) -> dict[str, Any]:
    """Return images of each run from the noise of one seed, those in a column from the same where
    its shape is the same.
    """
    from tintype.tasks.generate.images import Sampler
    from tintype.tasks.generate.sampling import grid

    rows, problems, shapes = [], [], set()
    for number, run in enumerate(group.runs, 1):
        try:
            sampler = Sampler.of(run.folder)
            sheet = grid(np.stack(list(sampler.images(MOST_IMAGES, seed=NOISE_SEED))), MOST_IMAGES)
        except UserError as error:
            problems.append(str(error))
            continue
        finally:
            if progress:
                progress("generating", number, len(group.runs))
        shapes.add(tuple(sampler.task.generator.latent_shape))
        image = Image.fromarray(sheet[:, :, 0] if sheet.shape[2] == 1 else sheet)
        factor = max(1, min(6, 720 // image.width))
        size = {"width": image.width * factor, "height": image.height * factor}
        rows.append({"name": run.name, "uri": data_uri(png_bytes(image)), **size})
    return {
        "rows": rows,
        "problems": problems,
        "count": MOST_IMAGES,
        "seed": NOISE_SEED,
        "one_shape": len(shapes) < 2,
    }


# ---- super-resolution -----------------------------------------------------------------------------------------------


def crops(group: Group, progress: Progress | None = None) -> dict[str, Any]:
    """Return zoomed crops of test pictures: small, bicubic, each run's, original; where bicubic is furthest from it.

    The pictures are those that the first run kept. What another run did not keep it computes again
    from the small one.
    """
    runs = group.runs[:MOST_RUNS]
    kept = {
        run.name: {shown.name: shown for shown in read_shown(read_run(run.folder.path))}
        for run in runs
    }
    shown = list(kept[runs[0].name].values())
    shown = (
        [
            shown[i]
            for i in np.unique(np.linspace(0, len(shown) - 1, MOST_PICTURES).round().astype(int))
        ]
        if shown
        else []
    )
    problems: list[str] = []

    forms: dict[tuple[str, str], np.ndarray] = {}
    for number, run in enumerate(runs, 1):
        try:
            forms |= {
                (each.name, run.name): pixels
                for each, pixels in zip(shown, _enlarged(run, shown, kept), strict=True)
            }
        except UserError as error:
            problems.append(str(error))
        if progress:
            progress("enlarging", number, len(runs))

    pictures = [{"name": each.name, "crops": _crops(each, runs, forms)} for each in shown]
    return {
        "pictures": pictures,
        "problems": problems,
        "side": CROP,
        "left_out": len(group.runs) - len(runs),
    }


def _enlarged(
    run: Compared, shown: Sequence[Shown], kept: dict[str, dict[str, Shown]]
) -> list[np.ndarray]:
    from tintype.tasks.upscale.upscaler import Upscaler

    upscaler, found = None, []
    for each in shown:
        own = kept[run.name].get(each.name)
        if own is not None and own.size == each.size:
            found.append(own.forms["ours"])
            continue
        upscaler = upscaler or Upscaler.of(run.folder)
        step = upscaler.scale  # the small picture lies in `forms` with its pixels repeated
        found.append(upscaler.enlarge(np.ascontiguousarray(each.forms["low"][::step, ::step])))
    return found


def _crops(
    shown: Shown, runs: Sequence[Compared], forms: dict[tuple[str, str], np.ndarray]
) -> list[tuple[str, str, str]]:
    """Return title, caption and data URI of each crop of a picture."""
    bicubic = runs[0].table["bicubic_psnr_y"][runs[0].table["name"].index(shown.name)]
    found = [
        ("small", "", shown.crop("low")),
        ("bicubic", _decibel(bicubic), shown.crop("bicubic")),
    ]

    for run in runs:
        if (shown.name, run.name) in forms:
            psnr = run.table["psnr_y"][run.table["name"].index(shown.name)]
            whole = Shown(
                shown.name, shown.figures, {**shown.forms, "ours": forms[shown.name, run.name]}
            )
            found.append((run.name, _decibel(psnr), whole.crop("ours")))

    found.append(("original", "", shown.crop("original")))
    return [
        (title, caption, data_uri(png_bytes(Image.fromarray(pixels))))
        for title, caption, pixels in found
    ]


def _decibel(text: str) -> str:
    return f"{float(text):.2f} dB"
