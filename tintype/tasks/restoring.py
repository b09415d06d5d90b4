"""A task around the saved model of a run."""

from __future__ import annotations

from typing import Any, TypeVar

import torch

from tintype.errors import UserError
from tintype.hardware.device import choose_device, hold_memory
from tintype.plugins import find
from tintype.runs import code
from tintype.runs.folder import RunFolder
from tintype.runs.model import load_model
from tintype.runs.shapes import MISFIT
from tintype.tasks.task import Task

T = TypeVar("T", bound=Task)


def load_task(run: RunFolder, device: str) -> tuple[Task, dict[str, Any]]:
    """Rebuild the task around the saved model, in the precision that its figures were measured in.

    The process keeps freed memory from then on, as in training: predicting is twice as fast by it
    on a CPU.

    Raises:
        UserError: the run has no finished model, the device is not there, or the task is the user's
            own and not trusted.
    """
    chosen, _ = choose_device(device)
    hold_memory()
    with code.trusted(run.path, [row for row in run.own_code if row["field"] == "task"]):
        return _restored(run, chosen)


def _restored(run: RunFolder, chosen: torch.device) -> tuple[Task, dict[str, Any]]:
    network, spec, description = load_model(run, chosen)
    # The precision that the figures were measured in; every CPU and GPU that torch supports can
    # compute in it.
    dtype = torch.bfloat16 if description["precision"] == "bf16" else torch.float32

    module = find("tasks", description["task"])
    try:
        return module.restore(network, spec, description, device=chosen, dtype=dtype), description
    except MISFIT as error:  # fields of the task that do not fit the network, or one another
        raise UserError(
            f"{run.path / 'model.json'} is broken ({type(error).__name__}: {error})."
        ) from None


def load_task_of(kind: type[T], run: RunFolder, device: str) -> tuple[T, dict[str, Any]]:
    """Rebuild a task of one class, as `load_task` does.

    Raises:
        UserError: the model is of another task, there is none, or the device is not there.
    """
    task, description = load_task(run, device)
    if not isinstance(task, kind):
        raise UserError(
            f"{run.path / 'model.json'} holds a model of task {description['task']}; "
            f"expected one of task {run.recipe.task}, as in recipe.yaml."
        )
    return task, description
