"""Throughput and latency of `tintype serve` under many clients, against handling one request at a time.

    python benchmarks/serve.py [--run runs/digits] [--clients 32] [--seconds 8] [--rounds 3]
    python benchmarks/serve.py --run digits.onnx --clients 1 8 32 64 --services batched

Three services are loaded in turn, round after round, so that whatever else the machine does meets
all of them: `plain`, a FastAPI handler that decodes and computes each request by itself; `single`,
tintype with batches of one; `batched`, tintype as it is by default. Servers and load generator are
processes of their own. Every answer is compared with that of `Run.predict`: the same class,
probabilities within 1e-5. The first answer is timed from the start of the process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request

NUM_PHOTOS = 64  # different ones
TOLERANCE = 1e-5
SERVICES = ("plain", "single", "batched")


@dataclass(frozen=True)
class Load:
    """What the clients saw: answers, wrong ones, other statuses, and the seconds that each answer
    took.
    """

    answers: int
    wrong: int
    others: dict[int, int]
    seconds: float
    latencies: list[float]

    @property
    def per_second(self) -> float:
        return self.answers / self.seconds


class Client(asyncio.Protocol):
    """One connection that asks, checks the answer, and asks again; little else, so that the load
    costs little.
    """

    def __init__(
        self, photos: list[tuple[bytes, dict[str, float]]], first: int, tally: Tally
    ) -> None:
        self.photos, self.number, self.tally, self.received = photos, first, tally, b""
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        self.received, self.asked = b"", time.perf_counter()
        self.transport.write(self.photos[self.number % len(self.photos)][0])

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, found, body = self.received.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(body) < length:
            return
        now = time.perf_counter()
        expected = self.photos[self.number % len(self.photos)][1]
        self.tally.add(int(head[9:12]), body, expected, now - self.asked)
        self.number += 1
        if now < self.tally.end:
            self.ask()
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.tally.closed()


class Tally:
    """What all clients have seen."""

    def __init__(self, clients: int, end: float, done: asyncio.Future[None]) -> None:
        self.left, self.end, self.done = clients, end, done
        self.wrong, self.others, self.latencies = 0, {}, []

    def add(self, status: int, body: bytes, expected: dict[str, float], seconds: float) -> None:
        if status != 200:
            self.others[status] = self.others.get(status, 0) + 1
            return
        self.latencies.append(seconds)
        top = json.loads(body)["predictions"][0]["top"]
        right = top[0]["class"] == max(expected, key=expected.__getitem__)
        near = all(abs(each["probability"] - expected[each["class"]]) < TOLERANCE for each in top)
        self.wrong += not (right and near)

    def closed(self) -> None:
        self.left -= 1
        if not self.left and not self.done.done():
            self.done.set_result(None)


def load(
    port: int, photos: list[tuple[bytes, dict[str, float]]], clients: int, seconds: float
) -> Load:
    """Ask from `clients` connections for some seconds; in a process of its own."""

    async def run() -> Load:
        loop = asyncio.get_running_loop()
        start = time.perf_counter()
        tally = Tally(clients, start + seconds, loop.create_future())
        for i in range(clients):
            await loop.create_connection(
                lambda i=i: Client(photos, 7 * i, tally), "127.0.0.1", port
            )
        await tally.done
        took = time.perf_counter() - start
        return Load(len(tally.latencies), tally.wrong, tally.others, took, tally.latencies)

    return asyncio.run(run())


def request_of(photo: bytes) -> bytes:
    """Return a whole HTTP request."""
    lines = [
        "POST /v1/predict?top=3 HTTP/1.1",
        "host: 127.0.0.1",
        "content-type: image/png",
        f"content-length: {len(photo)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + photo


def photos_of(run: Path) -> list[tuple[bytes, dict[str, float]]]:
    """Return requests with photos of the model's size, and what `Run.predict` says of each."""
    import numpy as np
    from PIL import Image

    from tintype.verbs.predict.opening import open_model

    predictor = open_model(run, "auto" if run.suffix == ".onnx" else "cpu")
    found = []
    for i in range(NUM_PHOTOS):
        small = np.random.default_rng(i).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        picture = Image.fromarray(small).resize(
            (predictor.width, predictor.height), Image.Resampling.BICUBIC
        )
        buffer = BytesIO()
        picture.convert("L" if predictor.channels == 1 else "RGB").save(buffer, "PNG")
        found.append(buffer.getvalue())
    answers = predictor.predict(found)
    return [
        (request_of(photo), dict(zip(answer.class_names, map(float, answer.probs), strict=True)))
        for photo, answer in zip(found, answers, strict=True)
    ]


# ---- the services -----------------------------------------------------------------------------------------------------


