"""The service: answers equal to those of Python, limits, errors, batches, and an orderly end; over
real sockets.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import pytest
import schemathesis
import torch
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from schemathesis.checks import CHECKS
from sklearn.datasets import load_digits

import tintype
from tintype import api, cli
from tintype.errors import UserError
from tintype.runs.folder import RunFolder
from tintype.tasks.classify.analysis.heatmaps import grad_cam, overlaid
from tintype.tasks.classify.answering import Classifier
from tintype.tasks.classify.serve import PhotoClassifier
from tintype.tasks.contract.problems import KINDS
from tintype.verbs.serve import server, wire
from tintype.verbs.serve.app import make_app
from tintype.verbs.serve.batching import Abandoned, Compute
from tintype.verbs.serve.gate import Gate
from tintype.verbs.serve.loading import load
from tintype.verbs.serve.service import LONG_WAITING, Settings

TOKEN = "a token of some length"[2:].replace(" ", "-")


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    base: str,
    path: str,
    body: Any = None,
    *,
    method: str | None = None,
    timeout: float = 30,
    **headers: str,
) -> Answer:
    """Ask over a connection of its own; header names are given with underscores."""
    connection = http.client.HTTPConnection(urlsplit(base).netloc, timeout=timeout)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method or ("GET" if body is None else "POST"), path, body, named)
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


def ask_json(base: str, path: str, content: Any) -> Answer:
    return ask(base, path, json.dumps(content).encode(), content_type="application/json")


def form(*files: tuple[str, bytes]) -> tuple[bytes, str]:
    """Return a multipart body with its content type."""
    parts = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\n\r\n%s\r\n'
        % (name.encode(), content)
        for name, content in files
    )
    return parts + b"--x--\r\n", "multipart/form-data; boundary=x"


@contextmanager
def running(app: Gate) -> Iterator[str]:
    """Run the service in a thread; yield its address."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        running_server = uvicorn.Server(server.configured(app))
        thread = threading.Thread(target=running_server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not running_server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            running_server.should_exit = True
            thread.join()


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image)


@pytest.fixture(scope="module")
def digits() -> list[bytes]:
    """PNG files of sixty digits."""
    images = np.rint(load_digits().images[:60] * (255 / 16)).astype(np.uint8)
    return [encoded(image) for image in images]


@pytest.fixture(scope="module")
def models(kinds: dict[str, api.Run]) -> list[Any]:
    return [load(name, run.path, "cpu") for name, run in kinds.items()]


@pytest.fixture(scope="module")
def base(models: list[Any]) -> Iterator[str]:
    """The address of a service with all the runs."""
    with running(make_app(models, Settings(max_upload_mb=2, max_pixels=2_000_000))) as address:
        yield address


@pytest.fixture(scope="module")
def alone(models: list[Any]) -> Iterator[str]:
    """The address of a service of the digits alone, where no model needs to be named."""
    with running(make_app(models[:1])) as address:
        yield address


# ---- answers ----------------------------------------------------------------------------------------------------------


def top(answer: Answer) -> list[tuple[str, float]]:
    return [(each["class"], each["probability"]) for each in answer.json["predictions"][0]["top"]]


def test_an_answer_is_exactly_that_of_python(alone, finished_run, digits):
    for photo in digits[:8]:
        expected = finished_run.predict(photo).top(5)
        assert top(ask(alone, "/v1/predict", photo, content_type="image/png")) == expected
        body, kind = form(("a.png", photo))
        assert top(ask(alone, "/v1/predict", body, content_type=kind)) == expected
    answer = ask(alone, "/v1/predict?top=10", digits[0], content_type="application/octet-stream")
    assert dict(top(answer)) == dict(
        zip("0123456789", map(float, finished_run.predict(digits[0]).probs), strict=True)
    )
    assert answer.json["model"] == "digits"


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("JPEG", "RGB"), ("WEBP", "RGB"), ("GIF", "P"), ("TIFF", "CMYK"), ("BMP", "L")],
)
def test_every_format_is_read_as_python_reads_it(alone, finished_run, kind, mode):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)).convert(
        mode
    ).save(buffer, kind)
    answer = ask(alone, "/v1/predict", buffer.getvalue(), content_type="image/whatever")
    assert top(answer) == finished_run.predict(buffer.getvalue()).top(5)


def test_a_photo_that_is_unlike_the_training_images_is_said_to_be_so(alone, finished_run, digits):
    colour = encoded(np.random.default_rng(0).integers(0, 256, (40, 30, 3)).astype(np.uint8))
    inverted = encoded(255 - decoded(digits[0]))
    body, kind = form(("digit.png", digits[0]), ("inverted.png", inverted), ("colour.png", colour))
    items = ask(alone, "/v1/predict?top=1", body, content_type=kind).json["predictions"]
    assert "unlike" not in items[0]
    assert [item["unlike"] for item in items[1:]] == [
        finished_run.predict(photo).unlike for photo in (inverted, colour)
    ]
    assert items[1]["unlike"].startswith("it is dark on light")
    assert items[2]["unlike"].startswith("it has colour")


def test_many_files_are_answered_in_order_and_broken_ones_named(alone, finished_run, digits):
    files = [(f"{i}.png", photo) for i, photo in enumerate(digits[:30])]
    files[7] = ("notes.txt", b"this is no picture")
    body, kind = form(*files)
    items = ask(alone, "/v1/predict?top=1", body, content_type=kind).json["predictions"]
    assert [item["file"] for item in items] == [name for name, _ in files]
    assert items[7]["problem"]["status"] == 422
    assert "not an image" in items[7]["problem"]["detail"]
    expected = [finished_run.predict(photo).top1 for _, photo in files[:7] + files[8:]]
    assert [item["top"][0]["class"] for item in items[:7] + items[8:]] == expected


