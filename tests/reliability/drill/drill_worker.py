"""A real worker whose jobs are light: they sleep and leave a dataset without layers, in a thread instead of a process.

Everything else is what it is: sessions, claims, leases, logs, seals, publication. So a thousand jobs on twenty workers
take minutes on two cores. ``python drill_worker.py JOURNAL TRICK ...`` takes the options of ``voxelworks worker``.

What a job has really done stands in the journal, which the server never sees: lines ``job attempt event``. A trick is
empty or what this worker does otherwise than others: `fails` every job; speaks an `old` protocol; or has a wrong clock,
as `clock:OFFSET_S:SPEED`.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import drill_workflows

from voxelworks.cli import main
from voxelworks.client import Client
from voxelworks.errors import Cancelled, Interrupted, VoxelworksError
from voxelworks.protocol.messages import ChildProgress, ChildSealed, Progress
from voxelworks.protocol.places import Places
from voxelworks.settings import Settings
from voxelworks.worker import attempt
from voxelworks.worker.child import describe, parse
from voxelworks.worker.process import Exited
from voxelworks.workflows import PlacesResolver, StopFlag, get_workflow, run_attempt


class DrillProcess:
    """Stands in for `worker.process.JobProcess`."""

    journal: Path

    def __init__(self, spec: Any, *, log: Any, events: Any, **_more: Any) -> None:
        self._spec = spec
        self._log = log
        self._events = events
        self._stop = StopFlag()
        self._status = 0
        self.peak_memory_bytes = 1
        self.is_cleaned_up = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def measure(self) -> int:
        return 1

    def ask_to_stop(self, reason: str) -> None:
        self._stop.set(Cancelled("the job was cancelled") if reason == "cancel" else Interrupted("stopped"))

    def kill(self) -> None:
        self._stop.set(Interrupted("killed"))

    def clean_up(self) -> int:
        self._thread.join()
        self.is_cleaned_up.set()
        return self._status

    # A `Reporter` for the workflow

    def progress(self, progress: Progress) -> None:
        self._events.put(ChildProgress(progress=progress))

    def log(self, text: str) -> None:
        self._log.write(f"{text}\n".encode())

    def _run(self) -> None:
        spec = self._spec
        self._note("begins")
        try:
            settings = Settings(**spec.settings)
            workflow = get_workflow(spec.workflow)
            sealed = run_attempt(
                workflow, parse(workflow, spec), resolver=PlacesResolver(spec.places, Places.of(settings).locate),
                work_key=spec.work_key, attempt=spec.attempt, settings=settings, cluster="serial", reporter=self,
                stop=self._stop,
            )  # fmt: skip
            self._note("sealed")
            self._events.put(ChildSealed(result=sealed))
        except (VoxelworksError, OSError) as error:
            self._status = 1
            self._note(f"stopped:{type(error).__name__}")
            self._events.put(describe(error))
        self._events.put(Exited())

    def _note(self, event: str) -> None:
        # One write at the end of the file: lines of several processes do not mix.
        descriptor = os.open(self.journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(descriptor, f"{self._spec.work_key} {self._spec.attempt} {event}\n".encode())
        os.close(descriptor)


def end_with_parent() -> None:
    """Die with the process that started this one: a test that is stopped leaves no workers behind."""
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, 9, 0, 0, 0)


def play(trick: str) -> None:
    kind, _, rest = trick.partition(":")
    if kind == "fails":
        drill_workflows.is_broken = True
    elif kind == "old":
        speak_old_protocol()
    elif kind == "clock":
        set_clock(*map(float, rest.split(":")))


def speak_old_protocol() -> None:
    """Send only what the first version of the protocol knew, and ignore what it did not know."""

    def post(client: Client, path: str, body: Any, **options: Any) -> Any:
        if path == "worker/sessions":
            body = {name: body[name] for name in ("name", "version", "workflows", "job_slots")} | {
                "protocol": 1
            }
        elif path.endswith("/claim"):
            body = {}
        return original(client, path, body, **options)

    original = Client._post
    Client._post = post  # type: ignore[method-assign]


def set_clock(offset_s: float, speed: float) -> None:
    """Let the clocks of this process be wrong: by an offset, and too fast or too slow."""
    monotonic, wall = time.monotonic, time.time
    began, wall_began = monotonic(), wall()
    time.monotonic = lambda: began + (monotonic() - began) * speed
    time.time = lambda: wall_began + offset_s + (wall() - wall_began) * speed


if __name__ == "__main__":
    end_with_parent()
    DrillProcess.journal = Path(sys.argv[1])
    play(sys.argv[2])
    attempt.JobProcess = DrillProcess  # type: ignore[misc,assignment]
    main(["worker", *sys.argv[3:]])
