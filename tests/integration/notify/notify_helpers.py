"""Jobs that end, and an outbox that every test calls in transactions of their own."""

from __future__ import annotations

from sqlalchemy import update

from voxelworks import notify
from voxelworks.db import Base
from voxelworks.notify import JobEnd, Sender


def job_end(job_id="j1", **given):
    """The end of a conversion of Ada's that succeeded, unless said otherwise."""
    chosen = {
        "job_id": job_id, "workflow": "convert", "title": "Convert", "organization_id": "lab", "user_id": "ada",
        "user_name": "Ada Lovelace", "email": "ada@example.org", "state": "succeeded", "subject_line": "cortex",
        "result_link": "/datasets/d1", "duration_s": 200.0, **given,
    }  # fmt: skip
    if chosen["state"] == "failed":
        chosen = {
            "failure_class": "user_input",
            "message": "section 7 is missing",
            **chosen,
            "result_link": None,
        }
    return JobEnd(**chosen)


class Post:
    """Calls functions of `notify`, each in its own transaction."""

    def __init__(self, database, settings):
        self.database, self.settings = database, settings

    def call(self, function, *args, **kwargs):
        with self.database.session() as session:
            return function(session, *args, **kwargs)

    def end(self, job_id="j1", *, is_waiting=False, **given):
        end = job_end(job_id, **given)
        self.call(notify.job_ended, end, is_waiting=is_waiting)
        return end

    def mails(self, **options):
        """All rows, oldest first."""
        return tuple(reversed(self.call(notify.list_mails, limit=1000, **options).mails))

    def states(self):
        return [(mail.recipient, mail.state) for mail in self.mails()]

    def sender(self, **changes):
        return Sender(self.database, self.settings.model_copy(update=changes))

    def advance(self, seconds):
        """Let time pass: every date of the database moves into the past."""
        with self.database.session() as session:
            for table in Base.metadata.sorted_tables:
                dates = {
                    column: column - round(seconds * 1000)
                    for column in table.columns
                    if column.name.endswith("_ms")
                }
                if dates and table.name in ("outbox", "webhooks"):
                    session.execute(update(table).values(dates))
