import pytest
from notify_helpers import job_end
from sqlalchemy import text

from voxelworks import notify
from voxelworks.db import SecretBox
from voxelworks.errors import IllegalTransition, InvalidInput, NotFound
from voxelworks.notify import Preferences
from voxelworks.testing.mail import text_of


def test_the_owner_of_a_job_is_told_that_it_succeeded(post, inbox):
    post.end(charged=12_500)
    assert post.sender().run_round() == 1
    (mail,) = inbox.stored
    assert mail["Subject"] == "Your dataset is ready: cortex"
    assert (mail["From"], mail["To"]) == ("Voxels <v@example.org>", "ada@example.org")
    assert inbox.envelopes == [("v@example.org", ["ada@example.org"])]
    text = text_of(mail)
    unsubscribe = mail["List-Unsubscribe"].strip("<>")
    assert text == (
        "Hello Ada Lovelace,\n\nyour job has ended, and its result is there.\n\nConvert: cortex\nTook: 3 min 20 s\n"
        "Cost: 12.5 credits\nResult: https://voxels.example.org/datasets/d1\n"
        "Job: https://voxels.example.org/jobs/j1\n\n--\nYou get this mail because you started the job.\n"
        f"Choose your mails: https://voxels.example.org/account\nEnd all mails about jobs: {_link_in(text)}\n"
    )
    assert unsubscribe.startswith("https://voxels.example.org/unsubscribe/")
    assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    html = text_of(mail, "html")
    assert 'href="https://voxels.example.org/datasets/d1"' in html
    assert 'color-scheme" content="light dark"' in html


def _link_in(text):
    return text.rstrip().rpartition(" ")[2]


def test_a_failure_says_why_and_what_was_returned(post, inbox):
    post.end(state="failed", returned=12_500)
    post.sender().run_round()
    (mail,) = inbox.stored
    assert mail["Subject"] == "Convert failed: cortex"
    assert text_of(mail).startswith(
        "Hello Ada Lovelace,\n\nyour job failed.\n\nConvert: cortex\nTook: 3 min 20 s\nKind: Input refused\n\n"
        "section 7 is missing\n\nReturned: 12.5 credits\nJob: https://voxels.example.org/jobs/j1\n\n"
        "The page of the job shows its log and parameters, and lets you try again.\n"
    )  # fmt: skip


def test_a_mail_waits_for_the_result_to_be_published(post, inbox):
    post.end(is_waiting=True)
    sender = post.sender()
    assert sender.run_round() == 0
    assert post.states() == [("ada@example.org", "held")]
    post.call(notify.job_published, "j1")
    post.call(notify.job_published, "j1")
    assert [sender.run_round(), sender.run_round()] == [1, 0]
    assert [mail["Subject"] for mail in inbox.stored] == ["Your dataset is ready: cortex"]


def test_a_result_that_was_not_published_is_told_as_a_failure(post, inbox):
    post.end(is_waiting=True)
    post.call(notify.job_not_published, "j1", job_end(state="failed", message="the name was taken"))
    post.call(notify.job_published, "j1")
    post.sender().run_round()
    assert [mail["Subject"] for mail in inbox.stored] == ["Convert failed: cortex"]


def test_an_end_is_told_once(post, inbox):
    for _ in range(3):
        post.end()
    post.sender().run_round()
    assert len(inbox.stored) == 1


@pytest.mark.parametrize(
    "given",
    [
        {"state": "cancelled"},
        {"email": None},
        {"state": "failed", "is_free_rerun": True},
        {"workflow": "find_largest_segment_id", "is_foreign": True},
        {"workflow": "compute_segment_index_file", "is_foreign": True},
    ],
)
def test_some_ends_are_told_by_no_mail(post, given):
    post.end(**given)
    assert post.mails() == ()


