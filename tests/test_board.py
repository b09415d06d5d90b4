"""The board shows what the folder holds, changes with it, and gives nothing else away; lists are
sorted and filtered.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tintype.errors import UserError
from tintype.pages.sandbox import with_way_back
from tintype.runs.catalogue import list_runs
from tintype.runs.folder import RunFolder
from tintype.verbs import board
from tintype.verbs.board import Board, make_server
from tintype.verbs.listing import listing

HARMLESS = "<img src=x onerror=alert(1)>"


def write_run(path: Path, recipe: str = "model: ann\nlr: 0.01\n", **files: Any) -> RunFolder:
    """Write a run folder by hand: JSON files by name, and metrics.csv as text."""
    path.mkdir(parents=True)
    (path / "recipe.yaml").write_text(recipe, encoding="utf-8")
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (
            path / {"metrics": "metrics.csv", "report": "report.html"}.get(name, f"{name}.json")
        ).write_text(text, encoding="utf-8")
    return RunFolder(path)


def evaluated(accuracy: float) -> dict[str, Any]:
    figures = {"accuracy": accuracy, "loss": 1 - accuracy, "num_images": 100}
    return {
        "task": "classify",
        "splits": {"train": figures, "val": figures, "test": figures},
        "verdict": {"word": "fits"},
    }


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder with three runs, one of them in a study, and with things that are nobody's business."""
    folder = tmp_path / "runs"
    write_run(
        folder / "good one", metrics="step,loss,val_accuracy\n1,2.0,\n2,1.0,0.5\n3,0.5,0.9\n", report="<p>report</p>",
        status={"state": "finished", "step": 3, "total_steps": 3}, evaluation=evaluated(0.91),
    )  # fmt: skip
    write_run(
        folder / "study" / "in study",
        "model: cnn\ntask: classify\n",
        status={"state": "running", "step": 5, "total_steps": 10},
    )
    (folder / "study" / "study.yaml").write_text("recipe: digits\n", encoding="utf-8")
    (folder / "study" / "study.html").write_text("<p>study</p>", encoding="utf-8")
    write_run(
        folder / "poor",
        "model: cnn\nlr: 0.1\n",
        status={"state": "finished"},
        evaluation=evaluated(0.3),
    )
    (folder / "good one" / "figures").mkdir()
    (folder / "good one" / "figures" / "history.png").write_bytes(b"\x89PNG")
    (folder / ".test-looks.json").write_text("{}", encoding="utf-8")
    (folder / "notes.html").write_text("private", encoding="utf-8")
    (folder / "good one" / "private.txt").write_text("private", encoding="utf-8")
    (folder / "good one" / ".lock").write_text("", encoding="utf-8")
    (tmp_path / "outside.html").write_text("outside", encoding="utf-8")
    os.symlink(tmp_path / "outside.html", folder / "good one" / "linked.html")
    return folder


