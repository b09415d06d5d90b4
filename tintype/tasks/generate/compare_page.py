"""What the page of a comparison shows of generators: images of each from the same noise."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from tintype.errors import UserError
from tintype.pages.drawings import Drawing
from tintype.pages.pictures import data_uri, png_bytes
from tintype.pages.section import Section
from tintype.tasks.contract.compare import Group, Progress

MOST_IMAGES = 8  # of each run
NOISE_SEED = 0


def sections(group: Group, progress: Progress | None) -> list[Section]:
    """Return images of each run."""
    found = samples(group, progress)
    return [Section("samples", "From the same noise", "generate/compare_samples.html", found)]


def drawings(group: Group) -> list[Drawing]:
    """Return nothing: generators have no figures of their own."""
    return []


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
