import hashlib
import hmac
import json
import re
from pathlib import Path

import pytest
from notify_helpers import Post
from pydantic import SecretStr
from sqlalchemy import text

from voxelworks import notify
from voxelworks.db import SecretBox
from voxelworks.errors import ForbiddenAddress, InvalidInput, NotFound
from voxelworks.testing.listener import answer_with, listener


@pytest.fixture
def box(settings):
    return SecretBox(settings.secret_key_file)


@pytest.fixture
def server():
    with listener() as server:
        yield server


@pytest.fixture
def local(database, settings, server):
    """An outbox whose webhooks may reach this machine."""
    changes = {
        "outgoing_http": True, "outgoing_ports": frozenset({443, server.port}),
        "outgoing_networks": frozenset({"127.0.0.1/32"}),
    }  # fmt: skip
    return Post(database, settings.model_copy(update=changes))


def _create(post, box, url="https://hooks.example.org/services/T0/B0/secret", **given):
    chosen = {"organization_id": "lab", "user_id": "ada", "kind": "json", **given}
    return post.call(notify.create_webhook, box, url=url, settings=post.settings, **chosen)


def test_a_webhook_is_told_of_the_end_of_a_job_and_can_check_who_says_it(local, box, server):
    secret, hook = _create(local, box, f"http://127.0.0.1:{server.port}/hook?a=b")
    local.end(charged=1500)
    assert local.sender().run_round() == 1
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/hook?a=b")
    (row,) = [mail for mail in local.mails() if mail.channel == "webhook"]
    assert json.loads(request.body) == {
        "event": "job.succeeded",
        "delivery": row.id,
        "created_ms": row.created_ms,
        "job": {
            "job_id": "j1", "workflow": "convert", "title": "Convert", "organization_id": "lab", "user_id": "ada",
            "user_name": "Ada Lovelace", "state": "succeeded", "about": "cortex", "failure_class": None,
            "message": None,
            "charged": 1500, "returned": 0, "duration_s": 200.0, "link": "https://voxels.example.org/jobs/j1",
            "result_link": "https://voxels.example.org/datasets/d1",
        },
    }  # fmt: skip
    signed = f"{request.headers['voxelworks-timestamp']}.".encode() + request.body
    expected = hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
    assert request.headers["voxelworks-signature"] == f"v1={expected}"
    assert request.headers["voxelworks-event"] == "job.succeeded"
    assert request.headers["voxelworks-delivery"] == str(row.id)
    assert request.headers["content-type"] == "application/json"
    (after,) = local.call(notify.list_webhooks, "lab")
    assert after == hook.model_copy(update={"last_sent_ms": after.last_sent_ms})
    assert after.last_sent_ms is not None
    shown = local.call(notify.read_mail, row.id, settings=local.settings)
    assert json.loads(shown.text) == json.loads(request.body)


def test_the_check_in_the_documentation_works(local, box, server):
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "mail.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    told = {}
    exec(code, told)
    secret, _ = _create(local, box, f"http://127.0.0.1:{server.port}/")
    local.end()
    local.sender().run_round()
    (request,) = server.requests
    timestamp, signature = (request.headers[f"voxelworks-{name}"] for name in ("timestamp", "signature"))
    assert told["is_genuine"](secret, timestamp, signature, request.body)
    assert not told["is_genuine"](secret, timestamp, signature, request.body + b" ")
    assert not told["is_genuine"]("another", timestamp, signature, request.body)
    assert not told["is_genuine"](secret, str(int(timestamp) - 1), signature, request.body)


def test_a_chat_is_told_in_words(local, box, server):
    _create(local, box, f"http://127.0.0.1:{server.port}/", kind="slack")
    local.end("j1", state="failed", subject_line="<!channel> & co", message="broke\nbadly", returned=2000)
    local.end("j2")
    local.sender().run_round()
    assert [json.loads(request.body) for request in server.requests] == [
        {
            "text": "*Convert failed: &lt;!channel&gt; &amp; co* (Ada Lovelace)\nbroke badly\n2 credits returned\n"
            "<https://voxels.example.org/jobs/j1|Open the job>"
        },
        {
            "text": "*Your dataset is ready: cortex* (Ada Lovelace)\n<https://voxels.example.org/jobs/j2|Open the job>"
            " · <https://voxels.example.org/datasets/d1|Open the result>"
        },
    ]


