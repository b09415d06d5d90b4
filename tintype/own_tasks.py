"""A task of the user's own: a class in a file, in place of a folder of `tintype/tasks/`.

The class is a subclass of `tintype.tasks.task.Task`. What `task.py` of a folder holds beside the
class (`make`, `restore`, `TARGETS`, ...) is found in the class, or else in its file. The file also
holds the parts: `Options`, `Measure`, `Export` and `Card` under these names, and every other part
as a class or a module that is called like it, such as `report`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from tintype.errors import UserError
from tintype.own_code import called, find, may_run

# Parts of which one class is all, and what it is called.
CLASSES = {"options": "Options", "measure": "Measure", "export": "Export", "card": "Card"}
MAKING = ("make", "restore")
OF_THE_TASK = (*MAKING, "TARGETS", "open_data", "target_of")


class OwnTask:
    """What `task.py` of a task's folder holds, of a task of the user's own.

    Args:
        reference: of the class, see `tintype.own_code`.

    Attributes:
        task: the class.
        module: its file.

    Raises:
        UserError: there is no such class, the user has not named it, or it cannot be made.
        OwnCodeError: its code fails.
    """

    def __init__(self, reference: str) -> None:
        self.task = find(reference, "task", "", _is_task)
        name = called(reference)
        if not _is_task(self.task):
            raise UserError(
                f"the task {name} is no task. Expected a class derived from "
                "tintype.tasks.task.Task, as in my_task.py:MyTask."
            )
        self.module = sys.modules[self.task.__module__]

        for each in OF_THE_TASK:
            found = getattr(self.task, each, None) or getattr(self.module, each, None)
            if found is not None:
                setattr(self, each, found)
        missing = [each for each in MAKING if not hasattr(self, each)]
        if missing:
            raise UserError(
                f"the task {name} has no {missing[0]}. Expected class methods make(splits, ...) "
                "and restore(network, spec, description, *, device, dtype) that return the task."
            )

    def part(self, part: str) -> Any | None:
        """Return what stands for the file of a part, None where there is none."""
        name = CLASSES.get(part)
        if name is not None:
            holder = self.task if hasattr(self.task, name) else self.module
            return holder if hasattr(holder, name) else None
        found = getattr(self.module, part, None)
        return found if isinstance(found, type | ModuleType) else None


def own_part(reference: str, part: str) -> Any | None:
    """Return a part of a task of the user's own; None where it has none, or where its code may not
    run.
    """
    return OwnTask(reference).part(part) if may_run(reference) else None


def _is_task(thing: Any) -> bool:
    """Return whether an object of a file is a class derived from `Task`, which takes torch."""
    bases = thing.__mro__[1:] if isinstance(thing, type) else ()
    return any((base.__module__, base.__name__) == ("tintype.tasks.task", "Task") for base in bases)
