"""What the package says of itself to others: what it needs, its version, where it comes from."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tintype.version import __version__

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def plain(name: str) -> str:
    """Return the name of a distribution as it is compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def required(lines: list[str]) -> frozenset[str]:
    return frozenset(plain(Requirement(line).name) for line in lines)


CORE = required(PROJECT["dependencies"])
EXTRAS = frozenset[str]().union(
    *(required(lines) for name, lines in PROJECT["optional-dependencies"].items() if name != "dev")
)

# Modules of distributions that one of ours cannot be without, and shares its types with.
COMPANIONS = {
    "markupsafe": "jinja2",
    "pydantic_core": "pydantic",
    "starlette": "fastapi",
    "anyio": "fastapi",
}
# Imported only where the caller has brought them along.
BROUGHT = {"IPython", "pandas"}
# Opened by `tintype serve` alone, whose extra they need.
SERVED = re.compile(r"verbs/serve/.*|tasks/\w+/(routes|problems)\.py")


def imports(tree: ast.AST, *, at_once: bool = True) -> Iterator[tuple[str, bool]]:
    """Yield each foreign module that a file imports, and whether it does so when it is opened.

    What only a type checker reads is left out.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            named = [alias.name for alias in node.names]
            full = named if isinstance(node, ast.Import) else [str(node.module)]
            modules = {name.partition(".")[0] for name in full} - {"tintype"}
            yield from ((name, at_once) for name in modules - sys.stdlib_module_names)
        elif not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from imports(node, at_once=at_once and not inside)


@cache
def imported() -> list[tuple[str, str, bool, frozenset[str]]]:
    """Return file, module, whether at once, and the distributions that bring the module."""
    providers = metadata.packages_distributions()
    found = []
    for path in sorted((ROOT / "tintype").rglob("*.py")):
        place = path.relative_to(ROOT / "tintype").as_posix()
        for module, at_once in set(imports(ast.parse(path.read_text(encoding="utf-8")))):
            owners = [*providers.get(module, []), COMPANIONS.get(module, "")]
            found.append((place, module, at_once, frozenset(map(plain, owners))))
    return found


def test_every_import_is_declared_where_it_is_needed() -> None:
    wrong = []
    for place, module, at_once, owners in imported():
        optional = not at_once or SERVED.fullmatch(place)
        known = owners & CORE or (optional and (owners & EXTRAS or module in BROUGHT))
        if not known:
            wrong.append((place, module))
    assert wrong == []


def test_nothing_is_declared_that_is_not_imported() -> None:
    used = frozenset[str]().union(*(owners for *_, owners in imported()))
    assert CORE - used == set()


def test_the_version_stands_in_one_place() -> None:
    assert "version" not in PROJECT
    assert "version" in PROJECT["dynamic"]

    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\S+)", changelog, re.MULTILINE)
    assert newest
    assert newest[1] in (__version__, "Unreleased")
    assert f"Status: {__version__}" in (ROOT / "README.md").read_text(encoding="utf-8")


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, encoding="utf-8", check=False
    ).stdout
    return [ROOT / name for name in listed.split("\0") if name]


def test_no_file_names_the_address_of_an_index() -> None:
    files = tracked()
    if not files:
        pytest.skip("this is no clone")
    address = re.compile(
        rb"\bpypi\.org|pythonhosted\.org|//[\w.]*pytorch\.org|anaconda\.org|index-url[= ]+\w+:"
    )
    naming = [
        file.relative_to(ROOT).as_posix()
        for file in files
        if file.is_file() and address.search(file.read_bytes())
    ]
    assert naming == []
