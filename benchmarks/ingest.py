"""Measure how fast a folder of photos becomes training images, against torchvision's ImageFolder and DataLoader.

    python benchmarks/ingest.py --photos 2000 --size 1024x768 --image-size 128
    python benchmarks/ingest.py --folder my_photos

First pass: from the files to batches (here with decoding into the cache). Later passes: every image
once more, in random order. Both sides end with float batches (N, 3, S, S) of 0..1. The photos are
made from two pictures that come with scikit-learn: crops with moved colours and grain, saved as
JPEG of quality 90. Both sides read files that the system holds in memory, in turns, and the median
of the rounds is shown.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from tintype.data import DataSplits, open_data
from tintype.hardware.device import hold_memory, num_cores

BATCH = 64


def make_photos(root: Path, num_photos: int, width: int, height: int) -> None:
    """Write photos of four classes, no two alike."""
    from sklearn.datasets import load_sample_images

    pictures = [Image.fromarray(picture) for picture in load_sample_images().images]
    rng = np.random.default_rng(0)
    for i in range(num_photos):
        picture = pictures[i % len(pictures)]
        zoom = rng.uniform(0.6, 1.0)
        wide, tall = picture.width * zoom, picture.height * zoom
        left, top = rng.uniform(0, picture.width - wide), rng.uniform(0, picture.height - tall)
        photo = picture.resize(
            (width, height), Image.Resampling.BICUBIC, box=(left, top, left + wide, top + tall)
        )
        # without it enlarged pictures take too few bits
        grain = rng.normal(0, 3, (height, width, 1))
        pixels = np.asarray(photo) * rng.uniform(0.7, 1.3, 3) + grain
        folder = root / f"class{i % 4}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(
            folder / f"{i:05d}.jpg", quality=90
        )


def epoch_of_tintype(splits: DataSplits) -> int:
    """Take every image once in random order, as floats; return their number."""
    count = 0
    for split in ("train", "val", "test"):
        source = splits[split]
        for index in torch.randperm(len(source)).split(BATCH):
            images = source.take(index).images.float().div_(255)
            count += len(images)
    return count


def epoch_of_loader(loader: DataLoader) -> int:
    """The same with the usual loader."""
    return sum(len(images) for images, _ in loader)


def measure(folder: Path, image_size: int, workers: int) -> dict[str, float]:
    """Return images per second of both sides, first and later."""
    usual = transforms.Compose(
        [
            transforms.Resize(image_size, antialias=True),
            transforms.CenterCrop(image_size),
            transforms.ToTensor(),
        ]
    )
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TINTYPE_CACHE"] = cache

        start = time.perf_counter()
        splits = open_data(str(folder), image_size=image_size, channels=3)
        count = epoch_of_tintype(splits)
        first = time.perf_counter() - start
        start = time.perf_counter()
        open_data(str(folder), image_size=image_size, channels=3)
        reopening = time.perf_counter() - start
        start = time.perf_counter()
        epoch_of_tintype(splits)
        later = time.perf_counter() - start
    loader = DataLoader(
        ImageFolder(str(folder), usual), batch_size=BATCH, shuffle=True, num_workers=workers
    )
    start = time.perf_counter()
    their_count = epoch_of_loader(loader)
    theirs = time.perf_counter() - start
    start = time.perf_counter()
    epoch_of_loader(loader)
    theirs_later = time.perf_counter() - start
    if count != their_count:
        print(f"note: {their_count - count} of {their_count} files cannot be read")
    return {
        "first": count / first,
        "later": count / later,
        "their first": their_count / theirs,
        "their later": their_count / theirs_later,
        "reopening seconds": reopening,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how fast photos become training images.")
    parser.add_argument("--photos", type=int, default=1000, help="how many photos to make")
    parser.add_argument("--size", default="1024x768", help="their size, width x height")
    parser.add_argument(
        "--image-size", type=int, default=128, help="side of the images to train on"
    )
    parser.add_argument("--folder", type=Path, help="a folder ROOT/CLASS/* of your own instead")
    parser.add_argument("--workers", type=int, default=2, help="of the DataLoader")
    parser.add_argument("--rounds", type=int, default=3, help="how often to measure")
    arguments = parser.parse_args()
    hold_memory()  # as `tintype train` does; the loader's workers inherit it
    with tempfile.TemporaryDirectory() as made:
        folder = arguments.folder or Path(made)
        if not arguments.folder:
            width, height = (int(side) for side in arguments.size.split("x"))
            make_photos(folder, arguments.photos, width, height)
        rounds = [
            measure(folder, arguments.image_size, arguments.workers)
            for _ in range(arguments.rounds)
        ]
    median = {key: statistics.median(result[key] for result in rounds) for key in rounds[0]}
    what = arguments.folder or f"{arguments.photos} photos of {arguments.size}"
    print(
        f"{what}, image size {arguments.image_size}, {num_cores()} cores, median of {arguments.rounds}\n"
    )
    usual = f"ImageFolder, {arguments.workers} workers"
    print(f"{'images per second':<22}{'tintype':>12}{usual:>26}{'ratio':>9}")
    for key in ("first", "later"):
        ours, theirs = median[key], median[f"their {key}"]
        print(f"{key + ' pass':<22}{ours:>12,.0f}{theirs:>26,.0f}{ours / theirs:>9.1f}")
    print(f"\nopening again from the cache: {median['reopening seconds']:.2f} s")


if __name__ == "__main__":
    main()
