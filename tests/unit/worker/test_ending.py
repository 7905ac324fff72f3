"""How the end of a job's process is judged."""

from __future__ import annotations

import signal

import pytest

from voxelworks.errors import FailureClass
from voxelworks.protocol.messages import ChildFailed, FinishRequest, SealedResult
from voxelworks.worker.ending import Ending

SEALED = SealedResult(kind="value", value={"found": 1})
FAILED = ChildFailed(
    outcome="failed", failure_class="user_input", code="layer-not-found", message="no layer 'x'"
)


def test_a_sealed_result_is_a_success_even_if_the_process_crashed_afterwards() -> None:
    report = Ending(-signal.SIGSEGV, sealed=SEALED, peak_memory_bytes=5).report("token")
    assert report == FinishRequest(
        token="token", outcome="succeeded", result=SEALED, exit_code=-11, peak_memory_bytes=5
    )


def test_what_the_process_told_of_its_failure_is_passed_on() -> None:
    report = Ending(1, failed=FAILED).report("token")
    assert report == FinishRequest(
        token="token", outcome="failed", failure_class="user_input", code="layer-not-found",
        message="no layer 'x'", exit_code=1,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("was_oom_killed", "failure_class", "code", "message"),
    [
        (False, "infrastructure", "block-killed", "block 7 was killed"),
        (True, "resources", "resources-exceeded", "block 7 was killed: the machine ran out of memory"),
    ],
)
def test_blocks_that_the_system_killed_for_want_of_memory_are_resources(
    was_oom_killed: bool, failure_class: FailureClass, code: str, message: str
) -> None:
    killed = ChildFailed(
        outcome="failed", failure_class="infrastructure", code="block-killed", message="block 7 was killed"
    )
    report = Ending(1, failed=killed, was_oom_killed=was_oom_killed).report("token")
    assert report == FinishRequest(
        token="token", outcome="failed", failure_class=failure_class, code=code, message=message, exit_code=1
    )


def test_another_failure_is_not_blamed_on_memory_that_others_ran_out_of() -> None:
    report = Ending(1, failed=FAILED, was_oom_killed=True).report("token")
    assert (report.failure_class, report.message) == ("user_input", "no layer 'x'")


@pytest.mark.parametrize("exit_code", [1, -signal.SIGKILL])
def test_a_cancelled_job_is_cancelled_however_it_ended(exit_code: int) -> None:
    report = Ending(exit_code, failed=FAILED, stopped="cancel").report("token")
    assert (report.outcome, report.failure_class) == ("cancelled", "cancelled")


def test_an_interrupted_job_is_interrupted_even_if_it_had_to_be_killed() -> None:
    assert Ending(-signal.SIGKILL, stopped="interrupt").report("token").outcome == "interrupted"


@pytest.mark.parametrize(
    ("ending", "failure_class", "message"),
    [
        (
            Ending(-signal.SIGKILL, stopped="memory", peak_memory_bytes=3 * 2**30, memory_bytes_max=2**31),
            "resources",
            (
                "the job used 3.00 GiB of memory, 2.00 GiB are allowed; give it fewer slots or smaller shards, or "
                "raise VOXELWORKS_MEMORY_BYTES_MAX; it had printed nothing"
            ),
        ),
        (
            Ending(1, failed=FAILED, stopped="walltime", walltime_s=7200, last_lines="block 7"),
            "timed_out",
            (
                "the job ran for 7200 s, which is all that its workflow allows, and was stopped; give it less data or "
                "more slots. Its last log lines:\nblock 7"
            ),
        ),
        (
            Ending(-signal.SIGKILL, was_oom_killed=True),
            "resources",
            "the system killed the job: the machine ran out of memory; it had printed nothing",
        ),
        (
            Ending(-signal.SIGKILL),
            "infrastructure",
            "the job's process was killed from outside; it had printed nothing",
        ),
        (
            Ending(-signal.SIGSEGV, was_oom_killed=True, last_lines="one\ntwo"),
            "program_error",
            "the job's process ended by SIGSEGV and left no result. Its last log lines:\none\ntwo",
        ),
        (
            Ending(0),
            "program_error",
            "the job's process ended with exit status 0 and left no result; it had printed nothing",
        ),
    ],
)
def test_an_end_without_a_word_is_classified(ending: Ending, failure_class: str, message: str) -> None:
    report = ending.report("token")
    assert (report.outcome, report.failure_class, report.message) == ("failed", failure_class, message)
