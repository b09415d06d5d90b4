"""What a task offers to `tintype serve`: a finished model as the service holds it.

`tasks/NAME/serve.py` holds the functions of `ServePart`; the addresses of the task stand in
`tasks/NAME/routes.py`, see tintype.tasks.contract.routes.
"""

from __future__ import annotations

import base64
import io
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import numpy as np
from PIL import Image

from tintype.data.decode import Unreadable, read_header
from tintype.errors import UserError
from tintype.files.bounded import refuse_link_out
from tintype.runs.folder import RunFolder

MOST_SAMPLES = 64  # test images of a run that the page offers to try

# Called between the steps of a long job: photos that arrived meanwhile are answered then.
Between = Callable[[], None]


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


class ServedPhotos(Served):
    """A model that answers photos, those that arrive together at once."""

    @abstractmethod
    def picture(self, content: bytes, max_pixels: int) -> Any:
        """Decode the bytes of a file as the model takes them. In any thread.

        Raises:
            UserError: it is no image, damaged, or has more than `max_pixels` pixels.
        """

    @abstractmethod
    def answer(self, works: Sequence[tuple[Any, Any]]) -> Sequence[Any]:
        """Answer pictures, each with the parameters of its request. In the compute thread."""

    @abstractmethod
    def item(self, answer: Any, parameters: Any) -> dict[str, Any]:
        """Return what is sent of an answer, without the name of the file (JSON-ready)."""


class ServePart(Protocol):
    """The functions in `tasks/NAME/serve.py`."""

    def open_run(self, name: str, run: RunFolder, device: str) -> Served:
        """Load a run for the service.

        Raises:
            UserError: the run has no finished model, it is broken, or the device is not there.
        """
        ...

    def open_exported(self, name: str, session: Any, about: Mapping[str, Any]) -> Served:
        """Open an ONNX file of `tintype export` from its session and from what it says of itself.

        Raises:
            UserError: the service takes no exported file of this task.
            KeyError, TypeError, ValueError: what it says of itself is incomplete or broken.
        """
        ...


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
