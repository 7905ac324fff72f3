"""Jobs that end, and what arrives of it: one mail for each end, and only once there is something to see."""

import pytest
from notify_helpers import Post

from voxelworks import notify
from voxelworks.db import SecretBox
from voxelworks.protocol.messages import SealedResult
from voxelworks.testing.mail import HOST, text_of


@pytest.fixture
def sender(queue, inbox):
    way = {"smtp_host": HOST, "smtp_port": inbox.port, "smtp_security": "none", "mail_from": "v@example.org"}
    return Post(queue.database, queue.settings.model_copy(update=way)).sender()


def _subjects(inbox):
    return [mail["Subject"] for mail in inbox.stored]


def test_a_success_is_told_once_its_result_is_published(queue, sender, inbox):
    worker = queue.open_worker()
    queue.submit()
    claim = queue.claim_and_start(worker)
    queue.seal(claim)
    queue.succeed(claim)
    queue.succeed(claim)
    assert sender.run_round() == 0
    queue.publish(claim)
    queue.publish(claim)
    assert sender.run_round() == 1
    assert _subjects(inbox) == ["Your largest segment id is ready: demo"]
    assert inbox.stored[0]["To"] == "ada@example.org"


def test_automatic_retries_are_silent_until_the_end(queue, sender, inbox):
    worker = queue.open_worker()
    job = queue.submit()
    for _ in range(queue.settings.retries_infrastructure + 1):
        assert sender.run_round() == 0
        queue.advance(1)
        queue.fail(queue.claim_and_start(worker), "infrastructure", "the disk went away")
    assert queue.state(job.id) == "failed"
    assert sender.run_round() == 1
    assert _subjects(inbox) == ["Find largest segment id failed: demo"]
    assert "the disk went away" in text_of(inbox.stored[0])


def test_that_pictures_were_made_or_not_is_seen_on_pages_and_not_told(queue, sender, inbox):
    worker = queue.open_worker()
    for _ in range(2):
        queue.submit(workflow="describe", params={"dataset": "demo"})
    queue.fail(queue.claim_and_start(worker), "user_input", "no ink")
    claim = queue.claim_and_start(worker)
    queue.succeed(
        claim, SealedResult(kind="previews", place="previews:local/demo", value={"dataset": "demo"})
    )
    queue.publish(claim)
    assert sender.run_round() == 0
    assert inbox.stored == []


def test_a_cancelled_job_is_not_told(queue, sender, inbox):
    queue.cancel(queue.submit().id)
    assert sender.run_round() == 0
    assert inbox.stored == []


def test_a_result_that_cannot_be_published_is_told_as_a_failure(queue, sender, inbox):
    worker = queue.open_worker()
    queue.submit()
    claim = queue.claim_and_start(worker)
    queue.seal(claim)
    queue.succeed(claim)
    queue.publish(claim, error="the folder is read-only")
    assert sender.run_round() == 1
    assert _subjects(inbox) == ["Find largest segment id failed: demo"]
    assert "the folder is read-only" in text_of(inbox.stored[0])


def test_a_rerun_at_no_charge_tells_no_second_failure(queue, sender, inbox):
    worker = queue.open_worker()
    job = queue.submit()
    queue.fail(queue.claim_and_start(worker), "program_error")
    again = queue.retry(job.id, by=queue.operator, is_free=True)
    queue.fail(queue.claim_and_start(worker), "program_error")
    assert queue.state(again.id) == "failed"
    assert sender.run_round() == 1


def test_webhooks_of_one_organization_hear_nothing_of_another(queue):
    box = SecretBox(queue.settings.secret_key_file)
    for organization_id in ("local", "other"):
        queue.call(
            notify.create_webhook, box, organization_id=organization_id, user_id="ada", url="https://example.org/",
            kind="json",
        )  # fmt: skip
    mine = queue.call(notify.list_webhooks, "local")[0]
    queue.cancel(queue.submit().id)
    told = [mail.recipient for mail in queue.call(notify.list_mails, channel="webhook").mails]
    assert told == [mine.id]
