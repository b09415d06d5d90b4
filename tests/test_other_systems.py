"""What Windows and macOS do otherwise, each with a stand-in for them here.

What cannot be tried this way stands in docs/limits.md as unchecked.
"""

from __future__ import annotations

import builtins
import errno
import gc
import io
import json
import multiprocessing
import ntpath
import os
import pathlib
import socket
import sys
import threading
import types
import unicodedata
from collections.abc import Callable
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

try:
    import fcntl
except ImportError:
    fcntl: Any = None

from tintype import api, cli
from tintype.data import cache
from tintype.data.sets.folder import Photo
from tintype.errors import UserError
from tintype.files import bounded, system
from tintype.files.names import check_name, is_device, last_part, looks_like_path
from tintype.files.whole import held, write_json
from tintype.hardware import arithmetic, device, freed
from tintype.interface.streams import printable
from tintype.models.parts.weights import read_weights
from tintype.progress import Bar, Lines, Watcher
from tintype.runs.folder import RunFolder
from tintype.runs.packed import may_hold
from tintype.training import engine
from tintype.verbs import board
from tintype.verbs.audit import manifest
from tintype.verbs.predict.files import names_from
from tintype.verbs.predict.sorting import Sorter, folder_name
from tintype.verbs.serve import server

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tintype take this system for Windows, and wait but shortly for files in use."""
    monkeypatch.setattr(system, "WINDOWS", True)
    monkeypatch.setattr(system, "PATIENCE_SECONDS", 0.1)


# ---- files that are open -----------------------------------------------------------------------------


def files_in_use() -> set[str]:
    """Return the files that this process has open or mapped into memory, and pipes among them."""
    found = set()
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        except OSError:  # that of the listing itself
            continue
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as lines:
        found |= {line.split(maxsplit=5)[-1].strip() for line in lines if "/" in line}
    return found


@pytest.fixture
def sharing(monkeypatch: pytest.MonkeyPatch, windows: None) -> list[str]:
    """Refuse to rename, replace or remove what this process has open, as Windows does.

    Return what was refused.
    """
    if not os.path.exists("/proc/self/maps"):
        pytest.skip("what is open cannot be listed here")
    refused: list[str] = []

    def guard(name: str) -> None:
        action = getattr(os, name)

        def guarded(*paths: Any, **options: Any) -> Any:
            folder = options.get("dir_fd")
            start = os.readlink(f"/proc/self/fd/{folder}") if folder is not None else os.getcwd()
            places = [os.path.realpath(os.path.join(start, os.fsdecode(path))) for path in paths]
            for path in files_in_use():
                inside = any(path == place or path.startswith(f"{place}/") for place in places)
                if inside and os.path.isfile(path):
                    refused.append(f"{name} {path}")
                    raise PermissionError(errno.EACCES, "it is used by another process", path)
            return action(*paths, **options)

        monkeypatch.setattr(os, name, guarded)

    for name in ("rename", "replace", "unlink", "remove"):
        guard(name)
    return refused


def test_the_stand_in_refuses_what_is_open_or_mapped(tmp_path: Path, sharing: list[str]):
    file = tmp_path / "file"
    file.write_bytes(b"content")
    with file.open("rb"), pytest.raises(PermissionError):
        file.unlink()
    mapped = np.memmap(file, np.uint8, "r")
    with pytest.raises(PermissionError):
        os.rename(tmp_path, tmp_path.with_name("elsewhere"))
    assert len(sharing) == 2
    del mapped
    file.unlink()


@pytest.mark.slow
def test_no_command_renames_or_removes_what_it_has_open(
    tt: Say, sharing: list[str], digit_files: Path, copied_run: api.Run, kinds: dict[str, api.Run],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    """One after another, with all that the process keeps open between them."""
    monkeypatch.setenv("TINTYPE_CACHE", str(tmp_path / "cache"))  # no other test has it open
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "black.png")
    short = ("--model", "ann", "--threads", "1", "--device", "cpu")
    lines = [
        ("train", digit_files, *short, "--steps", "6", "--batch", "16", "--name", "one"),
        ("train", digit_files, *short, "--weights", copied_run.path, "--steps", "3", "--name", "two"),
        ("evaluate", "runs/one", "--split", "val"),
        ("predict", "runs/one", digit_files, "--out", "answers.csv", "--sort-into", "sorted"),
        ("predict", "runs/one", digit_files, "--out", "answers.csv", "--sort-into", "sorted", "--resume"),
        ("predict", "runs/one", digit_files, "--out", "answers.parquet"),
        ("export", copied_run.path, "--out", "one.onnx"),
        ("predict", "one.onnx", digit_files, "--out", "onnx.jsonl"),
        ("pack", copied_run.path, "--out", "one.zip"),
        ("predict", "one.zip", "black.png"),
        ("compare", "runs/one", "runs/two"),
        ("generate", kinds["gan"].path, "--count", "2", "--out", "new"),
        ("upscale", kinds["sharp"].path, "black.png", "--out", "larger"),
        ("audit", digit_files, "--html", "audit.html"),
        ("cache", "--clear"),
    ]  # fmt: skip
    for line in lines:
        gc.collect()  # what nothing refers to is not kept
        code, output, errors = tt(*line)
        assert code in (0, 1), (line, output, errors)
        assert "used by another process" not in output + errors, line
        assert "\\u" not in printable(output + errors, stream_of("cp1252")[1])
    assert sharing == []


def test_a_checkpoint_is_written_where_an_earlier_one_is_still_mapped(
    tiny: Callable[..., Any], train_in: Callable[..., RunFolder], sharing: list[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    """A resumed run reads a checkpoint, and removes it when there are newer ones."""
    monkeypatch.setattr(engine, "CHECKPOINT_SECONDS", 0.0)

    class Stops(Watcher):
        def on_step(self, step: int, *_: Any) -> None:
            if step == 20:
                raise RuntimeError("a fault of the machine")

    recipe = tiny(steps=30)
    with pytest.raises(RuntimeError):
        train_in(tmp_path / "run", recipe, Stops())
    before = set((tmp_path / "run" / "checkpoints").glob("*.safetensors"))
    run = train_in(tmp_path / "run", recipe)
    assert run.status["state"] == "finished"
    assert before
    assert not any(path.exists() for path in before)
    assert sharing == []


def test_a_file_that_another_program_reads_is_replaced_when_it_lets_go(
    tmp_path: Path, sharing: list[str]
):
    file = tmp_path / "status.json"
    write_json(file, {"state": "running"})
    reader = file.open("rb")
    threading.Timer(0.05, reader.close).start()
    write_json(file, {"state": "finished"})
    assert json.loads(file.read_text("utf-8")) == {"state": "finished"}
    assert sharing

    with file.open("rb"), pytest.raises(UserError, match="used by another process"):
        write_json(file, {"state": "lost"})
    assert json.loads(file.read_text("utf-8")) == {"state": "finished"}
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


def test_nobody_waits_for_a_file_where_renaming_does_not_depend_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    calls = []

    def refuse(*paths: Any) -> None:
        calls.append(paths)
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(system, "WINDOWS", False)
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError):
        system.replace(tmp_path / "a", tmp_path / "b")
    assert len(calls) == 1


def test_a_folder_in_use_stays_whole(tmp_path: Path, sharing: list[str]):
    entry = tmp_path / "entry"
    entry.mkdir()
    (entry / "entry.json").write_text("{}", encoding="utf-8")
    (entry / "pixels.u8").write_bytes(b"pixels")
    mapped = np.memmap(entry / "pixels.u8", np.uint8, "r")
    bounded.remove_folder(entry)
    assert sorted(path.name for path in entry.iterdir()) == ["entry.json", "pixels.u8"]
    del mapped
    bounded.remove_folder(entry)
    assert list(tmp_path.iterdir()) == []


def test_photos_are_cached_where_no_folder_with_open_files_is_renamed(
    tmp_path: Path, sharing: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TINTYPE_CACHE", str(tmp_path))
    pixels = np.arange(48, dtype=np.uint8).reshape(3, 4, 4, 1)
    made = cache.cached_pixels("key", 3, (4, 4, 1), lambda i: pixels[i], source="three")
    again = cache.cached_pixels("key", 3, (4, 4, 1), lambda i: pixels[i], source="three")
    assert (made.pixels == pixels).all()
    assert again.reused
    assert sharing == []


# ---- locks -------------------------------------------------------------------------------------------


class Msvcrt(types.ModuleType):
    """Windows' locks on parts of files: they hold for one handle, until that is closed."""

    LK_NBLCK = 2

    def __init__(self) -> None:
        super().__init__("msvcrt")
        self.places: list[int] = []

    def locking(self, descriptor: int, mode: int, num_bytes: int) -> None:
        assert (mode, num_bytes) == (self.LK_NBLCK, 1)
        self.places.append(os.lseek(descriptor, 0, os.SEEK_CUR))
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PermissionError(errno.EACCES, "Permission denied") from None


