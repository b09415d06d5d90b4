"""Text on streams that cannot encode all of it, such as a pipe or a file on Windows."""

from __future__ import annotations

import codecs
import io
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
