"""How many cores a run may use, what others take of them, and which number of threads follows."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from PIL import Image

from tintype import api
from tintype.hardware import arithmetic, cores
from tintype.hardware.arithmetic import choose_threads
from tintype.hardware.cores import Load, quota
from tintype.progress import Watcher
from tintype.training import speed
from tintype.training.prepare import prepare
from tintype.training.speed import Pace

GIVEN = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


class Others:
    """Stands in for other processes that keep some cores busy."""

    def __init__(self, busy: float) -> None:
        self.busy, self.looks = busy, 0

    def others(self) -> float:
        self.looks += 1
        return self.busy


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Return a function that makes this a machine of some cores, of which others keep some busy."""
    before = torch.get_num_threads()

    def make(num: int, busy: float, *, may_use: int | None = None) -> Others:
        for name in GIVEN:
            monkeypatch.delenv(name, raising=False)
        others = Others(busy)
        monkeypatch.setattr(arithmetic, "LOAD", others)
        monkeypatch.setattr(arithmetic, "allowed_cores", lambda: num)
        monkeypatch.setattr(arithmetic, "num_cores", lambda: may_use or num)
        monkeypatch.setattr(torch, "get_num_threads", lambda: num)
        return others

    yield make
    torch.set_num_threads(before)  # a run puts back what it was shown


@pytest.mark.parametrize(
    ("num", "busy", "threads"),
    [
        (2, 0.0, 2),
        (2, 0.3, 2),
        (2, 1.0, 1),
        (2, 2.0, 1),
        (8, 1.1, 7),
        (8, 3.0, 5),
        (8, 8.0, 4),  # all cores are busy, and the system shares them fairly
        (5, 5.0, 3),
        (1, 1.0, 1),
    ],
)
def test_threads_leave_out_the_cores_that_others_keep_busy(machine, num, busy, threads):
    machine(num, busy)
    number, choice = choose_threads("auto", by_load=True)
    assert number == threads
    assert choice.choice == str(threads)
    if threads < num:
        assert f"{busy:.1f} of the {num} cores busy; --threads {num} takes all" in choice.reason
    else:
        assert "PyTorch's own choice" in choice.reason


def test_given_threads_are_not_changed_by_load(machine, monkeypatch):
    others = machine(4, 3.0)
    assert choose_threads(4, by_load=True)[0] == 4
    assert choose_threads("auto")[0] == 4
    for name in GIVEN:
        with monkeypatch.context() as patch:
            patch.setenv(name, "4")
            assert choose_threads("auto", by_load=True)[0] == 4
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)  # as torch.set_num_threads leaves it
    monkeypatch.setattr(psutil, "cpu_count", lambda **_: 4)
    assert choose_threads("auto", by_load=True)[0] == 3
    assert others.looks == 0


@pytest.mark.parametrize(("busy", "threads"), [(0.0, []), (1.0, [1, 2])])
def test_commands_without_a_recipe_leave_busy_cores_too(
    machine, monkeypatch, say, tmp_path, busy, threads
):
    machine(2, busy)
    counts: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", counts.append)
    Image.new("RGB", (40, 40), "red").save(tmp_path / "red.png")
    Image.new("RGB", (40, 40), "blue").save(tmp_path / "blue.png")

    _, _, errors = say("similar", tmp_path / "red.png", tmp_path)
    assert counts[:1] == threads[:1], "before anything is computed"
    assert counts[-1:] == threads[-1:], "and what it was before, afterwards"
    wanted = "threads: 1, other processes keep 1.0 of the 2 cores busy; OMP_NUM_THREADS=2 takes all"
    assert (wanted in errors) == bool(threads)


def test_a_container_takes_no_more_threads_than_it_may_use(machine):
    machine(64, 0.0, may_use=2)
    assert choose_threads("auto")[0] == 2


def test_a_run_beside_others_says_so_and_keeps_its_number(machine, tiny):
    cut = machine(torch.get_num_threads() + 1, 1.0).busy
    prepared = prepare(tiny(), Watcher())
    [line] = [line for line in prepared.lines() if line.startswith("threads:")]
    assert f"other processes keep {cut:.1f} of the" in line
    number = prepared.recipe.threads

    others = machine(64, 0.0)
    assert prepare(prepared.recipe, Watcher()).recipe.threads == number  # as a resume does
    assert others.looks == 0


def test_alone_a_run_says_nothing_of_others(machine, tiny):
    machine(2, 0.0)
    lines = prepare(tiny(), Watcher()).lines()
    assert not any(line.startswith("threads:") for line in lines)


# ---- while a run trains ---------------------------------------------------------------------------------------------


