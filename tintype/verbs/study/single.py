"""One run of a study, trained or resumed; a failure is reported and does not stop the others."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tintype import own_code
from tintype.errors import Interrupted, UserError
from tintype.progress import Watcher
from tintype.recipe import Recipe
from tintype.runs.folder import RunFolder
from tintype.training.run import resume, train
from tintype.verbs.study.folder import remove_unstarted

LOCK_SECONDS = 60.0  # a process of a study that was killed may still be saving its state


class LostLeaseError(Exception):
    """Another process has taken over the run that this one trains."""


def train_one(
    folder: Path, name: str, recipe: Recipe, watcher: Watcher, command: str
) -> tuple[str, str]:
    """Train a run of the study in `folder`, or go on with it.

    Returns its state ("finished", "failed", or "stopped" where another process has the run) and, of
    a failure, the message.

    Raises:
        Interrupted: a signal came; the state is saved.
    """
    path = folder / name
    try:
        if (path / "recipe.yaml").exists():
            if not _is_unlocked(path):
                watcher.note(
                    f"warning: {path} is being trained by another process; it is waited for"
                )
                return "stopped", ""
            own_code.trust_all(recipe.own_code())
            # Earlier versions wrote down which card of their machine it was.
            of_a_card = recipe.device == "auto" and ":" in RunFolder(path).recipe.device
            moved: dict[str, Any] = {"device": "auto"} if of_a_card else {}
            resume(path, watcher, command=command, **moved)
        else:
            remove_unstarted(path)
            train(recipe, watcher, out=folder, name=name, command=command)
    except Interrupted:
        raise
    except LostLeaseError:
        return "stopped", ""
    except UserError as error:
        return "failed", str(error)
    except Exception as error:  # whatever it is, the other runs go on
        return "failed", f"{type(error).__name__}: {error}"

    return "finished", ""


def _is_unlocked(path: Path) -> bool:
    """Return whether no process holds a run, or waits for its end for LOCK_SECONDS."""
    until = time.monotonic() + LOCK_SECONDS
    while time.monotonic() < until:
        try:
            with RunFolder(path).locked():
                return True
        except UserError:
            time.sleep(0.2)
    return False
