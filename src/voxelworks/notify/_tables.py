"""The tables of what is told to people and programs.

Users, organizations and jobs are named by id without foreign keys: a message outlives what it speaks of, and the record
packages know nothing of each other's tables.
"""

from __future__ import annotations

from typing import Any, Literal

from sqlalchemy import BigInteger, CheckConstraint, Index, Integer, Text
from sqlalchemy.orm import Mapped, mapped_column

from voxelworks.db import Base

Channel = Literal["mail", "webhook"]
OutboxState = Literal["held", "digest", "due", "sent", "kept", "failed", "merged", "dropped"]
"""`held` until the result is published; `digest` until its digest is made; `due` until it is sent; then `sent`, `kept`
(there is no mail server) or `failed` (given up). `merged` went into a digest, `dropped` is not wanted any more."""

DigestEvery = Literal["none", "hourly", "daily"]
WebhookKind = Literal["json", "slack"]

OPEN_STATES: tuple[OutboxState, ...] = ("held", "digest", "due")
DONE_STATES: tuple[OutboxState, ...] = ("sent", "kept", "failed", "merged", "dropped")
_STATES = ", ".join(f"'{state}'" for state in (*OPEN_STATES, *DONE_STATES))


class OutboxRow(Base):
    """One mail or one call of a webhook: written with what it tells of, in one transaction, and sent afterwards."""

    __tablename__ = "outbox"
    __table_args__ = (
        CheckConstraint("channel IN ('mail', 'webhook')", name="channel"),
        CheckConstraint(f"state IN ({_STATES})", name="state"),
        # What the sender looks for every few seconds.
        Index("ix_outbox_queue", "state", "available_ms"),
    )

    # SQLite counts up only in a column of its own type INTEGER.
    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True)
    key: Mapped[str] = mapped_column(unique=True)
    """Event and recipient: what is told once (R11)."""
    channel: Mapped[Channel] = mapped_column(Text)
    state: Mapped[OutboxState] = mapped_column(Text)
    recipient: Mapped[str]
    """Mail address, or id of the webhook."""
    subject: Mapped[str]
    template: Mapped[str]
    """Of a mail its template, of a webhook its event."""
    context: Mapped[dict[str, Any]]
    sealed_context: Mapped[str | None]
    """In place of `context` while that holds a secret; removed once it is sent."""
    reply_to: Mapped[str | None]
    message_id: Mapped[str | None]
    """Made before the first try and kept: a mail that is sent twice is shown once."""
    user_id: Mapped[str | None] = mapped_column(index=True)
    """Whose wishes count, if it is a mail that can be switched off."""
    organization_id: Mapped[str | None]
    job_id: Mapped[str | None] = mapped_column(index=True)

    created_ms: Mapped[int] = mapped_column(index=True)
    due_ms: Mapped[int | None]
    """When it could first be sent, or was sent again by hand: from then on it is tried for some days."""
    available_ms: Mapped[int]
    """Not sent before."""
    lease_until_ms: Mapped[int | None]
    """Until then the process that has `lease_token` sends it."""
    lease_token: Mapped[str | None]
    tries: Mapped[int]
    last_error: Mapped[str | None]
    done_ms: Mapped[int | None]


class MailPreferenceRow(Base):
    """What a user wants to be told by mail. Who chose nothing has no row."""

    __tablename__ = "mail_preferences"

    user_id: Mapped[str] = mapped_column(primary_key=True)
    is_off: Mapped[bool]
    is_silent_on_success: Mapped[bool]
    silenced: Mapped[list[Any]]
    """Workflows whose successes are not told."""
    digest: Mapped[DigestEvery] = mapped_column(Text)


class WebhookRow(Base):
    """An address of an organization that is called when its jobs end."""

    __tablename__ = "webhooks"
    __table_args__ = (CheckConstraint("kind IN ('json', 'slack')", name="kind"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    organization_id: Mapped[str] = mapped_column(index=True)
    sealed_url: Mapped[str]
    """Sealed, as the address of a chat's webhook is itself a secret."""
    shown_url: Mapped[str]
    kind: Mapped[WebhookKind] = mapped_column(Text)
    events: Mapped[list[Any]]
    sealed_secret: Mapped[str]
    is_on: Mapped[bool]
    created_ms: Mapped[int]
    created_by: Mapped[str]
    last_sent_ms: Mapped[int | None]
    last_error: Mapped[str | None]
