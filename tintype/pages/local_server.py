"""A web server for pages that are meant for the person at this machine, and for nobody else."""

from __future__ import annotations

import sys
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from tintype.errors import UserError
from tintype.files import system

LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Of pages of our own: nothing is fetched from elsewhere, and no other page may frame them.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HTML, JSON, TEXT = "text/html; charset=utf-8", "application/json", "text/plain"


class LocalHandler(BaseHTTPRequestHandler):
    """Answers GET and HEAD; a subclass says what there is, and may take POST.

    Attributes:
        hosts: names under which requests may come; empty for any.
    """

    hosts: tuple[str, ...] = LOOPBACK

    server_version, sys_version = "tintype", ""
    protocol_version = "HTTP/1.1"
    timeout = 30

    def answer(self, path: str) -> None:
        """Send an answer to a request for a path, without its query."""
        raise NotImplementedError

    def do_GET(self) -> None:
        self.check_and_answer()

    def do_HEAD(self) -> None:
        self.check_and_answer()

    def check_and_answer(self) -> None:
        """Answer, unless the request came by a name that leads here and is not this machine's."""
        try:
            host = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
            path = urlsplit(self.path).path
        except ValueError:  # such as a bracket without its other half
            self.refuse(HTTPStatus.BAD_REQUEST, "the host or the address cannot be read")
            return

        # a foreign page that has its name resolved to this machine
        if self.hosts and host not in self.hosts:
            self.refuse(HTTPStatus.MISDIRECTED_REQUEST, "unknown host")
            return
        self.answer(path)

    def refuse(self, status: HTTPStatus, why: str) -> None:
        """Answer with a line of text."""
        # The body of a refused request may not have been read, and is no request of its own.
        self.close_connection |= self.command not in ("GET", "HEAD")
        self.send(status, why.encode(), TEXT)

    def send(self, status: HTTPStatus, content: bytes, kind: str, policy: str = POLICY) -> None:
        """Answer with content of a media type, and with the headers that keep it where it is."""
        self.send_response(status)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cache-Control": "no-cache",
        }

        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        del format, args  # a page asks often


class LocalServer(ThreadingHTTPServer):
    """A thread for each request; a client that goes away, or sends what is no HTTP, leaves no
    traceback.
    """

    daemon_threads = True

    def server_bind(self) -> None:
        self.allow_reuse_address = not system.WINDOWS  # where two servers would get one port
        super().server_bind()

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, ConnectionError | TimeoutError):
            print(f"the page could not answer a request: {error!r}", file=sys.stderr)


def local_server(
    handler: Callable[..., BaseHTTPRequestHandler], host: str, port: int
) -> LocalServer:
    """Return a server that listens already; port 0 takes any that is free.

    Raises:
        UserError: nothing can be listened on there.
    """
    if not 0 <= port <= 65_535:
        raise UserError(f"--port is {port}. Expected 0 to 65535.")
    try:
        return LocalServer((host, port), handler)
    except OSError as error:
        raise UserError(
            f"cannot listen on {host}:{port}: {error}. Choose another --port, "
            "or 0 for any that is free."
        ) from None
