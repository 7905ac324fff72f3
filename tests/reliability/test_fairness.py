"""One organization submits thousands of jobs, another a few (T26)."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable

import pytest

from voxelworks import jobs
from voxelworks.protocol.messages import Claim
from voxelworks.testing.queues import Queue
from voxelworks.testing.rounds import rounds

MANY, FEW, WORKERS = rounds(150, 2000), 10, 8


@pytest.mark.faults("T26", "2,000 jobs of one organization, then 10 of another, 8 workers")
def test_a_few_jobs_do_not_wait_for_thousands_of_others(
    queue: Queue, record_property: Callable[[str, object], None]
) -> None:
    record_property("database", queue.database.engine.dialect.name)
    ada, eve = queue.principal("ada"), queue.principal("eve")
    workers = [
        queue.open_worker_with(f"worker{number}", slots={"short": 1, "long": 1}) for number in range(WORKERS)
    ]
    submitted = {_submit(queue, ada, f"many{number}"): 0 for number in range(MANY)}
    turns = itertools.cycle(workers)  # jobs take equally long: the worker that began first ends first
    held: dict[str, Claim] = {}
    started: dict[str, int] = {}
    few: list[str] = []
    while len(started) < MANY + FEW:
        worker = next(turns)
        if worker in held:
            queue.fail(held.pop(worker), "user_input")
        claim = queue.call(jobs.claim, worker)
        assert claim is not None
        held[worker] = claim
        started[claim.job_id] = len(started)
        if len(started) == MANY // 4:
            few = [_submit(queue, eve, f"few{number}") for number in range(FEW)]
            submitted |= dict.fromkeys(few, len(started))
    waits = {job_id: number - submitted[job_id] for job_id, number in started.items()}
    worst, median = max(waits.values()), statistics.median(waits.values())
    last_of_few = max(waits[job_id] for job_id in few) + 1
    for name, value in [
        ("jobs", MANY + FEW), ("lost", 0), ("doubled", 0), ("jobs started until the last of the few", last_of_few),
        ("longest wait, in jobs", worst), ("median wait, in jobs", int(median)),
    ]:  # fmt: skip
        record_property(name, value)
    assert last_of_few <= 20
    assert worst <= 10 * median


def _submit(queue: Queue, by: object, name: str) -> str:
    return queue.submit_convert(name, by=by).id