def test_webhooks_hear_of_their_organization_and_their_events_alone(local, box):
    _, all_events = _create(local, box)
    _, failures = _create(local, box, events=["job.failed"])
    _, switched_off = _create(local, box)
    _create(local, box, organization_id="other")
    local.call(notify.change_webhook, switched_off.id, organization_id="lab", is_on=False)
    local.end("j1", email=None)
    local.end("j2", email=None, state="failed")
    local.end("j3", email=None, state="cancelled")
    told = [(mail.job_id, mail.template, mail.recipient) for mail in local.mails()]
    assert sorted(told) == sorted(
        [
            ("j1", "job.succeeded", all_events.id), ("j2", "job.failed", all_events.id),
            ("j2", "job.failed", failures.id), ("j3", "job.cancelled", all_events.id),
        ]
    )  # fmt: skip


def test_webhooks_wait_for_the_result_too(local, box, server):
    _create(local, box, f"http://127.0.0.1:{server.port}/", events=["job.succeeded"])
    _create(local, box, f"http://127.0.0.1:{server.port}/", events=["job.failed"])
    sender = local.sender()
    local.end("j1", email=None, is_waiting=True)
    end = local.end("j2", email=None, is_waiting=True)
    assert sender.run_round() == 0
    local.call(notify.job_published, "j1")
    failed = end.model_copy(update={"state": "failed", "message": "the name was taken"})
    local.call(notify.job_not_published, "j2", failed)
    assert sender.run_round() == 2
    assert sorted((request.headers["voxelworks-event"]) for request in server.requests) == [
        "job.failed",
        "job.succeeded",
    ]


def test_a_call_is_repeated_until_it_arrives_with_the_same_content(local, box, server):
    _create(local, box, f"http://127.0.0.1:{server.port}/")
    statuses = iter([500, 404, 301, 204])
    server.answer = lambda handler: answer_with(handler, next(statuses))
    local.end(email=None)
    errors = []
    for _ in range(4):
        local.sender(mail_backoff_base_s=1000.0).run_round()
        errors.append(local.call(notify.list_webhooks, "lab")[0].last_error)
        local.call(lambda session: session.execute(text("UPDATE outbox SET available_ms = 0")))
    assert errors == [
        "it answered with status 500; 2xx would mean that it arrived",
        "it answered with status 404; 2xx would mean that it arrived",
        "it answered with status 301; redirects are not followed",
        None,
    ]
    assert len({request.body for request in server.requests}) == 1
    assert len({request.headers["voxelworks-delivery"] for request in server.requests}) == 1
    assert [mail.state for mail in local.mails()] == ["sent"]


def test_a_webhook_that_does_not_answer_holds_up_no_other(local, box, server):
    with listener() as gone:
        dead = gone.port
    reaching = local.settings.model_copy(update={"outgoing_ports": frozenset({server.port, dead})})
    both = Post(local.database, reaching)
    _create(both, box, f"http://127.0.0.1:{dead}/")
    _create(both, box, f"http://127.0.0.1:{server.port}/")
    for number in range(5):
        both.end(f"j{number}", email=None)
    sender = both.sender(mail_backoff_base_s=1000.0, mail_backoff_cap_s=1000.0)
    assert sender.run_round() == 5
    assert sum(mail.tries for mail in both.mails() if mail.state == "due") == 1, "asked only once"
    assert sender.run_round() == 0


def test_an_address_inside_is_refused_when_it_is_given(silent_post, box):
    for url in ("https://127.0.0.1/", "https://10.0.0.1/", "http://example.org/", "https://example.org:22/"):
        with pytest.raises(ForbiddenAddress):
            _create(silent_post, box, url)
    assert silent_post.call(notify.list_webhooks, "lab") == ()


