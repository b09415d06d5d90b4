"""Many files through a model: threads decode while the network computes; memory is bounded."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tintype.errors import UserError
from tintype.tasks.contract.predict import Picture, Predictor
from tintype.verbs.predict.inputs import Named, num_decoders, one_image

CHUNK = 8  # files for each task of a thread
AHEAD = 2  # batches that are decoded ahead of the one that is computed
MOST_THUMBNAILS = 100  # of one call, so that a million answers take no memory for pictures
THUMBNAIL_SIDE = 128

Read = tuple[str, Picture | str]  # the name of an image, and it or why it cannot be read


@dataclass(frozen=True)
class Answered:
    """A file with its prediction, or with the reason why it cannot be read."""

    file: str
    prediction: Any  # of the task; None where the file cannot be read
    pixels: np.ndarray | None  # (height, width, channels) uint8, as the network saw it
    reason: str = ""


def answered(
    predictor: Predictor, files: Sequence[str | Path], *, decoders: int | None = None
) -> Iterator[list[Answered]]:
    """Yield the answers in the order of `files`, a batch at a time; a file that cannot be read ends
    nothing.
    """
    named = ((str(file), file) for file in files)
    for batch in in_batches(predictor, named, decoders=decoders or num_decoders()):
        short = [
            (name, found if isinstance(found, Picture) else _reason(name, found))
            for name, found in batch
        ]
        yield computed(predictor, short)


def _reason(name: str, error: str) -> str:
    return error.removeprefix(f"{name} cannot be read as an image: ")


def in_batches(
    predictor: Predictor, images: Iterable[Named], *, decoders: int
) -> Iterator[list[Read]]:
    """Yield images in order as the model takes them, as many at a time as it computes at once.

    A file, or the bytes of one, that cannot be read stands there as the reason. Without `decoders`
    nothing is read before it is due.

    Raises:
        UserError: an object that is no image.
    """
    batch: list[Read] = []
    reading = _decoded if decoders else _read_when_due
    for found in reading(predictor, images, decoders):
        batch.append(found)
        if len(batch) == predictor.batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def predictions(
    predictor: Predictor, images: Iterable[Named], *, decoders: int = 0
) -> Iterator[Any]:
    """Yield a prediction for each image, in order.

    One for an image that cannot be read says why in `error`, and a warning counts them at the end.

    Raises:
        UserError: an object that is no image, or not one of the images can be read.
    """
    errors: list[str] = []
    count = 0
    for batch in in_batches(predictor, images, decoders=decoders):
        for answer in computed(predictor, batch):
            count += 1
            if answer.pixels is None:
                errors.append(answer.reason)
                yield predictor.unanswered(answer.file, answer.reason)
            else:
                shown = count <= MOST_THUMBNAILS
                yield _pictured(answer.prediction, answer.pixels) if shown else answer.prediction
    report_unreadable(errors, count)


def stacked(
    predictor: Predictor,
    images: Iterable[Named],
    compute: Callable[[np.ndarray], np.ndarray],
    *,
    decoders: int = 0,
) -> np.ndarray:
    """Return what `compute` makes of prepared pictures, one row for each image.

    The row of an image that cannot be read is NaN, and a warning counts them.

    Raises:
        UserError: there is no image, an object is none, or not one of them can be read.
    """
    rows: list[np.ndarray | None] = []
    errors: list[str] = []
    for batch in in_batches(predictor, images, decoders=decoders):
        pictures = [found for _, found in batch if isinstance(found, Picture)]
        values: Iterator[np.ndarray] = iter(())
        if pictures:
            values = iter(compute(np.stack([picture.pixels for picture in pictures])))
        rows += [next(values) if isinstance(found, Picture) else None for _, found in batch]
        errors += [found for _, found in batch if isinstance(found, str)]

    report_unreadable(errors, len(rows))
    known = next((row for row in rows if row is not None), None)
    if known is None:
        raise UserError("there is no image to predict: the list is empty.")
    missing = np.full_like(known, np.nan)
    return np.stack([missing if row is None else row for row in rows])


def report_unreadable(errors: Sequence[str], count: int) -> None:
    """Warn of images that cannot be read.

    Raises:
        UserError: none of them can.
    """
    if errors and len(errors) == count:
        more = f" None of the {count} images can be read." if count > 1 else ""
        raise UserError(f"{errors[0]}{more}")
    if errors:
        warnings.warn(
            f"{len(errors)} of {count} images cannot be read; the first: {errors[0]}", stacklevel=4
        )


def _pictured(prediction: Any, pixels: np.ndarray) -> Any:
    if is_dataclass(prediction) and any(f.name == "thumbnail" for f in fields(prediction)):
        return replace(prediction, thumbnail=thumbnail(pixels))  # pyright: ignore
    return prediction


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """Return a small copy of a picture (H, W, C), every so many pixels of it."""
    step = -(-max(pixels.shape[:2]) // THUMBNAIL_SIDE)
    return pixels[::step, ::step].copy()


def computed(predictor: Predictor, batch: Sequence[Read]) -> list[Answered]:
    """Return the answers to pictures that were read, in their order."""
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


def _read_when_due(predictor: Predictor, images: Iterable[Named], decoders: int) -> Iterator[Read]:
    del decoders
    return ((name, _picture(predictor, name, image)) for name, image in images)


def _decoded(predictor: Predictor, images: Iterable[Named], decoders: int) -> Iterator[Read]:
    """Yield (name, picture or reason) in order.

    At most AHEAD batches and what the threads hold wait in memory.
    """

    def read(some: Sequence[Named]) -> list[Read]:
        return [(name, _picture(predictor, name, image)) for name, image in some]

    remaining = iter(images)
    chunks = iter(lambda: list(islice(remaining, CHUNK)), [])
    window = decoders + -(-AHEAD * predictor.batch_size // CHUNK)
    with ThreadPoolExecutor(decoders, thread_name_prefix="decode") as pool:
        waiting: deque[Future[list[Read]]] = deque()
        try:
            waiting.extend(pool.submit(read, chunk) for chunk in islice(chunks, window))
            while waiting:
                done = waiting.popleft().result()
                waiting.extend(pool.submit(read, chunk) for chunk in islice(chunks, 1))
                yield from done
        finally:
            for future in waiting:  # on Ctrl-C nothing more is begun
                future.cancel()


def _picture(predictor: Predictor, name: str, image: Any) -> Picture | str:
    try:
        return predictor.picture(one_image(image, predictor.channels))
    except UserError as error:
        if isinstance(image, str | Path | bytes | Image.Image):  # what comes from outside
            return str(error)
        raise UserError(f"{name}: {error}") from None
