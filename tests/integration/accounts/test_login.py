import pytest
from argon2 import PasswordHasher
from sqlalchemy import update

from voxelworks import accounts
from voxelworks.accounts._tables import UserRow
from voxelworks.errors import InvalidInput, NotAllowed, NotFound, NotLetIn, TooManyRequests
from voxelworks.testing.people import PASSWORD, give_password

WRONG = "wrong horse battery staple"
NEW = "another horse altogether"


@pytest.fixture
def ada(site):
    ada = site.member("Ada")
    site.call(give_password, ada, site.settings)
    return ada


def operator(site):
    return site.call(accounts.local_principal)


def refuse(site, email="ada@example.org", password=WRONG, **options):
    with pytest.raises(NotLetIn) as refused:
        site.log_in(email, password, **options)
    return str(refused.value)


def change(site, who, old, new, cookie=None, **options):
    accounts.change_password(site.database, who, old, new, cookie=cookie, settings=site.settings, **options)


# Passwords


def test_the_right_password_lets_in(site, ada):
    cookie = site.log_in(" ADA@Example.org", PASSWORD)
    assert cookie.startswith("vxs_")
    assert site.who(cookie) == ada
    assert site.actions()[-1] == "login"


def test_each_login_makes_a_session_of_its_own(site, ada):
    assert len({site.log_in("ada@example.org", PASSWORD) for _ in range(3)}) == 3
    assert len(site.read(accounts.list_sessions, ada, settings=site.settings)) == 3


def test_wrong_passwords_unknown_disabled_and_passwordless_users_get_the_same_answer(site, ada):
    site.member("Bob")
    eve = site.member("Eve")
    site.call(give_password, eve, site.settings)
    site.call(accounts.disable_user, operator(site), eve.user_id)
    answers = {
        refuse(site),
        refuse(site, email="unknown@example.org"),
        refuse(site, email="no address at all \0 '; --"),
        refuse(site, email="bob@example.org"),
        refuse(site, email="eve@example.org", password=PASSWORD),
        refuse(site, password=""),
        refuse(site, password="x" * 10**6),
    }
    assert answers == {"the e-mail address or the password is wrong; try again, or choose a new password"}
    assert site.actions()[-7:] == ["login.refused"] * 7


def test_guessing_from_one_address_is_stopped_and_hurts_nobody_elsewhere(site, ada):
    for _ in range(10):
        refuse(site)
    with pytest.raises(TooManyRequests, match="too many tries; wait") as refused:
        site.log_in("ada@example.org", PASSWORD)  # not even the right one is looked at
    assert 0 < refused.value.retry_after_s <= 90
    assert site.who(site.log_in("ada@example.org", PASSWORD, address="198.51.100.1")) == ada
    site.advance(91)
    assert site.who(site.log_in("ada@example.org", PASSWORD)) == ada


def test_trying_many_accounts_from_one_address_is_stopped(site):
    for number in range(30):
        refuse(site, email=f"user{number}@example.org")
    with pytest.raises(TooManyRequests):
        site.log_in("user31@example.org", WRONG)


def test_all_addresses_of_one_network_count_as_one(site):
    for number in range(30):
        refuse(site, email=f"user{number}@example.org", address=f"2001:db8::{number:x}")
    with pytest.raises(TooManyRequests):
        site.log_in("user31@example.org", WRONG, address="2001:db8::ffff")


def test_what_was_typed_as_an_address_is_not_noted(site, ada):
    refuse(site, email=PASSWORD, password="")
    refuse(site)
    newest = site.read(accounts.list_audit).entries[:2]
    assert [entry.subject for entry in newest] == [f"user:{ada.user_id}", "unknown"]


def test_guessing_one_account_from_many_addresses_is_stopped(site, ada):
    site.settings = site.settings.model_copy(update={"login_tries": 1})
    for number in range(10):
        refuse(site, address=f"192.0.2.{number}")
    with pytest.raises(TooManyRequests):
        site.log_in("ada@example.org", PASSWORD, address="198.51.100.1")


def test_logging_in_forgets_ones_own_wrong_tries_but_not_those_of_the_address(site, ada):
    for _ in range(3):
        for _ in range(8):
            refuse(site)
        site.log_in("ada@example.org", PASSWORD)
    for number in range(3):
        refuse(site, email=f"user{number}@example.org")
    with pytest.raises(TooManyRequests):
        site.log_in("user4@example.org", WRONG)


