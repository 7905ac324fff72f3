from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxelworks.errors import TooManyRequests
from voxelworks.protocol.people import Principal
from voxelworks.server.limits import Limits, limits_of
from voxelworks.settings import Settings


@given(
    most=st.integers(1, 20),
    steps=st.lists(st.tuples(st.floats(0, 30), st.sampled_from("ab")), max_size=60),
)
def test_no_minute_holds_more_calls_than_a_full_bucket_and_what_flows_in(most, steps):
    now_s = 0.0
    limits = Limits({"door": most}, clock=lambda: now_s)
    taken: dict[str, list[float]] = {"a": [], "b": []}
    for wait_s, key in steps:
        now_s += wait_s
        told_s = _refused(limits, key)
        assert 0 <= told_s <= 60 / most
        if told_s == 0:
            taken[key].append(now_s)
    for times in taken.values():
        for start in times:
            assert sum(start <= at < start + 60 for at in times) <= 2 * most


def test_waiting_as_long_as_told_is_enough():
    now_s = 0.0
    limits = Limits({"upload": 2}, clock=lambda: now_s)
    limits.count("upload", "x")
    limits.count("upload", "x")
    with pytest.raises(TooManyRequests) as refused:
        limits.count("upload", "x")
    now_s = refused.value.retry_after_s + 1e-6
    limits.count("upload", "x")


def test_programs_on_the_servers_own_machine_are_not_counted():
    limits = Limits({"submission": 1})
    local = Principal("local", "local", "owner", "Local", entrance="start_up")
    for _ in range(3):
        limits.count_for("submission", local)
    browser = Principal("local", "local", "owner", "Local")
    limits.count_for("submission", browser)
    with pytest.raises(TooManyRequests, match="wait 60 s"):
        limits.count_for("submission", browser)


def test_settings_replace_single_defaults(tmp_path):
    limits = limits_of(Settings(home=tmp_path, rates_per_minute={"submission": 7}))
    assert (limits.per_minute["submission"], limits.per_minute["door"]) == (7, 30)


def _refused(limits: Limits, key: str) -> float:
    """Make a call; give after how many seconds the next one is taken, 0 if this one was."""
    try:
        limits.count("door", key)
    except TooManyRequests as error:
        return error.retry_after_s
    return 0.0
