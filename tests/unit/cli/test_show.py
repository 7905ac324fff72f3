"""How times and values look."""

from __future__ import annotations

import pytest

from voxelworks.cli._show import Line, duration, plain


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"), (9.94, "9.9 s"), (10.0, "10 s"), (59.6, "1 min"), (185, "3 min 5 s"), (7200, "2 h"),
        (7800, "2 h 10 min"), (273600, "3 d 4 h"), (3, "3 s"),
    ],
)  # fmt: skip
def test_a_duration_is_written_as_people_say_it(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_values_lose_the_marks_of_json() -> None:
    value = {"layers": ["color", "labels"], "pyramid": True, "mag": None, "most_voxels": 7}
    assert plain(value) == "layers color, labels; pyramid yes; mag -; most voxels 7"


def test_a_line_keeps_the_time_when_its_job_began() -> None:
    line = Line("convert")
    line.begin()
    began_at = line.began_at
    line.begin()
    assert (line.state, line.began_at) == ("running", began_at)
