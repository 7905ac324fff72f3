"""What people and programs are told: mails, digests and webhooks, over an outbox.

A message is a row that is written in the transaction of what it tells, so it exists exactly if that happened. `Sender`
sends the rows afterwards, at least once. Plain functions that take a session and never commit.
"""

from voxelworks.notify._events import job_ended, job_not_published, job_published
from voxelworks.notify._messages import JobEnd, Template
from voxelworks.notify._outbox import alert, list_mails, mails_failed, outbox_age_s, post_mail, send_again
from voxelworks.notify._preferences import (
    Preferences,
    preferences,
    set_preferences,
    unsubscribe,
    unsubscribe_path,
    user_of_unsubscribe_token,
)
from voxelworks.notify._reading import read_mail
from voxelworks.notify._sender import Sender
from voxelworks.notify._smtp import check_mail_settings, send_test_mail
from voxelworks.notify._tables import Channel, DigestEvery, OutboxState, WebhookKind
from voxelworks.notify._views import MailPage, MailText, MailView, WebhookEvent, WebhookView
from voxelworks.notify._webhooks import (
    change_webhook,
    create_webhook,
    delete_webhook,
    list_webhooks,
    test_webhook,
)

__all__ = [
    "Channel", "DigestEvery", "JobEnd", "MailPage", "MailText", "MailView", "OutboxState", "Preferences", "Sender",
    "Template", "WebhookEvent", "WebhookKind", "WebhookView", "alert", "change_webhook", "check_mail_settings",
    "create_webhook", "delete_webhook", "job_ended", "job_not_published", "job_published", "list_mails",
    "list_webhooks", "mails_failed", "outbox_age_s", "post_mail", "preferences", "read_mail", "send_again",
    "send_test_mail", "set_preferences", "test_webhook", "unsubscribe", "unsubscribe_path",
    "user_of_unsubscribe_token",
]  # fmt: skip
