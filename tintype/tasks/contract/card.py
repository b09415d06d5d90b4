"""What a task offers to a model card and to a hub: sentences, tables, limits, and how to use it.

`tasks/NAME/card.py` holds a subclass of `TaskCard` by the name of `Card`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from tintype.runs.folder import RunFolder, shown_split

SPLITS = {"test": "test", "val": "validation", "folds": "out-of-fold images"}


@dataclass(frozen=True)
class Metric:
    """A figure in the head of a card, which hubs read.

    Attributes:
        key: its name in evaluation.json.
        kind: its type among those of the hub.
        name: its name in a table of the hub.
        by_validation: its name where it was measured on validation images, which chose the model;
            "" for the usual one.
    """

    key: str
    kind: str
    name: str
    by_validation: str = ""


@dataclass(frozen=True)
class Plain:
    """A network of another library that takes these weights, and the lines that do it."""

    library: str
    name: str
    snippet: str


class TaskCard(ABC):
    """What a card says of a model of one task.

    Attributes:
        pipeline: the kind of task among those of the hub.
        metrics: figures for the head of the card.
        pieces, whole: what training images are, and what validation and test images are.
        command: what to type, with RUN for the run folder.
        call: a line of Python that uses `run`.
        resizes: whether the model brings pictures to its own size.
    """

    pipeline: ClassVar[str] = "image-to-image"
    metrics: ClassVar[tuple[Metric, ...]] = ()
    pieces: ClassVar[str] = "images"
    whole: ClassVar[str] = "images"
    command: ClassVar[str]
    call: ClassVar[str]
    resizes: ClassVar[bool] = False

    @abstractmethod
    def sentence(self, model: Mapping[str, Any]) -> str:
        """Return what the model does, in a sentence."""

    def facts(self, model: Mapping[str, Any]) -> list[str]:
        """Return further lines about the model: its classes, what it takes in."""
        if not model["class_names"]:
            return []
        return [f"- Classes: {', '.join(escaped(name) for name in model['class_names'])}."]

    def table(self, evaluation: Mapping[str, Any], splits: Mapping[str, Any]) -> list[str]:
        """Return the figures of `splits` as lines of Markdown; here, whatever numbers there are."""
        first = splits[measured_split(evaluation)]
        names = [name for name, value in first.items() if isinstance(value, int | float)]

        lines = [f"| figure | {' | '.join(splits)} |", "|---|" + "---|" * len(splits)]
        for name in names:
            values = (_number(figures.get(name)) for figures in splits.values())
            lines.append(f"| {name} | {' | '.join(values)} |")

        protocol = evaluation.get("protocol")
        if isinstance(protocol, dict):
            lines += ["", *(f"- {name}: {how}" for name, how in protocol.items())]
        return lines

    def limits(
        self, model: Mapping[str, Any], evaluation: Mapping[str, Any], split: str
    ) -> list[str]:
        """Return lines on where the model fails, by its figures on `split`."""
        del model, evaluation, split
        return []

    def plain(self, run: RunFolder, model: Mapping[str, Any]) -> Plain | None:
        """Return the library whose own network takes the weights as they are, or None."""
        del run, model
        return None

    def hub_fields(self, model: Mapping[str, Any], plain: Plain | None) -> dict[str, Any]:
        """Return fields for config.json that depend on the task; here, the classes."""
        del plain
        names = list(model["class_names"])
        return {
            "num_labels": len(names),
            "id2label": {str(number): name for number, name in enumerate(names)},
            "label2id": {name: number for number, name in enumerate(names)},
        }


class CardPart(Protocol):
    """What `tasks/NAME/card.py` holds."""

    Card: type[TaskCard]


def input_line(model: Mapping[str, Any]) -> str:
    """Return a line on what a model takes in that brings pictures to its own size."""
    how = model["preprocessing"]
    colours = "grey" if how["channels"] == 1 else "RGB"
    return (
        f"- Input: {how['height']}x{how['width']} pixels, {colours}; resized with "
        f"{how['interpolation']} filtering ({how['resize']}), then (x / 255 - mean) / deviation."
    )


def unlike_line(model: Mapping[str, Any], evaluation: Mapping[str, Any]) -> list[str]:
    """Return a line on pictures unlike the training images, for a model that says so of them."""
    if not model.get("typical"):
        return []

    alarms = evaluation.get("unlike")
    often = ""
    if alarms:
        often = f" ({alarms['num_unlike']:,} of {alarms['num_images']:,} test images would be)"
    return [
        "- A picture that is plainly unlike the training images (colour where they are grey, light "
        f"and dark exchanged, noise) is said to be so{often}, and its confidence does not apply. "
        "Other strange pictures pass unnoticed."
    ]


def measured_split(evaluation: Mapping[str, Any]) -> str:
    """Return the split whose figures stand for the model.

    That is test, folds where they take its place, or validation for a run that leaves test alone.
    """
    return shown_split(evaluation)


def escaped(text: str) -> str:
    """Return a text from outside as one line that Markdown takes for nothing else."""
    for mark in "\\`*_[]<>|#":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def _number(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
