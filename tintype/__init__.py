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

from typing import TYPE_CHECKING

from tintype.version import __version__ as __version__

if TYPE_CHECKING:
    from tintype.api import Run, train
    from tintype.errors import UserError
    from tintype.recipe import Recipe
    from tintype.verbs.audit import Audit, audit
    from tintype.verbs.compare import Comparison, compare
    from tintype.verbs.serve.server import serve
    from tintype.verbs.study import Study, study
    from tintype.verbs.tune import Tuning, tune

# Public name -> the module that holds it, imported at first use.
_WHERE = {
    "Audit": "tintype.verbs.audit",
    "Comparison": "tintype.verbs.compare",
    "Recipe": "tintype.recipe",
    "Run": "tintype.api",
    "UserError": "tintype.errors",
    "audit": "tintype.verbs.audit",
    "compare": "tintype.verbs.compare",
    "serve": "tintype.verbs.serve.server",
    "Study": "tintype.verbs.study",
    "study": "tintype.verbs.study",
    "train": "tintype.api",
    "Tuning": "tintype.verbs.tune",
    "tune": "tintype.verbs.tune",
}

__all__ = [
    "Audit",
    "Comparison",
    "Recipe",
    "Run",
    "Study",
    "Tuning",
    "UserError",
    "audit",
    "compare",
    "load",
    "serve",
    "study",
    "train",
    "tune",
]  # fmt: skip


def load(folder: str) -> Run:
    """Open a run folder, or a zip file of `tintype pack`.

    No code in it is executed: the weights are safetensors, the rest is JSON, YAML and CSV.

    Raises:
        UserError: the folder is not a run folder.
    """
    from tintype.api import Run

    return Run.open(folder)


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module 'tintype' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
