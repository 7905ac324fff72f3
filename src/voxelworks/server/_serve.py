"""Runs the server until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import uvicorn
from fastapi import FastAPI

from voxelworks import accounts, catalog
from voxelworks.client import ServerInfo
from voxelworks.db import Database, open_database
from voxelworks.protocol.places import Places
from voxelworks.server.app import create_app
from voxelworks.server.binding import BACKLOG, Listeners, check_settings, require_set_up
from voxelworks.server.context import Context
from voxelworks.server.keys import Keys, announced
from voxelworks.settings import Settings

log = logging.getLogger(__name__)

STOP_GRACE_S = 15.0
"""How long `on_stop` may take before the server stops answering, in seconds."""
KEEP_ALIVE_S = 75
"""How long an idle connection stays open, in seconds: longer than workers and people take between two requests. Closing
one at the moment in which it is used again looks to its client like a server that is away."""
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
        If others than this machine would reach the server unprotected, or before anybody can log in.
    InvalidInput
        If the address cannot be listened on, settings contradict each other, or the database cannot be used.
    """
    check_settings(settings)
    with closing(Listeners.bind(settings)) as listeners, closing(open_database(settings)) as database:
        # A free port is known only now; links in mails name it.
        settings = settings.model_copy(update={"port": listeners.main.getsockname()[1]})
        _prepare(settings, database)
        keys = Keys.prepare(settings.home, database)
        info = ServerInfo(url=listeners.own_url, token=keys.token, pid=os.getpid())
        server = _Server(
            _config(settings, create_app(settings, database, keys)), own=listeners.own, info=info, on_ready=on_ready,
            on_stop=on_stop, stop=stop,
        )  # fmt: skip
        with announced(settings.home, info), _signals_survived(server):
            server.run(sockets=[listeners.main])
        if server.failure is not None:
            raise server.failure


def _prepare(settings: Settings, database: Database) -> None:
    """See that there is a first user, and that files lie where this version looks for them."""
    with database.session() as session:
        accounts.prepare(session)
        for name in catalog.adopt_old_layout(session, Places.of(settings)):
            log.info("dataset %s moved to the folder of its organization", name)
    if moved := catalog.adopt_old_annotations(settings):
        log.info("%d files of annotations moved to the folder of datasets", moved)
    require_set_up(settings, database)


def _config(settings: Settings, app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(
        # No access log: the first address of a browser carries the token.
        app, log_config=None, access_log=False, server_header=False, lifespan="on", ws="none",
        timeout_keep_alive=KEEP_ALIVE_S, timeout_graceful_shutdown=int(DRAIN_S),
        ssl_certfile=settings.tls_certificate, ssl_keyfile=settings.tls_key,
        proxy_headers=bool(settings.trusted_proxies), forwarded_allow_ips=sorted(settings.trusted_proxies),
    )  # fmt: skip


class _Server(uvicorn.Server):
    """uvicorn's server, which also tells when it is ready and ends streams before it waits for them."""

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        own: socket.socket | None,
        info: ServerInfo,
        on_ready: Callable[[ServerInfo], None] | None,
        on_stop: Callable[[], None] | None,
        stop: threading.Event | None,
    ) -> None:
        super().__init__(config)
        self.failure: BaseException | None = None
        self._own = own
        self._info = info
        self._on_ready = on_ready
        self._on_stop = on_stop
        self._stop = stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._own is not None:
            await self._listen_for_own_programs(self._own)
        if self.started and self._on_ready is not None:
            # A thread that the end of the server does not wait for: whoever is told may talk to the server at length.
            threading.Thread(target=self._tell_ready, name="on-ready", daemon=True).start()

    async def _listen_for_own_programs(self, own: socket.socket) -> None:
        """Serve plain http beside TLS: commands and workers of this machine need no certificate that they trust."""
        config = self.config

        def create_protocol() -> asyncio.Protocol:
            # As the superclass does for its own sockets, except for TLS.
            return config.http_protocol_class(  # type: ignore[call-arg]
                config=config, server_state=self.server_state, app_state=self.lifespan.state
            )

        loop = asyncio.get_running_loop()
        self.servers.append(await loop.create_server(create_protocol, sock=own, backlog=BACKLOG))

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
