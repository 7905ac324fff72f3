"""A real server that does one thing otherwise: ``python drill_server.py TRICK ...`` takes what `voxelworks` takes.

A trick is `clock:FILE`: the database tells another time, ahead by the seconds that stand in a file, which is read
whenever it is asked. Or it is `old`: workers meet a server of protocol 1. What that version did not know is taken from
their requests, as it ignored it, and from the answers. All the rest is the server of today.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from voxelworks.cli import main
from voxelworks.db import now_ms
from voxelworks.server import _serve

WORKER_ROUTES = "/api/v1/worker"
Fields = frozenset[str]
SESSION_REQUEST = frozenset({"name", "version", "protocol", "workflows", "job_slots"})
SESSION_ANSWER = frozenset({"session_id", "poll_s"})
CLAIM = frozenset({
    "job_id", "attempt", "token", "workflow", "version", "params", "places", "work_key", "lease_s", "renew_s",
    "cancel_grace_s",
})  # fmt: skip


def play(trick: str) -> None:
    kind, _, rest = trick.partition(":")
    if kind == "clock":
        move_clock(Path(rest))
    elif kind == "old":
        speak_old_protocol()


def move_clock(file: Path) -> None:
    def tell(
        connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool
    ) -> tuple[str, Any]:
        asked = str(now_ms().compile(dialect=connection.dialect))
        if asked not in statement:
            return statement, parameters
        ahead_ms = round(float(file.read_text()) * 1000)
        return statement.replace(asked, f"({asked} + {ahead_ms})"), parameters

    event.listen(Engine, "before_cursor_execute", tell, retval=True)


def speak_old_protocol() -> None:
    create = _serve.create_app

    def create_old(*arguments: Any) -> Any:
        app = create(*arguments)
        app.add_middleware(OldProtocol)
        return app

    _serve.create_app = create_old


class OldProtocol:
    """Middleware that takes from requests and answers of workers what protocol 1 did not know."""

    def __init__(self, app: Callable[..., Any]) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        if path == f"{WORKER_ROUTES}/sessions":
            await self._translate(scope, receive, send, _old_session_request, SESSION_ANSWER)
        elif re.fullmatch(f"{WORKER_ROUTES}/sessions/[^/]+/claim", path):
            await self._translate(scope, receive, send, lambda _: b"", CLAIM)
        else:
            await self._app(scope, receive, send)

    async def _translate(
        self, scope: Any, receive: Any, send: Any, old_request: Callable[[bytes], bytes], known: Fields
    ) -> None:
        body, has_more = b"", True
        while has_more:
            message = await receive()
            body, has_more = body + message.get("body", b""), message.get("more_body", False)
        request = old_request(body)
        is_given = False

        async def give() -> Any:
            nonlocal is_given
            if is_given:
                return await receive()
            is_given = True
            return {"type": "http.request", "body": request, "more_body": False}

        start: Any = None
        answer = b""

        async def take(message: Any) -> None:
            nonlocal start, answer
            if message["type"] == "http.response.start":
                start = message
                return
            answer += message.get("body", b"")
            if message.get("more_body", False):
                return
            if start["status"] == 200:
                answer = json.dumps(
                    {name: value for name, value in json.loads(answer).items() if name in known}
                ).encode()
            start["headers"] = _with_length(start["headers"], len(answer), start["status"])
            await send(start)
            await send({"type": "http.response.body", "body": answer})

        scope["headers"] = _with_length(scope["headers"], len(request), 200)
        await self._app(scope, give, take)


def _old_session_request(body: bytes) -> bytes:
    told = json.loads(body)
    return json.dumps({name: told[name] for name in SESSION_REQUEST & told.keys()} | {"protocol": 1}).encode()


def _with_length(headers: Any, length: int, status: int) -> list[tuple[bytes, bytes]]:
    others = [(name, value) for name, value in headers if name.lower() != b"content-length"]
    return others if status == 204 else [*others, (b"content-length", str(length).encode())]


if __name__ == "__main__":
    play(sys.argv[1])
    main(sys.argv[2:])
