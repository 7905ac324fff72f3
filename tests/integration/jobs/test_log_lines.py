from itertools import count

import pytest

from voxelworks import jobs
from voxelworks.errors import InvalidInput, NotFound
from voxelworks.jobs import Log, _log_lines


def _log(folder, data: bytes) -> Log:
    path = folder / "1.log"
    path.write_bytes(data)
    return Log(path, len(data), True)


def test_a_log_is_found_for_whom_the_job_is_there_for(queue):
    queue.submit()
    claim = queue.claim_and_start(queue.open_worker())
    queue.call(
        jobs.append_log, claim.job_id, claim.attempt, claim.token, 0, b"first\nsecond\nhal", settings=queue.settings
    )  # fmt: skip
    log = queue.call(jobs.find_log, claim.job_id, 1, by=queue.principal("ada"))
    assert log.lines(2, 5).model_dump() == {
        "first": 2, "lines": ("second", "hal"), "total": 3, "is_open": True, "size": 16, "is_complete": False,
    }  # fmt: skip
    for who, number in (("cleo", 1), ("ada", 2)):
        with pytest.raises(NotFound):
            queue.call(jobs.find_log, claim.job_id, number, by=queue.principal(who))


def test_lines_are_shown_as_a_terminal_shows_them(tmp_path):
    data = b"\x1b[31mred\x1b[0m\r\n 10 %\r 20 %\rdone\nbytes \xff\n"
    assert _log(tmp_path, data).lines().lines == ("red", "done", "bytes \ufffd")


def test_a_line_that_is_longer_than_an_answer_is_cut_and_those_behind_it_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(_log_lines, "ANSWER_BYTES_MAX", 50)
    monkeypatch.setattr(_log_lines, "LINE_BYTES_MAX", 10)
    log = _log(tmp_path, b"short\n" + b"x" * 700_000 + b"\nnext\n")
    assert log.lines(1, 9).lines == ("short",), "the others come with the next request"
    assert log.lines(2, 9).lines == ("xxxxxxxxxx [\u2026 the line goes on]",)
    assert log.lines(3, 9).lines == ("next",)
    assert log.lines(4, 9).lines == ()
    assert log.search("next").lines == (3,)


def test_a_search_ends_in_time_and_goes_on_where_it_stopped(tmp_path):
    line = b"block 17 of 400 is written\n"
    log = _log(tmp_path, line * 100_000)
    seconds = count()
    first = log.search("BLOCK 17", clock=lambda: next(seconds))
    assert (first.is_whole, 0 < first.searched < 100_000) == (False, True)
    assert first.count == first.searched
    rest = log.search("block 17", after=first.searched)
    assert (rest.is_whole, rest.lines[0], first.count + rest.count) == (True, first.searched + 1, 100_000)


def test_of_very_many_hits_the_first_are_named_and_all_are_counted(tmp_path):
    found = _log(tmp_path, b"again\n" * 12_345).search("again")
    assert (len(found.lines), found.lines[-1], found.count) == (10_000, 10_000, 12_345)


@pytest.mark.parametrize("text", ["", "two\nlines", "x" * 201])
def test_a_text_that_cannot_be_in_a_line_is_refused(tmp_path, text):
    with pytest.raises(InvalidInput, match="cannot be looked for; give 1 to 200 characters of one line"):
        _log(tmp_path, b"x\n").search(text)


def test_an_empty_log_has_no_lines_and_no_hits(tmp_path):
    log = _log(tmp_path, b"")
    assert (log.lines(None).lines, log.lines(5).total, log.search("x").count) == ((), 0, 0)
