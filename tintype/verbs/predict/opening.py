"""Open what predicts: a run folder, a packed run, or an exported file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from tintype.errors import UserError
from tintype.plugins import find_part, has_part, own_task
from tintype.tasks.contract.exported import intact, is_exported, open_file
from tintype.tasks.contract.predict import Predictor, PredictPart

if TYPE_CHECKING:
    from tintype.runs.folder import RunFolder

PURPOSE = "be used to predict"


def open_model(model: Path, device: str = "auto") -> Predictor:
    """Return the model of a run folder, of a packed run, or of an exported file.

    Raises:
        UserError: it is none of them, or its task does not predict.
    """
    if is_exported(model):
        if device not in ("auto", "cpu"):
            raise UserError(
                f"an exported model computes on the CPU here, not on {device}. Leave --device out."
            )
        return open_exported(model)

    from tintype.runs.folder import RunFolder

    return open_run(RunFolder.open(model), device)


def open_run(run: RunFolder, device: str = "auto") -> Predictor:
    """Return the model of a run.

    Raises:
        UserError: the run has no finished model, its task does not predict, or the device is not
            there.
    """
    if own_task(run.recipe.task) and not has_part(run.recipe.task, "predict"):
        from tintype.tasks.own_answers import OwnPredictor

        return OwnPredictor.of(run, device=device)
    return cast(PredictPart, run.part("predict", PURPOSE)).open_run(run, device)


def open_exported(path: Path, threads: int | None = None) -> Predictor:
    """Return the model in a file of `tintype export`.

    Raises:
        UserError: the file cannot be read, was not made by tintype or by a newer one, is a program
            that is not trusted, or its task does not predict.
    """
    session, about = open_file(path, threads)
    part = cast(PredictPart, find_part(str(about.get("task")), "predict", PURPOSE))
    with intact(path):
        return part.open_exported(session, about)
