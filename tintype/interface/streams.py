"""Streams that cannot encode every text, such as a file on Windows, or whose reader goes away."""

from __future__ import annotations

import codecs
import errno
import io
import os
import signal
from typing import Any

NEAREST = "tintype-nearest"  # a name for `errors=`, as "backslashreplace" is

_IN_ASCII = {
    "→": "->", "−": "-", "–": "-", "—": "-", "…": "...", "×": "x", "±": "+-", "²": "2", "≥": ">=",
    "≤": "<=", "≠": "!=", "·": "-", "✓": "yes", "✗": "no", "\u2009": " ", "\u202f": " ",
}  # fmt: skip


def _nearest(error: UnicodeError) -> tuple[str, int]:
    """Return what stands for characters that cannot be encoded: the nearest sign, or an escape."""
    assert isinstance(error, UnicodeEncodeError)
    found = error.object[error.start : error.end]
    signs = (
        _IN_ASCII.get(sign) or sign.encode("ascii", "backslashreplace").decode() for sign in found
    )
    return "".join(signs), error.end


codecs.register_error(NEAREST, _nearest)


def printable(text: str, stream: Any) -> str:
    """Return a text as a stream can encode it."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, NEAREST).decode(encoding)


def let_print(stream: Any) -> None:
    """Let a stream take any text, such as a file name that is not UTF-8."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors=NEAREST)


class Lasting:
    """A stream whose reader may go away, as `| head` does and a terminal that is closed.

    Whoever listens to SIGHUP, as a training does that then saves its state, gets it. Where it is
    ignored (nohup), the work goes on and its output is dropped; elsewhere the error is raised. What
    a full disk has no room for is dropped everywhere.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text, as far as anybody reads it."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._is_not_written(error)
            return len(text)

    def flush(self) -> None:
        """Hand over what was written, as far as anybody reads it."""
        try:
            self._stream.flush()
        except OSError as error:
            self._is_not_written(error)

    def _is_not_written(self, error: OSError) -> None:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return
        hangup = getattr(signal, "SIGHUP", None)
        listens = hangup is not None and signal.getsignal(hangup) not in (signal.SIG_DFL, None)
        if error.errno not in (errno.EPIPE, errno.EIO) or hangup is None or not listens:
            raise error

        # What the stream still holds is written when Python ends.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        signal.raise_signal(hangup)
