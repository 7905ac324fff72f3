"""What is shown of mails and webhooks: to the operator, and to the admins of an organization."""

from __future__ import annotations

from typing import Literal

from voxelworks.notify._tables import Channel, OutboxState, WebhookKind
from voxelworks.protocol.messages import Message

WebhookEvent = Literal["job.succeeded", "job.failed", "job.cancelled"]


class MailView(Message):
    """A mail or a call of a webhook, as the operator's list shows it."""

    id: int
    channel: Channel
    state: OutboxState
    recipient: str
    """Mail address, or id of the webhook."""
    subject: str
    template: str
    """Of a call of a webhook its event."""
    organization_id: str | None
    job_id: str | None
    created_ms: int
    done_ms: int | None
    """When it was sent, kept or given up."""
    tries: int
    last_error: str | None


class MailPage(Message):
    """Some mails, newest first."""

    mails: tuple[MailView, ...]
    next_after: int | None
    counts: dict[OutboxState, int]
    """Of all mails, whatever the page shows."""


class MailText(Message):
    """A mail as its reader sees it."""

    view: MailView
    text: str
    html: str | None
    """None for the call of a webhook, and for what held a secret and was sent."""


class WebhookView(Message):
    """A webhook, without its secrets."""

    id: str
    organization_id: str
    shown_url: str
    """Address without what could be a secret in it."""
    kind: WebhookKind
    events: tuple[WebhookEvent, ...]
    is_on: bool
    created_ms: int
    created_by: str
    """User id."""
    last_sent_ms: int | None
    last_error: str | None
    """Of the last call; None if it arrived."""