def test_jobs_of_programs_for_webknossos_get_the_mails_that_their_users_know(post):
    post.end("j1", is_foreign=True)
    post.end("j2", is_foreign=True, state="failed")
    post.end("j3", is_foreign=True, state="failed", workflow="find_largest_segment_id")
    post.end("j4", is_foreign=True, workflow="infer_neurons")
    assert [mail.subject for mail in post.mails()] == [
        "Your dataset is ready", "Oops. Your dataset upload & conversion failed", "Oops. Your Voxelworks job failed",
        "Your segmentation is ready",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        (Preferences(), ["success", "failure", "other"]),
        (Preferences(is_off=True), []),
        (Preferences(is_silent_on_success=True), ["failure"]),
        (Preferences(silenced={"convert"}), ["failure", "other"]),
    ],
)
@pytest.mark.parametrize("is_waiting", [False, True])
def test_wishes_are_heard(post, inbox, chosen, told, is_waiting):
    post.call(notify.set_preferences, "ada", chosen)
    post.end("j1", subject_line="success", is_waiting=is_waiting)
    post.end("j2", subject_line="failure", state="failed")
    post.end("j3", subject_line="other", workflow="downsample", is_waiting=is_waiting)
    for job_id in ("j1", "j3"):
        post.call(notify.job_published, job_id)
    post.sender().run_round()
    assert sorted(mail["Subject"].rpartition(": ")[2] for mail in inbox.stored) == sorted(told)


def test_wishes_are_asked_again_when_the_result_is_published(post, inbox):
    post.end(is_waiting=True)
    post.call(notify.set_preferences, "ada", Preferences(is_silent_on_success=True))
    post.call(notify.job_published, "j1")
    post.sender().run_round()
    assert post.states() == [("ada@example.org", "dropped")]
    assert inbox.stored == []


def test_preferences_are_kept(post):
    assert post.call(notify.preferences, "ada") == Preferences()
    chosen = Preferences(is_silent_on_success=True, silenced={"convert", "downsample"}, digest="daily")
    post.call(notify.set_preferences, "ada", Preferences(is_off=True))
    post.call(notify.set_preferences, "ada", chosen)
    assert post.call(notify.preferences, "ada") == chosen
    assert post.call(notify.preferences, "bob") == Preferences()


def test_one_click_ends_the_mails_of_one_user(post, settings):
    box = SecretBox(settings.secret_key_file)
    post.call(notify.set_preferences, "ada", Preferences(digest="hourly"))
    token = notify.unsubscribe_path(box, "ada").removeprefix("/unsubscribe/")
    assert notify.user_of_unsubscribe_token(box, token) == "ada"
    assert post.call(notify.unsubscribe, box, token) == "ada"
    assert post.call(notify.preferences, "ada") == Preferences(is_off=True, digest="hourly")
    assert post.call(notify.preferences, "bob") == Preferences()


@pytest.mark.parametrize("token", ["", "ada", "gAAAA", "ä", None])
def test_a_link_that_was_changed_ends_nothing(post, settings, token):
    box = SecretBox(settings.secret_key_file)
    with pytest.raises(NotFound, match="choose your mails on the account page"):
        post.call(notify.unsubscribe, box, box.seal("another secret") if token is None else token)


def test_many_ends_go_into_one_mail(post, inbox):
    post.call(notify.set_preferences, "ada", Preferences(digest="hourly"))
    sender = post.sender()
    post.end("j1")
    post.advance(1800)
    post.end("j2", state="failed", subject_line="hippocampus", returned=3000)
    post.end("j3", is_waiting=True)
    post.end("k1", user_id="bob", email="bob@example.org")
    sender.run_round()
    assert [mail["To"] for mail in inbox.stored] == ["bob@example.org"]
    post.call(notify.job_published, "j3")
    post.advance(1801)
    assert [sender.run_round(), sender.run_round()] == [1, 0]
    mail = inbox.stored[-1]
    assert mail["Subject"] == "3 jobs ended, 1 of them failed"
    assert text_of(mail).startswith(
        "Hello Ada Lovelace,\n\n3 of your jobs have ended.\n\n"
        "Succeeded: Convert: cortex\nhttps://voxels.example.org/datasets/d1\n\n"
        "FAILED: Convert: hippocampus\nsection 7 is missing\n3 credits returned.\nhttps://voxels.example.org/jobs/j2\n\n"
        "Succeeded: Convert: cortex\nhttps://voxels.example.org/datasets/d1\n\n--\n"
    )  # fmt: skip
    assert [state for _, state in post.states()] == ["merged", "merged", "merged", "sent", "sent"]


def test_a_digest_of_one_is_a_plain_mail(post, inbox):
    post.call(notify.set_preferences, "ada", Preferences(digest="daily"))
    post.end()
    post.advance(86_399)
    assert post.sender().run_round() == 0
    post.advance(2)
    assert post.sender().run_round() == 1
    assert [mail["Subject"] for mail in inbox.stored] == ["Your dataset is ready: cortex"]


