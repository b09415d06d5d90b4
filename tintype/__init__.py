"""tintype: image models made on the spot.

Classify, generate and upscale images, and know how good the model is:

    import tintype as tt

    run = tt.train("digits", epochs=5)
    run.metrics["test"]["accuracy"]
    run.predict("seven.png")
    tt.load("runs/digits")

Nothing heavy is imported before it is needed: `import tintype` takes some milliseconds.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tintype.version import __version__ as __version__

if TYPE_CHECKING:
    from tintype.api import Run, load, runs, train
    from tintype.errors import StopTraining, UserError
    from tintype.estimators import TintypeClassifier, TintypeRegressor
    from tintype.recipe import Recipe
    from tintype.verbs.audit import Audit, audit
    from tintype.verbs.compare import Comparison, compare
    from tintype.verbs.serve.server import serve
    from tintype.verbs.similar import Similar, similar
    from tintype.verbs.study import Study, study
    from tintype.verbs.tune import Tuning, tune

# Public name -> the module that holds it, imported at first use.
_WHERE = {
    "Audit": "tintype.verbs.audit",
    "Comparison": "tintype.verbs.compare",
    "Recipe": "tintype.recipe",
    "Run": "tintype.api",
    "Similar": "tintype.verbs.similar",
    "StopTraining": "tintype.errors",
    "Study": "tintype.verbs.study",
    "TintypeClassifier": "tintype.estimators",
    "TintypeRegressor": "tintype.estimators",
    "Tuning": "tintype.verbs.tune",
    "UserError": "tintype.errors",
    "audit": "tintype.verbs.audit",
    "compare": "tintype.verbs.compare",
    "load": "tintype.api",
    "runs": "tintype.api",
    "serve": "tintype.verbs.serve.server",
    "similar": "tintype.verbs.similar",
    "study": "tintype.verbs.study",
    "train": "tintype.api",
    "tune": "tintype.verbs.tune",
}

__all__ = [
    "Audit",
    "Comparison",
    "Recipe",
    "Run",
    "Similar",
    "StopTraining",
    "Study",
    "TintypeClassifier",
    "TintypeRegressor",
    "Tuning",
    "UserError",
    "audit",
    "compare",
    "load",
    "runs",
    "serve",
    "similar",
    "study",
    "train",
    "tune",
]  # fmt: skip


class _Package(ModuleType):
    """The package as its users see it: the public names, whichever submodules were imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        # Importing `tintype.runs.folder` would put the package `runs` in the place of a function.
        if not (name in _WHERE and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> object:
    if name.startswith("__"):
        raise AttributeError(f"module 'tintype' has no attribute '{name}'")
    import importlib
    import importlib.util

    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    if importlib.util.find_spec(f"tintype.{name}") is not None:
        return importlib.import_module(f"tintype.{name}")

    from tintype.api import Run
    from tintype.errors import nearest

    if hasattr(Run, name):
        hint = f"`{name}` belongs to a run: tt.load('runs/NAME').{name}."
    else:
        hint = nearest(name, __all__, "`dir(tintype)` lists what there is.")
    raise AttributeError(f"module 'tintype' has no attribute '{name}'. {hint}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
