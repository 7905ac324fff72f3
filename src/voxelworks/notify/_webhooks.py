"""Webhooks: addresses of an organization that are called when its jobs end, and what they are told."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Collection
from typing import cast, get_args
from urllib.parse import urlsplit

from sqlalchemy import bindparam, func, select
from sqlalchemy.orm import Session

from voxelworks.addresses import AddressRules, check_address
from voxelworks.db import SecretBox, now
from voxelworks.errors import InvalidInput, NotFound
from voxelworks.notify._messages import Alert, JobEnd, TestMessage, Told
from voxelworks.notify._outbox import ALERT_EVENT, add_row
from voxelworks.notify._tables import OutboxRow, WebhookKind, WebhookRow
from voxelworks.notify._views import WebhookEvent, WebhookView
from voxelworks.notify._words import credits_text, one_line
from voxelworks.settings import Settings

EVENTS: tuple[WebhookEvent, ...] = get_args(WebhookEvent)
TEST_EVENT = "test"
COUNT_MAX = 20
"""Webhooks of one organization."""
URL_LENGTH_MAX = 2000
_FINDING_ON = (
    select(WebhookRow.id, WebhookRow.events)
    .where(WebhookRow.organization_id == bindparam("organization_id"), WebhookRow.is_on)
    .order_by(WebhookRow.id)
)


def create_webhook(
    session: Session,
    box: SecretBox,
    *,
    organization_id: str,
    user_id: str,
    url: str,
    kind: WebhookKind,
    events: Collection[WebhookEvent] = EVENTS,
    settings: Settings,
) -> tuple[str, WebhookView]:
    """Add a webhook, and give the secret that its calls are signed with: shown this once.

    Raises
    ------
    ForbiddenAddress
        If the address is one that the server never calls. Names are looked up only when it is called.
    InvalidInput
        If there are too many, or no event is chosen.
    """
    url = url.strip()
    if len(url) > URL_LENGTH_MAX:
        raise InvalidInput(f"the address has {len(url)} characters; at most {URL_LENGTH_MAX} are taken")
    check_address(url, AddressRules.of(settings))
    chosen = _check_events(events)
    count = session.scalar(
        select(func.count()).select_from(WebhookRow).where(WebhookRow.organization_id == organization_id)
    )
    if (count or 0) >= COUNT_MAX:
        raise InvalidInput(f"there are {count} webhooks already; remove one that is not needed any more")
    secret = f"vxh_{secrets.token_urlsafe(32)}"
    row = WebhookRow(
        id=secrets.token_hex(8), organization_id=organization_id, sealed_url=box.seal(url),
        shown_url=_without_secrets(url), kind=kind, events=chosen, sealed_secret=box.seal(secret), is_on=True,
        created_ms=now(session), created_by=user_id,
    )  # fmt: skip
    session.add(row)
    session.flush()
    return secret, _view(row)


def list_webhooks(session: Session, organization_id: str) -> tuple[WebhookView, ...]:
    """Give the webhooks of an organization, oldest first."""
    query = (
        select(WebhookRow)
        .where(WebhookRow.organization_id == organization_id)
        .order_by(WebhookRow.created_ms, WebhookRow.id)
    )
    return tuple(_view(row) for row in session.scalars(query))


def change_webhook(
    session: Session,
    webhook_id: str,
    *,
    organization_id: str,
    events: Collection[WebhookEvent] | None = None,
    is_on: bool | None = None,
) -> WebhookView:
    """Choose other events, or switch a webhook on or off.

    Raises
    ------
    NotFound
        Also if it belongs to another organization.
    """
    row = _find(session, webhook_id, organization_id)
    if events is not None:
        row.events = _check_events(events)
    if is_on is not None:
        row.is_on = is_on
    session.flush()
    return _view(row)


def delete_webhook(session: Session, webhook_id: str, *, organization_id: str) -> None:
    """Remove a webhook; what still waits for it is not sent.

    Raises
    ------
    NotFound
        Also if it belongs to another organization.
    """
    session.delete(_find(session, webhook_id, organization_id))
    session.flush()


def test_webhook(session: Session, webhook_id: str, *, organization_id: str) -> None:
    """Let the sender call a webhook with a test message; the list shows whether it arrived.

    Raises
    ------
    NotFound
        Also if it belongs to another organization.
    """
    row = _find(session, webhook_id, organization_id)
    add_row(
        session, TestMessage(), key=f"test/{row.id}/{secrets.token_hex(8)}", channel="webhook", state="due",
        recipient=row.id, template=TEST_EVENT, at_ms=now(session), organization_id=organization_id,
    )  # fmt: skip


test_webhook.__test__ = False  # type: ignore[attr-defined] # pytest would take it for a test


def webhooks_for(session: Session, end: JobEnd) -> list[str]:
    """Give the ids of the webhooks that are told of this end of a job."""
    found = session.execute(_FINDING_ON, {"organization_id": end.organization_id})
    return [webhook_id for webhook_id, events in found if f"job.{end.state}" in events]


def read_told(row: OutboxRow) -> Told:
    """Give what a call of a webhook tells, as it was written down."""
    others: dict[str, type[Told]] = {ALERT_EVENT: Alert, TEST_EVENT: TestMessage}
    return others.get(row.template, JobEnd).model_validate(row.context)


def body_of(row: OutboxRow, told: Told, kind: WebhookKind, link_base: str) -> bytes:
    """Write what a webhook gets: the same bytes in every try."""
    content = (
        {"text": _slack_text(told, link_base)} if kind == "slack" else _json_content(row, told, link_base)
    )
    return json.dumps(content, ensure_ascii=True, sort_keys=True).encode()


def headers_of(row: OutboxRow, body: bytes, secret: str | None, timestamp_s: int) -> dict[str, str]:
    """Say what is told and when, signed if there is a secret: HMAC-SHA256 over timestamp, a point, and the body."""
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "Voxelworks",
        "Voxelworks-Event": row.template,
        "Voxelworks-Delivery": str(row.id),
        "Voxelworks-Timestamp": str(timestamp_s),
    }
    if secret is not None:
        signature = hmac.new(secret.encode(), f"{timestamp_s}.".encode() + body, hashlib.sha256).hexdigest()
        headers["Voxelworks-Signature"] = f"v1={signature}"
    return headers


def _json_content(row: OutboxRow, told: Told, link_base: str) -> dict[str, object]:
    content: dict[str, object] = {"event": row.template, "delivery": row.id, "created_ms": row.created_ms}
    if isinstance(told, JobEnd):
        # Whoever listens learns what the members see; addresses of people are none of that.
        job = told.model_dump(mode="json", exclude={"email", "is_foreign", "is_free_rerun", "subject_line"})
        links = {"link": link_base + told.job_path, "result_link": _link(told.result_link, link_base)}
        return {**content, "job": {**job, "about": told.subject_line, **links}}
    return {**content, "message": told.model_dump(mode="json")}


def _slack_text(told: Told, link_base: str) -> str:
    if isinstance(told, JobEnd):
        lines = [f"*{_escape(one_line(told.subject))}* ({_escape(one_line(told.user_name))})"]
        if told.message and told.state != "succeeded":
            lines.append(_escape(one_line(told.message, 1000)))
        if told.returned:
            lines.append(f"{credits_text(told.returned)} returned")
        lines.append(f"<{link_base}{told.job_path}|Open the job>")
        if told.result_link and told.state == "succeeded":
            lines[-1] += f" · <{link_base}{told.result_link}|Open the result>"
        return "\n".join(lines)
    if isinstance(told, Alert):
        link = f"\n<{link_base}{told.path}|Look at it>" if told.path else ""
        return f"*{_escape(one_line(told.title))}*\n{_escape(told.text)}{link}"
    return _escape(told.subject)


def _escape(text: str) -> str:
    """Write a text for Slack so that nothing in it is a link or calls people together."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _link(path: str | None, link_base: str) -> str | None:
    return None if path is None else link_base + path


def _without_secrets(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/…"


def _check_events(events: Collection[WebhookEvent]) -> list[WebhookEvent]:
    chosen = [event for event in EVENTS if event in events]
    if unknown := sorted(set(events) - set(EVENTS)):
        raise InvalidInput(f"there is no event {unknown[0]!r}; choose of {', '.join(EVENTS)}")
    if not chosen:
        raise InvalidInput(f"no event is chosen; choose at least one of {', '.join(EVENTS)}")
    return chosen


def _find(session: Session, webhook_id: str, organization_id: str) -> WebhookRow:
    row = session.get(WebhookRow, webhook_id)
    if row is None or row.organization_id != organization_id:
        raise NotFound(f"there is no webhook {webhook_id!r}; see the list of webhooks")
    return row


def _view(row: WebhookRow) -> WebhookView:
    return WebhookView(
        id=row.id, organization_id=row.organization_id, shown_url=row.shown_url, kind=row.kind,
        events=cast("tuple[WebhookEvent, ...]", tuple(row.events)), is_on=row.is_on, created_ms=row.created_ms,
        created_by=row.created_by, last_sent_ms=row.last_sent_ms, last_error=row.last_error,
    )  # fmt: skip
