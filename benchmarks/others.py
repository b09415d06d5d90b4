"""Seconds of training until a test accuracy on MNIST or CIFAR-10: tintype beside what others teach with.

    python -m venv others && others/bin/pip install tensorflow-cpu fastai
    python benchmarks/others.py --data-root DIR --python others/bin/python
    python benchmarks/others.py --data-root DIR --python others/bin/python --set cifar10

Each contender is a process of its own, one after another, with all cores, and has the images in
memory at the start. On MNIST, until 99 %:

  keras    keras.io/examples/vision/mnist_convnet: two convolutions, dropout, Adam, batch 128
           (TensorFlow)
  pytorch  github.com/pytorch/examples/mnist: two convolutions, two layers, Adadelta, batch 64,
           DataLoader
  fastai   chapter 4 of fastbook on all ten digits: vision_learner with ResNet-18 from scratch, one
           cycle of three epochs
  tintype  `tintype train mnist --epochs 0.3`

On CIFAR-10, until 91 %:

  keras    cifar10_resnet.py of Keras' former examples: ResNet-20, shifts and flips, Adam, batch 32,
           200 epochs, 92.16 % by its own account; the layers of today's Keras augment
  pytorch  github.com/kuangliu/pytorch-cifar: ResNet-18 at full width, crops and flips, SGD with a
           cosine, batch 128, 200 epochs, 93.02 % by its own account; DataLoader with two workers
  tintype  `tintype train cifar10`, of the recipe's length

The others may look at the test split after each epoch, outside of the clock, and stop once the
target is reached; tintype may not: its length is fixed beforehand and it tests once. Its validation
images are taken from those that the others train on. `--most M` breaks a contender off after M
times the seconds of tintype and looks once more, as whole trainings on CIFAR-10 take hours: then
the table says how long all of its epochs would take.
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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]  # (N, H, W) or (N, H, W, 3)
Labels = NDArray[np.int64]  # (N,)

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


class Stopwatch:
    """Counts the seconds of training, and stands still while the test split is looked at.

    Attributes:
        target: the accuracy that ends a training.
        most: the seconds that end it.
        epochs: passes over the training images so far.
    """

    def __init__(self, target: float, most: float) -> None:
        self.target, self.most = target, most
        self.epochs, self.seconds, self.since = 0.0, 0.0, 0.0

    def start(self) -> None:
        """Count from here on."""
        self.since = time.perf_counter()

    def is_over(self) -> bool:
        """Return whether the seconds are used up."""
        return self.seconds + time.perf_counter() - self.since >= self.most

    def stop(self, share: float = 1.0) -> None:
        """Stand still: an epoch is over, or a share of one."""
        self.epochs += share
        self.seconds += time.perf_counter() - self.since

    def tell(self, accuracy: float) -> bool:
        """Print what has been reached, go on counting, and return whether that is the end."""
        print(
            json.dumps({"epochs": self.epochs, "seconds": self.seconds, "accuracy": accuracy}),
            flush=True,
        )
        self.start()
        return accuracy >= self.target or self.seconds >= self.most


class Images(NamedTuple):
    """What a contender trains and is tested on."""

    train: Pixels
    labels: Labels
    test: Pixels
    test_labels: Labels


# ---- Keras -------------------------------------------------------------------------------------


def keras_mnist(images: Images, watch: Stopwatch) -> None:
    """Train the convnet of Keras' documentation, at most its 15 epochs."""
    import keras as k  # pyright: ignore[reportMissingImports]

    model = k.Sequential([
        k.Input((28, 28, 1)),
        k.layers.Conv2D(32, 3, activation="relu"), k.layers.MaxPooling2D(2),
        k.layers.Conv2D(64, 3, activation="relu"), k.layers.MaxPooling2D(2),
        k.layers.Flatten(), k.layers.Dropout(0.5), k.layers.Dense(10, activation="softmax"),
    ])  # fmt: skip
    model.compile(loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"])
    train, test = (pixels[..., None].astype("float32") / 255 for pixels in images[::2])
    _fit(model, train, test, images, watch, batch_size=128, epochs=15, validation_split=0.1)


def keras_cifar10(images: Images, watch: Stopwatch) -> None:
    """Train the ResNet-20 of Keras' example, at most its 200 epochs."""
    import keras as k  # pyright: ignore[reportMissingImports]

    def convolved(x: Any, filters: int, stride: int = 1, size: int = 3) -> Any:
        decay = k.regularizers.l2(1e-4)
        options = {"kernel_initializer": "he_normal", "kernel_regularizer": decay}
        return k.layers.Conv2D(filters, size, stride, "same", **options)(x)

    def normed(x: Any) -> Any:
        return k.layers.BatchNormalization()(x)

    def relu(x: Any) -> Any:
        return k.layers.Activation("relu")(x)

    inputs = k.Input((32, 32, 3))
    x = k.layers.RandomFlip("horizontal")(inputs)
    x = k.layers.RandomTranslation(0.1, 0.1, fill_mode="nearest")(x)
    x = relu(normed(convolved(x, 16)))
    for filters in (16, 32, 64):
        for block in range(3):
            halves = filters > 16 and block == 0
            stride = 2 if halves else 1
            y = normed(convolved(relu(normed(convolved(x, filters, stride))), filters))
            shortcut = convolved(x, filters, stride, 1) if halves else x
            x = relu(k.layers.add([shortcut, y]))
    x = k.layers.Flatten()(k.layers.AveragePooling2D(8)(x))
    answers = k.layers.Dense(10, activation="softmax", kernel_initializer="he_normal")(x)
    model = k.Model(inputs, answers)

    def rate(epoch: int) -> float:
        return 1e-3 * next(
            factor
            for after, factor in ((180, 5e-4), (160, 1e-3), (120, 1e-2), (80, 0.1), (-1, 1.0))
            if epoch > after
        )

    optimizer = k.optimizers.Adam(rate(0))
    model.compile(loss="categorical_crossentropy", optimizer=optimizer, metrics=["accuracy"])
    train, test = (pixels.astype("float32") / 255 for pixels in images[::2])
    mean = train.mean(0)
    schedule = k.callbacks.LearningRateScheduler(rate)
    _fit(
        model,
        train - mean,
        test - mean,
        images,
        watch,
        batch_size=32,
        epochs=200,
        callbacks=[schedule],
    )


def _fit(
    model: Any,
    train: Any,
    test: Any,
    images: Images,
    watch: Stopwatch,
    callbacks: Any = (),
    **options: Any,
) -> None:
    """Fit a model of Keras and look at the test images after each epoch."""
    import keras as k  # pyright: ignore[reportMissingImports]

    class Look(k.callbacks.Callback):
        batches = 0

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.batches = batch + 1
            if watch.is_over():
                model.stop_training = True

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            watch.stop(self.batches / self.params["steps"])
            guesses = model.predict(test, batch_size=1000, verbose=0).argmax(1)
            if watch.tell(float((guesses == images.test_labels).mean())):
                model.stop_training = True

    classes = k.utils.to_categorical(images.labels, 10)
    watch.start()
    model.fit(train, classes, verbose=0, callbacks=[*callbacks, Look()], **options)


# ---- PyTorch -----------------------------------------------------------------------------------


def pytorch_mnist(images: Images, watch: Stopwatch) -> None:
    """Train the network of PyTorch's own examples by its loop, at most its 14 epochs."""
    import torch
    import torch.nn.functional as F
    from torch import nn
    from torchvision import transforms

    model = nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25),
        nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10), nn.LogSoftmax(1),
    )  # fmt: skip
    optimizer = torch.optim.Adadelta(model.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.7)
    transform = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
    )
    loaders = _loaders(images, transform, transform, batch_size=64, workers=0)
    _loop(model, F.nll_loss, optimizer, schedule, loaders, watch, epochs=14)


