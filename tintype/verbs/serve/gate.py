"""What every request passes: name of the host, token, size of the body, time, safe headers; and the
count for /metrics.
"""

from __future__ import annotations

import base64
import hmac
import logging
import time
from collections.abc import Mapping, MutableMapping

import anyio
from starlette.requests import ClientDisconnect

from tintype.tasks.contract.problems import Problem
from tintype.tasks.contract.routes import Application, Message, Receive, Scope, Send
from tintype.verbs.serve.service import Service

log = logging.getLogger("tintype.verbs.serve")

COOKIE = "tintype_token"
OPEN_TO_ALL = ("/", "/docs", "/openapi.json", "/healthz", "/readyz", "/v1/session", "/favicon.ico")
# The rest of a refused upload is read and thrown away for so long, so that its sender sees the
# answer.
LINGER_SECONDS = 10.0
UPLOADS_AT_ONCE = 16  # of the largest size; smaller ones, more
# An upload that stands still holds what it has sent so far. It has to go on within some seconds,
# and to keep a pace that the slowest of phones keeps.
STILL_SECONDS = 10.0
LEAST_BYTES_A_SECOND = 1_000
SMALL = 65_536  # bytes; after a refused upload of more, the connection is closed

# The page needs scripts and styles of this service, pictures that it made itself, and nothing else.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"geolocation=(), microphone=(), payment=()"),
]


class Gate:
    """The outermost layer of the application.

    Args:
        app: what answers.
        service: the models behind it, with the limits that hold. Its names of the host refuse a
            page of another site that had its own name point here (DNS rebinding).
        routes: addresses that are counted under their own name.
        direct: what answers a POST to an address in the place of `app`.
    """

    def __init__(
        self,
        app: Application,
        service: Service,
        routes: frozenset[str],
        direct: Mapping[str, Application],
    ) -> None:
        self.app = app
        self.service = service
        self.routes = routes
        self.direct = direct

        settings = service.settings
        self.hosts = settings.hosts
        self.seconds = settings.timeout
        self._token = None if settings.token is None else settings.token.encode()
        self.max_body = int(settings.max_upload_mb * 1e6)
        self.max_bytes = UPLOADS_AT_ONCE * self.max_body
        self._bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        start, path = time.perf_counter(), scope["path"]
        if scope["method"] == "HEAD":  # the server leaves the body out
            scope = {**scope, "method": "GET"}
        headers = dict(scope["headers"])

        exchange = Exchange(self, headers, receive, send)
        try:
            self._check(path, headers, exchange)
            app = self.direct.get(path, self.app) if scope["method"] == "POST" else self.app
            with anyio.move_on_after(self.seconds) as limit:
                await app(scope, exchange.receive, exchange.send)
            if limit.cancelled_caught and not exchange.status:
                raise Problem(
                    "timeout",
                    f"no answer within {self.seconds:g} seconds. Send less, or a smaller picture.",
                )
        except Problem as problem:
            await exchange.refuse(problem)
        except ClientDisconnect:  # in the middle of its upload: there is nobody to answer
            pass
        except Exception:
            log.exception("%s %s failed", scope["method"], path)
            await exchange.refuse(
                Problem(
                    "internal", "something unexpected happened; the log of the service says more."
                )
            )
        finally:
            self._bytes -= exchange.held
            seconds = time.perf_counter() - start
            self.service.measures.request(self._route(path), exchange.status or 499, seconds)

    def _route(self, path: str) -> str:
        """Return under which name a request is counted."""
        if path in self.routes:
            return path
        return "/reports" if path.startswith("/reports/") else "other"

    def _check(self, path: str, headers: MutableMapping[bytes, bytes], exchange: Exchange) -> None:
        host = headers.get(b"host", b"").decode("latin-1")
        if self.hosts is not None and _without_port(host) not in self.hosts:
            raise Problem(
                "host",
                f"the service is not known as {host!r}. "
                "Start it with --allow-host NAME to allow it.",
            )

        public = path in OPEN_TO_ALL or path.startswith("/static/")
        if self._token is not None and not public and not self.allows(headers):
            raise Problem(
                "token",
                "send the header Authorization: Bearer TOKEN.",
                {"WWW-Authenticate": 'Bearer realm="tintype"'},
            )

        declared = headers.get(b"content-length", b"")
        if declared.isdigit():
            exchange.check_size(int(declared), declared=True)

    def allows(self, headers: MutableMapping[bytes, bytes]) -> bool:
        """Return whether a request shows the token, in its header or in the cookie that the page
        keeps.
        """
        scheme, _, shown = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"bearer":
            return self.is_token(shown.strip())
        for pair in headers.get(b"cookie", b"").split(b";"):
            name, _, value = pair.strip().partition(b"=")
            if name == COOKIE.encode():
                return self.is_token(_unpacked(value))
        return False

    def is_token(self, shown: bytes) -> bool:
        """Return whether it is the token, in a time that does not tell how much of it is right."""
        return self._token is not None and hmac.compare_digest(shown, self._token)

    def take(self, count: int) -> bool:
        """Hold so many bytes, if there is room."""
        if self._bytes + count > self.max_bytes:
            return False
        self._bytes += count
        return True