@pytest.fixture
def msvcrt(monkeypatch: pytest.MonkeyPatch, windows: None) -> Msvcrt:
    if fcntl is None:
        pytest.skip("this system has locks of its own kind")
    locks = Msvcrt()
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", locks)
    return locks


def test_a_lock_of_windows_keeps_a_second_process_out(tmp_path: Path, msvcrt: Msvcrt):
    path = tmp_path / ".lock"
    path.write_text("content", encoding="utf-8")
    with held(path), pytest.raises(BlockingIOError), held(path, wait=False):
        pass
    with held(path, wait=False):
        assert path.read_text("utf-8") == "content"
    assert min(msvcrt.places) > 2_000_000_000, "what is locked cannot be read by others"


def test_a_lock_of_windows_is_waited_for(tmp_path: Path, msvcrt: Msvcrt):
    first = open(tmp_path / ".lock", "a", encoding="utf-8")  # noqa: SIM115
    system.lock(first, wait=True)
    threading.Timer(0.1, first.close).start()
    with held(tmp_path / ".lock"):
        assert first.closed


def test_rows_are_written_where_they_were_after_a_lock_of_windows(tmp_path: Path, msvcrt: Msvcrt):
    with open(tmp_path / "rows.csv", "xb", buffering=0) as file:
        file.write(b"first\n")
        system.lock(file, wait=False)
        file.write(b"second\n")
    assert (tmp_path / "rows.csv").read_bytes() == b"first\nsecond\n"


