import os
import random

import pytest

from voxelworks import jobs
from voxelworks.errors import LeaseLost, LogGap, NotFound
from voxelworks.jobs._logs import log_path
from voxelworks.testing.queues import Queue
from voxelworks.testing.rounds import rounds


@pytest.fixture
def claim(queue):
    queue.submit()
    return queue.claim_and_start(queue.open_worker())


def _append(queue, claim, offset, data, **options):
    return queue.call(jobs.append_log, claim.job_id, claim.attempt, claim.token, offset, data, **options)


def _read(queue, claim, **options):
    return queue.call(jobs.read_log, claim.job_id, claim.attempt, by=queue.principal("ada"), **options)


def test_a_log_is_read_as_it_was_written(queue, claim):
    assert _append(queue, claim, 0, b"first\n") == 6
    assert _append(queue, claim, 6, b"second\n") == 13
    chunk = _read(queue, claim)
    assert chunk.model_dump() == {
        "offset": 0,
        "text": "first\nsecond\n",
        "next_offset": 13,
        "size": 13,
        "is_complete": False,
    }


def test_an_attempt_without_a_log_reads_empty(queue, claim):
    assert (_read(queue, claim).text, _read(queue, claim).size) == ("", 0)


def test_an_attempt_that_is_not_there_has_no_log(queue, claim):
    with pytest.raises(NotFound, match="has no attempt 2"):
        queue.call(jobs.read_log, claim.job_id, 2, by=queue.principal("ada"))


def test_reading_goes_on_where_it_stopped(queue, claim):
    _append(queue, claim, 0, b"0123456789")
    first = _read(queue, claim, limit=4)
    assert (first.text, first.next_offset) == ("0123", 4)
    assert _read(queue, claim, offset=first.next_offset).text == "456789"
    assert _read(queue, claim, offset=99).text == ""


def test_the_end_is_read_from_the_start_of_a_line(queue, claim):
    _append(queue, claim, 0, b"a long first line\nsecond\nthird\n")
    chunk = _read(queue, claim, offset=None, limit=16)
    assert (chunk.offset, chunk.text, chunk.next_offset) == (18, "second\nthird\n", 31)


def test_a_character_is_never_shown_in_halves(queue, claim):
    text = "µ€𝄞" * 5
    data = text.encode()
    for offset in range(len(data)):
        _append(queue, claim, offset, data[offset : offset + 1])
        seen, at = "", 0
        while (chunk := _read(queue, claim, offset=at, limit=5)).text:
            seen, at = seen + chunk.text, chunk.next_offset
        assert text.startswith(seen)
    assert seen == text


def test_bytes_that_are_no_text_are_shown_as_such(queue, claim):
    _append(queue, claim, 0, b"a\xff\xfeb\n")
    assert _read(queue, claim).text == "a��b\n"


def test_bytes_that_came_before_are_skipped(queue, claim):
    _append(queue, claim, 0, b"012345")
    assert _append(queue, claim, 0, b"0123") == 6
    assert _append(queue, claim, 3, b"345678") == 9
    assert _read(queue, claim).text == "012345678"


def test_a_gap_is_refused_with_the_place_to_go_on(queue, claim):
    _append(queue, claim, 0, b"0123")
    with pytest.raises(LogGap, match=r"bytes at 5 were sent, but only 4 were received; go on there"):
        _append(queue, claim, 5, b"5")
    assert _read(queue, claim).text == "0123"


def test_the_last_lines_are_accepted_after_the_end(queue, claim):
    queue.succeed(claim)
    queue.advance(queue.settings.log_tail_s - 5)
    assert _append(queue, claim, 0, b"bye\n") == 4
    assert not _read(queue, claim).is_complete
    queue.advance(10)
    with pytest.raises(LeaseLost, match="has ended; its log is closed"):
        _append(queue, claim, 4, b"more\n")
    assert _read(queue, claim).is_complete


