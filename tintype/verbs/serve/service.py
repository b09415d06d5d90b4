"""The models of a service with their limits and threads: who may come in, who waits for what."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

import psutil
from starlette.requests import Request

from tintype.errors import unknown_name
from tintype.hardware.freed import release_memory
from tintype.tasks.contract.problems import Problem
from tintype.tasks.contract.serve import Between, Served, ServedPhotos
from tintype.verbs.serve.batching import Compute, settle
from tintype.verbs.serve.measures import Measures

LONG_WAITING = 8  # jobs that take long and wait or are computed
TEND_SECONDS = 5.0  # how often it is looked whether memory can be given back
KEPT_BYTES = 100_000_000  # beyond what the service had at first
CHECK_SECONDS = 0.5  # how often it is looked whether the client of a long job is still there

T = TypeVar("T", bound=Served)


@dataclass(frozen=True)
class Settings:
    """How the service behaves.

    Args:
        latency_ms: how long a photo may wait for others that are computed with it.
        max_batch: photos that are computed at once, at most.
        queue: photos that are accepted and not yet answered, at most.
        max_upload_mb: megabytes of one request.
        max_pixels: of one photo, and of one that is made larger.
        timeout: seconds that a request may take.
        token: what clients must show, or None.
        hosts: names under which the service may be asked, or None for any.
        threads: of torch, in the one thread that computes.
        decoders: threads that decode.
    """

    latency_ms: float = 10.0
    max_batch: int = 64
    queue: int = 256
    max_upload_mb: float = 20.0
    max_pixels: int = 50_000_000
    timeout: float = 60.0
    token: str | None = None
    hosts: frozenset[str] | None = None
    threads: int = 1
    decoders: int = 2


class Threads:
    """Threads that run functions in the order in which they come; at a tenth of the cost of a
    ThreadPoolExecutor.
    """

    def __init__(self, count: int) -> None:
        self._queue: SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"decode-{i}", daemon=True)
            for i in range(count)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let the threads end after what they were given; one that hangs in a hostile file is left
        behind.
        """
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join(timeout=2)

    def submit(self, function: Callable[..., None], *arguments: Any) -> None:
        """Have a function called that deals with its own exceptions."""
        self._queue.put((function, arguments))

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            function, arguments = work
            function(*arguments)


class Service:
    """The models with the threads that decode and compute."""

    def __init__(self, models: Sequence[Served], settings: Settings) -> None:
        self.models = {model.name: model for model in models}
        self.settings = settings
        self.measures = Measures(lambda: self.waiting)
        self.compute = Compute(
            latency=settings.latency_ms / 1000,
            max_batch=settings.max_batch,
            threads=settings.threads,
            on_batch=self.measures.batch,
        )
        self.decoders = Threads(settings.decoders)

        self.waiting = 0
        self.long_waiting = 0
        self.draining = False
        self._loop: asyncio.AbstractEventLoop
        self._tending: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the thread that computes; in the event loop."""
        self._loop = asyncio.get_running_loop()
        self._tending = self._loop.create_task(self._give_memory_back())
        self.compute.start()
        self.decoders.start()

    async def _give_memory_back(self) -> None:
        """Return the memory of large pictures to the system, whenever nothing is being answered.

        Freed memory stays in the process, because that is faster; a few pictures of 50 megapixels
        would keep a gigabyte.
        """
        process = psutil.Process()
        usual = process.memory_info().rss
        while True:
            await asyncio.sleep(TEND_SECONDS)
            idle = not self.waiting and not self.long_waiting
            if idle and process.memory_info().rss > usual + KEPT_BYTES:
                await self.in_pool(release_memory)
                usual = process.memory_info().rss

    def stop(self) -> None:
        """Let the threads end."""
        if self._tending is not None:
            self._tending.cancel()
        self.compute.stop()
        self.decoders.stop()

    def pick(self, kind: type[T], name: str | None) -> T:
        """Return the model of that name, or the only one of its kind.

        Raises:
            Problem: there is none, it does something else, or there are several and none was named.
        """
        able = {model.name: model for model in self.models.values() if isinstance(model, kind)}
        if name is None:
            if len(able) == 1:
                return next(iter(able.values()))
            if not able:
                raise Problem(
                    "unknown", f"no model here can {kind.kind}. GET /v1/models lists what there is."
                )
            raise Problem(
                "invalid",
                f"several models can {kind.kind}. Say which: model={' or model='.join(able)}.",
            )

        if name in able:
            return able[name]
        if name in self.models:
            raise Problem(
                "invalid",
                f"model {name} is of task {self.models[name].kind}; "
                f"this address needs {kind.kind}.",
            )

        raise Problem("unknown", str(unknown_name("model", name, self.models)))

    @contextmanager
    def admitted(self, count: int) -> Iterator[None]:
        """Hold places for photos whose upload is complete, until they are answered.

        Raises:
            Problem: the queue is full.
        """
        limit = self.settings.queue
        if self.waiting + count > limit:
            raise Problem(
                "busy", f"{self.waiting} images are waiting, {limit} at most.", {"Retry-After": "1"}
            )

        self.waiting += count
        self.compute.expect(count)
        try:
            yield
        finally:
            self.waiting -= count
            self.compute.expect(-count)

    @contextmanager
    def admitted_long(self) -> Iterator[None]:
        """Hold a place for a job that takes long.

        Raises:
            Problem: too many are waiting.
        """
        if self.long_waiting >= LONG_WAITING:
            raise Problem(
                "busy", f"{self.long_waiting} such jobs are waiting already.", {"Retry-After": "5"}
            )
        self.long_waiting += 1
        try:
            yield
        finally:
            self.long_waiting -= 1

    @property
    def most_photos(self) -> int:
        """How many photos one request may hold."""
        return self.settings.queue

    @property
    def max_pixels(self) -> int:
        """How many pixels one photo may have."""
        return self.settings.max_pixels

    def count_images(self, model: str, count: int) -> None:
        """Count images that a model answered, for /metrics."""
        self.measures.images(model, count)

    def batched(self, model: ServedPhotos, content: bytes, parameters: Any) -> asyncio.Future[Any]:
        """Decode a photo in the pool and answer it in a batch.

        A UserError of the future says why it cannot be read.
        """
        future: asyncio.Future[Any] = self._loop.create_future()
        self.decoders.submit(self._decode_and_put, model, content, parameters, future)
        return future

    def _decode_and_put(
        self,
        model: ServedPhotos,
        content: bytes,
        parameters: Any,
        future: asyncio.Future[Any],
    ) -> None:
        if future.done():  # given up while it waited
            return
        try:
            picture = model.picture(content, self.settings.max_pixels)
        except Exception as error:
            self._loop.call_soon_threadsafe(settle, [future], [error])
            return
        self.compute.small(model.answer, (picture, parameters), future)

    async def in_pool(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function in the threads that decode, and return what it returns."""
        future: asyncio.Future[Any] = self._loop.create_future()

        def run() -> None:
            try:
                answer = function(*arguments)
            except Exception as error:
                answer = error
            self._loop.call_soon_threadsafe(settle, [future], [answer])

        self.decoders.submit(run)
        return await future

    async def long(self, request: Request, function: Callable[[Between], Any]) -> Any:
        """Compute a job that takes long; it ends early where the client has gone."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.compute.long(function, future)
        try:
            while not (await asyncio.wait({future}, timeout=CHECK_SECONDS))[0]:
                if await request.is_disconnected():
                    raise Problem("malformed", "the client has gone.")
        finally:
            future.cancel()  # without effect where it is done
        return future.result()
