"""The page on which a person decides doubtful labels, and the list of photos that it writes."""

from __future__ import annotations

import hmac
import io
import json
import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np

from tintype.errors import UserError
from tintype.files.bounded import parse_json
from tintype.pages.local_server import (
    HTML,
    JSON,
    LOOPBACK,
    LocalHandler,
    LocalServer,
    local_server,
)
from tintype.pages.pages import templates
from tintype.pages.pictures import TINY, png_bytes
from tintype.verbs.audit.decisions import ACTIONS, Decision, Decisions, alone_with, decisions_path
from tintype.verbs.audit.doubts import Doubts
from tintype.verbs.audit.manifest import check_name, write_rows

PORT = 8766
SIDES = {"large": 1000, "small": 200}  # pixels of a picture
MOST_BYTES = 4_096  # of a request
SOON = 0.5  # seconds from a decision to the list that holds it; decisions themselves do not wait


class Desk:
    """What the page shows and what it may do: doubts, decisions, and the list of photos."""

    def __init__(self, doubts: Doubts, manifest: Path) -> None:
        """Open the decisions that belong to a list.

        Raises:
            UserError: as of `Decisions`, or a list is there that these decisions do not belong to.
        """
        self.doubts = doubts
        self.manifest = manifest
        inspected = doubts.inspected
        self.position = {name: i for i, name in enumerate(inspected.names)}
        given = {name: doubts.label(i) for name, i in self.position.items()}
        self.decisions = Decisions(decisions_path(manifest), given)
        self.list = _List(self)

    def state(self) -> dict[str, Any]:
        """Return how far the decisions are, JSON-ready."""
        made = self.decisions.made
        names = self.doubts.inspected.names
        flagged = [names[row] for row in self.doubts.issues.rows]
        return {
            "counts": self.decisions.counts(),
            "flagged": len(flagged),
            "flagged_decided": sum(name in made for name in flagged),
            "total": len(self.doubts),
            "revision": self.decisions.revision,
            "can_undo": self.decisions.can_undo,
            "problem": self.list.problem,
        }

    def start(self) -> dict[str, Any]:
        """Return what the page needs once, and the first photo to decide."""
        return {
            "name": self.doubts.inspected.name,
            "list": str(self.manifest),
            "classes": list(self.doubts.names),
            "accuracy": self.doubts.issues.accuracy,
            "outdated": len(self.decisions.outdated),
            "state": self.state(),
            "item": self.next_item(-1),
        }

    def item(self, index: int) -> dict[str, Any]:
        """Return a photo with its label, what it looks like, and its neighbours, JSON-ready."""
        doubts, inspected = self.doubts, self.doubts.inspected
        row = int(doubts.rows[index])
        name = inspected.names[row]
        given, suggested = int(inspected.targets[row]), doubts.suggested(index)
        decision = self.decisions.made.get(name)
        facts = inspected.facts[row]

        rows = doubts.rows[index + 1 : index + 4].tolist()
        return {
            "index": index,
            "row": row,
            "name": name.encode("utf-8", "replace").decode(),
            "tiny": int(max(facts["width"], facts["height"])) < TINY,
            "flagged": index < doubts.num_flagged,
            "given": given,
            "suggested": suggested,
            "candidates": doubts.candidates(index),
            "neighbours": [
                {"label": label, "rows": doubts.neighbours(row, label)}
                for label in dict.fromkeys((given, suggested))
            ],
            "decision": decision._asdict() if decision else None,
            "revision": self.decisions.revision_of(name),
            "upcoming": rows,
        }

    def next_item(self, index: int) -> dict[str, Any] | None:
        """Return the next photo after a position that is not decided.

        Among the flagged ones the search begins again at the first; None if all are decided.
        """
        made, names = self.decisions.made, self.doubts.inspected.names
        flagged = self.doubts.num_flagged
        later = range(index + 1, flagged if index < flagged else len(self.doubts))
        earlier = range(min(index + 1, flagged))
        for i in (*later, *earlier):
            if names[self.doubts.rows[i]] not in made:
                return self.item(i)
        return None

    def decide(self, index: int, decision: Decision, seen: int) -> bool:
        """Record a decision; return whether the photo was still as it was seen."""
        name = self.doubts.inspected.names[self.doubts.rows[index]]
        taken = self.decisions.decide(name, decision, seen=seen)
        if taken:
            self.list.write_soon()
        return taken

    def undo(self, seen: int) -> dict[str, Any] | None:
        """Take the last decision back and return its photo, if nothing was decided since."""
        name = self.decisions.undo(seen=seen)
        if name is None:
            return None
        self.list.write_soon()
        found = np.flatnonzero(self.doubts.rows == self.position[name])
        return self.item(int(found[0]) if len(found) else 0)

    def picture(self, row: int, side: int) -> tuple[bytes, str]:
        """Return an encoded picture and its media type; any exception means there is none."""
        image = self.doubts.inspected.picture(row, side)
        if max(image.size) < TINY:
            return png_bytes(image), "image/png"
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, format="JPEG", quality=88)
        return buffer.getvalue(), "image/jpeg"


