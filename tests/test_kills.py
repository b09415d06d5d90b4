"""Killed before any event that changes a file, a command that is typed again ends as if nothing had happened.

The command runs in a forked process in which every function of `os` and `open` that changes a file counts; before the
event of a given number the process kills itself. Then the same command, or `--resume`, must end with equal files and
leave nothing behind. `make test` takes a sample of the events, `make test-all` every one.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tintype import api, cli

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

CHANGING = ("replace", "rename", "unlink", "remove", "link", "symlink", "mkdir", "rmdir", "truncate")
LEFTOVERS = (".tmp", ".partial", ".partial.jsonl")
Command = list[str]


class Events:
    """Counts what changes a file below a folder, and kills the process before the event of a given number."""

    def __init__(self, below: Path, kill_at: int) -> None:
        self.below, self.kill_at, self.count = str(below), kill_at, 0

    def install(self) -> None:
        for name in CHANGING:
            setattr(os, name, self._counting(getattr(os, name)))
        opened = builtins.open

        def counting_open(file: Any, mode: str = "r", *args: Any, **more: Any) -> Any:
            if set(mode) & set("wxa+"):
                self._event(file)
            return opened(file, mode, *args, **more)

        builtins.open = counting_open
        io.open = counting_open  # what pathlib calls

    def _counting(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counting(path: Any, *args: Any, **more: Any) -> Any:
            self._event(path)
            return function(path, *args, **more)

        return counting

    def _event(self, path: Any) -> None:
        if isinstance(path, str | os.PathLike) and os.path.abspath(os.fspath(path)).startswith(self.below):
            self.count += 1
            if self.count == self.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)


def forked(command: Command, folder: Path, kill_at: int = 0) -> tuple[int, int]:
    """Run `tintype COMMAND` in `folder`; return its exit code (-9 where it was killed) and the number of events."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(read)
            os.chdir(folder)
            events = Events(folder, kill_at)
            events.install()
            with open(os.devnull, "w", encoding="utf-8") as nothing, contextlib.redirect_stdout(nothing):
                sys.stderr = nothing
                try:
                    cli.main(command)
                    code = 0
                except SystemExit as end:
                    code = end.code if isinstance(end.code, int) else 0
            os.write(write, str(events.count).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read, encoding="utf-8") as told:
        count = told.read()
    status = os.waitpid(child, 0)[1]
    return os.waitstatus_to_exitcode(status), int(count or 0)


def content(folder: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    """Return the files that a command makes, and assert that nothing half-made lies beside them."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    assert not [name for name in files if name.endswith(LEFTOVERS)], files
    return {name: path.read_bytes() for name, path in files.items() if name.startswith(names)}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, kinds: dict[str, api.Run]) -> Path:
    """A folder with a small run and four photos."""
    folder = tmp_path_factory.mktemp("kills") / "start"
    shutil.copytree(kinds["cnn"].path, folder / "run")
    for i in range(4):
        photo = folder / "in" / "ab"[i % 2] / f"{i}.png"
        photo.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 60 * i).save(photo)
    return folder


PREDICT = ["predict", "run", "in", "--device", "cpu"]
PREDICTING = {
    "csv": ([*PREDICT, "--out", "p.csv"], ("p.csv",)),
    "jsonl": ([*PREDICT, "--out", "p.jsonl"], ("p.jsonl",)),
    "parquet": ([*PREDICT, "--out", "p.parquet"], ("p.parquet",)),
    "sorted": ([*PREDICT, "--out", "p.csv", "--sort-into", "s"], ("p.csv", "s/")),
    "linked": ([*PREDICT, "--out", "p.csv", "--sort-into", "s", "--link"], ("p.csv", "s/")),
    "heat maps": ([*PREDICT, "--out", "p.csv", "--heatmaps", "h"], ("p.csv", "h/")),
}
OTHERS = {
    "pack": (["pack", "run", "--out", "packed.zip"], ("packed.zip",)),
    "card": (["card", "run", "--out", "card.md"], ("card.md",)),
    "audit": (["audit", "in", "--fix", "clean.csv", "--no-labels"], ("clean.csv",)),
}


def check(place: Path, tmp_path: Path, command: Command, made: tuple[str, ...], every: int) -> None:
    """Kill a command before each `every`-th event, type it again, and compare with a run that was left alone."""
    whole = shutil.copytree(place, tmp_path / "whole")
    code, count = forked(command, whole)
    assert code == 0
    assert count > 0
    expected = content(whole, made)
    assert expected

    for kill_at in range(1, count + 1, every):
        folder = shutil.copytree(place, tmp_path / f"killed-{kill_at}")
        assert forked(command, folder, kill_at)[0] == -signal.SIGKILL
        if forked(command, folder)[0] != 0:  # begun, or finished already and not overwritten
            forked([*command, "--resume"], folder)
        assert content(folder, made) == expected, f"killed before event {kill_at}"
        shutil.rmtree(folder)


@pytest.mark.parametrize("name", PREDICTING)
def test_a_prediction_job_is_killed_before_any_event(place, tmp_path, name):
    command, made = PREDICTING[name]
    check(place, tmp_path, command, made, every=5)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", PREDICTING)
def test_a_prediction_job_is_killed_before_every_event(place, tmp_path, name):
    command, made = PREDICTING[name]
    check(place, tmp_path, command, made, every=1)


@pytest.mark.parametrize("name", OTHERS)
def test_other_commands_are_killed_before_any_event(place, tmp_path, name):
    start = shutil.copytree(place, tmp_path / "start")
    command, made = OTHERS[name]
    check(start, tmp_path, command, made, every=2)
