"""A map of the test images: near to each other lie those that look alike to the network."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tintype.files.whole import written_whole
from tintype.tasks.classify.analysis.examples import Answers

MOST_POINTS = 1000
MOST_THUMBNAILS = 500
THUMBNAIL = 48  # pixels; smaller images keep their size
FEWEST_POINTS = 30  # for t-SNE
SHEET_COLUMNS = 25


def embedding_map(folder: Path, test: Answers, thorough: bool) -> dict[str, Any] | None:
    """Place at most 1,000 test images in two dimensions, and write their thumbnails.

    The places follow from what the last layer sees, at unit length: principal components, and where
    `thorough` t-SNE of the first 50 of them (van der Maaten & Hinton 2008). None where the network
    has no such features.
    """
    if test.features.shape[1] < 2 or len(test.targets) < 3:
        return None
    draw = np.random.default_rng(0)
    index = np.sort(draw.permutation(len(test.targets))[:MOST_POINTS])
    components, shares = principal_components(test.features[index].astype(np.float64), 50)
    thorough = thorough and len(index) >= FEWEST_POINTS
    places = t_sne(components) if thorough else components[:, :2]
    with_picture = _with_picture(test, index, draw)
    thumbnail = np.full(len(index), -1)
    thumbnail[with_picture] = np.arange(len(with_picture))

    return {
        "method": "t-SNE" if thorough else "PCA",
        "share_of_variance": [round(float(share), 4) for share in shares[:2]],
        "num_images": len(test.targets),
        "x": _unit(places[:, 0]),
        "y": _unit(places[:, 1]),
        "position": index.tolist(),
        "target": test.targets[index].tolist(),
        "prediction": test.guesses[index].tolist(),
        "confidence": [round(float(c), 3) for c in test.confidence[index]],
        "thumbnail": thumbnail.tolist(),
        "sheet": _write_sheet(folder, test, index[with_picture]),
    }


def _with_picture(test: Answers, index: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Choose which points have a thumbnail: the mistakes first."""
    order = draw.permutation(len(index))
    order = order[np.argsort(test.right[index][order], kind="stable")]
    return np.sort(order[:MOST_THUMBNAILS])


def _unit(values: np.ndarray) -> list[float]:
    """Return values scaled to -1..1, in as few digits as a screen can show."""
    return (values / max(float(np.abs(values).max()), 1e-12)).round(3).tolist()


def principal_components(features: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first `count` principal components (N, count) of features (N, D).

    The share of the variance of each is with them.

    The sign is such that the entry of largest size is positive, so that the same features give the
    same picture.
    """
    centred = features - features.mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    count = max(2, min(count, len(s)))
    components = u[:, :count] * s[:count]
    signs = np.sign(components[np.abs(components).argmax(0), np.arange(components.shape[1])])
    variance = s**2 / max(float((s**2).sum()), 1e-300)
    return components * np.where(signs == 0, 1, signs), variance[:count]


def t_sne(components: np.ndarray) -> np.ndarray:
    """Return t-SNE places (N, 2) of N points.

    It begins from their first two components, so that it is always the same.
    """
    from sklearn.manifold import TSNE

    start: Any = (components[:, :2] / max(float(components[:, 0].std()), 1e-12) * 1e-4).astype(
        np.float32
    )
    perplexity = min(30.0, (len(components) - 1) / 3)
    # One thread: sums of several would end in another order each time.
    model = TSNE(init=start, perplexity=perplexity, max_iter=500, random_state=0, n_jobs=1)
    return model.fit_transform(components.astype(np.float32))


def _write_sheet(folder: Path, test: Answers, index: np.ndarray) -> dict[str, Any]:
    """Write the thumbnails of some images as one picture, row by row, and return its measures."""
    pictures = [_thumbnail(test.pixels(int(i))) for i in index]
    width, height = pictures[0].size
    columns = min(SHEET_COLUMNS, len(pictures))
    mode = pictures[0].mode
    sheet = Image.new(mode, (columns * width, -(-len(pictures) // columns) * height))
    for number, picture in enumerate(pictures):
        sheet.paste(picture, ((number % columns) * width, (number // columns) * height))
    tiny = max(width, height) <= 16  # JPEG works in blocks of eight
    buffer = io.BytesIO()
    sheet.save(
        buffer,
        **({"format": "PNG", "optimize": True} if tiny else {"format": "JPEG", "quality": 80}),
    )
    file = "map.png" if tiny else "map.jpg"
    with written_whole(folder / file) as temporary:
        temporary.write_bytes(buffer.getvalue())

    return {
        "file": file,
        "columns": columns,
        "count": len(pictures),
        "width": width,
        "height": height,
    }


def _thumbnail(pixels: np.ndarray) -> Image.Image:
    picture = Image.fromarray(
        pixels[:, :, 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels)
    )
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return picture
