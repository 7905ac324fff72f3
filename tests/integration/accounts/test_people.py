from concurrent.futures import ThreadPoolExecutor

import pytest

from voxelworks import accounts
from voxelworks.errors import IllegalTransition, InvalidInput, NotFound, NotLetIn, TargetExists
from voxelworks.protocol.people import Principal

GOOD = "correct horse battery staple"
SET_UP = {"name": "Ada", "email": "Ada@example.org", "password": GOOD, "organization_name": "Neuro lab"}


def operator(site):
    return site.call(accounts.local_principal)


def test_a_fresh_instance_has_one_user_who_owns_one_organization(site):
    assert operator(site) == Principal(
        user_id="local", organization_id="local", role="owner", name="Local operator", is_operator=True,
        entrance="start_up",
    )  # fmt: skip
    (organization,) = site.read(accounts.list_organizations)
    assert (organization.id, organization.name, organization.zone) == ("local", "Local", "UTC")


def test_preparing_again_changes_nothing(site):
    site.call(accounts.rename_user, operator(site), "Ada")
    site.call(accounts.prepare)
    assert operator(site).name == "Ada"
    assert len(site.read(accounts.list_users)) == 1


def test_servers_that_start_together_prepare_once(database):
    def prepare(_):
        with database.session() as session:
            accounts.prepare(session)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(prepare, range(8)))
    with database.read_session() as session:
        assert [user.id for user in accounts.list_users(session)] == ["local"]
        assert accounts.owner_of(session, "local").id == "local"


def test_an_instance_that_never_started_has_no_local_user(database):
    with database.session() as session, pytest.raises(NotLetIn, match="no local user yet"):
        accounts.local_principal(session)


def test_setting_up_gives_the_local_user_an_address_and_a_password(site):
    assert not site.read(accounts.is_set_up)
    user = site.call(accounts.set_up, **SET_UP)
    assert (user.id, user.name, user.email, user.has_password) == ("local", "Ada", "ada@example.org", True)
    assert site.read(accounts.is_set_up)
    assert site.read(accounts.find_organization, "local").name == "Neuro lab"
    assert site.who(site.log_in("ada@example.org", GOOD)).name == "Ada"
    assert site.actions() == ["instance.set_up", "login"]


def test_an_instance_is_set_up_once(site):
    site.call(accounts.set_up, **SET_UP)
    with pytest.raises(IllegalTransition, match="set up already"):
        site.call(accounts.set_up, **{**SET_UP, "email": "eve@example.org"})
    assert site.read(accounts.find_user, "local").email == "ada@example.org"


@pytest.mark.parametrize("wrong", [{"password": "password"}, {"email": "ada"}, {"name": " "}])
def test_setting_up_with_bad_input_changes_nothing(site, wrong):
    with pytest.raises(InvalidInput):
        site.call(accounts.set_up, **{**SET_UP, **wrong})
    assert not site.read(accounts.is_set_up)
    assert site.read(accounts.find_user, "local").email is None


def test_a_command_on_the_machine_speaks_for_any_organization(site):
    site.owner("neuro")
    program = site.call(accounts.local_principal, organization_id="neuro", entrance="program")
    assert (program.organization_id, program.role, program.entrance) == ("neuro", "owner", "program")
    with pytest.raises(NotFound, match="no organization 'elsewhere'"):
        site.call(accounts.local_principal, organization_id="elsewhere", entrance="program")
    with pytest.raises(NotLetIn):  # the start-up token opens what its user is a member of
        site.call(accounts.local_principal, organization_id="neuro")


def test_people_are_found_by_id_and_address(site):
    ada, bob = site.member("Ada"), site.member("Bob")
    found = site.read(accounts.find_users, {ada.user_id, bob.user_id, "nobody"})
    assert {key: user.name for key, user in found.items()} == {ada.user_id: "Ada", bob.user_id: "Bob"}
    assert site.read(accounts.find_users, ()) == {}
    assert site.read(accounts.find_user_by_email, " ADA@example.org").id == ada.user_id
    assert site.read(accounts.find_user_by_email, "eve@example.org") is None
    with pytest.raises(NotFound, match="no user 'nobody'"):
        site.read(accounts.find_user, "nobody")


