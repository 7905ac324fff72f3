"""The loop over blocks, on an executor in this process."""

import errno
import threading
from collections.abc import Callable

import pytest
from pydantic import BaseModel

from voxelworks.blocks.checkpoints import Checkpoints
from voxelworks.blocks.executor import SerialExecutor
from voxelworks.blocks.processing import _Pace, process
from voxelworks.errors import BlockFailed, Interrupted, InvalidInput, ResourcesExceeded, StorageFailed
from voxelworks.geometry import Box
from voxelworks.protocol.messages import Progress


def run(items, function: Callable, **options):
    with SerialExecutor() as executor:
        return process(
            items,
            function,
            executor=executor,
            **{"phase": "test", "report": lambda progress: None, "retry_wait_s": 0.0} | options,
        )


class Fails:
    """Fails with each of the errors in turn, then works."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self, item: object) -> object:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return item


class Found(BaseModel):
    box: Box
    largest: int


def test_no_blocks_are_done_at_once_and_told():
    told: list[Progress] = []
    assert run([], abs, report=told.append) == []
    assert told == [Progress(phase="test", done=0, total=0)]


def test_first_and_last_progress_are_told():
    told: list[Progress] = []
    assert run([("a", -1), ("b", -2), ("c", -3)], abs, report=told.append) == [1, 2, 3]
    assert told[0] == Progress(phase="test", done=0, total=3)
    assert told[-1] == Progress(phase="test", done=3, total=3)


def test_progress_is_told_at_most_once_a_second_and_at_least_every_five():
    now_s = 100.0
    told: list[tuple[float, int]] = []
    pace = _Pace(lambda progress: told.append((now_s, progress.done)), "test", 9, clock=lambda: now_s)
    for step in range(200):
        now_s = 100 + step / 10
        pace.tell(min(step, 8) if step < 199 else 9)
    assert told == [(100.0, 0), (101.0, 8), (106.0, 8), (111.0, 8), (116.0, 8), (119.9, 9)]


def test_a_block_that_takes_long_still_gives_signs_of_life(monkeypatch):
    monkeypatch.setattr("voxelworks.blocks.processing.HEARTBEAT_S", 0.01)
    told: list[Progress] = []
    enough = threading.Event()

    def report(progress: Progress) -> None:
        told.append(progress)
        if len(told) == 4:
            enough.set()

    assert run([("a", 0)], lambda _: enough.wait(60), report=report) == [True]
    assert told[:4] == [Progress(phase="test", done=0, total=1)] * 4


def test_failures_that_pass_are_tried_again():
    function = Fails(ValueError("bad luck"), StorageFailed("no answer"), MemoryError())
    assert run([("a", 7)], function, tries=4) == [7]
    assert function.calls == 4


def test_the_last_error_is_told_with_the_name_of_the_block():
    function = Fails(ValueError("one"), ValueError("two"), ValueError("three"))
    with pytest.raises(BlockFailed) as caught:
        run([("0,0,0", 7)], function)
    assert caught.value.message == "block 0,0,0 failed 3 times, at last with ValueError: three"
    assert str(caught.value.__cause__) == "three"


def test_errors_for_the_user_are_raised_as_they_are_and_at_once():
    error = InvalidInput("section 7 is empty")
    function = Fails(error)
    with pytest.raises(InvalidInput) as caught:
        run([("a", 1)], function)
    assert (caught.value, function.calls) == (error, 1)
    assert caught.value.__notes__[-1] == "in block a, try 1"


def test_a_storage_that_never_answers_stays_a_storage_failure():
    function = Fails(*[StorageFailed("no answer") for _ in range(9)])
    with pytest.raises(StorageFailed, match="no answer"):
        run([("a", 1)], function, tries=2)
    assert function.calls == 2


def test_a_full_disk_is_told_at_once():
    function = Fails(OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(ResourcesExceeded) as caught:
        run([("a", 1)], function)
    assert caught.value.message == (
        "block a: [Errno 28] No space left on device; free some disk space and try again"
    )
    assert function.calls == 1


def test_memory_that_runs_out_each_time_is_a_lack_of_resources():
    with pytest.raises(ResourcesExceeded, match="block a ran out of memory 2 times"):
        run([("a", 1)], Fails(MemoryError(), MemoryError()), tries=2)


def test_a_stop_starts_no_more_blocks_and_waits_for_the_one_that_runs():
    begun, ended = threading.Event(), []

    def function(item: int) -> None:
        begun.set()
        ended.append(item)

    def check() -> None:
        if begun.is_set():
            raise Interrupted("the worker was asked to stop")

    with pytest.raises(Interrupted):
        run([(str(number), number) for number in range(1000)], function, check=check)
    assert ended == list(range(len(ended)))
    assert len(ended) < 1000


def test_a_stop_before_the_start_starts_nothing():
    def check() -> None:
        raise Interrupted("the worker was asked to stop")

    function, told = Fails(), []
    with pytest.raises(Interrupted):
        run([("a", 1)], function, check=check, report=told.append)
    assert (function.calls, told) == (0, [])


def test_two_blocks_with_one_key_are_a_mistake():
    with pytest.raises(ValueError, match="two blocks have the same key"):
        run([("a", 1), ("a", 2)], abs)


def test_blocks_that_are_marked_are_not_done_again(tmp_path):
    checkpoints = Checkpoints(tmp_path, "print")
    items = [("a", 1), ("b", 2)]
    told: list[Progress] = []
    assert run(items[:1], lambda item: item * 10, checkpoints=checkpoints) == [10]
    assert run(items, lambda item: item * 100, checkpoints=checkpoints, report=told.append) == [10, 200]
    assert told[0] == Progress(phase="test", done=1, total=2)
    assert run(items, lambda item: item * 1000, checkpoints=checkpoints, phase="next") == [1000, 2000]


def test_results_have_their_type_whether_fresh_or_marked(tmp_path):
    found = Found(box=Box.parse("0,0,0,4,5,6"), largest=7)
    for _ in range(2):
        results = run(
            [("a", 1)], lambda _: found, checkpoints=Checkpoints(tmp_path, "print"), result_type=Found
        )
        assert results == [found]


def test_failed_blocks_leave_no_marker(tmp_path):
    checkpoints = Checkpoints(tmp_path, "print")
    with pytest.raises(BlockFailed):
        run([("a", 1)], Fails(ValueError()), checkpoints=checkpoints, tries=1)
    assert checkpoints.load("test") == {}


def test_nothing_runs_if_a_block_needs_more_memory_than_there_is():
    function = Fails()
    with SerialExecutor(memory_bytes_max=2**40) as executor, pytest.raises(ResourcesExceeded):
        process(
            [("a", 1)],
            function,
            executor=executor,
            phase="test",
            report=lambda progress: None,
            memory_bytes_per_item=2**50,
        )
    assert function.calls == 0
