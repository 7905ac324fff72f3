import base64
import hmac
import json
import sys
import time

import pytest
from joserfc import jwt
from joserfc.jwk import OctKey
from pydantic import SecretStr

from identity_provider import CLIENT_ID, CLIENT_SECRET, KEY, OTHER_KEY, running_provider
from voxelworks import accounts
from voxelworks.accounts import oidc
from voxelworks.db import SecretBox
from voxelworks.errors import InvalidInput, NotLetIn, ServerUnreachable
from voxelworks.settings import Settings
from voxelworks.testing.people import PASSWORD

BACK = "http://127.0.0.1:8440/login/oidc/callback"


@pytest.fixture
def provider(monkeypatch):
    monkeypatch.setattr(oidc, "_known", oidc._Known())
    with running_provider() as provider:
        yield provider


@pytest.fixture
def settings(provider, tmp_path):
    return Settings(
        home=tmp_path,
        oidc_issuer=provider.issuer,
        oidc_client_id=CLIENT_ID,
        oidc_client_secret=SecretStr(CLIENT_SECRET),
    )


@pytest.fixture
def box(settings):
    return SecretBox(settings.secret_key_file)


@pytest.fixture
def log_in(settings, box, provider):
    """Go through the whole log-in; `settings` may be others."""

    def run(settings=settings, **changes):
        begun = oidc.begin(settings, box, BACK)
        query = {**provider.visit(begun.address), **changes}
        return oidc.finish(settings, box, begun.ticket, query=query, redirect_uri=BACK)

    return run


def test_somebody_whom_the_provider_knows_is_identified(log_in, provider):
    identity = log_in()
    assert identity == oidc.Identity(provider.issuer, "4711", "ada@example.org", "Ada")
    assert identity.key == f"{provider.issuer} 4711"


def test_the_provider_is_asked_once_for_its_description_and_keys(log_in, provider):
    for _ in range(3):
        log_in()
    assert provider.asked.count("/.well-known/openid-configuration") == 1
    assert provider.asked.count("/keys") == 1
    assert provider.asked.count("/token") == 3


def test_new_keys_of_the_provider_are_fetched_when_they_are_used(log_in, provider):
    log_in()
    provider.keys, provider.signing_key = [KEY, OTHER_KEY], OTHER_KEY
    assert log_in().subject == "4711"
    assert provider.asked.count("/keys") == 2


def test_clients_without_secret_and_with_the_secret_in_the_form(log_in, provider, settings):
    provider.client_secret = None
    assert log_in(settings.model_copy(update={"oidc_client_secret": None})).subject == "4711"


def test_a_provider_that_wants_the_secret_in_the_form_gets_it_there(log_in, provider):
    provider.discovery["token_endpoint_auth_methods_supported"] = ["client_secret_post"]
    provider.is_basic = False
    assert log_in().subject == "4711"


@pytest.mark.parametrize("verified", [False, "false", None, 1, "yes"])
def test_an_address_that_the_provider_has_not_checked_does_not_count(log_in, provider, verified):
    provider.person["email_verified"] = verified
    assert log_in().email is None


def test_an_address_is_asked_for_where_the_statement_has_none(log_in, provider):
    del provider.person["email"], provider.person["email_verified"]
    provider.userinfo = {"sub": "4711", "email": "ada@example.org", "email_verified": True}
    assert log_in().email == "ada@example.org"
    provider.userinfo["sub"] = "somebody else"
    assert log_in().email is None


# What is refused


def _none(claims):
    return _joined({"alg": "none"}, claims, lambda text: b"")


def _with_public_key_as_secret(claims):
    # The old confusion: the public key, which everybody has, taken for a shared secret.
    secret = KEY.as_pem(private=False)
    header = {"alg": "HS256", "kid": "first"}
    return _joined(header, claims, lambda text: hmac.digest(secret, text, "sha256"))


def _joined(header, claims, sign):
    text = b".".join(_encoded(json.dumps(part).encode()) for part in (header, claims))
    return b".".join([text, _encoded(sign(text))]).decode()


