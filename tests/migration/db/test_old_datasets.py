"""What version 0.1 stored about datasets belongs to the first organization afterwards."""

import json

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import URL, text

import voxelworks.db
from voxelworks.db import Database
from voxelworks.testing.databases import new_postgresql_database

MIGRATIONS = f"{voxelworks.db.__path__[0]}/migrations"


@pytest.fixture(params=["sqlite", "postgresql"])
def old(request, tmp_path):
    """A database as version 0.1 made it."""
    if request.param == "postgresql":
        with new_postgresql_database(request.getfixturevalue("postgresql_server")) as database:
            _migrate(database, "0001")
            yield database
    else:
        database = Database(URL.create("sqlite", database=str(tmp_path / "old.sqlite3")))
        _migrate(database, "0001")
        yield database
        database.close()


def _migrate(database, revision):
    with database.engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", MIGRATIONS)
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def _run(database, statement, **values):
    with database.session() as session:
        session.execute(text(statement), values)


def _rows(database, query):
    with database.read_session() as session:
        return [tuple(row) for row in session.execute(text(query))]


def _json(value):
    return json.loads(value) if isinstance(value, str) else value


def _add_job(database, job_id, places, result, publication):
    _run(
        database,
        "INSERT INTO jobs (id, owner, workflow, version, params, places, priority, state, attempt, created_ms,"
        " available_ms, updated_ms, infrastructure_failures, resource_failures, lost_leases, publication, result)"
        " VALUES (:id, 'local', 'convert', 1, '{}', :places, 0, 'succeeded', 1, 1,"
        " 1, 1, 0, 0, 0, :publication, :result)",
        id=job_id, places=json.dumps(places), result=result and json.dumps(result), publication=publication,
    )  # fmt: skip


MADE = {"kind": "dataset", "place": "data:cortex", "value": {}, "size_bytes": 3000}
ADDED = {"kind": "addition", "place": "data:cortex", "value": {}, "size_bytes": 200}


def _fill(old):
    """Two datasets; a job that made one, one that added to it, one that waits to be published, and one that failed."""
    for name in ("cortex", "brain"):
        _run(
            old,
            "INSERT INTO datasets (id, name, place, summary, created_ms, updated_ms, made_by_job)"
            " VALUES (:id, :name, :place, :summary, 1, 2, 'j1')",
            id=f"id-{name}", name=name, place=f"data:{name}", summary='{"voxel_size": null, "layers": []}',
        )  # fmt: skip
    _add_job(old, "j1", {"root:scope/raw": "root:scope/raw", "cortex": "data:cortex"}, MADE, "published")
    _add_job(old, "j2", {"cortex": "data:cortex"}, ADDED, "published")
    _add_job(old, "j3", {"cortex": "data:cortex"}, ADDED, "pending")
    _add_job(old, "j4", {"https://host/x": "https://host/x"}, None, "none")
    _run(
        old,
        "INSERT INTO worker_sessions (id, name, version, protocol, workflows, job_slots, opened_ms, seen_ms)"
        " VALUES ('w', 'w', '1', 1, '{}', 1, 1, 1)",
    )
    _run(
        old,
        "INSERT INTO attempts (job_id, number, session_id, token_hash, claimed_ms, renewed_ms, lease_end_ms, samples,"
        " sealed, log_received, log_stored) VALUES ('j3', 1, 'w', 'x', 1, 1, 1, '[]', :sealed, 0, 0),"
        " ('j4', 1, 'w', 'x', 1, 1, 1, '[]', NULL, 0, 0)",
        sealed=json.dumps(ADDED),
    )
    _run(
        old,
        "INSERT INTO dataset_leases (place, job_id, attempt, until_ms) VALUES ('data:cortex', 'j3', 1, 5)",
    )


def test_old_datasets_and_the_places_in_old_jobs_belong_to_the_first_organization(old):
    _fill(old)
    _migrate(old, "0005")

    datasets = _rows(
        old,
        "SELECT id, name, place, organization_id, user_id, is_public, is_linked, size_bytes, trashed_ms, created_ms,"
        " made_by_job FROM datasets ORDER BY id",
    )
    assert datasets == [
        ("id-brain", "brain", "data:local/brain", "local", "local", False, False, 0, None, 1, "j1"),
        ("id-cortex", "cortex", "data:local/cortex", "local", "local", False, False, 3200, None, 1, "j1"),
    ]
    jobs = {
        job_id: (_json(places), _json(result))
        for job_id, places, result in _rows(old, "SELECT id, places, result FROM jobs")
    }
    assert jobs == {
        "j1": (
            {"root:scope/raw": "root:scope/raw", "cortex": "data:local/cortex"},
            {**MADE, "place": "data:local/cortex"},
        ),
        "j2": ({"cortex": "data:local/cortex"}, {**ADDED, "place": "data:local/cortex"}),
        "j3": ({"cortex": "data:local/cortex"}, {**ADDED, "place": "data:local/cortex"}),
        "j4": ({"https://host/x": "https://host/x"}, None),
    }
    sealed = [_json(value) for (value,) in _rows(old, "SELECT sealed FROM attempts ORDER BY job_id")]
    assert sealed == [{**ADDED, "place": "data:local/cortex"}, None]
    assert _rows(old, "SELECT place FROM dataset_leases") == [("data:local/cortex",)]


def test_a_database_of_version_0_1_with_data_reaches_the_newest_form(old):
    _fill(old)
    old.migrate()
    assert _rows(old, "SELECT place FROM datasets ORDER BY id") == [
        ("data:local/brain",),
        ("data:local/cortex",),
    ]
    assert _rows(old, "SELECT count(*) FROM jobs") == [(4,)]
    assert _rows(old, "SELECT count(*) FROM attempts") == [(2,)]