def test_a_digest_is_not_sent_to_who_wants_no_mail_any_more(post, inbox):
    post.call(notify.set_preferences, "ada", Preferences(digest="hourly"))
    post.end("j1")
    post.end("j2")
    post.call(notify.set_preferences, "ada", Preferences(is_off=True))
    post.advance(3601)
    assert post.sender().run_round() == 0
    assert [state for _, state in post.states()] == ["dropped", "dropped"]


INVITATION = {
    "organization_name": "Lab", "invited_by": "Ada", "role": "member", "path": "/invitation/vxi_secret",
    "expires_ms": 1_800_000_000_000,
}  # fmt: skip


def test_a_mail_that_lets_somebody_in_is_stored_sealed_and_forgotten_when_sent(post, inbox, settings):
    box = SecretBox(settings.secret_key_file)
    what = {"key": "invitation/1", "to": "bob@example.org", "template": "invitation", "context": INVITATION}
    assert post.call(notify.post_mail, **what, box=box) is True
    assert post.call(notify.post_mail, **what, box=box) is False
    assert b"vxi_secret" not in _everything_stored(post)
    (mail,) = post.mails()
    assert "vxi_secret" in post.call(notify.read_mail, mail.id, settings=post.settings).text
    assert post.sender().run_round() == 1
    assert "https://voxels.example.org/invitation/vxi_secret" in text_of(inbox.stored[0])
    after = post.call(notify.read_mail, mail.id, settings=post.settings)
    assert (after.html, after.text) == (
        None, "The text of this mail was removed when it was sent: its link let somebody in.",
    )  # fmt: skip


def _everything_stored(post):
    with post.database.session() as session:
        return repr(session.execute(text("SELECT * FROM outbox")).all()).encode()


def test_every_other_mail_can_be_sent(post, inbox):
    for template, context in {
        "credits_ordered": {
            "organization_id": "lab", "organization_name": "Lab", "ordered_by": "Ada", "credits": 5000,
            "ordered_by_email": "ada@example.org", "comment": "for\ntwo months", "path": "/operator/orders/1",
        },
        "credits_granted": {"organization_name": "Lab", "amount": 5_000_000, "comment": "paid 500 EUR", "path": "/c"},
        "credits_declined": {"organization_name": "Lab", "credits": 5000, "reason": "no\nmoney came", "path": "/c"},
        "help_request": {
            "job_id": "j1", "title": "Convert", "organization_id": "lab", "user_name": "Ada", "log_tail": "a\nb",
            "user_email": "ada@example.org", "question": "why?", "failure": "broke", "versions": "0.1", "path": "/j",
        },
        "alert": {"title": "The disk is full", "text": "3 GB left", "path": "/operator"},
        "test": {},
    }.items():  # fmt: skip
        reply_to = "ada@example.org" if template == "help_request" else None
        post.call(
            notify.post_mail,
            key=template,
            to="op@example.org",
            template=template,
            context=context,
            reply_to=reply_to,
        )
    assert post.sender().run_round() == 6
    assert [mail["Subject"] for mail in inbox.stored] == [
        "Lab orders 5,000 credits", "New credits for Lab", "The order of 5,000 credits for Lab was declined",
        "Help wanted: Convert, job j1", "Alert: The disk is full", "Test message of Voxelworks",
    ]  # fmt: skip
    assert [mail["Reply-To"] for mail in inbox.stored] == [None, None, None, "ada@example.org", None, None]
    assert all(mail["List-Unsubscribe"] is None for mail in inbox.stored)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"to": "bob"}, "'bob' is not a mail address; write it as name@example.org"),
        ({"to": "bob@example.org\nBcc: eve@example.org"}, "is not a mail address"),
        ({"reply_to": "Bob <bob@example.org>"}, "is not a mail address"),
        ({"context": {"title": "x"}}, "text: Field required"),
        ({"context": {"title": "x", "text": "y", "colour": "z"}}, "has no place for 'colour'; leave it out"),
    ],
)
def test_a_mail_that_cannot_be_sent_is_refused_at_once(post, changes, problem):
    what = {"key": "k", "to": "op@example.org", "template": "alert", "context": {"title": "x", "text": "y"}}
    with pytest.raises(InvalidInput, match=problem):
        post.call(notify.post_mail, **{**what, **changes})
    assert post.mails() == ()


