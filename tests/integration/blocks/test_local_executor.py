"""The pool of processes, with real processes and real kills."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import block_functions
import psutil
import pytest
from block_helpers import PATIENCE_S, is_running, run, started, wait_until

from voxelworks.blocks.checkpoints import Checkpoints
from voxelworks.blocks.executor import Executor, make_executor
from voxelworks.blocks.local import LocalExecutor
from voxelworks.blocks.memory import PROCESS_BYTES
from voxelworks.blocks.threads import threads_per_slot
from voxelworks.errors import (
    BlockFailed,
    BlockKilled,
    Cancelled,
    ResourcesExceeded,
    StorageFailed,
    UnsupportedDtype,
)


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    with make_executor(None, 2) as executor:
        yield executor


@contextlib.contextmanager
def meanwhile(action: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=action)
    thread.start()
    yield
    thread.join()


def test_results_come_in_the_order_of_the_items(executor):
    assert run(executor, block_functions.double, list(range(50))) == list(range(0, 100, 2))


def test_blocks_run_in_other_processes_that_stay_for_the_next_phase(executor, tmp_path):
    (tmp_path / "go").touch()
    first = set(run(executor, block_functions.process_id, list(range(20))))
    second = set(run(executor, block_functions.process_id, list(range(20))))
    assert second <= {worker.process.pid for worker in executor._workers}
    assert first <= {worker.process.pid for worker in executor._workers}
    assert os.getpid() not in first | second


def test_a_killed_worker_costs_only_the_block_that_it_was_running(executor, tmp_path):
    def kill_the_worker_of_block_0():
        wait_until(lambda: started(tmp_path, 0) and started(tmp_path, 1))
        os.kill(started(tmp_path, 0)[0], signal.SIGKILL)
        wait_until(lambda: len(started(tmp_path, 0)) == 2)
        (tmp_path / "go").touch()

    with meanwhile(kill_the_worker_of_block_0):
        assert run(executor, partial(block_functions.wait_for_go, tmp_path), list(range(6))) == list(range(6))
    assert [len(started(tmp_path, number)) for number in range(6)] == [2, 1, 1, 1, 1, 1]


def test_random_kills_change_no_byte(executor, tmp_path):
    quiet, noisy = tmp_path / "quiet", tmp_path / "noisy"
    quiet.mkdir()
    noisy.mkdir()
    run(executor, partial(block_functions.write_slowly, quiet), list(range(30)))
    killed: set[int] = set()

    def kill_five():
        while len(killed) < 5 and not (noisy / "29.bytes").exists():
            for draft in noisy.glob("*.draft"):
                process_id = int(draft.name.split(".")[1])
                if process_id not in killed:
                    killed.add(process_id)
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process_id, signal.SIGKILL)

    with meanwhile(kill_five):
        results = run(executor, partial(block_functions.write_slowly, noisy), list(range(30)), tries=20)
    assert results == list(range(30))
    assert len(killed) >= 5
    assert {path.name: path.read_bytes() for path in noisy.glob("*.bytes")} == {
        path.name: path.read_bytes() for path in quiet.glob("*.bytes")
    }


def test_a_block_that_crashes_is_tried_again(executor, tmp_path):
    assert run(executor, partial(block_functions.die_by_segfault_once, tmp_path), [1, 2, 3]) == [1, 2, 3]


def test_a_block_that_is_killed_each_time_fails_for_reasons_outside(executor):
    with pytest.raises(BlockKilled) as caught:
        run(executor, block_functions.die_by_signal, [int(signal.SIGKILL)])
    assert caught.value.message == "block 9 failed 3 times, at last with its process was killed by SIGKILL"
    assert caught.value.failure_class == "infrastructure"


def test_a_block_that_crashes_each_time_fails_as_a_program_error(executor):
    with pytest.raises(BlockFailed) as caught:
        run(executor, block_functions.die_by_signal, [int(signal.SIGSEGV)])
    assert caught.value.message == "block 11 failed 3 times, at last with its process was killed by SIGSEGV"
    assert caught.value.failure_class == "program_error"


def test_a_block_that_ends_its_process_fails(executor):
    with pytest.raises(BlockFailed) as caught:
        run(executor, block_functions.leave, [7], tries=1)
    assert caught.value.message == "block 7 failed once, at last with its process ended with exit status 7"


@pytest.mark.parametrize(
    ("what", "kind", "message"),
    [
        ("bad input", UnsupportedDtype, "float16 is not supported"),
        ("storage", StorageFailed, "the store is gone"),
        ("value", BlockFailed, "block value failed 2 times, at last with ValueError: seven"),
        (
            "difficult error",
            BlockFailed,
            "block difficult error failed 2 times, at last with RuntimeError: DifficultError: 1 and 2",
        ),
    ],
)
def test_errors_keep_their_class_and_message(executor, what, kind, message):
    with pytest.raises(kind) as caught:
        run(executor, block_functions.fail_with, [what], tries=2)
    assert str(caught.value) == message
    origin = caught.value.__cause__ or caught.value
    assert "block_functions.py" in "".join(origin.__notes__)


def test_a_result_that_cannot_be_sent_is_an_error_of_the_block(executor):
    with pytest.raises(BlockFailed, match=r"pickle|local object"):
        run(executor, block_functions.fail_with, ["unpicklable result"], tries=1)


def test_a_cancelled_job_leaves_no_running_block_and_a_pool_that_works(executor, tmp_path):
    def check():
        if started(tmp_path, 0) and started(tmp_path, 1):
            raise Cancelled("the job was cancelled")

    with pytest.raises(Cancelled, match="the job was cancelled"):
        run(executor, partial(block_functions.wait_for_go, tmp_path), list(range(6)), check=check)
    assert [is_running(started(tmp_path, number)[0]) for number in (0, 1)] == [False, False]
    assert [started(tmp_path, number) for number in (2, 3, 4, 5)] == [[], [], [], []]
    assert run(executor, block_functions.double, [1, 2]) == [2, 4]


def test_leaving_the_executor_ends_its_processes():
    with LocalExecutor(2) as executor:
        process_ids = run(executor, block_functions.process_id, list(range(20)))
    assert [process_id for process_id in process_ids if is_running(process_id)] == []


@pytest.mark.skipif(sys.platform == "darwin", reason="there is no fork server on macOS")
def test_a_killed_fork_server_stops_no_block_and_is_replaced(tmp_path):
    def kill_the_fork_server_and_one_worker():
        wait_until(lambda: started(tmp_path, 0) and started(tmp_path, 1))
        psutil.Process(started(tmp_path, 0)[0]).parent().kill()
        os.kill(started(tmp_path, 0)[0], signal.SIGKILL)
        wait_until(lambda: len(started(tmp_path, 0)) == 2)
        (tmp_path / "go").touch()

    with LocalExecutor(2) as executor, meanwhile(kill_the_fork_server_and_one_worker):
        assert run(executor, partial(block_functions.wait_for_go, tmp_path), [0, 1]) == [0, 1]
    assert [len(started(tmp_path, number)) for number in (0, 1)] == [2, 1]
    assert [is_running(process_id) for number in (0, 1) for process_id in started(tmp_path, number)] == [
        False
    ] * 3


def test_a_dead_worker_is_noticed_although_its_child_lives(executor, tmp_path):
    (tmp_path / "go").touch()
    assert run(executor, partial(block_functions.die_once_before_its_child, tmp_path), [1, 2]) == [1, 2]


@pytest.mark.skipif(sys.platform == "darwin", reason="there is no fork server on macOS")
def test_the_fork_server_has_no_threads_that_a_fork_could_break():
    with LocalExecutor(1) as executor:
        (process_id,) = run(executor, block_functions.process_id, [0])
        assert psutil.Process(process_id).parent().num_threads() == 1


def test_workers_share_out_the_cores_and_the_caller_keeps_its_environment():
    before = dict(os.environ)
    with LocalExecutor(1) as executor:
        share = threads_per_slot(1)
        assert run(executor, block_functions.variable, ["OMP_NUM_THREADS"]) == [str(share)]
        assert run(executor, block_functions.tensorstore_threads, [0]) == [{"limit": share}]
    assert dict(os.environ) == before


def test_fewer_blocks_run_at_once_where_memory_is_short():
    block_bytes = 50 * 2**20
    own_bytes = psutil.Process().memory_info().rss
    executor = LocalExecutor(8, memory_bytes_max=own_bytes + 3 * (block_bytes + PROCESS_BYTES) + 32 * 2**20)
    assert executor.room_for(block_bytes) == 3


def test_nothing_starts_if_one_block_does_not_fit(tmp_path):
    with (
        LocalExecutor(2, memory_bytes_max=2**30) as executor,
        pytest.raises(ResourcesExceeded, match="one block needs"),
    ):
        run(executor, partial(block_functions.wait_for_go, tmp_path), [0], memory_bytes_per_item=2**31)
    assert list(tmp_path.iterdir()) == []


# Whole programs, in processes of their own


def start_program(text: str, folder: Path) -> subprocess.Popen[str]:
    path = folder / "program.py"
    path.write_text(
        "import signal, sys\n"
        # Tests may have been started in the background, where signals of the keyboard are ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from functools import partial\n"
        "from pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import block_functions\n"
        "from voxelworks.blocks.checkpoints import Checkpoints\n"
        "from voxelworks.blocks.executor import make_executor\n"
        "from voxelworks.blocks.processing import process\n"
        "from voxelworks.errors import Cancelled\n"
        f"folder = Path({str(folder)!r})\n" + text
    )
    return subprocess.Popen(
        [sys.executable, path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


WAITING_PROGRAM = """
with make_executor(None, 2) as executor:
    process(
        [(str(n), n) for n in range(8)], partial(block_functions.wait_for_go_unless_small, folder), executor=executor,
        phase="test", report=lambda progress: None, checkpoints=Checkpoints(folder / "done", "print"),
    )
