from voxelworks.jobs._transitions import LEGAL
from voxelworks.protocol.views import JOB_STATES, TERMINAL_STATES


def test_every_state_has_its_row():
    assert tuple(LEGAL) == JOB_STATES


def test_terminal_states_are_final():
    assert {state for state, following in LEGAL.items() if not following} == TERMINAL_STATES


def test_every_job_can_still_end():
    for state in JOB_STATES:
        assert _reachable(state) & TERMINAL_STATES


def test_a_cancelled_job_never_starts_again():
    assert LEGAL["cancelling"] == {"cancelled", "succeeded"}


def test_only_running_work_succeeds():
    assert {state for state, following in LEGAL.items() if "succeeded" in following} == {
        "running",
        "cancelling",
    }


def _reachable(state):
    found, todo = {state}, [state]
    while todo:
        following = LEGAL[todo.pop()] - found
        found |= following
        todo += following
    return found
