"""Runs the server until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from voxelworks.client import ServerInfo
from voxelworks.db import open_database
from voxelworks.errors import InvalidInput, NotAllowed
from voxelworks.server.app import create_app
from voxelworks.server.context import Context
from voxelworks.server.keys import Keys, announced
from voxelworks.server.security import is_loopback
from voxelworks.settings import Settings

log = logging.getLogger(__name__)

STOP_GRACE_S = 15.0
"""How long `on_stop` may take before the server stops answering, in seconds."""
DRAIN_S = 5.0
"""How long requests that were being answered may take to end, in seconds."""


def serve(
    settings: Settings,
    *,
    on_ready: Callable[[ServerInfo], None] | None = None,
    on_stop: Callable[[], None] | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Run the server until SIGTERM, SIGINT or `stop`.

    It then asks `on_stop`, takes no more requests, ends open streams and returns (rule R23). Nothing that matters is
    lost with the process: everything is in the database.

    Parameters
    ----------
    settings
    on_ready
        Called in a thread of its own once requests are answered. An error of it stops the server and is raised here.
    on_stop
        Called in a thread of its own before the server stops answering; it may take up to 15 seconds, so that a
        worker can report what it was doing.
    stop
        Set it to stop the server from another thread.

    Raises
    ------
    NotAllowed
        If the address is not a loopback address.
    InvalidInput
        If the address cannot be listened on, or the database cannot be used.
    """
    listener = _listen(settings)
    with listener:
        database = open_database(settings)
        try:
            keys = Keys.prepare(settings.home)
            host, port = listener.getsockname()[:2]
            url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            info = ServerInfo(url=url, token=keys.token, pid=os.getpid())
            # No access log: the first address of a browser carries the token.
            config = uvicorn.Config(
                create_app(settings, database, keys), log_config=None, access_log=False, server_header=False,
                lifespan="on", timeout_graceful_shutdown=int(DRAIN_S), proxy_headers=False, ws="none",
            )  # fmt: skip
            server = _Server(config, info=info, on_ready=on_ready, on_stop=on_stop, stop=stop)
            with announced(settings.home, info), _signals_survived(server):
                server.run(sockets=[listener])
            if server.failure is not None:
                raise server.failure
        finally:
            database.close()


class _Server(uvicorn.Server):
    """uvicorn's server, which also tells when it is ready and ends streams before it waits for them."""

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        info: ServerInfo,
        on_ready: Callable[[ServerInfo], None] | None,
        on_stop: Callable[[], None] | None,
        stop: threading.Event | None,
    ) -> None:
        super().__init__(config)
        self.failure: BaseException | None = None
        self._info = info
        self._on_ready = on_ready
        self._on_stop = on_stop
        self._stop = stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._on_ready is not None:
            # A thread that the end of the server does not wait for: whoever is told may talk to the server at length.
            threading.Thread(target=self._tell_ready, name="on-ready", daemon=True).start()

    async def on_tick(self, counter: int) -> bool:
        if self._stop is not None and self._stop.is_set():
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._on_stop is not None:
            await self._tell_stop()
        context: Context = self.config.app.state.context  # type: ignore[union-attr]
        # Streams stay open for as long as a page is; without this the shutdown would wait for them in vain.
        context.live.closing.set()
        await super().shutdown(sockets)

    def _tell_ready(self) -> None:
        assert self._on_ready is not None
        try:
            self._on_ready(self._info)
        except BaseException as error:
            self.failure = error
            self.should_exit = True

    async def _tell_stop(self) -> None:
        assert self._on_stop is not None
        done = threading.Event()
        on_stop = self._on_stop

        def tell() -> None:
            try:
                on_stop()
            except BaseException as error:
                self.failure = self.failure or error
            finally:
                done.set()

        threading.Thread(target=tell, name="on-stop", daemon=True).start()
        for _ in range(int(STOP_GRACE_S / 0.05)):
            # A second signal says: at once.
            if done.is_set() or self.force_exit:
                return
            await asyncio.sleep(0.05)
        log.warning("gave up waiting for the workers after %g s", STOP_GRACE_S)


def _listen(settings: Settings) -> socket.socket:
    """Bind the address, so that a used one is refused before anything else happens."""
    if not is_loopback(settings.host):
        raise NotAllowed(
            f"host {settings.host!r}: until there are accounts the server listens on loopback only; use 127.0.0.1, and"
            f" reach it from elsewhere through `ssh -L {settings.port}:127.0.0.1:{settings.port} HOST`"
        )
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
        listener.listen(256)
    except OSError as error:
        listener.close()
        raise InvalidInput(
            f"cannot listen on {settings.host}:{settings.port} ({error.strerror});"
            " choose another port, or 0 for a free one"
        ) from error
    return listener


@contextmanager
def _signals_survived(server: uvicorn.Server) -> Iterator[None]:
    """Let SIGTERM and SIGINT end the server, but not the process: the caller has things to put away."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        server.should_exit = True

    # uvicorn handles the signals itself while it runs, and raises them once more when it is done.
    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
