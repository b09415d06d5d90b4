"""Find models, data sets and recipes by file name. Nothing is registered: to add one is to add one file.

Listing reads source text only (no plug-in is imported), so that `tintype list` answers at once.
"""

from __future__ import annotations

import ast
import importlib
from functools import lru_cache
from pathlib import Path
from types import ModuleType

from tintype.errors import unknown_name

PACKAGE = Path(__file__).parent

# Files in a plug-in folder that hold machinery shared by the plug-ins beside them.
NOT_PLUGINS = {"data": {"source", "cache", "split", "audit", "decode"}, "models": {"parts"}, "tasks": {"task"}}


@lru_cache
def names(kind: str) -> dict[str, str]:
    """Return every name of a kind ("models", "data", "tasks") with one line that describes it.

    A file `small_filters.py` offers the name `small-filters`, described by the first line of its docstring;
    a file that serves several names declares them in a literal `NAMES = {"name": "description", ...}`.
    """
    found: dict[str, str] = {}
    for path in sorted((PACKAGE / kind).glob("*.py")):
        if path.stem.startswith("_") or path.stem in NOT_PLUGINS.get(kind, ()):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        several = [ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign) and _assigns_names(n)]
        if several:
            found.update(several[0])
        else:
            found[path.stem.replace("_", "-")] = (ast.get_docstring(tree) or "").split("\n")[0]
    return dict(sorted(found.items()))


def _assigns_names(node: ast.Assign) -> bool:
    return any(isinstance(target, ast.Name) and target.id == "NAMES" for target in node.targets)


def find(kind: str, name: str) -> ModuleType:
    """Import and return the module that offers `name`.

    Raises:
        UserError: no file offers the name; the message suggests the nearest ones.
    """
    if name not in names(kind):
        singular = {"models": "model", "tasks": "task", "data": "data set"}[kind]
        raise unknown_name(singular, name, names(kind), hint=f"`tintype list {kind}` shows them.")
    stem = name.replace("-", "_")
    if (PACKAGE / kind / f"{stem}.py").exists():
        return importlib.import_module(f"tintype.{kind}.{stem}")
    for path in sorted((PACKAGE / kind).glob("*.py")):
        if path.stem.startswith("_") or path.stem in NOT_PLUGINS.get(kind, ()):
            continue
        module = importlib.import_module(f"tintype.{kind}.{path.stem}")
        if name in getattr(module, "NAMES", {}):
            return module
    raise AssertionError(f"{kind} {name} is listed but not found")


@lru_cache
def augmentation_names() -> dict[str, str]:
    """Return every augmentation with one line that describes it, in the order of application.

    An augmentation is a public function in `augment.py` whose first argument is `canvas`.
    """
    return {
        node.name: (ast.get_docstring(node) or "").split("\n")[0]
        for node in ast.parse((PACKAGE / "augment.py").read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
        and not node.name.startswith("_")
        and [argument.arg for argument in node.args.args[:1]] == ["canvas"]
    }


@lru_cache
def augmentation_presets() -> dict[str, dict[str, object]]:
    """Return the named presets of `augment.py` with what each contains."""
    for node in ast.parse((PACKAGE / "augment.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "PRESETS":
            return ast.literal_eval(node.value) if node.value else {}
    raise AssertionError("augment.py holds no PRESETS")
