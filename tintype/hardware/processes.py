"""The processes that train one run together: who this one is, and how they exchange what they have.

They are started by `tintype train --processes N` or by torchrun. Process 0 decides, prints and
writes; the others follow it. A process that trains alone is a group of one, in which an exchange
returns what it was given.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tintype.errors import STOPPING, UserError
from tintype.files import nest

if TYPE_CHECKING:
    import torch

Value = TypeVar("Value")
Work = TypeVar("Work")

# What torch's launchers say to each process that they start.
NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
LAUNCHED = "TINTYPE_LAUNCHED"  # set by `tintype train --processes`

# How long a process waits for another one. One that ends is noticed at once; this is for a network
# that has gone silent.
WAIT_SECONDS = float(os.environ.get("TINTYPE_WAIT_SECONDS", "1800"))
# How long it waits for what process 0 does alone. A process that dies is noticed at once here too.
PATIENCE = timedelta(days=7)
REASON_SECONDS = 3.0  # how long the reason of another process is waited for, once it is gone
HEARD_SECONDS = 10.0  # how long process 0, which keeps all reasons, waits for its own to be read
SHORT = 1000  # bytes that are sent together with their number


class ProcessLost(UserError):
    """Another process of the run has ended, for a reason of its own or without one."""


class Group:
    """A group of one.

    Attributes:
        rank: the number of this process.
        size: how many there are.
        local_size: how many of them are on this machine.
        folder: of the run that they train, for messages.
    """

    rank = 0
    size = 1
    local_size = 1
    folder: Path | None = None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def gather(self, sent: torch.Tensor) -> list[torch.Tensor]:
        """Return a tensor of each process, in their order; all have one shape and type."""
        return [sent]

    def add(self, tensor: torch.Tensor) -> None:
        """Add a tensor over all processes, in an order that nobody promises."""

    def from_first(self, value: Value) -> Value:
        """Return the value that process 0 has: a nest as in `tintype.files.nest`."""
        return value

    def from_all(self, value: Value) -> list[Value]:
        """Return the value of each process."""
        return [value]

    def ask(self, request: Any) -> None:
        """Send a request, such a nest as well, to the others, which wait for it in `asked`."""

    def asked(self) -> Any:
        """Return the next request of process 0, however long that takes."""
        raise ValueError("there is nobody who could ask")


ALONE = Group()
_current: Group = ALONE
_dealing: Group = ALONE  # those that share what is dealt
_helpers: Group = ALONE  # those that wait for requests of process 0


def current() -> Group:
    """Return the group that this process belongs to."""
    return _current


def are_asked_for() -> bool:
    """Return whether a launcher has started this process as one of several."""
    return all(name in os.environ for name in NEEDED) and int(os.environ["WORLD_SIZE"]) > 1


def number_to_start(count: int | None) -> int:
    """Return how many processes `--processes` has to start, 0 where this one is enough.

    Raises:
        UserError: there cannot be so many, or a launcher has started another number.
    """
    if count is None:
        return 0
    if count < 1:
        raise UserError(f"--processes is {count}. Expected 1, 2, 4, 8 or another power of two.")
    if not are_asked_for():
        return count if count > 1 else 0
    if int(os.environ["WORLD_SIZE"]) != count:
        raise UserError(
            f"--processes is {count}, and the launcher has started {os.environ['WORLD_SIZE']}. "
            "Leave --processes out."
        )
    return 0


def silence_others() -> None:
    """Leave printing to process 0."""
    if are_asked_for() and os.environ["RANK"] != "0":
        sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def refuse_other(what: str, rank: int, others: object, own: object) -> None:
    """Refuse to train with a process that has something else.

    Raises:
        UserError: it has.
    """
    if others != own:
        raise UserError(
            f"process {rank} has other {what} than process {_current.rank} ({others} and {own}). "
            "Expected the same command, images and program in every process."
        )


@contextmanager
def joined(arguments: str) -> Iterator[Group]:
    """Join the other processes, if a launcher has started some, for the time of the block.

    What ends one of them ends all: process 0 says why.

    Args:
        arguments: what was asked for, which all have to agree in.

    Raises:
        UserError: the others do not come, or their port is taken.
        ProcessLost: another one has ended.
    """
    global _current
    if _current is not ALONE or not are_asked_for():
        yield _current
        return

    _end_with_launcher()
    group = _Joined()
    _current = group
    with _left_to_first(group):
        try:
            for rank, others in enumerate(group.from_all(arguments)):
                refuse_other("arguments", rank, others, arguments)
            yield group
        except BaseException as error:
            group.tell(error)
            raise
        finally:
            _current = ALONE
            group.leave()


@contextmanager
def planned(count: int) -> Iterator[None]:
    """Let what is decided in the block be decided as by process 0 of `count`, none of them there.

    0 stands for as many as a launcher has started, or for this one alone.
    """
    global _current
    group = Group()
    if count:
        group.size = group.local_size = count
    elif are_asked_for():
        group.size = int(os.environ["WORLD_SIZE"])
        group.local_size = int(os.environ.get("LOCAL_WORLD_SIZE", group.size))

    _current = group
    try:
        yield
    finally:
        _current = ALONE


@contextmanager
def dealing(group: Group) -> Iterator[None]:
    """Let the processes of a group, which all come here, share the work that is `dealt`."""
    global _dealing
    before, _dealing = _dealing, group
    try:
        yield
    finally:
        _dealing = before


@contextmanager
def helped(group: Group) -> Iterator[None]:
    """Let the others of a group, which wait in `asked`, help in the block; tell them of its end."""
    global _helpers
    before, _helpers = _helpers, group
    try:
        yield
    finally:
        _helpers = before
    group.ask("done")


@contextmanager
def with_help(request: Any) -> Iterator[None]:
    """Share what is `dealt` in the block with the helpers, who do the same when they are asked."""
    _helpers.ask(request)
    with dealing(_helpers):
        yield


def dealt(work: Sequence[Work], do: Callable[[Work], Value]) -> Iterator[tuple[Work, Value]]:
    """Yield pieces of work with what `do` makes of them, in their order.

    Within `dealing` each process does its pieces whole, and gets what the others made of theirs.
    What is made is a nest as in `tintype.files.nest`, with its tensors on the CPU.
    """
    group = _dealing
    for first in range(0, len(work), group.size):
        turn = work[first : first + group.size]
        own: Any = do(turn[group.rank]) if group.rank < len(turn) else None
        yield from zip(turn, group.from_all(own), strict=False)


class _Joined(Group):
    """Processes that exchange by torch.distributed: gloo on CPUs, NCCL between GPUs."""

    def __init__(self) -> None:
        import torch
        from torch import distributed

        self.rank = int(os.environ["RANK"])
        self.size = int(os.environ["WORLD_SIZE"])
        self.local_size = int(os.environ.get("LOCAL_WORLD_SIZE", self.size))
        self.on_gpus = torch.cuda.is_available() and torch.cuda.device_count() >= self.local_size
        if torch.cuda.is_available():
            place_here = int(os.environ.get("LOCAL_RANK", self.rank))
            torch.cuda.set_device(place_here % torch.cuda.device_count())

        self.distributed = distributed
        self.has_told = False
        wait = timedelta(seconds=WAIT_SECONDS)
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        try:
            self.store = _store(self.rank, self.size, wait)
            distributed.init_process_group(
                "cpu:gloo,cuda:nccl" if self.on_gpus else "gloo",
                store=self.store,
                rank=self.rank,
                world_size=self.size,
                timeout=wait,
            )
            self.patient = distributed.new_group(backend="gloo", timeout=PATIENCE)
        except (RuntimeError, ValueError) as error:
            line = str(error).split("\n")[0]
            if "EADDRINUSE" in str(error) or "already in use" in str(error):
                raise UserError(
                    f"the port of {place} is taken by another program. Give the processes another "
                    "one, as in torchrun --master-port 29600."
                ) from None
            raise UserError(
                f"the {self.size} processes of this run have not met at {place} ({line}). "
                "Expected all of them to be started, and to reach that address."
            ) from None

    def gather(self, sent: torch.Tensor) -> list[torch.Tensor]:
        near = sent if self.on_gpus else sent.cpu()
        received = [near.new_empty(near.shape) for _ in range(self.size)]
        with self._noticed():
            self.distributed.all_gather(received, near)
        return [each.to(sent.device) for each in received]

    def add(self, tensor: torch.Tensor) -> None:
        near = tensor if self.on_gpus else tensor.cpu()
        with self._noticed():
            self.distributed.all_reduce(near)
        tensor.copy_(near)

    def from_first(self, value: Value) -> Value:
        sent = self._bytes(nest.to_bytes(value) if self.is_first else b"", first=True)
        return value if self.is_first else nest.from_bytes(sent[0])

    def from_all(self, value: Value) -> list[Value]:
        return [nest.from_bytes(content) for content in self._bytes(nest.to_bytes(value))]

    def ask(self, request: Any) -> None:
        self._bytes(nest.to_bytes(request), first=True, by=self.patient)

    def asked(self) -> Any:
        return nest.from_bytes(self._bytes(b"", first=True, by=self.patient)[0])

    def _bytes(self, content: bytes, *, first: bool = False, by: Any = None) -> list[bytes]:
        """Return the bytes of process 0, or those of each."""

        def exchanged(own: torch.Tensor) -> list[torch.Tensor]:
            if not first:
                return self.gather(own)
            with self._noticed():
                self.distributed.broadcast(own, 0, group=by)
            return [own]

        # with its length travels what is short, so that it takes one exchange
        head = _as_tensor(len(content).to_bytes(8, "little") + content[:SHORT], 8 + SHORT)
        heads = [bytes(each.tolist()) for each in exchanged(head)]
        lengths = [int.from_bytes(each[:8], "little") for each in heads]
        if max(lengths) <= SHORT:
            return [each[8 : 8 + n] for each, n in zip(heads, lengths, strict=True)]

        whole = exchanged(_as_tensor(content, max(lengths)))
        return [each.numpy().tobytes()[:n] for each, n in zip(whole, lengths, strict=True)]

    def tell(self, error: BaseException) -> None:
        """Leave the reason why this process ends, for the others to read."""
        if isinstance(error, ProcessLost):
            return
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        with suppress(RuntimeError):
            self.store.set(f"reason/{self.rank}", f"{kind}{error}".encode())
            self.store.set(f"heard/{self.rank}", b"")  # it does not ask for another reason
            self.has_told = True

    def leave(self) -> None:
        self.patient = None  # it would hold connections by which the others notice the end
        with suppress(RuntimeError):
            self.distributed.destroy_process_group()

        # The store may go with this process, so that the others read the reason before.
        others = [f"heard/{rank}" for rank in range(1, self.size)]
        until = time.monotonic() + HEARD_SECONDS
        with suppress(RuntimeError):
            while self.has_told and self.is_first and time.monotonic() < until:
                if self.store.check(others):
                    break
                time.sleep(0.05)

    @contextmanager
    def _noticed(self) -> Iterator[None]:
        """Turn what torch says of a broken exchange into what has happened."""
        try:
            yield
        except RuntimeError as error:
            raise self._lost(error) from None

    def _lost(self, error: RuntimeError) -> ProcessLost:
        until = time.monotonic() + REASON_SECONDS
        with suppress(RuntimeError):  # the place is gone with the process that kept it
            while time.monotonic() < until:
                for rank in range(self.size):
                    if rank != self.rank and (reason := self._reason(rank)):
                        self.store.set(f"heard/{self.rank}", b"")
                        return ProcessLost(f"process {rank} of {self.size} failed: {reason}")
                time.sleep(0.1)

        why = (
            "does not answer" if "imed out" in str(error) else "was killed, or its machine is gone"
        )
        again = "; continue with: tintype train --resume " + str(self.folder) if self.folder else ""
        return ProcessLost(
            f"one of the {self.size} processes of this run {why}. "
            f"What the last checkpoint holds is kept{again}"
        )

    def _reason(self, rank: int) -> str:
        name = f"reason/{rank}"
        return self.store.get(name).decode() if self.store.check([name]) else ""


def _as_tensor(content: bytes, length: int) -> torch.Tensor:
    import torch

    padded = bytearray(content) + bytearray(length - len(content))
    return torch.frombuffer(padded, dtype=torch.uint8)


_met: list[Any] = []  # what the processes of this launch exchange names by, once they have met


def _store(rank: int, size: int, wait: timedelta) -> Any:
    """Return an empty place for names; one process may train several runs, one after the other."""
    from torch.distributed import distributed_c10d
    from torch.distributed.rendezvous import rendezvous

    if not _met:
        place = next(rendezvous("env://", timeout=wait))[0]
        meeting = _led_meeting(place, size) if rank == 0 else _joined_meeting(place, rank)
        _met.append(distributed_c10d.PrefixStore(meeting, place))
    _met.append(None)
    return distributed_c10d.PrefixStore(f"run-{len(_met)}", _met[0])


# torchrun keeps its place for names when it restarts the processes, with all that those before have
# left there. So process 0 gives the meeting a new name, and whoever comes asks for it by a name
# that is new as well.


def _led_meeting(place: Any, size: int) -> str:
    """Return a name for the meeting once all others have it.

    Raises:
        RuntimeError: they do not come.
    """
    meeting = uuid.uuid4().hex
    missing = set(range(1, size))
    until = time.monotonic() + WAIT_SECONDS
    while missing:
        if time.monotonic() > until:
            raise RuntimeError(f"process {min(missing)} has not come")
        for rank in sorted(missing):
            if place.check([f"arrived/{rank}"]):
                place.set(f"answer/{place.get(f'arrived/{rank}').decode()}", meeting)
            if place.check([f"{meeting}/{rank}"]):
                missing.remove(rank)
        time.sleep(0.02)
    return meeting


def _joined_meeting(place: Any, rank: int) -> str:
    """Return the name that process 0 has given to the meeting."""
    own = uuid.uuid4().hex
    place.set(f"arrived/{rank}", own)
    meeting = place.get(f"answer/{own}").decode()  # waits for it
    place.set(f"{meeting}/{rank}", "")
    return meeting


@contextmanager
def _left_to_first(group: Group) -> Iterator[None]:
    """Let process 0 alone act on Ctrl-C, SIGTERM and SIGHUP: the others stop when it does."""
    if group.is_first:
        yield
        return
    before = [signal.signal(number, signal.SIG_IGN) for number in STOPPING]
    try:
        yield
    finally:
        for number, old in zip(STOPPING, before, strict=True):
            signal.signal(number, old)


def _end_with_launcher() -> None:
    """Have the system end this process when `tintype train --processes` is killed."""
    if os.environ.get(LAUNCHED) and sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL("libc.so.6").prctl(set_parent_death_signal, signal.SIGKILL)