@pytest.fixture
def address(runs: Path) -> Iterator[tuple[str, int]]:
    """The board of that folder, served on a free port."""
    with make_server(runs, port=0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield "127.0.0.1", server.server_address[1]
        server.shutdown()
        thread.join()


def ask(
    address: tuple[str, int], path: str, method: str = "GET", host: str | None = None
) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(*address, timeout=10)
    connection.request(method, path, headers={"Host": host} if host else {})
    response = connection.getresponse()
    response.content = response.read()  # type: ignore[attr-defined]
    connection.close()
    return response


def test_the_page_and_its_data(address, runs):
    with urllib.request.urlopen(f"http://{address[0]}:{address[1]}/", timeout=10) as answer:
        page = answer.read().decode()
    assert "<h1>runs</h1>" in page
    state = json.loads(ask(address, "/api/runs").content)  # type: ignore[attr-defined]
    rows = {row["name"]: row for row in state["runs"]}
    assert set(rows) == {"good one", "study/in study", "poor"}
    good = rows["good one"]
    assert good["curves"] == {
        "val_accuracy": [[2, 0.5], [3, 0.9]],
        "loss": [[1, 2.0], [2, 1.0], [3, 0.5]],
    }
    assert good["figures"]["test_accuracy"] == 0.91
    assert good["report"] == "/files/good%20one/report.html"
    assert (rows["study/in study"]["state"], rows["study/in study"]["step"]) == ("running", 5)
    assert rows["poor"]["report"] is None
    assert state["pages"] == [{"name": "study", "page": "/files/study/study.html"}]


def test_curves_follow_the_run(address, runs):
    path = runs / "study" / "in study" / "metrics.csv"

    def curve() -> list[Any]:
        rows = json.loads(ask(address, "/api/runs").content)["runs"]  # type: ignore[attr-defined]
        return next(
            row["curves"].get("loss", []) for row in rows if row["name"] == "study/in study"
        )

    assert curve() == []
    path.write_text("step,loss\n1,3.0\n", encoding="utf-8")
    assert curve() == [[1, 3.0]]
    path.write_text("step,loss\n1,3.0\n2,2.5\n", encoding="utf-8")
    os.utime(path, ns=(1, 1))  # the clock of a file system may be coarse
    assert curve() == [[1, 3.0], [2, 2.5]]


def test_reports_and_pictures_are_served_and_nothing_else(address):
    report = ask(address, "/files/good%20one/report.html")
    assert report.content.startswith(b"<p>report</p>")  # type: ignore[attr-defined]
    assert report.headers["Content-Type"] == "text/html; charset=utf-8"
    assert ask(address, "/files/study/study.html").status == 200
    assert (
        ask(address, "/files/good%20one/figures/history.png").headers["Content-Type"] == "image/png"
    )
    assert ask(address, "/files/good%20one/metrics.csv").status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/files/../outside.html", "/files/%2e%2e/outside.html", "/files/good%20one/../../outside.html",
        "/files/good%20one/%2e%2e/%2e%2e/outside.html", "/files/good%20one/..%2f..%2foutside.html", "/files//etc/passwd",
        "/files/good%20one/linked.html", "/files/good%20one/private.txt", "/files/good%20one/.lock", "/files/notes.html",
        "/files/.test-looks.json", "/files/good%20one/", "/files/good%20one", "/files/", "/files", "/files/good%20one/figures/",
        "/files/good%20one/report.html%00.png", "/files/good%20one/figures/../report.html", "/files/none/report.html",
        "/files/good%20one%5creport.html", "/nothing", "//outside.html", "/files/" + "a" * 5000 + ".html",
    ],
)  # fmt: skip
def test_what_leads_elsewhere_is_not_found(address, path):
    answer = ask(address, path)
    assert answer.status == 404
    assert answer.content == b"not found"  # type: ignore[attr-defined]


