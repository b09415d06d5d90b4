"""Killed before any event that changes a file, a command that is typed again ends as if nothing had happened.

The command runs in a forked process in which every function of `os` and `open` that changes a file
counts; before the event of a given number the process kills itself. Then the same command, or the
one that continues it, must end with equal files and leave nothing else behind. `make test` takes a
few events of each kind, `make test-all` every one.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import fnmatch
import importlib
import io
import json
import os
import random
import shutil
import signal
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tintype import api, cli
from tintype.recipe import Recipe

resource: Any = pytest.importorskip("resource")
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

# What changes a file if there is something under that name already, if there is nothing, and in any
# case.
REMOVING, MAKING = ("unlink", "remove", "rmdir"), ("mkdir",)
CHANGING = ("replace", "rename", "link", "symlink", "truncate")
Command = list[str]
Event = tuple[str, str]  # the kind, and the name of the file


class Events:
    """Counts what changes a file below a folder; before the event of a given number the process
    ends, or the disk is full.
    """

    def __init__(self, below: Path, at: int, *, full: bool = False) -> None:
        self.below, self.at, self.full = str(below), at, full
        self.seen: list[Event] = []

    def install(self) -> None:
        for name in (*REMOVING, *MAKING, *CHANGING):
            setattr(os, name, self._counting(name, getattr(os, name)))
        os.open = self._counting_descriptor(os.open)
        opened, event = builtins.open, self._event

        class Unbuffered(io.FileIO):
            def write(self, content: Any) -> int:
                event("write", self.name)
                return super().write(content)

        def counting_open(
            file: Any, mode: str = "r", buffering: int = -1, *args: Any, **more: Any
        ) -> Any:
            if set(mode) & set("wxa"):
                self._event("open", file)
            if buffering == 0 and set(mode) & set("xa"):
                return Unbuffered(file, mode.replace("b", ""), *args, **more)
            return opened(file, mode, buffering, *args, **more)

        builtins.open = counting_open
        io.open = counting_open  # what pathlib calls

    def _counting(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counting(path: Any, *args: Any, **more: Any) -> Any:
            there = _is_there(path, more.get("dir_fd"))
            if name in CHANGING or there == (name in REMOVING):
                self._event(name, path, more.get("dir_fd"))
            return function(path, *args, **more)

        return counting

    def _counting_descriptor(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counting(path: Any, flags: int, *args: Any, **more: Any) -> Any:
            if flags & os.O_CREAT and not _is_there(path, more.get("dir_fd")):
                self._event("open", path, more.get("dir_fd"))
            return function(path, flags, *args, **more)

        return counting

    def _event(self, kind: str, path: Any, dir_fd: int | None = None) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return
        path = os.path.abspath(os.path.join(_folder_of(dir_fd), os.fsdecode(path)))
        if not path.startswith(self.below):
            return
        self.seen.append((kind, os.path.basename(path)))
        if (
            self.full
            and self.at
            and len(self.seen) >= self.at
            and kind in ("open", "write", "mkdir", "symlink")
        ):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        if len(self.seen) == self.at and not self.full:
            os.kill(os.getpid(), signal.SIGKILL)


def _folder_of(dir_fd: int | None) -> str:
    return os.getcwd() if dir_fd is None else os.readlink(f"/proc/self/fd/{dir_fd}")


def _is_there(path: Any, dir_fd: int | None) -> bool:
    try:
        os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
    except (OSError, ValueError, TypeError):
        return False
    return True


class Child:
    """`tintype COMMAND` in a forked process, in a folder of its own with a cache of its own."""

    def __init__(
        self,
        command: Command,
        folder: Path,
        at: int = 0,
        *,
        full: bool = False,
        most_bytes: int | None = None,
    ) -> None:
        self._read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._read)
            if most_bytes is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
            self._compute(command, folder, Events(folder, at, full=full), write)
        os.close(write)

    @staticmethod
    def _compute(command: Command, folder: Path, events: Events, write: int) -> None:
        code, said = 1, io.StringIO()
        try:
            os.chdir(folder)
            os.environ["TINTYPE_CACHE"] = str(folder / "cache")
            events.install()
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                try:
                    cli.main(command)
                    code = 0
                except SystemExit as end:
                    code = end.code if isinstance(end.code, int) else 0
        except BaseException:
            traceback.print_exc(file=said)
        try:
            with os.fdopen(write, "w", encoding="utf-8") as out:
                json.dump([said.getvalue(), events.seen], out)
        finally:
            os._exit(code)  # whatever happens, the child must not go on as a second pytest

    def ended(self) -> tuple[int, str, list[Event]]:
        """Wait for the end; return the exit code (-9 where it was killed), what was said, and the
        events.
        """
        with os.fdopen(self._read, encoding="utf-8") as out:
            content = out.read()
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        said, events = json.loads(content) if content else ("", [])
        return code, said, [(kind, name) for kind, name in events]


def forked(
    command: Command, folder: Path, at: int = 0, *, full: bool = False
) -> tuple[int, str, list[Event]]:
    """Run `tintype COMMAND` in `folder` to its end."""
    return Child(command, folder, at, full=full).ended()


@dataclass(frozen=True)
class Case:
    """A command, and what is typed where the same command is refused, since it was begun or is finished.

    Attributes:
        differ: patterns of files that hold times, and of which only the names are compared.
        sample: before how many events `make test` kills it; 0 leaves one that is slow or much like another to
            `make test-all`.
        imports: what is imported once, in place of in every forked process.
    """

    command: Command
    go_on: Command | None = None
    differ: tuple[str, ...] = ()
    sample: int = 2
    imports: tuple[str, ...] = ()


def content(folder: Path, differ: Sequence[str]) -> dict[str, Any]:
    """Return by name what is compared of all files and folders, but for what the cache remembers of
    files' states.
    """
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name.startswith("cache/contents"):
            continue
        fixed = path.is_file() and not any(fnmatch.fnmatch(name, pattern) for pattern in differ)
        found[name] = _compared(path) if fixed else None
    return found


def _compared(path: Path) -> Any:
    """Return the content of a file, without times and without how often somebody looked at the test
    images.
    """
    if path.name == "evaluation.json":
        return {
            key: value
            for key, value in json.loads(path.read_text(encoding="utf-8")).items()
            if key != "test_looks"
        }
    if path.name == "data.json":  # which says how much memory was free
        content = json.loads(path.read_text(encoding="utf-8"))
        return content | {
            "notes": [note for note in content["notes"] if not note.startswith("resident")]
        }
    if path.name == "status.json":
        return json.loads(path.read_text(encoding="utf-8"))["state"]
    if path.name == ".test-looks.json":
        return sorted(json.loads(path.read_text(encoding="utf-8")))
    return None if path.name == "environment.json" else path.read_bytes()


def assert_same(folder: Path, expected: dict[str, Any], case: Case, when: str) -> None:
    found = content(folder, case.differ)
    assert sorted(found.keys() - expected.keys()) == [], f"left over, {when}"
    assert sorted(expected.keys() - found.keys()) == [], f"missing, {when}"
    assert [name for name in found if found[name] != expected[name]] == [], f"different, {when}"


def drawn(events: Sequence[Event], count: int | None) -> list[int]:
    """Return the numbers of `count` events, of as many kinds as there are, drawn by a fixed seed;
    None takes all.
    """
    numbers = list(range(1, len(events) + 1))
    if count is None:
        return numbers
    random.Random(0).shuffle(numbers)
    seen: dict[str, int] = {}
    rank = {}
    for number in numbers:
        kind = events[number - 1][0]
        rank[number] = seen[kind] = seen.get(kind, 0) + 1
    return sorted(sorted(numbers, key=rank.__getitem__)[:count])


def typed_again(case: Case, folder: Path, when: str) -> None:
    """Type the same command, and the one that continues it where that is refused."""
    code, said, _ = forked(case.command, folder)
    assert code in (0, 2), f"{when}: {said}"
    if code and case.go_on:
        code, said, _ = forked(case.go_on, folder)
        assert code in (0, 2), f"{when}: {said}"


def check(
    place: Path, tmp_path: Path, case: Case, count: int | None, *, full: bool = False
) -> None:
    """Kill a command before events, or let the disk be full from one on; type it again; compare
    with one left alone.
    """
    # Always the same folder, since paths are part of what is written.
    folder = shutil.copytree(place, tmp_path / "folder")
    for module in case.imports:
        importlib.import_module(module)
    code, said, events = forked(case.command, folder)
    assert code == 0, said
    assert events
    expected = content(folder, case.differ)

    for at in drawn(events, count):
        when = (
            f"{'disk full' if full else 'killed'} at event {at} of {len(events)}, {events[at - 1]}"
        )
        shutil.rmtree(folder)
        shutil.copytree(place, folder)
        code, said, _ = forked(case.command, folder, at, full=full)
        assert code in ((0, 2) if full else (-signal.SIGKILL,)), f"{when}: {said}"
        assert "Traceback" not in said, f"{when}: {said}"
        typed_again(case, folder, when)
        assert_same(folder, expected, case, when)


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, kinds: dict[str, api.Run], tiny: Callable[..., Recipe]
) -> Path:
    """A folder with a run of each task, a packed run, photos of two classes, and recipes."""
    folder = tmp_path_factory.mktemp("kills") / "start"
    for name in ("cnn", "gan", "sharp"):
        shutil.copytree(kinds[name].path, folder / name)
    kinds["cnn"].pack(folder / "packed.zip")
    shutil.copytree(folder / "cnn", folder / "other")
    shutil.copytree(
        folder / "cnn",
        folder / "bare",
        ignore=shutil.ignore_patterns("samples", "predictions.csv", "analysis.json"),
    )

    draw = random.Random(0)
    for name, count in {"in": 4, "photos": 40}.items():
        for i in range(count):
            photo = folder / name / "ab"[i % 2] / f"{i}.png"
            photo.parent.mkdir(parents=True, exist_ok=True)
            Image.frombytes("L", (8, 8), draw.randbytes(64)).save(photo)

    few = {"steps": 3, "evaluate_every": 1.0}
    network = {"model": "dcgan", "model_options": {"width": 8, "latent": 8}}
    gan = {
        "task": "generate",
        **network,
        "optimizer": "adam",
        "lr": 0.001,
        "task_options": {"num_samples": 40},
    }
    recipes = {
        "classify": tiny(**few, lr="auto"),
        "generate": tiny(**few, **gan, batch_size=20),
        "upscale": kinds["sharp"].recipe.replace(steps=2),
        "folder": tiny(**few, data="photos", batch_size=8),
    }
    for name, recipe in recipes.items():
        (folder / f"{name}.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    study = {"recipe": "folder.yaml", "vary": {"lr": [0.01, 0.1]}, "seeds": 1}
    (folder / "study.yaml").write_text(json.dumps(study), encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a checkpoint after every step."""
    monkeypatch.setattr("tintype.training.engine.CHECKPOINT_SECONDS", 0.0)