"""


def descendants(program: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(program.pid).children(recursive=True)


def test_a_killed_main_process_leaves_no_process_and_the_next_one_does_only_what_is_left(executor, tmp_path):
    program = start_program(WAITING_PROGRAM, tmp_path)
    wait_until(lambda: started(tmp_path, 3) and started(tmp_path, 4))
    orphans = descendants(program)
    assert {started(tmp_path, 3)[0], started(tmp_path, 4)[0]} <= {orphan.pid for orphan in orphans}
    program.kill()
    program.communicate()
    wait_until(lambda: not any(is_running(orphan.pid) for orphan in orphans))

    (tmp_path / "go").touch()
    function = partial(block_functions.wait_for_go_unless_small, tmp_path)
    checkpoints = Checkpoints(tmp_path / "done", "print")
    assert run(executor, function, list(range(8)), checkpoints=checkpoints) == list(range(8))
    assert [len(started(tmp_path, number)) for number in range(8)] == [1, 1, 1, 2, 2, 1, 1, 1]

    other = Checkpoints(tmp_path / "done", "another print")
    assert run(executor, function, list(range(8)), checkpoints=other) == list(range(8))
    assert [len(started(tmp_path, number)) for number in range(8)] == [2, 2, 2, 3, 3, 2, 2, 2]


def test_sigterm_to_the_whole_group_is_for_the_main_process_to_answer(tmp_path):
    program = start_program(
        """
