import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select

from voxelworks import accounts
from voxelworks.accounts._tables import ApiTokenRow
from voxelworks.errors import InvalidInput, NotAllowed, NotFound
from voxelworks.testing.people import PASSWORD, give_password

DAY = 86_400


@pytest.fixture
def ada(site):
    return site.member("Ada", role="admin")


def operator(site):
    return site.call(accounts.local_principal)


def make(site, who, name="script", scopes=("submit",), days=None):
    return site.call(accounts.create_api_token, who, name, scopes, days)


# API tokens


def test_a_token_acts_as_its_user_as_far_as_its_scopes_go(site, ada):
    token, view = make(site, ada, scopes=["submit", "read"])
    assert token.startswith("vxt_")
    assert len(token) == 47
    assert view.hint == token[:8]
    who = site.by_token(token)
    assert (who.user_id, who.organization_id, who.role) == (ada.user_id, "neuro", "admin")
    assert (who.scopes, who.entrance) == (frozenset({"read", "submit"}), "token")
    assert view.scopes == ("read", "submit")


def test_a_token_has_the_role_that_its_user_has_now(site, ada):
    token, _ = make(site, ada, scopes=["admin"])
    site.call(accounts.change_role, operator_in(site, "neuro"), ada.user_id, "member")
    assert site.by_token(token).role == "member"


def operator_in(site, organization_id):
    return site.call(accounts.local_principal, organization_id=organization_id, entrance="program")


def test_a_token_ends_with_its_term(site, ada):
    token, view = make(site, ada, days=1)
    assert view.expires_ms - view.created_ms == DAY * 1000
    site.advance(DAY - 5)
    assert site.by_token(token)
    site.advance(5)
    assert site.by_token(token) is None
    (listed,) = site.read(accounts.list_api_tokens, ada)
    assert listed.is_expired


def test_a_revoked_token_opens_nothing(site, ada):
    token, view = make(site, ada)
    site.call(accounts.revoke_api_token, ada, view.id)
    assert site.by_token(token) is None
    assert site.read(accounts.list_api_tokens, ada) == ()
    with pytest.raises(NotFound):
        site.call(accounts.revoke_api_token, ada, view.id)
    assert site.actions("neuro")[-2:] == ["token.created", "token.revoked"]


def test_nobody_sees_or_revokes_tokens_of_others_or_of_another_organization(site, ada):
    _, view = make(site, ada)
    site.owner("chem")
    site.call(accounts.add_member, operator(site), ada.user_id, "member", organization_id="chem")
    elsewhere = site.read(accounts.find_principal, ada.user_id, "chem")
    for stranger in (site.member("Bob", role="admin"), elsewhere):
        assert site.read(accounts.list_api_tokens, stranger) == ()
        with pytest.raises(NotFound):
            site.call(accounts.revoke_api_token, stranger, view.id)


def test_a_token_makes_no_tokens(site, ada):
    token, _ = make(site, ada, scopes=["admin"])
    with pytest.raises(NotAllowed, match="a token cannot make another one"):
        make(site, site.by_token(token))


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"scopes": []}, r"\(none\); choose from read, submit, manage, admin"),
        ({"scopes": ["read", "root"]}, "the scopes root; choose from"),
        ({"days": 0}, "cannot live for 0 days"),
        ({"days": 10_000}, "cannot live for 10000 days"),
        ({"name": " "}, "the name of the token is empty"),
    ],
)
def test_bad_input_makes_no_token(site, ada, wrong, why):
    with pytest.raises(InvalidInput, match=why):
        make(site, ada, **wrong)
    assert site.read(accounts.list_api_tokens, ada) == ()


def test_there_is_a_most_of_tokens(site, ada, monkeypatch):
    monkeypatch.setattr("voxelworks.accounts._api_tokens.TOKENS_MAX", 2)
    make(site, ada), make(site, ada)
    with pytest.raises(InvalidInput, match="you have 2 tokens; revoke one"):
        make(site, ada)