def pytorch_cifar10(images: Images, watch: Stopwatch) -> None:
    """Train the ResNet-18 of pytorch-cifar by its loop, at most its 200 epochs."""
    import torch
    import torch.nn.functional as F
    from PIL import Image
    from torch import nn
    from torchvision import models, transforms

    model: Any = models.resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=200)

    plain = [transforms.ToTensor(), transforms.Normalize(CIFAR_MEAN, CIFAR_STD)]
    changes = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    seen = transforms.Compose([Image.fromarray, *changes, *plain])
    tested = transforms.Compose([Image.fromarray, *plain])
    loaders = _loaders(images, seen, tested, batch_size=128, workers=2)
    _loop(model, F.cross_entropy, optimizer, schedule, loaders, watch, epochs=200)


def _loaders(images: Images, seen: Any, tested: Any, *, batch_size: int, workers: int) -> Any:
    """Return the loaders of both splits, whose images these transforms change one by one."""
    import torch

    class Pictures(torch.utils.data.Dataset[Any]):
        def __init__(self, pixels: Pixels, targets: Labels, transform: Any) -> None:
            self.pixels, self.targets, self.transform = pixels, targets, transform

        def __len__(self) -> int:
            return len(self.pixels)

        def __getitem__(self, i: int) -> Any:
            return self.transform(self.pixels[i]), int(self.targets[i])

    load = torch.utils.data.DataLoader
    train = Pictures(images.train, images.labels, seen)
    test = Pictures(images.test, images.test_labels, tested)
    return load(train, batch_size, shuffle=True, num_workers=workers), load(test, 1000)


