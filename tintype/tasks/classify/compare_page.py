"""What the page of a comparison shows of classifiers.

Confusion matrices, and images that one gets right.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from tintype.errors import UserError
from tintype.pages.drawings import Drawing
from tintype.pages.pictures import TINY, data_uri, png_bytes
from tintype.pages.section import Section
from tintype.tasks.classify import charts, print_charts
from tintype.tasks.contract.compare import Group, Progress
from tintype.tasks.contract.compared_run import Compared

MOST_RUNS = 6
MOST_IMAGES = 8  # of each run
CONFUSION = "confusion-difference"  # what its file is called


def sections(group: Group, progress: Progress | None) -> list[Section]:
    """Return how the first two confusion matrices differ, and what one run alone gets right."""
    found = []
    for drawing in drawings(group):
        one, other = group.runs[:2]
        context = {
            "chart": drawing.chart(),
            "one": one.name,
            "other": other.name,
            "split": one.split,
            "many": len(group.details["class_names"]) > 20,
        }
        title = "Confusion matrices compared"
        found.append(Section("confusion", title, "classify/compare_confusion.html", context))

    alone = only_one_right(group, progress)
    if alone["counts"]:
        title = "Right in one run only"
        found.append(Section("only-one", title, "classify/compare_only.html", alone))
    return found


def drawings(group: Group) -> list[Drawing]:
    """Return how the confusion matrix of the first run differs from that of the second."""
    one, other = group.runs[:2]
    first, second = ((run.evaluation.get("confusion") or {}).get(run.split) for run in (one, other))
    names: list[Any] = group.details.get("class_names") or []
    if not (first and second and len(first) == len(second) == len(names)):
        return []

    title = f"{one.name} less {other.name}"
    return [
        Drawing(
            CONFUSION,
            f"Confusion matrix of {one.name} less that of {other.name}, {len(names)} classes.",
            lambda: charts.confusion_difference(first, second, names),
            lambda: print_charts.confusion_difference(first, second, names, title),
        )
    ]


@dataclass(frozen=True)
class SharedImage:
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


def only_one_right(group: Group, progress: Progress | None = None) -> dict[str, Any]:
    """Return how many images each of the first runs alone among them gets right.

    Some of these come as pictures. The images are those on which it is most ahead: by its log loss
    less the mean of the others'.
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


def _picture(runs: Sequence[Compared], winner: int, number: int, pixels: np.ndarray) -> SharedImage:
    image = Image.fromarray(
        pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    )
    table = runs[winner].table
    said = [
        (run.name, run.table["prediction"][number]) for i, run in enumerate(runs) if i != winner
    ]
    return SharedImage(
        _uri(image), *image.size, table["name"][number], table["target"][number], said
    )


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
    """Return pixels of test images by their number in the tables.

    A note says where some are missing. Most lie in samples/ of a run, since one of the runs is
    wrong on them; the data is opened for the rest.
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
        recipe.data,
        data_root=recipe.data_root,
        image_size=(how["height"], how["width"]),
        channels=how["channels"],
        resize=resize_of(run.model),
        val_fraction=recipe.val_fraction,
        test_fraction=recipe.test_fraction,
        split_seed=recipe.split_seed,
        split_rule=recipe.split_rule,
        groups=recipe.groups,
        progress=progress,
    )
    if splits.spec.fingerprint != run.data.get("fingerprint"):
        raise UserError(f"the images of {splits.spec.name} have changed since the run was trained.")
    positions = torch.tensor([int(run.table["position"][number]) for number in numbers])
    images = splits[run.split].take(positions).images.permute(0, 2, 3, 1).cpu().numpy()
    return dict(zip(numbers, images, strict=True))
