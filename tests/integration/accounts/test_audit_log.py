import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from voxelworks import accounts


def note(site, action, **more):
    with site.database.session() as session:
        accounts.audit(session, more.pop("who", "server"), action, more.pop("subject", "job:1"), **more)


def test_a_line_says_who_did_what_to_whom_from_where_and_when(site):
    ada = site.member("Ada")
    note(
        site, "job.looked_at", who=ada, subject="job:7", address="192.0.2.7", why="curious\nor more", count=3
    )
    (line, *_) = site.read(accounts.list_audit, organization_id="neuro").entries
    assert (line.who, line.organization_id, line.action, line.subject, line.address, line.detail) == (
        f"user:{ada.user_id}", "neuro", "job.looked_at", "job:7", "192.0.2.7",
        {"why": "curious\nor more", "count": 3},
    )  # fmt: skip


def test_a_line_says_through_what_somebody_came_if_not_a_browser(site):
    note(site, "x", who=site.call(accounts.local_principal))
    (line,) = site.read(accounts.list_audit).entries
    assert line.detail == {"through": "start_up"}


def test_what_is_rolled_back_was_not_done_and_is_not_noted(site):
    with pytest.raises(ZeroDivisionError), site.database.session() as session:  # noqa: PT012
        accounts.audit(session, "server", "x", "y")
        _ = 1 / 0
    assert site.actions() == []


def test_lines_come_newest_first_and_page_by_page(site):
    for number in range(7):
        note(site, f"action {number}", organization_id="neuro" if number % 2 else "chem")

    def pages(**options):
        before = None
        while True:
            page = site.read(accounts.list_audit, before=before, limit=3, **options)
            yield [entry.action for entry in page.entries]
            if (before := page.next_before) is None:
                return

    assert list(pages()) == [
        ["action 6", "action 5", "action 4"], ["action 3", "action 2", "action 1"], ["action 0"],
    ]  # fmt: skip
    assert list(pages(organization_id="neuro")) == [["action 5", "action 3", "action 1"]]
    assert list(pages(organization_id="nowhere")) == [[]]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_log SET who = 'nobody'",
        "DELETE FROM audit_log",
        "DELETE FROM audit_log WHERE id = 1",
    ],
)
def test_the_database_refuses_to_change_the_log(site, statement):
    note(site, "x")
    before = site.read(accounts.list_audit)
    with pytest.raises(DBAPIError, match="audit_log is append-only"), site.database.session() as session:
        session.execute(text(statement))
    assert site.read(accounts.list_audit) == before


def test_letting_time_pass_in_tests_leaves_the_log_protected(site):
    note(site, "x")
    (before,) = site.read(accounts.list_audit).entries
    site.advance(100)
    (after,) = site.read(accounts.list_audit).entries
    assert after.at_ms == before.at_ms - 100_000
    with pytest.raises(DBAPIError, match="append-only"), site.database.session() as session:
        session.execute(text("DELETE FROM audit_log"))
