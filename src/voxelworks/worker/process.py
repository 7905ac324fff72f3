"""The process of a job: started apart from everything else, watched, and gone with all it started when it ends."""

from __future__ import annotations

import ctypes
import logging
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from voxelworks.ops import cache
from voxelworks.protocol.messages import ChildMessage
from voxelworks.worker import limits
from voxelworks.worker.capabilities import VISIBLE_GPUS
from voxelworks.worker.ending import StopReason
from voxelworks.worker.logs import LogSpool
from voxelworks.worker.spec import CANCEL, SCRATCH_PREFIX, TIME_OVER, JobSpec

GONE_S = 10.0
"""How long killed processes may take to disappear, in seconds; longer only in the middle of a failing file system."""
SOCKET_PATH_MAX = 107 if sys.platform == "linux" else 103
SOCKET_NAME_LENGTH = len("/pymp-12345678/listener-12345678")
"""What `multiprocessing` adds to the temporary folder for the socket of its fork server."""

_PASSED_ON = frozenset({
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV",
    "CONDA_PREFIX", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "NO_PROXY", "no_proxy",
    "CUDA_DEVICE_ORDER",
})  # fmt: skip
"""Environment variables that a job gets. All others stay out: keys and addresses of databases live in such."""
_PROXIES = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"})
"""Passed on too, unless they carry a password."""

_WORDS: dict[StopReason, bytes] = {"cancel": CANCEL, "walltime": TIME_OVER}
"""What a job is told when it is asked to stop."""

_messages: TypeAdapter[ChildMessage] = TypeAdapter(Annotated[ChildMessage, Field(discriminator="type")])
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exited:
    """The first process of the job has ended; others of its group may still run."""


@dataclass(frozen=True)
class Ordered:
    """The server or the operator wants the job to stop."""

    reason: StopReason


Event = ChildMessage | Exited | Ordered