def test_many_clients_at_once_each_get_their_own_answer(models, finished_run, digits):
    expected = [dict(finished_run.predict(photo).top(10)) for photo in digits]
    app = make_app(models[:1])
    with running(app) as address, ThreadPoolExecutor(16) as clients:
        order = [i % len(digits) for i in range(240)]
        answers = clients.map(
            lambda i: ask(address, "/v1/predict?top=10", digits[i], content_type="image/png"), order
        )
        for i, answer in zip(order, answers, strict=True):
            got = dict(top(answer))
            assert max(got, key=got.__getitem__) == max(expected[i], key=expected[i].__getitem__)
            # the last bits depend on the size of a batch
            assert got == pytest.approx(expected[i], abs=1e-5)
        figures = ask(address, "/metrics").body.decode()
    sizes = {
        s.name: s.value
        for f in text_string_to_metric_families(figures)
        for s in f.samples
        if "batch_size" in s.name
    }
    assert sizes["tintype_batch_size_sum"] == 240
    assert sizes["tintype_batch_size_count"] < 200, "photos were computed together"
    assert app.service.waiting == 0


def test_a_heat_map_is_that_of_the_analysis(base, models, digits):
    answer = ask(base, "/v1/predict?model=cnn&heatmap=true", digits[3], content_type="image/png")
    shown = decoded(base64.b64decode(answer.json["predictions"][0]["heatmap"]))
    task = models[1].task
    pixels = models[1].classifier.pixels(digits[3])
    images = task.normalise(torch.from_numpy(pixels[None].copy()).permute(0, 3, 1, 2))
    best = int(
        task.probabilities(
            task.networks[task.main], torch.from_numpy(pixels[None].copy()).permute(0, 3, 1, 2)
        ).argmax()
    )
    found = grad_cam(task.networks[task.main], images, torch.tensor([best]))
    assert found is not None
    assert np.array_equal(shown, overlaid(pixels, found.maps[0]))
    without = ask(
        base, "/v1/predict?model=digits&heatmap=true", digits[3], content_type="image/png"
    )
    assert "heatmap" not in without.json["predictions"][0], (
        "a network without maps has none to show"
    )


def test_generated_images_are_those_of_python(base, kinds):
    expected = kinds["gan"].generate(20, seed=5)[:, :, :, 0]
    answer = ask_json(base, "/v1/generate", {"count": 6, "start": 14, "seed": 5}).json
    assert [made["index"] for made in answer["images"]] == list(range(14, 20))
    assert [made["class"] for made in answer["images"]] == ["4", "5", "6", "7", "8", "9"]
    made = [decoded(base64.b64decode(each["png"])) for each in answer["images"]]
    assert np.array_equal(made, expected[14:])
    sheet = ask_json(base, "/v1/generate", {"count": 2, "seed": 5, "format": "png"})
    assert sheet.headers["content-type"] == "image/png"
    assert np.array_equal(decoded(sheet.body)[:, :8], expected[0])
    sevens = ask_json(
        base, "/v1/generate", {"count": 1, "seed": 1, "class": "7", "truncation": 0.5}
    ).json
    alike = kinds["gan"].generate(1, seed=1, class_name="7", truncation=0.5)[0, :, :, 0]
    assert np.array_equal(decoded(base64.b64decode(sevens["images"][0]["png"])), alike)


def test_an_enlarged_photo_is_that_of_python(base, kinds):
    # two tiles, with alpha
    pixels = np.random.default_rng(0).integers(0, 256, (150, 20, 4), np.uint8)
    answer = ask(base, "/v1/upscale", encoded(pixels), content_type="image/png")
    assert answer.headers["content-type"] == "image/png"
    assert np.array_equal(decoded(answer.body), kinds["sharp"].upscale(pixels))
    deep = np.random.default_rng(0).integers(0, 65536, (9, 7), np.uint16)
    body, kind = form(("deep.png", encoded(deep)))
    answer = ask(base, "/v1/upscale", body, content_type=kind)
    assert np.array_equal(decoded(answer.body), kinds["sharp"].upscale(deep)), (
        "16 bits stay 16 bits"
    )


def test_models_are_listed_with_what_is_known_of_them(base, kinds):
    listed = ask(base, "/v1/models").json
    by_name = {model["name"]: model for model in listed["models"]}
    assert list(by_name) == list(kinds)
    figures = kinds["digits"].metrics["test"]
    assert by_name["digits"]["test"] == {
        key: figures[key] for key in ("accuracy", "accuracy_ci95", "num_images")
    }
    assert by_name["digits"]["report"] == "/reports/digits"
    assert by_name["cnn"]["report"] is None, "this run has none"
    assert by_name["sharp"]["scale"] == 2
    assert listed["limits"]["max_upload_mb"] == 2


@pytest.mark.slow
def test_an_exported_model_answers_as_its_run_does(kinds, digits, tmp_path):
    exported = kinds["cnn"].export(out=tmp_path / "cnn.onnx")
    del exported
    model = load("onnx", tmp_path / "cnn.onnx")
    model.warm_up()
    with running(make_app([model])) as address:
        for photo in digits[:5]:
            answer = ask(address, "/v1/predict?heatmap=1", photo, content_type="image/png")
            assert dict(top(answer)) == pytest.approx(
                dict(kinds["cnn"].predict(photo).top(5)), abs=1e-4
            )


# ---- what is around the answers ---------------------------------------------------------------------------------------


def test_the_report_is_there_and_shut_in_a_sandbox(base, finished_run):
    page = ask(base, "/reports/digits")
    written = (finished_run.path / "report.html").read_bytes()
    hidden = page.body.replace(
        b"<style>footer .files, footer .beside { display: none; }</style>", b""
    )
    assert len(page.body) > len(hidden), "links to files that are not served are hidden"
    assert b'<a href="/">All models</a>' in hidden
    assert re.sub(rb' <span class="way-back".*?</span>', b"", hidden) == written
    policy = page.headers["content-security-policy"]
    assert policy.startswith("sandbox allow-scripts")
    assert "allow-same-origin" not in policy
    assert "connect-src" not in policy
    assert "default-src 'none'" in policy


