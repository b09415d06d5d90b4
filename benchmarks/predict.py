"""Photos per second of `tintype predict`, beside decoding alone and the network alone.

    python benchmarks/predict.py RUN FOLDER              # a run folder, or a .onnx file, and photos
    python benchmarks/predict.py RUN FOLDER --count 2000 --repeats 5

Decoding and the network are measured alone, each with all cores, and then together as `tintype
predict` runs them, in turn, `--repeats` times, so that another process that comes and goes shows as
spread. Where both need the same cores, a photo costs the sum of both, so that no pipeline reaches
more of the slower than longer / (longer + shorter): that bound is stated, and the share of it that
is reached. On a GPU the network leaves the cores to decoding, and the bound is the slower itself.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from tintype.tasks.classify.answering import Classifier
from tintype.verbs.predict.files import list_images
from tintype.verbs.predict.inputs import num_decoders
from tintype.verbs.predict.opening import open_model
from tintype.verbs.predict.pipeline import answered


def speed(count: int, work: Callable[[], object]) -> float:
    """Return how many a second `work` does of `count`."""
    start = time.perf_counter()
    work()
    return count / (time.perf_counter() - start)


def decoding(classifier: Classifier, files: list[Path], threads: int) -> float:
    def read(some: list[Path]) -> None:
        for file in some:
            classifier.picture(file)  # with what a grey model is to say of colour

    chunks = [files[start : start + 8] for start in range(0, len(files), 8)]
    with ThreadPoolExecutor(threads) as pool:
        return speed(len(files), lambda: list(pool.map(read, chunks)))


def computing(classifier: Classifier, pixels: np.ndarray, count: int) -> float:
    def work() -> None:
        for start in range(0, count, len(pixels)):
            classifier.probabilities(pixels[: min(len(pixels), count - start)])

    return speed(count, work)


def main() -> None:
    """Measure, and print a row for each turn."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=1000, help="photos of each turn")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="auto")
    wished = parser.parse_args()
    classifier = open_model(wished.run, wished.device)
    if not isinstance(classifier, Classifier):
        parser.error(f"{wished.run} is no classifier")
    found = list_images([wished.folder])
    files = (found * (wished.count // len(found) + 1))[: wished.count]
    cores = num_decoders()
    on_gpu = str(getattr(getattr(classifier, "task", None), "device", "cpu")) != "cpu"
    pixels = np.stack([classifier.pixels(file) for file in files[: classifier.batch_size]])
    classifier.probabilities(pixels)
    print(f"{len(files):,} photos, {cores} cores; load before {os.getloadavg()[0]:.1f}")

    shares = []
    torch.set_num_threads(cores)
    for _ in range(wished.repeats):
        alone = decoding(classifier, files, cores)
        network = computing(classifier, pixels, len(files))
        together = speed(len(files), lambda: list(answered(classifier, files)))
        slower = min(alone, network)
        bound = slower if on_gpu else 1 / (1 / alone + 1 / network)
        shares.append(together / bound)
        print(
            f"decoding {alone:7.0f}/s   network {network:7.0f}/s   together {together:7.0f}/s   "
            f"of the slower {together / slower:.2f}, at most {bound / slower:.2f}: "
            f"{shares[-1]:.2f} of the bound"
        )

    middle = statistics.median(shares)
    print(f"share of the bound: median {middle:.2f} ({min(shares):.2f} to {max(shares):.2f})")


if __name__ == "__main__":
    main()
