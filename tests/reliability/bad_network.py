"""A proxy between workers and their server that behaves like a bad network."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

HALF_OPEN_S = 40.0
"""How long a connection stays open without an answer: longer than anybody waits."""


@dataclass(frozen=True)
class Weather:
    """How often things go wrong, as shares of all requests."""

    delay_max_s: float = 3.0
    cut: float = 0.10
    """The connection ends, half of the time after the server has done what was asked."""
    duplicate: float = 0.05
    """The server gets the request twice; the second answer is passed on."""
    half_open: float = 0.01
    """Nobody answers, and nobody hangs up."""


class BadNetwork:
    """Passes requests on to a server, badly.

    Parameters
    ----------
    port
        Of the server, on this machine. It may be changed.
    weather
    seed
    """

    def __init__(self, port: int, weather: Weather, seed: int) -> None:
        self.port = port
        self.weather = weather
        self.happened: Counter[str] = Counter()
        self.uploaded_bytes = 0
        """Of the bodies of PUT requests that the server has answered."""
        self._dice = random.Random(seed)
        self._lock = threading.Lock()
        network = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                with suppress(ConnectionError, socket.timeout):
                    super().handle_one_request()

            def do_GET(self) -> None:
                network.carry(self)

            do_POST = do_PUT = do_DELETE = do_GET

            def log_message(self, *_: object) -> None: ...

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def carry(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("content-length", 0)))
        fate, delay_s, is_late = self._fate()
        time.sleep(delay_s)
        if fate == "half_open":
            time.sleep(HALF_OPEN_S)
        if fate == "half_open" or (fate == "cut" and not is_late):
            self._hang_up(request)
            return
        try:
            answer, content = self._ask(request, body)
            if fate == "duplicate":
                answer, content = self._ask(request, body)
        except OSError:  # the server itself is away
            self._hang_up(request)
            return
        if request.command == "PUT":
            with self._lock:
                self.uploaded_bytes += len(body)
        if fate == "cut":
            self._hang_up(request)
            return
        request.send_response(answer.status)
        for name in ("content-type", "retry-after"):
            if answer.headers.get(name):
                request.send_header(name, answer.headers[name])
        request.send_header("content-length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    def _fate(self) -> tuple[str, float, bool]:
        weather = self.weather
        with self._lock:
            throw, delay_s, is_late = (
                self._dice.random(), self._dice.uniform(0, weather.delay_max_s), self._dice.random() < 0.5,
            )  # fmt: skip
            fate = "passed"
            for name in ("cut", "duplicate", "half_open"):
                share = getattr(weather, name)
                if throw < share:
                    fate = name
                    break
                throw -= share
            self.happened[fate] += 1
        return fate, delay_s, is_late

    def _ask(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[HTTPResponse, bytes]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {
            name: value
            for name, value in request.headers.items()
            if name.lower() not in ("host", "connection")
        }
        try:
            connection.request(request.command, request.path, body=body or None, headers=headers)
            answer = connection.getresponse()
            return answer, answer.read()
        finally:
            connection.close()

    @staticmethod
    def _hang_up(request: BaseHTTPRequestHandler) -> None:
        request.close_connection = True
        with suppress(OSError):
            request.connection.shutdown(socket.SHUT_RDWR)
