"""A finished model as the service holds it: loaded, with what it can do and what is known of it."""

from __future__ import annotations

import base64
import io
import re
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from PIL import Image

from tintype.data.decode import Unreadable, read_header
from tintype.errors import UserError
from tintype.files.bounded import refuse_link_out
from tintype.runs.folder import RunFolder
from tintype.tasks.classify.analysis.heatmaps import grad_cam, overlaid
from tintype.tasks.classify.answering import Classifier
from tintype.tasks.classify.predictor import RunClassifier
from tintype.tasks.classify.task import Classify
from tintype.tasks.contract.predict import Picture
from tintype.tasks.contract.prediction import Prediction
from tintype.tasks.generate.images import Sampler
from tintype.tasks.generate.task import Generate
from tintype.tasks.restoring import load_task
from tintype.tasks.upscale.pictures import encoded, read_picture
from tintype.tasks.upscale.task import Upscale
from tintype.tasks.upscale.upscaler import Upscaler
from tintype.verbs.predict.opening import open_exported
from tintype.verbs.serve.batching import Between

HEAT_AT_ONCE = 16  # pictures with gradients
MOST_SAMPLES = 64  # test images of a run that the page offers to try
TILE = 128  # pixels; between two tiles of a large picture, photos are classified


@dataclass(frozen=True)
class Classification:
    """What a classifier answers: classes from the most probable on, and, where asked, what it saw
    with a heat map.
    """

    prediction: Prediction
    order: np.ndarray  # (K,) int64
    heat: np.ndarray | None = None  # (H, W, 3) uint8

    def top(self, count: int) -> list[dict[str, Any]]:
        """Return the `count` most probable classes, as `Prediction.top` does (JSON-ready)."""
        names, probs = self.prediction.class_names, self.prediction.probs
        return [
            {"class": names[i], "probability": float(probs[i])} for i in self.order[:count].tolist()
        ]


class Served(ABC):
    """A model behind the service. What computes is called in the compute thread only."""

    kind: str  # the task
    sample_names = r"(?!)"  # of files in samples/ that can be sent as a photo; none

    def __init__(
        self, name: str, description: dict[str, Any], run: RunFolder | None = None
    ) -> None:
        self.name, self.description, self.run = name, description, run
        measured = run is not None and (run.path / "evaluation.json").exists()
        self.figures: dict[str, Any] = (
            run.read("evaluation.json") if run is not None and measured else {}
        )

    @property
    def report(self) -> Path | None:
        page = None if self.run is None else self.run.path / "report.html"
        return page if page is not None and page.is_file() else None

    @cached_property
    def samples(self) -> list[Path]:
        """Test images that can be tried; of a run with a report only, which shows them too."""
        if self.run is None or self.report is None:
            return []
        files = sorted((self.run.path / "samples").glob("*.png"))
        return [file for file in files if re.fullmatch(self.sample_names, file.name)][:MOST_SAMPLES]

    def sample(self, number: int) -> bytes:
        """Return a test image as a photo to send, PNG.

        Raises:
            UserError: there is none of this number, or it leads out of the run folder.
        """
        if self.run is None or not 0 <= number < len(self.samples):
            raise UserError(f"{self.name} has no test image {number}.")
        refuse_link_out(self.samples[number], self.run.path)
        return self.samples[number].read_bytes()

    @abstractmethod
    def warm_up(self) -> None:
        """Compute once, so that the first to ask does not wait for libraries that set themselves
        up.
        """

    def describe(self) -> dict[str, Any]:
        """Return what /v1/models says of the model (JSON-ready)."""
        how = self.description.get("preprocessing", {})
        return {
            "name": self.name,
            "task": self.kind,
            "parameters": self.description.get("parameters"),
            "image": {name: how.get(name) for name in ("width", "height", "channels")},
            "report": f"/reports/{quote(self.name)}" if self.report else None,
            "samples": len(self.samples),
        }

    @abstractmethod
    def sentence(self) -> str:
        """Return what it does and how well, for the terminal."""

    def test_figures(self, *names: str) -> dict[str, Any]:
        """Return those of the figures on test that are there."""
        figures = self.figures.get("splits", {}).get("test", {})
        return {name: figures[name] for name in names if name in figures}