class _List:
    """Writes the list of photos after decisions, in a thread of its own.

    Attributes:
        problem: why it could not be written the last time; "" if it could.
        listed: how many photos it holds.
    """

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.problem = ""
        self.listed = 0
        self._changed = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._write_on, daemon=True)

    def start(self) -> None:
        """Write the list as it is, and again after each decision.

        Raises:
            UserError: it cannot be written.
        """
        self._write()
        self._thread.start()

    def write_soon(self) -> None:
        self._changed.set()

    def close(self) -> None:
        """Write what is not written yet.

        Raises:
            UserError: it cannot be written.
        """
        self._closed.set()
        self._changed.set()
        self._thread.join()
        self._write()

    def _write_on(self) -> None:
        while self._changed.wait() and not self._closed.is_set():
            self._changed.clear()
            try:
                self._write()
                self.problem = ""
            except UserError as error:
                self.problem = str(error)
            time.sleep(SOON)

    def _write(self) -> None:
        desk, inspected = self.desk, self.desk.doubts.inspected
        keep = np.ones(len(inspected), bool)
        targets = {}
        for name, decision in list(desk.decisions.made.items()):
            i = desk.position[name]
            if decision.action == "drop":
                keep[i] = False
            elif decision.action == "relabel":
                targets[i] = (decision.label,)

        groups = inspected.groups if (inspected.groups != "").any() else None
        self.listed, _ = write_rows(inspected, desk.manifest, keep, groups, targets)


