"""The log of an attempt: kept on disk from the moment it is printed, sent to the server byte by byte."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import time

from voxelworks.client import Client
from voxelworks.errors import LeaseLost, LogGap, VoxelworksError
from voxelworks.worker.lease import may_pass

CHUNK_BYTES = 256 * 2**10
SEND_EVERY_S = 0.5
RETRY_S = 2.0

_logger = logging.getLogger(__name__)


class LogSpool:
    """What a job has printed. One writer, any number of readers."""

    def __init__(self, bytes_max: int) -> None:
        # One chunk more than the server keeps: it sees that something is missing, and says so in the log.
        self._bytes_max = bytes_max + CHUNK_BYTES
        # Without a name: a worker that is killed leaves nothing behind.
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - open as long as the spool
        self.size = 0

    def write(self, data: bytes) -> None:
        """Keep `data`; what is too much, or finds no room on the disk, is dropped. The job never waits for its log."""
        kept = memoryview(data)[: self._bytes_max - self.size]
        try:
            while kept:
                written = os.pwrite(self._file.fileno(), kept, self.size)
                self.size += written
                kept = kept[written:]
        except OSError as error:
            _logger.warning("the rest of a job's log is lost: %s", error)
            self._bytes_max = self.size

    def read(self, offset: int, count: int) -> bytes:
        return os.pread(self._file.fileno(), min(count, self.size - offset), offset)

    def last_lines(self, count: int = 12, bytes_max: int = 2048) -> str:
        """Give the end of the log as text, whole lines where possible."""
        start = max(0, self.size - bytes_max)
        text = self.read(start, bytes_max).decode(errors="replace")
        if start:
            text = text.partition("\n")[2] or text
        return "\n".join(text.rstrip().splitlines()[-count:])

    def close(self) -> None:
        self._file.close()


class LogForwarder(threading.Thread):
    """Sends a spool to the server. Every chunk carries its offset; the server answers how far it has got.

    Delays and lost answers never lose, repeat or mix bytes: what counts is the offset that the server tells.
    """

    def __init__(self, spool: LogSpool, client: Client, job_id: str, attempt: int, token: str) -> None:
        super().__init__(name=f"log of {job_id}.{attempt}", daemon=True)
        self._spool = spool
        self._client = client
        self._job_id, self._attempt, self._token = job_id, attempt, token
        self._offset = 0
        self._changed = threading.Condition()
        self._is_ending = False
        self._give_up_at = float("inf")
        self._is_refused = False
        self._has_ended = False

    def finish(self, timeout_s: float) -> bool:
        """Say that nothing more will be printed, and wait until the server has everything; say whether it has."""
        with self._changed:
            self._is_ending = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._is_sent or self._has_ended, timeout_s)
            return self._is_sent

    def stop(self, timeout_s: float) -> None:
        """End the thread, after `timeout_s` seconds even if something was not sent."""
        self._give_up_at = time.monotonic() + timeout_s
        self.finish(timeout_s)
        if self.is_alive():
            self.join(timeout_s)

    def run(self) -> None:
        try:
            while not self._is_over():
                self._go_on()
        finally:
            # Also if it ends by a defect: nobody waits for what will never be sent.
            with self._changed:
                self._has_ended = True
                self._changed.notify_all()

    def _go_on(self) -> None:
        """Send what is new, or wait for it."""
        if self._offset == self._spool.size:
            with self._changed:
                self._changed.wait(SEND_EVERY_S)
            return
        try:
            self._send()
        except VoxelworksError as error:
            if may_pass(error):
                time.sleep(min(RETRY_S, max(0.0, self._give_up_at - time.monotonic())))
                return
            _logger.warning("job %s: the server takes no more log: %s", self._job_id, error)
            self._is_refused = True

    @property
    def _is_sent(self) -> bool:
        return self._is_refused or (self._is_ending and self._offset == self._spool.size)

    def _is_over(self) -> bool:
        return self._is_sent or time.monotonic() >= self._give_up_at

    def _send(self) -> None:
        data = self._spool.read(self._offset, CHUNK_BYTES)
        try:
            offset = self._client.append_log(self._job_id, self._attempt, self._token, self._offset, data)
        except LogGap as gap:
            offset = gap.offset
        if offset > self._spool.size:
            raise LeaseLost(f"the server has {offset} bytes of a log of {self._spool.size}")
        self._offset = offset