def test_a_run_that_is_trained_on_windows_is_not_trained_twice(copied_run, msvcrt: Msvcrt):
    run = RunFolder(copied_run.path)
    message = "is being trained by another process"
    with run.locked(), pytest.raises(UserError, match=message), run.locked(seconds=0):
        pass


def test_a_disk_without_locks_guards_nothing_and_stops_nobody(
    tmp_path: Path, msvcrt: Msvcrt, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: Any) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(msvcrt, "locking", refuse)
    with held(tmp_path / ".lock"), held(tmp_path / ".lock"):
        pass


# ---- names and paths ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["CON", "nul", "aux.txt", "COM1", "lpt9.tar.gz", "com¹", "NUL .x", "a:b", "what?", "a."]
)
def test_a_name_that_windows_cannot_hold_is_refused_there_alone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for windows in (False, True):
        monkeypatch.setattr(system, "WINDOWS", windows)
        if windows:
            with pytest.raises(UserError, match="on Windows"):
                RunFolder.create(tmp_path / "windows", name, exact=True)
            assert not (tmp_path / "windows").exists()
        else:
            assert RunFolder.create(tmp_path, name, exact=True).path.is_dir()


@pytest.mark.parametrize("name", ["digits", "console", "nullify.v2", "com10", "a.b", ".hidden"])
def test_other_names_are_taken_everywhere(name: str, windows: None):
    check_name(name, "run")
    assert not is_device(name)


def test_the_folder_of_a_class_is_no_device():
    assert [folder_name(name) for name in ("con", "NUL.x", "cat", "a:b.")] == [
        "_con", "_NUL.x", "cat", "a_b",
    ]  # fmt: skip


def test_classes_that_differ_in_case_or_accents_share_no_file(tmp_path: Path):
    """Their folders are one on macOS and Windows, where the second photo would not be copied."""
    sorter = Sorter(tmp_path, link=False)
    composed = "Café"
    classes = (composed, "café", unicodedata.normalize("NFD", composed))
    places = [sorter.name_for("1.jpg", name) for name in classes]
    assert [place.split("/")[1] for place in places] == ["1.jpg", "1-2.jpg", "1-3.jpg"]