def test_two_users_never_share_an_address(site):
    site.member("Ada")
    with pytest.raises(TargetExists, match=r"somebody has the address ada@example\.org"):
        site.call(accounts.create_user, operator(site), email="ADA@example.org", name="Eve")


def test_a_principal_is_what_somebody_is_now(site):
    ada = site.member("Ada", role="admin")
    assert site.read(accounts.find_principal, ada.user_id, "neuro") == ada
    assert site.read(accounts.find_principal, ada.user_id, "local") is None
    site.call(accounts.disable_user, operator(site), ada.user_id)
    assert site.read(accounts.find_principal, ada.user_id, "neuro") is None


def test_a_disabled_user_is_out_at_once_and_in_again_only_anew(site):
    ada = site.member("Ada", role="admin")
    cookie = site.open(ada)
    token, _ = site.call(accounts.create_api_token, ada, "script", ["read"], None)
    invitation, _ = site.call(accounts.invite, ada, "eve@example.org", "admin", settings=site.settings)
    reset = site.call(accounts.make_reset, operator(site), ada.user_id, site.settings)
    assert site.who(cookie)
    assert site.by_token(token)
    assert site.call(accounts.disable_user, operator(site), ada.user_id).is_disabled
    for _ in range(2):
        assert site.who(cookie) is None
        assert site.by_token(token) is None
        assert site.read(accounts.find_invitation, invitation) is None
        assert site.read(accounts.find_reset, reset) is None
        site.call(accounts.enable_user, operator(site), ada.user_id)  # and what had ended stays ended
    with pytest.raises(NotFound):
        site.call(accounts.reset_password, reset, GOOD)


def test_a_disabled_user_gets_no_session(site):
    ada = site.member("Ada")
    site.call(accounts.disable_user, operator(site), ada.user_id)
    with pytest.raises(NotLetIn, match="disabled"):
        site.open(ada)


def test_operators_are_named_and_dismissed_but_one_stays(site):
    ada = site.member("Ada")
    with pytest.raises(IllegalTransition, match="nobody else runs this instance"):
        site.call(accounts.set_operator, operator(site), "local", False)
    site.call(accounts.set_operator, operator(site), ada.user_id, True)
    site.call(accounts.set_operator, operator(site), "local", False)
    assert not site.read(accounts.find_user, "local").is_operator
    with pytest.raises(IllegalTransition, match="nobody else runs this instance"):
        site.call(accounts.set_operator, ada, ada.user_id, False)
    assert site.actions()[-2:] == ["operator.named", "operator.dismissed"]


def test_nobody_disables_themselves_the_local_user_or_the_last_operator(site):
    ada, bob = site.member("Ada"), site.member("Bob")
    site.call(accounts.set_operator, operator(site), ada.user_id, True)
    with pytest.raises(IllegalTransition, match="cannot disable yourself"):
        site.call(accounts.disable_user, ada, ada.user_id)
    with pytest.raises(IllegalTransition, match="cannot disable the local user"):
        site.call(accounts.disable_user, ada, "local")
    site.call(accounts.set_operator, ada, "local", False)
    with pytest.raises(IllegalTransition, match="nobody else runs this instance"):
        site.call(accounts.disable_user, bob, ada.user_id)


def test_two_operators_who_dismiss_each_other_at_once_leave_one(site):
    people = [site.member(name) for name in ("Ada", "Bob")]
    for one in people:
        site.call(accounts.set_operator, operator(site), one.user_id, True)
    site.call(accounts.set_operator, operator(site), "local", False)

    def dismiss(pair):
        by, other = pair
        try:
            site.call(accounts.set_operator, by, other.user_id, False)
        except IllegalTransition:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(dismiss, [people, people[::-1]])) == [False, True]
    assert sum(user.is_operator for user in site.read(accounts.list_users)) == 1


def test_a_rename_is_noted(site):
    ada = site.member("Ada")
    assert site.call(accounts.rename_user, ada, "Ada  King").name == "Ada King"
    (entry, *_) = site.read(accounts.list_audit).entries
    assert (entry.action, entry.detail) == ("user.renamed", {"old": "Ada", "new": "Ada King"})