def _loop(
    model: Any,
    loss: Any,
    optimizer: Any,
    schedule: Any,
    loaders: Any,
    watch: Stopwatch,
    *,
    epochs: int,
) -> None:
    """Train by the loop that PyTorch's tutorials teach and look at the test images after each epoch."""
    import torch

    train, test = loaders

    def accuracy() -> float:
        model.eval()
        with torch.no_grad():
            right = sum(int((model(images).argmax(1) == targets).sum()) for images, targets in test)
        model.train()
        return right / len(test.dataset)

    watch.start()
    for _ in range(epochs):
        share = 1.0
        for step, (images, targets) in enumerate(train, 1):
            optimizer.zero_grad()
            loss(model(images), targets).backward()
            optimizer.step()
            if watch.is_over():
                share = step / len(train)
                break
        schedule.step()
        watch.stop(share)
        if watch.tell(accuracy()):
            return


# ---- fastai ------------------------------------------------------------------------------------


def fastai_mnist(images: Images, watch: Stopwatch) -> None:
    """Train a ResNet-18 from scratch by one cycle of three epochs, on images that come from memory."""
    import fastai.vision.all as fv  # pyright: ignore[reportMissingImports]

    pixels = np.concatenate([images.train, images.test])
    targets = np.concatenate([images.labels, images.test_labels])
    block = fv.DataBlock(
        blocks=(fv.ImageBlock(cls=fv.PILImageBW), fv.CategoryBlock),
        get_x=lambda i: pixels[i],
        get_y=lambda i: int(targets[i]),
        splitter=fv.IndexSplitter(list(range(len(images.train), len(pixels)))),
    )
    loaders = block.dataloaders(list(range(len(pixels))), num_workers=2)
    learner = fv.vision_learner(loaders, fv.resnet18, pretrained=False, n_in=1, metrics=fv.accuracy)
    watch.start()

    class Look(fv.Callback):
        order = 60  # after the recorder

        def after_train(self) -> None:  # what fastai validates on is the test split here
            watch.stop()

        def after_epoch(self) -> None:
            if watch.tell(float(learner.recorder.values[-1][-1])):
                raise fv.CancelFitException

    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(3, 0.01, cbs=Look())


# ---- all of them -------------------------------------------------------------------------------


class Contest(NamedTuple):
    """A data set, what to reach on it, and who tries.

    Attributes:
        epochs: of tintype's recipe; None for those that it says.
        target: the accuracy on the test images.
        most: times the seconds of tintype after which a contender is broken off.
        others: the trainings of the contenders, and how many epochs each has at most.
    """

    recipe: str
    epochs: float | None
    target: float
    most: float
    others: Mapping[str, tuple[Callable[[Images, Stopwatch], None], int]]


CONTESTS = {
    "mnist": Contest(
        "mnist",
        0.3,
        0.99,
        1000,
        {"keras": (keras_mnist, 15), "pytorch": (pytorch_mnist, 14), "fastai": (fastai_mnist, 3)},
    ),
    "cifar10": Contest(
        "cifar10",
        None,
        0.91,
        2,
        {"keras": (keras_cifar10, 200), "pytorch": (pytorch_cifar10, 200)},
    ),
}