class _Handler(LocalHandler):
    """Answers for the page, its photos and decisions, to who knows the secret in the address."""

    def __init__(self, desk: Desk, secret: str, *arguments: Any) -> None:
        self.desk, self.secret = desk, secret
        super().__init__(*arguments)

    def do_POST(self) -> None:
        self.check_and_answer()

    def answer(self, path: str) -> None:
        _, shown, *rest = [*path.split("/"), ""]
        if not hmac.compare_digest(shown.encode("utf-8", "replace"), self.secret.encode()):
            self.refuse(HTTPStatus.NOT_FOUND, "not found")
        elif self.command == "POST":
            self._post("/".join(rest).rstrip("/"))
        else:
            self._get([part for part in rest if part])

    def _get(self, parts: list[str]) -> None:
        match parts:
            case []:
                page = (
                    templates()
                    .get_template("decide.html")
                    .render(name=self.desk.doubts.inspected.name)
                )
                self.send(HTTPStatus.OK, page.encode("utf-8", "replace"), HTML)
            case ["start"]:
                self._send_json(self.desk.start())
            case ["item", number] if (index := _below(number, len(self.desk.doubts))) is not None:
                self._send_json({"state": self.desk.state(), "item": self.desk.item(index)})
            case ["photo", side, number] if side in SIDES:
                self._send_photo(SIDES[side], _below(number, len(self.desk.doubts.inspected)))
            case _:
                self.refuse(HTTPStatus.NOT_FOUND, "not found")

    def _send_photo(self, side: int, row: int | None) -> None:
        try:
            if row is None:
                raise IndexError
            content, kind = self.desk.picture(row, side)
        except Exception:  # the file changed since, or there is no such row
            self.refuse(HTTPStatus.NOT_FOUND, "no picture")
            return
        self.send(HTTPStatus.OK, content, kind)

    def _post(self, what: str) -> None:
        origin = self.headers.get("Origin")
        if origin is not None and origin != f"http://{self.headers.get('Host')}":
            self.refuse(HTTPStatus.FORBIDDEN, "another page may not decide")
            return
        if self.headers.get_content_type() != JSON:
            self.refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected application/json")
            return
        length = _below(self.headers.get("Content-Length", ""), MOST_BYTES + 1)
        if length is None or "Transfer-Encoding" in self.headers:
            self.refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too large, or of unknown size")
            return

        try:
            fields = parse_json(self.rfile.read(length).decode())
        except ValueError:
            fields = None
        if not isinstance(fields, dict):
            self.refuse(HTTPStatus.BAD_REQUEST, "expected a JSON object")
            return

        try:
            self._act(what, fields)
        except UserError as error:
            self._send_json({"problem": str(error)}, HTTPStatus.INSUFFICIENT_STORAGE)

    def _act(self, what: str, fields: Mapping[str, Any]) -> None:
        desk = self.desk
        seen = fields.get("revision")
        if not isinstance(seen, int):
            self.refuse(HTTPStatus.BAD_REQUEST, "expected a revision")
        elif what == "undo":
            item = desk.undo(seen)
            done = item is not None
            self._send_json(
                {"state": desk.state(), "item": item},
                HTTPStatus.OK if done else HTTPStatus.CONFLICT,
            )
        elif what == "decide":
            self._decide(fields, seen)
        else:
            self.refuse(HTTPStatus.NOT_FOUND, "not found")

    def _decide(self, fields: Mapping[str, Any], seen: int) -> None:
        desk = self.desk
        index, action = fields.get("index"), str(fields.get("decision"))
        label = fields.get("label", "")
        if not isinstance(index, int) or not 0 <= index < len(desk.doubts):
            self.refuse(HTTPStatus.BAD_REQUEST, "there is no such photo")
        elif not _is_decision(action, label, desk.doubts.names):
            self.refuse(HTTPStatus.BAD_REQUEST, "expected keep, drop, or relabel with a class")
        elif desk.decide(index, Decision(action, label), seen):
            self._send_json({"state": desk.state(), "item": desk.next_item(index)})
        else:
            self._send_json({"state": desk.state(), "item": desk.item(index)}, HTTPStatus.CONFLICT)

    def _send_json(self, content: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send(status, json.dumps(content).encode(), JSON)


def _is_decision(action: Any, label: Any, names: Sequence[str]) -> bool:
    return label in names if action == "relabel" else action in ACTIONS and label == ""


def _below(text: str, most: int) -> int | None:
    """Return a whole number of 0 .. most - 1, None for anything else."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else most
    return number if number < most else None


@contextmanager
def deciding(
    doubts: Doubts | None, manifest: Path, port: int = PORT
) -> Iterator[tuple[LocalServer, str]]:
    """Yield a server for the page with its address; at the end the list is written.

    Args:
        doubts: what to decide; None where no label could be judged.
        manifest: the list of photos, which is written after each decision. What was decided before
            is in a file next to it.
        port: 0 takes any that is free.

    Raises:
        UserError: there is nothing to decide, the list cannot be written or belongs to something
            else, or the port is taken.
    """
    if doubts is None:
        raise UserError("no label was judged, so there is none to decide; the audit says why.")
    if doubts.inspected.photos is None:
        raise UserError(
            f"{doubts.inspected.name} is not a folder or CSV file of photos; --decide has no "
            "files to list."
        )

    check_list(manifest)
    with alone_with(manifest):
        desk = Desk(doubts, manifest)
        secret = secrets.token_urlsafe(16)
        with local_server(partial(_Handler, desk, secret), LOOPBACK[0], port) as server:
            desk.list.start()
            try:
                yield server, f"http://{LOOPBACK[0]}:{server.server_address[1]}/{secret}/"
            finally:
                desk.list.close()


def check_list(manifest: Path) -> None:
    """Raise UserError if no list of decided labels can be written there."""
    check_name(manifest)
    if manifest.exists() and not decisions_path(manifest).exists():
        raise UserError(
            f"{manifest} is there already, and was not written by --decide. Choose another name."
        )
