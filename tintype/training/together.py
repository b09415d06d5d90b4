"""One training by several processes: process 0 leads, the others train along.

Process 0 does all that `tintype train` does. When it begins to train it says what; the others
prepare the same from the finished recipe, in a scratch folder, take each step with it, and wait for
what comes next: a split to measure, the training of a fold, or nothing more.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from tintype import own_code
from tintype.errors import UserError
from tintype.files.whole import write_json
from tintype.hardware.device import Choice
from tintype.hardware.processes import Group, current, refuse_other
from tintype.plugins import find
from tintype.progress import Watcher
from tintype.recipe import Recipe, build
from tintype.runs.folder import RunFolder
from tintype.runs.remote import FOLDER, address_of
from tintype.training.prepare import Prepared, prepare
from tintype.version import __version__

TrainRun = Callable[[RunFolder, Prepared, Watcher, str], None]
Evaluate = Callable[[str, int], None]

# What process 0 asks the others for.
TRAIN = "train"
EVALUATE = "evaluate"

FILE = "launcher.json"  # which launch of torchrun a run belongs to


# ---- parts and processes -------------------------------------------------------------------------


def with_parts(
    recipe: Recipe, stated: Collection[str], size: int | None = None
) -> tuple[Recipe, list[Choice]]:
    """Return the recipe with a part for each process, unless its parts are stated.

    Args:
        recipe: what is trained.
        stated: the fields that the user, or a recipe file, has set.
        size: how many processes there are, or will be; by default those of the current group.

    Raises:
        UserError: the processes cannot share the parts.
    """
    size = size or current().size
    if size == 1:
        return recipe, []
    if recipe.device.startswith("cuda:"):
        raise UserError(
            f"device {recipe.device} is one GPU, and each of {size} processes takes its own. "
            "Expected device auto, cuda or cpu."
        )
    if recipe.options.without_steps:
        why = "what is trained is fitted at once, without steps that could be shared"
        return recipe, [Choice("processes", "1", why)]

    choices = []
    if "parts" not in stated:
        if size & (size - 1):
            raise UserError(
                f"{size} processes cannot share a batch in equal parts. "
                "Expected 1, 2, 4, 8 or another power of two."
            )
        recipe = recipe.replace(parts=size)
        why = "one for each process; any number of processes that shares them gives the same bits"
        choices.append(Choice("parts", str(size), why))

    if recipe.parts % size:
        few = [str(2**k) for k in range(recipe.parts.bit_length())]
        raise UserError(
            f"{size} processes cannot share parts: {recipe.parts} equally. "
            f"Expected --processes {' or '.join(few)}, "
            f"or more parts from the start (--set parts={2 ** (size - 1).bit_length()})."
        )
    how = "gathered, and added in the order of the parts"
    if not recipe.exact:
        how = "added by all-reduce, which is faster, and whose last bits may differ (exact: false)"
    choices.append(Choice("processes", str(size), f"gradients are {how}"))
    return recipe, choices


# ---- leading and following -----------------------------------------------------------------------


def announce(run: RunFolder, prepared: Prepared, command: str) -> None:
    """Say to the others what is trained now, and make sure that they train the same.

    Raises:
        UserError: another process has other images or another program.
    """
    group = current()
    group.folder = group.folder or run.path  # that of a fold belongs to another
    if group.size == 1 or prepared.recipe.options.without_steps:
        return
    if group.is_first:
        group.ask([TRAIN, prepared.recipe.model_dump(mode="json"), command])
    _refuse_unequal(group, prepared)


def follow(group: Group, train_run: TrainRun, evaluate: Evaluate | None = None) -> str:
    """Do what process 0 asks for until nothing is left to do; return what it says then.

    Args:
        group: the processes.
        train_run: trains a run along with process 0.
        evaluate: measures a split of a run that is trained, given its name and number of images.
    """
    while not isinstance(asked := group.asked(), str):
        kind, *what = asked
        if kind == TRAIN:
            _train_along(train_run, *what)
        elif evaluate is not None:
            evaluate(*what)
    return asked


def _train_along(train_run: TrainRun, fields: dict[str, Any], command: str) -> None:
    approve_task(fields["task"])
    recipe = build(fields, where="process 0")
    own_code.approve(reference for _, reference in recipe.own_code())
    prepared = prepare(recipe, Watcher())
    with tempfile.TemporaryDirectory(prefix="tintype-follows-") as scratch:
        run = RunFolder.create(scratch, "run", exact=True, recipe=recipe)
        train_run(run, prepared, Watcher(), command)


def approve_task(task: Any) -> None:
    """Let a task of the user's own run, and refuse one that is none."""
    if own_code.is_own(task):
        own_code.approve([task])
        find("tasks", task)


def _refuse_unequal(group: Group, prepared: Prepared) -> None:
    facts = {
        "images": prepared.splits.spec.fingerprint,
        "own code": str([own_code.code_of(r).sha256 for _, r in prepared.recipe.own_code()]),
        "tintype": __version__,
        "torch": torch.__version__,
        "device": prepared.device.type,
    }
    for rank, others in enumerate(group.from_all(facts)):
        for what, value in facts.items():
            refuse_other(what, rank, others[what], value)


# ---- restarts by torchrun ------------------------------------------------------------------------


def _launch() -> str | None:
    """Return which launch of torchrun this is, the same after a restart; None without one.

    torchrun gives a launch a name, --rdzv-id, or calls it "none"; the agent on this machine tells
    those apart.
    """
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    if name is None or current().size == 1:
        return None
    return f"none of {os.getppid()}" if name == "none" else name


def note_launcher(run: RunFolder, command: str) -> None:
    """Write down which launch a run belongs to, so that a restart finds it."""
    if launch := _launch():
        write_json(run.path / FILE, {"launch": launch, "command": command})


def of_launcher(out: str | Path, command: str) -> Path | None:
    """Return the run of this launch, which torchrun has restarted.

    A finished one may be that of an earlier launch of the same name, unless torchrun says that it
    has restarted this process.
    """
    launch = _launch()
    if launch is None:
        return None
    restarted = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    folder = FOLDER if address_of(out) else Path(out)
    for file in sorted(folder.glob(f"*/{FILE}")):
        with suppress(OSError, ValueError):
            noted: Any = json.loads(file.read_text(encoding="utf-8"))
            state = RunFolder(file.parent).status.get("state")
            if noted == {"launch": launch, "command": command} and (
                restarted or state != "finished"
            ):
                return file.parent
    return None
