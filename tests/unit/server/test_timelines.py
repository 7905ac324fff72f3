from voxelworks.protocol.views import EventView, JobDetail, JobView
from voxelworks.server.timelines import timeline

JOB = {
    "id": "j", "owner": "Ada", "user_id": "ada", "organization_id": "local", "workflow": "convert", "version": 1,
    "params": {}, "priority": 0, "priority_class": "long", "attempt": 2, "created_ms": 1000, "available_ms": 1000,
    "started_ms": 3000, "updated_ms": 0, "cancel_requested_ms": None, "failure_class": None, "code": None,
    "message": None, "result": None, "publish_error": None, "retried_from": None, "after": (), "group": None,
    "is_foreign": False, "charge_millicredits": None, "refunded_millicredits": None, "progress": None, "eta": None,
    "worker": None, "heard_s": None, "is_silent": False, "wait": None,
}  # fmt: skip


def _spans(moves, **job):
    events, state = [], None
    for at_ms, to_state, attempt in moves:
        events.append(
            EventView(
                id=len(events), job_id="j", at_ms=at_ms, who="server", attempt=attempt, from_state=state,
                to_state=to_state, why="",
            )
        )  # fmt: skip
        state = to_state
    known = {
        "state": state,
        "publication": "none",
        "published_ms": None,
        "ended_ms": None,
        "as_of_ms": 21_000,
    }
    view = JobView.model_validate(JOB | known | job)
    detail = JobDetail(job=view, attempts=(), events=tuple(events), retries=())
    return [
        (span.kind, span.attempt, span.start_ms, span.end_ms, span.left, span.width)
        for span in timeline(detail)
    ]


def test_a_job_that_was_tried_twice_and_published():
    moves = [
        (1000, "queued", None), (2000, "claimed", 1), (3000, "running", 1), (5000, "queued", 1), (9000, "claimed", 2),
        (9000, "running", 2), (19_000, "succeeded", 2), (21_000, "succeeded", 2),
    ]  # fmt: skip
    spans = _spans(moves, publication="published", published_ms=21_000, ended_ms=19_000, as_of_ms=99_000)
    assert spans == [
        ("waiting", None, 1000, 2000, 0, 5),
        ("starting", 1, 2000, 3000, 5, 5),
        ("running", 1, 3000, 5000, 10, 10),
        ("pause", 1, 5000, 9000, 20, 20),
        ("starting", 2, 9000, 9000, 40, 0),
        ("running", 2, 9000, 19_000, 40, 50),
        ("publishing", 2, 19_000, 21_000, 90, 10),
    ]


def test_what_goes_on_ends_now():
    spans = _spans([(1000, "queued", None), (11_000, "claimed", 1), (11_000, "running", 1)], attempt=1)
    assert spans[-1] == ("running", 1, 11_000, None, 50, 50)


def test_a_job_without_a_file_is_not_published():
    moves = [(1000, "queued", None), (2000, "claimed", 1), (2000, "running", 1), (3000, "succeeded", 1)]
    assert [kind for kind, *_ in _spans(moves, ended_ms=3000)] == ["waiting", "starting", "running"]


def test_a_cancelled_job_ends_with_being_stopped():
    moves = [
        (1000, "queued", None), (2000, "claimed", 1), (2000, "running", 1), (3000, "cancelling", 1),
        (5000, "cancelled", 1),
    ]  # fmt: skip
    assert _spans(moves, ended_ms=5000)[-1] == ("stopping", 1, 3000, 5000, 50, 50)
