"""A local HTTP server that says what a test tells it: a fake at the edge of the network."""

from __future__ import annotations

import json
import ssl
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class HttpRequest:
    """What arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True)
class HttpAnswer:
    """What goes back; ``body`` is sent as JSON unless it is text or bytes."""

    status: int = 200
    body: Any = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    def content(self) -> bytes:
        """Return the body's bytes."""
        if isinstance(self.body, bytes):
            return self.body
        return (self.body if isinstance(self.body, str) else json.dumps(self.body)).encode()


class _Server(ThreadingHTTPServer):
    """Says nothing of clients that go away, or do not like its certificate: tests look at those."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class ScriptedHttpServer:
    """Answers on 127.0.0.1, for shapes that a real server cannot be made to give.

    With ``tls`` it speaks HTTPS. :meth:`script` says what the next requests to a path get; the
    last answer is repeated. Anything else is a 404 with an empty body. What came in stands in
    :attr:`requests`. Thread-safe.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[HttpRequest] = []
        self._answers: dict[tuple[str, str], list[HttpAnswer]] = {}
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self._scheme = "http" if tls is None else "https"
        if tls is not None:
            # The handshake is for the connection's thread: here it would hold up all others.
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def address(self) -> str:
        """The URL to send requests to."""
        return f"{self._scheme}://127.0.0.1:{self._server.server_port}"

    def script(self, method: str, path: str, *answers: HttpAnswer) -> None:
        """Answer requests to ``path`` with ``answers``, one after the other."""
        with self._lock:
            self._answers[method, path] = list(answers)

    def count(self, path: str) -> int:
        """Return how many requests to ``path`` have arrived."""
        with self._lock:
            return sum(request.path == path for request in self.requests)

    def __enter__(self) -> ScriptedHttpServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _next(self, request: HttpRequest) -> HttpAnswer:
        with self._lock:
            self.requests.append(request)
            answers = self._answers.get((request.method, urlsplit(request.path).path))
            if not answers:
                return HttpAnswer(404, b"")
            return answers.pop(0) if len(answers) > 1 else answers[0]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        script = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                headers = {name.lower(): value for name, value in self.headers.items()}
                answer = script._next(HttpRequest(self.command, self.path, headers, body))
                content = answer.content()
                self.send_response(answer.status)
                headers = {"Content-Type": "application/json", **answer.headers}
                for name, value in headers.items():
                    self.send_header(name, value)
                if answer.status != 204:
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if answer.status != 204:
                    self.wfile.write(content)

            do_GET = do_POST = do_PUT = answer  # noqa: N815 - the base class's names

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        return Handler