class JobProcess:
    """A process in a session and process group of its own, with a folder for temporary files of its own.

    If the spec says how, it is also shut in. `kernels` is the folder of compiled functions that it then gets a copy of.
    Of the GPUs it sees `gpu`, or none.
    It ends when this one dies: its standard input closes then, and a watcher in the group ends the group.
    """

    def __init__(
        self,
        spec: JobSpec,
        *,
        log: LogSpool,
        events: queue.SimpleQueue[Event],
        kernels: Path | None = None,
        gpu: str = "",
    ) -> None:
        adopt_orphans()
        self._events = events
        self._log = log
        self.peak_memory_bytes = 0
        self.is_cleaned_up = threading.Event()
        self._scratch = make_scratch()
        messages_out, messages_in = os.pipe()
        self._popen = subprocess.Popen(
            [sys.executable, "-P", "-u", "-m", "voxelworks.worker.child", str(messages_in)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            pass_fds=(messages_in,),
            start_new_session=True,
            cwd=self._scratch,
            env=clean_environment(self._scratch) | self._compiled(spec, kernels) | {VISIBLE_GPUS: gpu},
        )
        os.close(messages_in)
        self._readers = [
            threading.Thread(target=self._read_messages, args=(messages_out,), daemon=True),
            threading.Thread(target=self._read_log, daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        threading.Thread(target=self._wait, daemon=True).start()
        self._write(self._with_scratch(spec).model_dump_json().encode() + b"\n")

    @property
    def group(self) -> int:
        return self._popen.pid

    def measure(self) -> int:
        """Give the memory that the job uses now, in bytes, and remember the peak."""
        used = limits.group_memory_bytes(self.group)
        self.peak_memory_bytes = max(self.peak_memory_bytes, used)
        return used

    def ask_to_stop(self, reason: StopReason) -> None:
        """Send SIGTERM to the first process; it stops those that it started in the right order itself."""
        self._write(_WORDS.get(reason, b""))
        with suppress(ProcessLookupError):
            os.kill(self._popen.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to all processes of the job."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.group, signal.SIGKILL)

    def clean_up(self) -> int:
        """End what is left of the job; give the exit status of its first process, negative for a signal.

        After this no process of the group runs, all that was printed is in the log, and the temporary files are gone.
        """
        self.kill()
        status = self._popen.wait()
        self._wait_until_group_is_gone()
        for reader in self._readers:
            reader.join(GONE_S)
        assert self._popen.stdin is not None
        self._popen.stdin.close()
        shutil.rmtree(self._scratch, ignore_errors=True)
        self.is_cleaned_up.set()
        return status

    def _compiled(self, spec: JobSpec, kernels: Path | None) -> dict[str, str]:
        """Give an isolated job its own copy of the compiled functions: what it adds to them, nobody else shall run."""
        if spec.confinement is None:
            return {}
        folder = self._scratch / "kernels"
        if kernels is not None:
            shutil.copytree(kernels, folder)
        return {cache.VARIABLE: str(folder)}

    def _with_scratch(self, spec: JobSpec) -> JobSpec:
        view = spec.confinement
        if view is None:
            return spec
        view = view.model_copy(update={"writable": (*view.writable, str(self._scratch))})
        return spec.model_copy(update={"confinement": view})

    def _write(self, data: bytes) -> None:
        assert self._popen.stdin is not None
        rest = memoryview(data)
        with suppress(BrokenPipeError):
            while rest:
                rest = rest[os.write(self._popen.stdin.fileno(), rest) :]

    def _read_messages(self, descriptor: int) -> None:
        with os.fdopen(descriptor, "rb") as stream:
            for line in stream:
                try:
                    self._events.put(_messages.validate_json(line))
                except ValidationError:
                    _logger.warning("a job sent a message that cannot be read: %.200r", line)

    def _read_log(self) -> None:
        assert self._popen.stdout is not None
        with self._popen.stdout as stream:
            while data := stream.read(65536):
                self._log.write(data)

    def _wait(self) -> None:
        # Its number stays taken until `clean_up` has ended the group: no stranger can be hit.
        if hasattr(os, "waitid"):
            os.waitid(os.P_PID, self._popen.pid, os.WEXITED | os.WNOWAIT)
        else:
            self._popen.wait()
        # Others of the group may hold the other end of the pipes.
        self.kill()
        self._readers[0].join(GONE_S)
        self._events.put(Exited())

    def _wait_until_group_is_gone(self) -> None:
        deadline = time.monotonic() + GONE_S
        while time.monotonic() < deadline:
            with suppress(ChildProcessError):
                while os.waitpid(-self.group, os.WNOHANG)[0]:
                    pass
            try:
                os.killpg(self.group, signal.SIGKILL)
            except ProcessLookupError:
                return
            except PermissionError:
                pass  # macOS answers so for processes that are ending
            time.sleep(0.01)
        _logger.warning("processes of group %d do not end although they were killed", self.group)


def make_scratch() -> Path:
    """Make a folder for the temporary files of a job, in the usual place unless its path is too long for sockets."""
    usual = tempfile.gettempdir()
    is_short = len(usual) + len(f"/{SCRATCH_PREFIX}12345678") + SOCKET_NAME_LENGTH <= SOCKET_PATH_MAX
    return Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX, dir=usual if is_short else "/tmp")).resolve()  # noqa: S108


def clean_environment(scratch: Path) -> dict[str, str]:
    """Give the environment of a job: what programs need to run, and no secret."""
    kept = {name: value for name, value in os.environ.items() if _is_passed_on(name, value)}
    # The last one: ONNX Runtime would tell its makers of the networks that it runs.
    return kept | {"TMPDIR": str(scratch), "ORT_DISABLE_TELEMETRY": "1"}


def _is_passed_on(name: str, value: str) -> bool:
    return name in _PASSED_ON or name.startswith("LC_") or (name in _PROXIES and "@" not in value)


def adopt_orphans() -> None:
    """Make the processes that an ended job leaves behind children of this one, which waits for them.

    Otherwise they would be left to process 1, which in many containers waits for nobody.
    """
    if sys.platform == "linux":
        set_child_subreaper = 36
        ctypes.CDLL(None).prctl(set_child_subreaper, 1, 0, 0, 0)