def ours(recipe: str, root: str | None, epochs: float | None, seed: int) -> dict[str, Any]:
    """Train a recipe, of its own length or for so many epochs, and test it once."""
    from tintype.files.yaml_files import read_yaml

    command = f"-m tintype train {recipe} --seed {seed} --json".split()
    command += [] if epochs is None else ["--epochs", str(epochs)]
    with tempfile.TemporaryDirectory() as out:
        where = [] if root is None else ["--data-root", root]
        command = [sys.executable, *command, *where, "--out", out]
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        result = json.loads(done.stdout)
        folder = Path(result["run"])
        environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
        return {
            "epochs": read_yaml(folder / "recipe.yaml")["epochs"],
            "seconds": environment["training_seconds"],
            "accuracy": result["test"]["accuracy"],
        }


def other(
    options: argparse.Namespace, name: str, images: Path, most: float
) -> Iterator[dict[str, Any]]:
    """Yield what a contender in another interpreter prints after each epoch."""
    command = [options.python, __file__, "--set", options.set, "--contender", name]
    command += ["--images", str(images), "--target", str(options.target), "--seconds", str(most)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8") as process:
        assert process.stdout
        for line in process.stdout:
            if line.startswith("{"):
                yield json.loads(line)


def images_of(name: str, root: str | None, path: Path) -> None:
    """Write the images of a data set, those of training and validation together."""
    import torch

    from tintype.data import open_data

    splits = open_data(name, data_root=root)
    parts = {}
    for part, sources in {"train": (splits.train, splits.val), "test": (splits.test,)}.items():
        wholes = [source.take(torch.arange(len(source))).images for source in sources]
        pixels = np.concatenate([whole.permute(0, 2, 3, 1).numpy() for whole in wholes])
        parts[part] = pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels
        parts[f"{part}_labels"] = np.concatenate([source.targets.numpy() for source in sources])
    np.savez(path, **parts)


def row(name: str, last: Mapping[str, Any], target: float, seconds: float, epochs: int) -> str:
    """Return the line of a contender that has reached the target, or was broken off."""
    figures = (
        f"{name:8} {last['epochs']:4g} epochs {last['seconds']:7.1f} s  {last['accuracy']:.2%}"
    )
    if last["accuracy"] >= target:
        return f"{figures}; {last['seconds'] / seconds:.1f} times as long"
    hours = last["seconds"] / last["epochs"] * epochs / 3600
    return f"{figures}, below the target; all of its {epochs} epochs would take {hours:.1f} hours"


def main() -> None:
    """Run each contender in turn and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", choices=sorted(CONTESTS), default="mnist")
    parser.add_argument("--data-root", help="folder that holds the data set")
    parser.add_argument(
        "--python", default=sys.executable, help="interpreter that has TensorFlow, fastai and torch"
    )
    parser.add_argument("--target", type=float, help="accuracy on the test split")
    parser.add_argument("--epochs", type=float, help="of tintype")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of tintype")
    parser.add_argument("--others", nargs="*", help="contenders beside tintype (default: all)")
    parser.add_argument("--most", type=float, help="times tintype's seconds that each may take")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--images", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()

    contest = CONTESTS[options.set]
    options.target = options.target or contest.target
    if options.contender:
        parts = np.load(options.images)
        images = Images(*(parts[part] for part in ("train", "train_labels", "test", "test_labels")))
        train, _ = contest.others[options.contender]
        train(images, Stopwatch(options.target, options.seconds))
        return

    names = list(contest.others) if options.others is None else options.others
    if unknown := [name for name in names if name not in contest.others]:
        parser.error(f"--others: expected some of {', '.join(contest.others)}, got {unknown[0]}")
    if names and not shutil.which(options.python):
        parser.error(f"--python {options.python}: there is no such program")

    epochs = options.epochs or contest.epochs
    runs = [ours(contest.recipe, options.data_root, epochs, seed) for seed in options.seeds]
    mean = {
        name: statistics.mean(run[name] for run in runs)
        for name in ("epochs", "seconds", "accuracy")
    }
    each = ", ".join(f"{run['accuracy']:.2%}" for run in runs)
    print(
        f"tintype  {mean['epochs']:4g} epochs {mean['seconds']:7.1f} s  {mean['accuracy']:.2%} ({each})",
        flush=True,
    )

    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images.npz"
        images_of(options.set, options.data_root, images)
        for name in names:
            most = (options.most or contest.most) * mean["seconds"]
            rows = list(other(options, name, images, most))
            if not rows:
                print(f"{name:8} did not run: its message stands above")
                continue
            print(
                row(name, rows[-1], options.target, mean["seconds"], contest.others[name][1]),
                flush=True,
            )


if __name__ == "__main__":
    main()
