"""Predict photos with a finished run: the same decoding, size and normalisation as in training."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tintype.data.decode import Resize, Unreadable, decode, fit, image_files
from tintype.distributed import choose_device
from tintype.errors import UserError
from tintype.model import load_model, resize_of
from tintype.plugins import find
from tintype.run import RunFolder, written_whole
from tintype.tasks.classify import Classify
from tintype.tasks.task import Prediction, Task


class Predictor:
    """A classifier ready to answer; holds the network and the preprocessing that belongs to it."""

    def __init__(self, task: Classify, resize: Resize, batch_size: int = 64) -> None:
        self.task, self.resize, self.batch_size = task, resize, batch_size

    @classmethod
    def of(cls, run: RunFolder, *, device: str = "auto") -> Predictor:
        """Load the model of a run.

        Raises:
            UserError: the run has no finished model, or the device is not there.
        """
        task, description = load_task(run, device)
        if not isinstance(task, Classify):
            raise UserError(
                f"{run.path} is a run of task {description['task']}, not a classifier, so it predicts no class."
            )
        return cls(task, resize_of(description))

    def predict(self, images: Sequence[Any]) -> Iterator[Prediction]:
        """Yield a Prediction for each image: a path, a Pillow image, or a NumPy array (H, W), (H, W, 1) or (H, W, 3) uint8.

        Raises:
            UserError: a file is missing or is not an image.
        """
        for start in range(0, len(images), self.batch_size):
            some = images[start : start + self.batch_size]
            yield from self.answer([_name(image) for image in some], [self.pixels(image) for image in some])

    def answer(self, names: Sequence[str], pixels: Sequence[np.ndarray]) -> list[Prediction]:
        """Return a Prediction for each image (H, W, C) uint8 of the model's size."""
        images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
        probabilities = self.task.probabilities(self.task.networks[self.task.main], images).cpu().numpy()
        classes = self.task.spec.class_names
        return [Prediction(name, classes, probs) for name, probs in zip(names, probabilities, strict=True)]

    def pixels(self, image: Any) -> np.ndarray:
        """Return an image as the model takes it: (H, W, C) uint8.

        Raises:
            UserError: it cannot be read.
        """
        spec = self.task.spec
        to_size = {"height": spec.height, "width": spec.width, "channels": spec.channels, "resize": self.resize}
        try:
            if isinstance(image, str | Path | bytes):
                if not isinstance(image, bytes) and not Path(image).exists():
                    raise UserError(f"there is no file {image}.")
                return decode(image, **to_size)
            return fit(_picture(image), **to_size)
        except (Unreadable, OSError, ValueError) as error:
            raise UserError(f"{_name(image)} cannot be read as an image: {error}") from None


def _picture(image: Any) -> np.ndarray | Image.Image:
    """Return a picture in memory, checked: a Pillow image, or an array (H, W), (H, W, 1) or (H, W, 3) uint8."""
    if isinstance(image, Image.Image):
        return image
    if not isinstance(image, np.ndarray):
        raise UserError(f"cannot predict a {type(image).__name__}. Expected a file, a Pillow image or a NumPy array.")
    right_shape = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3))
    if image.dtype != np.uint8 or not right_shape or not image.size:
        raise UserError(
            f"cannot predict an array {image.shape} of {image.dtype}. Expected (H, W), (H, W, 1) or (H, W, 3) of uint8."
        )
    return image


def _name(image: Any) -> str:
    return str(image) if isinstance(image, str | Path) else "image"


@dataclass(frozen=True)
class Answers:
    """The predictions for some files, and the files that could not be read, each with its reason."""

    predictions: list[Prediction]
    skipped: list[tuple[str, str]]

    def write_csv(self, path: Path, top: int) -> None:
        """Write file, prediction, confidence and the further classes of `top` to a new CSV file.

        Raises:
            UserError: the file exists, or cannot be written.
        """
        if path.exists():
            raise UserError(f"{path} is there already, and nothing is overwritten. Choose another --csv.")
        more = [f"{what}{rank}" for rank in range(2, top + 1) for what in ("prediction", "confidence")]
        with written_whole(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as out:
            writer = csv.writer(out)
            writer.writerow(["file", "prediction", "confidence", *more])
            for p in self.predictions:
                writer.writerow([p.name, *(value for name, share in p.top(top) for value in (name, f"{share:.6f}"))])


def predict_files(run: str | Path, paths: Sequence[str | Path], *, device: str = "auto") -> Answers:
    """Predict files and folders with a run; a file that is not an image is passed over and named.

    Raises:
        UserError: no run, no such file or folder, or no image in them.
    """
    predictor = Predictor.of(RunFolder.open(run), device=device)
    readable: list[tuple[str, np.ndarray]] = []
    predictions: list[Prediction] = []
    skipped: list[tuple[str, str]] = []
    files = list_images(paths)
    for number, file in enumerate(files, 1):
        try:
            readable.append((str(file), predictor.pixels(file)))
        except UserError as error:
            skipped.append((str(file), str(error)))
        if readable and (len(readable) == predictor.batch_size or number == len(files)):
            predictions += predictor.answer(*zip(*readable, strict=True))
            readable = []
    return Answers(predictions, skipped)


def load_task(run: RunFolder, device: str) -> tuple[Task, dict[str, Any]]:
    """Rebuild the task around the saved model, in the precision that its figures were measured in.

    bf16 is used only where this machine is fast at it.

    Raises:
        UserError: the run has no finished model, or the device is not there.
    """
    chosen, _ = choose_device(device)
    network, spec, description = load_model(run, chosen)
    # The precision that the figures were measured in; every CPU and GPU that torch supports can compute in it.
    dtype = torch.bfloat16 if description["precision"] == "bf16" else torch.float32
    module = find("tasks", description["task"])
    return module.restore(network, spec, description, device=chosen, dtype=dtype), description


def list_images(paths: Sequence[str | Path]) -> list[Path]:
    """Return the image files among `paths`, folders searched.

    Raises:
        UserError: a path does not exist, or no image was found.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found += image_files(path)
        elif path.exists():
            found.append(path)
        else:
            raise UserError(f"there is no file or folder {path}.")
    if not found:
        raise UserError(f"there is no image in {', '.join(map(str, paths))}. Expected files such as .jpg or .png.")
    return found