def _encoded(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _signed_by_another(claims):
    return jwt.encode({"alg": "RS256", "kid": "first"}, claims, OTHER_KEY, algorithms=["RS256"])


def _of_unknown_key(claims):
    return jwt.encode({"alg": "RS256", "kid": "second"}, claims, OTHER_KEY, algorithms=["RS256"])


def _tampered(claims):
    header, _, signature = _signed(claims).split(".")
    return ".".join([header, _signed({**claims, "sub": "admin"}).split(".")[1], signature])


def _signed(claims):
    return jwt.encode({"alg": "RS256", "kid": "first"}, claims, KEY, algorithms=["RS256"])


@pytest.mark.parametrize(
    "sign",
    [
        _none, _with_public_key_as_secret, _signed_by_another, _of_unknown_key, _tampered,
        lambda claims: "", lambda claims: "a.b.c", lambda claims: "x" * 5000,
    ],
)  # fmt: skip
def test_a_statement_with_a_wrong_signature_lets_nobody_in(log_in, provider, sign):
    provider.sign = sign
    with pytest.raises(NotLetIn, match="the signature of the identity provider's statement is wrong"):
        log_in()


@pytest.mark.parametrize(
    "change",
    [
        {"nonce": "another"}, {"nonce": None}, {"iss": "https://evil.example"}, {"iss": None},
        {"aud": "another program"}, {"aud": ["another", "program"]}, {"aud": None},
        {"aud": [CLIENT_ID, "another"]}, {"aud": [CLIENT_ID, "another"], "azp": "another"}, {"azp": "another"},
        {"exp": time.time() - 3600}, {"exp": None}, {"iat": time.time() + 3600}, {"iat": None},
        {"sub": None}, {"sub": ""}, {"sub": 4711}, {"sub": "x" * 256},
    ],
    ids="-".join,  # not the times: they differ between the processes of one run
)  # fmt: skip
def test_a_statement_for_another_log_in_program_or_time_lets_nobody_in(log_in, provider, change):
    def changed(claims):
        merged = {**claims, **change}
        return {key: value for key, value in merged.items() if value is not None}

    provider.change_claims = changed
    with pytest.raises(NotLetIn):
        log_in()


def test_a_statement_for_several_programs_that_was_given_to_us_is_fine(log_in, provider):
    provider.change_claims = lambda claims: {**claims, "aud": [CLIENT_ID, "another"], "azp": CLIENT_ID}
    assert log_in().subject == "4711"


@pytest.mark.parametrize(
    "change", [{"state": "another"}, {"state": ""}, {"state": "\ud800"}, {"iss": "https://evil.example"}]
)
def test_an_answer_to_another_log_in_is_refused_before_its_code_is_used(log_in, provider, change):
    with pytest.raises(NotLetIn):
        log_in(**change)
    assert "/token" not in provider.asked


def test_the_issuer_is_required_in_the_answer_where_the_provider_promises_it(log_in, provider):
    provider.discovery["authorization_response_iss_parameter_supported"] = True
    with pytest.raises(NotLetIn, match="another identity provider"):
        log_in()
    assert log_in(iss=provider.issuer).subject == "4711"


def test_a_ticket_of_another_browser_or_none_is_refused(settings, box, provider):
    mine, theirs = oidc.begin(settings, box, BACK), oidc.begin(settings, box, BACK)
    query = provider.visit(mine.address)
    for ticket in (theirs.ticket, "", "forged", box.seal("{}")):
        with pytest.raises(NotLetIn, match="was not begun in this browser"):
            oidc.finish(settings, box, ticket, query=query, redirect_uri=BACK)


def test_a_ticket_shows_nothing_of_what_it_holds(settings, box):
    begun = oidc.begin(settings, box, BACK)
    assert "verifier" not in begun.ticket
    assert begun.ticket not in repr(begun)


def test_a_log_in_that_takes_too_long_is_begun_again(settings, box, provider, monkeypatch):
    begun = oidc.begin(settings, box, BACK)
    query = provider.visit(begun.address)
    real = time.time
    monkeypatch.setattr(oidc.time, "time", lambda: real() + oidc.TICKET_S)
    with pytest.raises(NotLetIn, match="took longer than 10 minutes"):
        oidc.finish(settings, box, begun.ticket, query=query, redirect_uri=BACK)


def test_a_code_is_good_for_one_log_in(settings, box, provider):
    begun = oidc.begin(settings, box, BACK)
    query = provider.visit(begun.address)
    oidc.finish(settings, box, begun.ticket, query=query, redirect_uri=BACK)
    with pytest.raises(NotLetIn, match="refused this log-in"):
        oidc.finish(settings, box, begun.ticket, query=query, redirect_uri=BACK)


def test_a_code_of_another_log_in_does_not_fit_the_verifier(settings, box, provider):
    mine, theirs = oidc.begin(settings, box, BACK), oidc.begin(settings, box, BACK)
    query = {**provider.visit(mine.address), "code": provider.visit(theirs.address)["code"]}
    with pytest.raises(NotLetIn, match="refused this log-in"):
        oidc.finish(settings, box, mine.ticket, query=query, redirect_uri=BACK)


def test_who_does_not_consent_is_told_so(settings, box, provider):
    begun = oidc.begin(settings, box, BACK)
    query = provider.visit(begun.address, consents=False)
    with pytest.raises(NotLetIn, match="let nobody in \\('access_denied'\\)"):
        oidc.finish(settings, box, begun.ticket, query=query, redirect_uri=BACK)


def test_a_wrong_secret_is_refused(log_in, settings):
    with pytest.raises(NotLetIn):
        log_in(settings.model_copy(update={"oidc_client_secret": SecretStr("wrong")}))


# Providers that are none


@pytest.mark.parametrize(
    "answer",
    [
        (200, {}), (200, b"not json"), (200, b"[1]"), (500, {}), (302, {}), (404, {}), (200, b" " * (2**20 + 1)),
    ],
    ids=lambda answer: str(answer)[:20],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/.well-known/openid-configuration", "/keys", "/token"])
def test_an_answer_that_cannot_be_used_lets_nobody_in(log_in, provider, path, answer):
    provider.answers[path] = answer
    with pytest.raises((ServerUnreachable, NotLetIn)):
        log_in()
    assert "/elsewhere" not in provider.asked


@pytest.mark.parametrize("keys", [[], [OctKey.generate_key(256)]])
def test_a_provider_without_public_keys_is_no_provider(log_in, provider, keys, monkeypatch):
    shown = [{**key.as_dict(), "kid": "first"} for key in keys]
    provider.answers["/keys"] = (200, {"keys": [*shown, None, 7]})
    with pytest.raises(ServerUnreachable, match="publishes no keys that can be used"):
        log_in()


def test_a_provider_that_says_it_is_another_is_refused(log_in, provider):
    provider.discovery["issuer"] = "https://evil.example"
    with pytest.raises(ServerUnreachable, match=r"says that it is 'https://evil\.example'"):
        log_in()


@pytest.mark.parametrize(
    "name", ["authorization_endpoint", "token_endpoint", "jwks_uri", "userinfo_endpoint"]
)
def test_a_provider_is_never_spoken_to_in_clear(log_in, provider, name):
    provider.discovery[name] = "http://provider.example/x"
    with pytest.raises(InvalidInput, match="must begin with https://"):
        log_in()


def test_an_issuer_without_encryption_is_refused_before_it_is_asked(settings, box):
    with pytest.raises(InvalidInput, match="must begin with https://"):
        oidc.begin(settings.model_copy(update={"oidc_issuer": "http://provider.example"}), box, BACK)


def test_a_provider_that_does_not_answer_is_named(settings, box):
    with pytest.raises(ServerUnreachable, match=r"the identity provider 127\.0\.0\.1 does not answer"):
        oidc.begin(settings.model_copy(update={"oidc_issuer": "http://127.0.0.1:1"}), box, BACK)


def test_without_a_provider_there_is_no_such_log_in(box):
    assert not oidc.is_configured(Settings())
    with pytest.raises(InvalidInput, match="no identity provider is set"):
        oidc.begin(Settings(), box, BACK)


def test_without_the_packages_it_says_which_to_install(log_in, monkeypatch):
    monkeypatch.setitem(sys.modules, "joserfc.jwk", None)
    with pytest.raises(InvalidInput, match=r"pip install 'voxelworks\[oidc\]'"):
        log_in()


# Whom an identity lets in


def identity(subject="4711", email="ada@example.org", name="Ada"):
    return oidc.Identity("https://provider.example", subject, email, name)


def enter(site, who):
    cookie = accounts.log_in_with(site.database, who, address="192.0.2.7", agent="Firefox")
    return site.who(cookie)


def refused(site, who):
    with pytest.raises(NotLetIn, match="ask an admin for an invitation to your address"):
        accounts.log_in_with(site.database, who, address="192.0.2.7", agent="Firefox")
    assert site.actions()[-1] == "login.refused"
    return True


def test_a_checked_address_links_an_identity_for_ever(site):
    ada = site.member("Ada")
    assert enter(site, identity(email="ADA@example.org")) == ada
    assert enter(site, identity(email="new-address@example.org")) == ada
    assert enter(site, identity(email=None)) == ada
    assert (
        site.actions("neuro").count("identity.linked") == 0
    )  # a matter of the person, not of an organization
    assert site.actions().count("identity.linked") == 1


def test_who_made_an_account_at_an_address_of_somebody_else_is_out_once_that_one_comes(site):
    owner = site.owner("neuro")
    invitation, _ = site.call(accounts.invite, owner, "eve@example.org", "admin", settings=site.settings)
    made = site.call(accounts.accept_invitation, invitation, name="Mallory", password=PASSWORD)
    cookie = site.log_in("eve@example.org", PASSWORD)
    token, _ = site.call(accounts.create_api_token, site.who(cookie), "kept", ["read"], None)
    site.call(accounts.invite, site.who(cookie), "mallory@example.org", "admin", settings=site.settings)
    eve = enter(site, identity(email="eve@example.org"))
    assert (eve.user_id, site.who(cookie), site.by_token(token)) == (made.id, None, None)
    assert not site.read(accounts.find_user, made.id).has_password
    assert site.read(accounts.list_invitations, owner) == ()
    with pytest.raises(NotLetIn):
        site.log_in("eve@example.org", PASSWORD)


def test_an_address_that_was_not_checked_links_nothing(site):
    site.member("Ada")
    assert refused(site, identity(email=None))


def test_a_second_identity_does_not_take_over_an_account(site):
    site.member("Ada")
    enter(site, identity())
    assert refused(site, identity(subject="eve", email="ada@example.org"))


def test_an_unknown_identity_is_refused_until_it_is_invited(site):
    assert refused(site, identity(email="eve@example.org"))
    owner = site.owner("neuro")
    site.call(accounts.invite, owner, "eve@example.org", "dataset_manager", settings=site.settings)
    eve = enter(site, identity(email="Eve@example.org", name="Eve\r\nBcc: x" + "y" * 200))
    assert (eve.organization_id, eve.role, eve.email) == ("neuro", "dataset_manager", "eve@example.org")
    assert eve.name.isprintable()
    assert not site.read(accounts.find_user, eve.user_id).has_password
    assert site.read(accounts.list_invitations, owner) == ()
    assert enter(site, identity(email=None)) == eve


def test_an_expired_invitation_lets_nobody_in(site):
    owner = site.owner("neuro")
    site.call(accounts.invite, owner, "eve@example.org", "member", settings=site.settings)
    site.advance(site.settings.invitation_s)
    assert refused(site, identity(email="eve@example.org"))


def test_a_disabled_user_is_refused_and_stays_unlinked(site):
    ada = site.member("Ada")
    operator = site.call(accounts.local_principal)
    site.call(accounts.disable_user, operator, ada.user_id)
    assert refused(site, identity())
    site.call(accounts.enable_user, operator, ada.user_id)
    assert enter(site, identity(subject="another")) == ada


@pytest.mark.parametrize("email", ["", "no address", "ädä@example.org", "a@b\nc"])
def test_an_address_that_is_none_counts_as_none(site, email):
    assert refused(site, identity(email=email))
