"""Load finished models for the service, each as its task offers it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from tintype.plugins import find_part
from tintype.runs.folder import RunFolder
from tintype.tasks.contract.exported import intact, is_exported, open_file
from tintype.tasks.contract.serve import Served, ServePart

PURPOSE = "be served"


def load(name: str, path: Path, device: str = "auto", threads: int = 1) -> Served:
    """Load a run folder, a packed run, or an exported model, for the service.

    Raises:
        UserError: there is no such run, it has no finished model, it is broken, or its task does
            not serve.
    """
    if is_exported(path):
        session, about = open_file(path, threads)
        with intact(path):
            part = cast(ServePart, find_part(str(about.get("task")), "serve", PURPOSE))
            return part.open_exported(name, session, about)

    run = RunFolder.open(path)
    with _torch_threads(threads):  # which a network that is opened by its graph keeps
        return cast(ServePart, run.part("serve", PURPOSE)).open_run(name, run, device)


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    import torch  # late, since exported models need none

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
