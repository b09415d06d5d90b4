"""Load finished models for the service, each as its task offers it."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from tintype.plugins import find_part
from tintype.runs.folder import RunFolder
from tintype.tasks.contract.exported import intact, open_session, read_about
from tintype.tasks.contract.serve import Served, ServePart


def load(name: str, path: Path, device: str = "auto", threads: int = 1) -> Served:
    """Load a run folder, a packed run, or an exported model (.onnx), for the service.

    Raises:
        UserError: there is no such run, it has no finished model, it is broken, or its task does
            not serve.
    """
    if path.suffix == ".onnx":
        session = open_session(path, threads)
        about = read_about(path, session)
        with intact(path):
            return _part(str(about.get("task"))).open_exported(name, session, about)

    run = RunFolder.open(path)
    return _part(run.recipe.task).open_run(name, run, device)


def _part(task: str) -> ServePart:
    return cast(ServePart, find_part(task, "serve", "be served"))
