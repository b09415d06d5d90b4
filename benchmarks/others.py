"""Seconds of training until a test accuracy on MNIST: tintype beside the examples that Keras, fastai and PyTorch teach with.

    python -m venv others && others/bin/pip install tensorflow-cpu fastai
    python benchmarks/others.py --data-root DIR --python others/bin/python

Each contender is a process of its own, one after another, with all cores, and has the images in
    memory at the start:
  keras    keras.io/examples/vision/mnist_convnet: two convolutions, dropout, Adam, batch 128
  (TensorFlow) pytorch  github.com/pytorch/examples/mnist: two convolutions, two layers, Adadelta,
  batch 64, DataLoader fastai   chapter 4 of fastbook on all ten digits: vision_learner with
  ResNet-18 from scratch, one cycle of three epochs
  tintype  `tintype train mnist --epochs E`, of the length that is given, and tested once
The first three may look at the test split after each epoch, outside of the clock, and stop once the
target is reached; tintype may not. Its validation images are taken from the same 60,000 that the
others train on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]  # (N, 28, 28)
Labels = NDArray[np.int64]  # (N,)


class Stopwatch:
    """Counts the seconds of training, and stands still while the test split is looked at."""

    def __init__(self, target: float) -> None:
        self.target, self.epochs = target, 0
        self.seconds, self.since = 0.0, time.perf_counter()

    def stop(self) -> None:
        """Stand still: an epoch is over."""
        self.epochs += 1
        self.seconds += time.perf_counter() - self.since

    def tell(self, accuracy: float) -> bool:
        """Print what the epoch has reached, go on counting, and return whether it is the target."""
        print(
            json.dumps({"epochs": self.epochs, "seconds": self.seconds, "accuracy": accuracy}),
            flush=True,
        )
        self.since = time.perf_counter()
        return accuracy >= self.target


def keras(train: Pixels, labels: Labels, test: Pixels, test_labels: Labels, target: float) -> None:
    """Train the convnet of Keras' documentation, at most its 15 epochs."""
    import keras as k  # pyright: ignore[reportMissingImports]

    model = k.Sequential([
        k.Input((28, 28, 1)),
        k.layers.Conv2D(32, 3, activation="relu"), k.layers.MaxPooling2D(2),
        k.layers.Conv2D(64, 3, activation="relu"), k.layers.MaxPooling2D(2),
        k.layers.Flatten(), k.layers.Dropout(0.5), k.layers.Dense(10, activation="softmax"),
    ])  # fmt: skip
    model.compile(loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"])
    seen, tested = (pixels[..., None].astype("float32") / 255 for pixels in (train, test))
    watch = Stopwatch(target)

    class Look(k.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            watch.stop()
            guesses = model.predict(tested, batch_size=1000, verbose=0).argmax(1)
            model.stop_training = watch.tell(float((guesses == test_labels).mean()))

    classes = k.utils.to_categorical(labels, 10)
    model.fit(
        seen,
        classes,
        batch_size=128,
        epochs=15,
        validation_split=0.1,
        verbose=0,
        callbacks=[Look()],
    )


def pytorch(
    train: Pixels, labels: Labels, test: Pixels, test_labels: Labels, target: float
) -> None:
    """Train the network of PyTorch's own examples by its loop, at most its 14 epochs."""
    import torch
    import torch.nn.functional as F
    from torch import nn
    from torchvision import transforms

    transform = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
    )

    class Digits(torch.utils.data.Dataset[Any]):
        def __init__(self, pixels: Pixels, targets: Labels) -> None:
            self.pixels, self.targets = pixels, targets

        def __len__(self) -> int:
            return len(self.pixels)

        def __getitem__(self, i: int) -> Any:
            return transform(self.pixels[i]), int(self.targets[i])

    model = nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25),
        nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10), nn.LogSoftmax(1),
    )  # fmt: skip
    optimizer = torch.optim.Adadelta(model.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.7)
    loader = torch.utils.data.DataLoader(Digits(train, labels), 64, shuffle=True)
    looks = torch.utils.data.DataLoader(Digits(test, test_labels), 1000)

    def accuracy() -> float:
        model.eval()
        with torch.no_grad():
            right = sum(
                int((model(images).argmax(1) == targets).sum()) for images, targets in looks
            )
        model.train()
        return right / len(test)

    watch = Stopwatch(target)
    for _ in range(14):
        for images, targets in loader:
            optimizer.zero_grad()
            F.nll_loss(model(images), targets).backward()
            optimizer.step()
        schedule.step()
        watch.stop()
        if watch.tell(accuracy()):
            return


