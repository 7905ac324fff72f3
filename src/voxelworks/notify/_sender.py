"""Sends what stands in the outbox, at least once.

A row is leased in one transaction, sent outside of any, and marked in another. A process that dies in between leaves a
lease that ends: the row is then sent again, a mail with the same Message-ID, a webhook with the same delivery number.
"""

from __future__ import annotations

import logging
import random
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session

from voxelworks.addresses import AddressRules, fetch
from voxelworks.db import Database, SecretBox, now
from voxelworks.errors import ForbiddenAddress, ServerUnreachable
from voxelworks.notify import _webhooks
from voxelworks.notify._digests import make_digests
from voxelworks.notify._outbox import OPERATOR_WEBHOOK
from voxelworks.notify._render import render_row
from voxelworks.notify._smtp import (
    MailRefused,
    MailServer,
    check_mail_settings,
    make_mail,
    new_message_id,
    sender_of,
)
from voxelworks.notify._tables import DONE_STATES, Channel, OutboxRow, WebhookKind, WebhookRow
from voxelworks.settings import Settings

log = logging.getLogger(__name__)

ROUND_MAX = 500
"""Messages of one round, so that digests and what is due meanwhile get their turn."""
TIDY_EVERY_S = 3600.0
REST_S_MAX = 300.0
"""A server that is back gets its messages within this time."""
_MAIL_SERVER = "mail server"
_DAY_MS = 86_400_000

Outcome = Literal["sent", "again", "failed", "dropped"]


@dataclass(frozen=True)
class _Leased:
    """A row that this process has until its lease ends."""

    row: OutboxRow
    at_ms: int
    webhook: WebhookRow | None = None


@dataclass(frozen=True)
class _Callee:
    """Where a webhook is, with its secrets."""

    url: str
    kind: WebhookKind
    secret: str | None


@dataclass
class _Rest:
    """For how long a server is left alone."""

    failures: int = 0
    until: float = 0.0
    """By the monotonic clock."""

    @property
    def is_on(self) -> bool:
        return time.monotonic() < self.until


@dataclass(frozen=True)
class _Result:
    """How it went."""

    outcome: Outcome
    error: str | None = None
    is_server_down: bool = False
    """The others to the same server would fare no better now."""


