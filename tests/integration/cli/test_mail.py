"""`voxelworks mail`, over a database that a server would use."""

import json
import subprocess
import sys

import pytest

from voxelworks import notify
from voxelworks.cli import main
from voxelworks.db import open_database
from voxelworks.settings import Settings
from voxelworks.testing.mail import HOST, mail_server


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name in ("SMTP_HOST", "SMTP_PORT", "SMTP_SECURITY", "MAIL_FROM"):
        monkeypatch.delenv(f"VOXELWORKS_{name}", raising=False)
    monkeypatch.setenv("VOXELWORKS_HOME", str(tmp_path))
    return tmp_path


def _run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def _post(home, number):
    database = open_database(Settings(home=home))
    with database.session() as session:
        context = {"title": f"Disk {number}", "text": f"{number} GB left"}
        notify.post_mail(session, key=f"k{number}", to="op@example.org", template="alert", context=context)
    notify.Sender(database, Settings(home=home)).run_round()
    database.close()


def test_a_test_mail_is_sent_and_what_is_missing_is_said(home, capsys, monkeypatch):
    status, _, err = _run(capsys, "mail", "test", "--to", "ada@example.org")
    assert (status, err) == (
        2, "error: no mail server is set; set VOXELWORKS_SMTP_HOST and VOXELWORKS_MAIL_FROM\n"
    )  # fmt: skip
    with mail_server() as inbox:
        way = {
            "SMTP_HOST": HOST,
            "SMTP_PORT": str(inbox.port),
            "SMTP_SECURITY": "none",
            "MAIL_FROM": "v@example.org",
        }
        for name, value in way.items():
            monkeypatch.setenv(f"VOXELWORKS_{name}", value)
        status, out, _ = _run(capsys, "mail", "test", "--to", "ada@example.org")
        assert status == 0
        assert out == (
            f"{HOST}:{inbox.port} took a mail to ada@example.org (not encrypted); "
            "see that it arrived, also among the spam\n"
        )
        assert [mail["To"] for mail in inbox.stored] == ["ada@example.org"]


def test_mails_are_listed_shown_and_repeated(home, capsys):
    assert _run(capsys, "mail", "list") == (0, "No mails.\n", "")
    _post(home, 1)
    _post(home, 2)
    status, out, _ = _run(capsys, "mail", "list", "--json")
    assert status == 0
    listed = json.loads(out)
    assert [(mail["id"], mail["state"], mail["subject"]) for mail in listed] == [
        (2, "kept", "Alert: Disk 2"), (1, "kept", "Alert: Disk 1"),
    ]  # fmt: skip
    _, out, _ = _run(capsys, "mail", "list", "--limit", "1")
    assert [line.split() for line in out.splitlines()] == [
        ["mail", "state", "to", "tries", "subject", "error"],
        ["2", "kept", "op@example.org", "0", "Alert:", "Disk", "2"],
        ["2", "in", "all;", "show", "more", "with", "--limit"],
    ]
    _, out, _ = _run(capsys, "mail", "show", "1")
    assert out.endswith("\n\nDisk 1\n\n1 GB left\n\n")
    assert (
        _run(capsys, "mail", "again", "1")[1]
        == "the server sends mail 1 to op@example.org in its next round\n"
    )
    assert json.loads(_run(capsys, "mail", "list", "--state", "due", "--json")[1])[0]["id"] == 1
    assert _run(capsys, "mail", "show", "7") == (
        2, "", "error: there is no mail 7; it may have been removed after its time\n"
    )  # fmt: skip


def test_help_names_the_commands(home):
    command = [sys.executable, "-m", "voxelworks", "mail", "--help"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert [line.split()[0] for line in out.partition("Commands:\n")[2].splitlines()] == [
        "again",
        "list",
        "show",
        "test",
    ]
