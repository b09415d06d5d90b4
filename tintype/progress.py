"""Progress of a run: a bar on a terminal, curves in a notebook, plain lines elsewhere."""

from __future__ import annotations

import html
import logging
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from tintype.errors import UserError
from tintype.interface.notebook import Curve, Display, Panel, in_notebook, picture
from tintype.interface.spelling import spelled
from tintype.interface.streams import Lasting, printable

if TYPE_CHECKING:
    from tintype.interface.watching import Start

# Called during long work with a description, the amount done and the total.
Progress = Callable[[str, int, int], None]

PATIENCE = 1.0  # seconds before a call from Python other than a training shows its progress


def duration(seconds: float) -> str:
    """Return a duration in words: "42 s", "3 min 05 s", "2 h 10 min"."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def epochs(epoch: float) -> str:
    """Return a number of epochs in words: "3", or "0.9" within an early one.

    Evaluations happen after a whole number of steps, so one per epoch may come after 1.01749 of
    them, or after 29.507 where 29 were meant.
    """
    nearest = round(epoch)
    if nearest and abs(epoch - nearest) < 0.1:
        return str(nearest)
    return f"{epoch:.1f}" if epoch < 5 else str(int(epoch))


def _share_of_runs(done: float, total: int) -> str:
    """Say how much of several runs is done; `done` counts those under way by their parts."""
    return f"{int(100 * done / max(1, total))} % of {total} runs done"


class Watcher:
    """Follow a run from outside. This base class does nothing, and so keeps a run silent.

    A progress bar or a tracker overrides the methods it needs. Watchers of the user's own need no
    base class, see `tintype.interface.watching`.

    Attributes:
        show_result: shows the figures of a run folder, in place of the note where its report lies;
            called once they are known, since the report takes a while.
    """

    show_result: Callable[[Path], None] | None = None

    def on_start(self, start: Start) -> None: ...

    def on_step(
        self, step: int, total_steps: int, loss: float, images_per_second: float
    ) -> None: ...

    def on_evaluation(self, step: int, epoch: float, figures: dict[str, Any]) -> None: ...

    def on_row(self, row: dict[str, Any]) -> None: ...

    def on_work(self, what: str, done: int, total: int) -> None: ...

    def on_runs(self, done: float, total: int, text: str, seconds_left: float | None) -> None: ...

    def note(self, line: str) -> None: ...

    def close(self) -> None: ...

    def reason_to_stop(self) -> str:
        """Return why the run should end now, "" where it goes on; asked after every step shown."""
        return ""


def figures_line(figures: dict[str, Any]) -> str:
    """Return validation figures in a few words."""
    if "accuracy" in figures:
        parts = [f"accuracy {100 * figures['accuracy']:.1f} %"]
    else:
        numbers = {name: value for name, value in figures.items() if isinstance(value, float)}
        numbers.pop("loss", None)
        parts = [f"{name} {value:.4g}" for name, value in numbers.items()][:4]

    if "loss" in figures:
        parts.append(f"loss {figures['loss']:.3g}")
    return ", ".join(parts)


class Lines(Watcher):
    """Print plain lines: every note, every evaluation, and the progress every ten seconds."""

    def __init__(self, stream: Any = None, seconds: float = 10.0) -> None:
        self.stream = stream or sys.stdout
        self.seconds = seconds
        self._started: float | None = None
        self._said = time.perf_counter()
        self._first_step = 0
        self._total_steps = 0
        # description of the current work, when it began, and the amount done then
        self._work = ("", 0.0, 0)

    def _say(self, line: str) -> None:
        print(printable(line, self.stream), file=self.stream, flush=True)
        self._said = time.perf_counter()

    def note(self, line: str) -> None:
        self._say(spelled(line))

    def on_work(self, what: str, done: int, total: int) -> None:
        now = time.perf_counter()
        if what != self._work[0]:
            self._work = (what, now, done)
        if now - self._said > self.seconds:
            _, start, first = self._work
            left = (
                f", {duration((now - start) / (done - first) * (total - done))} left"
                if done > first
                else ""
            )
            self._say(f"{what}: {done:,} of {total:,}{left}")

    def on_runs(self, done: float, total: int, text: str, seconds_left: float | None) -> None:
        if time.perf_counter() - self._said > self.seconds:
            left = "" if seconds_left is None else f", about {duration(seconds_left)} left"
            self._say(f"{text}; {_share_of_runs(done, total)}{left}")

    def on_step(self, step: int, total_steps: int, loss: float, images_per_second: float) -> None:
        now = time.perf_counter()
        self._total_steps = total_steps
        if self._started is None:
            self._started = now
            self._first_step = step
        elif now - self._said > self.seconds:
            left = (now - self._started) / max(1, step - self._first_step) * (total_steps - step)
            self._say(
                f"step {step:,} of {total_steps:,}, loss {loss:.4f}, "
                f"{images_per_second:,.0f} images/s, {duration(left)} left"
            )

    def on_evaluation(self, step: int, epoch: float, figures: dict[str, Any]) -> None:
        if self._total_steps == 1:  # what is fitted at once has no epochs
            self._say(f"fitted: validation {figures_line(figures)}")
            return
        whole = (
            f" of {epochs(epoch / step * self._total_steps)}" if self._total_steps and step else ""
        )
        self._say(f"epoch {epochs(epoch)}{whole}: validation {figures_line(figures)}")


class Bar(Watcher):
    """Draw a progress bar with the time left, the loss and the last validation figure."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._progress: RichProgress | None = None
        self._task: Any = None
        self._what = ""
        self._last = ""

    def _show(self, what: str, done: float, total: int, text: str) -> None:
        if self._progress is None:
            self._progress = RichProgress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=30),
                TextColumn("{task.fields[count]}"),
                TimeElapsedColumn(),
                TextColumn("[dim]left[/dim]"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[text]}", markup=False),
                console=self.console,
                transient=True,
            )
            self._progress.start()
            self._task = self._progress.add_task(what, total=total, text="", count="")
            self._what = what
        if what != self._what:
            self._progress.remove_task(self._task)
            self._task = self._progress.add_task(what, total=total, text="", count="")
            self._what = what

        # The count is of finished runs, while the bar also moves with the current one.
        self._progress.update(
            self._task, completed=done, total=total, text=text, count=f"{int(done):,}/{total:,}"
        )
        if done >= total:
            self.close()

    def note(self, line: str) -> None:
        self.console.print(printable(spelled(line), self.console.file), markup=False)

    def on_work(self, what: str, done: int, total: int) -> None:
        self._show(what, done, total, "")

    def on_runs(self, done: float, total: int, text: str, seconds_left: float | None) -> None:
        left = "" if seconds_left is None else f"  about {duration(seconds_left)} left"
        self._show("runs", min(done, total - 1e-9), total, text + left)

    def on_step(self, step: int, total_steps: int, loss: float, images_per_second: float) -> None:
        text = f"loss {loss:.4f}  {images_per_second:,.0f} img/s"
        self._show(
            "training", step, total_steps, text + (f"  val {self._last}" if self._last else "")
        )

    def on_evaluation(self, step: int, epoch: float, figures: dict[str, Any]) -> None:
        self._last = (
            f"{100 * figures['accuracy']:.1f} %" if "accuracy" in figures else figures_line(figures)
        )

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
            self._what = ""


