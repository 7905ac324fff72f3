"""T5 for the ledger: a process that dies at any statement leaves books that are right, and the call can be repeated."""

import os

import pytest
from sqlalchemy import event

from voxelworks import credits
from voxelworks.db import now
from voxelworks.testing.clocks import moved_clock
from voxelworks.testing.databases import sqlite_database
from voxelworks.testing.forks import run_forked
from voxelworks.testing.ledgers import Ledger

DAY_MS = 86_400_000
DIED = 9


@pytest.fixture
def ledger(tmp_path):
    # Forked children need connections of their own; that is quick with SQLite. The statements are the same on both.
    with sqlite_database() as database:
        ledger = Ledger.over(database, tmp_path, monthly_free_credits=1)
        ledger.grant(100)
        ledger.hold("open", 1050)
        yield ledger


@pytest.fixture
def clock_at(ledger):
    """The clock of the ledger, which stands at the present until it is set."""
    present = ledger.read(now)
    with moved_clock(ledger.database, present) as clock:
        yield clock


CALLS = {
    "grant": lambda ledger: ledger.grant(5),
    "month": lambda ledger: ledger.ensure_monthly("new"),
    "hold": lambda ledger: ledger.hold("new", 50),
    "quote": lambda ledger: ledger.call(
        credits.quote, organization_id="new", user_id="ada", price_name="voxel", quantity=5
    ),
    "settle": lambda ledger: ledger.settle("open"),
    "release": lambda ledger: ledger.release("open"),
    "release by our fault": lambda ledger: ledger.release("open", is_our_fault=True),
    "refund": lambda ledger: ledger.refund("open"),
    "expire": lambda ledger: ledger.call(credits.expire),
}
AT_LATER_DATE = {"release by our fault", "refund", "expire"}
"""Called when the month's credits have ended."""


@pytest.mark.parametrize("name", CALLS)
def test_a_death_at_any_statement_leaves_right_books(ledger, clock_at, name):
    if name == "refund":
        ledger.settle("open")
    if name in AT_LATER_DATE:
        ledger.grant(7, expires_ms=clock_at.at_ms + DAY_MS)
        clock_at.advance(days=62)
    before, point = _state(ledger), 0
    while _dies_at(ledger, CALLS[name], point):
        ledger.must_be_right()
        if _state(ledger) != before:
            break  # it died after its commit, before anybody was told
        point += 1
    assert point >= 4, "no statement was hit"
    if _state(ledger) == before or name in {*CALLS} - {"grant", "hold", "quote"}:
        CALLS[name](ledger)  # whoever got no answer asks again
    ledger.must_be_right()
    ledger.release("open")
    ledger.release("new")
    assert ledger.balance().held == 0
    assert ledger.charge("open").state == ("settled" if name == "settle" else "released")
    kinds = [kind for kind, _, _ in ledger.history()]
    assert kinds.count("refund") == (name != "settle") + (name == "hold")
    assert kinds.count("compensation") == (name in ("release by our fault", "refund"))


def _state(ledger):
    return ledger.history(), ledger.history("new"), ledger.balance().held


def _dies_at(ledger, call, point):
    """Make the call in a child that dies at a statement; False if the call had fewer statements."""

    def act():
        seen = 0

        def die(*_):
            nonlocal seen
            if seen == point:
                os._exit(DIED)
            seen += 1

        for moment in ("before_cursor_execute", "after_cursor_execute", "commit"):
            event.listen(ledger.database.engine, moment, die)
        call(ledger)

    ledger.database.close()
    return run_forked([act]) == 1
