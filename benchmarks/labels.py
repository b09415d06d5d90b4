"""Wrong labels that people gave to CIFAR-10 and CIFAR-100: who finds them, and how many?

    pip install cleanlab
    python benchmarks/labels.py DATA LABELS --out OUT [--per-set 10000]

DATA holds cifar10/train/CLASS/NUMBER.png and cifar100/train/CLASS/NUMBER.png. LABELS holds
cifar10_human_labels.csv.xz and cifar100_human_labels.csv.xz, the labels of CIFAR-10N and CIFAR-100N
(Wei et al. 2022): columns file, clean, and one for each set of labels.

The images are a stated sample, as many of each class. Probabilities are those of `tintype audit`:
EfficientNet-Lite0 at 128 pixels and linear discriminant analysis, out of fold. On the same
probabilities cleanlab's `find_label_issues` and `get_label_quality_scores` assess as they do by
default. Precision and recall are of the labels that each flags, average precision of the whole
ranking; "top" is the precision among as many as the other one flags, in the order of each.
Differences have 95 % intervals of a bootstrap over the images.

Each finished cell is a JSON file in OUT/cells, and the next call goes on where this one stopped.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import lzma
import time
from pathlib import Path
from typing import Any

import numpy as np
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from PIL import Image
from sklearn.metrics import average_precision_score

from tintype.verbs.audit.backbone import SIDE, backbone_features
from tintype.verbs.audit.labels import assess, out_of_sample

COLUMNS = {"cifar10": ("aggregate", "first", "worst"), "cifar100": ("noisy",)}
RESAMPLES = 500
Cell = dict[str, Any]


def sampled(labels: Path, name: str, count: int) -> list[dict[str, str]]:
    """Return rows of a table of human labels, as many of each class, drawn with seed 0."""
    with lzma.open(labels / f"{name}_human_labels.csv.xz") as file:
        rows = list(csv.DictReader(io.TextIOWrapper(file, encoding="utf-8")))
    of_class: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        of_class.setdefault(row["clean"], []).append(i)

    rng = np.random.default_rng(0)
    share = count // len(of_class)
    chosen = [np.sort(rng.permutation(of_class[each])[:share]) for each in sorted(of_class)]
    return [rows[i] for i in np.concatenate(chosen).tolist()]


def pixels_of(data: Path, name: str, rows: list[dict[str, str]]) -> np.ndarray:
    """Return the images (N, 32, 32, 3) uint8."""
    files = [data / name / "train" / row["file"].removeprefix("train/") for row in rows]
    return np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])


def interval(values: list[float]) -> list[float]:
    return [float(end) for end in np.quantile(values, [0.025, 0.975])]


def measured(features: np.ndarray, given: np.ndarray, clean: np.ndarray) -> Cell:
    """Return the figures of tintype and of cleanlab on the same probabilities."""
    wrong = given != clean
    start = time.perf_counter()
    probabilities = out_of_sample(features, given, int(clean.max()) + 1)
    fitted = time.perf_counter()
    ours = assess(probabilities, given)
    judged = time.perf_counter()
    theirs = find_label_issues(given, probabilities, return_indices_ranked_by="self_confidence")
    seconds = {"probabilities": fitted - start, "tintype": judged - fitted}
    seconds["cleanlab"] = time.perf_counter() - judged

    order = np.concatenate([ours.rows, ours.others])
    score = np.empty(len(given))
    score[order] = -np.arange(len(order))
    quality = get_label_quality_scores(given, probabilities)

    def found(rows: np.ndarray) -> Cell:
        right = float(wrong[rows].sum())
        return {
            "flagged": len(rows),
            "precision": right / len(rows),
            "recall": right / float(wrong.sum()),
        }

    # as many of each as both of them have
    count = min(len(ours.rows), len(theirs))
    flags = np.zeros((2, len(given)), bool)
    flags[0, order[:count]], flags[1, theirs[:count]] = True, True
    rng = np.random.default_rng(0)
    precision, ranking = [], []
    for _ in range(RESAMPLES):
        rows = rng.integers(0, len(given), len(given))
        top = [wrong[rows][flags[side][rows]].mean() for side in (0, 1)]
        precision.append(float(top[0] - top[1]))
        both = [average_precision_score(wrong[rows], each[rows]) for each in (score, -quality)]
        ranking.append(float(both[0] - both[1]))

    return {
        "num_images": len(given),
        "wrong": float(wrong.mean()),
        "accuracy": ours.accuracy,
        "tintype": {
            **found(ours.rows),
            "average_precision": float(average_precision_score(wrong, score)),
        },
        "cleanlab": {
            **found(theirs),
            "average_precision": float(average_precision_score(wrong, -quality)),
        },
        "top": {
            "count": count,
            "tintype": float(wrong[flags[0]].mean()),
            "cleanlab": float(wrong[flags[1]].mean()),
            "difference_ci95": interval(precision),
        },
        "average_precision_difference_ci95": interval(ranking),
        "seconds": seconds,
    }


def line(name: str, cell: Cell) -> str:
    """Return a row of the table."""
    top, points = cell["top"], [100 * each for each in cell["top"]["difference_ci95"]]
    ours, theirs = cell["tintype"], cell["cleanlab"]

    def said(each: Cell) -> str:
        return f"{each['flagged']:,}: {100 * each['precision']:.1f} / {100 * each['recall']:.1f} %"

    return (
        f"| {name} | {100 * cell['wrong']:.1f} % | {said(ours)} | {said(theirs)} "
        f"| {100 * top['tintype']:.1f} / {100 * top['cleanlab']:.1f} % of {top['count']:,} "
        f"({points[0]:+.1f} to {points[1]:+.1f}) "
        f"| {100 * ours['average_precision']:.1f} / {100 * theirs['average_precision']:.1f} % |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data", type=Path, help="folder that holds cifar10 and cifar100")
    parser.add_argument("labels", type=Path, help="folder of the human labels")
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished cells")
    parser.add_argument("--per-set", type=int, default=10_000, help="images of each set")
    options = parser.parse_args()
    cells = options.out / "cells"
    cells.mkdir(parents=True, exist_ok=True)

    print(
        "| labels | wrong | tintype: flagged, precision / recall | cleanlab "
        "| precision among as many, tintype / cleanlab | average precision |\n"
        "|---|---|---|---|---|---|"
    )
    for name, columns in COLUMNS.items():
        files = {column: cells / f"{name}-{column}-{options.per_set}.json" for column in columns}
        if not all(file.exists() for file in files.values()):
            rows = sampled(options.labels, name, options.per_set)
            features, _ = backbone_features(pixels_of(options.data, name, rows), SIDE)
            names = sorted({row["clean"] for row in rows})
            clean = np.array([names.index(row["clean"]) for row in rows])
            for column, file in files.items():
                given = np.array([names.index(row[column]) for row in rows])
                cell = measured(features, given, clean)
                file.write_text(json.dumps(cell, indent=1), encoding="utf-8")
        for column, file in files.items():
            print(line(f"{name}, {column}", json.loads(file.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
