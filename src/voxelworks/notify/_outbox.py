"""Rows of the outbox: written in the caller's transaction, read for people."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from functools import cache
from typing import get_args

from pydantic import ValidationError
from sqlalchemy import bindparam, func, inspect, select
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import ReturningInsert

from voxelworks.db import SecretBox, dialect_of, insert_into, now
from voxelworks.errors import IllegalTransition, InvalidInput, NotFound
from voxelworks.notify._messages import MESSAGES, Alert, Template, Told
from voxelworks.notify._tables import Channel, OutboxRow, OutboxState
from voxelworks.notify._views import MailPage, MailView
from voxelworks.notify._words import check_mail_address, one_line
from voxelworks.settings import Settings

OPERATOR_WEBHOOK = "operator"
"""Stands for the webhook of the settings, as recipient."""
ALERT_EVENT = "alert"
_NEW = "new_"
"""Before the name of a column: the parameter with the value of a row."""


def post_mail(
    session: Session,
    *,
    key: str,
    to: str,
    template: Template,
    context: Mapping[str, object],
    reply_to: str | None = None,
    box: SecretBox | None = None,
    user_id: str | None = None,
    organization_id: str | None = None,
    job_id: str | None = None,
) -> bool:
    """Write a mail to be sent once this transaction is committed.

    Parameters
    ----------
    key
        Names event and recipient: a second mail with the same key is not written.
    context
        The fields of the template's model in `_messages`.
    box
        Needed for mails whose links let somebody in: they are stored encrypted, and removed once sent.
    user_id
        Of whom it speaks. Only mails about jobs can be switched off.

    Returns
    -------
    bool
        False if there was such a mail already.

    Raises
    ------
    InvalidInput
        If an address is none, or the context does not fit the template.
    """
    told = _fill(template, context)
    for address in (to, reply_to):
        if address is not None:
            check_mail_address(address)
    at_ms = now(session)
    return add_row(
        session, told, key=key, channel="mail", state="due", recipient=to, template=template, at_ms=at_ms,
        reply_to=reply_to, box=box, user_id=user_id, organization_id=organization_id, job_id=job_id,
    )  # fmt: skip


def alert(
    session: Session,
    *,
    settings: Settings,
    condition: str,
    title: str,
    text: str,
    path: str | None = None,
    cool_down_s: float = 86_400.0,
) -> bool:
    """Tell the operator of something, by mail and webhook as far as the settings name them.

    Parameters
    ----------
    condition
        What is told at most once within `cool_down_s`, such as `disk-full`.

    Returns
    -------
    bool
        False if it was told a short while ago, or there is nobody to tell.
    """
    recipients: list[tuple[Channel, str]] = []
    if settings.operator_email is not None:
        recipients.append(("mail", settings.operator_email))
    if settings.alert_webhook is not None:
        recipients.append(("webhook", OPERATOR_WEBHOOK))
    at_ms = now(session)
    prefix = f"alert/{condition}/"
    told = session.execute(
        select(OutboxRow.key, OutboxRow.created_ms).where(OutboxRow.key.startswith(prefix, autoescape=True))
    ).all()
    if any(row.created_ms > at_ms - cool_down_s * 1000 for row in told):
        return False
    message = Alert(title=title, text=text, path=path)
    # Numbered, so that of two servers that look at the same time only one tells it; after the last that is still
    # there, as old ones are removed.
    numbers = [row.key.removeprefix(prefix).partition("/")[0] for row in told]
    number = 1 + max((int(part) for part in numbers if part.isdecimal()), default=-1)
    written = [
        add_row(
            session, message, key=f"{prefix}{number}/{recipient}", channel=channel, state="due",
            recipient=recipient, template=ALERT_EVENT, at_ms=at_ms,
        )
        for channel, recipient in recipients
    ]  # fmt: skip
    return any(written)


def add_row(
    session: Session,
    told: Told,
    *,
    key: str,
    channel: Channel,
    state: OutboxState,
    recipient: str,
    template: str,
    at_ms: int,
    available_ms: int | None = None,
    reply_to: str | None = None,
    box: SecretBox | None = None,
    user_id: str | None = None,
    organization_id: str | None = None,
    job_id: str | None = None,
) -> bool:
    """Insert a row, unless there is one with this key; say which."""
    content = told.model_dump(mode="json")
    sealed = None
    if told.holds_secret:
        assert box is not None, f"a {template} mail holds a secret: give the box to seal it with"
        content, sealed = {}, box.seal(json.dumps(content))
    values = {
        "key": key, "channel": channel, "state": state, "recipient": recipient, "subject": one_line(told.subject),
        "template": template, "context": content, "sealed_context": sealed, "reply_to": reply_to,
        "user_id": user_id, "organization_id": organization_id, "job_id": job_id, "created_ms": at_ms,
        "due_ms": at_ms if state == "due" else None,
        "available_ms": at_ms if available_ms is None else available_ms, "tries": 0,
    }  # fmt: skip
    adding = _adding(dialect_of(session), tuple(values))
    return session.scalar(adding, {_NEW + name: value for name, value in values.items()}) is not None


@cache
def _adding(dialect: str, names: tuple[str, ...]) -> ReturningInsert[tuple[int]]:
    columns = inspect(OutboxRow).columns
    return (
        insert_into(dialect, OutboxRow)
        .values({name: bindparam(_NEW + name, type_=columns[name].type) for name in names})
        .on_conflict_do_nothing(index_elements=["key"])
        .returning(OutboxRow.id)
    )


def list_mails(
    session: Session,
    *,
    states: Collection[OutboxState] = (),
    channel: Channel | None = None,
    after: int | None = None,
    limit: int = 50,
) -> MailPage:
    """Give mails and calls of webhooks, newest first.

    Parameters
    ----------
    states
        Only these; all of them if empty.
    after
        `next_after` of the page before.
    """
    query = select(OutboxRow).order_by(OutboxRow.id.desc()).limit(limit + 1)
    if states:
        query = query.where(OutboxRow.state.in_(states))
    if channel is not None:
        query = query.where(OutboxRow.channel == channel)
    if after is not None:
        query = query.where(OutboxRow.id < after)
    rows = session.scalars(query).all()
    counted = select(OutboxRow.state, func.count()).group_by(OutboxRow.state)
    if channel is not None:
        counted = counted.where(OutboxRow.channel == channel)
    counts = dict(session.execute(counted).all())
    return MailPage(
        mails=tuple(view_of(row) for row in rows[:limit]),
        next_after=rows[limit - 1].id if len(rows) > limit else None,
        counts={state: counts.get(state, 0) for state in get_args(OutboxState)},
    )


def send_again(session: Session, mail_id: int) -> MailView:
    """Let the sender try a mail once more that it gave up, or could not send without a mail server.

    Raises
    ------
    NotFound
    IllegalTransition
        If it is on its way or was sent.
    """
    row = find_row(session, mail_id, for_update=True)
    if row.state not in ("failed", "kept"):
        raise IllegalTransition(
            f"mail {mail_id} is {row.state}; only mails that failed or were kept are sent again"
        )
    at_ms = now(session)
    row.state, row.due_ms, row.available_ms, row.done_ms = "due", at_ms, at_ms, None
    row.tries, row.last_error, row.lease_token, row.lease_until_ms = 0, None, None, None
    session.flush()
    return view_of(row)


def outbox_age_s(session: Session) -> float | None:
    """Say for how long the oldest message waits that could be sent; None if none waits."""
    oldest = session.scalar(select(func.min(OutboxRow.due_ms)).where(OutboxRow.state == "due"))
    return None if oldest is None else max(0.0, (now(session) - oldest) / 1000)


def mails_failed(session: Session, *, since_ms: int) -> int:
    """Count what was given up since then."""
    query = select(func.count()).where(OutboxRow.state == "failed", OutboxRow.done_ms >= since_ms)
    return session.scalar(query) or 0


def find_row(session: Session, mail_id: int, *, for_update: bool = False) -> OutboxRow:
    row = session.get(OutboxRow, mail_id, with_for_update=for_update or None)
    if row is None:
        raise NotFound(f"there is no mail {mail_id}; it may have been removed after its time")
    return row


def view_of(row: OutboxRow) -> MailView:
    return MailView(
        id=row.id, channel=row.channel, state=row.state, recipient=row.recipient, subject=row.subject,
        template=row.template, organization_id=row.organization_id, job_id=row.job_id, created_ms=row.created_ms,
        done_ms=row.done_ms, tries=row.tries, last_error=row.last_error,
    )  # fmt: skip


def _fill(template: Template, context: Mapping[str, object]) -> Told:
    kind = MESSAGES[template]
    if unknown := sorted(set(context) - set(kind.model_fields)):
        raise InvalidInput(f"the mail {template!r} has no place for {unknown[0]!r}; leave it out")
    try:
        return kind.model_validate(dict(context))
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
            for item in error.errors(include_url=False)
        )
        raise InvalidInput(
            f"the mail {template!r} cannot be filled in ({problems}); give what it needs"
        ) from error
