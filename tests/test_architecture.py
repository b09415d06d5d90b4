"""The shape of the code: imports flow one way, loading runs no code, the start is light."""

from __future__ import annotations

import ast
import inspect
import re
from functools import cache
from pathlib import Path

import pytest

import tintype
from tintype import api, plugins
from tintype.runs.ranking import ranking_part

PACKAGE = Path(tintype.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
    if path.parent != PACKAGE or path.stem not in ("__init__", "__main__")
}

# The rooms of the house, from the ground up. A room stands on those of the rows before it; what is
# not named here is the ground.
LAYERS = (
    ("data", "augment", "models"),
    ("runs",),
    ("pages", "tracking"),
    ("tasks",),
    ("training",),
    ("verbs",),
    ("api", "estimators"),
    ("cli", "__main__"),
)
LEVEL = {room: level for level, rooms in enumerate(LAYERS, start=1) for room in rooms}

# Arrows that still point up, to be turned round one by one.
STILL_UP: set[tuple[str, str]] = set()


def nodes(path: Path) -> list[ast.AST]:
    """Return the syntax of a file, node by node."""
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


@cache
def imports(module: str) -> set[str]:
    """Return which other modules of the package one imports, at the top or inside a function.

    What only a type checker reads is left out.
    """
    path = MODULES[module]
    whole = nodes(path)
    for_types = {
        id(inner)
        for node in whole
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    names: set[str] = set()
    for node in whole:
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            parts = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {part for part in parts if part.removeprefix("tintype.") in MODULES}
            names |= set() if parts <= names else {str(node.module)}
    return ({name.removeprefix("tintype.") for name in names} & set(MODULES)) - {module}


def level(module: str) -> int:
    return LEVEL.get(module.split(".")[0], 0)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_down(module):
    up = {(module, other) for other in imports(module) if level(other) > level(module)}
    assert up <= STILL_UP


def test_models_know_of_data_only_what_travels():
    arrows = {
        other
        for module in MODULES
        if level(module)
        for other in imports(module)
        if module.startswith("models") and other.startswith("data")
    }
    assert arrows == {"data.source"}


def test_no_exception_outlives_its_reason():
    assert all(other in imports(module) for module, other in STILL_UP)


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import one another, straight or by way of others."""

    def reached(module: str) -> set[str]:
        found: set[str] = set()
        waiting = [module]
        while waiting:
            new = arrows[waiting.pop()] - found
            found |= new
            waiting += new
        return found

    reach = {module: reached(module) for module in arrows}
    groups = {
        frozenset(other for other in reach[module] if module in reach[other]) for module in arrows
    }
    return sorted(sorted(group) for group in groups if group)


def test_no_module_imports_itself_by_way_of_others():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({module: imports(module) for module in MODULES}) == []


# The verbs, from the ground up: one imports another only if it stands after it. Those that are not
# named here import no other verb, and no other verb imports them.
VERBS = (
    "predict",
    "similar",
    "evaluate",
    "share",
    "export",
    "serve",
    "run",
    "compare",
    "study",
    "tune",
)


def verb_of(module: str) -> str:
    return module.split(".")[1] if module.startswith("verbs.") else ""


@pytest.mark.parametrize("module", sorted(filter(verb_of, MODULES)))
def test_verbs_import_one_another_only_downward(module):
    own = verb_of(module)
    others = {verb_of(other) for other in imports(module)} - {"", own}
    lower = VERBS[: VERBS.index(own)] if own in VERBS else ()
    assert others <= set(lower)


# A model says which task it is for, and commands are named after what they do.
MAY_NAME_A_TASK = ("models", "cli", "__main__")


def tasks_named(module: str) -> set[str]:
    """Return the tasks that a module outside their folders names or imports."""
    tasks = set(plugins.names("tasks"))
    own = module.split(".")[1] if module.startswith("tasks.") and module.count(".") else ""
    constants = {
        node.value
        for node in nodes(MODULES[module])
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    imported = {other.split(".")[1] for other in imports(module) if other.startswith("tasks.")}
    return (tasks & (constants | imported)) - {own}


def test_a_task_is_named_in_its_own_folder_alone():
    naming = {
        module
        for module in MODULES
        if module.split(".")[0] not in MAY_NAME_A_TASK and tasks_named(module)
    }
    assert naming == set()


# Where classes may be assumed: the kind of target itself, its short names on a DataSpec, the format
# of files that earlier versions wrote, and the Run, on which a user looks for them.
MAY_ASSUME_CLASSES = {"data.targets", "data.source", "runs.shapes", "verbs.run"}
CLASS_NAMES = re.compile(r"\b(class_names|num_classes|top1|top5)\b")


def test_what_every_task_shares_assumes_no_classes():
    shared = {m for m in MODULES if m.split(".")[0] not in ("tasks", "models", "cli", "api")}
    code = {m: ast.unparse(_without_docstrings(MODULES[m])) for m in shared}
    assert {m for m in shared if CLASS_NAMES.search(code[m])} == MAY_ASSUME_CLASSES


def _without_docstrings(path: Path) -> ast.Module:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant(None)
    return tree


# What a file in the folder of a kind has to define, so that it is found by its name and works.
OFFERS = {
    "models": {"build"},
    "data": {"load"},
    "tasks": {"make", "restore"},
    "tracking": {"start"},
}
# Pairs of photos are opened by the task that they belong to.
OPENED_BY_THEIR_TASK = {"pairs"}


@pytest.mark.parametrize("kind", plugins.PLACES)
def test_every_file_in_the_folder_of_a_kind_offers_what_the_kind_has(kind):
    for stem, path in plugins._files(kind).items():
        if stem in OPENED_BY_THEIR_TASK:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        defined = {
            node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)
        } | {
            target.id
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        assert OFFERS[kind] <= defined, path


@pytest.mark.parametrize("module", sorted(MODULES))
def test_loading_runs_no_code(module):
    """No pickle is read: torch.load only with weights_only, YAML only by the safe loader with
    bounds, no eval. Programs of torch are opened in one place, which asks for the user's trust.
    """
    for node in nodes(MODULES[module]):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
        assert called not in {
            "pickle.load",
            "pickle.loads",
            "pickle.Unpickler",
            "yaml.load",
            "yaml.safe_load",  # which has no bounds; `yaml_files` has the reader
            "eval",
            "exec",
            "joblib.load",
        }
        assert module == "models.parts.programs" or called not in {
            "torch.jit.load",
            "torch.export.load",
            "torch.package.PackageImporter",
            "torch.hub.load",
        }
        assert called != "torch.load" or keywords.get("weights_only") == "True"
        assert (
            called not in {"np.load", "numpy.load"}
            or keywords.get("allow_pickle", "False") == "False"
        )


def test_the_public_functions_are_described():
    public = [getattr(tintype, name) for name in tintype.__all__]
    public += [
        f
        for name, f in vars(api).items()
        if inspect.isfunction(f) and f.__module__ == api.__name__ and name[0] != "_"
    ]
    public += [f for name, f in vars(api.Run).items() if name[0] != "_"]
    assert len(public) > 8
    for thing in public:
        assert (inspect.getdoc(thing) or "").split("\n")[0].endswith((".", ":")), thing


def test_no_drawer_for_odds_and_ends():
    assert not {"utils", "helpers", "common", "misc"} & {name.split(".")[-1] for name in MODULES}


def _lacks_an_encoding(call: ast.Call) -> bool:
    """Tell whether a call reads or writes text in the encoding of the locale; ruff's rule does not
    know every path.
    """
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in given or None in given:
        return False
    if name in ("read_text", "write_text"):
        return len(call.args) < (1 if name == "read_text" else 2)
    return isinstance(given.get("text"), ast.Constant) and given["text"].value is True


def test_text_has_a_stated_encoding():
    root = Path(tintype.__file__).parent.parent
    found = [
        f"{path.relative_to(root)}:{call.lineno}"
        for folder in ("tintype", "tests", "benchmarks", "examples")
        for path in (root / folder).rglob("*.py")
        for call in nodes(path)
        if isinstance(call, ast.Call) and _lacks_an_encoding(call)
    ]
    assert not found


@pytest.mark.parametrize("task", plugins.names("tasks"))
def test_a_task_says_what_its_runs_are_ranked_by(task):
    part = ranking_part(task)
    criterion = part.ranked_by({"fd_pixels8": 0.5, "fd_pixels8_floor": 0.1})
    assert criterion.sign in (1, -1)
    assert criterion.said(0.5)
    assert isinstance(part.COUNTED, bool)
    assert all(further.key != criterion.key for further in part.FURTHER)


def test_lines_of_the_package_end_at_column_100():
    long = [
        f"{path.relative_to(PACKAGE)}:{number}"
        for path in PACKAGE.rglob("*.py")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if len(line) > 100
    ]
    assert not long
