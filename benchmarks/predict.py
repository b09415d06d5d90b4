"""Photos per second of `tintype predict`, beside decoding alone and the network alone.

    python benchmarks/predict.py RUN FOLDER              # a run folder, or a .onnx file, and photos
    python benchmarks/predict.py RUN FOLDER --count 2000 --repeats 5

Each part is given what it has in the pipeline: half of the cores decode and half compute (on a GPU
all cores decode). The three are measured in turn, `--repeats` times, and the ratio is stated for
each turn, so that another process that comes and goes shows as spread. Asked is a ratio of 0.9 to
the slower of the two. What all cores give each alone is stated as well: no pipeline on the same
cores can reach that.
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
            classifier.pixels(file)

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
    decoders = cores if on_gpu else max(1, cores // 2)
    pixels = np.stack([classifier.pixels(file) for file in files[: classifier.batch_size]])
    classifier.probabilities(pixels)
    print(
        f"{len(files):,} photos, {cores} cores, {decoders} decoding; load before {os.getloadavg()[0]:.1f}"
    )
    ratios = []
    for _ in range(wished.repeats):
        torch.set_num_threads(max(1, cores - decoders))
        alone = decoding(classifier, files, decoders)
        network = computing(classifier, pixels, len(files))
        together = speed(len(files), lambda: list(answered(classifier, files, decoders=decoders)))
        ratios.append(together / min(alone, network))
        print(
            f"decoding {alone:7.0f}/s   network {network:7.0f}/s   together {together:7.0f}/s   ratio {ratios[-1]:.2f}"
        )
    torch.set_num_threads(cores)
    alone, network = decoding(classifier, files, cores), computing(classifier, pixels, len(files))
    usual = speed(len(files), lambda: list(answered(classifier, files)))
    print(
        f"all cores: decoding {alone:.0f}/s, network {network:.0f}/s; together as `tintype predict` does {usual:.0f}/s"
    )
    print(
        f"ratio to the slower: median {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()