def predicting(model: str, *more: str, sample: int = 2) -> Case:
    command = ["predict", model, "in", "--device", "cpu", *more]
    return Case(command, [*command, "--resume"], sample=sample, imports=("pyarrow.parquet",))


def training(recipe: str, sample: int) -> Case:
    command = ["train", f"{recipe}.yaml", "--name", "new"]
    return Case(
        command,
        ["train", "--resume", "runs/new"],
        differ=("runs/new/checkpoints/*",),
        sample=sample,
    )


def exporting(*more: str, sample: int = 0, imports: tuple[str, ...] = ()) -> Case:
    return Case(["export", "cnn", *more], differ=("*.ts", "*.pt2"), sample=sample, imports=imports)


ONNX = ("onnx", "onnxruntime", "onnxscript")
UPSCALE = ["upscale", "sharp", "in", "--device", "cpu", "--out", "large"]
SEARCH = "search={lr: {low: 0.01, high: 0.1}}"
TUNE = ["tune", "folder.yaml", "--trials", "2", "--seeds", "1", "--set", SEARCH, "--name", "tuned"]
CASES = {
    "predict csv": predicting("cnn", "--out", "p.csv", sample=3),
    "predict jsonl": predicting("cnn", "--out", "p.jsonl"),
    "predict parquet": predicting("cnn", "--out", "p.parquet"),
    "predict sorted": predicting("cnn", "--out", "p.csv", "--sort-into", "s"),
    "predict linked": predicting("cnn", "--out", "p.csv", "--sort-into", "s", "--link", sample=0),
    "predict heat maps": predicting("cnn", "--out", "p.csv", "--heatmaps", "h"),
    "predict packed": predicting("packed.zip", "--out", "p.csv"),
    "pack": Case(["pack", "cnn", "--out", "new.zip"]),
    "load": Case(["load", "packed.zip", "--name", "new"]),
    "card": Case(["card", "cnn", "--out", "card.md"]),
    "card inside": Case(["card", "cnn"], sample=0),
    "audit": Case(["audit", "in", "--fix", "clean.csv", "--no-labels"]),
    "audit page": Case(["audit", "in", "--html", "a.html", "--no-labels"], differ=("a.html",)),
    "evaluate": Case(["evaluate", "cnn", "--device", "cpu"]),
    "report": Case(["report", "bare"], differ=("*.html",), sample=1),
    "whole report": Case(["report", "cnn"], differ=("*.html",), sample=0),
    "compare": Case(["compare", "cnn", "other", "--html", "c.html", "--no-latency"], differ=("c.html",), sample=0),
    "generate": Case(["generate", "gan", "--count", "5", "--device", "cpu"]),
    "sheet": Case(["generate", "gan", "--count", "5", "--grid", "grid.png"]),
    "upscale": Case(UPSCALE),
    "upscale and compare": Case([*UPSCALE, "--compare"], sample=0),
    "torchscript": exporting("--format", "torchscript", "--out", "m.ts", sample=2),
    "onnx": exporting(imports=ONNX),
    "int8": exporting("--int8", "--max-loss", "100", imports=ONNX),
    "pt2": exporting("--format", "pt2"),
    "train classify": training("classify", sample=2),
    "train generate": training("generate", sample=2),
    "train upscale": training("upscale", sample=1),
    "train folder": training("folder", sample=4),
    "study": Case(
        ["study", "study.yaml", "--name", "all"], sample=1,
        differ=("*/study.json", "*.html", "*/checkpoints/*", "*/figures/cost-training-seconds*"),
    ),
    "tune": Case(
        TUNE, differ=("*.json", "*.html", "*.db", "*/checkpoints/*"), sample=1, imports=("optuna", "sqlalchemy"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.sample])
def test_a_command_is_killed_before_any_event(short_reports_of_training, place, tmp_path, name):
    check(place, tmp_path, CASES[name], CASES[name].sample)


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", CASES)
def test_a_command_is_killed_before_every_event(short_reports_of_training, place, tmp_path, name):
    check(place, tmp_path, CASES[name], None)


@pytest.mark.parametrize(
    "name", ["load", "predict packed", "torchscript", "train folder", "generate", "upscale"]
)
def test_the_disk_is_full_from_any_event_on(short_reports_of_training, place, tmp_path, name):
    check(place, tmp_path, CASES[name], 3, full=True)


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", CASES)
def test_the_disk_is_full_from_every_event_on(short_reports_of_training, place, tmp_path, name):
    check(place, tmp_path, CASES[name], None, full=True)


@pytest.mark.parametrize(
    "name",
    [
        "torchscript",
        *(
            pytest.param(name, marks=pytest.mark.exhaustive)
            for name in ("onnx", "int8", "pt2", "pack")
        ),
    ],
)
def test_what_cannot_be_written_by_any_library_is_one_line(place, tmp_path, name):
    """A bound of the system stops writers of C++ too, which no count of Python's calls sees."""
    folder = shutil.copytree(place, tmp_path / "folder")
    before = content(folder, ())
    code, said, _ = Child(CASES[name].command, folder, most_bytes=2000).ended()
    assert (code, said.count("Traceback"), "bug in tintype" in said) == (2, 0, False), said
    assert content(folder, ()).keys() - before.keys() <= {"cnn/exports"}, "left over"


@pytest.fixture
def short_reports_of_training(request: pytest.FixtureRequest) -> None:
    """Leave the pages of runs short, which take longer than the run, except where the page is what
    is tested.
    """
    if "report" not in request.node.callspec.params["name"]:
        request.getfixturevalue("short_reports")