@pytest.fixture
def pace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Return a function that makes a pace of two threads beside others."""

    def make(busy: float, *, threads: int = 2) -> Pace:
        monkeypatch.setattr(speed, "Load", lambda: Others(busy))
        return Pace(threads, tmp_path / "run")

    return make


def said(pace: Pace, *spans: float) -> list[str]:
    """Return what a pace says of steps, each so many seconds long for a while."""
    steps = [seconds for seconds in spans for _ in range(round(20 / seconds))]
    return [warning for step in steps if (warning := pace.step(step))]


def test_steps_that_others_slow_down_are_said_once_with_the_remedy(pace, tmp_path):
    [warning] = said(pace(1.0), 0.1, 0.4, 0.4, 1.0)
    assert "4.0 times as long" in warning
    assert "set threads: 1 in" in warning
    assert f"tintype train --resume {tmp_path / 'run'}" in warning


def test_slow_steps_for_other_reasons_are_not_said(pace):
    assert said(pace(0.2), 0.1, 0.4) == []  # nobody else computes: the images grew
    assert said(pace(1.0), 0.1, 0.2) == []
    assert said(pace(1.0), 0.4, 0.1) == []
    assert said(pace(1.0, threads=1), 0.1, 0.4) == []


@pytest.mark.usefixtures("short_reports")
def test_the_warning_changes_nothing_of_the_result(tmp_path, tiny, monkeypatch):
    plain = api.train(tiny(), out=tmp_path, name="plain", watcher=Watcher())
    notes: list[str] = []
    watcher = Watcher()
    monkeypatch.setattr(watcher, "note", notes.append)
    monkeypatch.setattr(Pace, "step", lambda *_: "warning: slower")
    warned = api.train(tiny(), out=tmp_path, name="warned", watcher=watcher)
    assert "warning: slower" in notes
    weights = "model.safetensors"
    assert (plain.path / weights).read_bytes() == (warned.path / weights).read_bytes()


# ---- what the system says -------------------------------------------------------------------------------------------


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")


def test_the_quota_of_a_container(tmp_path):
    own = tmp_path / "own"
    own.write_text("0::/\n", encoding="utf-8")
    assert quota(tmp_path, own) is None
    write(tmp_path, cpu__max="max 100000\n")
    assert quota(tmp_path, own) is None
    write(tmp_path, cpu__max="150000 100000\n")
    assert quota(tmp_path, own) == 1.5


def test_the_tightest_quota_of_nested_groups_counts(tmp_path):
    own = tmp_path / "own"
    own.write_text("0::/user.slice/job.scope\n", encoding="utf-8")
    write(tmp_path / "user.slice" / "job.scope", cpu__max="max 100000\n")
    write(tmp_path / "user.slice", cpu__max="300000 100000\n")
    write(tmp_path / "other.slice", cpu__max="100000 100000\n")
    assert quota(tmp_path, own) == 3


def test_the_quota_of_the_first_version_of_control_groups(tmp_path):
    own = tmp_path / "own"
    own.write_text("9:name=systemd:/\n4:cpu,cpuacct:/docker/abc\n", encoding="utf-8")
    group = {"cpu__cfs_quota_us": "-1\n", "cpu__cfs_period_us": "100000\n"}
    write(tmp_path / "cpu,cpuacct", **group)
    assert quota(tmp_path, own) is None
    write(tmp_path / "cpu,cpuacct", **{**group, "cpu__cfs_quota_us": "400000\n"})
    assert quota(tmp_path, own) == 4


def test_no_control_groups(tmp_path, monkeypatch):
    assert quota(tmp_path, tmp_path / "none") is None
    monkeypatch.setattr(cores, "quota", lambda: None)
    assert cores.num_cores() == cores.allowed_cores()
    monkeypatch.setattr(cores, "quota", lambda: 0.5)
    assert cores.num_cores() == 1


def test_own_work_is_not_that_of_others(monkeypatch):
    """The counters of two moments, as the system would give them."""
    core = psutil.cpu_times()._replace(user=0.0, system=0.0)
    counted = [
        [core._replace(user=10.0), core._replace(user=20.0)],
        [core._replace(user=11.5, system=0.5), core._replace(user=21.0)],
    ]
    clock, own = iter([100.0, 102.0, 102.0]), iter([5.0, 6.0])
    monkeypatch.setattr(cores, "_allowed", lambda: [0, 1])
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: counted.pop(0))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(time, "process_time", lambda: next(own))
    assert Load().others() == pytest.approx((3.0 - 1.0) / 2.0)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no process is bound to cores")
def test_a_busy_process_is_seen():
    """A real one, bound with the one that looks to a core; what else runs here only adds to it."""
    script = (
        "import os, subprocess, sys, time\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from tintype.hardware.cores import Load\n"
        "busy = subprocess.Popen([sys.executable, '-c', 'while True: pass'])\n"
        "time.sleep(0.2); load = Load(); time.sleep(0.5); print(load.others()); busy.kill()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=True,
    )
    assert float(done.stdout) > 0.2
