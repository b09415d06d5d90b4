"""The user's own code that a run needs: code.json names it, and RUN/code/ keeps a copy of its text.

The copies are text. They run only where the user says so: `--trust RUN/code/my_net.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tintype.errors import UserError
from tintype.files.bounded import read_json_object
from tintype.files.whole import write_json, written_whole
from tintype.own_code import (
    IN_PYTHON,
    code_of,
    is_own,
    is_stood_in_for,
    located,
    name_of,
    named_like,
    standing_in,
)
from tintype.plugins import Installed, installed
from tintype.recipe import KIND_OF, Recipe

FILE = "code.json"


def needed(references: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """Return what a run records of the code that its fields name; it is read, and not run.

    Args:
        references: of the code, each after its field of the recipe.

    Returns:
        For each field: `field`, `reference`, `sha256` of the text, and `copy`, its place in the run
        folder. Both are empty for an object without a text.

    Raises:
        UserError: a file cannot be read.
    """
    found: list[dict[str, str]] = []
    for field, reference in references:
        sha256 = code_of(reference).sha256
        copy = _copy_of(reference, sha256, found) if sha256 else ""
        found.append({"field": field, "reference": reference, "sha256": sha256, "copy": copy})
    return found


def of_packages(plugins: Sequence[tuple[str, Installed]]) -> list[dict[str, str]]:
    """Return what a run records of the plug-ins of installed packages that its fields name."""
    return [
        {"field": field, **vars(each), "sha256": code_of(each.reference).sha256}
        for field, each in plugins
    ]


def keep(
    folder: Path,
    references: Sequence[tuple[str, str]],
    plugins: Sequence[tuple[str, Installed]] = (),
) -> None:
    """Write down in a run folder what code it needs, with a copy; nothing where it needs none."""
    rows = needed(references)
    packages = of_packages(plugins)
    if not rows and not packages:
        return

    write_json(folder / FILE, {"code": rows, **({"packages": packages} if packages else {})})
    for row in rows:
        if row["copy"]:
            _write_copy(folder / row["copy"], code_of(row["reference"]).source)


def refuse_missing_packages(run: Path) -> None:
    """Raise where a stored run names a plug-in of a package that is not installed here.

    Raises:
        UserError: it does.
    """
    try:
        rows = read_json_object(run / FILE).get("packages", [])
        named = [
            tuple(str(row[key]) for key in ("field", "name", "package", "version")) for row in rows
        ]
    except (OSError, ValueError, LookupError, TypeError):  # none, or the file of a stranger
        return
    for field, name, package, version in named:
        if field in KIND_OF and name not in installed(KIND_OF[field]):
            raise UserError(
                f"{run} needs the {field} {name} of the package {package} {version}, which is not "
                f"installed here. Install it."
            )


@contextmanager
def trusted(run: Path, rows: Sequence[Mapping[str, str]]) -> Iterator[None]:
    """Let `own_code.find` find the code that a stored run names, in the block.

    Args:
        run: the run folder.
        rows: what it records of the code.

    Raises:
        UserError: the user has not named some of the code in this process, or names other bytes.
    """
    with standing_in({row["reference"]: trusted_reference(run, row) for row in rows}):
        yield


def trusted_reference(run: Path, row: Mapping[str, str]) -> str:
    """Return how this process finds code that a stored run needs.

    Raises:
        UserError: the user has not named it in this process, or names other bytes.
    """
    reference = located(row["reference"], row["sha256"])
    if reference is None:
        raise _untrusted(run, row)
    return reference


def task_here(run: Path, task: str) -> str:
    """Return how this process finds the task of a stored run; its own reference where it may not
    run, or is no code of the user's own.
    """
    if not is_own(task) or is_stood_in_for(task):
        return task
    try:
        rows = rows_of(read_json_object(run / FILE))
        row = next(row for row in rows if row["field"] == "task")
        return located(row["reference"], row["sha256"]) or task
    except (OSError, ValueError, LookupError, TypeError, AttributeError, StopIteration):
        return task  # without code.json, or with one of a stranger


def with_task_here(recipe: Recipe, run: Path) -> Recipe:
    """Return the recipe of a stored run, whose task is where this process finds it."""
    task = task_here(run, recipe.task)
    return recipe if task == recipe.task else recipe.replace(task=task)


def is_trusted(rows: Sequence[Mapping[str, str]]) -> bool:
    """Return whether the user has named all code of a stored run in this process."""
    return all(located(row["reference"], row["sha256"]) is not None for row in rows)


def is_same(row: Mapping[str, str], reference: str) -> bool:
    """Return whether a reference that the user has named is the code that a stored run needs."""
    return bool(row["sha256"]) and code_of(reference).sha256 == row["sha256"]


def _untrusted(run: Path, row: Mapping[str, str]) -> UserError:
    field, reference = row["field"], row["reference"]
    name = name_of(reference)
    copy = _place_of_copy(run, row)
    others = named_like(reference)
    if others and copy:
        return UserError(
            f"{others[0]} is not the {field} that {run} was trained with: its text is another. "
            f"The text of then: --trust {copy}."
        )
    if reference.startswith(IN_PYTHON):
        keeps = f" The folder keeps its text: --trust {copy}." if copy else ""
        return UserError(
            f"{run} needs its {field} {name}, which was given in Python, and opening a run "
            f"executes no code. Give it again, as in tt.load(RUN, trust={name}).{keeps}"
        )
    return UserError(
        f"{run} needs your own code for its {field}, {reference}, and opening a run executes no "
        f"code. If you trust it: --trust {copy or 'FILE'}."
    )


def _place_of_copy(run: Path, row: Mapping[str, str]) -> str:
    """Return where the copy of a text lies, "" where there is none, as in a run from a hub."""
    place = run / row["copy"]
    return str(place) if row["copy"] and place.is_file() else ""


def _copy_of(reference: str, sha256: str, others: Sequence[Mapping[str, str]]) -> str:
    """Return where a copy lies, relative to the run folder; equal texts share one."""
    path = reference if reference.endswith(".py") else reference.rpartition(":")[0]
    stem = Path(path).stem if path.endswith(".py") else name_of(reference)
    stem = re.sub(r"[^A-Za-z0-9_]+", "_", stem) or "code"

    number = 1
    while True:
        copy = f"code/{stem}{'' if number == 1 else f'_{number}'}.py"
        if all(row["copy"] != copy or row["sha256"] == sha256 for row in others):
            return copy
        number += 1


def _write_copy(path: Path, source: str) -> None:
    path.parent.mkdir(exist_ok=True)
    with written_whole(path) as temporary:
        temporary.write_text(source, encoding="utf-8", newline="\n")


def rows_of(description: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return what model.json or code.json records of code."""
    return description.get("code", [])
