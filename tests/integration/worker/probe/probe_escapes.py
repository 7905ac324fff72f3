"""Workflows that try to get out of their isolation, and tell how far they came."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator

from voxelworks.geometry import VoxelSize
from voxelworks.workflows import FREE, Job, NewDataset, NewDatasetRef, Params, workflow
from voxelworks.workflows._declare import Outcome


def _lines(value: object) -> object:
    return "\n".join(value) if isinstance(value, list) else value


class EscapeParams(Params):
    """What to try."""

    tries: Annotated[str, BeforeValidator(_lines)] = ""
    """Each as `VERB ARGUMENT`, on a line of its own."""


class EscapeOutcome(Outcome):
    """How far each try came."""

    kind = "value"
    found: dict[str, str]


@workflow(version=1, cost=FREE, example={"tries": ["read /etc/shadow"]}, group="Test")
def probe_escape(params: EscapeParams, job: Job) -> EscapeOutcome:
    """Try to get out."""
    return EscapeOutcome(found={text: attempt(text) for text in params.tries.splitlines()})


class EscapeDatasetParams(Params):
    """What to try while making a dataset."""

    target: NewDatasetRef
    """Dataset to make."""

    tries: Annotated[str, BeforeValidator(_lines)] = ""
    """Each as `VERB ARGUMENT`, on a line of its own."""


@workflow(version=1, cost=FREE, example={"target": "made"}, group="Test")
def probe_escape_dataset(params: EscapeDatasetParams, job: Job) -> NewDataset:
    """Make an empty dataset, and try to get out meanwhile; the log tells how far each try came."""
    dataset = job.start_dataset(params.target, VoxelSize(10, 10, 10), inputs=[])
    for text in params.tries.splitlines():
        print(f"{text} -> {attempt(text)}", flush=True)
    dataset.write_metadata()
    return NewDataset(dataset=str(params.target), layers=())


def attempt(text: str) -> str:
    verb, _, argument = text.partition(" ")
    try:
        return globals()[f"_{verb}"](argument)
    except OSError as error:
        return type(error).__name__ if type(error) is not OSError else f"OSError {error.errno}"


def _read(path: str) -> str:
    return f"{len(Path(path).read_bytes())} bytes"


def _list(path: str) -> str:
    return " ".join(sorted(name for name in os.listdir(path)))


def _write(path: str) -> str:
    with open(path, "a") as stream:
        stream.write("x")
    return "written"


def _connect(address: str) -> str:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=5):
        return "connected"


def _connect_file(path: str) -> str:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path.replace("@", "\0"))
        return "connected"


def _kill(pid: str) -> str:
    os.kill(int(pid), signal.SIGKILL)
    return "killed"


def _processes(_: str) -> str:
    return str(sum(name.isdecimal() for name in os.listdir("/proc")))


def _capabilities(_: str) -> str:
    lines = Path("/proc/self/status").read_text().splitlines()
    return " ".join(line.split()[1] for line in lines if line.startswith(("CapPrm:", "CapEff:", "CapBnd:")))


def _unshare(flags: str) -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(int(flags, 0)):
        raise OSError(ctypes.get_errno(), "unshare")
    return "unshared"


def _remount(path: str) -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    remount_and_bind = 32 | 4096
    if libc.mount(None, path.encode(), None, ctypes.c_ulong(remount_and_bind), None):
        raise OSError(ctypes.get_errno(), "mount")
    return "remounted"


def _unmount(path: str) -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(path.encode(), 2):
        raise OSError(ctypes.get_errno(), "umount")
    return "unmounted"


def _stay_behind(marker: str) -> str:
    """Leave a process that has left the session and the group of the job."""
    subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)", marker],
        start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return "left"


def _wait(seconds: str) -> str:
    time.sleep(float(seconds))
    return "waited"


def _die(number: str) -> str:
    os.kill(os.getpid(), int(number))
    time.sleep(10)
    return "lives"