def fastai(train: Pixels, labels: Labels, test: Pixels, test_labels: Labels, target: float) -> None:
    """Train a ResNet-18 from scratch by one cycle of three epochs, on images that come from memory."""
    import fastai.vision.all as fv  # pyright: ignore[reportMissingImports]

    pixels, targets = np.concatenate([train, test]), np.concatenate([labels, test_labels])
    block = fv.DataBlock(
        blocks=(fv.ImageBlock(cls=fv.PILImageBW), fv.CategoryBlock),
        get_x=lambda i: pixels[i],
        get_y=lambda i: int(targets[i]),
        splitter=fv.IndexSplitter(list(range(len(train), len(pixels)))),
    )
    loaders = block.dataloaders(list(range(len(pixels))), num_workers=2)
    learner = fv.vision_learner(loaders, fv.resnet18, pretrained=False, n_in=1, metrics=fv.accuracy)
    watch = Stopwatch(target)

    class Look(fv.Callback):
        order = 60  # after the recorder

        def after_train(self) -> None:  # what fastai validates on is the test split here
            watch.stop()

        def after_epoch(self) -> None:
            if watch.tell(float(learner.recorder.values[-1][-1])):
                raise fv.CancelFitException

    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(3, 0.01, cbs=Look())


OTHERS = {"keras": keras, "pytorch": pytorch, "fastai": fastai}


def tintype(root: str | None, epochs: float, seed: int) -> dict[str, Any]:
    """Train the recipe `mnist` for so many epochs and test it once."""
    command = f"-m tintype train mnist --epochs {epochs} --seed {seed} --json".split()
    with tempfile.TemporaryDirectory() as out:
        where = [] if root is None else ["--data-root", root]
        command = [sys.executable, *command, *where, "--out", out]
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        result = json.loads(done.stdout)
        environment = json.loads(
            (Path(result["run"]) / "environment.json").read_text(encoding="utf-8")
        )
    return {
        "epochs": epochs,
        "seconds": environment["training_seconds"],
        "accuracy": result["test"]["accuracy"],
    }


def other(name: str, python: str, images: Path, target: float) -> Iterator[dict[str, Any]]:
    """Yield what a contender in another interpreter prints after each epoch."""
    command = [
        python,
        __file__,
        "--contender",
        name,
        "--images",
        str(images),
        "--target",
        str(target),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8") as process:
        assert process.stdout
        for line in process.stdout:
            if line.startswith("{"):
                yield json.loads(line)


def images_of(root: str | None, path: Path) -> None:
    """Write MNIST's 60,000 images for training and its 10,000 for testing."""
    import torch

    from tintype.data import open_data

    splits = open_data("mnist", data_root=root)
    parts = {}
    for name, sources in {"train": (splits.train, splits.val), "test": (splits.test,)}.items():
        wholes = [source.take(torch.arange(len(source))) for source in sources]
        parts[name] = np.concatenate([whole.images[:, 0].numpy() for whole in wholes])
        parts[f"{name}_labels"] = np.concatenate([source.targets.numpy() for source in sources])
    np.savez(path, **parts)


def main() -> None:
    """Run each contender in turn and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", help="folder that holds MNIST")
    parser.add_argument(
        "--python", default=sys.executable, help="interpreter that has TensorFlow, fastai and torch"
    )
    parser.add_argument("--target", type=float, default=0.99, help="accuracy on the test split")
    parser.add_argument("--epochs", type=float, default=0.3, help="of tintype")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of tintype")
    parser.add_argument("--others", nargs="*", choices=sorted(OTHERS), default=sorted(OTHERS))
    parser.add_argument("--contender", choices=sorted(OTHERS), help=argparse.SUPPRESS)
    parser.add_argument("--images", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        parts = np.load(options.images)
        train, labels, test, test_labels = (
            parts[name] for name in ("train", "train_labels", "test", "test_labels")
        )
        OTHERS[options.contender](train, labels, test, test_labels, options.target)
        return
    if options.others and not shutil.which(options.python):
        parser.error(f"--python {options.python}: there is no such program")
    runs = [tintype(options.data_root, options.epochs, seed) for seed in options.seeds]
    ours = {
        name: statistics.mean(run[name] for run in runs)
        for name in ("epochs", "seconds", "accuracy")
    }
    each = ", ".join(f"{run['accuracy']:.2%}" for run in runs)
    print(
        f"tintype  {ours['epochs']:4g} epochs {ours['seconds']:7.1f} s  {ours['accuracy']:.2%} ({each})",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "mnist.npz"
        images_of(options.data_root, images)
        for name in options.others:
            rows = list(other(name, options.python, images, options.target))
            if not rows:
                print(f"{name:8} did not run: its message stands above")
                continue
            last = rows[-1]
            short = "" if last["accuracy"] >= options.target else ", below the target"
            print(
                f"{name:8} {last['epochs']:4} epochs {last['seconds']:7.1f} s  {last['accuracy']:.2%}{short}; "
                f"{last['seconds'] / ours['seconds']:.1f} times as long",
                flush=True,
            )


if __name__ == "__main__":
    main()