class Sender:
    """Sends mails and calls webhooks. Several may run at once, in several processes.

    Raises
    ------
    InvalidInput
        If the mail settings contradict each other.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        check_mail_settings(settings)
        self._rules = AddressRules.of(settings)
        self._database = database
        self._settings = settings
        self._rests: defaultdict[str, _Rest] = defaultdict(_Rest)
        self._tidied_at = float("-inf")

    def run_round(self, stop: Callable[[], bool] = lambda: False) -> int:
        """Send what is due, and give the number of messages that arrived.

        Parameters
        ----------
        stop
            Asked between two messages.
        """
        make_digests(self._database)
        self._tidy_at_times()
        if not self._is_anything_due():
            return 0
        sent = 0
        if self._settings.smtp_host is None:
            self._keep_mails()
        elif not self._rests[_MAIL_SERVER].is_on:
            sent += self._send_mails(stop)
        return sent + self._call_webhooks(stop)

    def _send_mails(self, stop: Callable[[], bool]) -> int:
        server = MailServer(self._settings)
        sent = 0
        try:
            for _ in range(ROUND_MAX):
                leased = None if stop() else self._lease("mail")
                if leased is None:
                    break
                result = self._send_mail(server, leased.row)
                self._mark(leased, result)
                sent += result.outcome == "sent"
                self._rest(_MAIL_SERVER, result)
                if result.is_server_down:
                    break
        finally:
            server.close()
        return sent

    def _send_mail(self, server: MailServer, row: OutboxRow) -> _Result:
        assert row.message_id is not None
        try:
            rendered = render_row(row, self._settings, self._box)
            if rendered is None:
                return _Result("failed", "its text is gone: it was sent once, and its link let somebody in")
            mail = make_mail(
                rendered, sender=sender_of(self._settings), to=row.recipient, message_id=row.message_id,
                reply_to=row.reply_to,
            )  # fmt: skip
            server.send(mail, row.recipient)
        except MailRefused as error:
            return _Result("failed" if error.is_final else "again", str(error))
        except ServerUnreachable as error:
            return _Result("again", str(error), is_server_down=True)
        except Exception as error:  # one mail that cannot be made must not hold up all others
            log.exception("mail %s cannot be sent", row.id)
            return _Result("again", f"{type(error).__name__}: {error}")
        return _Result("sent")

    def _call_webhooks(self, stop: Callable[[], bool]) -> int:
        sent = 0
        for _ in range(ROUND_MAX):
            resting = [recipient for recipient, rest in self._rests.items() if rest.is_on]
            leased = None if stop() else self._lease("webhook", but=resting)
            if leased is None:
                break
            result = self._call_webhook(leased)
            self._mark(leased, result)
            sent += result.outcome == "sent"
            self._rest(leased.row.recipient, result)
        return sent

    def _call_webhook(self, leased: _Leased) -> _Result:
        row = leased.row
        try:
            callee = self._callee_of(leased)
            if callee is None:
                return _Result("dropped", "the webhook was removed or switched off")
            body = _webhooks.body_of(row, _webhooks.read_told(row), callee.kind, self._settings.link_base)
            headers = _webhooks.headers_of(row, body, callee.secret, leased.at_ms // 1000)
            answer = fetch("POST", callee.url, self._rules, body=body, headers=headers)
        except ForbiddenAddress as error:
            return _Result("failed", str(error))
        except ServerUnreachable as error:
            return _Result("again", str(error), is_server_down=True)
        except Exception as error:  # one call that cannot be made must not hold up all others
            log.exception("webhook %s cannot be called", row.recipient)
            return _Result("again", f"{type(error).__name__}: {error}", is_server_down=True)
        if 200 <= answer.status < 300:
            return _Result("sent")
        words = (
            "redirects are not followed" if 300 <= answer.status < 400 else "2xx would mean that it arrived"
        )
        return _Result("again", f"it answered with status {answer.status}; {words}", is_server_down=True)

    def _callee_of(self, leased: _Leased) -> _Callee | None:
        webhook, alert_webhook = leased.webhook, self._settings.alert_webhook
        if webhook is not None and webhook.is_on:
            secret = self._box.open(webhook.sealed_secret)
            return _Callee(self._box.open(webhook.sealed_url), webhook.kind, secret)
        if leased.row.recipient == OPERATOR_WEBHOOK and alert_webhook is not None:
            return _Callee(alert_webhook.get_secret_value(), "slack", None)
        return None

    def _is_anything_due(self) -> bool:
        # Looked at without the right to write: most rounds find nothing, and should hold up nobody.
        with self._database.read_session() as session:
            due = select(OutboxRow.id).where(OutboxRow.state == "due", OutboxRow.available_ms <= now(session))
            return session.scalar(due.limit(1)) is not None

    def _lease(self, channel: Channel, but: Collection[str] = ()) -> _Leased | None:
        """Take the next row that is due, for as long as sending it may take."""
        with self._database.session() as session:
            at_ms = now(session)
            row = session.scalar(
                select(OutboxRow)
                .where(
                    OutboxRow.state == "due", OutboxRow.available_ms <= at_ms, OutboxRow.channel == channel,
                    or_(OutboxRow.lease_until_ms.is_(None), OutboxRow.lease_until_ms <= at_ms),
                    OutboxRow.recipient.not_in(but),
                )
                .order_by(OutboxRow.available_ms, OutboxRow.id)
                .limit(1)
                .with_for_update(skip_locked=True)
            )  # fmt: skip
            if row is None:
                return None
            row.lease_token = secrets.token_hex(8)
            row.lease_until_ms = at_ms + round(self._settings.mail_lease_s * 1000)
            row.tries += 1
            if channel == "mail" and row.message_id is None:
                row.message_id = new_message_id(self._settings)
            webhook = session.get(WebhookRow, row.recipient) if channel == "webhook" else None
            session.flush()
            session.expunge_all()
        return _Leased(row, at_ms, webhook)

    def _mark(self, leased: _Leased, result: _Result) -> None:
        """Write down how it went, unless the lease ended and another process has the row by now."""
        with self._database.session() as session:
            row = session.scalar(
                select(OutboxRow)
                .where(OutboxRow.id == leased.row.id, OutboxRow.lease_token == leased.row.lease_token)
                .with_for_update()
            )
            if row is None:
                return
            at_ms = now(session)
            row.lease_token = row.lease_until_ms = None
            row.last_error = result.error
            outcome = result.outcome
            tried_ms = at_ms - (row.due_ms if row.due_ms is not None else row.created_ms)
            if outcome == "again" and tried_ms > self._settings.mail_give_up_days * _DAY_MS:
                outcome = "failed"
            if outcome == "again":
                row.available_ms = at_ms + round(1000 * self._backoff_s(row.tries))
            else:
                row.state, row.done_ms = outcome, at_ms
                if row.sealed_context is not None and outcome in ("sent", "dropped"):
                    row.sealed_context = None
            if leased.webhook is not None:
                _note(session, leased.webhook.id, result, at_ms)

    def _keep_mails(self) -> None:
        """Without a mail server: let the mails lie for the operator to read."""
        with self._database.session() as session:
            at_ms = now(session)
            session.execute(
                update(OutboxRow)
                .where(OutboxRow.state == "due", OutboxRow.channel == "mail", OutboxRow.available_ms <= at_ms)
                .values(state="kept", done_ms=at_ms),
                execution_options={"synchronize_session": False},
            )

    def _tidy_at_times(self) -> None:
        if time.monotonic() < self._tidied_at + TIDY_EVERY_S:
            return
        self._tidied_at = time.monotonic()
        with self._database.session() as session:
            until_ms = now(session) - round(self._settings.mail_keep_days * _DAY_MS)
            session.execute(
                delete(OutboxRow).where(OutboxRow.state.in_(DONE_STATES), OutboxRow.done_ms < until_ms),
                execution_options={"synchronize_session": False},
            )

    def _rest(self, recipient: str, result: _Result) -> None:
        """Leave a server alone for a while that did not answer, longer each time."""
        if not result.is_server_down:
            self._rests.pop(recipient, None)
            return
        rest = self._rests[recipient]
        rest.failures += 1
        wait_s = min(self._backoff_s(rest.failures), REST_S_MAX)
        rest.until = time.monotonic() + wait_s
        log.warning("%s; tried again in %.0f s", result.error, wait_s)

    def _backoff_s(self, failures: int) -> float:
        return backoff_s(failures, random.random(), self._settings)  # noqa: S311 - no secret depends on it

    @cached_property
    def _box(self) -> SecretBox:
        return SecretBox(self._settings.secret_key_file)


def backoff_s(failures: int, share: float, settings: Settings) -> float:
    """Choose a wait between nothing and a bound that doubles with every failure (full jitter).

    Parameters
    ----------
    failures
        So far, at least 1.
    share
        Random number, 0 to 1.
    """
    bound = settings.mail_backoff_base_s * 2.0 ** min(failures - 1, 60)
    return share * min(bound, settings.mail_backoff_cap_s)


def _note(session: Session, webhook_id: str, result: _Result, at_ms: int) -> None:
    values = {"last_error": result.error} | ({"last_sent_ms": at_ms} if result.outcome == "sent" else {})
    session.execute(
        update(WebhookRow).where(WebhookRow.id == webhook_id).values(values),
        execution_options={"synchronize_session": False},
    )
