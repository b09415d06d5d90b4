"""What a model card says of a regression."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tintype.runs.folder import BY_VALIDATION, called
from tintype.tasks.contract.card import (
    Metric,
    Plain,
    TaskCard,
    escaped,
    input_line,
    measured_split,
    unlike_line,
)
from tintype.tasks.regress.metrics import in_digits


class Card(TaskCard):
    """MAE by split beside what the mean would reach, and what the intervals promise."""

    pipeline = "image-feature-extraction"  # hubs have no kind for numbers from images
    metrics = (
        Metric("mae", "mae", "MAE", BY_VALIDATION),
        Metric("rmse", "rmse", "RMSE"),
        Metric("r2", "r_squared", "R²"),
    )
    command = "tintype predict RUN photo.jpg"
    call = 'print(run.predict("photo.jpg").to_dict())'
    resizes = True

    def sentence(self, model: Mapping[str, Any]) -> str:
        names = " and ".join(escaped(str(name)) for name in model["columns"])
        return f"It answers with {names} of a picture, each as a number with an interval."

    def facts(self, model: Mapping[str, Any]) -> list[str]:
        rows = zip(model["columns"], model["target_mean"], model["target_deviation"], strict=True)
        return [
            *(
                f"- {escaped(str(name))} in training: "
                f"mean {in_digits(mean)}, deviation {in_digits(deviation)}."
                for name, mean, deviation in rows
            ),
            input_line(model),
        ]

    def table(self, evaluation: Mapping[str, Any], splits: Mapping[str, Any]) -> list[str]:
        if "mae" not in splits[measured_split(evaluation)]:
            return super().table(evaluation, splits)

        name = called(evaluation, "MAE") if "folds" in evaluation["splits"] else "MAE"
        lines = [
            f"| split | images | {name} | 95 % interval | MAE of the mean | RMSE | R² |",
            "|---|---|---|---|---|---|---|",
        ]
        for name, figures in splits.items():
            low, high = (in_digits(end) for end in figures["mae_ci95"])
            lines.append(
                f"| {name} | {figures['num_images']:,} | {in_digits(figures['mae'])} | {low} to "
                f"{high} | {in_digits(figures['baseline_mae'])} | {in_digits(figures['rmse'])} | "
                f"{in_digits(figures['r2'])} |"
            )
        return lines

    def limits(
        self, model: Mapping[str, Any], evaluation: Mapping[str, Any], split: str
    ) -> list[str]:
        del split
        return [
            *_promised(evaluation),
            *unlike_line(model, evaluation),
            "- It knows only the range of its training numbers, "
            "and draws what lies beyond towards it.",
        ]

    def hub_fields(self, model: Mapping[str, Any], plain: Plain | None) -> dict[str, Any]:
        """Return the names of the numbers."""
        del plain
        return {"problem_type": "regression", "columns": list(model["columns"])}


def _promised(evaluation: Mapping[str, Any]) -> list[str]:
    """Return what the predictive intervals keep, where there are some."""
    found = evaluation.get("intervals") or {}
    return [
        f"- {escaped(str(each['column']))}: intervals meant to hold {found['level']:.0%} of new "
        f"pictures held {each['coverage']:.1%} of the test images, at a mean width of "
        f"{in_digits(each['mean_width'])}. Pictures from another source are not promised anything."
        for each in found.get("test") or []
    ]
