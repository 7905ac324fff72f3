"""Jobs of the first release are still there, and go on, after the upgrade."""

from alembic import command
from alembic.config import Config
from sqlalchemy import text

import voxelworks.db
from voxelworks import accounts, jobs
from voxelworks.protocol.messages import SessionRequest
from voxelworks.settings import Settings

FIRST = (
    (
        "INSERT INTO worker_sessions (id, name, version, protocol, workflows, job_slots, opened_ms, seen_ms) "
        "VALUES ('s1', 'gpu', '1', 1, '{\"convert\": 1}', 2, 1000, 2000)"
    ),
    (
        "INSERT INTO jobs (id, owner, workflow, version, params, places, priority, state, attempt, created_ms, "
        "available_ms, updated_ms, infrastructure_failures, resource_failures, lost_leases, publication, "
        "reserved_name) "
        "VALUES ('j1', 'you', 'convert', 1, '{\"target\": \"cortex\"}', '{\"cortex\": \"data:cortex\"}', 1, 'queued', "
        "0, 7200000, 7200000, 7200000, 0, 0, 0, 'none', 'cortex')"
    ),
    "INSERT INTO idempotency_keys (owner, key, body_sha256, job_id, created_ms) VALUES ('u', 'k', 'x', 'j1', 1000)",
)


def test_jobs_of_the_first_release_go_on(old_database, tmp_path):
    _migrate_to(old_database, "0001")
    with old_database.engine.begin() as connection:
        for statement in FIRST:
            connection.execute(text(statement))
    old_database.migrate()
    settings = Settings(home=tmp_path)
    with old_database.session() as session:
        accounts.prepare(session)
        operator = accounts.local_principal(session)
        view = jobs.show(session, "j1", by=operator, settings=settings).job
        assert (view.user_id, view.organization_id, view.priority_class) == ("local", "local", "short")
        worker = jobs.open_session(
            session,
            SessionRequest(name="gpu", version="1", workflows={"convert": 1}),
            settings=settings,
        )
        claim = jobs.claim(session, worker.session_id, settings=settings)
        found = jobs.list_jobs(session, by=operator, settings=settings, text="CORTEX convert").jobs
        assert [job.id for job in found] == ["j1"]
        assert not jobs.list_jobs(session, by=operator, settings=settings, text="target").jobs, (
            "no names of params"
        )
    assert (claim.job_id, claim.places) == ("j1", {"cortex": "data:local/cortex"})


def _migrate_to(database, revision):
    config = Config()
    config.set_main_option("script_location", f"{voxelworks.db.__path__[0]}/migrations")
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
