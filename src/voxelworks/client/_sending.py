"""Sending files to a server, so that nothing has to be sent twice: `Client.upload`.

Whatever breaks off a sending (a cut network, a server that is started anew, Ctrl-C), the same files sent again go on
where it stopped. Several requests are under way at once, as most of the time of each is waiting for the disk and the
network; of one file only one is, because each piece goes on where the file ends.
"""

from __future__ import annotations

import hashlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from voxelworks.errors import (
    IllegalTransition,
    Interrupted,
    InvalidInput,
    ServerUnreachable,
    SourceNotFound,
    StorageFailed,
    TooManyRequests,
)
from voxelworks.protocol.uploads import (
    PIECE_BYTES,
    PIECES_MAX,
    REQUEST_BYTES,
    MissingFile,
    NewFile,
    NewUpload,
    Piece,
    UploadView,
)

if TYPE_CHECKING:
    from voxelworks.client._uploads import UploadCalls

REQUESTS_AT_ONCE = 4
ROUNDS_MAX = 3
"""How often the server is asked what is missing although all was sent: its disk may have lost files."""
BACKOFF_BASE_S, BACKOFF_CAP_S = 0.25, 15.0
PATIENCE_S = 600.0
"""How long a server that does not answer is tried again."""
_T = TypeVar("_T")


def send_files(
    client: UploadCalls,
    files: Mapping[str, Path],
    *,
    is_converted: bool = False,
    on_begun: Callable[[UploadView], object] = lambda _: None,
    on_progress: Callable[[int, int], object] = lambda _done, _total: None,
    patience_s: float = PATIENCE_S,
) -> UploadView:
    """Send files; see `Client.upload`."""
    new = NewUpload(
        files=tuple(_described(path, file) for path, file in files.items()), is_converted=is_converted
    )
    patience = _Patience(patience_s)
    upload = patience.until_answered(lambda: client.begin_upload(new))
    try:
        on_begun(upload)
    except Exception:
        if upload.received_bytes == 0:
            client.remove_upload(upload.id)  # nothing is lost with it, and its room is free again
        raise
    for rounds_left in reversed(range(ROUNDS_MAX)):
        missing = patience.until_answered(lambda: client.missing_files(upload.id))
        done = upload.size_bytes - sum(file.size_bytes - file.received_bytes for file in missing)
        _Sending(client, upload, files, patience, on_progress, done).send(missing)
        _refuse_changed(new, files)
        try:
            while True:
                finished = patience.until_answered(lambda: client.finish_upload(upload.id))
                if finished.state == "complete":
                    return finished
        except IllegalTransition:
            if not rounds_left:
                raise
    raise AssertionError("the last round returns or raises")