class PhotoClassifier(Served):
    """Says what is on photos."""

    kind = "classify"
    sample_names = r"test-\d+\.png"

    def __init__(
        self,
        name: str,
        description: dict[str, Any],
        run: RunFolder | None,
        classifier: Classifier,
        task: Classify | None,
    ) -> None:
        super().__init__(name, description, run)
        # no task: an exported model, which draws no heat maps
        self.classifier, self.task = classifier, task

    def describe(self) -> dict[str, Any]:
        promised = [dict(line) for line in self.classifier.abstain if line["threshold"] is not None]
        return {
            **super().describe(),
            "classes": list(self.classifier.class_names),
            "test": self.test_figures("accuracy", "accuracy_ci95", "num_images"),
            "abstain": promised,
        }

    def sentence(self) -> str:
        figures = self.test_figures("accuracy", "accuracy_ci95")
        low, high = figures.get("accuracy_ci95", (0, 0))
        known = (
            f", {figures['accuracy']:.1%} right on test ({low:.1%} to {high:.1%})"
            if len(figures) == 2
            else ""
        )
        return f"tells {len(self.classifier.class_names)} classes apart{known}"

    def warm_up(self) -> None:
        shape = (self.classifier.height, self.classifier.width, self.classifier.channels)
        self.answer([(Picture(np.zeros(shape, np.uint8)), False)])

    def picture(self, content: bytes, max_pixels: int) -> Picture:
        """Decode the bytes of a file as the model takes them. In any thread.

        Raises:
            UserError: it is no image, damaged, or has more than `max_pixels` pixels.
        """
        refuse_large(content, max_pixels)
        return self.classifier.picture(content)

    def answer(self, works: Sequence[tuple[Picture, bool]]) -> list[Classification]:
        """Answer photos, each with whether a heat map is wanted."""
        predictions = self.classifier.answer([""] * len(works), [picture for picture, _ in works])
        hot = [i for i, (_, wanted) in enumerate(works) if wanted]

        heats: dict[int, np.ndarray] = {}
        for start in range(0, len(hot), HEAT_AT_ONCE):
            some = hot[start : start + HEAT_AT_ONCE]
            classes = [int(predictions[i].probs.argmax()) for i in some]
            heats.update(
                zip(some, self._heat([works[i][0].pixels for i in some], classes), strict=False)
            )

        # All at once: for each by itself it would take the event loop a tenth of its time.
        order = np.argsort(-np.stack([p.probs for p in predictions]), axis=1, kind="stable")
        return [
            Classification(prediction, order[i], heats.get(i))
            for i, prediction in enumerate(predictions)
        ]

    def _heat(self, pixels: Sequence[np.ndarray], classes: Sequence[int]) -> list[np.ndarray]:
        """Return pictures with heat maps over them; none where the network has no maps."""
        if self.task is None:
            return []
        images = self.task.normalise(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2))
        found = grad_cam(self.task.networks[self.task.main], images, torch.tensor(classes))
        return (
            []
            if found is None
            else [overlaid(p, heat) for p, heat in zip(pixels, found.maps, strict=True)]
        )


class ImageMaker(Served):
    """Makes images."""

    kind = "generate"

    def __init__(
        self, name: str, description: dict[str, Any], run: RunFolder, task: Generate
    ) -> None:
        super().__init__(name, description, run)
        self.task, self.sampler = task, Sampler(task)

    def describe(self) -> dict[str, Any]:
        classes = list(self.task.spec.class_names) if self.task.conditional else []
        return {**super().describe(), "classes": classes}

    def sentence(self) -> str:
        classes = f" of {len(self.task.spec.class_names)} classes" if self.task.conditional else ""
        return f"makes images{classes}, {self.task.spec.width} x {self.task.spec.height} pixels"

    def warm_up(self) -> None:
        next(self.sampler.images(1))

    def make(self, between: Between, *, start: int, count: int, **how: Any) -> list[np.ndarray]:
        """Return images `start` to `start + count` (H, W, C) uint8 of a seed; `how` is that of `Sampler.images`.

        Raises:
            UserError: a seed, class or truncation that cannot be.
        """
        images = []
        for image in self.sampler.images(count, start=start, **how):
            images.append(image)
            between()
        return images

    def class_of(self, index: int, asked: str | None) -> str | None:
        """Return the class of the image at `index`, None where the generator knows no classes."""
        if not self.task.conditional:
            return None
        return asked or self.task.spec.class_names[self.task.turns([index])[0]]


