"""`voxelworks admin`, over a database that a server would use."""

import io
import json
import re

import pytest

from voxelworks import accounts
from voxelworks.cli import main
from voxelworks.db import open_database
from voxelworks.settings import Settings

GOOD = "correct horse battery staple"


@pytest.fixture
def admin(tmp_path, monkeypatch, capsys):
    """Run a command that must succeed, or with a given status; give what it printed."""
    monkeypatch.setenv("VOXELWORKS_HOME", str(tmp_path))
    monkeypatch.delenv("VOXELWORKS_DATABASE_URL", raising=False)
    monkeypatch.setenv("VOXELWORKS_PUBLIC_URL", "https://jobs.example.org/")

    def run(*arguments, status=0, stdin=""):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        with pytest.raises(SystemExit) as ended:
            main(["admin", *arguments])
        out, err = capsys.readouterr()
        assert ended.value.code == status, out + err
        return err if status else out

    return run


@pytest.fixture
def read(tmp_path):
    def run(function, *arguments, **options):
        database = open_database(Settings(home=tmp_path))
        with database.session() as session:
            found = function(session, *arguments, **options)
        database.close()
        return found

    return run


def set_up(admin, **options):
    return admin(
        "set-up", "--name", "Ada", "--email", "ada@example.org", "--organization-name", "Neuro", "--password-stdin",
        stdin=GOOD + "\n", **options,
    )  # fmt: skip


def listed(admin, *arguments):
    return json.loads(admin(*arguments, "--json"))


def test_the_group_lists_its_commands(admin):
    shown = admin("--help")
    for name in (
        "set-up", "users", "organizations", "members", "invitations", "worker-keys", "audit", "backup", "restore",
    ):  # fmt: skip
        assert name in shown


def test_an_instance_is_set_up_once(admin, read):
    assert set_up(admin) == "Ada (ada@example.org) can log in now, and runs this instance\n"
    assert read(accounts.is_set_up)
    assert "this instance is set up already" in set_up(admin, status=2)


def test_a_weak_password_is_refused_and_not_repeated(admin, read):
    refusal = admin(
        "set-up", "--name", "Ada", "--email", "ada@example.org", "--organization-name", "N", "--password-stdin",
        stdin="letmein1\n", status=2,
    )  # fmt: skip
    assert "everybody tries first" in refusal
    assert "letmein1" not in refusal
    assert not read(accounts.is_set_up)


def test_a_user_is_made_with_a_link_to_a_password(admin, read):
    printed = admin("users", "create", "Bob@example.org", "--name", "Bob", "--role", "admin")
    (token,) = re.findall(r"^https://jobs\.example\.org/reset/(vxr_\S+)$", printed, re.MULTILINE)
    user = read(accounts.reset_password, token, GOOD)
    assert (user.name, user.email, user.has_password) == ("Bob", "bob@example.org", True)
    assert [item["email"] for item in listed(admin, "users", "list")] == [None, "bob@example.org"]
    assert "local (admin)" in admin("users", "list")


def test_a_link_is_made_for_who_forgot_the_password(admin, read):
    admin("users", "create", "bob@example.org", "--name", "Bob")
    printed = admin("users", "link", "BOB@example.org")
    (token,) = re.findall(r"/reset/(vxr_\S+)$", printed, re.MULTILINE)
    assert read(accounts.find_reset, token).name == "Bob"


def test_users_are_disabled_enabled_and_made_operators(admin):
    admin("users", "create", "bob@example.org", "--name", "Bob")
    assert admin("users", "disable", "bob@example.org") == "Bob is disabled\n"
    assert "is disabled" in admin("users", "link", "bob@example.org", status=2)
    assert admin("users", "enable", "bob@example.org") == "Bob is enabled\n"
    assert admin("users", "operator", "bob@example.org") == "Bob is an operator now\n"
    assert admin("users", "operator", "bob@example.org", "--dismiss") == "Bob is no operator now\n"


def test_whoever_is_not_there_is_named(admin):
    assert admin("users", "disable", "eve@example.org", status=2) == (
        "error: nobody has the address 'eve@example.org'; see `voxelworks admin users list`\n"
    )
    assert "no user 'eve'" in admin("users", "disable", "eve", status=2)
    assert "no organization 'nowhere'" in admin("members", "list", "--organization", "nowhere", status=2)


