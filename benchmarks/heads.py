"""The chosen head against scikit-learn's LogisticRegressionCV on the same features, rows and folds.

    python benchmarks/heads.py --data-root DATA --out OUT [--only trashnet,pets]
        [--seeds 5] [--first-seed 0]
    python benchmarks/heads.py --out OUT --table-only

DATA holds `torchvision/MNIST/raw`, `cifar10/{train,test}/CLASS`, `trashnet/CLASS` and `pets/BREED`.
Features are those of EfficientNet-Lite0, of its last two stages, averaged over the photo and its
mirror image. A pair is one set and one seed: TrashNet and pets are cut into 80 and 20 % of each
class, of CIFAR-10 40 and of MNIST 100 training images a class are drawn, and 1,000 test images stay
the same. Another first seed draws other test images, for figures that no change of the heads has
seen. Both sides run on one thread, and their seconds are those of the processor, without the
features. Each finished pair is a file in OUT, so that the next call goes on where this one stopped.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from scipy import stats
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torchvision.datasets import MNIST

from tintype.data.source import DataSpec
from tintype.data.targets import Classes
from tintype.models import build_model
from tintype.runs.pretrained import load_pretrained
from tintype.tasks.frozen import FrozenBackbone
from tintype.tasks.heads import fit_head
from tintype.tasks.linear_heads import log_losses

NUM_TEST = 1000
A_CLASS = {"cifar10": 40, "mnist": 100}
SIDES = {"trashnet": 224, "pets": 224, "cifar10": 128, "mnist": 128}


class Photos(NamedTuple):
    """Readers of photos with their classes, and which of them are for testing alone."""

    readers: Sequence[Callable[[], Image.Image]]
    classes: np.ndarray
    is_test: np.ndarray


def photos_of(name: str, root: Path, draw: int) -> Photos:
    """Return the photos of a set; of CIFAR-10 and MNIST those of one draw."""
    if name == "mnist":
        parts = [MNIST(str(root / "torchvision"), train=train) for train in (True, False)]
        readers = [lambda i=i, part=part: part[i][0] for part in parts for i in range(len(part))]
        classes = np.concatenate([part.targets.numpy() for part in parts])
        return _some(Photos(readers, classes, np.arange(len(classes)) >= len(parts[0])), 600, draw)

    files = sorted(
        file for file in (root / name).rglob("*") if file.suffix.lower() in (".jpg", ".png")
    )
    names = sorted({file.parent.name for file in files})
    classes = np.array([names.index(file.parent.name) for file in files])
    readers = [lambda file=file: Image.open(file) for file in files]
    is_test = np.array([file.parent.parent.name == "test" for file in files])
    found = Photos(readers, classes, is_test)
    return _some(found, 250, draw) if name in A_CLASS else found


def _some(photos: Photos, a_class: int, draw: int) -> Photos:
    """Keep some training photos of each class, and NUM_TEST test photos."""
    generator = np.random.default_rng(draw)
    drawn = generator.permutation(len(photos.classes))
    kept = [drawn[photos.is_test[drawn]][:NUM_TEST]]
    for number in np.unique(photos.classes):
        inside = (photos.classes[drawn] == number) & ~photos.is_test[drawn]
        kept.append(drawn[inside][:a_class])
    rows = np.sort(np.concatenate(kept))
    return Photos([photos.readers[i] for i in rows], photos.classes[rows], photos.is_test[rows])


def features_of(name: str, root: Path, out: Path, draw: int) -> dict[str, np.ndarray]:
    """Return features (N, F), classes (N,) and is_test (N,) of a set, computed once."""
    of_draw = f"-{draw}" if draw and name in A_CLASS else ""
    file = out / f"features-{name}{of_draw}.npz"
    if file.exists():
        return dict(np.load(file))

    photos = photos_of(name, root, draw)
    side = SIDES[name]
    spec = DataSpec("photos", 3, side, side, Classes(tuple("ab")), (0.5,) * 3, (0.5,) * 3, "")
    network = build_model("efficientnet_lite0", spec, {"stages": 2}, 0).eval()
    load_pretrained(network, "efficientnet_lite0", spec)
    frozen = FrozenBackbone(
        nn.Module.to(network, memory_format=torch.channels_last), "efficientnet_lite0", spec,
        torch.device("cpu"), torch.float32, lambda images: (images.float() / 127.5) - 1,
    )  # fmt: skip

    found = []
    for start in range(0, len(photos.readers), 32):
        some = photos.readers[start : start + 32]
        images = torch.stack([_prepared(reader(), side) for reader in some])
        found.append((frozen.compute(images) + frozen.compute(images.flip(3))) / 2)
        print(f"{name}: features of {start + len(some):,} of {len(photos.readers):,}", end="\r")
    print()
    values = {
        "features": np.concatenate(found), "classes": photos.classes, "is_test": photos.is_test,
    }  # fmt: skip
    np.savez(file, **values)
    return values


def _prepared(image: Image.Image, side: int) -> Tensor:
    """Return the middle (3, side, side) of a photo, whose short side is a little longer."""
    image = image.convert("RGB")
    factor = side / 0.875 / min(image.size)
    width, height = (max(side, round(length * factor)) for length in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - side) // 2, (height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


def drawn(name: str, data: dict[str, np.ndarray], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to fit and those to measure on."""
    classes, is_test = data["classes"], data["is_test"]
    rows = np.arange(len(classes))
    if name not in A_CLASS:
        train, test = train_test_split(rows, test_size=0.2, stratify=classes, random_state=seed)
        return np.asarray(train), np.asarray(test)

    free = np.random.default_rng(seed).permutation(rows[~is_test])
    train = [free[classes[free] == number][: A_CLASS[name]] for number in np.unique(classes)]
    return np.concatenate(train), rows[is_test]


