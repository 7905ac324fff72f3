"""Which datasets the jobs of earlier versions named is known after the upgrade."""

import json

from alembic import command
from alembic.config import Config
from sqlalchemy import text

import voxelworks.db

DATASET = (
    "INSERT INTO datasets (id, name, place, summary, created_ms, updated_ms, organization_id, is_public, is_linked, "
    "size_bytes, is_purging) VALUES (:id, :id, :place, '{}', 1, 1, :organization, :no, :is_linked, 0, :no)"
)
JOB = (
    "INSERT INTO jobs (id, user_id, organization_id, workflow, version, params, places, priority, priority_class, "
    "rank_ms, needs_gpu, is_foreign, is_free_rerun, state, attempt, created_ms, available_ms, updated_ms, "
    "infrastructure_failures, resource_failures, lost_leases, publication, words) VALUES (:id, 'ada', :organization, "
    "'w', 1, '{}', :places, 0, 'short', 0, :no, :no, :no, 'queued', 0, 1, 1, 1, 0, 0, 0, 'none', '')"
)
DATASETS = (
    ("d1", "neuro", "data:neuro/demo", False), ("d2", "neuro", "root:scope/brain", True),
    ("d3", "other", "root:scope/brain", True), ("d4", "other", "data:other/shown", False),
)  # fmt: skip
JOBS = (
    ("j1", "neuro", {"demo": "data:neuro/demo"}),
    ("j2", "neuro", {"brain": "root:scope/brain", "d4": "data:other/shown"}),
    ("j3", "neuro", {"root:scope/brain": "root:scope/brain", "new": "data:neuro/new"}),
    ("j4", "other", {"d3": "root:scope/brain", "mine": "root:scope/brain"}),
)


def test_old_jobs_are_found_by_the_datasets_that_they_named(old_database):
    _migrate_to(old_database, "0011")
    with old_database.engine.begin() as connection:
        for key, organization, place, is_linked in DATASETS:
            row = {
                "id": key,
                "organization": organization,
                "place": place,
                "is_linked": is_linked,
                "no": False,
            }
            connection.execute(text(DATASET), row)
        for key, organization, places in JOBS:
            row = {"id": key, "organization": organization, "places": json.dumps(places), "no": False}
            connection.execute(text(JOB), row)
    old_database.migrate()
    with old_database.engine.begin() as connection:
        rows = connection.execute(text("SELECT job_id, dataset_id FROM job_datasets ORDER BY 1, 2")).all()
    assert [tuple(row) for row in rows] == [("j1", "d1"), ("j2", "d2"), ("j2", "d4"), ("j4", "d3")]


def _migrate_to(database, revision):
    config = Config()
    config.set_main_option("script_location", f"{voxelworks.db.__path__[0]}/migrations")
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
