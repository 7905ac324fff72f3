"""`voxelworks credits` over the database of a home folder."""

import csv
import io
import json
from datetime import UTC, datetime

import pytest
from click.testing import CliRunner
from sqlalchemy import text

from voxelworks import accounts, notify
from voxelworks import credits as ledger
from voxelworks.cli.credits import credits
from voxelworks.db import open_database
from voxelworks.errors import InvalidInput, NotFound
from voxelworks.settings import Settings


@pytest.fixture
def home(tmp_path):
    with _session(tmp_path) as session:
        accounts.prepare(session)
    return tmp_path


class _session:  # noqa: N801 - used like a function
    def __init__(self, home):
        self._database = open_database(Settings(home=home))
        self._context = self._database.session()

    def __enter__(self):
        return self._context.__enter__()

    def __exit__(self, *error):
        self._context.__exit__(*error)
        self._database.close()


def _run(home, *arguments, status=0):
    outcome = CliRunner().invoke(credits, [*arguments, "--home", str(home)], standalone_mode=False)
    if outcome.exception is not None:
        raise outcome.exception
    assert (outcome.return_value or 0) == status
    return outcome.output


def test_credits_are_granted_and_shown(home):
    told = _run(
        home, "grant", "--credits", "250.5", "--paid", "99.90", "--currency", "EUR", "--comment", "invoice 3"
    )
    assert told == "local got 250.5 credits; 250.5 can be spent now\n"
    shown = json.loads(_run(home, "balance", "--json"))
    assert (shown["available"], shown["held"]) == (250_500, 0)
    assert shown["grants"][0]["paid"] == "99.90"
    table = _run(home, "balance")
    assert [line.split() for line in table.splitlines()][:2] == [
        ["available", "250.5"],
        ["held", "for", "jobs", "0"],
    ]
    assert "invoice 3" in table
    with _session(home) as session:
        (entry,) = [item for item in accounts.list_audit(session).entries if item.action == "credits.granted"]
    assert (entry.organization_id, entry.subject) == ("local", "local")


def test_activity_is_listed_and_written_as_csv(home):
    _run(home, "grant", "--credits", "2")
    _run(home, "grant", "--credits", "1", "--compensation", "--expires", "2999-01-31")
    rows = json.loads(_run(home, "activity", "--json"))
    assert [(row["kind"], row["change"]) for row in rows] == [("compensation", 1000), ("purchase", 2000)]
    assert rows[0]["expires_ms"] == datetime(2999, 1, 31, tzinfo=UTC).timestamp() * 1000
    assert len(json.loads(_run(home, "activity", "--json", "--kind", "purchase"))) == 1
    assert len(json.loads(_run(home, "activity", "--json", "--limit", "1"))) == 1
    table = list(csv.DictReader(io.StringIO(_run(home, "activity", "--csv"))))
    assert [line["credits"] for line in table] == ["1", "2"]
    assert "purchase" in _run(home, "activity")


def test_an_organization_without_activity_says_so(home):
    assert _run(home, "activity") == "No credits came or went yet.\n"
    assert json.loads(_run(home, "balance", "--json"))["available"] == 0
    assert _run(home, "orders") == "No orders.\n"


def test_orders_are_listed_granted_and_declined(home):
    with _session(home) as session:
        first = ledger.order(session, "local", "local", 5, "for the course").id
        second = ledger.order(session, "local", "local", 7).id
    listed = _run(home, "orders", "--state", "open")
    assert first in listed
    assert "Local operator" in listed
    assert _run(home, "grant-order", first, "--paid", "10", "--currency", "EUR") == "local got 5 credits\n"
    told = _run(home, "decline-order", second, "--reason", "too many")
    assert told == "the order of local for 7 credits is declined\n"
    states = {
        item["id"]: (item["state"], item["reason"]) for item in json.loads(_run(home, "orders", "--json"))
    }
    assert states == {first: ("granted", None), second: ("declined", "too many")}
    assert json.loads(_run(home, "balance", "--json"))["available"] == 5000


def test_the_books_are_checked(home):
    _run(home, "grant", "--credits", "2")
    assert _run(home, "check") == "The books are right.\n"
    with _session(home) as session:
        session.execute(text("UPDATE credit_balances SET available = 1000, spent = 1000"))
    told = _run(home, "check", status=1)
    assert "balance: available" in told
    assert len(json.loads(_run(home, "check", "--json", status=1))) == 2
    assert _run(home, "check", "--organization", "other") == "The books are right.\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--credits", "many"], "'many' is not a number of credits, such as 250 or 0.5"),
        (["--credits", "NaN"], "'NaN' is not a number of credits"),
        (["--credits", "0.0001"], "0.0001 credits are not whole millicredits; write at most three decimals"),
        (["--credits", "0"], "0 millicredits cannot be granted"),
        (
            ["--credits", "1", "--paid", "x", "--currency", "EUR"],
            "'x' is not an amount of money, such as 49.90",
        ),
        (["--credits", "1", "--paid", "5"], "give both or none"),
        (["--credits", "1", "--expires", "tomorrow"], "'tomorrow' is not a date; write it as 2027-01-31"),
        (["--credits", "1", "--expires", "2001-01-01"], "these credits would have expired already"),
    ],
)
def test_senseless_grants_are_refused(home, options, message):
    with pytest.raises(InvalidInput) as refused:
        _run(home, "grant", *options)
    assert message in str(refused.value)
    assert json.loads(_run(home, "balance", "--json"))["available"] == 0


@pytest.mark.parametrize("command", [["balance"], ["activity"], ["grant", "--credits", "1"]])
def test_an_unknown_organization_is_not_found(home, command):
    with pytest.raises(NotFound, match="nowhere"):
        _run(home, *command, "--organization", "nowhere")


def test_the_owner_is_told_of_grants_and_of_declined_orders(home):
    with _session(home) as session:
        owner = accounts.owner_of(session, "local")
        session.execute(text("UPDATE users SET email = 'ada@example.org' WHERE id = :id"), {"id": owner.id})
        first, second = (ledger.order(session, "local", owner.id, count).id for count in (5, 7))
    _run(home, "grant", "--credits", "2.5")
    _run(home, "grant-order", first)
    _run(home, "decline-order", second, "--reason", "no money came")
    with _session(home) as session:
        mails = notify.list_mails(session).mails[::-1]
    assert [(mail.recipient, mail.template) for mail in mails] == [
        ("ada@example.org", "credits_granted"), ("ada@example.org", "credits_granted"),
        ("ada@example.org", "credits_declined"),
    ]  # fmt: skip
