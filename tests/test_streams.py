"""Streams whose reader goes away: what is written, and who is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO

import pytest
from rich.console import Console

from tintype.interface.streams import Lasting
from tintype.progress import Bar, Lines, Watcher, make_watcher

if os.name == "nt":
    pytest.skip("there is no SIGHUP on Windows", allow_module_level=True)


@pytest.fixture
def unread() -> Iterator[TextIO]:
    """A pipe that nobody reads any more."""
    reading, writing = os.pipe()
    os.close(reading)
    stream = open(writing, "w", encoding="utf-8")  # noqa: SIM115
    yield stream
    stream.close()


@pytest.fixture
def on_hangup() -> Iterator[Callable[[Any], Any]]:
    """Return a function that sets what SIGHUP does, until the test is over."""
    before = signal.getsignal(signal.SIGHUP)
    yield lambda handler: signal.signal(signal.SIGHUP, handler)
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("make", [Lines, lambda stream: Bar(Console(file=stream))])
def test_a_display_that_nobody_reads_stops_who_listens_once(unread, on_hangup, make):
    seen: list[int] = []
    on_hangup(lambda number, _: seen.append(number))
    watcher: Watcher = make(Lasting(unread))
    for step in range(20):
        watcher.note(f"line {step}")
        watcher.on_step(step, 20, 0.5, 100.0)
    watcher.close()
    assert seen == [signal.SIGHUP]


def test_under_nohup_the_output_is_dropped(unread, on_hangup):
    on_hangup(signal.SIG_IGN)
    for _ in range(3):
        Lines(Lasting(unread)).note("a line")


def test_where_nobody_listens_the_error_is_raised(unread, on_hangup):
    on_hangup(signal.SIG_DFL)
    with pytest.raises(BrokenPipeError):
        Lines(Lasting(unread)).note("a line")
    with open(os.devnull, "w", encoding="utf-8") as nowhere:  # for what the stream still holds
        os.dup2(nowhere.fileno(), unread.fileno())


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a disk that is full")
def test_what_a_full_disk_has_no_room_for_is_dropped():
    full = open("/dev/full", "w", encoding="utf-8")  # noqa: SIM115
    for _ in range(3):
        Lines(Lasting(full)).note("a line")
    with pytest.raises(OSError, match="No space left"):
        full.close()


@pytest.mark.parametrize("closed", ["1>&-", "2>&-", "1>&- 2>&-"])
def test_the_command_line_needs_no_stream(tmp_path, closed):
    command = f"{sys.executable} -m tintype list runs --out {tmp_path} {closed}"
    assert subprocess.run(command, shell=True, check=False, capture_output=True).returncode == 0


def test_where_there_is_no_stream_there_is_no_display(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    make_watcher().note("a line")


def test_a_stream_that_is_read_stays_as_it_is(capsys):
    Lines(Lasting(sys.stdout)).note("a line")
    assert capsys.readouterr().out == "a line\n"
    assert Lasting(sys.stdout).encoding == sys.stdout.encoding