def serve_plainly(run: Path, port: int) -> None:
    """Serve as one does without tintype: each request is decoded and computed when it comes, and
    then answered.
    """
    import torch
    import uvicorn

    from tintype.tasks.classify.serve import PhotoClassifier, PredictParameters
    from tintype.verbs.serve.loading import load
    from tintype.verbs.serve.server import choose_threads

    torch.set_num_threads(choose_threads([run]))
    model, app = load("plain", run), FastAPI()
    assert isinstance(model, PhotoClassifier)

    @app.post("/v1/predict")
    async def predict(request: Request, top: int = 5) -> dict[str, Any]:
        (seen,) = model.answer([(model.picture(await request.body(), 10**8), PredictParameters())])
        classes = [
            {"class": name, "probability": share} for name, share in seen.prediction.top(top)
        ]
        return {"predictions": [{"top": classes}]}

    @app.get("/readyz")
    async def readyz() -> str:
        return "ready"

    uvicorn.run(app, port=port, http="httptools", log_level="warning", access_log=False)


class Running:
    """A service in a process of its own, for the time of a `with`."""

    def __init__(self, kind: str, run: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        options = ["--max-batch", "1", "--latency-ms", "0"] if kind == "single" else []
        command = [
            sys.executable,
            "-m",
            "tintype",
            "serve",
            str(run),
            "--port",
            str(self.port),
            *options,
        ]
        if kind == "plain":
            command = [sys.executable, __file__, "--plain", str(self.port), "--run", str(run)]
        self.started = time.perf_counter()
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def __enter__(self) -> Running:
        for _ in range(6000):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz").read()
                return self
            except OSError:
                if self.process.poll() is not None:
                    break
                time.sleep(0.01)
        raise SystemExit("the service did not start")

    def first_answer(self, photos: list[tuple[bytes, dict[str, float]]]) -> float:
        """Return the seconds from the start of the process to its first answer."""
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(photos[0][0])
            while b"predictions" not in connection.recv(65_536):
                pass
        return time.perf_counter() - self.started

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--run", type=Path, help="run folder of a classifier; by default digits are trained"
    )
    parser.add_argument("--clients", type=int, nargs="+", default=[32])
    parser.add_argument("--services", nargs="+", choices=SERVICES, default=SERVICES)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plain", type=int, metavar="PORT", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.plain:
        serve_plainly(args.run, args.plain)
        return
    with tempfile.TemporaryDirectory() as folder:
        run = args.run or Path(folder) / "digits"
        if args.run is None:
            train = [sys.executable, "-m", "tintype", "train", "digits", "--out", folder]
            subprocess.run(train, check=True, stdout=subprocess.DEVNULL)
        measure(run, args.clients, args.services, args.seconds, args.rounds)


def measure(
    run: Path, clients: list[int], services: list[str], seconds: float, rounds: int
) -> None:
    """Load each service in turn, and print what came of it."""
    photos = photos_of(run)
    found: dict[int, dict[str, list[Load]]] = {
        count: {kind: [] for kind in services} for count in clients
    }
    first: dict[str, list[float]] = {kind: [] for kind in services}
    with ProcessPoolExecutor(1) as generator:
        for _ in range(rounds):
            for kind in services:
                with Running(kind, run) as service:
                    first[kind].append(service.first_answer(photos))
                    for count in clients:
                        generator.submit(load, service.port, photos, count, 1.0).result()  # warm
                        found[count][kind].append(
                            generator.submit(load, service.port, photos, count, seconds).result()
                        )
    print(f"{run.name}, {rounds} x {seconds:g} s, {os.cpu_count()} cores")
    for kind, taken in first.items():
        print(f"{kind:>8}: first answer after {statistics.median(taken):.2f} s")
    for count, results in found.items():
        print(f"{count} clients")
        tell(results)


def tell(results: dict[str, list[Load]]) -> None:
    """Print what the services answered to one number of clients."""
    for kind, loads in results.items():
        latencies = sorted(1000 * each for one in loads for each in one.latencies)
        median, p99 = statistics.median(latencies), latencies[int(0.99 * len(latencies))]
        rates = sorted(one.per_second for one in loads)
        answers, wrong = sum(one.answers for one in loads), sum(one.wrong for one in loads)
        lost = sum(sum(one.others.values()) for one in loads)
        speed = f"{statistics.median(rates):7.0f} per second ({rates[0]:.0f} to {rates[-1]:.0f})"
        print(
            f"{kind:>8}: {speed}, median {median:.1f} ms, p99 {p99:.1f} ms, {answers:,} answers, {wrong} wrong, {lost} lost"
        )
    others = [kind for kind in results if kind != "batched"] if "batched" in results else []
    for kind in others:
        ratios = sorted(
            b.per_second / a.per_second
            for a, b in zip(results[kind], results["batched"], strict=True)
        )
        print(
            f"batched / {kind}: {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


if __name__ == "__main__":
    main()
