"""How many planted copies of each kind the audit finds, in which time, and which other pairs it names.

    python benchmarks/copies.py photos/trashnet photos/pets --each 40 --pairs pairs.csv
    python benchmarks/copies.py photos/cifar10 --most 5000

Photos are linked into a temporary folder beside altered copies of some of them, each photo altered
in one way at most, and `tintype.audit` looks at all of them without judging labels. A copy counts as
found where it is in one group with its original, by hashes or by the second look. Seconds are those
of the processor, of all threads together, without what an audit without the second look takes.
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFont, ImageOps

import tintype as tt
from tintype.verbs.audit import Audit

Change = Callable[[Image.Image, np.random.Generator], Image.Image]
QUARTERS = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270)


def cropped(
    image: Image.Image, left: float, top: float, right: float, bottom: float
) -> Image.Image:
    width, height = image.size
    upper = (round(width * left), round(height * top))
    lower = (round(width * (1 - right)), round(height * (1 - bottom)))
    return image.crop((*upper, *lower))


def cropped_unevenly(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Cut up to a fifth off each edge, and bring the rest to the old size."""
    return cropped(image, *rng.uniform(0, 0.2, 4)).resize(image.size, Image.Resampling.BICUBIC)


def framed(image: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    grey = int(rng.choice((0, 128, 255)))
    edges = tuple(max(1, round(side * share)) for side in image.size)
    return ImageOps.expand(image, edges, (grey, grey, grey))


def turned(image: Image.Image, degrees: float, rng: np.random.Generator) -> Image.Image:
    return image.rotate(degrees * rng.choice((-1, 1)), Image.Resampling.BICUBIC)


def painted_text(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Write a line of letters, of 8 to 15 % of the height."""
    image = image.copy()
    width, height = image.size
    font = ImageFont.load_default(max(6, round(height * rng.uniform(0.08, 0.15))))
    letters = "".join(rng.choice(list("ABCDEFGHIKLMNOPRSTUVW "), rng.integers(8, 16)))
    place = (rng.uniform(0, 0.35) * width, rng.uniform(0.05, 0.8) * height)
    ImageDraw.Draw(image).text(place, letters, fill=colour(rng), font=font)
    return image


def painted_box(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Cover 6 to 21 % of the photo by a box with text."""
    image = image.copy()
    width, height = image.size
    box_width, box_height = width * rng.uniform(0.4, 0.7), height * rng.uniform(0.15, 0.3)
    left, top = rng.uniform(0, width - box_width), rng.uniform(0, height - box_height)
    draw = ImageDraw.Draw(image)
    draw.rectangle((left, top, left + box_width, top + box_height), fill=colour(rng))
    font = ImageFont.load_default(max(6, round(box_height / 2)))
    draw.text((left + 3, top + 3), "SAMPLE TEXT 123", fill=colour(rng), font=font)
    return image


def painted_logo(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Put a disc with a square on it, of 15 to 25 % of the short side."""
    image = image.copy()
    size = min(image.size) * rng.uniform(0.15, 0.25)
    left, top = (rng.uniform(0, side - size) for side in image.size)
    draw = ImageDraw.Draw(image)
    draw.ellipse((left, top, left + size, top + size), fill=colour(rng))
    inner = (left + size * 0.3, top + size * 0.3, left + size * 0.7, top + size * 0.7)
    draw.rectangle(inner, fill=colour(rng))
    return image


def colour(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = rng.integers(0, 256, 3).tolist()
    return red, green, blue


def augmented(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Do what annotation tools write into a set: mirror, turn, cut and brighten."""
    image = ImageOps.mirror(image) if rng.random() < 0.5 else image
    image = image.rotate(rng.uniform(-10, 10), Image.Resampling.BICUBIC)
    image = cropped_unevenly(image, rng)
    return ImageEnhance.Brightness(image).enhance(rng.uniform(0.75, 1.25))


KINDS: dict[str, Change] = {
    "cropped by 3 % on each edge": lambda image, rng: cropped(image, *[0.03] * 4),
    "cropped by 10 %": lambda image, rng: cropped(image, *[0.1] * 4),
    "cropped by 20 %": lambda image, rng: cropped(image, *[0.2] * 4),
    "cropped by 0 to 20 %, resized": cropped_unevenly,
    "border of 3 %": lambda image, rng: framed(image, 0.03, rng),
    "border of 10 %": lambda image, rng: framed(image, 0.1, rng),
    "turned by 1 degree": lambda image, rng: turned(image, 1, rng),
    "turned by 3 degrees": lambda image, rng: turned(image, 3, rng),
    "turned by 10 degrees": lambda image, rng: turned(image, 10, rng),
    "turned by 90 degrees": lambda image, rng: image.transpose(QUARTERS[rng.integers(2)]),
    "turned by 180 degrees": lambda image, rng: image.transpose(Image.Transpose.ROTATE_180),
    "upside down": lambda image, rng: ImageOps.flip(image),
    "inverted": lambda image, rng: ImageOps.invert(image),
    "text": painted_text,
    "text in a box": painted_box,
    "logo": painted_logo,
    "mirrored and cropped": lambda image, rng: cropped_unevenly(ImageOps.mirror(image), rng),
    "mirrored, turned, cropped, brightened": augmented,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="+", type=Path, help="folders of photos")
    parser.add_argument("--each", type=int, default=40, help="copies of each kind")
    parser.add_argument("--most", type=int, help="photos of each folder, at random")
    parser.add_argument("--pairs", type=Path, help="write the pairs that were not planted")
    arguments = parser.parse_args()

    others = []
    for data in arguments.data:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["TINTYPE_CACHE"] = f"{folder}/cache"
            others += measure(data, Path(folder) / "data", arguments.each, arguments.most)
    if arguments.pairs:
        with arguments.pairs.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(
                [("set", "kind", "remark", "photos"), *others]
            )


def measure(data: Path, folder: Path, each: int, most: int | None) -> list[tuple[str, ...]]:
    """Print a table for one set, and return the groups of its own photos that were named."""
    planted = plant(data, folder, each, most)
    before, _ = timed(folder, copies=False)
    seconds, found = timed(folder, copies=True)

    group = group_of(found, ("copies", "near", "contradictory", "altered", "altered contradictory"))
    print(f"\n{data.name}: {found.num_images:,} images, {seconds - before:.0f} s more\n")
    print("| copy | found |\n|---|---|")
    for kind in KINDS:
        pairs = [(copy, original) for copy, original, of in planted if of == kind]
        hits = sum(copy in group and group[copy] == group.get(original) for copy, original in pairs)
        print(f"| {kind} | {hits} of {len(pairs)} |")

    copies = {copy for copy, _, _ in planted}
    others = [
        (data.name, kind, item.remark, " ".join(sorted(item.names)))
        for kind in ("altered", "same object")
        if kind in found
        for item in found[kind].items
        if not copies & set(item.names)
    ]
    for kind in ("altered", "same object"):
        print(f"{kind}, not planted: {sum(other[1] == kind for other in others)} groups")
    return others


def plant(data: Path, folder: Path, each: int, most: int | None) -> list[tuple[str, str, str]]:
    """Link the photos, write the copies; return (copy, original, kind) by their names."""
    rng = np.random.default_rng(0)
    photos = sorted(path for path in data.rglob("*") if path.suffix in (".jpg", ".png"))
    photos = [photos[i] for i in rng.permutation(len(photos))[:most]]
    each = min(each, len(photos) // len(KINDS))
    for photo in photos:
        place = folder / photo.relative_to(data)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(photo.resolve())

    planted = []
    for number, (kind, change) in enumerate(KINDS.items()):
        for photo in photos[number * each : (number + 1) * each]:
            original = photo.relative_to(data)
            copy = original.with_name(f"{original.stem} {number}{original.suffix}")
            with Image.open(photo) as image:
                change(image.convert("RGB"), rng).save(folder / copy, quality=88)
            planted.append((copy.as_posix(), original.as_posix(), kind))
    return planted


def timed(folder: Path, *, copies: bool) -> tuple[float, Audit]:
    start = time.process_time()
    found = tt.audit(str(folder), labels=False, copies=copies, verbose=False)
    return time.process_time() - start, found


def group_of(found: Audit, kinds: tuple[str, ...]) -> dict[str, int]:
    """Return a number for each image that is in a group of these kinds, equal within a group."""
    group: dict[str, int] = {}
    number = 0
    for kind in kinds:
        for item in found[kind].items if kind in found else ():
            number += 1
            known = {group[name] for name in item.names if name in group}
            group.update(dict.fromkeys(item.names, number))
            group.update({name: number for name, other in group.items() if other in known})
    return group


if __name__ == "__main__":
    main()