def test_test_images_of_the_run_can_be_tried_and_are_its_own_files(
    base, finished_run, models, tmp_path, monkeypatch
):
    files = sorted((finished_run.path / "samples").glob("test-*[0-9].png"))
    listed = {model["name"]: model["samples"] for model in ask(base, "/v1/models").json["models"]}
    assert listed["digits"] == min(len(files), 64)
    assert listed["cnn"] == 0, "without a report nothing of the run is shown"
    answer = ask(base, "/samples/digits/0")
    assert answer.headers["content-type"] == "image/png"
    assert answer.body == files[0].read_bytes()
    # A run folder of a stranger: what leads out of it is not sent.
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "run" / "samples").mkdir(parents=True)
    (tmp_path / "run" / "report.html").write_text("a report", encoding="utf-8")
    (tmp_path / "run" / "samples" / "test-000000.png").symlink_to(tmp_path / "secret")
    stranger = PhotoClassifier("stranger", {}, RunFolder(tmp_path / "run"), Slow(), None)
    with running(make_app([stranger])) as address:
        assert ask(address, "/samples/stranger/0").status == 404


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/docs",
        "/v1/models",
        "/nothing",
        "/v1/predict",
        "/healthz",
        "/static/page.js",
        "/metrics",
    ],
)
def test_every_answer_has_safe_headers(base, path):
    for method in ("GET", "HEAD"):
        answer = ask(base, path, method=method)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert "server" not in answer.headers
    assert method != "HEAD" or not answer.body


@pytest.mark.parametrize("path", ["/", "/docs", "/static/page.js", "/static/style.css"])
def test_pages_need_nothing_from_elsewhere(base, path):
    text = (
        ask(base, path)
        .body.decode()
        .replace("http://HOST", "")
        .replace("http://www.w3.org/2000/svg", "")
    )
    assert "http://" not in text
    assert "https://" not in text
    assert "//cdn" not in text


def test_the_documentation_names_every_address_and_error(base):
    page = ask(base, "/docs").body.decode()
    described = ask(base, "/openapi.json").json
    for path in described["paths"]:
        assert f"</b>{path}</h3>" in page
    for kind in KINDS:
        assert f'id="{kind}"' in page


def test_figures_are_counted_for_prometheus(models, digits):
    with running(make_app(models[:1])) as address:
        for _ in range(3):
            ask(address, "/v1/predict", digits[0], content_type="image/png")
        ask(address, "/v1/predict", b"no picture", content_type="image/png")
        ask(address, "/a/secret/path")
        text = ask(address, "/metrics").body.decode()
    values = {
        (s.name, *s.labels.values()): s.value
        for f in text_string_to_metric_families(text)
        for s in f.samples
    }
    assert values["tintype_requests_total", "/v1/predict", "200"] == 3
    assert values["tintype_requests_total", "/v1/predict", "422"] == 1
    assert values["tintype_requests_total", "other", "404"] == 1, (
        "addresses that somebody made up are no labels"
    )
    assert values["tintype_images_total", "digits"] == 3
    assert values["tintype_images_waiting",] == 0


# ---- bad input --------------------------------------------------------------------------------------------------------


def chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def png(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    """Return a PNG whose head says one thing, and whose rows another."""
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


GOOD = encoded(np.zeros((8, 8), np.uint8))
PNG, JSON = {"content_type": "image/png"}, {"content_type": "application/json"}
FORM = {"content_type": "multipart/form-data; boundary=x"}
URLENCODED = {"content_type": "application/x-www-form-urlencoded"}
BAD: list[tuple[str, str, bytes | None, dict[str, str], str, str]] = [
    ("no image", "/v1/predict?model=digits", b"hello", PNG, "unreadable", "not an image"),
    ("zero bytes", "/v1/predict?model=digits", b"", PNG, "unreadable", "empty"),
    ("cut off", "/v1/predict?model=digits", encoded(np.zeros((99, 99, 3), np.uint8))[:60], PNG, "unreadable", "cannot be read"),
    ("bomb", "/v1/predict?model=digits", png(60_000, 60_000, 8, 0, b"\0" * 10**6), PNG, "unreadable", "bomb"),
    ("large", "/v1/predict?model=digits", png(2000, 1001, 1, 0, b"\0" * 251 * 1001), PNG, "unreadable", "2,000,000"),
    ("bomb of 16 bits", "/v1/upscale", png(10, 10, 16, 2, b"\0" * 10**8), PNG, "unreadable", "more than its head says"),
    ("large result", "/v1/upscale", png(1000, 1000, 1, 0, b"\0" * 126 * 1000), PNG, "unreadable", "500,000"),
    ("no image to enlarge", "/v1/upscale", b"hello", PNG, "unreadable", "not an image"),
    ("no content type", "/v1/predict?model=digits", GOOD, {}, "media-type", "no content type"),
    ("form of a browser", "/v1/predict?model=digits", b"a=1", URLENCODED, "media-type", "image/*"),
    ("text", "/v1/upscale", b"hello", {"content_type": "text/plain"}, "media-type", "text/plain"),
    ("broken form", "/v1/predict?model=digits", b"--y\r\nnothing", FORM, "malformed", ""),
    ("no boundary", "/v1/predict?model=digits", b"--y\r\n", {"content_type": "multipart/form-data"}, "malformed", "boundary"),
    ("empty form", "/v1/predict?model=digits", b"--x--\r\n", FORM, "invalid", "no file"),
    ("a field", "/v1/predict?model=digits", b'--x\r\nContent-Disposition: form-data; name="top"\r\n\r\n3\r\n--x--\r\n',
     FORM, "invalid", "?top=VALUE"),
    ("two to enlarge", "/v1/upscale", form(("a", GOOD), ("b", GOOD))[0], FORM, "malformed", "files"),
    ("unknown model", "/v1/predict?model=digist", GOOD, PNG, "unknown", "'digits'"),
    ("another task", "/v1/predict?model=gan", GOOD, PNG, "invalid", "generate"),
    ("several models", "/v1/predict", GOOD, PNG, "invalid", "model=digits or model=cnn"),
    ("unknown parameter", "/v1/predict?model=digits&tpo=3", GOOD, PNG, "invalid", "tpo"),
    ("top of none", "/v1/predict?model=digits&top=0", GOOD, PNG, "invalid", "top"),
    ("top of words", "/v1/upscale?top=1", GOOD, PNG, "invalid", "top"),
    ("no JSON", "/v1/generate", b"{count: 3}", JSON, "malformed", ""),
    ("list", "/v1/generate", b"[1]", JSON, "invalid", ""),
    ("count", "/v1/generate", b'{"count": 65}', JSON, "invalid", "count"),
    ("seed", "/v1/generate", b'{"seed": -1}', JSON, "invalid", "seed"),
    ("truncation", "/v1/generate", b'{"truncation": NaN}', JSON, "invalid", "truncation"),
    ("class", "/v1/generate", b'{"class": "seven"}', JSON, "invalid", "unknown class"),
    ("field", "/v1/generate", b'{"counts": 3}', JSON, "invalid", "counts"),
    ("method", "/v1/predict", None, {}, "method", "GET"),
    ("nothing there", "/v2/predict", GOOD, PNG, "unknown", "/v2/predict"),
    ("no test image", "/samples/digits/1000", None, {}, "unknown", "no test image"),
    ("no number", "/samples/digits/-1", None, {}, "unknown", "no test image"),
    ("no model", "/samples/none/0", None, {}, "unknown", "'none'"),
    ("no report", "/reports/cnn", None, {}, "unknown", "tintype report"),
    ("path out", "/reports/..%2f..%2fetc%2fpasswd", None, {}, "unknown", ""),
    ("path to code", "/static/../app.py", None, {}, "unknown", ""),
    ("folder", "/static/", None, {}, "unknown", ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "body", "headers", "kind", "says"),
    [each[1:] for each in BAD],
    ids=[each[0] for each in BAD],
)
def test_bad_input_is_told_as_problem_details(base, path, body, headers, kind, says):
    answer = ask(base, path, body, **headers)
    problem = answer.json
    assert answer.headers["content-type"] == "application/problem+json"
    assert (problem["type"], problem["status"]) == (f"/docs#{kind}", KINDS[kind].status)
    assert answer.status == problem["status"]
    assert says in problem["detail"]
    assert "tmp" not in problem["detail"], "no paths of the server"
    assert ask(base, "/readyz").status == 200


def test_a_huge_upload_is_refused_before_it_is_read(base):
    with socket.create_connection(urlsplit(base).netloc.split(":"), timeout=10) as line:
        line.sendall(
            b"POST /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\ncontent-length: 200000000\r\n\r\n"
        )
        said = line.recv(65536)
    assert said.startswith(b"HTTP/1.1 413 ")
    assert b"200 MB" in said


def test_a_client_that_sends_all_of_it_first_still_sees_why(base):
    assert ask(base, "/v1/predict", b"x" * 9_000_000, content_type="image/png").status == 413


def test_a_body_of_unknown_length_is_counted(base):
    pieces = (b"x" * 100_000 for _ in range(50))
    assert ask(base, "/v1/predict?model=digits", pieces, content_type="image/png").status == 413


@contextmanager
def promised(base: str, length: int, sent: bytes = b"") -> Iterator[socket.socket]:
    """Yield a connection that announced an upload of `length` bytes and sent the first of them."""
    host, port = urlsplit(base).netloc.split(":")
    with socket.create_connection((host, int(port))) as line:
        head = f"POST /v1/predict?model=digits HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n"
        line.sendall(head.encode() + b"content-type: image/png\r\n\r\n" + sent)
        line.settimeout(30)
        yield line


def test_promised_bytes_hold_nothing(models, digits):
    app = make_app(models[:1], Settings(max_upload_mb=1, queue=4))
    with running(app) as address, contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(promised(address, 999_999, b"x" * 100))
        answer = ask(address, "/v1/predict", digits[0], content_type="image/png")
        assert answer.status == 200
        assert app._bytes <= 20 * 100


def test_an_upload_that_stands_still_is_ended_and_frees_what_it_held(models, monkeypatch):
    monkeypatch.setattr("tintype.verbs.serve.gate.STILL_SECONDS", 0.2)
    app = make_app(models[:1], Settings(max_upload_mb=1))
    with running(app) as address, promised(address, 999_999, b"x" * 500) as line:
        said = line.recv(65536)
        assert said.startswith(b"HTTP/1.1 408 ")
        assert b"application/problem+json" in said
        line.close()
        deadline = time.monotonic() + 20
        while app._bytes and time.monotonic() < deadline:
            time.sleep(0.02)
        assert app._bytes == 0


def test_a_client_that_goes_away_while_it_sends_leaves_no_traceback(models, digits, caplog):
    app = make_app(models[:1], Settings())
    with running(app) as address:
        for linger in (0, 1):  # closed in order, and reset
            with promised(address, 50_000, b"x" * 10) as line:
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", linger, 0))
        assert ask(address, "/v1/predict", digits[0], content_type="image/png").status == 200
    assert not [record for record in caplog.records if record.exc_info]


def test_memory_of_large_pictures_is_given_back_once_nothing_is_answered(monkeypatch):
    released = threading.Event()

    def release() -> None: ...

    monkeypatch.setattr("tintype.verbs.serve.service.TEND_SECONDS", 0.05)
    monkeypatch.setattr("tintype.verbs.serve.service.KEPT_BYTES", -(2**50))
    monkeypatch.setattr("tintype.verbs.serve.service.release_memory", release)
    slow = Slow()
    app = make_app([PhotoClassifier("slow", {}, None, slow, None)], Settings())
    in_pool = app.service.in_pool

    async def noticed(function, *arguments):
        # of this service alone: another one may be running in the same process
        if function is release:
            released.set()
        return await in_pool(function, *arguments)

    monkeypatch.setattr(app.service, "in_pool", noticed)
    with running(app) as address, ThreadPoolExecutor(1) as clients:
        assert released.wait(20)
        answer = clients.submit(ask, address, "/v1/predict", GOOD, **PNG)
        while app.service.waiting < 1:
            time.sleep(0.01)
        for _ in range(20):  # what was begun before may end late
            released.clear()
            if not released.wait(0.3):
                break
        else:
            pytest.fail("memory is given back while a photo is answered")
        slow.go.set()
        assert answer.result().status == 200
        assert released.wait(20)


@pytest.mark.parametrize("name", ["\ud800", "a\udcff", "\x00", "é", "a\nb"])
def test_odd_characters_in_a_name_are_answered_as_any_other_error(base, caplog, name):
    answer = ask_json(base, "/v1/generate", {"model": name, "class": name})
    assert answer.status in (404, 422)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json["detail"]
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize(
    "kind",
    ["multipart/form-data; boundary=x; charset=nonsense", "multipart/form-data; boundary=\xe9"],
)
def test_an_odd_charset_is_no_fault_of_the_service(base, caplog, kind):
    body, _ = form(("a.png", b"x"))
    answer = ask(base, "/v1/predict?model=digits", body, content_type=kind)
    assert 400 <= answer.status < 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize(
    "bytes_", [b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"]
)
def test_what_is_no_http_is_answered_as_any_other_error(base, bytes_):
    host, port = urlsplit(base).netloc.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as line:
        line.sendall(bytes_ + b"\r\n" * 4)
        head, _, body = line.makefile("rb").read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"content-type: application/problem+json" in head
    assert json.loads(body)["status"] == 400


def test_too_many_bytes_at_once_are_told_to_come_again(models):
    app = make_app(models[:1], Settings(max_upload_mb=1))
    assert app.take(15_500_000)
    with running(app) as address:
        answer = ask(address, "/v1/predict", b"x" * 900_000, content_type="image/png")
        assert (answer.status, answer.headers["retry-after"]) == (429, "1")
        assert ask(address, "/v1/predict", b"x", content_type="image/png").status == 422


class Slow(Classifier):
    """A classifier that answers when it is let."""

    def __init__(self) -> None:
        how = {"channels": 1, "height": 8, "width": 8, "resize": "crop"}
        super().__init__("ab", how)
        self.go = threading.Event()

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        assert self.go.wait(20)
        return np.full((len(pixels), 2), 0.5, np.float32)


def test_a_full_queue_says_when_to_come_again():
    slow = Slow()
    app = make_app([PhotoClassifier("slow", {}, None, slow, None)], Settings(queue=3))
    with running(app) as address, ThreadPoolExecutor(3) as clients:
        held = [clients.submit(ask, address, "/v1/predict", GOOD, **PNG) for _ in range(3)]
        while app.service.waiting < 3:
            time.sleep(0.01)
        refused = ask(address, "/v1/predict", GOOD, **PNG)
        assert (refused.status, refused.headers["retry-after"]) == (429, "1")
        assert refused.json["type"] == "/docs#busy"
        slow.go.set()
        assert [each.result().status for each in held] == [200] * 3, "what was accepted is answered"
        body, kind = form(*[("a", GOOD)] * 4)
        assert ask(address, "/v1/predict", body, content_type=kind).status == 400, (
            "more files than the queue holds"
        )


def test_an_answer_that_takes_too_long_is_given_up():
    slow = Slow()
    app = make_app([PhotoClassifier("slow", {}, None, slow, None)], Settings(timeout=0.3))
    with running(app) as address:
        answer = ask(address, "/v1/predict", GOOD, **PNG)
        assert answer.status == answer.json["status"] == 504
        slow.go.set()
        while app.service.waiting:
            time.sleep(0.01)
        assert ask(address, "/v1/predict", GOOD, **PNG).status == 200, "and the service goes on"


def test_an_upload_that_never_ends_is_given_up(models):
    head = b"POST /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\ncontent-length: 1000\r\n\r\n"
    with (
        running(make_app(models[:1], Settings(timeout=0.3))) as address,
        socket.create_connection(urlsplit(address).netloc.split(":"), timeout=10) as line,
    ):
        line.sendall(head + b"abc")
        assert line.recv(65536).startswith(b"HTTP/1.1 504 ")


@pytest.mark.parametrize("endless", [b"x: y\r\n", b"y" * 100], ids=["headers", "one header"])
def test_an_endless_head_is_refused(alone, endless):
    with socket.create_connection(urlsplit(alone).netloc.split(":"), timeout=10) as line:
        line.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\nlong: ")
        with contextlib.suppress(ConnectionError):  # closed while we still send
            for _ in range(5_000_000 // len(endless) // 100):
                line.sendall(endless * 100)
            assert b"too long" in line.recv(65536)
        sent = b"GET /healthz HTTP/1.1\r\nhost: x\r\n" + b"x: y\r\n" * 1000 + b"\r\n"
    with socket.create_connection(urlsplit(alone).netloc.split(":"), timeout=10) as line:
        line.sendall(sent)
        assert line.recv(65536).startswith(b"HTTP/1.1 200 "), "a long head is none"


def test_a_head_that_never_ends_is_given_up(models, monkeypatch):
    monkeypatch.setattr(wire, "HEAD_SECONDS", 0.2)
    with (
        running(make_app(models[:1])) as address,
        socket.create_connection(urlsplit(address).netloc.split(":"), timeout=10) as line,
    ):
        line.sendall(b"GET /healthz HTTP/1.1\r\nhost:")
        assert line.recv(65536) == b"", "the connection is closed"


def test_a_fault_of_ours_is_a_500_that_tells_no_secrets(caplog):
    class Broken(Slow):
        def probabilities(self, pixels: np.ndarray) -> np.ndarray:
            raise RuntimeError("the password is swordfish")

    with running(make_app([PhotoClassifier("broken", {}, None, Broken(), None)])) as address:
        answer = ask(address, "/v1/predict", GOOD, **PNG)
        assert answer.status == answer.json["status"] == 500
        assert b"swordfish" not in answer.body
        assert ask(address, "/readyz").status == 200
    assert "swordfish" in caplog.text, "the log tells"


# ---- token and host ---------------------------------------------------------------------------------------------------


def test_without_the_token_nothing_but_the_page_is_given(models):
    with running(make_app(models[:1], Settings(token=TOKEN))) as address:
        for path in ("/v1/models", "/metrics", "/reports/digits", "/samples/digits/0"):
            refused = ask(address, path)
            assert refused.status == 401
            assert refused.headers["www-authenticate"].startswith("Bearer")
            assert ask(address, path, authorization=f"Bearer {TOKEN}x").status == 401
            assert ask(address, path, authorization=f"Basic {TOKEN}").status == 401
            assert ask(address, path, authorization=f"Bearer {TOKEN}").status == 200
        assert ask(address, "/v1/predict", GOOD, **PNG).status == 401
        for path in ("/", "/docs", "/static/page.js", "/healthz", "/readyz"):
            assert ask(address, path).status == 200


def test_the_page_keeps_the_token_where_no_script_reads_it(models):
    with running(make_app(models[:1], Settings(token=TOKEN))) as address:
        assert ask(address, "/v1/session", b"wrong").status == 401
        cookie = ask(address, "/v1/session", TOKEN.encode()).headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "samesite=strict" in cookie.lower()
        shown = cookie.partition(";")[0]
        assert ask(address, "/v1/models", cookie=shown).status == 200
        assert ask(address, "/v1/models", cookie=shown[:-3] + "abc").status == 401
        assert ask(address, "/v1/models", cookie="tintype_token=%%%").status == 401


def test_pages_of_others_cannot_ask_under_their_own_name(models):
    with running(make_app(models[:1], Settings(hosts=server.LOOPBACK))) as address:
        assert ask(address, "/v1/models", host="evil.example").status == 421
        assert ask(address, "/v1/models", host="localhost:8000").status == 200
        assert ask(address, "/v1/models").status == 200


# ---- batches ----------------------------------------------------------------------------------------------------------


@contextmanager
def computing(**options: Any) -> Iterator[Compute]:
    compute = Compute(**options)
    compute.start()
    try:
        yield compute
    finally:
        compute.stop()


def test_a_lone_photo_does_not_wait_for_company():
    """The budget is a minute, so that the test would run into its limit if it were waited for."""

    async def run() -> list[int]:
        with computing(latency=60) as compute:
            for _ in range(3):
                compute.expect(1)
                future = asyncio.get_running_loop().create_future()
                compute.small(lambda photos: [len(photos)] * len(photos), 0, future)
                assert await asyncio.wait_for(future, 20) == 1
                compute.expect(-1)
        return []

    asyncio.run(run())


def test_photos_that_are_on_their_way_are_waited_for():
    async def run() -> list[int]:
        loop = asyncio.get_running_loop()
        with computing(latency=60, max_batch=4) as compute:
            compute.expect(6)
            futures = [loop.create_future() for _ in range(6)]
            for future in futures[:3]:
                compute.small(measure, 0, future)
            await asyncio.sleep(0.1)
            assert not any(future.done() for future in futures), (
                "three of six are there, and four fit"
            )
            for future in futures[3:]:
                compute.small(measure, 0, future)
            return await asyncio.wait_for(asyncio.gather(*futures[:4]), 20)

    def measure(photos: Any) -> list[int]:
        return [len(photos)] * len(photos)

    assert asyncio.run(run()) == [4, 4, 4, 4]


def test_of_a_slow_network_few_photos_are_computed_at_once():
    async def run() -> list[int]:
        loop = asyncio.get_running_loop()
        with computing(latency=0.01, batch_seconds=0.1) as compute:
            sizes = []
            for count in (2, 8):
                compute.expect(count)
                futures = [loop.create_future() for _ in range(count)]
                for future in futures:
                    compute.small(slow, 0, future)
                sizes += await asyncio.wait_for(asyncio.gather(*futures), 20)
                compute.expect(-count)
        return sizes

    def slow(photos: Any) -> list[int]:
        time.sleep(0.03 * len(photos))
        return [len(photos)] * len(photos)

    first, second, *later = asyncio.run(run())
    assert max(first, second) <= 2
    assert max(later) <= 3, "what the first batch took is known"


def test_nothing_is_lost_when_many_threads_put_in_photos():
    """A queue that is replaced while another thread holds it loses what that thread puts in."""

    async def run() -> list[int]:
        loop = asyncio.get_running_loop()
        with computing(latency=0.0005, max_batch=7) as compute:
            futures = [loop.create_future() for _ in range(3000)]

            def put(start: int) -> None:
                for i in range(start, 3000, 3):
                    compute.small(double if i % 2 else negative, i, futures[i])

            with ThreadPoolExecutor(3) as threads:
                list(threads.map(put, range(3)))
            return await asyncio.wait_for(asyncio.gather(*futures), 60)

    def double(numbers: list[int]) -> list[int]:
        return [2 * n for n in numbers]

    def negative(numbers: list[int]) -> list[int]:
        return [-n for n in numbers]

    assert asyncio.run(run()) == [2 * i if i % 2 else -i for i in range(3000)]


def test_a_photo_that_breaks_its_batch_fails_alone():
    def halves(numbers: list[int]) -> list[float]:
        return [1 / n for n in numbers]

    async def run() -> list[Any]:
        loop = asyncio.get_running_loop()
        with computing(latency=60) as compute:
            compute.expect(3)
            futures = [loop.create_future() for _ in range(3)]
            for future, n in zip(futures, (1, 0, 4), strict=True):
                compute.small(halves, n, future)
            return await asyncio.gather(*futures, return_exceptions=True)

    first, second, third = asyncio.run(run())
    assert (first, third) == (1, 0.25)
    assert isinstance(second, ZeroDivisionError)


def test_photos_are_classified_between_the_steps_of_a_long_job():
    events: list[str] = []

    def long(between: Callable[[], None]) -> str:
        events.append("long begins")
        started.set()
        assert put.wait(20)
        between()
        events.append("long ends")
        return "done"

    def small(photos: list[str]) -> list[str]:
        events.extend(photos)
        return photos

    started, put = threading.Event(), threading.Event()

    async def run() -> None:
        loop = asyncio.get_running_loop()
        with computing() as compute:
            futures = [loop.create_future(), loop.create_future()]
            compute.long(long, futures[0])
            await asyncio.to_thread(started.wait)
            compute.small(small, "photo", futures[1])
            put.set()
            await asyncio.gather(*futures)

    asyncio.run(run())
    assert events == ["long begins", "photo", "long ends"]


def test_a_long_job_ends_when_nobody_waits_any_more():
    ended = threading.Event()

    def long(between: Callable[[], None]) -> None:
        try:
            while True:
                between()
                time.sleep(0.001)
        except Abandoned:
            ended.set()
            raise

    async def run() -> None:
        with computing() as compute:
            future = asyncio.get_running_loop().create_future()
            compute.long(long, future)
            await asyncio.sleep(0.05)
            future.cancel()
            assert await asyncio.to_thread(ended.wait, 20)

    asyncio.run(run())


def test_long_jobs_have_a_queue_of_their_own(models, digits):
    app = make_app(models)
    app.service.long_waiting = LONG_WAITING
    with running(app) as address:
        refused = ask_json(address, "/v1/generate", {"count": 1})
        assert (refused.status, refused.headers["retry-after"]) == (429, "5")
        assert ask(address, "/v1/predict?model=digits", digits[0], **PNG).status == 200


# ---- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def refused(capsys) -> Callable[..., str]:
    """Return a function that types `tintype serve` with something wrong, and returns what is said."""

    def run(*arguments: object) -> str:
        with pytest.raises(SystemExit) as end:
            cli.main(["serve", *map(str, arguments)])
        assert end.value.code == 2
        return capsys.readouterr().err

    return run


def test_what_cannot_be_served_is_told_in_a_line(refused, copied_run, tmp_path):
    assert "no run folder" in refused(tmp_path / "nothing")
    assert "not a run folder" in refused(tmp_path)
    (copied_run.path / "model.safetensors").write_bytes(b"broken")
    assert "cannot load" in refused(copied_run.path)
    (copied_run.path / "model.safetensors").unlink()
    assert "cannot load" in refused(copied_run.path)
    (copied_run.path / "model.json").unlink()
    copied_run.set_status("stopped")
    assert "the run is stopped" in refused(copied_run.path)
    (tmp_path / "x.onnx").write_bytes(b"no model")
    assert "ONNX" in refused(tmp_path / "x.onnx")


def test_addresses_and_values_that_cannot_be_are_told(refused, finished_run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} of 127.0.0.1 is taken" in refused(finished_run.path, "--port", port)
    assert "no address" in refused(finished_run.path, "--host", "nowhere.invalid")
    assert "--port is 70000" in refused(finished_run.path, "--port", 70000)
    assert "--queue is 0" in refused(finished_run.path, "--queue", 0)
    assert "16 ASCII characters" in refused(finished_run.path, "--token", "short")


def test_a_missing_extra_is_told(refused, finished_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "pip install 'tintype[serve]'" in refused(finished_run.path)


def test_models_of_the_same_name_get_a_number():
    assert server._free_name(Path("a/digits"), set()) == "digits"
    assert server._free_name(Path("b/digits"), {"digits", "digits-2"}) == "digits-3"
    assert server._free_name(Path("b/digits.onnx"), {"digits"}) == "digits-2"
    assert server._free_name(Path("packed.zip"), set()) == "packed"


def test_who_may_ask_under_which_name():
    with (
        socket.create_server(("127.0.0.1", 0)) as local,
        socket.create_server(("0.0.0.0", 0)) as everyone,
    ):
        assert server._hosts(local, ["me.example"]) == server.LOOPBACK | {"me.example"}
        assert server._hosts(everyone, []) is None
        assert server._hosts(everyone, ["Me.example"]) == server.LOOPBACK | {"me.example"}


def test_it_finishes_what_it_accepted_when_told_to_stop(kinds, digits):
    """A process of its own: told to stop in the middle of a long job, it answers that, takes no
    more, and ends well.
    """
    command = [
        sys.executable,
        "-m",
        "tintype",
        "serve",
        kinds["digits"].path,
        kinds["sharp"].path,
        "--port",
        "0",
        "--host",
        "0.0.0.0",
    ]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TINTYPE_TOKEN": ""},
        encoding="utf-8",
    ) as process:
        assert process.stdout is not None
        lines = []
        while not lines or not lines[-1].startswith("serving at "):
            lines.append(process.stdout.readline())
        assert lines[0].startswith("digits: tells 10 classes apart")
        assert "no --token" in lines[2]
        address = lines[-1].split()[2].replace("0.0.0.0", "127.0.0.1")
        assert top(ask(address, "/v1/predict", digits[0], **PNG)) == kinds["digits"].predict(
            digits[0]
        ).top(5)
        photo = encoded(
            np.random.default_rng(0).integers(0, 256, (500, 500, 3), np.uint8), compress_level=0
        )
        with ThreadPoolExecutor(1) as client:
            answer = client.submit(ask, address, "/v1/upscale", photo, **PNG, timeout=120)
            while (
                "tintype_batch" not in ask(address, "/metrics").body.decode()
                or not answer.running()
            ):
                time.sleep(0.01)
            time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            assert answer.result().status == 200
        rest = process.stdout.read()
    assert process.returncode == 0
    assert "everything that was accepted has been answered" in rest


def test_serving_is_in_python_too():
    assert tintype.serve is server.serve
    with pytest.raises(UserError, match="nothing to serve"):
        tintype.serve([])


# ---- hostile input ----------------------------------------------------------------------------------------------------


def test_the_service_keeps_what_its_description_promises(base):
    """schemathesis makes requests from the description, right ones and wrong ones, and checks each
    answer against it.
    """
    schema = schemathesis.openapi.from_url(f"{base}/openapi.json")
    checks = [CHECKS.get_one(name) for name in ("not_a_server_error", "status_code_conformance", "content_type_conformance",
                                                "response_schema_conformance", "response_headers_conformance")]  # fmt: skip
    tried: dict[str, int] = {}

    for result in schema.get_all_operations():
        operation = result.ok()

        @given(case=operation.as_strategy())
        @settings(
            max_examples=25,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        def check(case: Any) -> None:
            tried[case.path] = tried.get(case.path, 0) + 1
            case.call_and_validate(checks=checks, timeout=30)

        check()
    assert tried["/v1/predict"] >= 20
    assert tried["/v1/generate"] >= 20


def pictures() -> list[bytes]:
    """Return small real pictures in every format that is read."""
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
    made = []
    for kind, mode, options in [
        ("PNG", "RGB", {}), ("PNG", "P", {}), ("PNG", "I;16", {}), ("JPEG", "RGB", {}), ("JPEG", "CMYK", {"progressive": True}),
        ("GIF", "P", {}), ("WEBP", "RGBA", {}), ("WEBP", "RGB", {"lossless": True}), ("TIFF", "RGB", {}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}), ("TIFF", "L", {"compression": "jpeg"}), ("BMP", "RGB", {}),
        ("PPM", "RGB", {}),
    ]:  # fmt: skip
        buffer = io.BytesIO()
        (photo.convert("L").convert(mode) if mode == "I;16" else photo.convert(mode)).save(
            buffer, kind, **options
        )
        made.append(buffer.getvalue())
    return made


@st.composite
def mutated(draw: Any) -> bytes:
    """Draw a real picture with some bytes changed, taken out, put in or doubled, or its end cut
    off.
    """
    content = bytearray(draw(st.sampled_from(pictures())))
    for _ in range(draw(st.integers(1, 6))):
        where = draw(
            st.integers(0, max(0, min(len(content) - 1, draw(st.sampled_from([32, 200, 10_000])))))
        )
        what = draw(st.sampled_from(["set", "flip", "delete", "insert", "repeat", "cut", "number"]))
        if what == "set":
            content[where : where + 1] = bytes([draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))])
        elif what == "flip" and content:
            content[where] ^= 1 << draw(st.integers(0, 7))
        elif what == "delete":
            del content[where : where + draw(st.integers(1, 40))]
        elif what == "insert":
            content[where:where] = draw(st.binary(max_size=20))
        elif what == "repeat":
            content[where:where] = content[where : where + draw(st.integers(1, 60))] * draw(
                st.integers(1, 20)
            )
        elif what == "number":
            content[where : where + 4] = draw(
                st.sampled_from([b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\0\0\xff\xff"])
            )
        else:
            del content[where:]
    return bytes(content)


def hostile(base: str, examples: int) -> dict[int, int]:
    """Send mutated pictures to be classified and enlarged; return how often each status came."""
    seen: dict[int, int] = {}

    @given(
        content=mutated(),
        path=st.sampled_from(
            ["/v1/predict?model=digits&heatmap=1", "/v1/predict?model=cnn", "/v1/upscale"]
        ),
    )
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    def check(content: bytes, path: str) -> None:
        status = ask(base, path, content, **PNG).status
        seen[status] = seen.get(status, 0) + 1
        assert status in (200, 413, 422), status

    check()
    return seen


def test_hostile_uploads_do_not_shake_the_service(base):
    seen = hostile(base, 200)
    assert seen[200] > 10, "some changes do no harm"
    assert seen[422] > 50
    assert ask(base, "/readyz").status == 200


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
def test_ten_thousand_hostile_uploads_do_not_shake_the_service(base):
    assert sum(hostile(base, 10_000).values()) >= 10_000


# ---- the container ----------------------------------------------------------------------------------------------------


def test_the_container_follows_the_rules_for_dockerfiles():
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which(
        "hadolint"
    )
    if linter is None:
        pytest.skip("hadolint is not there for this machine")
    done = subprocess.run(
        [linter, "Dockerfile"],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout


def test_the_container_runs_without_rights_and_holds_no_more_than_it_needs():
    root = Path(__file__).parent.parent
    lines = (root / "Dockerfile").read_text(encoding="utf-8").splitlines()
    assert "USER 10001" in lines
    copied = {file for line in lines if line.startswith("COPY") for file in line.split()[1:-1]}
    sent = {
        line[1:]
        for line in (root / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line.startswith("!")
    }
    assert copied == sent, "what is copied is sent to the builder, and nothing else"
    assert all((root / file).exists() for file in copied)
