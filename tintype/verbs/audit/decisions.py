"""What a person decides of labels, kept in a file that grows by a line for each decision."""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from tintype.errors import UserError
from tintype.files.bounded import parse_json, read_bytes, regular_without_links
from tintype.files.system import why
from tintype.files.whole import held

ACTIONS = ("keep", "relabel", "drop")
UNDO = "undo"


class Decision(NamedTuple):
    """What is to become of a photo: kept as it is, given another label, or left out."""

    action: str
    label: str = ""  # the new one of "relabel"


class Step(NamedTuple):
    """A decision that can be undone: of which photo, and what was decided of it before."""

    photo: str
    before: Decision | None


class Decisions:
    """Decisions on photos by name. Each is on the disk before `decide` returns.

    Lines are only ever added: an undone decision gets a line that says so. So whatever ends the
    program leaves all that was decided, and the whole history can be undone later as well.

    Attributes:
        made: what holds at present.
        outdated: photos whose earlier decisions are not used, since the photo is gone or its label
            was changed elsewhere.
    """

    def __init__(self, path: Path, given: Mapping[str, str]) -> None:
        """Read what was decided before.

        Args:
            path: the file; it need not be there.
            given: the label of each photo by its name.

        Raises:
            UserError: the file cannot be read, or is another one.
        """
        self.path = path
        self.given = given
        self.made: dict[str, Decision] = {}
        self.outdated: set[str] = set()
        self._steps: list[Step] = []
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

        self._read()

    @property
    def revision(self) -> int:
        """A number that differs after every decision and every undo."""
        return sum(self._counts.values())

    def revision_of(self, photo: str) -> int:
        """Return a number that differs after every decision on a photo."""
        return self._counts[photo]

    def decide(self, photo: str, decision: Decision, *, seen: int | None = None) -> bool:
        """Record a decision.

        Returns:
            Whether it was taken: not if the photo has another revision than `seen`.

        Raises:
            UserError: the file cannot be written; nothing has changed then.
        """
        with self._lock:
            if seen is not None and seen != self.revision_of(photo):
                return False
            line = {"photo": photo, "given": self.given[photo], "decision": decision.action}
            self._append({**line, **({"label": decision.label} if decision.label else {})})
            self._apply(photo, decision)
            return True

    def undo(self, *, seen: int | None = None) -> str | None:
        """Take back the last decision and return its photo, or None where there is none.

        Nothing is taken back if the revision is another than `seen`.

        Raises:
            UserError: as of `decide`.
        """
        with self._lock:
            if not self._steps or (seen is not None and seen != self.revision):
                return None
            photo = self._steps[-1].photo
            self._append({"photo": photo, "given": self.given[photo], "decision": UNDO})
            self._take_back()
            return photo

    def counts(self) -> dict[str, int]:
        """Return how many photos are kept, relabelled and dropped."""
        with self._lock:
            found = Counter(decision.action for decision in self.made.values())
        return {action: found[action] for action in ACTIONS}

    @property
    def can_undo(self) -> bool:
        return bool(self._steps)

    def _apply(self, photo: str, decision: Decision) -> None:
        self._steps.append(Step(photo, self.made.get(photo)))
        self.made[photo] = decision
        self._counts[photo] += 1

    def _take_back(self) -> None:
        step = self._steps.pop()
        if step.before is None:
            self.made.pop(step.photo, None)
        else:
            self.made[step.photo] = step.before
        self._counts[step.photo] += 1

    def _read(self) -> None:
        try:
            # It is there from now on, which says whose the list next to it is.
            with open(self.path, "ab", opener=regular_without_links):
                content = read_bytes(self.path)
        except OSError as error:
            raise UserError(f"cannot open {self.path}: {why(error)}.") from error

        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):  # the program was ended while it wrote the last line
            os.truncate(self.path, len(whole))
        for number, line in enumerate(whole.decode("utf-8", "replace").splitlines(), start=1):
            self._read_line(line, number)

        self.outdated |= set(self.made) - set(self.given)
        self.made = {photo: made for photo, made in self.made.items() if photo in self.given}
        self._steps = [step for step in self._steps if step.photo in self.given]

    def _read_line(self, line: str, number: int) -> None:
        photo, given, decision = self._parsed(line, number)
        if self.given.get(photo, given) != given:
            self.outdated.add(photo)
        elif decision.action != UNDO:
            self._apply(photo, decision)
        elif self._steps and self._steps[-1].photo == photo:
            self._take_back()

    def _parsed(self, line: str, number: int) -> tuple[str, str, Decision]:
        with suppress(ValueError, UserError):
            found = parse_json(line)
            fields = found if isinstance(found, dict) else {}
            values = [fields.get(name, "") for name in ("photo", "given", "decision", "label")]
            photo, given, action, label = map(str, values)
            relabelled = (action == "relabel") == bool(label)
            if photo and relabelled and action in (*ACTIONS, UNDO):
                return photo, given, Decision(action, label)
        raise UserError(
            f"line {number} of {self.path} holds no decision. Remove that line, or the file to "
            "begin with none."
        )

    def _append(self, line: dict[str, Any]) -> None:
        data = (json.dumps(line) + "\n").encode()
        size = None
        try:
            with open(self.path, "ab", buffering=0, opener=regular_without_links) as file:
                size = file.seek(0, os.SEEK_END)
                if file.write(data) != len(data):
                    raise OSError("the disk is full")
                os.fsync(file.fileno())
        except OSError as error:
            if size is not None:  # half a line would spoil the next one
                with suppress(OSError):
                    os.truncate(self.path, size)
            raise UserError(
                f"cannot write {self.path}: {why(error)}. Nothing was decided."
            ) from error


def decisions_path(manifest: Path) -> Path:
    """Return where the decisions that belong to a list of photos are."""
    return manifest.with_name(f"{manifest.stem}.decisions.jsonl")


@contextmanager
def alone_with(manifest: Path) -> Iterator[None]:
    """Hold a list of photos for this process.

    Raises:
        UserError: another process decides on it.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(held(manifest.with_name(f".{manifest.stem}.lock"), wait=False))
        except BlockingIOError:
            raise UserError(
                f"another `tintype audit --decide {manifest}` is running. Use its page, or stop it."
            ) from None
        yield
