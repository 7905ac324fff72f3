"""What the tests of all executors share."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from voxelworks.blocks.executor import Executor
from voxelworks.blocks.processing import process

PATIENCE_S = 60.0


def run(
    executor: Executor, function: Callable[[Any], Any], items: Sequence[object], **options: Any
) -> list[Any]:
    """Process items, each under its own text as key."""
    return process(
        [(str(item), item) for item in items],
        function,
        executor=executor,
        **{"phase": "test", "report": lambda progress: None, "retry_wait_s": 0.0} | options,
    )


def wait_until(is_so: Callable[[], object]) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < end_s, "it never came to pass"
        time.sleep(0.01)


def started(folder: Path, number: int) -> list[int]:
    """Process ids of the starts of a block, in order."""
    path = folder / f"{number}.started"
    return [int(line) for line in path.read_text().splitlines()] if path.exists() else []


def is_running(process_id: int) -> bool:
    """Tell whether a process can still do something; what is dead and only not yet cleared away cannot."""
    try:
        return psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
