"""Does streaming keep up? Images a second from shards, beside the same images in memory.

    python benchmarks/shards.py [--milliseconds 5] [--side 128] [--images 2000] [--out FILE]

Photos of noise and gradients are written as JPEG into shards. Batches are taken as training takes
them, and each is answered after a wait of so many milliseconds for each image, which stands for a
network that computes elsewhere (a GPU), so that this measures the reading and not the machine's
arithmetic. Reading from memory and streaming take turns, and the ratio of each turn is printed with
their median.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from tintype.data import open_data
from tintype.data.sets.folder import find_photos
from tintype.data.shards.writing import write_shards
from tintype.data.source import ImageSource
from tintype.training.order import Order, batches

BATCH = 32


def write(folder: Path, images: int, side: int) -> Path:
    """Write images into two class folders, and shards of them; return the folder of shards."""
    random = np.random.default_rng(0)
    for i in range(images):
        small = random.integers(0, 255, (side // 8, side // 6, 3), np.uint8)
        picture = Image.fromarray(small).resize((side * 4 // 3, side), Image.Resampling.BICUBIC)
        place = folder / "photos" / ("a", "b")[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        picture.save(place / f"{i:05d}.jpg", quality=85)
    photos = find_photos(folder / "photos").photos
    write_shards(photos, ["label"], folder / "shards", shard_bytes=1_000_000)
    return folder / "shards"


def images_per_second(train: ImageSource, epoch: int, seconds_an_image: float) -> float:
    """Return how fast an epoch is taken, each batch with a wait that stands for a network."""
    order = Order(epoch, len(train), BATCH, shards=train.shards)
    steps = len(train) // BATCH
    started = time.perf_counter()
    for batch in batches(train, order, 0, steps):
        time.sleep(seconds_an_image * len(batch.targets))
    return steps * BATCH / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--milliseconds", type=float, default=5.0, help="a network takes an image")
    parser.add_argument("--side", type=int, default=256, help="of the photos, in pixels")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        shards = write(Path(folder), given.images, given.side)
        resident = open_data(str(shards), image_size=128).train
        streamed = open_data(str(shards), image_size=128, cache_size="4MB").train
        assert (resident.kind, streamed.kind) == ("resident", "streamed")
        figures = []
        for turn in range(given.turns):
            memory = images_per_second(resident, turn, given.milliseconds / 1000)
            shard = images_per_second(streamed, turn, given.milliseconds / 1000)
            figures.append({"memory": memory, "shards": shard, "ratio": shard / memory})
            print(
                f"{memory:,.0f} images/s from memory, {shard:,.0f} from shards: {shard / memory:.3f}"
            )
        median = statistics.median(figure["ratio"] for figure in figures)
        alone = images_per_second(streamed, 0, 0.0)
        print(f"median {median:.3f}; without a network {alone:,.0f} images/s from shards")

    if given.out:
        result = {**vars(given), "out": str(given.out), "turns": figures, "median": median}
        given.out.write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
