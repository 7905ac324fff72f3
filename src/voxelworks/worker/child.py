"""The process of one job: runs one attempt of one workflow, as the worker says.

``python -m voxelworks.worker.child MESSAGE_FD``: the job comes as one line on standard input, messages leave on the
given descriptor (`protocol.messages.ChildMessage`), all that is printed is the log.
"""

from __future__ import annotations

import errno
import faulthandler
import os
import select
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from voxelworks.errors import (
    Cancelled,
    DiskFull,
    FailureClass,
    Interrupted,
    ResourcesExceeded,
    TimedOut,
    VoxelworksError,
)
from voxelworks.protocol.messages import (
    ChildFailed,
    ChildMessage,
    ChildProgress,
    ChildSealed,
    Progress,
    SealedResult,
)
from voxelworks.protocol.places import Places
from voxelworks.settings import Settings
from voxelworks.worker import limits, namespaces
from voxelworks.worker.spec import CANCEL, SCRATCH_PREFIX, TIME_OVER, JobSpec

if TYPE_CHECKING:
    from voxelworks.workflows import Params, Workflow

_DISK_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT}
_RESOURCE_ERRNOS = {errno.ENOMEM, errno.EFBIG, errno.EMFILE}
_STORAGE_ERRNOS = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENETUNREACH}


def main() -> None:
    message_fd = int(sys.argv[1])
    os.set_inheritable(message_fd, False)
    end_with_worker(message_fd)
    faulthandler.enable()
    messages = _Messages(message_fd)
    spec = JobSpec.model_validate_json(_read_line())
    limits.apply_to_this_process(spec.memory_bytes_max)
    try:
        if spec.confinement is not None:
            # Goes on in another process, which has this one's streams.
            namespaces.enter(spec.confinement)
        messages.send(ChildSealed(result=_run(spec, messages)))
        status = 0
    except BaseException as error:
        failure = describe(error)
        if failure.failure_class == "program_error":
            traceback.print_exc()
        else:
            print(f"{failure.code}: {failure.message}")
        messages.send(failure)
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # The result is sealed: whatever libraries do while they are torn down cannot spoil it any more.
    os._exit(status)


def end_with_worker(message_fd: int) -> None:
    """Start a watcher in this process group that ends the group, and its temporary files, when the worker dies.

    It is a process, not a thread: a job that is busy in native code may not let a thread run. It is forked before
    anything big is loaded, and costs hardly any memory.
    """
    if os.fork():
        return
    for kind in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(kind, signal.SIG_IGN)
    for descriptor in (1, 2, message_fd):
        os.close(descriptor)
    # Only the worker holds the other end. Asking for no events reports the hang-up alone and takes no data away.
    poll = select.poll()
    poll.register(0, 0)
    while not any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll()):
        time.sleep(0.1)
    scratch = Path.cwd()
    if scratch.name.startswith(SCRATCH_PREFIX):
        shutil.rmtree(scratch, ignore_errors=True)
    os.killpg(os.getpgid(0), signal.SIGKILL)


def describe(error: BaseException) -> ChildFailed:
    """Turn an error into what the server is told: its class decides about another try."""
    outcome: Literal["failed", "cancelled", "interrupted"] = "failed"
    if isinstance(error, Cancelled | Interrupted):
        outcome = "cancelled" if isinstance(error, Cancelled) else "interrupted"
    failure_class, code = _classify(error)
    message = (
        str(error) if isinstance(error, VoxelworksError) else f"{type(error).__name__}: {error}".rstrip(": ")
    )
    return ChildFailed(outcome=outcome, failure_class=failure_class, code=code, message=message)


def _classify(error: BaseException) -> tuple[FailureClass, str]:
    if isinstance(error, VoxelworksError) and error.failure_class != "program_error":
        return error.failure_class, error.code
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno in _DISK_FULL_ERRNOS:
            return "resources", DiskFull.code
        if isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno in _RESOURCE_ERRNOS):
            return "resources", ResourcesExceeded.code
        if isinstance(cause, OSError) and cause.errno in _STORAGE_ERRNOS:
            return "infrastructure", "storage-failed"
        if isinstance(cause, VoxelworksError) and cause.failure_class != "program_error":
            return cause.failure_class, cause.code
    return "program_error", error.code if isinstance(error, VoxelworksError) else "program-error"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


class _Messages:
    """Sends messages to the worker: whole lines, from any thread."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def send(self, message: ChildMessage) -> None:
        data = memoryview(message.model_dump_json().encode() + b"\n")
        with self._lock:
            while data:
                data = data[os.write(self._descriptor, data) :]

    # A `Reporter` for the workflow

    def progress(self, progress: Progress) -> None:
        self.send(ChildProgress(progress=progress))

    def log(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def _run(spec: JobSpec, reporter: _Messages) -> SealedResult:
    from voxelworks.workflows import PlacesResolver, StopFlag, get_workflow, run_attempt

    stop = StopFlag()

    def stop_job(*_: object) -> None:
        stop.set(_why_stopped())

    signal.signal(signal.SIGTERM, stop_job)
    # What fits is planned with the limit that is enforced, which may be less than what the worker gives to other jobs.
    settings = Settings(**{**spec.settings, "memory_bytes_max": spec.memory_bytes_max})
    workflow = get_workflow(spec.workflow)
    return run_attempt(
        workflow,
        parse(workflow, spec),
        resolver=PlacesResolver(spec.places, Places.of(settings).locate, spec.secrets),
        work_key=spec.work_key,
        attempt=spec.attempt,
        settings=settings,
        cluster=spec.cluster,
        reporter=reporter,
        stop=stop,
    )


def parse(workflow: Workflow, spec: JobSpec) -> Params:
    """Read the params of a job, also those of a job that was submitted before the workflow's last change of meaning."""
    if workflow.upgrade is not None and spec.version == workflow.version - 1:
        return workflow.parse(workflow.upgrade(spec.params))
    return workflow.parse(spec.params)


def _why_stopped() -> VoxelworksError:
    readable, _, _ = select.select([0], [], [], 0)
    word = os.read(0, len(CANCEL) + len(TIME_OVER)) if readable else b""
    if CANCEL in word:
        return Cancelled("the job was cancelled")
    if TIME_OVER in word:
        return TimedOut("the job has taken all the time that its workflow allows")
    return Interrupted("the worker was asked to stop; the job goes on elsewhere")


def _read_line() -> bytes:
    # Unbuffered: what follows is read when a signal comes.
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            break
        line += byte
    return bytes(line)


if __name__ == "__main__":
    main()