class Live(Watcher):
    """Update one display in a notebook: a bar with the time left, and curves of the figures.

    The display changes at most once in `seconds`, and whenever a part of the work ends. No thread
    or timer is involved, so a stopped run leaves nothing running.
    """

    def __init__(self, display: Display | None = None, seconds: float = 1.0) -> None:
        self.display = display or Display()
        self.seconds = seconds
        self.lines: list[str] = []
        self.losses: dict[str, Curve] = {}
        self.figures = Curve()
        self.figure = ""  # name of the validation figure that is drawn
        self.last = ""  # last validation figures in words

        self._headline = ""
        self._share = 0.0
        self._step = 0
        self._total_steps = 1
        # time and number of the first step seen
        self._started: tuple[float, int] | None = None
        # headline, words below it and share, shown when a part of the work is over
        self._end = ("", "", 0.0)
        self._shown = -seconds
        self._between = False  # one part of the work has ended and the next has not begun

    def on_step(self, step: int, total_steps: int, loss: float, images_per_second: float) -> None:
        if step <= self._step:  # another run, as in tuning
            self.losses = {}
            self.figures = Curve()
            self.figure = ""
            self.last = ""
            self._started = None

        now = time.perf_counter()
        started, first = self._started = self._started or (now, step)
        self._step = step
        self._total_steps = total_steps
        self._share = step / max(1, total_steps)

        where = f"step {step:,} of {total_steps:,}"
        speed = f"{images_per_second:,.0f} images/s"
        left = (now - started) / max(1, step - first) * (total_steps - step)
        self._headline = (
            f"{where} · about {duration(left)} left · {speed}" if step > first else where
        )
        self._end = (f"{where} · {duration(now - started)} · {speed}", self.last, self._share)
        self._show()

    def on_evaluation(self, step: int, epoch: float, figures: dict[str, Any]) -> None:
        self.figure = self.figure or figure_that_counts(figures)
        if isinstance(value := figures.get(self.figure), int | float):
            self.figures.add(step, value, self._total_steps)
        self.last = f"validation {figures_line(figures)}, epoch {epochs(epoch)}"
        self._end = (self._end[0], self.last, self._share)
        self._show()

    def on_row(self, row: dict[str, Any]) -> None:
        for name, value in row.items():
            if name == "loss" or (name.startswith("loss_") and "loss" not in row):
                name = name.removeprefix("loss_").replace("_", " ")
                self.losses.setdefault(name, Curve()).add(
                    int(row["step"]), float(value), self._total_steps
                )

    def on_work(self, what: str, done: int, total: int) -> None:
        self._share = done / max(1, total)
        self._headline = f"{what}: {done:,} of {total:,}"
        self._show()

    def on_runs(self, done: float, total: int, text: str, seconds_left: float | None) -> None:
        left = "" if seconds_left is None else f" · about {duration(seconds_left)} left"
        count = _share_of_runs(done, total)
        self._share = done / max(1, total)
        self._headline = count + left
        self.last = text
        self._end = (count, "", self._share)
        self._show()

    def note(self, line: str) -> None:
        self.lines.append(spelled(line))
        self._show(at_once=self._between)

    def close(self) -> None:
        if self._end[0]:
            self._headline, self.last, self._share = self._end
        self._show(at_once=True)
        self._between = True

    def _show(self, *, at_once: bool = False) -> None:
        now = time.perf_counter()
        self._between = self._between and at_once
        if at_once or now - self._shown >= self.seconds:
            self._shown = now
            text = "\n".join(part for part in (self._headline, self.last, *self.lines) if part)
            self.display.show(self._html(), text)

    def _html(self) -> str:
        losses = {name: curve.points for name, curve in self.losses.items()}
        panels = [Panel("loss", losses, self._total_steps)]

        if self.figure:
            curves = {self.figure: self.figures.points}
            form = "{:.1%}" if self.figure == "accuracy" else "{:.4g}"
            title = f"validation {self.figure}"
            panels.append(Panel(title, curves, self._total_steps, form.format, dots=True))

        warnings = [line for line in self.lines if line.lstrip().startswith("warning")]
        lines = [line for line in (self._headline, self.last, *warnings) if line]
        paragraphs = [f"<p>{html.escape(line)}</p>" for line in lines]
        more = ""

        if self.lines:
            whole = html.escape("\n".join(self.lines))
            unfold = "" if self.losses else " open"  # a study has nothing but these lines
            last = html.escape(self.lines[-1])
            more = f"<details{unfold}><summary>{last}</summary><pre>{whole}</pre></details>"

        drawn = picture(panels, self._share)
        return f"<div>{''.join(paragraphs[:1])}{drawn}{''.join(paragraphs[1:])}{more}</div>"