def test_a_hash_with_old_parameters_is_renewed_when_its_user_logs_in(site, ada):
    old = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1).hash(PASSWORD)
    with site.database.session() as session:
        session.execute(update(UserRow).values(password_hash=old).where(UserRow.id == ada.user_id))
    site.log_in("ada@example.org", PASSWORD)
    with site.database.read_session() as session:
        assert session.get(UserRow, ada.user_id).password_hash.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert site.who(site.log_in("ada@example.org", PASSWORD)) == ada


def test_a_password_that_changes_while_it_is_compared_lets_nobody_in(site, ada, monkeypatch):
    from voxelworks.accounts import _login

    def compare_slowly(password, password_hash):
        token = site.call(accounts.make_reset, operator(site), ada.user_id, site.settings)
        site.call(accounts.reset_password, token, NEW)
        return True

    monkeypatch.setattr(_login, "is_password", compare_slowly)
    assert refuse(site, password=PASSWORD) == "the account was changed a moment ago; log in again"


def test_a_user_without_organization_is_told_so(site, ada):
    site.call(accounts.remove_member, ada, ada.user_id)
    assert refuse(site, password=PASSWORD) == (
        "this account is in no organization; ask an admin of one for an invitation"
    )


def test_a_changed_password_ends_all_other_sessions_and_open_links(site, ada):
    kept, other = site.log_in("ada@example.org", PASSWORD), site.log_in("ada@example.org", PASSWORD)
    reset = site.call(accounts.make_reset, operator(site), ada.user_id, site.settings)
    change(site, ada, PASSWORD, NEW, kept)
    assert site.who(kept) == ada
    assert site.who(other) is None
    assert site.read(accounts.find_reset, reset) is None
    refuse(site, password=PASSWORD)
    assert site.who(site.log_in("ada@example.org", NEW)) == ada


def test_a_password_is_changed_only_by_who_knows_the_old_one(site, ada):
    for _ in range(10):
        with pytest.raises(NotAllowed, match="the old password is wrong"):
            change(site, ada, WRONG, NEW)
    with pytest.raises(TooManyRequests):
        change(site, ada, PASSWORD, NEW)
    assert site.actions().count("password.refused") == 10
    site.log_in("ada@example.org", PASSWORD)


def test_a_weak_new_password_is_refused(site, ada):
    with pytest.raises(InvalidInput, match="your name, your address"):
        change(site, ada, PASSWORD, "ada@example.org")
    site.log_in("ada@example.org", PASSWORD)


def test_who_has_no_password_is_told_how_to_get_one(site):
    bob = site.member("Bob")
    with pytest.raises(NotAllowed, match="you have no password yet"):
        change(site, bob, "", NEW)


# Links to a new password


def request(site, email, address="192.0.2.7"):
    return site.call(accounts.request_reset, email, address=address, settings=site.settings)


def test_a_forgotten_password_is_replaced_once_and_ends_all_sessions(site, ada):
    cookie = site.log_in("ada@example.org", PASSWORD)
    token, user = request(site, "ADA@example.org")
    assert (token[:4], user.id) == ("vxr_", ada.user_id)
    assert site.read(accounts.find_reset, token).id == ada.user_id
    assert site.call(accounts.reset_password, token, NEW).id == ada.user_id
    assert site.who(cookie) is None
    refuse(site, password=PASSWORD)
    site.log_in("ada@example.org", NEW)
    with pytest.raises(NotFound, match="this link is not valid any more"):
        site.call(accounts.reset_password, token, PASSWORD)


@pytest.mark.parametrize(("options", "is_in"), [({}, False), ({"revokes_tokens": False}, True)])
def test_a_link_ends_api_tokens_too_unless_they_are_kept(site, ada, options, is_in):
    bob = site.member("Bob")
    tokens = [site.call(accounts.create_api_token, who, "mine", ["read"], None)[0] for who in (ada, ada, bob)]
    of_job = site.call(
        accounts.mint_job_token, user_id=ada.user_id, organization_id=ada.organization_id, job_id="j",
        at_ms=0, expires_ms=2**50,
    )  # fmt: skip
    assert site.read(accounts.count_api_tokens, ada.user_id) == 2
    token, _ = request(site, "ada@example.org")
    site.call(accounts.reset_password, token, NEW, **options)
    found = [site.read(accounts.principal_of_token, token) is not None for token in (*tokens, of_job)]
    assert found == [is_in, is_in, True, True]