class PhotoEnlarger(Served):
    """Makes photos larger."""

    kind = "upscale"
    sample_names = r"test-\d+-low\.png"

    def __init__(
        self, name: str, description: dict[str, Any], run: RunFolder, task: Upscale
    ) -> None:
        super().__init__(name, description, run)
        self.upscaler = Upscaler(task, tile=TILE)

    def describe(self) -> dict[str, Any]:
        return {
            **super().describe(),
            "scale": self.upscaler.scale,
            "test": self.test_figures("psnr_y", "ssim_y", "gain"),
        }

    def sentence(self) -> str:
        gain = self.test_figures("gain").get("gain")
        return f"enlarges photos x{self.upscaler.scale}" + (
            "" if gain is None else f", {gain:+.2f} dB over bicubic on test"
        )

    def sample(self, number: int) -> bytes:
        """Return a small test picture, PNG; the run keeps it with each pixel repeated."""
        with Image.open(io.BytesIO(super().sample(number))) as image:
            step = self.upscaler.scale
            return png_bytes(np.ascontiguousarray(np.asarray(image.convert("RGB"))[::step, ::step]))

    def warm_up(self) -> None:
        self.upscaler.enlarge(np.zeros((16, 16, 3), np.uint8))

    def read(self, content: bytes, max_pixels: int) -> Any:
        """Decode the bytes of a file with all its bits and channels. In any thread.

        Raises:
            UserError: it is no still image, damaged, or would become more than `max_pixels` pixels.
        """
        refuse_large(content, max_pixels // self.upscaler.scale**2)
        with tempfile.TemporaryDirectory(prefix="tintype-") as folder:
            path = Path(folder) / "the image"
            path.write_bytes(content)
            return read_picture(path)

    def enlarge(self, between: Between, picture: Any) -> Any:
        """Return the picture enlarged."""
        picture.pixels = self.upscaler.enlarge(picture.pixels, lambda _, __: between())
        return picture

    @staticmethod
    def png(picture: Any) -> bytes:
        """Encode a picture, 16 bits, alpha, EXIF and colour profile kept. In any thread."""
        picture.format = "PNG"
        return encoded(picture)


def load(name: str, path: Path, device: str = "auto", threads: int = 1) -> Served:
    """Load a run folder, or an exported classifier (.onnx), for the service.

    Raises:
        UserError: there is no such run, it has no finished model, it is broken, or nothing can be
            done with it here.
    """
    if path.suffix == ".onnx":
        exported = open_exported(path, threads)
        assert isinstance(exported, Classifier)
        how = {"height": exported.height, "width": exported.width, "channels": exported.channels}
        return PhotoClassifier(name, {"preprocessing": how}, None, exported, None)

    run = RunFolder.open(path)
    task, description = load_task(run, device)
    if isinstance(task, Classify):
        return PhotoClassifier(name, description, run, RunClassifier(task, description), task)
    if isinstance(task, Generate):
        return ImageMaker(name, description, run, task)
    if isinstance(task, Upscale):
        return PhotoEnlarger(name, description, run, task)

    raise UserError(
        f"{path} is a run of task {description['task']}, with which the service can do nothing."
    )


def refuse_large(content: bytes, max_pixels: int) -> None:
    """Raise where the file is none, or its head promises too many pixels.

    Raises:
        UserError: no image, or too large.
    """
    if not content:
        raise UserError("the file is empty. Expected an image, such as JPEG or PNG.")
    try:
        head = read_header(content)
    except Unreadable as error:
        raise UserError(f"it cannot be read as an image ({error}).") from None
    if head.width * head.height > max_pixels:
        raise UserError(
            f"it has {head.width} x {head.height} pixels. Expected at most {max_pixels:,} in all."
        )


def png_bytes(pixels: np.ndarray) -> bytes:
    """Encode pixels (H, W, 1 or 3) uint8."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def png_text(pixels: np.ndarray) -> str:
    """Return pixels as the base64 of a PNG."""
    return base64.b64encode(png_bytes(pixels)).decode()
