"""Blocks that report what they do in files, wait, fail and die."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

from voxelworks.errors import StorageFailed, UnsupportedDtype


def double(number: int) -> int:
    return 2 * number


def process_id(_: int) -> int:
    return os.getpid()


def variable(name: str) -> str:
    return os.environ[name]


def tensorstore_threads(_: int) -> object:
    from voxelworks.volumes import storage

    return storage.context()["data_copy_concurrency"].to_json()


def wait_for_go(folder: Path, number: int) -> int:
    """Append the process id to the block's file, then wait for the file `go`."""
    with (folder / f"{number}.started").open("a") as file:
        file.write(f"{os.getpid()}\n")
    while not (folder / "go").exists():
        time.sleep(0.01)
    (folder / f"{number}.ended").touch()
    return number


def wait_for_go_unless_small(folder: Path, number: int) -> int:
    """Do the first blocks at once."""
    if number < 3:
        with (folder / f"{number}.started").open("a") as file:
            file.write(f"{os.getpid()}\n")
        return number
    return wait_for_go(folder, number)


def write_slowly(folder: Path, number: int) -> int:
    """Write a file of known bytes in small steps, and give it its name at the end."""
    draft = folder / f"{number}.{os.getpid()}.draft"
    with draft.open("wb") as file:
        for step in range(10):
            file.write(bytes([number, step]))
            time.sleep(0.005)
    draft.replace(folder / f"{number}.bytes")
    return number


def die_by_signal(number: int) -> NoReturn:
    os.kill(os.getpid(), number)
    raise AssertionError("still alive")


def die_by_segfault_once(folder: Path, number: int) -> int:
    if not (folder / f"{number}.died").exists():
        (folder / f"{number}.died").touch()
        die_by_signal(signal.SIGSEGV)
    return number


def die_once_before_its_child(folder: Path, number: int) -> int:
    """Leave a child behind that holds all open files of the worker for a while."""
    if not (folder / f"{number}.died").exists():
        (folder / f"{number}.died").touch()
        if os.fork() == 0:
            time.sleep(2)
            os._exit(0)
        die_by_signal(signal.SIGKILL)
    return number


def leave(status: int) -> NoReturn:
    sys.exit(status)


class DifficultError(Exception):
    """Cannot be rebuilt from its arguments."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


def fail_with(what: str) -> object:
    if what == "unpicklable result":
        return lambda: None
    raise {
        "difficult error": DifficultError(1, 2),
        "bad input": UnsupportedDtype("float16 is not supported"),
        "storage": StorageFailed("the store is gone"),
        "value": ValueError("seven"),
    }[what]
