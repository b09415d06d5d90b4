"""Watchers of the user's own: objects or functions that follow a run, and may end it.

A watcher has one or more of these methods, and no base class:

- `on_start(start)`: before the first step, or the first after a resume; see `Start`.
- `on_step(step, total_steps, loss, images_per_second)`: when steps are read from the device: each
  one on a CPU, several at a time on an accelerator, and at most 2,000 times in a run.
- `on_row(row)`: for each row of metrics.csv, a dict.
- `on_evaluation(step, epoch, figures)`: when validation was measured; `figures` is a dict.
- `on_end(folder, state)`: "finished" (everything is measured and written), "stopped" or "failed".

A function is called as `on_evaluation` is. To end the run, any moment but the last raises
`StopTraining("why")` or returns True: the run then ends with its best weights where the recipe
keeps them, or else with its last ones, is measured and reported, and says why it ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from tintype.errors import OwnCodeError, StopTraining, UserError
from tintype.own_code import running
from tintype.progress import Watcher

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Start:
    """What a watcher is given before the first step.

    Attributes:
        folder: of the run.
        recipe: the settings, by field.
        step: how many steps came before, 0 unless the run is resumed.
        total_steps: the length of the run.
        network: the network that is trained, to be looked at. Whoever changes its weights gives up
            that a resumed run ends with the same bits.
    """

    folder: Path
    recipe: Mapping[str, Any]
    step: int
    total_steps: int
    network: nn.Module


@runtime_checkable
class SeesStart(Protocol):
    def on_start(self, start: Start, /) -> object: ...


@runtime_checkable
class SeesStep(Protocol):
    def on_step(
        self, step: int, total_steps: int, loss: float, images_per_second: float, /
    ) -> object: ...


@runtime_checkable
class SeesRow(Protocol):
    def on_row(self, row: dict[str, Any], /) -> object: ...


@runtime_checkable
class SeesEvaluation(Protocol):
    def on_evaluation(self, step: int, epoch: float, figures: dict[str, Any], /) -> object: ...


@runtime_checkable
class SeesEnd(Protocol):
    def on_end(self, folder: Path, state: str, /) -> object: ...


Moment = SeesStart | SeesStep | SeesRow | SeesEvaluation | SeesEnd
OneWatcher = Moment | Callable[[int, float, dict[str, Any]], object] | type[Any]
MOMENTS = ("on_start", "on_step", "on_row", "on_evaluation", "on_end")


def as_watchers(watchers: OneWatcher | Sequence[OneWatcher] | None) -> list[OneWatcher]:
    """Return the watchers that a user gave: none, one or several. A class is called first.

    Raises:
        UserError: something that is no watcher.
    """
    if watchers is None:
        return []
    given = list(watchers) if isinstance(watchers, Sequence) else [watchers]
    return [_made(each) for each in given]


def _made(watcher: Any) -> OneWatcher:
    if isinstance(watcher, type):
        with running(f"the watcher {watcher.__name__}"):
            watcher = watcher()
    if not isinstance(watcher, Moment) and not callable(watcher):
        raise UserError(
            f"{type(watcher).__name__} is no watcher: it has none of the methods "
            f"{', '.join(MOMENTS)}. Expected one of them, or a function "
            "(step, epoch, figures)."
        )
    return watcher


@contextmanager
def watched(folder: Path, watcher: Watcher, watchers: Sequence[OneWatcher]) -> Iterator[Watcher]:
    """Yield a watcher that passes everything on to `watcher`, and to those of the user.

    Raises:
        OwnCodeError: one of them failed when the run ended.
    """
    if not watchers:
        yield watcher
        return

    watching = Watching(folder, watcher, watchers)
    try:
        yield watching
    except BaseException as error:
        watching.on_end(folder, "failed" if isinstance(error, UserError) else "stopped")
        raise
    watching.on_end(folder, "finished")
    watching.reason_to_stop()  # raises where the end was not seen through


class Watching(Watcher):
    """Pass what happens in a run on to a display and to the user's own watchers.

    What one of them raises is kept until the engine asks `reason_to_stop`, when the run is in a
    state that can be saved.
    """

    def __init__(self, folder: Path, watcher: Watcher, watchers: Sequence[OneWatcher]) -> None:
        self.folder = folder
        self.watcher = watcher
        self.watchers = list(watchers)
        self.why = ""
        self.failure: OwnCodeError | None = None

    def on_start(self, start: Start) -> None:
        for each in self.watchers:
            if isinstance(each, SeesStart):
                self._call(each, each.on_start, start)

    def on_step(self, step: int, total_steps: int, loss: float, images_per_second: float) -> None:
        self.watcher.on_step(step, total_steps, loss, images_per_second)
        for each in self.watchers:
            if isinstance(each, SeesStep):
                self._call(each, each.on_step, step, total_steps, loss, images_per_second)

    def on_row(self, row: dict[str, Any]) -> None:
        self.watcher.on_row(row)
        for each in self.watchers:
            if isinstance(each, SeesRow):
                self._call(each, each.on_row, dict(row))

    def on_evaluation(self, step: int, epoch: float, figures: dict[str, Any]) -> None:
        self.watcher.on_evaluation(step, epoch, figures)
        for each in self.watchers:
            if isinstance(each, SeesEvaluation):
                self._call(each, each.on_evaluation, step, epoch, dict(figures))
            elif not isinstance(each, Moment):
                self._call(each, each, step, epoch, dict(figures))

    def on_end(self, folder: Path, state: str) -> None:
        for each in self.watchers:
            if isinstance(each, SeesEnd):
                self._call(each, each.on_end, folder, state)

    def on_work(self, what: str, done: int, total: int) -> None:
        self.watcher.on_work(what, done, total)

    def on_runs(self, done: float, total: int, text: str, seconds_left: float | None) -> None:
        self.watcher.on_runs(done, total, text, seconds_left)

    def note(self, line: str) -> None:
        self.watcher.note(line)

    def close(self) -> None:
        self.watcher.close()

    def reason_to_stop(self) -> str:
        if self.failure is not None:
            raise self.failure
        return self.why

    def _call(self, watcher: OneWatcher, moment: Callable[..., object], *arguments: Any) -> None:
        name = getattr(watcher, "__name__", type(watcher).__name__)
        try:
            with running(f"the watcher {name}"):
                answer = moment(*arguments)
        except StopTraining as stop:
            self._stop(name, str(stop))
            return
        except OwnCodeError as failure:
            self.failure = self.failure or failure
            self.watchers.remove(watcher)
            return

        if isinstance(answer, bool | np.bool_) and answer:
            self._stop(name, "")

    def _stop(self, name: str, why: str) -> None:
        said = f"the watcher {name} ended it"
        self.why = self.why or (f"{said}: {why}" if why else said)
