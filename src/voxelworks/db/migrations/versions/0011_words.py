"""What jobs are found by."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

JOBS = sa.table(
    "jobs", sa.column("id", sa.Text), sa.column("workflow", sa.Text), sa.column("params", sa.JSON),
    sa.column("group_id", sa.Text), sa.column("words", sa.Text),
)  # fmt: skip


def upgrade() -> None:
    op.add_column("jobs", sa.Column("words", sa.Text(), nullable=False, server_default=""))
    connection = op.get_bind()
    last = ""
    while True:
        rows = connection.execute(
            sa.select(JOBS.c.id, JOBS.c.workflow, JOBS.c.params, JOBS.c.group_id)
            .where(JOBS.c.id > last)
            .order_by(JOBS.c.id)
            .limit(1000)
        ).all()
        if not rows:
            return
        connection.execute(
            JOBS.update().where(JOBS.c.id == sa.bindparam("job_id")).values(words=sa.bindparam("found")),
            [{"job_id": row.id, "found": _words(row.workflow, row.group_id, row.params)} for row in rows],
        )
        last = rows[-1].id


def _words(workflow: str, group: str | None, params: object) -> str:
    texts = [workflow, *([group] if group else []), *_texts(params)]
    return " ".join(dict.fromkeys(text.lower() for text in texts))


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for item in items for text in _texts(item)]
