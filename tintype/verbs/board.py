"""A live page of a folder of runs: how far each is, its curves, its figures, the way to its report.

Read only, and local.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from tintype.errors import UserError
from tintype.pages.local_server import (
    HTML,
    JSON,
    LOOPBACK,
    POLICY,
    LocalHandler,
    LocalServer,
    local_server,
)
from tintype.pages.pages import templates
from tintype.pages.sandbox import SANDBOX, with_way_back, without_dead_links
from tintype.runs.catalogue import facts_of, run_folders
from tintype.runs.folder import RunFolder
from tintype.runs.ranking import Criterion, criterion_of
from tintype.runs.reading import read_metrics

MOST_RUNS = 300  # the newest; a page of more would be slow
MOST_POINTS = 150  # of a curve
# without news, after which a run that calls itself running is asked whether it lives
STALE_SECONDS = 60.0
WATCHED = ("status.json", "metrics.csv", "evaluation.json", "report.html")
OWNERS = ("recipe.yaml", "study.yaml", "tune.yaml")  # what makes a folder one whose files are shown
TYPES = {
    ".html": HTML, ".png": "image/png", ".csv": "text/csv; charset=utf-8",
    ".json": JSON, ".yaml": "text/plain; charset=utf-8",
}  # fmt: skip
PICTURES = ("figures", "samples")


class Board:
    """What the page shows of a folder of runs. Files are read again only where they changed."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UserError(
                f"there is no folder {folder}. Expected one that holds run folders, such as runs."
            )
        self.folder = folder.resolve()
        self._seen: dict[Path, tuple[Any, dict[str, Any]]] = {}
        self._lock = threading.Lock()

    def state(self) -> dict[str, Any]:
        """Return all that the page shows, JSON-ready."""
        with self._lock:
            folders = run_folders(self.folder)
            runs = [self._row(run) for run in folders[:MOST_RUNS]]
        return {
            "folder": self.folder.name,
            "runs": [row for row in runs if row],
            "left_out": max(0, len(folders) - MOST_RUNS),
            "pages": self._pages(),
        }

    def _row(self, run: RunFolder) -> dict[str, Any]:
        stamp = tuple(_changed(run.path / name) for name in WATCHED)
        before = self._seen.get(run.path)
        if before is None or before[0] != stamp:
            self._seen[run.path] = before = (stamp, self._described(run))
        row = before[1]
        return {**row, "state": _living_state(run, row["state"])} if row else row

    def _described(self, run: RunFolder) -> dict[str, Any]:
        try:
            facts = facts_of(run, self.folder)
        except UserError:  # half written, or of another program
            return {}

        status = run.status
        columns = read_metrics(run.path / "metrics.csv")
        criterion = _criterion(str(facts.get("task")), columns)
        score = f"val_{criterion.key}" if criterion else None
        own = f"train_{criterion.key}" if criterion else ""
        trained = [name for name in columns if name == own or name.startswith("loss")]
        figures = {
            key: value
            for key, value in facts.items()
            if re.match(r"(test|val)_(?!fraction)", key) and isinstance(value, float)
        }
        report = run.path / "report.html"

        return {
            "name": facts["name"],
            "state": facts["state"],
            **{key: facts.get(key, "") for key in ("task", "model")},
            "data": Path(str(facts.get("data", ""))).name,
            "step": status.get("step"),
            "total_steps": status.get("total_steps"),
            "score": score,
            "criterion": _how_written(criterion) if criterion else None,
            "figures": figures,
            "curves": {
                name: _points(columns, name) for name in ([score] if score else []) + trained
            },
            "report": self._address(report) if report.is_file() else None,
            "changed": max(_changed(run.path / name) or 0 for name in WATCHED) / 1e9,
        }

    def _pages(self) -> list[dict[str, str]]:
        """Return the pages of studies and tunings."""
        patterns = [
            f"{depth}/{name}" for name in ("study.html", "tuning.html") for depth in ("*", "*/*")
        ]
        found = sorted(path for pattern in patterns for path in self.folder.glob(pattern))
        return [
            {"name": p.parent.relative_to(self.folder).as_posix(), "page": self._address(p)}
            for p in found
        ]

    def _address(self, path: Path) -> str:
        return "/files/" + quote(path.relative_to(self.folder).as_posix())

    def file(self, address: str) -> Path | None:
        """Return the file that an address below /files/ means, if it is one that is shown.

        Shown are pages, tables and pictures of run folders, studies and tunings; whatever leads out
        of the folder is not.
        """
        parts = unquote(address).split("/")
        if any(
            part in ("", ".", "..") or part.startswith(".") or "\\" in part or "\0" in part
            for part in parts
        ):
            return None

        try:
            path = self.folder.joinpath(*parts).resolve(strict=True)
        except (OSError, RuntimeError, ValueError):
            return None

        if not path.is_relative_to(self.folder) or not path.is_file() or path.suffix not in TYPES:
            return None
        owner = path.parent.parent if path.parent.name in PICTURES else path.parent
        if path.parent.name in PICTURES and path.suffix != ".png":
            return None

        inside = owner != self.folder and owner.is_relative_to(self.folder)
        return path if inside and any((owner / name).is_file() for name in OWNERS) else None

    def way_back(self, page: Path) -> list[tuple[str, str]]:
        """Return where a page leads back to: the study or tuning that its run is part of, and all
        runs.
        """
        above = page.parent.parent
        owners = [
            above / name for name in ("study.html", "tuning.html") if (above / name).is_file()
        ]
        inside = [
            (self._address(owner), owner.stem.capitalize())
            for owner in owners
            if above != self.folder
        ]
        return [("/", "All runs"), *inside]


