import asyncio
import logging

import pytest

from voxelworks.errors import StorageFailed
from voxelworks.server.loops import Loop


@pytest.mark.parametrize(
    ("error", "has_trace"),
    [(StorageFailed("the database does not answer (database is locked)"), False), (KeyError("state"), True)],
)
def test_a_failed_round_is_told_and_the_next_one_follows(caplog, error, has_trace):
    ended = asyncio.Event()
    rounds = []

    def work(context):
        rounds.append(context)
        if len(rounds) == 1:
            raise error
        loop.call_soon_threadsafe(ended.set)

    async def run():
        nonlocal loop
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(Loop("sending mails", work, every_s=0.01).for_ever("context"))
        await asyncio.wait_for(ended.wait(), 10)
        task.cancel()

    loop = None
    with caplog.at_level(logging.WARNING):
        asyncio.run(run())
    assert rounds[:2] == ["context", "context"]
    (told,) = caplog.records
    assert told.getMessage().startswith("sending mails failed")
    assert (str(error) in told.getMessage()) != has_trace
    assert bool(told.exc_info) == has_trace
