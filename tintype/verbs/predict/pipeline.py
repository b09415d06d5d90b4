"""Many files through a model: threads decode while the network computes; memory is bounded."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tintype.errors import UserError
from tintype.tasks.contract.predict import Picture, Predictor

CHUNK = 8  # files for each task of a thread
AHEAD = 2  # batches that are decoded ahead of the one that is computed


@dataclass(frozen=True)
class Answered:
    """A file with its prediction, or with the reason why it cannot be read."""

    file: str
    prediction: Any  # of the task; None where the file cannot be read
    pixels: np.ndarray | None  # (height, width, channels) uint8, as the network saw it
    reason: str = ""


def num_decoders() -> int:
    """Return how many threads decode: one for each core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def answered(
    predictor: Predictor, files: Sequence[str | Path], *, decoders: int | None = None
) -> Iterator[list[Answered]]:
    """Yield the answers in the order of `files`, a batch at a time; a file that cannot be read ends
    nothing.
    """
    batch: list[tuple[str, Picture | str]] = []
    for found in _decoded(predictor, files, decoders or num_decoders()):
        batch.append(found)
        if len(batch) == predictor.batch_size:
            yield _computed(predictor, batch)
            batch = []
    if batch:
        yield _computed(predictor, batch)


def _computed(predictor: Predictor, batch: list[tuple[str, Picture | str]]) -> list[Answered]:
    readable = [(name, found) for name, found in batch if isinstance(found, Picture)]
    answers = []
    if readable:
        names = [name for name, _ in readable]
        answers = predictor.answer(names, [picture for _, picture in readable])
    predictions = iter(answers)

    results = []
    for name, found in batch:
        if isinstance(found, Picture):
            results.append(Answered(name, next(predictions), found.pixels))
        else:
            results.append(Answered(name, None, None, reason=found))
    return results


def _decoded(
    predictor: Predictor, files: Sequence[str | Path], decoders: int
) -> Iterator[tuple[str, Picture | str]]:
    """Yield (file, picture or reason) in order.

    At most AHEAD batches and what the threads hold wait in memory.
    """

    def read(some: Sequence[str | Path]) -> list[tuple[str, Picture | str]]:
        return [(str(file), _picture(predictor, file)) for file in some]

    chunks = iter([files[start : start + CHUNK] for start in range(0, len(files), CHUNK)])
    window = decoders + -(-AHEAD * predictor.batch_size // CHUNK)
    with ThreadPoolExecutor(decoders, thread_name_prefix="decode") as pool:
        waiting: deque[Future[list[tuple[str, Picture | str]]]] = deque()
        try:
            waiting.extend(pool.submit(read, chunk) for chunk in islice(chunks, window))
            while waiting:
                done = waiting.popleft().result()
                waiting.extend(pool.submit(read, chunk) for chunk in islice(chunks, 1))
                yield from done
        finally:
            for future in waiting:  # on Ctrl-C nothing more is begun
                future.cancel()


def _picture(predictor: Predictor, file: str | Path) -> Picture | str:
    try:
        return predictor.picture(file)
    except UserError as error:
        return str(error).removeprefix(f"{file} cannot be read as an image: ")
