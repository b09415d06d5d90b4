"""Errors over HTTP: problem details as JSON (RFC 9457), each kind with an address at which it is
explained.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"


class Kind(NamedTuple):
    """A kind of error: status, title, and what it means."""

    status: int
    title: str
    meaning: str


KINDS = {
    "malformed": Kind(
        400,
        "The request cannot be read",
        "The body is not the JSON or multipart that it says it is.",
    ),
    "slow": Kind(
        408,
        "The upload stands still",
        "No byte of the body came for ten seconds, or they come too slowly.",
    ),
    "token": Kind(
        401,
        "A token is needed",
        "The service was started with --token; send Authorization: Bearer TOKEN.",
    ),
    "unknown": Kind(404, "There is no such thing here", "No such address, model or report."),
    "method": Kind(
        405, "The method is not allowed", "The address is right, but takes another method."
    ),
    "too-large": Kind(
        413,
        "The upload is too large",
        "More bytes or more files than the service was started to take.",
    ),
    "media-type": Kind(
        415, "The content type is not taken", "Send multipart/form-data, or the bytes with image/*."
    ),
    "host": Kind(
        421, "The service is not known by this name", "A name that was not given by --allow-host."
    ),
    "invalid": Kind(422, "A value cannot be", "A parameter is unknown, missing or out of bounds."),
    "unreadable": Kind(
        422, "The image cannot be read", "Not an image, damaged, or of too many pixels."
    ),
    "busy": Kind(
        429, "Too much at once", "The queue is full; try again after the seconds of Retry-After."
    ),
    "internal": Kind(
        500,
        "A fault of the service",
        "A fault of tintype, not of yours; the log of the service says more.",
    ),
    "stopping": Kind(
        503, "The service is stopping", "It answers what it has accepted, and takes no more."
    ),
    "timeout": Kind(
        504,
        "It took too long",
        "No answer within --timeout seconds: a slow upload, or too much work.",
    ),
}
_OF_STATUS = {
    400: "malformed",
    401: "token",
    404: "unknown",
    405: "method",
    413: "too-large",
    415: "media-type",
}


def json_bytes(content: Any) -> bytes:
    """Return compact JSON in UTF-8, whatever characters a client or a file name put into it.

    A lone surrogate has no UTF-8; it stays the escape that JSON has for it.
    """
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")


class Problem(Exception):
    """An error for whoever sent the request: a kind of KINDS, and what happened, in one or two
    sentences.
    """

    def __init__(self, kind: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.kind, self.detail, self.headers = kind, detail, dict(headers or {})

    def describe(self) -> dict[str, Any]:
        """Return the members of RFC 9457."""
        kind = KINDS[self.kind]
        return {
            "type": f"/docs#{self.kind}",
            "title": kind.title,
            "status": kind.status,
            "detail": self.detail,
        }

    def response(self) -> Response:
        """Return the whole answer."""
        return Response(
            json_bytes(self.describe()),
            KINDS[self.kind].status,
            self.headers,
            media_type=MEDIA_TYPE,
        )


def of_status(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Problem:
    """Return the problem for a status that a library chose."""
    return Problem(
        _OF_STATUS.get(status, "malformed" if status < 500 else "internal"), detail, headers
    )