stops = []
signal.signal(signal.SIGTERM, lambda *_: stops.append(1))
def check():
    if stops:
        raise Cancelled("told to stop")
try:
    with make_executor(None, 2) as executor:
        process(
            [(str(n), n) for n in range(8)], partial(block_functions.wait_for_go, folder), executor=executor,
            phase="test", report=lambda progress: None, check=check,
        )
except Cancelled as error:
    print(error)
""",
        tmp_path,
    )
    wait_until(lambda: started(tmp_path, 0) and started(tmp_path, 1))
    others = descendants(program)
    os.killpg(program.pid, signal.SIGTERM)
    assert program.communicate() == ("told to stop\n", "")
    wait_until(lambda: not any(is_running(other.pid) for other in others))
    assert {path.name for path in tmp_path.glob("*.started")} == {"0.started", "1.started"}


def test_ctrl_c_ends_quietly(tmp_path):
    program = start_program(
        """
try:
    with make_executor(None, 2) as executor:
        process(
            [(str(n), n) for n in range(8)], partial(block_functions.wait_for_go, folder), executor=executor,
            phase="test", report=lambda progress: None,
        )
except KeyboardInterrupt:
    print("interrupted")
""",
        tmp_path,
    )
    wait_until(lambda: started(tmp_path, 0) and started(tmp_path, 1))
    others = descendants(program)
    os.killpg(program.pid, signal.SIGINT)
    assert program.communicate() == ("interrupted\n", "")
    wait_until(lambda: not any(is_running(other.pid) for other in others))


def test_a_script_without_a_guard_runs_once_and_may_forget_to_close_the_executor(tmp_path):
    program = start_program(
        """
print("script")
executor = make_executor(None, 2).__enter__()
print(process([("a", 1), ("b", 2)], block_functions.double, executor=executor, phase="p", report=lambda p: None))
""",
        tmp_path,
    )
    assert program.communicate(timeout=PATIENCE_S) == ("script\n[2, 4]\n", "")
    assert program.returncode == 0


def test_a_function_of_the_script_itself_is_refused_with_the_way_out(tmp_path):
    program = start_program(
        """
def own(number):
    return number
with make_executor(None, 1) as executor:
    process([("a", 1)], own, executor=executor, phase="p", report=lambda p: None, tries=1)
""",
        tmp_path,
    )
    _, stderr = program.communicate(timeout=PATIENCE_S)
    assert stderr.splitlines()[-1].endswith("its function must be in an importable module")
