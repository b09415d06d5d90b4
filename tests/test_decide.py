"""Doubtful labels are decided on a page: nothing decided is lost, and nobody else may decide."""

from __future__ import annotations

import csv
import dataclasses
import http.client
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

import tintype
from tintype import Audit
from tintype.cli import main
from tintype.data import open_data
from tintype.errors import UserError
from tintype.verbs.audit.decide import Desk, deciding
from tintype.verbs.audit.decisions import Decision, Decisions, decisions_path
from tintype.verbs.audit.doubts import Doubts
from tintype.verbs.audit.labels import assess

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def found(digit_files, tmp_path_factory) -> Audit:
    """The audit of digits among which three sevens look like threes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINTYPE_CACHE", str(tmp_path_factory.mktemp("cache")))
        audit = tintype.audit(digit_files, labels=False)
    inspected = audit.inspected
    features = 5.0 * np.eye(10)[inspected.targets]
    sevens = np.flatnonzero(inspected.targets == 7)[:3]
    features[sevens] = [[0, 0, 0, 8 + i, 0, 0, 0, 2, 0, 0] for i in range(3)]
    issues = assess(softmax(features, axis=1), inspected.targets)
    return dataclasses.replace(audit, doubted=Doubts(inspected, issues, features))


class Page:
    """What a browser would ask for."""

    def __init__(self, address: str) -> None:
        self.host, _, rest = address.removeprefix("http://").partition("/")
        self.secret = rest.strip("/")

    def ask(
        self,
        path: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        secret: str | None = None,
    ) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(self.host, timeout=20)
        where = f"/{self.secret if secret is None else secret}/{path}"
        connection.request(method, where, body=body, headers=headers or {})
        response = connection.getresponse()
        content = response.read()
        connection.close()
        is_json = response.headers["Content-Type"] == "application/json"
        return response.status, json.loads(content) if is_json else content

    def decide(self, item: dict[str, Any], decision: str, label: str = "") -> tuple[int, Any]:
        fields = {"index": item["index"], "revision": item["revision"], "decision": decision}
        return self.post("decide", {**fields, "label": label})

    def post(self, path: str, fields: Any, **headers: str) -> tuple[int, Any]:
        return self.ask(path, "POST", json.dumps(fields).encode(), {**JSON, **headers})


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return tmp_path / "decided.csv"


@pytest.fixture
def page(found: Audit, manifest: Path) -> Iterator[Page]:
    with deciding(found.doubted, manifest, 0) as (server, address):
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield Page(address)
        server.shutdown()
        thread.join()


def rows_of(manifest: Path) -> dict[str, str]:
    with open(manifest, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {"/".join(Path(row["path"]).parts[-2:]): row["label"] for row in rows}


def test_doubts_are_a_table(found):
    table = found.doubts()
    assert len(table) == 3
    assert {(row["label"], row["suggested"]) for row in table} == {("7", "3")}
    assert all(row["probability"] > 0.5 > row["label_probability"] for row in table)
    assert [row["label_probability"] for row in table] == sorted(
        row["label_probability"] for row in table
    )
    assert list(table.frame().columns)[:2] == ["name", "label"]


def test_labels_are_decided_one_after_the_other_and_written(page, found, manifest):
    _, start = page.ask("start")
    names = [row["name"] for row in found.doubts()]
    first = start["item"]
    assert (first["name"], start["classes"][first["given"]]) == (names[0], "7")
    assert start["classes"][first["suggested"]] == "3"
    assert [start["classes"][each["label"]] for each in first["neighbours"]] == ["7", "3"]
    near = [found.names[row] for row in first["neighbours"][1]["rows"]]
    assert all(name.startswith("3/") for name in near)

    _, answer = page.decide(first, "relabel", "3")
    _, answer = page.decide(answer["item"], "drop")
    _, answer = page.decide(answer["item"], "keep")
    assert answer["item"] is None, "all that look wrong are decided"
    assert answer["state"]["counts"] == {"keep": 1, "relabel": 1, "drop": 1}
    _, further = page.ask("item/3")
    assert not further["item"]["flagged"]
    _, answer = page.decide(further["item"], "keep")
    assert answer["item"]["index"] == 4

    until(lambda: rows_of(manifest).get(names[0]) == "3" and names[1] not in rows_of(manifest))
    assert len(rows_of(manifest)) == len(found.names) - 1
    assert rows_of(manifest)[names[2]] == "7"


def until(holds: Any) -> None:
    for _ in range(200):
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come about")


def test_train_reads_what_was_decided(page, manifest):
    _, start = page.ask("start")
    page.decide(start["item"], "relabel", "3")
    until(lambda: rows_of(manifest).get(start["item"]["name"]) == "3")
    splits = open_data(str(manifest), image_size=8)
    each = (splits.train, splits.val, splits.test)
    counts = np.bincount(np.concatenate([source.targets for source in each]))
    assert counts.tolist() == [12, 12, 12, 13, 12, 12, 12, 11, 12, 12]


def test_the_last_decision_is_undone_and_then_the_one_before(page):
    _, start = page.ask("start")
    first = start["item"]
    _, one = page.decide(first, "drop")
    _, two = page.decide(one["item"], "keep")
    _, undone = page.post("undo", {"revision": two["state"]["revision"]})
    assert (undone["item"]["index"], undone["item"]["decision"]) == (one["item"]["index"], None)
    _, undone = page.post("undo", {"revision": undone["state"]["revision"]})
    assert undone["item"]["index"] == first["index"]
    assert not undone["state"]["can_undo"]
    status, _ = page.post("undo", {"revision": undone["state"]["revision"]})
    assert status == 409

    _, again = page.decide(undone["item"], "keep")
    _, item = page.ask(f"item/{first['index']}")
    page.decide(item["item"], "relabel", "1")
    _, now = page.ask("start")
    _, before = page.post("undo", {"revision": now["state"]["revision"]})
    assert before["item"]["decision"] == {"action": "keep", "label": ""}
    assert again["state"]["flagged_decided"] == 1


def test_two_windows_do_not_overwrite_each_other(page):
    _, start = page.ask("start")
    page.decide(start["item"], "keep")
    status, answer = page.decide(start["item"], "drop")
    assert status == 409
    assert answer["item"]["decision"]["action"] == "keep"
    assert page.post("undo", {"revision": 0})[0] == 409
    status, _ = page.decide(answer["item"], "drop")
    assert status == 200


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"index": -1, "decision": "keep"}, 400), ({"index": 10**6, "decision": "keep"}, 400),
        ({"index": "0", "decision": "keep"}, 400), ({"index": 0, "decision": "delete"}, 400),
        ({"index": 0, "decision": "relabel"}, 400), ({"index": 0, "decision": ["keep"]}, 400),
        ({"index": 0, "decision": "relabel", "label": "eleven"}, 400),
        ({"index": 0, "decision": "keep", "label": "3"}, 400),
        ({"index": 0, "decision": "keep", "label": {}}, 400),
        ({"index": 0, "decision": "keep", "revision": None}, 400),
        ([], 400), ("keep", 400), ({"pad": "x" * 5000}, 413),
    ],
)  # fmt: skip
def test_what_makes_no_sense_decides_nothing(page, fields, status):
    if isinstance(fields, dict):
        fields = {"revision": 0, **fields}
    assert page.post("decide", fields)[0] == status
    assert page.ask("start")[1]["state"]["revision"] == 0


def test_nobody_else_decides_or_looks(page):
    fields = {"index": 0, "decision": "drop", "revision": 0}
    body = json.dumps(fields).encode()
    assert page.post("decide", fields, Host="evil.example")[0] == 421
    assert page.post("decide", fields, Origin="http://evil.example")[0] == 403
    assert page.post("decide", fields, Origin="null")[0] == 403
    assert page.ask("decide", "POST", body, {"Content-Type": "text/plain"})[0] == 415
    assert page.ask("decide", "POST", body, {**JSON, "Transfer-Encoding": "chunked"})[0] == 413
    assert page.ask("decide", "POST", b"{", JSON)[0] == 400
    assert page.post("remove", fields)[0] == 404
    for secret in ("", "x", page.secret[:-1], page.secret.upper(), "%00", "é".encode().hex()):
        for path in ("", "start", "photo/large/0", "item/0"):
            assert page.ask(path, secret=secret)[0] == 404
        assert page.ask("decide", "POST", body, JSON, secret=secret)[0] == 404
    for path in (
        "photo/large/100000",
        "photo/large/-1",
        "photo/large/..",
        "photo/huge/0",
        "item/9999",
        "../start",
    ):
        assert page.ask(path)[0] == 404
    for method in ("PUT", "DELETE", "OPTIONS"):
        assert page.ask("start", method)[0] == 501
    assert page.ask("start")[1]["state"]["revision"] == 0
    assert page.post("decide", fields, Origin=f"http://{page.host}")[0] == 200


def test_the_page_and_its_photos(page, found):
    status, content = page.ask("")
    assert status == 200
    assert b"https://" not in content
    assert b"innerHTML" not in content
    status, content = page.ask("photo/small/0")
    assert (status, content[:4]) == (200, b"\x89PNG")


def test_everything_comes_back_however_the_command_ended(found, manifest):
    given = {name: name.split("/")[0] for name in found.names}
    one, two, three = found.names[:3]
    with deciding(found.doubted, manifest, 0):
        pass
    decisions = Decisions(decisions_path(manifest), given)
    decisions.decide(one, Decision("drop"))
    decisions.decide(two, Decision("relabel", "5"))
    decisions.decide(three, Decision("keep"))
    decisions.undo()
    with open(decisions.path, "ab") as file:
        file.write(b'{"photo": "half')

    later = Decisions(decisions.path, given)
    assert later.made == {one: Decision("drop"), two: Decision("relabel", "5")}
    assert later.undo() == two
    assert Decisions(decisions.path, given).made == {one: Decision("drop")}
    with deciding(found.doubted, manifest, 0):  # the list follows the decisions
        assert one not in rows_of(manifest)


def test_decisions_on_photos_that_changed_are_not_used_and_not_lost(tmp_path):
    path = tmp_path / "list.decisions.jsonl"
    given = {"a": "x", "b": "x", "c": "x"}
    decisions = Decisions(path, given)
    for name in given:
        decisions.decide(name, Decision("drop"))
    later = Decisions(path, {"a": "x", "b": "y"})
    assert (later.made, later.outdated) == ({"a": Decision("drop")}, {"b", "c"})
    assert len(Decisions(path, given).made) == 3

    path.write_text('{"photo": "a"}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"line 1 of .* holds no decision"):
        Decisions(path, given)


def test_a_full_disk_decides_nothing(tmp_path, monkeypatch):
    decisions = Decisions(tmp_path / "list.decisions.jsonl", {"a": "x"})
    decisions.decide("a", Decision("keep"))
    before = decisions.path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="No space left on device"):
            decisions.decide("a", Decision("drop"))
    assert decisions.path.read_bytes() == before
    assert decisions.made == {"a": Decision("keep")}


def test_a_list_of_something_else_stays(found, digit_files, tmp_path, manifest, capsys):
    manifest.write_text("path,label\n", encoding="utf-8")
    with pytest.raises(UserError, match="is there already"), deciding(found.doubted, manifest, 0):
        pass
    assert manifest.read_text(encoding="utf-8") == "path,label\n"
    for arguments, message in (
        ((str(manifest), "--decide", str(manifest)), "is the data itself"),
        ((str(digit_files), "--decide", str(tmp_path / "list.txt")), "should end in .csv"),
        ((str(digit_files), "--decide", str(tmp_path / "a.csv"), "--no-labels"), "about labels"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["audit", *arguments])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err


def test_two_commands_do_not_share_a_list(found, manifest):
    with (
        deciding(found.doubted, manifest, 0),
        pytest.raises(UserError, match=r"is running\. Use its page"),
        deciding(found.doubted, manifest, 0),
    ):
        pass


def test_what_has_no_labels_to_decide_says_so(manifest):
    with pytest.raises(UserError, match="no label was judged"), deciding(None, manifest, 0):
        pass


def test_ten_thousand_photos_are_no_burden(found, manifest):
    """Each answer names one photo, however many there are."""
    desk = Desk(found.doubted, manifest)
    assert len(json.dumps(desk.start())) < 3000
