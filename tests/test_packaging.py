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
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from tintype.runs import packaged_weights
from tintype.training import backbone
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
            # of an extra that is not installed here, by its own name
            owners = [*providers.get(module, [module]), COMPANIONS.get(module, "")]
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
    weights = {plain(package.name) for package in packaged_weights.PACKAGES.values()}
    assert CORE - used - weights == set()
    assert CORE & weights == {plain(packaged_weights.PACKAGES[backbone.INSTALLED].name)}


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


# ---- releases ------------------------------------------------------------------------------------------------

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def workflow(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8"))


def test_the_readme_promises_no_index_before_the_release() -> None:
    """docs/release.md keeps the lines that the release puts into the README."""
    lines = ("pip install tintype", "uvx tintype", "pipx install tintype")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    unreleased = "before its first release" in readme
    assert unreleased == ("(unreleased)" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    for line in lines:
        assert line in (ROOT / "docs" / "release.md").read_text(encoding="utf-8")
        assert (line in readme) is not unreleased


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_takes_pinned_actions_and_may_do_little(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    used = re.findall(r"uses: (\S+)(.*)", text)
    assert used
    for action, comment in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action), action
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), action

    content = workflow(path.name)
    assert content["permissions"] == {"contents": "read"}
    allowed = {name: job.get("permissions") for name, job in content["jobs"].items()}
    assert {name for name, more in allowed.items() if more} <= {"publish"}


def test_tests_run_with_every_python_on_every_system() -> None:
    matrix = workflow("tests.yml")["jobs"]["tests"]["strategy"]["matrix"]
    lowest, highest = re.findall(r"3\.(\d+)", PROJECT["requires-python"])
    assert matrix["python"] == [f"3.{minor}" for minor in range(int(lowest), int(highest))]
    assert {name.partition("-")[0] for name in matrix["os"]} == {"ubuntu", "macos", "windows"}


def test_nothing_is_published_unless_a_person_has_switched_it_on() -> None:
    jobs = workflow("release.yml")["jobs"]
    publish = jobs["publish"]
    assert "vars.PUBLISH == 'true'" in publish["if"]
    assert "github.ref_type == 'tag'" in publish["if"]
    assert (publish["needs"], publish["environment"]) == ("build", "pypi")
    assert publish["permissions"] == {"id-token": "write"}
    assert not any("build" in str(step.get("run", "")) for step in publish["steps"])
    assert "secrets." not in (WORKFLOWS[0].parent / "release.yml").read_text(encoding="utf-8")
