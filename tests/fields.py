"""Write `tintype/interface/recipe_fields.py` from the models of the recipe: `python tests/fields.py`.

A type checker cannot run the models, in which the fields of a recipe and of all tasks are declared,
so it reads this file in their place. tests/test_fields.py says when it has to be written again.
"""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from tintype import plugins
from tintype.recipe import ALIASES, Recipe, options_of

WRITTEN = Path(__file__).parent.parent / "tintype" / "interface" / "recipe_fields.py"

# Heading of a group: its first field. The fields follow one another as in `Recipe`.
GROUPS = {
    "Images": "task",
    "Network and training": "model",
    "End and measurement": "patience",
    "Machine": "device",
}

# Fields that name a file or a folder only sometimes, and so are not marked as such.
MAY_NAME_A_FILE = {"data", "data_root", "weights"}

# What a field takes that may name the user's own code, or be it.
OWN_CODE = "str | Callable[..., Any]"

# What a field also takes, beside the type that it then has.
ALSO = {
    "augment": "dict[Any, Any] | Callable[..., Any] | Sequence[Any]",
    "columns": "str | dict[str, str]",
    "metrics": OWN_CODE + " | Sequence[str | Callable[..., Any]] | dict[str, Callable[..., Any]]",
    "compile": "bool",
    "data": "Any",
    "groups": "Any",
    "test_fraction": 'Literal["none"]',
    "track": OWN_CODE + " | Sequence[str | Callable[..., Any]]",
}

HEAD = '''"""The fields of a recipe, for editors and type checkers: written by `python tests/fields.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any, Literal, TypedDict


class RecipeFields(TypedDict, total=False):
    """The fields of a recipe.

'''


@dataclass
class Written:
    """A field as it is written."""

    name: str
    type: str
    meaning: str


def own_type(model: type[BaseModel], name: str) -> str:
    """Return the annotation of a field as its class has it, without marks."""
    owner = next(base for base in model.__mro__ if name in inspect.get_annotations(base))
    text = str(inspect.get_annotations(owner)[name])
    text = text.replace("Reference", OWN_CODE)
    bare = re.sub(r"^Annotated\[(.*), PLACE\]$", r"\1", text)
    if bare != text or name in MAY_NAME_A_FILE:
        bare = bare.replace("str", "str | PathLike[str]", 1)
    return merged([bare, ALSO[name]]) if name in ALSO else bare


def parts_of(annotation: str) -> list[str]:
    """Divide a union at its outermost bars."""
    return [part.strip() for part in re.split(r"\|(?![^\[]*\])", annotation)]


def merged(types: list[str]) -> str:
    """Return one annotation for a field that several tasks declare differently."""
    parts = dict.fromkeys(part for annotation in types for part in parts_of(annotation))
    ordered = [part for part in parts if part != "None"]
    return " | ".join([*ordered, *(["None"] if "None" in parts else [])])


def groups() -> dict[str, list[Written]]:
    """Return all fields by the heading they stand under."""
    firsts = {first: heading for heading, first in GROUPS.items()}
    grouped: dict[str, list[Written]] = {}
    heading = ""
    for name, field in Recipe.model_fields.items():
        heading = firsts.get(name, heading)
        written = Written(name, own_type(Recipe, name), field.description or "")
        grouped.setdefault(heading, []).append(written)

    models = {task: options_of(task) for task in plugins.names("tasks")}
    for name in dict.fromkeys(name for model in models.values() for name in model.model_fields):
        having = {task: model for task, model in models.items() if name in model.model_fields}
        kind = merged([own_type(model, name) for model in having.values()])
        written = Written(name, kind, meaning_of(name, having))
        grouped.setdefault(f"Only of {in_words(sorted(having))}", []).append(written)

    options = Written(
        "task_options",
        "dict[str, Any]",
        "Options of the task: of one of your own, or as an older file has them.",
    )
    aliases = [
        Written(alias, merged_type(grouped, name), f"Another name for {name}.")
        for alias, name in ALIASES.items()
    ]
    return {**grouped, "Other names": [options, *aliases]}


def meaning_of(name: str, having: Mapping[str, type[BaseModel]]) -> str:
    """Return what a field means, for each task where they differ."""
    meanings = {task: model.model_fields[name].description or "" for task, model in having.items()}
    if len(set(meanings.values())) == 1:
        return next(iter(meanings.values()))
    return " ".join(f"({task}) {meaning}" for task, meaning in meanings.items())


def in_words(tasks: list[str]) -> str:
    """Name one task or several."""
    *others, last = tasks
    return f"tasks {', '.join(others)} and {last}" if others else f"task {last}"


def merged_type(grouped: dict[str, list[Written]], name: str) -> str:
    """Return the type of a field that is already in a group."""
    return next(field.type for fields in grouped.values() for field in fields if field.name == name)


def paragraph(field: Written) -> str:
    """Return a field and its meaning as lines of the docstring."""
    return textwrap.fill(
        f"{field.name}: {field.meaning}",
        width=100,
        initial_indent=" " * 8,
        subsequent_indent=" " * 12,
        break_long_words=False,
        break_on_hyphens=False,
    )


def source() -> str:
    """Return the file as it should be."""
    grouped = groups()
    listing = [
        f"    {heading}:\n" + "\n".join(map(paragraph, fields))
        for heading, fields in grouped.items()
    ]
    fields = [f"    {f.name}: {f.type}" for fields in grouped.values() for f in fields]
    text = HEAD + "\n\n".join(listing) + '\n    """\n\n' + "\n".join(fields) + "\n"
    return subprocess.run(
        [Path(sys.executable).parent / "ruff", "format", "-q", "--stdin-filename", WRITTEN, "-"],
        input=text, capture_output=True, text=True, encoding="utf-8", check=True,
    ).stdout  # fmt: skip


if __name__ == "__main__":
    WRITTEN.write_text(source(), encoding="utf-8")