def test_a_use_is_noted_at_most_once_a_minute(site, ada):
    token, view = make(site, ada)
    assert view.used_ms is None

    def used_ms():
        (listed,) = site.read(accounts.list_api_tokens, ada)
        return listed.used_ms

    site.by_token(token)
    first = used_ms()
    assert first is not None
    site.by_token(token)
    assert used_ms() == first
    site.advance(61)
    site.by_token(token)
    assert used_ms() > first - 61_000


@pytest.mark.parametrize(
    "token", ["", "vxt_", "vxt_" + "A" * 43, "vxj_" + "A" * 43, "vxs_x", "\ud800", "vxt_\0"]
)
def test_other_texts_open_nothing(site, token):
    assert site.by_token(token) is None


def test_a_cookie_is_no_token_and_a_token_no_cookie(site, ada):
    token, _ = make(site, ada)
    assert site.by_token(site.open(ada)) is None
    assert site.who(token) is None


# Tokens of jobs


def mint(site, who, job_id="job1", lifetime_s=3600):
    with site.database.session() as session:
        from voxelworks.db import now

        at_ms = now(session)
        return accounts.mint_job_token(
            session, user_id=who.user_id, organization_id=who.organization_id, job_id=job_id, at_ms=at_ms,
            expires_ms=at_ms + lifetime_s * 1000,
        )  # fmt: skip


def test_a_job_reads_as_its_submitter_and_can_do_nothing_else(site, ada):
    token = mint(site, ada)
    who = site.by_token(token)
    assert token.startswith("vxj_")
    assert (who.user_id, who.entrance, who.scopes) == (ada.user_id, "job", frozenset({"read"}))
    assert accounts.is_allowed(who, accounts.Action.SEE_DATASET)
    assert not accounts.is_allowed(who, accounts.Action.SUBMIT_JOB)
    assert site.read(accounts.list_api_tokens, ada) == ()


def test_the_token_of_a_job_dies_with_the_attempt(site, ada):
    first, other = mint(site, ada), mint(site, ada, "job2")
    second = mint(site, ada)
    assert site.by_token(first) is None
    assert site.by_token(second)
    for _ in range(2):
        site.call(accounts.end_job_tokens, "job1")
        assert site.by_token(second) is None
    assert site.by_token(other)


def test_the_token_of_a_job_has_an_end(site, ada):
    token = mint(site, ada)
    site.advance(3600)
    assert site.by_token(token) is None
    site.call(accounts.forget_expired, site.settings)
    with site.database.read_session() as session:
        assert session.scalars(select(ApiTokenRow)).all() == []


def test_the_token_of_a_job_ends_with_the_membership(site, ada):
    token = mint(site, ada)
    site.call(accounts.remove_member, operator_in(site, "neuro"), ada.user_id)
    assert site.by_token(token) is None


# Worker keys


def enter(site, key):
    return accounts.enter_by_worker_key(site.database, key)


def test_a_worker_key_opens_until_it_is_revoked(site):
    key, view = site.call(
        accounts.create_worker_key, operator(site), "gpu host", organization_id="local",
        commands=["convert", "align", "convert"], high_slots=2, low_slots=0,
    )  # fmt: skip
    assert key.startswith("vxw_")
    assert (view.hint, view.name, view.organization_id) == (key[:8], "gpu host", "local")
    assert (view.commands, view.high_slots, view.low_slots) == (("align", "convert"), 2, 0)
    assert view.created_by == "user:local"
    assert enter(site, key) == view
    revoked = site.call(accounts.revoke_worker_key, operator(site), view.id)
    assert revoked.is_revoked
    assert enter(site, key) is None
    assert site.call(accounts.revoke_worker_key, operator(site), view.id) == revoked
    assert site.actions()[-2:] == ["worker_key.created", "worker_key.revoked"]