def test_organizations_are_made_changed_and_handed_over(admin):
    admin("users", "create", "bob@example.org", "--name", "Bob")
    admin(
        "organizations", "create", "neuro", "--name", "Neuro lab", "--zone", "Europe/Berlin",
        "--owner", "bob@example.org",
    )  # fmt: skip
    admin("users", "create", "cem@example.org", "--name", "Cem", "--organization", "neuro")
    assert admin("organizations", "owner", "neuro", "cem@example.org") == "Cem owns neuro now\n"
    admin("organizations", "set", "neuro", "--name", "Neuro", "--zone", "UTC", "--storage-bytes-max", "1000")
    (neuro,) = [item for item in listed(admin, "organizations", "list") if item["id"] == "neuro"]
    assert (neuro["name"], neuro["zone"], neuro["storage_bytes_max"]) == ("Neuro", "UTC", 1000)
    assert "none of its own" in admin("organizations", "set", "neuro", "--no-storage-max")
    roles = {
        item["user"]["name"]: item["role"]
        for item in listed(admin, "members", "list", "--organization", "neuro")
    }
    assert roles == {"Bob": "admin", "Cem": "owner"}


def test_a_change_that_is_half_wrong_changes_nothing(admin):
    admin("organizations", "set", "local", "--name", "Local")
    admin("organizations", "set", "local", "--name", "New name", "--zone", "Mars", status=2)
    assert [item["name"] for item in listed(admin, "organizations", "list")] == ["Local"]
    refusal = admin("organizations", "set", "local", "--storage-bytes-max", "1", "--no-storage-max", status=2)
    assert "contradict each other" in refusal


def test_members_are_added_changed_and_removed(admin):
    admin("organizations", "create", "neuro", "--name", "Neuro")
    admin("users", "create", "bob@example.org", "--name", "Bob")
    assert (
        admin("members", "add", "bob@example.org", "--organization", "neuro")
        == "Bob is member of neuro now\n"
    )
    assert admin("members", "role", "bob@example.org", "admin", "--organization", "neuro") == (
        "Bob is admin of neuro now\n"
    )
    assert admin("members", "remove", "bob@example.org", "--organization", "neuro") == (
        "Bob is no member of neuro any more\n"
    )
    assert "'owner' is not one of" in admin("members", "role", "bob@example.org", "owner", status=2)


def test_people_are_invited_by_a_link(admin, read):
    printed = admin("invitations", "create", "eve@example.org", "--role", "dataset_manager")
    (token,) = re.findall(r"^https://jobs\.example\.org/invitation/(vxi_\S+)$", printed, re.MULTILINE)
    assert read(accounts.find_invitation, token).role == "dataset_manager"
    (view,) = listed(admin, "invitations", "list")
    assert token not in admin("invitations", "list")
    admin("invitations", "revoke", view["id"])
    assert read(accounts.find_invitation, token) is None
    assert admin("invitations", "list") == "No open invitations.\n"


def test_worker_keys_are_made_shown_once_and_revoked(admin, read):
    printed = admin("worker-keys", "create", "gpu host", "--workflow", "convert", "--high-slots", "2")
    key = printed.splitlines()[-1]
    view = read(accounts.find_worker_key, key)
    assert (view.name, view.commands, view.high_slots, view.low_slots) == ("gpu host", ("convert",), 2, 1)
    assert key not in admin("worker-keys", "list")
    assert admin("worker-keys", "revoke", view.id) == "key gpu host is revoked\n"
    assert read(accounts.find_worker_key, key) is None


def test_the_audit_log_says_that_it_was_done_on_the_machine(admin):
    admin("worker-keys", "create", "gpu host")
    (entry,) = listed(admin, "audit")
    assert (entry["who"], entry["action"]) == ("user:local", "worker_key.created")
    assert entry["detail"]["through"] == "program"
    assert "worker_key.created" in admin("audit", "--organization", "local")
    assert admin("audit", "--organization", "nowhere") == "Nothing was noted yet.\n"
