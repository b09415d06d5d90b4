"""A finished classifier as the service holds it: it says what is on photos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from tintype.runs.folder import RunFolder
from tintype.tasks.classify import predict
from tintype.tasks.classify.answering import Classifier
from tintype.tasks.contract.predict import Picture
from tintype.tasks.contract.prediction import Prediction
from tintype.tasks.contract.routes import Parameters
from tintype.tasks.contract.serve import Served, ServedPhotos, png_text, refuse_large

if TYPE_CHECKING:
    from tintype.tasks.classify.classifier import Classify

HEAT_AT_ONCE = 16  # pictures with gradients


def open_run(name: str, run: RunFolder, device: str) -> Served:
    """Load a run for the service.

    Raises:
        UserError: the run has no finished model, it is broken, or the device is not there.
    """
    from tintype.tasks.classify.classifier import Classify
    from tintype.tasks.classify.predictor import RunClassifier
    from tintype.tasks.restoring import load_task_of

    task, description = load_task_of(Classify, run, device)
    return PhotoClassifier(name, description, run, RunClassifier(task, description), task)


def open_exported(name: str, session: Any, about: Mapping[str, Any]) -> Served:
    """Open an exported classifier, which draws no heat maps.

    Raises:
        KeyError, TypeError, ValueError: what it says of itself is incomplete or broken.
    """
    classifier = predict.open_exported(session, about)
    how = {"height": classifier.height, "width": classifier.width, "channels": classifier.channels}
    return PhotoClassifier(name, {"preprocessing": how}, None, classifier, None)


class PredictParameters(Parameters):
    top: int = Field(
        default=5, ge=1, le=1000, description="Number of classes to list for each photo."
    )
    heatmap: bool = Field(default=False, description="Also show where the model looked (Grad-CAM).")


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


class PhotoClassifier(ServedPhotos):
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
        self.answer([(Picture(np.zeros(shape, np.uint8)), PredictParameters())])

    def picture(self, content: bytes, max_pixels: int) -> Picture:
        refuse_large(content, max_pixels)
        return self.classifier.picture(content)

    def answer(self, works: Sequence[tuple[Picture, PredictParameters]]) -> list[Classification]:
        """Answer photos, with heat maps for those that ask for one."""
        predictions = self.classifier.answer([""] * len(works), [picture for picture, _ in works])
        hot = [i for i, (_, parameters) in enumerate(works) if parameters.heatmap]

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
        import torch

        from tintype.tasks.classify.analysis.heatmaps import grad_cam, overlaid

        images = self.task.normalise(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2))
        found = grad_cam(self.task.networks[self.task.main], images, torch.tensor(classes))
        return (
            []
            if found is None
            else [overlaid(p, heat) for p, heat in zip(pixels, found.maps, strict=True)]
        )

    def item(self, answer: Classification, parameters: PredictParameters) -> dict[str, Any]:
        item: dict[str, Any] = {"top": answer.top(parameters.top)}
        if answer.prediction.unlike:
            item["unlike"] = answer.prediction.unlike
        if answer.heat is not None:
            item["heatmap"] = png_text(answer.heat)
        return item
