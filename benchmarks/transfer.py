"""Training a head on cached features against the usual loop that runs the frozen backbone at every epoch.

python benchmarks/transfer.py PHOTOS --weights FILE [--epochs 20] [--rounds 3]

PHOTOS is a folder with one folder for each class, FILE the pretrained weights of a torchvision
backbone, named after it. Prints, from one run: seconds of both at the same number of epochs, their
accuracy on the same test photos with its interval, and the photos a second of feature extraction
beside those of the backbone's bare inference.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

import tintype as tt
from tintype.hardware.device import autocast, choose_precision, hold_memory
from tintype.models import build_model
from tintype.models.parts.backbone import backbone_parts, for_inference
from tintype.progress import Watcher
from tintype.runs.folder import RunFolder
from tintype.runs.pretrained import load_pretrained
from tintype.statistics import wilson_interval
from tintype.tasks.classify.transfer import HeadOnly
from tintype.training.engine import Engine
from tintype.training.prepare import Prepared, prepare

CPU = torch.device("cpu")


def usual_loop(prepared: Prepared, epochs: int) -> tuple[float, int]:
    """Train a head with the backbone run at every step, as tutorials do; return seconds and right
    test answers.
    """
    recipe, splits, task = prepared.recipe, prepared.splits, prepared.task
    assert isinstance(task, HeadOnly)
    network = build_model(recipe.model, splits.spec, {}, recipe.seed)
    load_pretrained(network, recipe.model, splits.spec, str(recipe.fields()["weights"]))
    parts = backbone_parts(network, splits.spec)
    for weight in network.parameters():
        weight.requires_grad_(False)
    head = parts.head
    assert isinstance(head, nn.Linear)
    head.weight.requires_grad_(True)
    head.bias.requires_grad_(True)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3)
    network.eval()  # the statistics of batch norm stay, as with cached features
    started = time.perf_counter()
    for epoch in range(epochs):
        order = torch.randperm(len(splits.train), generator=torch.Generator().manual_seed(epoch))
        for index in order.split(recipe.batch_size):
            batch = splits.train.take(index)
            loss = nn.functional.cross_entropy(network(task.normalise(batch.images)), batch.targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    seconds = time.perf_counter() - started
    right = 0
    with torch.no_grad():
        for index in torch.arange(len(splits.test)).split(64):
            batch = splits.test.take(index)
            right += int((network(task.normalise(batch.images)).argmax(1) == batch.targets).sum())
    return seconds, right


@torch.no_grad()
def bare_inference(prepared: Prepared, images: torch.Tensor, rounds: int) -> float:
    """Return the most images a second that the folded backbone takes, the images already normalised
    in memory.
    """
    task = prepared.task
    assert isinstance(task, HeadOnly)
    network = for_inference(task.network, task.spec)
    best = 0.0
    with autocast(CPU, task.dtype):
        network(images)
        for _ in range(rounds):
            started = time.perf_counter()
            for part in images.split(32):
                network(part)
            best = max(best, len(images) / (time.perf_counter() - started))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    hold_memory()
    recipe = tt.Recipe(data=options.photos, weights=options.weights, model="auto", tune="head")
    recipe = recipe.replace(
        epochs=options.epochs,
        batch_size=64,
        image_size=options.image_size,
        augment="none",
        device="cpu",
    )
    prepared = prepare(recipe, Watcher())
    task = prepared.task
    assert isinstance(task, HeadOnly)
    splits = prepared.splits
    _, precision = choose_precision("auto", CPU)
    print(
        f"{prepared.recipe.model}, {len(splits.train):,} training photos, {precision}, {torch.get_num_threads()} threads"
    )

    sample = splits.train.take(torch.arange(min(256, len(splits.train))))
    ready = task.normalise(sample.images)
    bare = bare_inference(prepared, ready, options.rounds)
    some = splits.train.subset(torch.arange(len(ready)))
    extracting = 0.0
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            # features are computed here, and not found from an earlier run
            os.environ["TINTYPE_CACHE"] = folder
            started = time.perf_counter()
            task.features_of(some)
            extracting = max(extracting, len(ready) / (time.perf_counter() - started))
    print(
        f"features: {extracting:.1f} photos/s, bare inference {bare:.1f} photos/s: ratio {extracting / bare:.3f}"
    )

    with tempfile.TemporaryDirectory() as folder:
        os.environ["TINTYPE_CACHE"] = folder
        started = time.perf_counter()
        seen = task.sources(splits)
        run = RunFolder.create(Path(folder), "run", exact=True)
        Engine(task, prepared.recipe, run, Watcher(), device=CPU).fit(seen.train, seen.val)
        cached = time.perf_counter() - started
        figures = task.evaluate(task.networks[task.main], seen.test).figures
    usual, right = usual_loop(prepared, options.epochs)
    total = len(splits.test)
    print(
        f"cached features: {cached:.1f} s for {options.epochs} epochs, the three splits' features included; "
        f"test {figures['accuracy']:.2%} ({figures['accuracy_ci95'][0]:.2%} to {figures['accuracy_ci95'][1]:.2%})"
    )
    low, high = wilson_interval(right, total)
    print(f"usual loop: {usual:.1f} s; test {right / total:.2%} ({low:.2%} to {high:.2%})")
    print(f"ratio {usual / cached:.1f}")


if __name__ == "__main__":
    main()
