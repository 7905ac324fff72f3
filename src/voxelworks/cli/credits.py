"""`voxelworks credits`: balances, activity, grants and orders. For the operator, on the server's own machine."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import get_args

import click
from rich.text import Text

from voxelworks import accounts
from voxelworks import credits as ledger
from voxelworks.cli import _show
from voxelworks.cli._accounts import limit_option, office, opened_database, organization_option
from voxelworks.cli._lists import date, json_option, print_views
from voxelworks.cli._settings import home_option
from voxelworks.credits import ActivityKind, in_credits
from voxelworks.errors import InvalidInput
from voxelworks.protocol.credits import MILLICREDITS, OrderState

paid_options = (
    click.option("--paid", metavar="AMOUNT", help="What was paid, such as 49.90."),
    click.option("--currency", help="Of what was paid, such as EUR."),
    click.option("--comment", default="", help="Shown in the credit activity, such as the number of the invoice."),
    click.option(
        "--expires", metavar="DATE",
        help="When unused credits expire: a date (its first instant, UTC) or a time with its offset. Never by default.",
    ),
)  # fmt: skip


@click.group()
def credits() -> None:
    """Look at balances, and grant credits. ORG is the short name of an organization."""


@credits.command()
@organization_option
@home_option
@json_option
def balance(organization_id: str, home: Path | None, as_json: bool) -> None:
    """Show what an organization can spend."""
    with opened_database(home) as (database, _), database.read_session() as session:
        accounts.find_organization(session, organization_id)
        found = ledger.balance(session, organization_id)
    if as_json:
        click.echo(_show.as_json(found.model_dump(mode="json")))
        return
    console = _show.output()
    console.print(
        _show.facts({"available": in_credits(found.available), "held for jobs": in_credits(found.held)})
    )
    rows: list[dict[str, object]] = [
        {
            "grant": grant.id, "kind": grant.kind, "left": in_credits(grant.available), "of": in_credits(grant.amount),
            "expires": date(grant.expires_ms) or "never", "comment": grant.comment,
        }
        for grant in found.grants
    ]  # fmt: skip
    if rows:
        console.print(Text("\nIn the order in which they are used up", "dim"))
        print_views(found.grants, rows, as_json=False, none="")


@credits.command()
@organization_option
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice(get_args(ActivityKind)),
    help="Only this kind; may be repeated.",
)
@limit_option
@click.option("--csv", "as_csv", is_flag=True, help="Print everything as CSV.")
@home_option
@json_option
def activity(
    organization_id: str,
    kinds: tuple[ActivityKind, ...],
    limit: int,
    as_csv: bool,
    home: Path | None,
    as_json: bool,
) -> None:
    """Show what came to and went from an organization."""
    with opened_database(home) as (database, _), database.read_session() as session:
        accounts.find_organization(session, organization_id)
        if as_csv:
            for line in ledger.activity_csv(session, organization_id, kinds=kinds):
                click.echo(line, nl=False)
            return
        found = ledger.activity(session, organization_id, kinds=kinds, limit=limit).rows
    rows: list[dict[str, object]] = [
        {
            "time": date(row.at_ms), "kind": row.kind, "credits": in_credits(row.change),
            "available_after": in_credits(row.available_after), "job": row.job_id, "state": row.state,
            "comment": row.comment,
        }
        for row in found
    ]  # fmt: skip
    print_views(found, rows, as_json=as_json, none="No credits came or went yet.")


@credits.command()
@organization_option
@click.option("--credits", "count", required=True, metavar="NUMBER", help="How many, such as 250 or 0.5.")
@click.option("--compensation", is_flag=True, help="Given in place of lost ones, and not bought.")
@paid_options[0]
@paid_options[1]
@paid_options[2]
@paid_options[3]
@home_option
def grant(
    organization_id: str,
    count: str,
    compensation: bool,
    paid: str | None,
    currency: str | None,
    comment: str,
    expires: str | None,
    home: Path | None,
) -> None:
    """Give credits to an organization."""
    from voxelworks.server import granting  # slow import: only for this command

    payment = granting.Payment(_money(paid), currency, comment, _instant(expires))
    with office(home, organization_id) as here:
        made = granting.grant_credits(
            here.session, here.by, organization_id, _millicredits(count), payment,
            kind="compensation" if compensation else "paid",
        )  # fmt: skip
        available = ledger.balance(here.session, organization_id).available
    _show.output().print(
        f"{organization_id} got {in_credits(made.amount)} credits; {in_credits(available)} can be spent now",
        markup=False,
    )


@credits.command()
@click.option("--organization", "organization_id", metavar="ORG", help="Only of this organization.")
@click.option("--state", type=click.Choice(get_args(OrderState)), help="Only orders in this state.")
@home_option
@json_option
def orders(organization_id: str | None, state: OrderState | None, home: Path | None, as_json: bool) -> None:
    """List requests to buy credits, newest first."""
    with opened_database(home) as (database, _), database.read_session() as session:
        found = ledger.list_orders(session, organization_id, state=state)
        people = accounts.find_users(session, {item.user_id for item in found})
    rows: list[dict[str, object]] = [
        {
            "order": item.id, "organization": item.organization_id, "credits": item.credits, "state": item.state,
            "ordered": date(item.created_ms), "comment": item.comment,
            "by": people[item.user_id].name if item.user_id in people else item.user_id,
        }
        for item in found
    ]  # fmt: skip
    print_views(found, rows, as_json=as_json, none="No orders.")


@credits.command("grant-order")
@click.argument("order_id", metavar="ORDER")
@paid_options[0]
@paid_options[1]
@paid_options[2]
@paid_options[3]
@home_option
def grant_order(
    order_id: str,
    paid: str | None,
    currency: str | None,
    comment: str,
    expires: str | None,
    home: Path | None,
) -> None:
    """Give the credits that were ordered."""
    from voxelworks.server import granting  # slow import: only for this command

    payment = granting.Payment(_money(paid), currency, comment, _instant(expires))
    with office(home) as here:
        order = granting.grant_order(here.session, here.by, order_id, payment)
    _show.output().print(f"{order.organization_id} got {order.credits} credits", markup=False)


@credits.command("decline-order")
@click.argument("order_id", metavar="ORDER")
@click.option("--reason", required=True, help="Shown to whoever ordered.")
@home_option
def decline_order(order_id: str, reason: str, home: Path | None) -> None:
    """Refuse an order."""
    from voxelworks.server import granting  # slow import: only for this command

    with office(home) as here:
        order = granting.decline_order(here.session, here.by, order_id, reason)
    _show.output().print(
        f"the order of {order.organization_id} for {order.credits} credits is declined", markup=False
    )


@credits.command()
@click.option("--organization", "organization_id", metavar="ORG", help="Only of this organization.")
@home_option
@json_option
def check(organization_id: str | None, home: Path | None, as_json: bool) -> int:
    """Check that the books are right. Entries, grants, balances and charges must tell the same story.

    Exit status 1 if anything differs. The server does the same every night.
    """
    with opened_database(home) as (database, _), database.read_session() as session:
        found = ledger.check(session)
    differences = [item for item in found if organization_id in (None, item.organization_id)]
    rows: list[dict[str, object]] = [
        {
            "organization": item.organization_id,
            "about": item.about,
            "entries_say": item.expected,
            "found": item.found,
        }
        for item in differences
    ]
    print_views(differences, rows, as_json=as_json, none="The books are right.")
    return 1 if differences else 0


def _millicredits(text: str) -> int:
    exact = _decimal(text, "a number of credits, such as 250 or 0.5") * MILLICREDITS
    if exact != exact.to_integral_value():
        raise InvalidInput(f"{text} credits are not whole millicredits; write at most three decimals")
    return int(exact)


def _money(text: str | None) -> Decimal | None:
    return None if text is None else _decimal(text, "an amount of money, such as 49.90")


def _decimal(text: str, what: str) -> Decimal:
    try:
        number = Decimal(text)
    except InvalidOperation as error:
        raise InvalidInput(f"{text!r} is not {what}") from error
    if not number.is_finite():
        raise InvalidInput(f"{text!r} is not {what}")
    return number


def _instant(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(f"{text!r} is not a date; write it as 2027-01-31") from error
    return round((at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp() * 1000)
