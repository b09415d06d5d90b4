"""Dynamic batching: one thread computes, and photos that arrive together are answered together.

Decoding happens in other threads; this one sees pixels. Two kinds of work: small pieces that are
computed in batches (a photo to classify), and long jobs (a photo to enlarge) that let batches pass
between their steps.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tintype.tasks.contract.serve import Between

Batched = Callable[[Sequence[Any]], Sequence[Any]]

log = logging.getLogger("tintype.verbs.serve")


class Abandoned(Exception):
    """Nobody waits for the answer any more."""


@dataclass(eq=False)
class Work:
    """Something to compute, and the future of the event loop that waits for it."""

    function: Callable[..., Any]  # of a list of payloads where it is batched, else of `between`
    payload: Any
    future: asyncio.Future[Any]
    arrived: float = field(default_factory=time.perf_counter)


class Compute:
    """The thread that owns the networks.

    A batch starts when it is full, when its first photo has waited for the latency budget, or when
    as many are there as were lately in the service at once: a client that is alone does not wait
    for company. Of a network that takes long a batch is full soon: more at once would be no faster,
    and while all clients wait for one batch nobody's next photo is decoded.

    Args:
        latency: seconds that a photo may wait for others.
        max_batch: photos that are computed at once, at most.
        batch_seconds: how long a batch may take, by what the ones before took for each photo.
        threads: threads of torch.
        on_batch: called with the size of each batch and the seconds that it took.
    """

    def __init__(
        self,
        *,
        latency: float = 0.01,
        max_batch: int = 64,
        batch_seconds: float = 0.1,
        threads: int = 1,
        on_batch: Callable[[int, float], None] | None = None,
    ) -> None:
        self.latency = latency
        self.max_batch = max_batch
        self.batch_seconds = batch_seconds
        self.threads = threads
        self.on_batch = on_batch

        self._small: deque[Work] = deque()
        self._long: deque[Work] = deque()
        self._seconds: dict[Batched, float] = {}  # of each photo in the last batch
        self._company = 1.0  # photos that are in the service at once, lately
        self._wanted = 1  # pieces for which the thread is woken
        self._in_service = 0
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="compute", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Finish what is waiting, and end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def expect(self, count: int) -> None:
        """Take note of photos that have been accepted (or, negative, answered); they may still be
        on their way here.
        """
        self._in_service += count
        self._company = max(self._company, self._in_service)

    def small(self, function: Batched, payload: Any, future: asyncio.Future[Any]) -> None:
        """Put in a piece that is computed together with others of the same `function`; any thread
        may call this.
        """
        self._put(self._small, Work(function, payload, future))

    def long(self, function: Callable[[Between], Any], future: asyncio.Future[Any]) -> None:
        """Put in a job that calls the function that it is given between its steps."""
        self._put(self._long, Work(function, None, future))

    def _put(self, queue: deque[Work], work: Work) -> None:
        with self._changed:
            queue.append(work)
            # not for each of a batch that is being gathered
            if len(queue) == 1 or len(queue) >= self._wanted:
                self._changed.notify()

    # ---- in the thread -------------------------------------------------------------------------

    def _run(self) -> None:
        if torch := sys.modules.get("torch"):  # exported files do without it
            torch.set_num_threads(self.threads)  # kept for each thread that calls
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._small or self._long or self._stopping)
                if not (self._small or self._long):
                    return
            if self._small:
                self._batch(self._gather())
            if self._long:
                self._run_long(self._long.popleft())

    def _gather(self) -> list[Work]:
        """Return the next batch: the oldest piece, with those of the same kind that come within the
        budget.
        """
        with self._changed:
            deadline = self._small[0].arrived + self.latency
            self._company = max(1.0, self._in_service, 0.8 * self._company)
            self._wanted = min(self._most(self._small[0].function), round(self._company))
            while len(self._small) < self._wanted and not self._stopping:
                left = deadline - time.perf_counter()
                if left <= 0 or not self._changed.wait(left):
                    break
            return self._take()

    def _most(self, kind: Batched) -> int:
        """Return how many pieces of a kind are computed at once, at most."""
        seconds = self._seconds.get(kind, 0.0)
        if seconds * self.max_batch <= self.batch_seconds:
            return self.max_batch
        return max(1, int(self.batch_seconds / seconds))

    def _take(self) -> list[Work]:
        """Take the oldest piece and others of its kind out of the queue; the lock is held."""
        kind = self._small[0].function
        most = self._most(kind)
        chosen: list[Work] = []
        for _ in range(len(self._small)):
            work = self._small.popleft()
            if work.function == kind and len(chosen) < most:
                chosen.append(work)
            else:
                self._small.append(work)  # once around, so that the order stays
        return [work for work in chosen if not work.future.done()]

    def _batch(self, works: list[Work]) -> None:
        if not works:
            return
        start = time.perf_counter()
        try:
            answers = list(works[0].function([work.payload for work in works]))
            if len(answers) != len(works):
                raise RuntimeError(f"{len(answers)} answers to {len(works)} photos")
        except Exception as error:
            # one photo that breaks the network, or too little memory for all at once
            if len(works) > 1:
                log.warning(
                    "a batch of %d failed (%s); its photos are computed one by one",
                    len(works),
                    error,
                )
                for work in works:
                    self._batch([work])
                return
            answers = [error]

        seconds = time.perf_counter() - start
        self._seconds[works[0].function] = seconds / len(works)
        if self.on_batch:
            self.on_batch(len(works), seconds)
        _deliver([work.future for work in works], answers)

    def _run_long(self, work: Work) -> None:
        def between() -> None:
            if work.future.done():
                raise Abandoned
            if self._small:
                with self._changed:
                    works = self._take()
                self._batch(works)

        try:
            between()
            answer = work.function(between)
        except Abandoned:
            return
        except Exception as error:
            answer = error
        _deliver([work.future], [answer])


def _deliver(futures: Sequence[asyncio.Future[Any]], answers: Sequence[Any]) -> None:
    """Hand answers to the event loop: one wake-up for all of them."""
    try:
        futures[0].get_loop().call_soon_threadsafe(settle, futures, answers)
    except RuntimeError:  # the loop is closed: nobody waits
        log.debug("%d answers came after the end", len(futures))


def settle(futures: Sequence[asyncio.Future[Any]], answers: Sequence[Any]) -> None:
    """Give each future its answer, an exception being one; in the event loop."""
    for future, answer in zip(futures, answers, strict=True):
        if future.done():  # given up meanwhile
            continue
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