def test_an_alert_is_told_once_within_its_cool_down(post, inbox):
    told = post.settings.model_copy(update={"operator_email": "op@example.org"})

    def tell(condition="disk-full"):
        return post.call(
            notify.alert,
            settings=told,
            condition=condition,
            title="The disk is full",
            text="3 GB",
            cool_down_s=600,
        )

    assert [tell(), tell(), tell("other")] == [True, False, True]
    post.advance(601)
    assert [tell(), tell()] == [True, False]
    post.sender().run_round()
    assert [mail["To"] for mail in inbox.stored] == ["op@example.org"] * 3


def test_an_alert_is_told_again_after_old_ones_were_removed(post, inbox):
    told = post.settings.model_copy(update={"operator_email": "op@example.org", "mail_keep_days": 90})

    def tell():
        return post.call(notify.alert, settings=told, condition="disk-full", title="Full", text="3 GB")

    days = []
    for wait_days in (0, 60, 35, 1, 95, 1):
        post.advance(wait_days * 86_400 + 1)
        days.append(tell())
        post.sender(mail_keep_days=90).run_round()
    assert days == [True] * 6
    assert len(inbox.stored) == 6


def test_without_anybody_to_tell_an_alert_is_not_written(silent_post):
    assert not silent_post.call(
        notify.alert, settings=silent_post.settings, condition="c", title="t", text="x"
    )


def test_without_a_mail_server_mails_are_kept_to_be_read(silent_post):
    silent_post.end()
    assert silent_post.sender().run_round() == 0
    assert silent_post.states() == [("ada@example.org", "kept")]
    (mail,) = silent_post.mails(states=("kept",))
    shown = silent_post.call(notify.read_mail, mail.id, settings=silent_post.settings)
    assert shown.view == mail
    assert "Result: https://voxels.example.org/datasets/d1" in shown.text
    assert "<h1>Your dataset is ready: cortex</h1>" in shown.html


def test_what_was_kept_can_be_sent_later(silent_post, post, inbox):
    silent_post.end()
    silent_post.sender().run_round()
    (mail,) = silent_post.mails()
    assert post.call(notify.send_again, mail.id).state == "due"
    assert post.sender().run_round() == 1
    with pytest.raises(
        IllegalTransition, match="is sent; only mails that failed or were kept are sent again"
    ):
        post.call(notify.send_again, mail.id)


def test_a_mail_that_is_not_there_is_named(silent_post):
    for function in (notify.send_again, lambda s, i: notify.read_mail(s, i, settings=silent_post.settings)):
        with pytest.raises(NotFound, match="there is no mail 7"):
            silent_post.call(function, 7)


def test_mails_are_listed_page_by_page(silent_post):
    for number in range(5):
        silent_post.end(f"j{number}")
    first = silent_post.call(notify.list_mails, limit=2)
    second = silent_post.call(notify.list_mails, limit=2, after=first.next_after)
    third = silent_post.call(notify.list_mails, limit=2, after=second.next_after)
    found = [mail.job_id for page in (first, second, third) for mail in page.mails]
    assert found == ["j4", "j3", "j2", "j1", "j0"]
    assert third.next_after is None
    assert first.counts["due"] == 5
    assert silent_post.call(notify.list_mails, states=("sent",)).mails == ()
    assert silent_post.call(notify.list_mails, channel="webhook").counts["due"] == 0


def test_the_age_of_the_outbox_is_that_of_its_oldest_message(silent_post):
    assert silent_post.call(notify.outbox_age_s) is None
    silent_post.end("j1", is_waiting=True)
    assert silent_post.call(notify.outbox_age_s) is None
    silent_post.end("j2")
    silent_post.advance(50)
    assert 50 <= silent_post.call(notify.outbox_age_s) < 60


def test_old_messages_are_removed(silent_post):
    silent_post.end("j1")
    silent_post.sender().run_round()
    silent_post.advance(89 * 86_400)
    silent_post.sender().run_round()
    assert len(silent_post.mails()) == 1
    silent_post.advance(2 * 86_400)
    silent_post.end("j2", is_waiting=True)
    silent_post.sender().run_round()
    assert [mail.job_id for mail in silent_post.mails()] == ["j2"]


def test_a_transaction_that_is_rolled_back_tells_nothing(post, inbox):
    def end_and_break(session):
        notify.job_ended(session, job_end(), is_waiting=False)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        post.call(end_and_break)
    assert post.sender().run_round() == 0
    assert inbox.stored == []
