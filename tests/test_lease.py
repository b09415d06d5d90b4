"""Leases: one holder at a time, on machines whose clocks need not agree."""

from __future__ import annotations

import json
import os
import platform
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from tintype.files import lease
from tintype.files.lease import Leases


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The observer's clock, which stands still until a test moves it."""
    moved = SimpleNamespace(now=0.0)
    monkeypatch.setattr(lease.time, "monotonic", lambda: moved.now)
    return moved


def of_another_machine(folder: Path, name: str, beat: int) -> None:
    says = {"state": "held", "machine": f"not {platform.node()}", "process": 1, "beat": beat}
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(says), encoding="utf-8")
    os.utime(folder / name, (0, 0))  # its clock is decades behind


def test_of_many_who_ask_one_holds_a_job(tmp_path: Path):
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda _: Leases(tmp_path / "l").take("a"), range(8)))
    (held,) = [one for one in taken if one]
    held.tell(step=3)
    held.release()
    assert Leases(tmp_path / "l").held() == {}
    again = Leases(tmp_path / "l").take("a")
    assert again is not None
    assert again.before == {}
    again.release()


def test_a_holder_elsewhere_is_dead_when_its_lease_stays_the_same_on_the_observers_clock(
    tmp_path: Path, clock: SimpleNamespace
):
    leases = Leases(tmp_path / "l")
    for beat in range(20):  # alive, whatever its clock says
        of_another_machine(tmp_path / "l", "a.7", beat)
        clock.now += 10
        assert leases.held()["a"]["number"] == 7
    assert leases.take("a") is None
    clock.now += 10_000  # the observer was frozen, and knows nothing of that time
    assert leases.held()
    for _ in range(6):
        clock.now += lease.LONGEST_LOOK
        leases.held()
    taken = leases.take("a")
    assert taken is not None
    assert taken.before["beat"] == 19
    assert taken.path.name == "a.8"
    taken.release()


def test_who_was_frozen_notices_that_the_job_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.01)
    held = Leases(tmp_path / "l").take("a")
    assert held is not None
    of_another_machine(tmp_path / "l", "a.2", 0)
    held._thread.join()
    assert held.lost
    assert Leases(tmp_path / "l").take("a") is None


def test_a_process_that_is_gone_holds_nothing(tmp_path: Path):
    gone = {"state": "held", "machine": platform.node(), "process": os.getpid(), "born": 1.0}
    (tmp_path / "a.1").write_text(json.dumps(gone), encoding="utf-8")
    assert Leases(tmp_path).held() == {}  # another process has its number now


def test_a_job_is_deserted_by_one_who_died_over_it_and_not_by_one_who_gave_it_back(tmp_path: Path):
    gone = {"state": "held", "machine": platform.node(), "process": os.getpid(), "born": 1.0}
    (tmp_path / "died.1").write_text(json.dumps(gone), encoding="utf-8")
    (tmp_path / "over.1").write_text(json.dumps({**gone, "state": "released"}), encoding="utf-8")
    held = Leases(tmp_path).take("under way")
    assert held is not None
    assert [set(jobs) for jobs in Leases(tmp_path).look()] == [{"under way"}, {"died"}]
    held.release()
    assert [set(jobs) for jobs in Leases(tmp_path).look()] == [set(), {"died"}]
