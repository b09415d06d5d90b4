"""Run the service: bind the address, load the models, answer until a signal comes."""

from __future__ import annotations

import errno
import gc
import logging
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from tintype.errors import UserError
from tintype.files import system
from tintype.hardware.cores import num_cores
from tintype.interface.calls import public

if TYPE_CHECKING:
    import uvicorn

    from tintype.tasks.contract.serve import Served
    from tintype.verbs.serve.gate import Gate

# after which threads take turns; Python's 0.005 lets the network wait for HTTP at each layer
SWITCH_SECONDS = 0.001
LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
CONNECTIONS = 1000  # at once, at most


@public(hint="Runs are given as one list: tt.serve([a, b]).")
def serve(
    runs: Sequence[str | Path],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    latency_ms: float = 10.0,
    max_batch: int = 64,
    queue: int = 256,
    max_upload_mb: float = 20.0,
    max_megapixels: float = 50.0,
    timeout: float = 60.0,
    token: str | None = None,
    allow_hosts: Sequence[str] = (),
    threads: int | None = None,
    device: str = "auto",
    say: Callable[[str], None] = print,
) -> None:
    """Serve runs over HTTP, with a page for people, until a signal ends the service.

    What was accepted by then is answered.

    Args:
        runs: run folders, or classifiers that were exported (.onnx).
        host: address to listen on; by default only this computer can connect.
        port: 0 takes any that is free.
        latency_ms: milliseconds that a photo may wait for others that are computed with it.
        max_batch: photos that are computed at once, at most.
        queue: photos that are accepted and not yet answered, at most; others are refused for now.
        max_upload_mb: megabytes of one request.
        max_megapixels: of one photo, and of one that is made larger.
        timeout: seconds that a request may take.
        token: what clients must show; 16 characters or more.
        allow_hosts: further names under which the service may be asked.
        threads: of torch; by default one less than it would take, which leaves a core for HTTP and
            decoding.
        device: where to compute.
        say: called with lines on what is served, and where.

    Raises:
        UserError: a run cannot be served, the address is taken, a value cannot be, or the extra is
            not installed.
    """
    _check_bounds({
        "port": (port, 0, 65_535),
        "latency_ms": (latency_ms, 0, 10_000),
        "max_batch": (max_batch, 1, 4096),
        "queue": (queue, 1, 100_000),
        "max_upload_mb": (max_upload_mb, 0.01, 2000),
        "max_megapixels": (max_megapixels, 0.01, 200),
        "timeout": (timeout, 0.1, 86_400),
        "threads": (threads or 1, 1, 1024),
    })  # fmt: skip
    _check_token(token)
    if not runs:
        raise UserError("nothing to serve. Type: tintype serve RUN")

    _need_extra()
    from tintype.verbs.serve.app import make_app
    from tintype.verbs.serve.service import Settings

    with _bound(host, port) as listening:  # before the models are loaded, which takes longer
        threads = threads or choose_threads(runs)
        settings = Settings(
            latency_ms=latency_ms,
            max_batch=max_batch,
            queue=queue,
            max_upload_mb=max_upload_mb,
            max_pixels=int(max_megapixels * 1e6),
            timeout=timeout,
            token=token,
            hosts=_hosts(listening, allow_hosts),
            threads=threads,
            decoders=max(2, os.cpu_count() or 1),
        )

        models = _load(runs, device, threads, say)
        if settings.hosts is None and token is None:
            say(
                f"warning: {host} can be reached from outside, and no --token is asked for: "
                "everyone there may use it"
            )

        address = _address(listening)
        line = (
            f"serving at {address} (API: {address}/docs); batches of up to {max_batch} photos "
            f"within {latency_ms:g} ms, {threads} thread{'s' if threads > 1 else ''} "
            f"compute{'' if threads > 1 else 's'}. Ctrl-C stops."
        )
        _run(make_app(models, settings), listening, lambda: say(line))
    say("stopped; everything that was accepted has been answered")


def _check_bounds(values: Mapping[str, tuple[float, float, float]]) -> None:
    for name, (value, low, high) in values.items():
        if not low <= value <= high:
            raise UserError(
                f"--{name.replace('_', '-')} is {value:g}. Expected {low:g} to {high:g}."
            )