def test_a_changed_password_ends_api_tokens_only_if_asked(site, ada):
    token, _ = site.call(accounts.create_api_token, ada, "mine", ["read"], None)
    change(site, ada, PASSWORD, NEW)
    assert site.read(accounts.principal_of_token, token) is not None
    change(site, ada, NEW, PASSWORD, revokes_tokens=True)
    assert site.read(accounts.principal_of_token, token) is None


def test_one_link_used_ends_the_others(site, ada):
    first, _ = request(site, "ada@example.org")
    second, _ = request(site, "ada@example.org")
    site.call(accounts.reset_password, second, NEW)
    with pytest.raises(NotFound):
        site.call(accounts.reset_password, first, PASSWORD)


def test_a_weak_password_leaves_the_link_valid(site, ada):
    token, _ = request(site, "ada@example.org")
    with pytest.raises(InvalidInput):
        site.call(accounts.reset_password, token, "password")
    site.call(accounts.reset_password, token, NEW)


def test_a_link_is_valid_for_its_time_and_not_a_millisecond_longer(site, ada):
    token, _ = request(site, "ada@example.org")
    site.advance(site.settings.password_reset_s - 5)
    assert site.read(accounts.find_reset, token) is not None
    site.advance(5)
    assert site.read(accounts.find_reset, token) is None
    with pytest.raises(NotFound):
        site.call(accounts.reset_password, token, NEW)


def test_nobody_learns_who_has_an_account_and_nobody_is_flooded(site, ada):
    for email in ("ada@example.org", "unknown@example.org"):
        answers = [request(site, email) for _ in range(5)]
        assert all(answer is None for answer in answers) == (email == "unknown@example.org")
        with pytest.raises(TooManyRequests):
            request(site, email)
    for number in range(10):
        request(site, f"user{number}@example.org")
    with pytest.raises(TooManyRequests):
        request(site, "user11@example.org")
    assert request(site, "user12@example.org", address="198.51.100.1") is None


def test_a_disabled_user_gets_no_link(site, ada):
    site.call(accounts.disable_user, operator(site), ada.user_id)
    assert request(site, "ada@example.org") is None
    with pytest.raises(NotAllowed, match="disabled; enable it first"):
        site.call(accounts.make_reset, operator(site), ada.user_id, site.settings)


@pytest.mark.parametrize("token", ["", "vxr_", "vxr_" + "A" * 43, "no token", "\ud800"])
def test_other_texts_are_no_links(site, token):
    assert site.read(accounts.find_reset, token) is None


# Sessions


def test_a_session_ends_when_nobody_uses_it(site, ada):
    cookie = site.open(ada)
    site.advance(site.settings.session_idle_s - 10)
    assert site.who(cookie) == ada  # and this counts as a use
    site.advance(site.settings.session_idle_s - 10)
    assert site.who(cookie) == ada
    site.advance(site.settings.session_idle_s)
    assert site.who(cookie) is None


def test_a_session_ends_after_its_longest_time_however_busy(site, ada):
    site.settings = site.settings.model_copy(update={"session_idle_s": 100.0, "session_max_s": 250.0})
    cookie = site.open(ada)
    for _ in range(3):
        site.advance(80)
        assert site.who(cookie) == ada
    site.advance(80)
    assert site.who(cookie) is None
    assert site.read(accounts.list_sessions, ada, settings=site.settings) == ()


def test_a_use_is_noted_at_most_once_a_minute(site, ada):
    cookie = site.open(ada)

    def seen_ms():
        (session,) = site.read(accounts.list_sessions, ada, settings=site.settings)
        return session.seen_ms

    first = seen_ms()
    site.who(cookie)
    site.call(accounts.touch_session, cookie)
    assert seen_ms() == first
    site.advance(61)
    site.who(cookie)
    assert seen_ms() > first - 61_000


def test_looking_somebody_up_writes_nothing(site, ada):
    cookie = site.open(ada)
    site.advance(3600)
    assert site.read(accounts.principal_of_session, cookie, site.settings) == ada


def test_logging_out_ends_one_session_and_can_be_repeated(site, ada):
    one, other = site.open(ada), site.open(ada)
    for _ in range(2):
        site.call(accounts.log_out, one)
        assert site.who(one) is None
    assert site.who(other) == ada