def test_no_other_page_may_use_it(address):
    for path in ("/", "/api/runs", "/files/good%20one/report.html", "/nothing"):
        headers = ask(address, path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert "Access-Control-Allow-Origin" not in headers
    # a name that was made to lead here
    assert ask(address, "/api/runs", host="evil.example").status == 421
    assert ask(address, "/api/runs", host=f"localhost:{address[1]}").status == 200
    for method in ("POST", "PUT", "DELETE"):
        assert ask(address, "/api/runs", method=method).status == 501
    head = ask(address, "/", method="HEAD")
    assert (head.status, head.content) == (200, b"")  # type: ignore[attr-defined]


@pytest.mark.parametrize("lines", [b"Host: [::1\r\n", b"Host: ]\r\n"])
def test_a_host_that_cannot_be_read_gets_an_answer_and_no_traceback(address, capfd, lines):
    with socket.create_connection(address, timeout=30) as line:
        line.sendall(b"GET / HTTP/1.1\r\n" + lines + b"Connection: close\r\n\r\n")
        said = line.makefile("rb").read()
    assert said.startswith(b"HTTP/1.1 4")
    assert "Traceback" not in capfd.readouterr().err


def test_a_page_out_of_a_run_folder_is_sandboxed(address):
    policy = (
        ask(address, "/files/good%20one/report.html").getheader("Content-Security-Policy") or ""
    )
    assert policy.startswith("sandbox ")
    assert "allow-same-origin" not in policy
    assert "connect-src" not in policy
    assert not (ask(address, "/").getheader("Content-Security-Policy") or "").startswith("sandbox")


def test_a_page_leads_back_to_its_study_and_to_all_runs(tmp_path):
    folder = tmp_path / "runs"
    for name in ("alone", "study & more/inside"):
        write_run(folder / name, "model: ann\n")
        (folder / name / "report.html").write_text(
            '<p class="wordmark">tintype</p>', encoding="utf-8"
        )
    (folder / "study & more" / "study.html").write_text("a page", encoding="utf-8")
    leads = Board(folder).way_back
    assert leads(folder.resolve() / "alone" / "report.html") == [("/", "All runs")]
    back = leads(folder.resolve() / "study & more" / "inside" / "report.html")
    assert back == [("/", "All runs"), ("/files/study%20%26%20more/study.html", "Study")]
    page = with_way_back(b'<p class="wordmark">tintype</p>', [*back, ("/x", "<b>")])
    assert (
        b'<a href="/">All runs</a> <a href="/files/study%20%26%20more/study.html">Study</a>' in page
    )
    assert b"<b>" not in page


def test_names_are_text(tmp_path):
    write_run(
        tmp_path / "runs" / "a&b", f"model: ann\ndata: {HARMLESS!r}\n", status={"state": HARMLESS}
    )
    (row,) = Board(tmp_path / "runs").state()["runs"]
    assert row["state"] == HARMLESS  # the page puts it in as text, never as HTML
    script = (Path(board.__file__).parents[1] / "pages" / "templates" / "board.js").read_text(
        encoding="utf-8"
    )
    assert "innerHTML" not in script
    assert "insertAdjacentHTML" not in script


def test_a_broken_run_is_passed_over_and_long_curves_are_thinned(tmp_path):
    write_run(tmp_path / "broken", "modle: ann\n")
    lines = "".join(f"{i},{i / 10}\n" for i in range(1, 5001)) + "5001,nan\n"
    write_run(
        tmp_path / "long",
        metrics="step,loss\n" + lines,
        status={"state": "running"},
        evaluation="{",
    )
    assert Board(tmp_path).state()["runs"] == []  # its evaluation is broken
    (tmp_path / "long" / "evaluation.json").unlink()
    (row,) = Board(tmp_path).state()["runs"]
    curve = row["curves"]["loss"]
    assert len(curve) <= board.MOST_POINTS
    assert curve[-1][0] == 5000
    assert curve[0][1] == pytest.approx(sum(i / 10 for i in range(1, 35)) / 34)


def test_a_run_that_nobody_trains_any_more_is_called_interrupted(runs, monkeypatch):
    run = RunFolder(runs / "study" / "in study")

    def state() -> str:
        return next(
            row["state"] for row in Board(runs).state()["runs"] if row["name"] == "study/in study"
        )

    assert state() == "running"
    monkeypatch.setattr(board, "STALE_SECONDS", -1.0)
    assert state() == "interrupted"
    with run.locked():  # by the process that trains it
        assert state() == "running"


def test_what_cannot_be_served_is_one_clear_line(tmp_path, address):
    with pytest.raises(UserError, match="there is no folder"):
        make_server(tmp_path / "none")
    with pytest.raises(UserError, match=r"cannot listen on 127\.0\.0\.1"):
        make_server(tmp_path, port=address[1])


# ---- lists --------------------------------------------------------------------------------------------------------------


def test_runs_are_sorted_and_chosen_by_what_they_reached(runs):
    def names(**how: Any) -> list[str]:
        return [row["name"] for row in list_runs(runs, **how)]

    assert set(names()) == {"good one", "study/in study", "poor"}
    # what has no figure stands last
    assert names(sort="test_accuracy") == ["good one", "poor", "study/in study"]
    assert names(sort="test_accuracy", reverse=True) == ["poor", "good one", "study/in study"]
    assert len(names(sort="betas")) == 3  # a list is sorted as text
    assert names(sort="name") == ["good one", "poor", "study/in study"]
    assert names(where=["test_accuracy>0.5"]) == ["good one"]
    assert names(where=["model=cnn", "state = finished"]) == ["poor"]
    assert names(where=["lr>=1e-1"]) == ["poor"]
    assert names(where=["test_accuracy!=0.3"], sort="name") == ["good one", "study/in study"]
    assert names(where=["test_accuracy<0"]) == []
    assert list_runs(runs, sort="test_loss")[0]["test_loss"] == 0.7  # what is asked for is shown


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            {"sort": "test_acuracy"},
            "unknown field or figure 'test_acuracy'. Did you mean 'test_accuracy'",
        ),
        ({"where": ["test_acuracy>1"]}, "unknown field or figure 'test_acuracy'"),
        ({"where": ["accuracy"]}, "expected FIELD=VALUE"),
        ({"where": [">1"]}, "expected FIELD=VALUE"),
        ({"where": ["test_accuracy>x"]}, "test_accuracy is a number"),
    ],
)
def test_what_cannot_be_sorted_or_chosen_by_is_told(runs, how, message):
    with pytest.raises(UserError) as error:
        list_runs(runs, **how)
    assert message in str(error.value)


def test_only_runs_are_sorted(runs):
    with pytest.raises(UserError, match="only runs can be sorted"):
        listing("models", runs, sort="name")
    assert "fashion-three-depths" in {row["name"] for row in listing("studies", runs)}


def test_a_port_that_is_none_is_one_clear_line(runs: Path) -> None:
    with pytest.raises(UserError, match="port= is 99999"):
        make_server(runs, port=99_999)