def test_a_worker_that_may_still_come_back_may_send_its_log(queue, claim):
    queue.advance(queue.settings.lease_s + 1)
    queue.reap()
    queue.advance(2 * queue.settings.log_tail_s)
    assert _append(queue, claim, 0, b"still here\n") == 11


def test_the_log_of_an_older_attempt_is_not_that_of_the_next(queue, claim):
    _append(queue, claim, 0, b"old\n")
    queue.fail(claim, "infrastructure")
    queue.advance(1)
    again = queue.claim_and_start(queue.open_worker("other"))
    _append(queue, again, 0, b"new\n")
    assert (_read(queue, claim).text, _read(queue, again).text) == ("old\n", "new\n")


def test_a_log_that_is_too_long_ends_with_a_notice(queue, claim):
    small = queue.settings.model_copy(update={"log_bytes_max": 8})
    assert _append(queue, claim, 0, b"01234", settings=small) == 5
    assert _append(queue, claim, 5, b"56789abc", settings=small) == 13
    assert _append(queue, claim, 13, b"def", settings=small) == 16  # the worker need not send it again
    assert _read(queue, claim).text == "01234567\n[The log is longer than 8 bytes. The rest is not kept.]\n"


def test_a_log_that_just_fits_has_no_notice(queue, claim):
    small = queue.settings.model_copy(update={"log_bytes_max": 8})
    _append(queue, claim, 0, b"01234567", settings=small)
    assert _read(queue, claim).text == "01234567"


def test_secrets_are_not_stored(queue, claim):
    _append(queue, claim, 0, b"password=hunter22 open-sesame\n", secrets=["open-sesame"])
    assert log_path(queue.settings, claim.job_id, 1).read_bytes() == b"password=******** ***********\n"


def test_a_secret_that_comes_in_pieces_is_not_stored_either(queue, claim):
    line = b"go open-sesame, token=abcdefghij!\n"
    for offset in range(len(line)):
        _append(queue, claim, offset, line[offset : offset + 1], secrets=["open-sesame"])
    assert log_path(queue.settings, claim.job_id, 1).read_bytes() == b"go ***********, token=***********\n"


def test_bytes_of_a_transaction_that_was_rolled_back_are_written_over(queue, claim):
    with pytest.raises(ZeroDivisionError), queue.database.session() as session:  # noqa: PT012 - both belong together
        jobs.append_log(session, claim.job_id, 1, claim.token, 0, b"never happened", settings=queue.settings)
        _ = 1 / 0
    assert _read(queue, claim).text == ""
    _append(queue, claim, 0, b"real\n")
    assert _read(queue, claim).text == "real\n"


def test_only_its_user_can_read_a_log(queue, claim):
    _append(queue, claim, 0, b"x")
    assert os.stat(log_path(queue.settings, claim.job_id, 1)).st_mode & 0o077 == 0


def test_chunks_in_any_order_give_the_log_or_are_refused(queue: Queue):
    """T18: repeats, overlaps and gaps in random order, as a bad network makes them."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    worker = queue.open_worker()
    for _ in range(rounds(15, 1000)):
        queue.submit()
        claim = queue.claim_and_start(worker)
        source = _log_text(dice, rounds(64 * 1024, 2**20))
        received = 0
        while received < len(source):
            offset = max(0, received + dice.choice([0, 0, 0, 1, -1]) * dice.randrange(1, 20_000))
            chunk = source[offset : offset + dice.randrange(1, 40_000)]
            if offset > received:
                with pytest.raises(LogGap):
                    _append(queue, claim, offset, chunk)
            else:
                received = max(received, offset + len(chunk))
                assert _append(queue, claim, offset, chunk) == received
        assert log_path(queue.settings, claim.job_id, 1).read_bytes() == source
        queue.succeed(claim)


def _log_text(dice, size):
    words = ["block", "written", "µm", "12.5", "of", "done", "\n", "\x1b[1m", "section_0042.tif"]
    line = " ".join(dice.choices(words, k=2000)).encode()
    return (line * (size // len(line) + 1))[:size]