def _criterion(task: str, columns: Mapping[str, Any]) -> Criterion | None:
    """Return what runs of a task are ranked by, if it is among the columns of metrics.csv."""
    figures = {key.removeprefix("val_"): key for key in columns if key.startswith("val_")}
    with suppress(UserError):
        criterion = criterion_of(task, figures)
        if criterion.key in figures:
            return criterion
    return None


def _how_written(criterion: Criterion) -> dict[str, Any]:
    """Return what the page has to know of a figure to write it and to find the best one."""
    return {
        "label": criterion.label,
        "scale": criterion.scale,
        "unit": "%" if criterion.is_share else criterion.unit,
        "digits": 2 if criterion.digits is not None else None,
        "lower": not criterion.higher_is_better,
    }


def _points(columns: dict[str, list[float]], name: str) -> list[list[float]]:
    """Return at most MOST_POINTS points (step, value) of a column; NaN is left out, neighbours are
    averaged.
    """
    x = columns.get("step") or columns.get("epoch") or []
    both = zip(x, columns[name], strict=False)  # a column may be shorter
    pairs = [(a, b) for a, b in both if a == a and b == b]
    size = -(-len(pairs) // MOST_POINTS) or 1
    groups = [pairs[i : i + size] for i in range(0, len(pairs), size)]
    return [[group[-1][0], sum(b for _, b in group) / len(group)] for group in groups]


def _changed(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _living_state(run: RunFolder, state: str) -> str:
    """Return "interrupted" for a run that calls itself running, and that nobody trains any more."""
    changed = _changed(run.path / "status.json")
    # A time in the future says nothing: some clock was wrong.
    if state != "running" or changed is None or 0 <= time.time() - changed / 1e9 < STALE_SECONDS:
        return state
    try:
        with run.locked(seconds=0):
            return "interrupted"
    except (UserError, OSError):
        return state


class _Handler(LocalHandler):
    """Answers for the page, its data, and the files of runs; nothing can be changed through it."""

    def __init__(self, board: Board, hosts: tuple[str, ...], *arguments: Any) -> None:
        self.board, self.hosts = board, hosts
        super().__init__(*arguments)

    def answer(self, path: str) -> None:
        if path == "/":
            page = templates().get_template("board.html").render(folder=self.board.folder.name)
            self.send(HTTPStatus.OK, page.encode(), HTML)
        elif path == "/api/runs":
            self.send(HTTPStatus.OK, json.dumps(self.board.state()).encode(), JSON)
        elif path.startswith("/files/") and (file := self.board.file(path.removeprefix("/files/"))):
            self._send_file(file)
        else:
            self.refuse(HTTPStatus.NOT_FOUND, "not found")

    def _send_file(self, file: Path) -> None:
        try:
            content = file.read_bytes()
        except OSError:
            self.refuse(HTTPStatus.NOT_FOUND, "not found")
            return

        is_page = file.suffix == ".html"
        if is_page:
            content = with_way_back(
                without_dead_links(content, tuple(TYPES)), self.board.way_back(file)
            )
        self.send(HTTPStatus.OK, content, TYPES[file.suffix], SANDBOX if is_page else POLICY)


def make_server(folder: Path, *, host: str = "127.0.0.1", port: int = 8765) -> LocalServer:
    """Return a server for the page; port 0 takes any that is free.

    Raises:
        UserError: there is no such folder, or nothing can be listened on there.
    """
    board = Board(folder)
    hosts = LOOPBACK if host in LOOPBACK else ()
    return local_server(partial(_Handler, board, hosts), host, port)