def test_a_packed_run_brings_no_device():
    assert may_hold("samples/step-1.png")
    assert not may_hold("samples/con.png")
    assert not may_hold("samples/LPT1.json")


def test_a_path_of_windows_is_a_path_everywhere(tt: Say):
    assert looks_like_path("photos\\dogs")
    assert looks_like_path("C:\\photos")
    assert not looks_like_path("digits")
    assert last_part("C:\\weights\\net.pth") == last_part("/weights/net.pth") == "net.pth"
    assert last_part(r"(\d+)_.*") == r"(\d+)_.*"
    assert "there is no" in tt("train", "digits", "--data", "photos\\dogs")[2]


def test_a_manifest_that_is_written_on_windows_is_read_everywhere(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(manifest.os, "path", ntpath)
    monkeypatch.setattr(manifest, "Path", PureWindowsPath)
    photo = Photo("C:\\photos\\cat\\1.jpg", "cat/1.jpg", ("cat",))
    elsewhere: Any = PureWindowsPath("D:\\clean.csv")
    beside: Any = PureWindowsPath("C:\\photos\\clean.csv")
    assert manifest._written(photo, beside) == "cat/1.jpg"
    assert manifest._written(photo, elsewhere) == "C:\\photos\\cat\\1.jpg"


def test_a_path_that_is_too_long_for_windows_is_named_as_such(windows: None, tmp_path: Path):
    deep = str(tmp_path / ("x" * 200) / ("y" * 80))
    lost = FileNotFoundError(errno.ENOENT, "No such file or directory", deep)
    short = FileNotFoundError(errno.ENOENT, "No such file or directory", "short")
    assert "longer than the 259 characters" in system.why(lost)
    assert system.why(short) == "No such file or directory"
    assert not system.is_too_long(short)


def test_links_that_windows_does_not_allow_get_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: Any) -> None:
        error = OSError(errno.EINVAL, "A required privilege is not held by the client")
        error.winerror = 1314  # type: ignore[attr-defined]
        raise error

    (tmp_path / "1.jpg").write_bytes(b"photo")
    monkeypatch.setattr(Path, "symlink_to", refuse)
    with pytest.raises(UserError, match="Leave out"):
        Sorter(tmp_path / "sorted", link=True).put(str(tmp_path / "1.jpg"), "cat/1.jpg")


def test_files_are_opened_where_the_system_has_no_flags_for_links_and_pipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delattr(os, "O_NOFOLLOW", raising=False)
    monkeypatch.delattr(os, "O_NONBLOCK", raising=False)
    (tmp_path / "file").write_text("content", encoding="utf-8")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert bounded.read_bytes(tmp_path / "file") == b"content"
    with pytest.raises(OSError, match="it is a link"):
        bounded.regular_without_links(tmp_path / "link", os.O_RDONLY)


class _Pickled:
    """What is pickled as a path of one system, whichever this is."""

    def __init__(self, kind: type[pathlib.PurePath], *parts: str) -> None:
        self.kind, self.parts = kind, parts

    def __reduce__(self) -> tuple[Any, ...]:
        return self.kind, self.parts


@pytest.mark.parametrize("kind", [pathlib.PosixPath, pathlib.WindowsPath, pathlib.PureWindowsPath])
def test_weights_that_were_saved_on_another_system_are_read(kind: type, tmp_path: Path):
    state = {"net.weight": torch.ones(2, 2)}
    torch.save({"state_dict": state, "from": _Pickled(kind, "data", "x")}, tmp_path / "w.pth")
    read = read_weights(tmp_path / "w.pth").tensors
    assert torch.equal(next(iter(read.values())), torch.ones(2, 2))


# ---- terminals ---------------------------------------------------------------------------------------


def stream_of(encoding: str) -> tuple[io.BytesIO, io.TextIOWrapper]:
    raw = io.BytesIO()
    return raw, io.TextIOWrapper(raw, encoding=encoding, errors="strict")


@pytest.mark.parametrize("encoding", ["cp1252", "cp437", "ascii"])
def test_a_line_that_a_stream_cannot_encode_does_not_end_a_run(encoding: str):
    raw, stream = stream_of(encoding)
    for watcher in (Lines(stream), Bar(Console(file=stream))):
        watcher.note("猫 → 犬")
    stream.flush()
    assert raw.getvalue().count(b"\\u732b") == 2


