"""What a model card says of a classifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tintype.runs.folder import BY_VALIDATION, RunFolder, called
from tintype.tasks.classify.plain import plain_architecture
from tintype.tasks.contract.card import (
    SPLITS,
    Metric,
    Plain,
    TaskCard,
    escaped,
    input_line,
    measured_split,
    unlike_line,
)

WEAK = 5  # classes that are named as the weakest


class Card(TaskCard):
    """Accuracy by split, the weakest classes, what is confused, and what a threshold promises."""

    pipeline = "image-classification"
    metrics = (
        Metric("accuracy", "accuracy", "accuracy", BY_VALIDATION),
        Metric("macro_f1", "f1", "macro F1"),
    )
    command = "tintype predict RUN photo.jpg"
    call = 'print(run.predict("photo.jpg").top5)'
    resizes = True

    def sentence(self, model: Mapping[str, Any]) -> str:
        return f"It says which of {len(model['class_names'])} classes a picture shows."

    def facts(self, model: Mapping[str, Any]) -> list[str]:
        return [*super().facts(model), input_line(model)]

    def table(self, evaluation: Mapping[str, Any], splits: Mapping[str, Any]) -> list[str]:
        if "accuracy" not in splits[measured_split(evaluation)]:
            return super().table(evaluation, splits)

        lines = [
            f"| split | images | {called(evaluation) or 'accuracy'} | 95 % interval | macro "
            "F1 | log loss | calibration error |",
            "|---|---|---|---|---|---|---|",
        ]
        for name, figures in _with_clean(splits).items():
            low, high = figures["accuracy_ci95"]
            error = figures.get("calibration_error", figures["expected_calibration_error"])
            lines.append(
                f"| {name} | {figures['num_images']:,} | {figures['accuracy']:.2%} | "
                f"{low:.2%} to {high:.2%} | {figures['macro_f1']:.3f} "
                f"| {figures['loss']:.3f} | {error:.3f} |"
            )
        return lines

    def limits(
        self, model: Mapping[str, Any], evaluation: Mapping[str, Any], split: str
    ) -> list[str]:
        return [
            *_weakest(evaluation, split),
            *_confused(evaluation, split),
            *_promised(model, evaluation, split),
            *unlike_line(model, evaluation),
            "- It knows only its classes: "
            "a picture of anything else is given one of them all the same.",
        ]

    def plain(self, run: RunFolder, model: Mapping[str, Any]) -> Plain | None:
        return plain_architecture(run, model)

    def hub_fields(self, model: Mapping[str, Any], plain: Plain | None) -> dict[str, Any]:
        """Return the classes, and for a plain network of timm what timm loads it by."""
        fields = super().hub_fields(model, plain)
        if plain is None or plain.library != "timm":
            return fields

        how, names = model["preprocessing"], list(model["class_names"])
        return fields | {
            "num_classes": len(names),
            "label_names": names,
            "pretrained_cfg": {
                "input_size": [how["channels"], how["height"], how["width"]],
                "mean": how["mean"],
                "std": how["std"],
                "interpolation": how["interpolation"],
                "crop_pct": how["crop_fraction"],
                "num_classes": len(names),
            },
        }


def _with_clean(splits: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of each split, each followed by those without leaked images."""
    rows: dict[str, Any] = {}
    for name, figures in splits.items():
        rows[name] = figures
        if "without_leaked" in figures:
            rows[f"{name}, without leaked images"] = figures["without_leaked"]
    return rows


def _weakest(evaluation: Mapping[str, Any], split: str) -> list[str]:
    rows = evaluation.get("per_class", {}).get(split, [])
    known = [row for row in rows if row.get("f1") is not None]
    weak = sorted(known, key=lambda row: row["f1"])[:WEAK]
    if not weak:
        return []

    said = ", ".join(
        f"{escaped(row['name'])} (F1 {row['f1']:.2f} of {row['support']:,} images)" for row in weak
    )
    return [f"- Weakest classes on {split}: {said}."]


def _confused(evaluation: Mapping[str, Any], split: str) -> list[str]:
    rows = evaluation.get("most_confused", {}).get(split, [])[:3]
    if not rows:
        return []

    said = "; ".join(
        f"{escaped(row['target'])} taken for {escaped(row['prediction'])} ({row['share']:.0%})"
        for row in rows
    )
    return [f"- Most confused on {split}: {said}."]


def _promised(model: Mapping[str, Any], evaluation: Mapping[str, Any], split: str) -> list[str]:
    promised = [entry for entry in model.get("abstain", ()) if entry["threshold"] is not None]
    if not promised:
        return []

    best = promised[-1]
    accuracy = evaluation["splits"][split]["accuracy"]
    right = f"{accuracy:.1%} were right on {SPLITS[split]}"
    if best["threshold"] == 0:
        return [f"- Every answer counts; {right}."]
    on = "Out of fold" if split == "folds" else "On validation"
    return [
        f"- {on}, at least {best['accuracy']:.0%} of the answers with a confidence of "
        f"{best['threshold']:.2f} or more are right; below that, a person should be asked. "
        f"Of all answers, {right}."
    ]
