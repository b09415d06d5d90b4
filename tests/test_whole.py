"""The benchmark of a whole command accounts for every second of it."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "whole.py"


@pytest.fixture(scope="module")
def whole() -> ModuleType:
    spec = importlib.util.spec_from_file_location("whole", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_innermost_part_counts(whole, monkeypatch):
    now = [10.0]
    monkeypatch.setattr(whole.time, "monotonic", lambda: now[0])
    watch = whole.Stopwatch(7.0)
    watch.enter("report")

    def drawing() -> None:
        now[0] += 4

    watch.timed("figures", drawing)()
    now[0] += 1
    watch.leave()
    assert {part: each for part, each in watch.seconds.items() if each} == {
        "start": 3, "figures": 4, "report": 1
    }  # fmt: skip


@pytest.mark.slow
def test_the_parts_of_a_training_sum_to_its_wall_time(whole, tmp_path, capsys):
    options = argparse.Namespace(quick=True, threads=1, data_root=None, further=[])
    found = whole.waterfall("digits", options, tmp_path)
    seconds = found["seconds"]
    assert sum(seconds.values()) == pytest.approx(found["wall"], rel=0.02)
    assert all(seconds[part] > 0 for part in whole.PARTS)
    assert all(each > -0.05 for each in found["computed"].values())  # clocks of 10 ms

    whole.show(found)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[1] for line in lines[2:-1]] == list(whole.PARTS)
    assert lines[-1].endswith("100.0%")
