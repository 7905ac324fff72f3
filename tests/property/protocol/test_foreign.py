"""Laws of the translation between our states and ids and those of WEBKNOSSOS' protocol."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxelworks.jobs._transitions import LEGAL
from voxelworks.protocol.foreign import (
    TERMINAL_WIRE_STATES,
    WIRE_STATES,
    failure_text,
    foreign_id,
    native_id,
    wire_state,
)
from voxelworks.protocol.views import JOB_STATES, TERMINAL_STATES

states = st.sampled_from(JOB_STATES)
publications = st.sampled_from(["none", "pending", "published", "failed"])
our_ids = st.text("0123456789abcdef", min_size=16, max_size=16)
WIRE_MOVES = {
    "PENDING": {"PENDING", "STARTED", "CANCELLED", "FAILURE"},
    "STARTED": {"STARTED", "PENDING", "SUCCESS", "FAILURE", "CANCELLED"},
    # A cancel that came too late: the result was complete before it.
    "CANCELLED": {"CANCELLED", "SUCCESS"},
    "SUCCESS": set(),
    "FAILURE": set(),
}


@given(state=states, publication=publications, has_started=st.booleans())
def test_every_state_has_one_word_and_at_most_one_verdict(state, publication, has_started):
    wire = wire_state(state, publication, has_started=has_started)
    assert wire.state in WIRE_STATES
    assert wire.manual_state in (None, "CANCELLED")
    assert wire.effective == (wire.manual_state or wire.state)


@given(state=states, publication=publications, has_started=st.booleans())
def test_a_job_is_over_there_when_it_is_over_here_and_its_result_can_be_opened(
    state, publication, has_started
):
    wire = wire_state(state, publication, has_started=has_started)
    if state in TERMINAL_STATES and publication != "pending":
        assert wire.effective in TERMINAL_WIRE_STATES
    if wire.effective == "SUCCESS":
        assert (state, publication in ("none", "published")) == ("succeeded", True)
    if state == "cancelling":
        assert wire.effective == "CANCELLED"
        assert wire.state in ("PENDING", "STARTED")


@given(before=states, data=st.data(), has_started=st.booleans())
def test_legal_changes_of_state_are_legal_there(before, data, has_started):
    if not LEGAL[before]:
        return
    after = data.draw(st.sampled_from(sorted(LEGAL[before])))
    first = wire_state(before, "none", has_started=has_started)
    second = wire_state(after, "none", has_started=True)
    assert second.effective in WIRE_MOVES[first.effective]


@given(native=our_ids)
def test_ids_of_ours_become_ids_of_theirs_and_back(native):
    assert len(foreign_id(native)) == 24
    assert native_id(foreign_id(native)) == native
    assert native_id(native) == native


@given(first=st.text(max_size=40), second=st.text(max_size=40))
def test_different_ids_stay_different(first, second):
    assert (foreign_id(first) == foreign_id(second)) == (first == second)


@given(given=st.text(max_size=40))
def test_what_is_no_id_of_ours_stays_as_it_is(given):
    assert native_id(given) in (given, given[8:])


details = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=20,
)


@given(details=st.dictionaries(st.text(max_size=8), details, max_size=4))
def test_any_details_of_a_failure_give_a_sentence(details):
    assert failure_text(details).startswith("the worker reported a failure")


@pytest.mark.parametrize(
    ("details", "sentence"),
    [
        (None, "the worker reported a failure"),
        ({}, "the worker reported a failure"),
        ({"trace": ["a", "b"], "message": "disk full"}, "the worker reported a failure: disk full"),
        ({"error": {"message": "no mag 1"}}, "the worker reported a failure: no mag 1"),
    ],
)
def test_the_message_of_a_failure_is_found(details, sentence):
    assert failure_text(details) == sentence
