"""One mail of the outbox as its reader sees it."""

from __future__ import annotations

from sqlalchemy.orm import Session

from voxelworks.db import SecretBox
from voxelworks.notify._outbox import find_row, view_of
from voxelworks.notify._render import GONE, render_row, render_webhook
from voxelworks.notify._views import MailText
from voxelworks.settings import Settings


def read_mail(session: Session, mail_id: int, *, settings: Settings) -> MailText:
    """Show a mail, or what a webhook is told.

    Raises
    ------
    NotFound
    """
    row = find_row(session, mail_id)
    if row.channel == "webhook":
        return MailText(view=view_of(row), text=render_webhook(row, settings), html=None)
    rendered = render_row(row, settings, SecretBox(settings.secret_key_file))
    if rendered is None:
        return MailText(view=view_of(row), text=GONE, html=None)
    return MailText(view=view_of(row), text=rendered.text, html=rendered.html)
