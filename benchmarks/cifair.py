"""How many of CIFAR-10's known near-copies the audit finds: pairs that people judged for ciFAIR.

    python benchmarks/cifair.py photos/cifar10 --lists cifair/meta --test-labels labels.npy \\
        --train-order cifar10_human_labels.csv.xz

`photos/cifar10` holds train/CLASS/NUMBER.png and test/CLASS/NUMBER.png, numbered within a class in
the official order. The lists (Barz and Denzler 2020, github.com/cvjena/cifair) name images by their
official position: labels.npy holds the official test labels in order (original_test_labels of
github.com/cleanlab/label-errors), and the table of CIFAR-10N has a row for each training image in
order. All images of the lists are audited together with other ones at random.
"""

from __future__ import annotations

import argparse
import csv
import lzma
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from copies import group_of, timed

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
JUDGED = {"0": "exact duplicate", "1": "near-duplicate", "2": "very similar, no copy"}
LISTS = {
    "test and training": "duplicates_cifar10.csv",
    "both in test": "duplicates_cifar10_test.csv",
}
COPIES = (
    "leak",
    "altered leak",
    "altered contradictory",
    "contradictory",
    "copies",
    "near",
    "altered",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--lists", type=Path, required=True)
    parser.add_argument("--test-labels", type=Path, required=True)
    parser.add_argument("--train-order", type=Path, required=True)
    parser.add_argument("--others", type=int, default=2000, help="images that no list names")
    arguments = parser.parse_args()

    test = test_names(np.load(arguments.test_labels))
    order = lzma.decompress(arguments.train_order.read_bytes()).decode()
    train = [row["file"] for row in csv.DictReader(order.splitlines())]
    pairs = [
        (where, JUDGED[row["Judgment"]], test[int(row["TestID"])], second[int(row["TrainID"])])
        for (where, name), second in zip(LISTS.items(), (train, test), strict=True)
        for row in csv.DictReader((arguments.lists / name).open(encoding="utf-8"))
    ]

    named = {name for _, _, *both in pairs for name in both}
    others = sorted({*train, *test} - named)
    chosen = np.random.default_rng(0).permutation(len(others))[: arguments.others]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TINTYPE_CACHE"] = f"{folder}/cache"
        place = Path(folder) / "data"
        for name in sorted(named | {others[i] for i in chosen}):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).symlink_to((arguments.data / name).resolve())
        start = time.perf_counter()
        found = [timed(place, copies=copies)[1] for copies in (False, True)]
    seconds = time.perf_counter() - start

    print(f"{found[1].num_images:,} images, {seconds:.0f} s\n")
    print("| pairs | judged | | by hashes | with the second look | or as the same object |")
    print("|---|---|---|---|---|---|")
    groups = [group_of(each, COPIES) for each in found]
    groups.append(group_of(found[1], (*COPIES, "same object")))
    for where in LISTS:
        for judged in JUDGED.values():
            some = [pair[2:] for pair in pairs if pair[:2] == (where, judged)]
            hits = [sum(a in g and g[a] == g.get(b) for a, b in some) for g in groups]
            if some:
                print(f"| {where} | {judged} | {len(some)} | {' | '.join(map(str, hits))} |")

    unlisted = [
        item.names
        for kind in COPIES
        if kind in found[1]
        for item in found[1][kind].items
        if not named & set(item.names)
    ]
    print(f"\nnamed as copies and in no list: {len(unlisted)} groups")
    for names in unlisted:
        print("  ", *names)


def test_names(labels: np.ndarray) -> list[str]:
    """Return the name of each test image: its class, and its number within the class."""
    numbers = np.zeros(len(labels), np.int64)
    for c in range(len(NAMES)):
        numbers[labels == c] = np.arange((labels == c).sum())
    return [f"test/{NAMES[c]}/{k:04d}.png" for c, k in zip(labels, numbers, strict=True)]


if __name__ == "__main__":
    main()
