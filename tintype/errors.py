"""UserError, for mistakes that a user can mend, and Interrupted, for a run that was stopped."""

from __future__ import annotations

import difflib
import mimetypes
import signal
import traceback
from collections.abc import Iterable
from pathlib import Path

from tintype.interface.spelling import spelled

PACKAGE = Path(__file__).parent
MOST_NAMES = 20  # in a message; longer lists have a command that shows them


class UserError(Exception):
    """A mistake that the user can mend.

    Its message has one or two lines: what happened, what was expected, what to type.
    The command line prints the message without a traceback and exits with code 2 (`--debug` shows
    the traceback). The message is written for the command line; in Python it speaks of arguments
    in place of options.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(spelled(message))


# What torch, the loader of libraries and the C library say where memory is not enough, of a GPU or
# of the system.
FULL_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "failed to map segment",
)


def memory_is_full(error: BaseException) -> bool:
    """Return whether an error says that there is not enough memory, of a GPU or of the system."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError | ImportError) and any(
        words in text for words in FULL_MEMORY
    )


class OwnCodeError(UserError):
    """The user's own code raised an exception, which is the cause (`__cause__`) of this error.

    The command line prints the traceback of the cause first, and then the message.
    """

    def own_traceback(self) -> str:
        """Return the traceback of the cause from where the user's own code begins."""
        cause = self.__cause__
        if cause is None:
            return ""

        frames = cause.__traceback__
        while frames is not None and _is_ours(frames.tb_frame.f_code.co_filename):
            frames = frames.tb_next
        return "".join(traceback.format_exception(type(cause), cause, frames))


def _is_ours(file: str) -> bool:
    """Return whether a frame is tintype's own, or belongs to the import of a file."""
    return file.startswith("<frozen importlib") or Path(file).is_relative_to(PACKAGE)


def unknown_name(kind: str, name: str, known: Iterable[str], hint: str = "") -> UserError:
    """Return the error for a name that is not there, with the nearest names that are."""
    known = sorted(set(known))
    more = f" and {len(known) - MOST_NAMES:,} more" if len(known) > MOST_NAMES else ""
    listed = f"Known: {', '.join(known[:MOST_NAMES])}{more}." if known else "None is known."
    expected = nearest(name, known, listed)
    return UserError(f"unknown {kind} '{name}'. {expected}" + (f" {hint}" if hint else ""))


def nearest(name: str, known: Iterable[str], otherwise: str) -> str:
    """Ask whether one of the nearest known names was meant; `otherwise` is said if none is near."""
    found = near(name, known)
    return f"Did you mean {' or '.join(map(repr, found))}?" if found else otherwise


def near(name: str, known: Iterable[str], cutoff: float = 0.5) -> list[str]:
    """Return the nearest of the known names, three at most; none if all are far."""
    found = difflib.get_close_matches(name, sorted(set(known)), n=3, cutoff=cutoff)
    likeness = {other: difflib.SequenceMatcher(None, other, name).ratio() for other in found}
    return [other for other in found if likeness[other] > likeness[found[0]] - 0.2]


def no_data_set(path: Path) -> UserError:
    """Return the error for a file in the place of a data set, which says what it is."""
    kind = mimetypes.guess_type(path.name)[0] or ""
    expected = (
        "Expected a folder of images with a folder for each class, "
        "or a list of them (.csv, .tsv, .jsonl)."
    )

    if kind.startswith("image/"):
        return UserError(
            f"'{path}' is one picture, not a .csv. {expected} To ask a model about it: "
            f"tintype predict RUN {path}"
        )
    if path.suffix.lower() in (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar"):
        return UserError(f"'{path}' is an archive. Unpack it, and give the folder. {expected}")
    return UserError(f"'{path}' is a file, but not a .csv. {expected}")


class StopTraining(Exception):
    """Raised by a watcher of the user's own: the run ends well, with the weights that it has.

    Its message says why, as in `StopTraining("accuracy is above 99 %")`.
    """


# What stops a run with its state saved: Ctrl-C, a kill that asks, and a terminal that is closed
# (there is no such signal on Windows).
STOPPING = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


class Interrupted(Exception):
    """Training was stopped by a signal after its state was saved."""

    def __init__(self, number: int, folder: Path, command: str = "tintype train --resume") -> None:
        again = spelled(f"{command} {folder}")
        super().__init__(f"stopped by {signal.Signals(number).name}; continue with: {again}")
        self.number = number