class Exchange:
    """One request and its answer: counts the bytes of the body, adds the headers, remembers the
    status.
    """

    def __init__(
        self, gate: Gate, headers: MutableMapping[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        self.gate, self._receive, self._send = gate, receive, send
        self.status, self.held = 0, 0
        self._begun: float | None = None  # when the body was first waited for
        length = headers.get(b"content-length", b"0")
        self._whole = length == b"0" and b"transfer-encoding" not in headers
        self._small = (
            length.isdigit() and int(length) <= SMALL and b"transfer-encoding" not in headers
        )

    def check_size(self, total: int, *, declared: bool = False) -> None:
        """Refuse a body of more bytes than are taken at once.

        Raises:
            Problem: it is too large.
        """
        if total > self.gate.max_body:
            size = f"{total / 1e6:,.0f} MB, " if declared else ""
            raise Problem(
                "too-large",
                f"{size}more than the {self.gate.max_body / 1e6:,.0f} MB that are taken at once.",
            )

    async def receive(self) -> Message:
        """Return the next piece of the body, and count the bytes that are held.

        A promise of bytes holds nothing.

        Raises:
            Problem: the body is too large, too many are held, or it stands still.
        """
        if self._whole:  # the body is here; what is waited for is that the client goes
            return await self._receive()

        now = time.monotonic()
        self._begun = now if self._begun is None else self._begun
        with anyio.move_on_after(STILL_SECONDS) as limit:
            message = await self._receive()
        too_slow = time.monotonic() - self._begun > STILL_SECONDS + self.held / LEAST_BYTES_A_SECOND
        if limit.cancelled_caught or too_slow:
            raise Problem(
                "slow",
                f"{self.held:,} bytes of the upload came, and no more for too long. Send it again.",
            )

        if message["type"] == "http.request":
            self._whole = not message.get("more_body", False)
            self._hold(len(message.get("body", b"")))
        return message

    def _hold(self, count: int) -> None:
        self.check_size(self.held + count)
        if not self.gate.take(count):
            raise Problem(
                "busy", "too many uploads at once. Try again in a second.", {"Retry-After": "1"}
            )
        self.held += count

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            names = {name for name, _ in message["headers"]}
            own = [
                (b"content-security-policy", PAGE_POLICY.encode()),
                (b"cache-control", b"no-store"),
                *HEADERS,
            ]
            message["headers"] = [
                *message["headers"],
                *((name, value) for name, value in own if name not in names),
            ]

        await self._send(message)

    async def refuse(self, problem: Problem) -> None:
        """Answer with a problem, and read on for a while, so that a sender in the middle of an
        upload sees it.
        """
        if self.status:  # too late: a part of another answer is out
            return
        response = problem.response()
        headers = [*response.raw_headers, *([] if self._small else [(b"connection", b"close")])]
        await self.send(
            {"type": "http.response.start", "status": response.status_code, "headers": headers}
        )
        await self._send({"type": "http.response.body", "body": response.body, "more_body": True})
        with anyio.move_on_after(LINGER_SECONDS):
            await self._throw_rest_away()
        await self._send({"type": "http.response.body", "body": b""})

    async def _throw_rest_away(self) -> None:
        thrown = 0
        while not self._whole and thrown < 16 * self.gate.max_body:
            message = await self._receive()
            thrown += len(message.get("body", b""))
            self._whole = message["type"] != "http.request" or not message.get("more_body", False)


def _unpacked(value: bytes) -> bytes:
    """Return what a cookie holds, which cannot hold every letter as it is."""
    try:
        return base64.urlsafe_b64decode(value.strip(b'"'))
    except ValueError:
        return b""


def _without_port(host: str) -> str:
    name, _, port = host.rpartition(":")
    return (name if name and port.isdigit() else host).lower()