def _check_token(token: str | None) -> None:
    if token is None:
        return
    if len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(
            "the token must be 16 ASCII characters or more, without spaces. "
            "Make one: python3 -c 'import secrets; print(secrets.token_urlsafe())'"
        )


def _need_extra() -> None:
    try:
        import fastapi  # noqa: F401
        import httptools  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"{error.name} is not installed, which serving needs. Type: "
            "pip install 'tintype[serve]'"
        ) from None


def choose_threads(runs: Sequence[str | Path]) -> int:
    """Return how many threads compute: one less than torch would take, for HTTP and decoding need a
    core. Where all runs are ONNX files, which need no torch, one less than there are cores.
    """
    if all(Path(run).suffix.lower() == ".onnx" for run in runs):
        return max(1, num_cores() - 1)
    import torch

    return max(1, torch.get_num_threads() - 1)


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket that listens at the address.

    Raises:
        UserError: there is no such address here, or it is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
    except (OSError, UnicodeError):
        raise UserError(
            f"--host {host} is no address. Expected such as 127.0.0.1, or 0.0.0.0 for all."
        ) from None

    listening = socket.socket(family, kind, protocol)
    try:
        if not system.WINDOWS:  # elsewhere it would let two services have one port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(1024)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"port {port} of {host} is taken. Choose another: --port {port + 1}, or 0 for any."
            ) from None
        if error.errno == errno.EACCES:
            raise UserError(
                f"port {port} may not be taken by this user. Choose one above 1023: --port 8000"
            ) from None
        raise UserError(
            f"cannot listen at {host}, port {port}: {error.strerror}. Try --host 127.0.0.1"
        ) from None

    return listening


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _hosts(listening: socket.socket, allowed: Sequence[str]) -> frozenset[str] | None:
    """Return the names under which the service may be asked, None for any.

    Where only this computer can connect, other names come from pages that had their own name point
    here.
    """
    host = listening.getsockname()[0]
    if host.startswith("127.") or host == "::1":
        return LOOPBACK | {host} | {name.lower() for name in allowed}
    return frozenset(name.lower() for name in allowed) | LOOPBACK if allowed else None


def _load(
    runs: Sequence[str | Path], device: str, threads: int, say: Callable[[str], None]
) -> list[Served]:
    """Load each model under a name of its own.

    Raises:
        UserError: one of them cannot be served.
    """
    from tintype.verbs.serve.loading import load

    models = []
    for path in map(Path, runs):
        model = load(_free_name(path, {model.name for model in models}), path, device, threads)
        model.warm_up()
        models.append(model)
        say(f"{model.name}: {model.sentence()}")
    return models


def _free_name(path: Path, taken: set[str]) -> str:
    name = path.resolve().name.removesuffix(".onnx").removesuffix(".zip")
    return next(
        n for n in (name, *(f"{name}-{i}" for i in range(2, len(taken) + 3))) if n not in taken
    )


def configured(app: Gate) -> uvicorn.Config:
    """Return how uvicorn runs the application."""
    import uvicorn

    from tintype.verbs.serve.wire import Wire

    return uvicorn.Config(
        app,
        http=Wire,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="on",
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=int(app.seconds) + 5,
    )


def _run(app: Gate, listening: socket.socket, on_start: Callable[[], None]) -> None:
    """Run the application until a signal comes and all is answered.

    Raises:
        UserError: a second signal came, which ends it at once.
    """
    import uvicorn

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            on_start()

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            """Finish what was accepted; at the second signal, end.

            uvicorn would raise the signal again at the end.
            """
            del sig, frame
            self.force_exit = self.should_exit
            self.should_exit = app.service.draining = True

    server = Server(configured(app))
    usual = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.collect()
    # what was loaded stays: looking through it again and again would stop all for half a second
    gc.freeze()
    try:
        server.run(sockets=[listening])
    finally:
        gc.unfreeze()
        sys.setswitchinterval(usual)
    if server.force_exit:
        raise UserError("stopped at once; not everything that was accepted has been answered.")
