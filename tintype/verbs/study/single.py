"""One run of a study, trained or resumed; a failure is reported and does not stop the others."""

from __future__ import annotations

import time
from pathlib import Path

from tintype import own_code
from tintype.errors import Interrupted, UserError
from tintype.progress import Watcher
from tintype.recipe import Recipe
from tintype.runs.folder import RunFolder
from tintype.training.run import resume, train
from tintype.verbs.study.folder import remove_unstarted

LOCK_SECONDS = 60.0  # a process of a study that was killed may still be saving its state


def train_one(
    folder: Path, name: str, recipe: Recipe, watcher: Watcher, command: str
) -> tuple[str, str]:
    """Train a run of the study in `folder`, or go on with it.

    Returns its state and, of a failure, the message.

    Raises:
        Interrupted: a signal came; the state is saved.
    """
    path = folder / name
    try:
        if (path / "recipe.yaml").exists():
            _wait_for_lock(path)
            own_code.trust_all(recipe.own_code())
            resume(path, watcher, command=command)
        else:
            remove_unstarted(path)
            train(recipe, watcher, out=folder, name=name, command=command)
    except Interrupted:
        raise
    except UserError as error:
        return "failed", str(error)
    except Exception as error:  # whatever it is, the other runs go on
        return "failed", f"{type(error).__name__}: {error}"

    return "finished", ""


def _wait_for_lock(path: Path) -> None:
    until = time.monotonic() + LOCK_SECONDS
    while time.monotonic() < until:
        try:
            with RunFolder(path).locked():
                return
        except UserError:
            time.sleep(0.2)
