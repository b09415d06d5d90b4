"""How often images are said to be unlike the training images: those of the test split, and others that are.

    python benchmarks/unlike.py digits mnist fashion-mnist photos/trashnet photos/pets
    photos/cifar10 --data-root DATA

For each data set the ranges are learned from its training and validation images as in training (no
network is needed), and asked about its test images (false alarms), changed test images, noise, and
test images of each other data set, brought to its size. Colour photos are given to grey models in
colour and in grey. At most 2,000 images of each kind.

Milder changes, of which a model may stand some, are listed apart: brightness times 0.8, the image
enlarged fourfold and saved as JPEG before it is brought to size, upside down.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tintype.data import open_data
from tintype.data.decode import decode, fit
from tintype.data.source import DataSplits, ImageSource
from tintype.data.typical import LUMA, Typical, learn
from tintype.training.measure import typical_images

MOST = 2_000
MOST_OTHER = 500  # of each other data set


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="+", help="names of data sets, or folders of photos")
    parser.add_argument("--data-root", help="where named data sets lie")
    arguments = parser.parse_args()
    sets = {}
    for data in arguments.data:
        root = None if Path(data).is_dir() or data == "digits" else arguments.data_root
        sets[Path(data).name] = open_data(data, data_root=root)
    for name, splits in sets.items():
        report(
            name,
            splits,
            {other: pixels_of(s.test, MOST_OTHER) for other, s in sets.items() if other != name},
        )


def report(name: str, splits: DataSplits, others: dict[str, np.ndarray]) -> None:
    """Print a line for each kind of image: how many were said to be unlike the training images."""
    grey = splits.spec.channels == 1
    found = learn(
        typical_images(splits.train), typical_images(splits.val), coloured=0.0 if grey else None
    )
    if found is None:
        print(f"{name}: too few training images")
        return
    spec, test = splits.spec, pixels_of(splits.test, MOST)
    size = f"{spec.height}x{spec.width}x{spec.channels}"
    print(
        f"{name}: {len(splits.train):,} training images {size}, colour in {found.coloured:.1%} of them"
    )
    show("test images (false alarms)", found, test)
    for kind, images in {**changed(test), **noise(test.shape)}.items():
        show(kind, found, images)
    for other, images in others.items():
        as_colour = images.shape[3] == 3 and grey
        prepared = [
            fit(image, height=spec.height, width=spec.width, channels=spec.channels)
            for image in images
        ]
        if as_colour:
            show(f"{other}, in colour", found, np.stack(prepared), has_colour=True)
        show(f"{other}, in grey" if as_colour else other, found, np.stack(prepared))
    for kind, images in milder(test).items():
        show(f"(milder) {kind}", found, images)


def show(kind: str, found: Typical, images: np.ndarray, *, has_colour: bool = False) -> None:
    reasons = [
        reason
        for start in range(0, len(images), 100)
        for reason in found.reasons(
            images[start : start + 100], [has_colour] * len(images[start : start + 100])
        )
    ]
    count = sum(map(bool, reasons))
    print(f"  {kind:34} {count:5,} of {len(images):5,}  {count / len(images):7.1%}")


def pixels_of(source: ImageSource, most: int) -> np.ndarray:
    """Return evenly spread images (N, H, W, C) uint8."""
    index = (
        torch.linspace(0, len(source) - 1, min(len(source), most), dtype=torch.float64)
        .round()
        .long()
    )
    return source.take(index).images.permute(0, 2, 3, 1).numpy()


def changed(images: np.ndarray) -> dict[str, np.ndarray]:
    found = {"inverted": 255 - images, "at 0.3 of the brightness": (images * 0.3).astype(np.uint8)}
    if images.shape[3] == 3:
        luma = (images @ LUMA).round().astype(np.uint8)
        found["without colour"] = np.repeat(luma[..., None], 3, axis=3)
    return found


def noise(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    channels = shape[3]
    shape = (min(500, shape[0]), *shape[1:3], 1)
    plain = draw.integers(0, 256, shape).astype(np.uint8)
    normal = draw.normal(128, 40, shape).clip(0, 255).astype(np.uint8)
    empty = np.stack([np.full(shape[1:], level, np.uint8) for level in range(0, 256, 5)])
    kinds = {"grey noise, even": plain, "grey noise, normal": normal, "one grey all over": empty}
    return {kind: np.repeat(images, channels, axis=3) for kind, images in kinds.items()}


def milder(images: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "0.8 of the brightness": (images * 0.8).astype(np.uint8),
        "enlarged and saved as JPEG": np.stack([_through_jpeg(image) for image in images[:500]]),
        "upside down": images[:, ::-1],
    }


def _through_jpeg(image: np.ndarray) -> np.ndarray:
    height, width, channels = image.shape
    picture = Image.fromarray(image[:, :, 0] if channels == 1 else image)
    buffer = io.BytesIO()
    picture.resize((4 * width, 4 * height), Image.Resampling.BILINEAR).save(
        buffer, "JPEG", quality=80
    )
    return decode(buffer.getvalue(), height=height, width=width, channels=channels)


if __name__ == "__main__":
    main()
