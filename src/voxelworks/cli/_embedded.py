"""The worker that a server brings along: a process of its own that lives as long as the server."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from typing import IO

from voxelworks.cli._settings import SECRETS, environment_of
from voxelworks.settings import Settings

STOP_S = 12.0
"""How long the worker may take to stop its jobs and say so; less than the server waits for it."""
RESTART_S = 1.0

_logger = logging.getLogger(__name__)


class EmbeddedWorker:
    """Runs `voxelworks worker --embedded` and starts it anew should it die.

    It holds the other end of this process's pipe: if this process is killed, the worker and its jobs end by themselves.

    Parameters
    ----------
    settings
        Of the server: the worker has the same folders.
    log
        Where it writes; by default to the standard error of this process.
    """

    def __init__(self, settings: Settings, *, log: IO[bytes] | None = None) -> None:
        self._settings = settings
        self._log = log
        self._is_stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper = threading.Thread(target=self._keep, name="embedded worker", daemon=True)

    def start(self) -> None:
        self._process = self._spawn()
        self._keeper.start()

    def stop(self) -> None:
        """Let it interrupt its jobs and report that, while the server still listens."""
        self._is_stopping.set()
        process = self._process
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            _logger.warning("the worker did not stop within %.0f s; its jobs are ended", STOP_S)
        assert process.stdin is not None
        process.stdin.close()
        process.wait()

    def _spawn(self) -> subprocess.Popen[bytes]:
        secret = {"VOXELWORKS_TOKEN", *(f"VOXELWORKS_{name.upper()}" for name in SECRETS)}
        inherited = {name: value for name, value in os.environ.items() if name not in secret}
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "voxelworks", "worker", "--embedded"],
            stdin=subprocess.PIPE,
            stdout=self._log if self._log is not None else sys.stderr.fileno(),
            stderr=subprocess.STDOUT,
            env=inherited | environment_of(self._settings),
            # Ctrl-C in the terminal is for the server, which then stops the worker in good order.
            start_new_session=True,
        )

    def _keep(self) -> None:
        while True:
            assert self._process is not None
            status = self._process.wait()
            if self._is_stopping.is_set():
                return
            _logger.error("the embedded worker ended with status %d; it is started again", status)
            time.sleep(RESTART_S)
            if self._is_stopping.is_set():
                return
            self._process = self._spawn()