def test_a_user_sees_and_ends_their_own_sessions_only(site, ada):
    mine, other = site.open(ada), site.open(ada)
    bob = site.member("Bob")
    his = site.open(bob)
    listed = site.read(accounts.list_sessions, ada, cookie=mine, settings=site.settings)
    assert sorted((item.address, item.agent, item.is_current) for item in listed) == [
        ("192.0.2.7", "Firefox", False),
        ("192.0.2.7", "Firefox", True),
    ]
    (of_bob,) = site.read(accounts.list_sessions, bob, settings=site.settings)
    with pytest.raises(NotFound):
        site.call(accounts.end_session, ada, of_bob.id)
    site.call(accounts.end_session, ada, next(item.id for item in listed if not item.is_current))
    assert (site.who(mine), site.who(other), site.who(his)) == (ada, None, bob)


def test_all_other_sessions_end_at_once(site, ada):
    mine, *others = [site.open(ada) for _ in range(4)]
    assert site.call(accounts.end_other_sessions, ada, mine) == 3
    assert site.call(accounts.end_other_sessions, ada, mine) == 0
    assert site.who(mine) == ada
    assert [site.who(cookie) for cookie in others] == [None] * 3


def test_the_session_used_longest_ago_gives_way_when_there_are_too_many(site, ada):
    first = site.open(ada)
    site.advance(10)
    second = site.open(ada)
    site.advance(10)
    for _ in range(49):
        site.open(ada)
    assert site.who(first) is None
    assert site.who(second) == ada


@pytest.mark.parametrize("cookie", ["", "vxs_", "vxs_" + "A" * 43, "\ud800", "vxs_\0"])
def test_other_cookies_are_nobodys(site, cookie):
    assert site.who(cookie) is None


def test_a_session_speaks_for_one_organization_at_a_time(site, ada):
    site.owner("chem")
    site.call(accounts.add_member, operator(site), ada.user_id, "admin", organization_id="chem")
    cookie = site.open(ada)
    assert (site.who(cookie).organization_id, site.who(cookie).role) == ("neuro", "member")
    site.call(accounts.switch_organization, site.who(cookie), cookie, "chem")
    assert (site.who(cookie).organization_id, site.who(cookie).role) == ("chem", "admin")
    assert site.who(site.open(ada)).organization_id == "chem"  # where they were last
    assert site.who(site.open(ada, organization_id="neuro")).organization_id == "neuro"
    memberships = site.read(accounts.list_memberships, ada.user_id)
    assert [(item.organization.id, item.role) for item in memberships] == [
        ("neuro", "member"),
        ("chem", "admin"),
    ]


def test_nobody_switches_to_an_organization_of_others_or_with_anothers_cookie(site, ada):
    site.owner("chem")
    cookie = site.open(ada)
    with pytest.raises(NotFound, match="you are in no organization 'chem'"):
        site.call(accounts.switch_organization, ada, cookie, "chem")
    bob = site.member("Bob")
    with pytest.raises(NotFound, match="this session has ended"):
        site.call(accounts.switch_organization, bob, cookie, "neuro")
    with pytest.raises(NotLetIn):
        site.open(ada, organization_id="chem")


# Throttle


def test_a_bucket_takes_its_tries_at_once_and_then_one_at_a_time(site):
    def try_once():
        site.call(accounts.throttle, "tests", limit=5, per_s=50)

    for _ in range(5):
        try_once()
    for _ in range(3):
        with pytest.raises(TooManyRequests) as refused:
            try_once()
        assert 5 < refused.value.retry_after_s <= 10
    site.advance(10)
    try_once()
    with pytest.raises(TooManyRequests):
        try_once()
    site.advance(1000)
    for _ in range(5):
        try_once()
    with pytest.raises(TooManyRequests):
        try_once()


# What has expired


def test_what_has_expired_is_removed_and_nothing_else(site, ada):
    cookie = site.open(ada)
    request(site, "ada@example.org")
    site.call(accounts.create_api_token, ada, "short", ["read"], 1)
    site.call(accounts.create_api_token, ada, "long", ["read"], None)
    site.call(accounts.invite, ada, "eve@example.org", "member", settings=site.settings)
    site.call(accounts.forget_expired, site.settings)
    assert site.who(cookie) == ada
    site.advance(20 * 86_400)
    site.call(accounts.forget_expired, site.settings)
    assert [token.name for token in site.read(accounts.list_api_tokens, ada)] == ["long", "short"]
    assert [item.is_expired for item in site.read(accounts.list_invitations, ada)] == [True]
    site.advance(30 * 86_400)
    site.call(accounts.forget_expired, site.settings)
    assert [token.name for token in site.read(accounts.list_api_tokens, ada)] == ["long"]
    assert site.read(accounts.list_invitations, ada) == ()
