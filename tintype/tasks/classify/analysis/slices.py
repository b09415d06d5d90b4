"""Where errors concentrate.

The error rate by brightness, contrast, sharpness, and the size and shape of the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from tintype.data.decode import Unreadable, read_header
from tintype.data.source import ImageSource, group_numbers
from tintype.statistics import (
    clustered_interval,
    clusters_of,
    heterogeneity_p,
    holm,
    wilson_interval,
)
from tintype.tasks.classify.analysis.examples import Answers

MOST_IMAGES = 10_000
QUARTERS = 4
CHUNK_PIXELS = 2**22
LUMA = torch.tensor([0.299, 0.587, 0.114])  # ITU-R BT.601
LAPLACIAN = torch.tensor([[[[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]]]])


def error_rates(
    test: Answers, folders: Sequence[Path] = (), groups: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Cut the test images into quarters by each attribute, and compare error rates.

    A test says whether they differ.

    The test is Pearson's chi-square for each attribute, its p-values adjusted after Holm for their
    number. Of more than 10,000 images every k-th is taken. `folders` are where the images' names
    may begin, if they are files. With `groups`, the group of an image by its name, intervals are
    those of clusters, and the test counts by the design effect (Rao and Scott, JASA 76, 1981).
    """
    assert test.source is not None
    step = -(-len(test.targets) // MOST_IMAGES)
    index = np.arange(0, len(test.targets), step)
    wrong = ~test.right[index]
    numbers = group_numbers([test.source.names[int(i)] for i in index], groups) if groups else None
    effect = 1.0 if numbers is None else clusters_of(wrong, numbers, spread=0.25).design_effect
    values = pixel_attributes(test.source, index)
    if folders:
        values.update(file_attributes([test.source.names[int(i)] for i in index], folders))

    attributes = []
    for name, value in values.items():
        bins = _bins(value, wrong, numbers)
        if len(bins) > 1:
            p = heterogeneity_p(
                [b["num_wrong"] / effect for b in bins], [b["num_images"] / effect for b in bins]
            )
            attributes.append({"name": name, "bins": bins, "p": p})

    tested = [a for a in attributes if a["p"] is not None]
    for attribute, adjusted in zip(tested, holm([a["p"] for a in tested]), strict=True):
        attribute["p_holm"] = adjusted
        attribute["significant"] = adjusted < 0.05

    return {"num_images": len(index), "num_wrong": int(wrong.sum()), "attributes": attributes}


def _bins(
    value: np.ndarray, wrong: np.ndarray, groups: np.ndarray | None = None
) -> list[dict[str, Any]]:
    """Return the quarters, each with its bounds, counts and error rate.

    Equal values are never divided.
    """
    edges = np.unique(
        np.quantile(value, np.linspace(0, 1, QUARTERS + 1)[1:-1], method="inverted_cdf")
    )
    quarter = np.searchsorted(edges, value, side="left")

    bins = []
    for number in np.unique(quarter):
        inside = quarter == number
        n, k = int(inside.sum()), int(wrong[inside].sum())
        bins.append(
            {
                "low": float(value[inside].min()),
                "high": float(value[inside].max()),
                "num_images": n,
                "num_wrong": k,
                "error_rate": k / n,
                "error_rate_ci95": list(
                    wilson_interval(k, n)
                    if groups is None
                    else clustered_interval(wrong[inside], groups[inside])
                ),
            }
        )

    return bins


def pixel_attributes(source: ImageSource, index: np.ndarray) -> dict[str, np.ndarray]:
    """Return brightness, contrast and sharpness of images, each (N,).

    Brightness is the mean luma in 0..1, contrast its deviation, sharpness the variance of its
    Laplacian.

    They are measured on the pixels that the model sees. Sharpness: Pech-Pacheco et al. (2000), luma
    in 0..255.
    """
    spec = source.spec
    parts: list[torch.Tensor] = []
    for some in torch.from_numpy(index).split(max(1, CHUNK_PIXELS // (spec.height * spec.width))):
        images = source.take(some).images.cpu().float()
        luma = (
            images if spec.channels == 1 else (images * LUMA.view(1, 3, 1, 1)).sum(1, keepdim=True)
        )
        edges = F.conv2d(luma, LAPLACIAN) if min(luma.shape[2:]) >= 3 else luma
        flat = luma.flatten(1)
        columns = (
            flat.mean(1) / 255,
            flat.std(1, correction=0) / 255,
            edges.flatten(1).var(1, correction=0),
        )
        parts.append(torch.stack(columns))

    brightness, contrast, sharpness = torch.cat(parts, 1).numpy()
    return {"brightness": brightness, "contrast": contrast, "sharpness": sharpness}


def file_attributes(names: Sequence[str], folders: Sequence[Path]) -> dict[str, np.ndarray]:
    """Return shorter side in pixels and aspect of files, each (N,).

    Aspect is the longer side by the shorter one. {} unless all can be read.
    """
    sides = []
    for name in names:
        found = next((folder / name for folder in folders if (folder / name).is_file()), None)
        try:
            header = read_header(found) if found else None
        except (OSError, Unreadable):
            header = None
        if header is None:
            return {}
        sides.append((header.height, header.width))

    pixels = np.array(sides, dtype=np.float64)
    return {"size": pixels.min(1), "aspect": pixels.max(1) / pixels.min(1)}
