"""Server-sent events: text frames on an answer that stays open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.responses import StreamingResponse

PING_S = 15.0
"""A quiet stream says something this often, so that both ends notice a broken connection; in seconds."""


@dataclass(frozen=True)
class Frame:
    """One event."""

    data: str
    event: str | None = None
    id: str | None = None

    def encode(self) -> bytes:
        lines = [] if self.event is None else [f"event: {self.event}"]
        lines += [] if self.id is None else [f"id: {self.id}"]
        # A carriage return would end a line of the protocol too.
        lines += [f"data: {line}" for line in self.data.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
        return ("\n".join(lines) + "\n\n").encode()


PING = b": still here\n\n"


def event_stream(frames: AsyncIterator[Frame | None]) -> StreamingResponse:
    """Answer with a stream of events; None says that nothing happened for `PING_S`."""

    async def encoded() -> AsyncIterator[bytes]:
        # Tells a browser how long to wait before it connects again, in ms.
        yield b"retry: 1000\n\n"
        async for frame in frames:
            yield PING if frame is None else frame.encode()

    return StreamingResponse(encoded(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


async def wait_any(*events: asyncio.Event, timeout_s: float) -> bool:
    """Wait until one of the events is set; False if none was within `timeout_s`."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        done, _ = await asyncio.wait(waiting, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        return bool(done)
    finally:
        for task in waiting:
            task.cancel()