class _Patience:
    """Repeats what the server did not answer, with pauses that grow, until it is stopped."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self.stop = threading.Event()

    def until_answered(self, call: Callable[[], _T]) -> _T:
        deadline, pause_s = time.monotonic() + self._patience_s, BACKOFF_BASE_S
        while True:
            if self.stop.is_set():
                raise Interrupted("the upload was stopped; the same command goes on with it")
            try:
                return call()
            except TooManyRequests as error:
                self.stop.wait(error.retry_after_s)
            except (ServerUnreachable, StorageFailed):
                if time.monotonic() > deadline:
                    raise
                self.stop.wait(pause_s * random.uniform(0.5, 1.0))  # noqa: S311
                pause_s = min(2 * pause_s, BACKOFF_CAP_S)


class _Sending:
    """What is sent of one upload."""

    def __init__(
        self,
        client: UploadCalls,
        upload: UploadView,
        files: Mapping[str, Path],
        patience: _Patience,
        on_progress: Callable[[int, int], object],
        done_bytes: int,
    ) -> None:
        self._client = client
        self._upload = upload
        self._files = files
        self._patience = patience
        self._on_progress = on_progress
        self._done_bytes = done_bytes
        self._lock = threading.Lock()

    def send(self, missing: Iterable[MissingFile]) -> None:
        self._count(0)
        with ThreadPoolExecutor(REQUESTS_AT_ONCE, thread_name_prefix="upload") as threads:
            tasks = [threads.submit(self._send_together, files) for files in _together(missing)]
            try:
                wait(tasks, return_when=FIRST_EXCEPTION)
            finally:
                if any(task.done() and task.exception() for task in tasks) or not all(
                    task.done() for task in tasks
                ):
                    self._patience.stop.set()
                    threads.shutdown(wait=False, cancel_futures=True)
        failures = [error for task in tasks if not task.cancelled() and (error := task.exception())]
        for failure in sorted(failures, key=lambda error: isinstance(error, Interrupted)):
            raise failure

    def _send_together(self, files: list[MissingFile]) -> None:
        """Send files whose pieces go into the same requests: several small ones, or one large one."""
        left = {file.number: file for file in files}
        while left:
            pieces = list(self._next_pieces(left.values()))
            answer = self._patience.until_answered(lambda: self._client.send_pieces(self._upload.id, pieces))  # noqa: B023
            for received in answer:
                file = left[received.number]
                self._count(received.received_bytes - file.received_bytes)
                if received.received_bytes == file.size_bytes:
                    del left[file.number]
                else:
                    left[file.number] = file.model_copy(update={"received_bytes": received.received_bytes})

    def _next_pieces(self, files: Iterable[MissingFile]) -> Iterator[tuple[Piece, bytes]]:
        """Read as much as fits into one request, at least one piece."""
        room, count = REQUEST_BYTES, 0
        for file in files:
            with _reading(self._files[file.path]) as stream:
                for offset in range(file.received_bytes, file.size_bytes, PIECE_BYTES):
                    size = min(PIECE_BYTES, file.size_bytes - offset)
                    if count and (size > room or count == PIECES_MAX):
                        return
                    content = os.pread(stream.fileno(), size, offset)
                    if len(content) != size:
                        raise _changed(self._files[file.path])
                    digest = hashlib.sha256(content).hexdigest()
                    yield (
                        Piece(number=file.number, offset=offset, size_bytes=size, sha256=digest),
                        content,
                    )
                    room, count = room - size, count + 1

    def _count(self, more_bytes: int) -> None:
        with self._lock:
            self._done_bytes += more_bytes
            self._on_progress(self._done_bytes, self._upload.size_bytes)


def _together(missing: Iterable[MissingFile]) -> Iterator[list[MissingFile]]:
    """Group files that fit into one request; a larger one stands alone."""
    group: list[MissingFile] = []
    room = 0
    for file in missing:
        size = file.size_bytes - file.received_bytes
        if group and (size > room or len(group) == PIECES_MAX or size > PIECE_BYTES):
            yield group
            group = []
        if not group:
            room = REQUEST_BYTES
        group.append(file)
        room -= size
    if group:
        yield group


def _described(path: str, file: Path) -> NewFile:
    try:
        status = file.stat()
    except OSError as error:
        raise SourceNotFound(f"{file} cannot be read ({error.strerror}); check the name") from error
    return NewFile(path=path, size_bytes=status.st_size, modified_ms=status.st_mtime_ns // 1_000_000)


def _reading(file: Path) -> FileIO:
    try:
        return FileIO(file)
    except OSError as error:
        raise SourceNotFound(f"{file} cannot be read ({error.strerror}); check its rights") from error


def _refuse_changed(new: NewUpload, files: Mapping[str, Path]) -> None:
    """Refuse files of which the beginning and the end may be of different times."""
    for known in new.files:
        if _described(known.path, files[known.path]) != known:
            raise _changed(files[known.path])


def _changed(file: Path) -> InvalidInput:
    return InvalidInput(f"{file} was changed while it was sent; send it again when it is complete")