def test_training_from_python_into_a_file_of_windows(
    tiny: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_reports: None
):
    raw, stream = stream_of("cp1252")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.chdir(tmp_path)
    api.train(tiny(), name="猫")
    stream.flush()
    assert b"validation" in raw.getvalue()


def test_signs_have_a_near_one_in_ascii():
    _, stream = stream_of("cp1252")
    assert printable("3 → 4 ± 1, −2 … Größe 猫", stream) == "3 -> 4 ± 1, -2 … Größe \\u732b"


@pytest.mark.parametrize("what", ["recipes", "models", "data", "augmentations", "studies"])
def test_lists_are_printed_in_the_code_page_of_windows(what: str, monkeypatch: pytest.MonkeyPatch):
    raw, stream = stream_of("cp1252")
    monkeypatch.setattr(sys, "stdout", stream)
    with pytest.raises(SystemExit) as end:
        cli.main(["list", what])
    stream.flush()
    assert not end.value.code
    assert b"\\u" not in raw.getvalue()


def test_patterns_are_left_to_the_program_by_the_shell_of_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("a.jpg", "b.jpg", "[1].png", "1.png"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    typed = ["predict", "*.jpg", "*.tiff", "[1].png", "--groups={group}_*", "--top", "3"]
    monkeypatch.setattr(sys, "argv", ["tintype", *typed])
    assert cli._arguments() == typed
    monkeypatch.setattr(system, "WINDOWS", True)
    assert cli._arguments() == [
        "predict", "a.jpg", "b.jpg", "*.tiff", "[1].png", "--groups={group}_*", "--top", "3",
    ]  # fmt: skip


def test_names_through_a_pipe_of_another_code_page_get_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "fsdecode", lambda name: name.decode("utf-8", "surrogatepass"))
    assert names_from(io.BytesIO("Größe.jpg\r\n".encode())) == ["Größe.jpg"]
    with pytest.raises(UserError, match="not in UTF-8"):
        names_from(io.BytesIO("Größe.jpg".encode("cp1252")))


# ---- processes and signals ---------------------------------------------------------------------------


def _train_in_child(recipe: Any, folder: str) -> Any:
    return api.train(recipe, out=folder, name="child", verbose=False)


@pytest.mark.slow
def test_a_process_that_is_spawned_trains_and_returns_its_run(
    tiny: Callable[..., Any], tmp_path: Path
):
    """Windows and macOS start processes anew, so that all that goes to them is pickled."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        run = pool.apply(_train_in_child, (tiny(), str(tmp_path)))
    assert run.path == tmp_path / "child"
    assert run.metrics["test"]["accuracy"] > 0


# ---- the machine -------------------------------------------------------------------------------------


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_memory_is_held_by_glibc_alone(platform: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(device.ctypes, "CDLL", None)
    assert device.hold_memory().choice == "as the system does"
    monkeypatch.setattr(freed.ctypes, "CDLL", None)
    freed.release_memory()


def test_a_machine_without_proc_has_a_processor(monkeypatch: pytest.MonkeyPatch):
    usual = builtins.open

    def without_proc(path: Any, *rest: Any, **options: Any) -> Any:
        if str(path).startswith("/proc"):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        return usual(path, *rest, **options)

    monkeypatch.setattr(builtins, "open", without_proc)
    assert device.cpu_flags.__wrapped__() == frozenset()
    monkeypatch.setattr(device, "cpu_flags", frozenset)
    assert device.bf16_units() == []
    assert device.choose_precision("auto", torch.device("cpu"))[0] == torch.float32
    assert arithmetic.processor()


def test_cores_are_counted_where_no_process_is_bound_to_some(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert device.num_cores() == 6


def test_two_servers_do_not_get_one_port_on_windows(tmp_path: Path, windows: None):
    """SO_REUSEADDR lets them there."""
    with board.make_server(tmp_path, port=0) as first:
        listening = server._bound("127.0.0.1", 0)
        try:
            for each in (first.socket, listening):
                assert each.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 0
        finally:
            listening.close()
