"""Fills in the templates of mails: as text, and as HTML that shows the same."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from voxelworks.db import SecretBox
from voxelworks.notify import _webhooks
from voxelworks.notify._messages import MESSAGES, Told
from voxelworks.notify._preferences import unsubscribe_path
from voxelworks.notify._tables import OutboxRow
from voxelworks.notify._words import (
    FAILURE_WORDS,
    credits_text,
    duration_text,
    many_lines,
    moment_text,
    one_line,
)
from voxelworks.settings import Settings

TEMPLATES = Path(__file__).parent / "templates"
REASONS = {
    "job": "You get this mail because you started the job.",
    "digest": "You get this mail because you asked for one mail about several jobs.",
}
"""Of the mails that their readers may switch off."""
GONE = "The text of this mail was removed when it was sent: its link let somebody in."


@dataclass(frozen=True)
class Rendered:
    """A mail that can be read."""

    subject: str
    text: str
    html: str
    unsubscribe_link: str | None = None


def render_mail(
    told: Told, template: str, link_base: str, *, reason: str = "", leave_path: str | None = None
) -> Rendered:
    """Fill in both forms of a mail.

    Parameters
    ----------
    reason
        Why its reader gets it: one sentence at its end.
    leave_path
        One click there ends such mails: of mails that can be switched off.
    """
    subject = one_line(told.subject)
    link = None if leave_path is None else link_base + leave_path
    values = {
        "told": told, "link_base": link_base, "subject": subject, "reason": reason, "unsubscribe_link": link,
        "account_link": f"{link_base}/account", "failure_words": FAILURE_WORDS,
    }  # fmt: skip
    text = _environment().get_template(f"{template}.txt").render(values)
    html = _environment().get_template(f"{template}.html").render(values)
    return Rendered(subject, text.strip() + "\n", html, link)


def read_mail_row(row: OutboxRow, box: SecretBox) -> Told | None:
    """Give what a mail tells, as it was written down; None if it held a secret and is gone."""
    content = row.context if row.sealed_context is None else json.loads(box.open(row.sealed_context))
    kind = MESSAGES[row.template]  # type: ignore[index]
    if kind.holds_secret and not content:
        return None
    return kind.model_validate(content)


def render_row(row: OutboxRow, settings: Settings, box: SecretBox) -> Rendered | None:
    """Fill in a mail of the outbox; None if it held a secret and is gone."""
    told = read_mail_row(row, box)
    if told is None:
        return None
    reason = REASONS.get(row.template, "")
    path = unsubscribe_path(box, row.user_id) if reason and row.user_id is not None else None
    return render_mail(told, row.template, settings.link_base, reason=reason, leave_path=path)


def render_webhook(row: OutboxRow, settings: Settings) -> str:
    """Show what a webhook is told, as JSON."""
    body = _webhooks.body_of(row, _webhooks.read_told(row), "json", settings.link_base)
    return json.dumps(json.loads(body), indent=2, ensure_ascii=False)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=select_autoescape(["html"], default=False),
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "credits": credits_text, "duration": duration_text, "line": one_line, "lines": many_lines,
        "moment": moment_text,
    }  # fmt: skip
    return environment