def compare(name: str, data: dict[str, np.ndarray], seed: int) -> dict[str, Any]:
    """Return accuracy, log loss and seconds of both on one pair of set and seed."""
    train, test = drawn(name, data, seed)
    features = data["features"].astype(np.float64)
    classes = data["classes"]
    x, y = features[train], classes[train]
    count = int(classes.max()) + 1

    started = time.process_time()
    fitted = fit_head(x, y, count, seed=seed)
    ours_seconds = time.process_time() - started
    logits = fitted.head.logits(features[test])

    started = time.process_time()
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
    settings: dict[str, Any] = {
        "Cs": np.logspace(-4, 2, 13), "l1_ratios": (0,), "scoring": "neg_log_loss",
        "max_iter": 5000, "use_legacy_attributes": False,
        "cv": list(folds.split(x, y, np.arange(len(y)))),
    }  # fmt: skip
    regression = LogisticRegressionCV(**settings)
    known = make_pipeline(StandardScaler(), regression).fit(x, y)
    their_seconds = time.process_time() - started
    probabilities = known.predict_proba(features[test])

    assert fitted.nested is not None
    return {
        "set": name,
        "seed": seed,
        "num_train": len(train),
        "num_test": len(test),
        "chosen": fitted.chosen,
        "promised_log_loss": fitted.nested.log_loss,
        "promised_accuracy": fitted.nested.accuracy,
        "candidates": {each.name: each.log_loss for each in fitted.candidates},
        "ours": {
            "log_loss": float(log_losses(logits, classes[test]).mean()),
            "accuracy": float((logits.argmax(1) == classes[test]).mean()),
            "seconds": ours_seconds,
        },
        "theirs": {
            "log_loss": float(log_loss(classes[test], probabilities, labels=np.arange(count))),
            "accuracy": float((probabilities.argmax(1) == classes[test]).mean()),
            "seconds": their_seconds,
            "C": float(np.ravel(regression.C_)[0]),
        },
    }


def table(out: Path) -> str:
    """Return the table of all finished pairs, and the three figures that count."""
    pairs = [
        json.loads(file.read_text(encoding="utf-8")) for file in sorted(out.glob("pair-*.json"))
    ]
    lines = [
        "| set | pairs | log loss | LogisticRegressionCV | accuracy | LogisticRegressionCV "
        "| promised by folds | seconds | LogisticRegressionCV |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in SIDES:
        of_set = [pair for pair in pairs if pair["set"] == name]
        if not of_set:
            continue

        def mean(side: str, key: str, of_set: list[dict[str, Any]] = of_set) -> float:
            return float(np.mean([pair[side][key] for pair in of_set]))

        promised = np.mean([pair["promised_accuracy"] for pair in of_set])
        lines.append(
            f"| {name} | {len(of_set)} | {mean('ours', 'log_loss'):.4f} "
            f"| {mean('theirs', 'log_loss'):.4f} | {mean('ours', 'accuracy'):.2%} "
            f"| {mean('theirs', 'accuracy'):.2%} | {promised:.2%} "
            f"| {mean('ours', 'seconds'):.1f} | {mean('theirs', 'seconds'):.1f} |"
        )

    if len(pairs) < 2:
        return "\n".join(lines)
    losses = [pair["ours"]["log_loss"] - pair["theirs"]["log_loss"] for pair in pairs]
    gains = [100 * (pair["ours"]["accuracy"] - pair["theirs"]["accuracy"]) for pair in pairs]
    ratios = [pair["ours"]["seconds"] / pair["theirs"]["seconds"] for pair in pairs]
    error = float(stats.sem(gains) * stats.t.ppf(0.975, len(gains) - 1))
    centre = float(np.mean(gains))
    chosen = sorted({pair["chosen"] for pair in pairs})
    counts = [f"{kind} {sum(pair['chosen'] == kind for pair in pairs)}" for kind in chosen]
    return "\n".join(
        [
            *lines,
            "",
            f"{len(pairs)} pairs: log loss {np.mean(losses):+.4f} on average (lower in "
            f"{sum(loss < 0 for loss in losses)}); accuracy {centre:+.2f} points (paired 95 % "
            f"interval {centre - error:+.2f} to {centre + error:+.2f}); seconds "
            f"{np.median(ratios):.2f} of theirs in the median, {max(ratios):.2f} at the most. "
            f"Chosen: {', '.join(counts)}.",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default=",".join(SIDES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--table-only", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)

    names = [] if options.table_only else options.only.split(",")
    first = options.first_seed
    for seed in range(first, first + options.seeds):  # so that every set has some pairs soon
        for name in names:
            file = options.out / f"pair-{name}-{seed}.json"
            if file.exists():
                continue
            data = features_of(name, options.data_root, options.out, first)
            with threadpool_limits(1):
                pair = compare(name, data, seed)
            file.write_text(json.dumps(pair, indent=1), encoding="utf-8")
            print(name, seed, json.dumps({key: pair[key] for key in ("chosen", "ours", "theirs")}))
    print(table(options.out))


if __name__ == "__main__":
    main()