def figure_that_counts(figures: dict[str, Any]) -> str:
    """Return the name of the validation figure to draw."""
    numbers = [name for name, value in figures.items() if isinstance(value, float)]
    distances = [
        name for name in numbers if name.startswith(("fd_", "fid")) and not name.endswith("_floor")
    ]
    others = [name for name in numbers if name != "loss"]
    order = ["accuracy", "psnr_y", *distances, *others, "loss"]
    return next((name for name in order if name in numbers), "")


class Patient(Watcher):
    """Show work only once it has taken a while, so that short calls leave no trace."""

    def __init__(self, shown: Watcher) -> None:
        self.shown = shown
        self._begun = time.perf_counter()
        self._used = False

    def on_work(self, what: str, done: int, total: int) -> None:
        if self._used or time.perf_counter() - self._begun > PATIENCE:
            self._used = True
            self.shown.on_work(what, done, total)

    def note(self, line: str) -> None:
        self._used = True
        self.shown.note(line)

    def close(self) -> None:
        if self._used:
            self.shown.close()


@contextmanager
def working(verbose: bool | None, progress: Progress | None = None) -> Iterator[Progress]:
    """Yield what shows the progress of a call from Python that is not a training.

    Args:
        verbose: False shows nothing, and keeps libraries silent too.
        progress: is called instead, where the caller has one.
    """
    watcher = Patient(display_for(None, verbose))
    with silence(verbose):
        try:
            yield progress or watcher.on_work
        finally:
            watcher.close()


