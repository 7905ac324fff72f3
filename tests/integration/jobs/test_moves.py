import pytest
from sqlalchemy import text

from voxelworks.errors import IllegalTransition
from voxelworks.jobs._tables import JobRow
from voxelworks.jobs._transitions import move


@pytest.mark.parametrize("change", ["state = 'cancelled'", "attempt = 7"])
def test_the_database_refuses_a_change_of_what_has_changed_meanwhile(queue, change):
    """R1: even without any lock, a transition counts only from the state and attempt that were seen."""
    job_id = queue.submit().id
    with queue.database.session() as session:
        seen = session.get_one(JobRow, job_id)
        session.execute(text(f"UPDATE jobs SET {change} WHERE id = :id"), {"id": job_id})
        with pytest.raises(IllegalTransition, match="has changed meanwhile and is no longer queued"):
            move(session, seen, "running", at_ms=1, who="server", why="a test")


def test_a_change_that_is_not_in_the_table_is_refused(queue):
    job_id = queue.submit().id
    with queue.database.session() as session:
        seen = session.get_one(JobRow, job_id)
        with pytest.raises(IllegalTransition, match="is queued; it cannot become succeeded"):
            move(session, seen, "succeeded", at_ms=1, who="server", why="a test")
