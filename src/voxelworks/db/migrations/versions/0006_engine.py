"""Jobs of organizations: classes, limits, dependencies, groups, charges."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

IS_HELD = "state IN ('claimed', 'running', 'cancelling')"


def upgrade() -> None:
    _change_worker_sessions()
    _change_jobs()
    _change_idempotency_keys()
    with op.batch_alter_table("attempts") as attempts:
        attempts.add_column(sa.Column("memory_bytes_max", sa.BigInteger(), nullable=True))
    _add_tables()


def _change_worker_sessions() -> None:
    with op.batch_alter_table("worker_sessions") as sessions:
        sessions.add_column(sa.Column("slots", sa.JSON(), nullable=True))
        sessions.add_column(sa.Column("gpus", sa.BigInteger(), nullable=False, server_default="0"))
        sessions.add_column(sa.Column("memory_bytes", sa.BigInteger(), nullable=True))
        sessions.add_column(sa.Column("isolation", sa.Text(), nullable=False, server_default=""))
        sessions.add_column(sa.Column("leaves_ms", sa.BigInteger(), nullable=True))
        sessions.add_column(sa.Column("key_id", sa.Text(), nullable=True))
        sessions.add_column(sa.Column("organization_id", sa.Text(), nullable=True))
        sessions.add_column(sa.Column("failed_jobs", sa.JSON(), nullable=True))
        sessions.add_column(sa.Column("paused_ms", sa.BigInteger(), nullable=True))
        sessions.add_column(sa.Column("paused_why", sa.Text(), nullable=True))
        sessions.add_column(sa.Column("drained_ms", sa.BigInteger(), nullable=True))
    sessions_ = sa.table(
        "worker_sessions",
        sa.column("id", sa.Text()),
        sa.column("job_slots", sa.BigInteger()),
        sa.column("slots", sa.JSON()),
        sa.column("failed_jobs", sa.JSON()),
    )
    connection = op.get_bind()
    for row in connection.execute(sa.select(sessions_.c.id, sessions_.c.job_slots)).all():
        slots = {"short": row.job_slots, "long": row.job_slots}
        changed = sa.update(sessions_).where(sessions_.c.id == row.id).values(slots=slots, failed_jobs=[])
        connection.execute(changed)
    with op.batch_alter_table("worker_sessions") as sessions:
        sessions.alter_column("slots", existing_type=sa.JSON(), nullable=False)
        sessions.alter_column("failed_jobs", existing_type=sa.JSON(), nullable=False)
        sessions.alter_column("gpus", existing_type=sa.BigInteger(), server_default=None)
        sessions.alter_column("isolation", existing_type=sa.Text(), server_default=None)
        sessions.drop_column("job_slots")
    op.create_index("ix_worker_sessions_key_id", "worker_sessions", ["key_id"])


def _change_jobs() -> None:
    for name in ("ix_jobs_owner", "ix_jobs_queue"):
        op.drop_index(name, "jobs")
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_constraint("uq_jobs_reserved_name", type_="unique")
        jobs.add_column(sa.Column("user_id", sa.Text(), nullable=False, server_default="local"))
        jobs.add_column(sa.Column("organization_id", sa.Text(), nullable=False, server_default="local"))
        jobs.add_column(sa.Column("priority_class", sa.Text(), nullable=False, server_default="long"))
        jobs.add_column(sa.Column("lane", sa.Text(), nullable=True))
        jobs.add_column(sa.Column("rank_ms", sa.BigInteger(), nullable=False, server_default="0"))
        jobs.add_column(sa.Column("needs_gpu", sa.Boolean(), nullable=False, server_default=sa.false()))
        jobs.add_column(sa.Column("memory_bytes", sa.BigInteger(), nullable=True))
        jobs.add_column(sa.Column("walltime_s", sa.BigInteger(), nullable=True))
        jobs.add_column(sa.Column("group_id", sa.Text(), nullable=True))
        jobs.add_column(sa.Column("is_foreign", sa.Boolean(), nullable=False, server_default=sa.false()))
        jobs.add_column(sa.Column("is_free_rerun", sa.Boolean(), nullable=False, server_default=sa.false()))
        jobs.add_column(sa.Column("reserved_place", sa.Text(), nullable=True))
    # What there is belongs to whoever started the server.
    op.execute(
        "UPDATE jobs SET priority_class = 'short' "
        "WHERE workflow IN ('convert', 'downsample', 'find_largest_segment_id')"
    )
    op.execute("UPDATE jobs SET rank_ms = created_ms - priority * 3600000")
    op.execute("UPDATE jobs SET lane = 'local/local/' || workflow")
    op.execute(
        "UPDATE jobs SET reserved_place = 'data:local/' || reserved_name WHERE reserved_name IS NOT NULL"
    )
    with op.batch_alter_table("jobs") as jobs:
        for name in ("user_id", "organization_id", "priority_class"):
            jobs.alter_column(name, existing_type=sa.Text(), server_default=None)
        jobs.alter_column("rank_ms", existing_type=sa.BigInteger(), server_default=None)
        for name in ("needs_gpu", "is_foreign", "is_free_rerun"):
            jobs.alter_column(name, existing_type=sa.Boolean(), server_default=None)
        jobs.drop_column("owner")
        jobs.drop_column("reserved_name")
        jobs.create_unique_constraint("uq_jobs_reserved_place", ["reserved_place"])
        jobs.create_check_constraint(op.f("ck_jobs_priority_class"), "priority_class IN ('short', 'long')")
    for name, columns, condition in [
        ("ix_jobs_queue", ["lane", "rank_ms", "id"], "state = 'queued'"),
        ("ix_jobs_held", ["organization_id", "priority_class", "user_id", "workflow"], IS_HELD),
        ("ix_jobs_of_organization", ["organization_id", "created_ms", "id"], None),
        ("ix_jobs_of_user", ["user_id", "created_ms", "id"], None),
        ("ix_jobs_group_id", ["group_id"], None),
    ]:
        where = None if condition is None else sa.text(condition)
        op.create_index(name, "jobs", columns, sqlite_where=where, postgresql_where=where)


def _change_idempotency_keys() -> None:
    # Keys live for a day, and the new table has another primary key: who repeats a submission that was made before
    # the upgrade finds the key here.
    op.create_table(
        "new_idempotency_keys",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("body_sha256", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
    )
    op.execute(
        "INSERT INTO new_idempotency_keys SELECT 'local', 'local', key, min(body_sha256), min(job_id), min(created_ms) "
        "FROM idempotency_keys GROUP BY key"
    )
    op.drop_table("idempotency_keys")
    op.rename_table("new_idempotency_keys", "idempotency_keys")
    with op.batch_alter_table("idempotency_keys") as keys:
        keys.create_primary_key("pk_idempotency_keys", ["user_id", "organization_id", "key"])


def _add_tables() -> None:
    op.create_table(
        "job_dependencies",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("after_id", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_job_dependencies_job_id_jobs"),
        sa.ForeignKeyConstraint(["after_id"], ["jobs.id"], name="fk_job_dependencies_after_id_jobs"),
        sa.PrimaryKeyConstraint("job_id", "after_id", name="pk_job_dependencies"),
    )
    op.create_index("ix_job_dependencies_after_id", "job_dependencies", ["after_id"])
    op.create_table(
        "organization_turns",
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("priority_class", sa.Text(), nullable=False),
        sa.Column("claimed_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "priority_class", name="pk_organization_turns"),
    )
    op.create_table(
        "queue_pauses",
        sa.Column("priority_class", sa.Text(), nullable=False),
        sa.Column("since_ms", sa.BigInteger(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("priority_class", name="pk_queue_pauses"),
    )
    op.create_table(
        "queue_counts",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_queue_counts"),
    )
