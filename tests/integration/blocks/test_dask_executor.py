"""Blocks on real Dask clusters."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import block_functions
import pytest
from block_helpers import PATIENCE_S, is_running, run, started, wait_until

from voxelworks.blocks.cluster import DaskExecutor
from voxelworks.blocks.executor import Executor, make_executor
from voxelworks.blocks.threads import threads_per_slot
from voxelworks.errors import (
    BlockFailed,
    Cancelled,
    InvalidInput,
    ResourcesExceeded,
    ServerUnreachable,
    StorageFailed,
)

distributed = pytest.importorskip("distributed", reason="the extra `cluster` is not installed")


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    with make_executor("dask", 2, memory_bytes_max=2 * 2**30) as executor:
        yield executor


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A scheduler with one worker, which belong to somebody else."""
    with scheduler() as (address, _), worker_of(address):
        yield address


@contextlib.contextmanager
def scheduler() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    options = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    process = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_scheduler", *options], stderr=subprocess.PIPE, text=True
    )
    line = next(line for line in process.stderr if "Scheduler at:" in line)
    # Read on, so that the pipe never fills.
    reader = threading.Thread(target=process.stderr.read)
    reader.start()
    yield line.split()[-1], process
    process.kill()
    process.wait()
    reader.join()
    process.stderr.close()


@contextlib.contextmanager
def worker_of(address: str) -> Iterator[None]:
    options = ["--nthreads", "2", "--memory-limit", "1GiB", "--no-nanny", "--no-dashboard"]
    process = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_worker", address, *options],
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
    )
    with distributed.Client(address, set_as_default=False) as client:
        client.wait_for_workers(1, timeout=PATIENCE_S)
    yield
    process.kill()
    process.wait()


def test_results_come_in_the_order_of_the_items(executor):
    assert run(executor, block_functions.double, list(range(50))) == list(range(0, 100, 2))


def test_a_cluster_on_this_machine_has_one_process_for_each_slot(executor):
    assert executor.slots == 2
    process_ids = set(run(executor, block_functions.process_id, list(range(20))))
    assert os.getpid() not in process_ids
    assert len(process_ids) == 2
    assert run(executor, block_functions.variable, ["NUMBA_NUM_THREADS"]) == [str(threads_per_slot(2))]


def test_a_killed_worker_costs_only_what_it_was_running(executor, tmp_path):
    def kill_the_worker_of_block_0():
        wait_until(lambda: started(tmp_path, 0) and started(tmp_path, 1))
        os.kill(started(tmp_path, 0)[0], signal.SIGKILL)
        (tmp_path / "go").touch()

    killer = threading.Thread(target=kill_the_worker_of_block_0)
    killer.start()
    assert run(executor, partial(block_functions.wait_for_go, tmp_path), list(range(6))) == list(range(6))
    killer.join()
    assert [len(started(tmp_path, number)) for number in range(6)] == [2, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("what", "kind", "message"),
    [
        ("storage", StorageFailed, "the store is gone"),
        ("value", BlockFailed, "block value failed 2 times, at last with ValueError: seven"),
    ],
)
def test_errors_keep_their_class_and_message(executor, what, kind, message):
    with pytest.raises(kind) as caught:
        run(executor, block_functions.fail_with, [what], tries=2)
    assert str(caught.value) == message


def test_a_cancelled_job_leaves_no_running_block_and_a_cluster_that_works(executor, tmp_path):
    process_ids: set[int] = set()

    def check():
        process_ids.update(process_id for number in range(6) for process_id in started(tmp_path, number))
        if len(process_ids) == 2:
            raise Cancelled("the job was cancelled")

    with pytest.raises(Cancelled):
        run(executor, partial(block_functions.wait_for_go, tmp_path), list(range(6)), check=check)
    assert [process_id for process_id in process_ids if is_running(process_id)] == []
    assert len(list(tmp_path.glob("*.started"))) == 2
    assert run(executor, block_functions.double, [1, 2]) == [2, 4]


def test_blocks_that_need_more_memory_than_a_worker_has_are_refused(executor):
    assert run(executor, block_functions.double, [1]) == [2]
    with pytest.raises(ResourcesExceeded, match="one block needs"):
        run(executor, block_functions.double, [1], memory_bytes_per_item=2**31)


def test_a_cluster_of_somebody_else_is_joined_and_left_running(address):
    for _ in range(2):
        with make_executor(address, 7) as executor:
            assert executor.slots == 2
            assert run(executor, block_functions.double, [1, 2, 3]) == [2, 4, 6]


def test_workers_with_too_many_threads_for_their_memory_are_refused(address):
    with make_executor(address, 2) as executor, pytest.raises(ResourcesExceeded) as caught:
        run(executor, block_functions.double, [1], memory_bytes_per_item=700 * 2**20)
    assert caught.value.message == (
        "a Dask worker with 1024 MiB of memory runs 2 blocks at the same time, but each needs 700 MiB; "
        "use fewer threads or more memory"
    )


def test_a_stop_waits_for_blocks_that_nothing_can_interrupt(address, tmp_path):
    def check():
        if started(tmp_path, 0) and started(tmp_path, 1):
            threading.Timer(0.5, (tmp_path / "go").touch).start()
            raise Cancelled("the job was cancelled")

    with make_executor(address, 2) as executor, pytest.raises(Cancelled):
        run(executor, partial(block_functions.wait_for_go, tmp_path), list(range(6)), check=check)
    assert {path.name for path in tmp_path.glob("*.ended")} == {"0.ended", "1.ended"}
    assert {path.name for path in tmp_path.glob("*.started")} == {"0.started", "1.started"}


def test_a_scheduler_that_dies_is_told_as_such(tmp_path):
    with scheduler() as (address, process), worker_of(address), make_executor(address, 1) as executor:

        def kill_the_scheduler():
            wait_until(lambda: started(tmp_path, 0))
            process.kill()

        killer = threading.Thread(target=kill_the_scheduler)
        killer.start()
        with pytest.raises(ServerUnreachable, match="the connection to the Dask scheduler is lost"):
            run(executor, partial(block_functions.wait_for_go, tmp_path), [0])
        killer.join()


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setattr("voxelworks.blocks.cluster._CONNECT_S", 0.5)
    with pytest.raises(ServerUnreachable, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9: "):
        make_executor("tcp://127.0.0.1:9", 1)


def test_a_batch_system_without_configuration_is_refused_with_the_way_out():
    with pytest.raises(InvalidInput) as caught:
        DaskExecutor.open("slurm", 2)
    assert caught.value.message == (
        "Dask does not know the cores and memory of one slurm job; set jobqueue.slurm.cores in "
        "~/.config/dask/jobqueue.yaml or DASK_JOBQUEUE__SLURM__CORES in the environment"
    )
