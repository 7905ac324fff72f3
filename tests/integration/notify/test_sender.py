"""T27: what was written down is sent, whatever the mail server and the sender go through."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import PIPE

import psutil
import pytest
from notify_helpers import Post

from voxelworks import notify
from voxelworks.errors import InvalidInput, ServerUnreachable
from voxelworks.notify import check_mail_settings, send_test_mail
from voxelworks.notify._sender import Sender, backoff_s
from voxelworks.settings import Settings
from voxelworks.testing.certificates import make_certificate
from voxelworks.testing.mail import HOST, mail_server, text_of
from voxelworks.testing.rounds import rounds

PROCESS = Path(__file__).parent / "sender_process.py"
JOBS = rounds(200, 1000)
KILLS = rounds(5, 40)


@pytest.fixture
def patient(post):
    """An outbox that tries again at once."""
    changes = {"mail_backoff_base_s": 0.001, "mail_backoff_cap_s": 0.001, "mail_lease_s": 0.3}
    return Post(post.database, post.settings.model_copy(update=changes))


@pytest.mark.faults(
    "T27", "The mail server is down for half of the time, and the sender is killed over and over"
)
def test_every_mail_arrives_once_though_servers_fail(patient, inbox, record_property):
    killer = _Killer(patient, inbox)
    seed = random.randrange(2**32)
    dice = random.Random(seed)
    print(f"seed {seed}")
    for number in range(JOBS):
        patient.end(
            f"j{number}", state=dice.choice(["succeeded", "failed"]), email=f"user{number}@example.org"
        )
    deadline = time.monotonic() + 240
    while killer.count < KILLS or any(state == "due" for _, state in patient.states()):
        assert time.monotonic() < deadline, f"not done in time: {Counter(s for _, s in patient.states())}"
        killer.run(dice)
        time.sleep(dice.uniform(0.1, 0.3))
        inbox.stop()
        time.sleep(dice.uniform(0.1, 0.3))
        inbox.start()
    killer.end()
    stored = Counter(mail["To"] for mail in inbox.stored)
    ids = {}
    for mail in inbox.stored:
        ids.setdefault(mail["To"], set()).add(mail["Message-ID"])
    lost = JOBS - len(stored)
    repeated = {to for to, count in stored.items() if count > 1}
    # Whoever was handed a mail while dying may get it again: with the same id, so that it shows once.
    doubled = len(repeated - killer.handed_over)
    for name, value in {
        "database": patient.database.engine.dialect.name, "jobs": JOBS, "kills": killer.count, "lost": lost,
        "doubled": doubled, "seed": seed, "repeats": len(repeated),
    }.items():  # fmt: skip
        record_property(name, value)
    assert (lost, doubled) == (0, 0)
    assert all(len(found) == 1 for found in ids.values())
    assert {state for _, state in patient.states()} == {"sent"}


class _Killer:
    """Runs a sender in a process, and kills it while it hands a mail over."""

    def __init__(self, post, inbox):
        self.count = 0
        self.handed_over = set()
        """Who had got a mail when its sender was killed, before it was marked as sent."""
        self._inbox = inbox
        self._pid = None
        self._kill_at = None
        changed = {name: getattr(post.settings, name) for name in post.settings.model_fields_set}
        environment = os.environ | {
            f"VOXELWORKS_{name.upper()}": str(value) for name, value in changed.items()
        }
        url = post.database.engine.url.render_as_string(hide_password=False)
        self._maker = subprocess.Popen(
            [sys.executable, str(PROCESS), url], env=environment, stdin=PIPE, stdout=PIPE, text=True
        )
        inbox.on_stored = self._stored

    def run(self, dice):
        """Let a sender run; kill it at one of the next mails, until senders were killed often enough."""
        if self._pid is None:
            self._maker.stdin.write("\n")
            self._maker.stdin.flush()
            self._pid = int(self._maker.stdout.readline())
        if self.count < KILLS:
            self._kill_at = len(self._inbox.stored) + dice.randrange(1, 6)

    def end(self):
        if self._pid is not None:
            self._end_sender(signal.SIGTERM)
        self._maker.stdin.close()
        self._maker.stdout.close()
        assert self._maker.wait(30) == 0

    def _stored(self, mail):
        # In the mail server, with the mail stored and its sender not told: the moment between hand-over and mark.
        if self._pid is not None and self._kill_at is not None and len(self._inbox.stored) >= self._kill_at:
            self._end_sender(signal.SIGKILL)
            self._kill_at = None
            self.count += 1
            self.handed_over.add(mail["To"])

    def _end_sender(self, how):
        os.kill(self._pid, how)
        deadline = time.monotonic() + 30
        while psutil.pid_exists(self._pid):
            assert time.monotonic() < deadline, "the sender does not end"
            time.sleep(0.005)
        self._pid = None


def test_several_senders_send_each_mail_once(post, inbox):
    for number in range(60):
        post.end(f"j{number}", email=f"user{number}@example.org")
    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(lambda _: post.sender().run_round(), range(4)))
    assert sum(counts) == 60
    assert Counter(mail["To"] for mail in inbox.stored) == Counter(
        f"user{number}@example.org" for number in range(60)
    )


def test_a_mail_server_that_is_down_is_left_alone_for_a_while(post, inbox):
    sender = post.sender(mail_backoff_base_s=1000.0, mail_backoff_cap_s=1000.0)
    for number in range(5):
        post.end(f"j{number}")
    inbox.stop()
    assert sender.run_round() == 0
    assert [mail.tries for mail in post.mails()] == [1, 0, 0, 0, 0]
    assert "the mail server 127.0.0.1 does not answer (Connection refused)" in post.mails()[0].last_error
    inbox.start()
    assert sender.run_round() == 0, "asked again too early"
    assert post.sender().run_round() >= 4, "another one need not wait"


def test_a_mailbox_that_does_not_exist_is_given_up_at_once_and_holds_up_nobody(post, inbox):
    inbox.on_recipient = lambda address: (
        "550 5.1.1 no such user" if address.startswith("nobody") else "250 OK"
    )
    post.end("j1", email="nobody@example.org")
    post.end("j2")
    assert post.sender().run_round() == 1
    assert [(mail.state, mail.last_error) for mail in post.mails()] == [
        ("failed", "550 5.1.1 no such user"), ("sent", None),
    ]  # fmt: skip
    assert post.call(notify.mails_failed, since_ms=0) == 1


def test_a_mailbox_that_takes_nothing_now_is_tried_again(post, inbox):
    answers = iter(["451 4.7.1 try again later", "250 OK"])
    inbox.on_recipient = lambda _address: next(answers)
    post.end()
    sender = post.sender(mail_backoff_base_s=1000.0, mail_backoff_cap_s=1000.0)
    assert sender.run_round() == 0
    assert [(mail.state, mail.last_error) for mail in post.mails()] == [("due", "451 4.7.1 try again later")]
    post.advance(1001)
    assert sender.run_round() == 1
    assert post.mails()[0].last_error is None


def test_what_cannot_be_sent_for_days_is_given_up_and_can_be_sent_again(post, inbox):
    inbox.on_recipient = lambda _address: "451 later"
    post.end()
    sender = post.sender()
    sender.run_round()
    post.advance(3 * 86_400 + 1)
    sender.run_round()
    (mail,) = post.mails()
    assert mail.state == "failed"
    inbox.on_recipient = lambda _address: "250 OK"
    post.call(notify.send_again, mail.id)
    assert sender.run_round() == 1


def test_a_wrong_address_in_an_account_fails_alone(post, inbox):
    post.end("j1", email="ada@example.org>\r\nBcc: <eve@example.org")
    post.end("j2")
    assert post.sender().run_round() == 1
    assert [mail.state for mail in post.mails()] == ["failed", "sent"]
    assert [recipients for _, recipients in inbox.envelopes] == [["ada@example.org"]]


def test_a_mail_that_cannot_be_made_holds_up_no_other(post, inbox, monkeypatch):
    from voxelworks.notify import _sender

    real = _sender.render_row

    def break_first(row, *rest):
        if row.job_id == "j1":
            raise ZeroDivisionError("broken")
        return real(row, *rest)

    monkeypatch.setattr(_sender, "render_row", break_first)
    post.end("j1")
    post.end("j2")
    sender = post.sender(mail_backoff_base_s=1000.0, mail_backoff_cap_s=1000.0)
    assert sender.run_round() == 1
    assert [(mail.state, mail.last_error) for mail in post.mails()] == [
        ("due", "ZeroDivisionError: broken"), ("sent", None),
    ]  # fmt: skip


def test_a_round_ends_when_it_is_told(post):
    for number in range(3):
        post.end(f"j{number}")
    answers = iter([False, True])
    assert post.sender().run_round(lambda: next(answers, True)) == 1


def test_letters_of_all_languages_arrive(post, inbox):
    post.end(subject_line="Großhirn 脳 🧠", user_name="Žofie Ångström", workflow="x", title="Übersicht")
    post.sender().run_round()
    (mail,) = inbox.stored
    assert mail["Subject"] == "Übersicht is ready: Großhirn 脳 🧠"
    assert text_of(mail).startswith("Hello Žofie Ångström,\n")


def test_what_a_user_wrote_is_not_html(post, inbox):
    post.end(state="failed", subject_line="<b>x</b>", message="<script>alert(1)</script>\n&")
    post.sender().run_round()
    html = text_of(inbox.stored[0], "html")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\n&amp;" in html
    assert "<b>" not in html
    assert "<script" not in html


@pytest.fixture
def certificate(tmp_path, monkeypatch):
    made = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(made.authority))
    return made


LOGIN = ("voxels", "pass word: 1%")


@pytest.mark.parametrize("way", ["starttls", "tls"])
def test_mails_are_sent_encrypted_and_with_a_password(tmp_path, certificate, way):
    context = certificate.server_context()
    with mail_server(**{way: context}, login=LOGIN if way == "starttls" else None) as inbox:
        settings = _settings(tmp_path, inbox, way, with_login=way == "starttls")
        assert send_test_mail(settings, "ada@example.org") == (
            f"localhost:{inbox.port} took a mail to ada@example.org (encrypted by {way.upper()}"
            + (", logged in as voxels" if way == "starttls" else "")
            + "); see that it arrived, also among the spam"
        )
        assert inbox.was_encrypted == [True]
        assert inbox.stored[0]["Subject"] == "Test message of Voxelworks"


@pytest.mark.parametrize("way", ["starttls", "tls"])
def test_a_mail_server_that_cannot_prove_who_it_is_gets_nothing(tmp_path, way):
    context = make_certificate(tmp_path).server_context()
    with mail_server(**{way: context}) as inbox:
        with pytest.raises(ServerUnreachable, match="certificate verify failed"):
            send_test_mail(_settings(tmp_path, inbox, way), "ada@example.org")
        assert inbox.stored == []


def test_a_certificate_for_another_name_is_refused(tmp_path, monkeypatch):
    made = make_certificate(tmp_path, "mail.example.org")
    monkeypatch.setenv("SSL_CERT_FILE", str(made.authority))
    with mail_server(tls=made.server_context()) as inbox:
        with pytest.raises(ServerUnreachable, match="Hostname mismatch"):
            send_test_mail(_settings(tmp_path, inbox, "tls"), "ada@example.org")
        assert inbox.stored == []


def test_nothing_is_sent_in_the_clear_if_the_server_cannot_encrypt(tmp_path, inbox):
    with pytest.raises(ServerUnreachable, match="STARTTLS"):
        send_test_mail(_settings(tmp_path, inbox, "starttls"), "ada@example.org")
    assert inbox.stored == []


def test_a_wrong_password_is_told(tmp_path, certificate):
    with (
        mail_server(starttls=certificate.server_context(), login=("voxels", "another")) as inbox,
        pytest.raises(ServerUnreachable, match=r"does not let us in \(535"),
    ):
        send_test_mail(_settings(tmp_path, inbox, "starttls", with_login=True), "ada@example.org")


def test_a_test_mail_says_what_is_missing(tmp_path):
    with pytest.raises(InvalidInput, match="no mail server is set; set VOXELWORKS_SMTP_HOST"):
        send_test_mail(Settings(home=tmp_path), "ada@example.org")
    with pytest.raises(InvalidInput, match="'ada' is not a mail address"):
        send_test_mail(Settings(home=tmp_path), "ada")


def test_a_recipient_that_is_refused_is_told(tmp_path, inbox):
    inbox.on_recipient = lambda _address: "550 no"
    with pytest.raises(ServerUnreachable, match=r"does not take the mail \(550 no\)"):
        send_test_mail(_settings(tmp_path, inbox, "none"), "ada@example.org")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"mail_from": None}, "set VOXELWORKS_MAIL_FROM"),
        (
            {"mail_from": "Voxels"},
            r"setting mail_from \(VOXELWORKS_MAIL_FROM\): 'Voxels' is not a mail address",
        ),
        ({"operator_email": "ada bob"}, "setting operator_email"),
        ({"smtp_user": "voxels"}, "set both VOXELWORKS_SMTP_USER and VOXELWORKS_SMTP_PASSWORD"),
        (
            {"smtp_user": "voxels", "smtp_password": "x", "smtp_security": "none"},
            "would be sent for everybody to read; set VOXELWORKS_SMTP_SECURITY",
        ),
        ({"smtp_user": "voxels", "smtp_password": "pass wörd"}, "choose a password of ASCII characters"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(database, changes, problem):
    settings = Settings(**{"smtp_host": "mail.example.org", "mail_from": "v@example.org", **changes})
    with pytest.raises(InvalidInput, match=problem):
        check_mail_settings(settings)
    with pytest.raises(InvalidInput, match=problem):
        Sender(database, settings)


def test_waits_grow_to_a_bound():
    settings = Settings(mail_backoff_base_s=30, mail_backoff_cap_s=100)
    assert [backoff_s(failures, 1.0, settings) for failures in (1, 2, 3, 400)] == [30, 60, 100, 100]
    assert backoff_s(3, 0.25, settings) == 25


def _settings(tmp_path, inbox, way, *, with_login=False):
    login = {"smtp_user": LOGIN[0], "smtp_password": LOGIN[1]} if with_login else {}
    host = HOST if way == "none" else "localhost"
    return Settings(
        home=tmp_path,
        smtp_host=host,
        smtp_port=inbox.port,
        smtp_security=way,
        mail_from="v@example.org",
        **login,
    )