@contextmanager
def silence(verbose: bool | None) -> Iterator[None]:
    """With False, keep warnings and log lines of libraries back while this lasts."""
    if verbose is None or verbose:
        yield
        return
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(max(before, logging.WARNING))
        try:
            yield
        finally:
            logging.disable(before)


def make_watcher(*, quiet: bool = False, to_stderr: bool = False) -> Watcher:
    """Return a bar on a terminal, a display in a notebook and plain lines elsewhere.

    Args:
        quiet: show nothing.
        to_stderr: leave standard output to JSON.
    """
    if quiet:
        return Watcher()
    if in_notebook():
        return Live()
    stream: Any = sys.stderr if to_stderr else sys.stdout
    if stream is None:  # a service may have none, and a program with windows
        return Watcher()
    stream = Lasting(stream)
    if stream.isatty():
        return Bar(Console(file=stream, highlight=False))
    return Lines(stream)


def display_for(watcher: Watcher | None, verbose: bool | None) -> Watcher:
    """Return what shows the progress of a call from Python; `verbose=False` shows nothing.

    Raises:
        UserError: an object that is no display.
    """
    if watcher is None:
        return make_watcher(quiet=verbose is not None and not verbose)
    if not isinstance(watcher, Watcher):
        raise UserError(
            f"watcher= takes the place of the display, and {type(watcher).__name__} is none (a "
            "tintype.progress.Watcher). Give your own as watchers=."
        )
    return watcher


def parse_duration(text: str) -> float:
    """Return the seconds in "90", "90s", "5m" or "1.5h".

    Raises:
        UserError: the text is none of these, or not above zero.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|m|min|h)?\s*", text.lower())
    seconds = (
        float(found[1]) * {"s": 1, "m": 60, "min": 60, "h": 3600, None: 1}[found[2]]
        if found
        else 0.0
    )
    if seconds <= 0:
        raise UserError(f"time is '{text}'. Expected a duration such as 90s, 5m or 1h.")
    return seconds