def test_an_address_that_leads_inside_is_refused_when_it_is_called(local, box, server, silent_post):
    _create(local, box, f"http://127.0.0.1:{server.port}/")
    local.end(email=None)
    # The operator has taken the permission back since.
    strict = local.settings.model_copy(update={"outgoing_networks": frozenset()})
    assert Post(local.database, strict).sender().run_round() == 0
    (mail,) = local.mails()
    assert mail.state == "failed"
    assert "127.0.0.1 is not on the public internet" in mail.last_error
    assert server.connections == 0


def test_the_database_shows_no_address_and_no_secret(silent_post, box):
    secret, hook = _create(silent_post, box)
    with silent_post.database.session() as session:
        stored = repr(session.execute(text("SELECT * FROM webhooks")).all())
    assert secret not in stored
    assert "T0/B0" not in stored
    assert hook.shown_url == "https://hooks.example.org/…"


def test_webhooks_of_others_are_not_there(silent_post, box):
    _, hook = _create(silent_post, box)
    for function in (notify.change_webhook, notify.delete_webhook, notify.test_webhook):
        with pytest.raises(NotFound, match="there is no webhook"):
            silent_post.call(function, hook.id, organization_id="other")
    assert silent_post.call(notify.list_webhooks, "other") == ()
    assert silent_post.call(notify.list_webhooks, "lab") == (hook,)


def test_events_are_changed(silent_post, box):
    _, hook = _create(silent_post, box, events=["job.failed", "job.succeeded"])
    assert hook.events == ("job.succeeded", "job.failed")
    changed = silent_post.call(
        notify.change_webhook, hook.id, organization_id="lab", events=["job.cancelled"]
    )
    assert silent_post.call(notify.list_webhooks, "lab") == (changed,)
    assert changed.events == ("job.cancelled",)
    for wrong, problem in ((["job.started"], "there is no event 'job.started'"), ([], "no event is chosen")):
        with pytest.raises(InvalidInput, match=problem):
            silent_post.call(notify.change_webhook, hook.id, organization_id="lab", events=wrong)


def test_there_is_a_limit_to_webhooks(silent_post, box):
    for _ in range(20):
        _create(silent_post, box)
    with pytest.raises(InvalidInput, match="there are 20 webhooks already"):
        _create(silent_post, box)
    with pytest.raises(InvalidInput, match="at most 2000 are taken"):
        _create(silent_post, box, "https://example.org/" + "x" * 2000, organization_id="other")


def test_what_waits_for_a_webhook_that_is_gone_is_dropped(local, box, server):
    _, removed = _create(local, box, f"http://127.0.0.1:{server.port}/")
    _, switched_off = _create(local, box, f"http://127.0.0.1:{server.port}/")
    local.end(email=None)
    local.call(notify.delete_webhook, removed.id, organization_id="lab")
    local.call(notify.change_webhook, switched_off.id, organization_id="lab", is_on=False)
    assert local.sender().run_round() == 0
    assert {mail.state for mail in local.mails()} == {"dropped"}
    assert server.requests == []


def test_a_webhook_can_be_tried(local, box, server):
    _, hook = _create(local, box, f"http://127.0.0.1:{server.port}/")
    local.call(notify.test_webhook, hook.id, organization_id="lab")
    assert local.sender().run_round() == 1
    assert json.loads(server.requests[0].body)["event"] == "test"


def test_alerts_go_to_the_chat_of_the_operator(local, server):
    settings = local.settings.model_copy(
        update={
            "alert_webhook": SecretStr(f"http://127.0.0.1:{server.port}/alerts"),
            "operator_email": "op@example.org",
        }
    )
    told = Post(local.database, settings)
    assert told.call(
        notify.alert,
        settings=settings,
        condition="disk",
        title="The disk is full",
        text="3 GB",
        path="/operator",
    )
    assert told.sender().run_round() == 1
    (request,) = server.requests
    assert request.path == "/alerts"
    assert json.loads(request.body) == {
        "text": "*The disk is full*\n3 GB\n<https://voxels.example.org/operator|Look at it>"
    }
    assert "voxelworks-signature" not in request.headers
