"""Laws of the loop over blocks, whatever fails and wherever it stops."""

import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from voxelworks.blocks.checkpoints import Checkpoints
from voxelworks.blocks.executor import SerialExecutor
from voxelworks.blocks.processing import process
from voxelworks.errors import Interrupted
from voxelworks.protocol.messages import Progress

failures_per_block = st.lists(st.integers(0, 2), max_size=8)


@given(failures=failures_per_block)
@settings(deadline=None, max_examples=50)
def test_every_block_runs_once_more_than_it_fails(failures):
    runs: Counter[int] = Counter()
    told: list[Progress] = []

    def function(number: int) -> int:
        runs[number] += 1
        if runs[number] <= failures[number]:
            raise ValueError("not yet")
        return number

    items = [(str(number), number) for number in range(len(failures))]
    with SerialExecutor() as executor:
        results = process(
            items, function, executor=executor, phase="test", report=told.append, tries=3, retry_wait_s=0.0
        )
    assert results == list(range(len(failures)))
    assert dict(runs) == {number: failed + 1 for number, failed in enumerate(failures)}
    assert [progress.done for progress in told] == sorted(progress.done for progress in told)


@given(block_count=st.integers(0, 8), stops=st.lists(st.integers(0, 8), max_size=4))
@settings(deadline=None, max_examples=50)
def test_a_job_that_is_stopped_and_resumed_does_each_block_once(block_count, stops):
    runs: Counter[int] = Counter()

    def function(number: int) -> int:
        runs[number] += 1
        return number * 10

    def attempt(stop_after: int | None) -> list[int]:
        def check() -> None:
            if stop_after is not None and sum(runs.values()) >= stop_after:
                raise Interrupted("stop")

        with SerialExecutor() as executor:
            return process(
                [(str(number), number) for number in range(block_count)],
                function,
                executor=executor,
                phase="test",
                report=lambda progress: None,
                check=check,
                checkpoints=Checkpoints(Path(folder), "print"),
            )

    with tempfile.TemporaryDirectory() as folder:
        interrupted = 0
        for stop_after in stops:
            try:
                attempt(stop_after)
            except Interrupted:
                interrupted += 1
        assert attempt(None) == [number * 10 for number in range(block_count)]
    # A block that was running when the stop came is done again, and no other.
    assert sum(runs.values()) <= block_count + interrupted
