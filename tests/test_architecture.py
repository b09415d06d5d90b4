"""The shape of the code: imports flow one way, loading runs no code, the start is light."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import tintype
from tintype import api

PACKAGE = Path(tintype.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
    if path.parent != PACKAGE or path.stem not in ("__init__", "__main__")
}

# What each part may import from the package; a part is a module or a folder. `cli` and `doctor`
# stand on all.
MAY_IMPORT = {
    "errors": set(),
    "files": {"errors"},
    "yaml_files": {"errors", "files"},
    "statistics": set(),
    "durations": {"errors"},
    "grouping": {"durations", "errors"},
    "notebook": {"errors"},
    "progress": {"notebook"},
    "optim": {"distributed"},
    "summary": {"run"},
    "plugins": {"errors"},
    "resample": set(),
    "generation": {"data", "errors", "losses", "model", "pretrained", "run", "weights"},
    "generate": {"files", "errors", "generation", "predict", "run", "tasks"},
    "quality": set(),
    "degrade": {"resample"},
    "perceptual": {"data", "errors", "models", "pretrained", "weights"},
    "distributed": {"errors"},
    "arithmetic": {"data", "distributed"},
    "losses": {"errors"},
    "metrics": {"errors", "statistics"},
    "recipe": {"durations", "files", "grouping", "yaml_files", "errors", "plugins"},
    "augment": {"errors", "plugins"},
    "data": {"files", "errors", "grouping", "plugins"},
    "models": {"errors", "plugins", "optim", "data", "resample"},
    "tasks": {
        "augment",
        "data",
        "degrade",
        "distributed",
        "errors",
        "generation",
        "losses",
        "metrics",
        "models",
        "optim",
        "perceptual",
        "plugins",
        "predicting",
        "pretrained",
        "quality",
        "resample",
        "statistics",
    },
    "packed": {"files", "data", "errors"},
    "shapes": {"errors"},
    "run": {"files", "errors", "packed", "recipe", "shapes"},
    "weights": {"errors"},
    "pretrained": {"data", "errors", "models", "packed", "plugins", "run", "weights"},
    "bundles": {"distributed", "recipe"},
    "automatic": {"bundles", "data", "distributed", "errors", "models", "pretrained", "recipe"},
    "engine": {"errors", "data", "distributed", "optim", "recipe", "run", "tasks"},
    "model": {"errors", "data", "models", "run", "shapes"},
    "report": {
        "files",
        "yaml_files",
        "errors",
        "progress",
        "run",
        "shapes",
        "statistics",
        "summary",
        "metrics",
    },
    "auditing": {"files", "errors", "grouping", "plugins", "data", "report", "run"},
    "analysis": {"data", "metrics", "progress", "run", "statistics", "tasks"},
    "predicting": {"files", "data", "errors", "run"},
    "bulk": {"errors", "predict", "predicting", "progress", "run", "runtime"},
    "runtime": {"errors", "predicting"},
    "predict": {
        "analysis",
        "errors",
        "distributed",
        "model",
        "plugins",
        "predicting",
        "run",
        "shapes",
        "tasks",
    },
    "exporting": {
        "files",
        "data",
        "errors",
        "generation",
        "model",
        "models",
        "predict",
        "quality",
        "run",
        "runtime",
        "sharing",
        "statistics",
        "tasks",
    },
    "sharing": {"files", "data", "errors", "packed", "recipe", "run"},
    "serving": {
        "distributed",
        "files",
        "report",
        "analysis",
        "data",
        "errors",
        "generate",
        "generation",
        "predict",
        "predicting",
        "run",
        "runtime",
        "tasks",
        "upscaling",
    },
    "training": {
        "files",
        "analysis",
        "arithmetic",
        "automatic",
        "data",
        "distributed",
        "engine",
        "errors",
        "model",
        "models",
        "optim",
        "plugins",
        "predicting",
        "progress",
        "recipe",
        "run",
        "symmetry",
        "tasks",
    },
    "symmetry": {"auditing", "augment", "data", "distributed", "recipe", "statistics"},
    "upscaling": {
        "files",
        "data",
        "distributed",
        "errors",
        "packed",
        "predict",
        "run",
        "tasks",
        "weights",
    },
    "evaluate": {
        "arithmetic",
        "errors",
        "data",
        "metrics",
        "model",
        "predict",
        "run",
        "tasks",
        "training",
    },
    "api": {
        "automatic",
        "engine",
        "errors",
        "evaluate",
        "exporting",
        "generate",
        "packed",
        "plugins",
        "predict",
        "progress",
        "recipe",
        "report",
        "run",
        "sharing",
        "tasks",
        "tracking",
        "training",
        "upscaling",
    },
    "comparison": {
        "files",
        "data",
        "distributed",
        "errors",
        "generate",
        "generation",
        "metrics",
        "model",
        "notebook",
        "predict",
        "report",
        "run",
        "statistics",
        "summary",
        "tasks",
        "upscaling",
    },
    "catalogue": {"files", "yaml_files", "errors", "run"},
    "listing": {"catalogue", "errors", "plugins", "recipe"},
    "tracking": {"files", "errors", "plugins", "progress", "recipe", "run", "shapes"},
    "board": {"catalogue", "errors", "report", "run"},
    "studying": {
        "files",
        "yaml_files",
        "api",
        "comparison",
        "data",
        "distributed",
        "engine",
        "errors",
        "notebook",
        "plugins",
        "pretrained",
        "progress",
        "recipe",
        "report",
        "run",
        "shapes",
        "statistics",
    },
    "tuning": {
        "files",
        "yaml_files",
        "api",
        "engine",
        "errors",
        "progress",
        "recipe",
        "report",
        "run",
        "shapes",
        "studying",
    },
}
STAND_ON_ALL = {"cli", "doctor"}


def imported_parts(path: Path) -> set[str]:
    """Return which parts of the package a file imports, at the top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    parts = {name.split(".")[1] for name in names if name.startswith("tintype.")}
    return parts & {module.split(".")[0] for module in MODULES}


def test_every_part_has_its_place():
    """A new file is given a place here, which is when one thinks about it."""
    assert {name.split(".")[0] for name in MODULES} == set(MAY_IMPORT) | STAND_ON_ALL


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_flow_one_way(module):
    part = module.split(".")[0]
    found = imported_parts(MODULES[module]) - {part}
    assert "cli" not in found
    if part not in STAND_ON_ALL:
        assert found <= MAY_IMPORT[part]


def test_the_layers_have_no_circle():
    done: set[str] = set()
    left = dict(MAY_IMPORT)
    while left:
        ready = {part for part, needs in left.items() if needs <= done}
        assert ready, f"a circle among {sorted(left)}"
        done |= ready
        left = {part: needs for part, needs in left.items() if part not in ready}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_loading_runs_no_code(module):
    """No pickle is read: torch.load only with weights_only, YAML only by the safe loader with
    bounds, no eval.
    """
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
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
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and _lacks_an_encoding(call)
    ]
    assert not found
