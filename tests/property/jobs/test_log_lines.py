from itertools import count

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from voxelworks.jobs import Log, _log_lines
from voxelworks.jobs._log_lines import _shown, _text

NUMBERS = count()
LOGS = st.lists(
    st.sampled_from([b"a", b"b", b"needle", b"Needle", b"\n", b"\n", b"\r", b"\x1b[1m", "\u00b5".encode()]), max_size=60
).map(b"".join)  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def small():
    """Blocks of a few bytes, so that short logs have many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_log_lines, "_BLOCK_BYTES", 7)
        patch.setattr(_log_lines, "_PIECE_BYTES", 11)
        patch.setattr(_log_lines, "CONTEXT_BYTES", 3)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("logs")


def _logs(folder, data, sizes):
    """Give a log as it grows, and whole in the end."""
    path = folder / f"{next(NUMBERS)}.log"
    path.write_bytes(data)
    for size in sorted({min(size, len(data)) for size in sizes} | {len(data)}):
        yield Log(path, size, True), data[:size]


def _split(data):
    lines = data.split(b"\n")
    return lines[:-1] if lines[-1] == b"" else lines


@given(
    data=LOGS,
    sizes=st.sets(st.integers(0, 200), max_size=3),
    first=st.integers(1, 70),
    limit=st.integers(1, 9),
)
@example(data=b"a\n" * 30, sizes={4, 5}, first=3, limit=9)
@settings(deadline=None)
def test_any_lines_of_a_log_are_those_that_splitting_it_gives(folder, data, sizes, first, limit):
    for log, known in _logs(folder, data, sizes):
        lines = [*map(_text, _split(known))]
        found = log.lines(first, limit)
        assert (found.first, found.lines) == (first, tuple(lines[first - 1 :][:limit]))
        assert (found.total, found.is_open) == (len(lines), bool(known) and not known.endswith(b"\n"))
        end = log.lines(None, limit)
        assert end.lines == tuple(lines[-limit:])
        assert end.first == len(lines) - len(end.lines) + 1


@given(data=LOGS, sizes=st.sets(st.integers(0, 200), max_size=2), after=st.integers(0, 30))
@example(data=b"needle needle" * 20 + b"\nneedle", sizes=set(), after=0)
@settings(deadline=None)
def test_a_search_finds_each_line_that_shows_the_text_once(folder, data, sizes, after):
    for log, known in _logs(folder, data, sizes):
        lines = _split(known)
        # Of a line that comes in pieces nobody knows what is written over or left out.
        is_cut = max(map(len, lines), default=0) > 11 and (b"\r" in known or b"\x1b" in known)
        expected = [
            number
            for number, line in enumerate(lines, 1)
            if number > after and b"needle" in _shown(line).lower()
        ]
        found = log.search("NEEDLE", after=after)
        assert is_cut or (list(found.lines), found.count) == (expected, len(expected))
        assert found.is_whole
        assert max(found.searched, after) >= known.count(b"\n")
