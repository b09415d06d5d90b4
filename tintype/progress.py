"""How a run shows that it lives: a bar with time remaining on a terminal, plain lines elsewhere, nothing when asked."""

from __future__ import annotations

import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def duration(seconds: float) -> str:
    """Return seconds as people say them: "42 s", "3 min 05 s", "2 h 10 min"."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


class Silent:
    """Tells nothing."""

    def on_step(self, step: int, total_steps: int, loss: float, images_per_second: float) -> None: ...

    def on_evaluation(self, step: int, epoch: float, figures: dict[str, Any]) -> None: ...

    def on_work(self, what: str, done: int, total: int) -> None: ...

    def note(self, line: str) -> None: ...

    def close(self) -> None: ...


def figures_line(figures: dict[str, Any]) -> str:
    """Return the validation figures in a few words."""
    parts = []
    if "accuracy" in figures:
        parts.append(f"accuracy {figures['accuracy']:.2%}")
    if "loss" in figures:
        parts.append(f"loss {figures['loss']:.4f}")
    if not parts:
        parts = [f"{name} {value:.4g}" for name, value in figures.items() if isinstance(value, float)][:4]
    return ", ".join(parts)


class Lines(Silent):
    """Plain lines on a stream: each note, each evaluation, and a sign of life every ten seconds."""

    def __init__(self, stream: Any = None, seconds: float = 10.0) -> None:
        self.stream, self.seconds = stream or sys.stdout, seconds
        self._started: float | None = None
        self._said = time.perf_counter()
        self._first_step = 0

    def _say(self, line: str) -> None:
        print(line, file=self.stream, flush=True)
        self._said = time.perf_counter()

    def note(self, line: str) -> None:
        self._say(line)

    def on_work(self, what: str, done: int, total: int) -> None:
        if time.perf_counter() - self._said > self.seconds:
            self._say(f"{what}: {done:,} of {total:,}")

    def on_step(self, step: int, total_steps: int, loss: float, images_per_second: float) -> None:
        now = time.perf_counter()
        if self._started is None:
            self._started, self._first_step = now, step
        elif now - self._said > self.seconds:
            left = (now - self._started) / max(1, step - self._first_step) * (total_steps - step)
            self._say(
                f"step {step:,} of {total_steps:,}, loss {loss:.4f}, {images_per_second:,.0f} images/s, {duration(left)} left"
            )

    def on_evaluation(self, step: int, epoch: float, figures: dict[str, Any]) -> None:
        self._say(f"epoch {epoch:g}, step {step:,}: validation {figures_line(figures)}")


class Bar(Silent):
    """A Rich progress bar with time remaining, the loss and the last validation figure."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._progress: Progress | None = None
        self._task: Any = None
        self._what = ""
        self._last = ""

    def _show(self, what: str, done: int, total: int, text: str) -> None:
        if self._progress is None:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=30),
                TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
                TimeElapsedColumn(),
                TextColumn("[dim]left[/dim]"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[text]}"),
                console=self.console,
                transient=True,
            )
            self._progress.start()
            self._task = self._progress.add_task(what, total=total, text="")
            self._what = what
        if what != self._what:
            self._progress.remove_task(self._task)
            self._task = self._progress.add_task(what, total=total, text="")
            self._what = what
        self._progress.update(self._task, completed=done, total=total, text=text)
        if done >= total:
            self.close()

    def note(self, line: str) -> None:
        self.console.print(line, markup=False)

    def on_work(self, what: str, done: int, total: int) -> None:
        self._show(what, done, total, "")

    def on_step(self, step: int, total_steps: int, loss: float, images_per_second: float) -> None:
        text = f"loss {loss:.4f}  {images_per_second:,.0f} img/s"
        self._show("training", step, total_steps, text + (f"  val {self._last}" if self._last else ""))

    def on_evaluation(self, step: int, epoch: float, figures: dict[str, Any]) -> None:
        self._last = f"{figures['accuracy']:.2%}" if "accuracy" in figures else figures_line(figures)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
            self._what = ""


def make_watcher(*, quiet: bool = False, to_stderr: bool = False) -> Silent:
    """Return a bar on a terminal and plain lines elsewhere; on standard error where standard output belongs to JSON."""
    if quiet:
        return Silent()
    stream = sys.stderr if to_stderr else sys.stdout
    if stream.isatty():
        return Bar(Console(file=stream, highlight=False))
    return Lines(stream)
