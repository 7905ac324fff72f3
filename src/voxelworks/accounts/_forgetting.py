"""What has expired is removed; it let nobody in any more."""

from __future__ import annotations

from sqlalchemy import delete
from sqlalchemy.orm import Session

from voxelworks.accounts._tables import (
    ApiTokenRow,
    InvitationRow,
    LoginSessionRow,
    PasswordResetRow,
    ShareRow,
    ThrottleRow,
)
from voxelworks.db import now
from voxelworks.settings import Settings

_SHOWN_MS = 30 * 86_400_000
"""Expired invitations, tokens and shares stay in their lists for so long, so that people see why something stopped."""


def forget_expired(session: Session, settings: Settings) -> None:
    """Remove expired sessions, tokens, shares, resets, invitations, counts of tries: for the server's hourly loop."""
    at_ms = now(session)
    is_idle = LoginSessionRow.seen_ms <= at_ms - round(settings.session_idle_s * 1000)
    is_old = LoginSessionRow.created_ms <= at_ms - round(settings.session_max_s * 1000)
    session.execute(delete(LoginSessionRow).where(is_idle | is_old))
    is_of_job = ApiTokenRow.job_id.is_not(None) & (ApiTokenRow.expires_ms <= at_ms)
    session.execute(delete(ApiTokenRow).where(is_of_job | (ApiTokenRow.expires_ms <= at_ms - _SHOWN_MS)))
    session.execute(delete(ShareRow).where(ShareRow.expires_ms <= at_ms - _SHOWN_MS))
    session.execute(delete(InvitationRow).where(InvitationRow.expires_ms <= at_ms - _SHOWN_MS))
    session.execute(delete(PasswordResetRow).where(PasswordResetRow.expires_ms <= at_ms))
    session.execute(delete(ThrottleRow).where(ThrottleRow.empty_ms <= at_ms))