def test_the_use_of_a_worker_key_is_noted(site):
    key, _ = site.call(accounts.create_worker_key, operator(site), "host")
    enter(site, key)
    (listed,) = site.read(accounts.list_worker_keys)
    assert listed.used_ms is not None
    assert enter(site, key) == listed
    assert enter(site, "vxw_" + "A" * 43) is None
    assert enter(site, "") is None


def test_worker_keys_are_listed_by_organization(site):
    site.owner("neuro")
    for name, organization_id in (("all", None), ("ours", "neuro"), ("theirs", "local")):
        site.call(accounts.create_worker_key, operator(site), name, organization_id=organization_id)
    assert {key.name for key in site.read(accounts.list_worker_keys)} == {"all", "ours", "theirs"}
    assert {key.name for key in site.read(accounts.list_worker_keys, organization_id="neuro")} == {"ours"}


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"name": ""}, InvalidInput),
        ({"name": "x", "organization_id": "nowhere"}, NotFound),
        ({"name": "x", "high_slots": -1}, InvalidInput),
        ({"name": "x", "low_slots": 10**6}, InvalidInput),
        ({"name": "x", "commands": [""]}, InvalidInput),
    ],
)
def test_bad_input_makes_no_worker_key(site, wrong, error):
    with pytest.raises(error):
        site.call(accounts.create_worker_key, operator(site), **wrong)
    assert site.read(accounts.list_worker_keys) == ()


def test_the_key_in_the_servers_file_is_registered_once(site):
    first = site.call(accounts.ensure_worker_key, "a key in a file", "worker.key")
    assert site.call(accounts.ensure_worker_key, "a key in a file", "worker.key") == first
    assert enter(site, "a key in a file").id == first.id
    assert len(site.read(accounts.list_worker_keys)) == 1


def test_a_new_key_in_the_file_takes_the_place_of_the_old_one(site):
    _, others = site.call(accounts.create_worker_key, operator(site), "worker.key")
    site.call(accounts.ensure_worker_key, "old", "worker.key")
    site.call(accounts.ensure_worker_key, "new", "worker.key")
    assert enter(site, "old") is None
    assert enter(site, "new").name == "worker.key"
    assert not any(key.is_revoked for key in site.read(accounts.list_worker_keys) if key.id == others.id)


def test_a_revoked_key_stays_revoked_when_the_server_starts_again(site):
    view = site.call(accounts.ensure_worker_key, "in the file", "worker.key")
    site.call(accounts.revoke_worker_key, operator(site), view.id)
    assert site.call(accounts.ensure_worker_key, "in the file", "worker.key").is_revoked
    assert enter(site, "in the file") is None


def test_servers_that_start_together_register_the_key_once(site):
    with ThreadPoolExecutor(6) as pool:
        ids = {
            view.id
            for view in pool.map(
                lambda _: site.call(accounts.ensure_worker_key, "shared", "worker.key"), range(6)
            )
        }
    assert len(ids) == 1


# What is stored


def test_no_token_password_or_key_is_stored_in_clear(site, ada):
    site.call(give_password, ada, site.settings)
    secrets = [
        make(site, ada)[0],
        mint(site, ada),
        site.open(ada),
        site.call(accounts.create_worker_key, operator(site), "host")[0],
        site.call(accounts.invite, ada, "eve@example.org", "member", settings=site.settings)[0],
        site.call(accounts.make_reset, operator(site), ada.user_id, site.settings),
        site.log_in("ada@example.org", PASSWORD),
        PASSWORD,
    ]
    site.call(accounts.ensure_worker_key, "key-in-a-file", "worker.key")
    stored = site.everything()
    assert len(stored) > 100
    for secret in [*secrets, "key-in-a-file"]:
        assert not any(secret in value for value in stored), secret[:4]
    assert len(set(secrets)) == len(secrets)
    # A digest of all of it: what a thief of the database would need is not there.
    assert hashlib.sha256(secrets[0].encode()).hexdigest() in stored
