from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from voxelworks import accounts
from voxelworks.errors import (
    IllegalTransition,
    InvalidInput,
    NotAllowed,
    NotFound,
    TargetExists,
    VoxelworksError,
)

GOOD = "correct horse battery staple"


@pytest.fixture
def owner(site):
    return site.owner("neuro")


def operator(site):
    return site.call(accounts.local_principal)


def roles(site, organization_id="neuro"):
    return {item.user.name: item.role for item in site.read(accounts.list_members, organization_id)}


def invite(site, by, email, role="member"):
    return site.call(accounts.invite, by, email, role, settings=site.settings)


def accept(site, token, name="Eve", password=GOOD):
    return site.call(accounts.accept_invitation, token, name=name, password=password)


def at_once(*actions):
    def run(action):
        try:
            return action()
        except VoxelworksError as error:
            return error

    with ThreadPoolExecutor(len(actions)) as pool:
        return list(pool.map(run, actions))


# Organizations


def test_an_organization_begins_with_its_owner(site):
    ada = site.member("Ada", "chem")
    made = site.call(
        accounts.create_organization, operator(site), organization_id="neuro", name=" Neuro  lab ",
        zone="Europe/Berlin", owner_id=ada.user_id,
    )  # fmt: skip
    assert (made.id, made.name, made.zone, made.storage_bytes_max) == (
        "neuro",
        "Neuro lab",
        "Europe/Berlin",
        None,
    )
    assert roles(site) == {"Ada": "owner"}
    assert site.read(accounts.owner_of, "neuro").id == ada.user_id
    owners = site.read(accounts.owners_of, ["neuro", "local", "nowhere"])
    assert {organization_id: owner.id for organization_id, owner in owners.items()} == {
        "neuro": ada.user_id, "local": "local",
    }  # fmt: skip
    assert site.actions("neuro") == ["organization.created"]


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"organization_id": "local"}, TargetExists),
        ({"organization_id": "../etc"}, InvalidInput),
        ({"name": ""}, InvalidInput),
        ({"zone": "Mars/Olympus"}, InvalidInput),
        ({"owner_id": "nobody"}, NotFound),
    ],
)
def test_bad_input_makes_no_organization(site, wrong, error):
    with pytest.raises(error):
        site.call(
            accounts.create_organization, operator(site), **{"organization_id": "neuro", "name": "N", **wrong}
        )
    assert [item.id for item in site.read(accounts.list_organizations)] == ["local"]


def test_of_two_organizations_of_one_name_one_is_made(site):
    def make():
        return site.call(accounts.create_organization, operator(site), organization_id="neuro", name="N")

    outcomes = at_once(make, make, make)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == [
        "OrganizationView", "TargetExists", "TargetExists",
    ]  # fmt: skip


def test_name_zone_and_storage_are_changed_and_noted(site, owner):
    site.call(accounts.rename_organization, owner, "New name")
    site.call(accounts.set_zone, owner, "Pacific/Auckland")
    site.call(accounts.set_storage_max, operator(site), "neuro", 10**12)
    view = site.read(accounts.find_organization, "neuro")
    assert (view.name, view.zone, view.storage_bytes_max) == ("New name", "Pacific/Auckland", 10**12)
    assert site.actions("neuro")[-3:] == [
        "organization.renamed", "organization.zone_set", "organization.storage_set",
    ]  # fmt: skip
    with pytest.raises(InvalidInput):
        site.call(accounts.set_storage_max, operator(site), "neuro", -1)
    with pytest.raises(NotFound):
        site.read(accounts.find_organization, "elsewhere")


def test_organizations_are_listed_for_everybody_or_for_one(site, owner):
    assert [item.id for item in site.read(accounts.list_organizations)] == ["local", "neuro"]
    assert [item.id for item in site.read(accounts.list_organizations, user_id=owner.user_id)] == ["neuro"]


# One owner


def test_ownership_is_handed_over(site, owner):
    ada = site.member("Ada")
    site.call(accounts.transfer_ownership, owner, ada.user_id)
    assert roles(site) == {"Ada": "owner", "Owner of neuro": "admin"}
    assert site.read(accounts.find_principal, ada.user_id, "neuro").role == "owner"


def test_handing_it_to_the_owner_changes_nothing(site, owner):
    site.call(accounts.transfer_ownership, owner, owner.user_id)
    assert roles(site) == {"Owner of neuro": "owner"}


def test_ownership_is_not_handed_to_strangers_or_disabled_people(site, owner):
    stranger, ada = site.member("Stranger", "chem"), site.member("Ada")
    with pytest.raises(NotFound):
        site.call(accounts.transfer_ownership, owner, stranger.user_id)
    site.call(accounts.disable_user, operator(site), ada.user_id)
    with pytest.raises(IllegalTransition, match="disabled; choose another owner"):
        site.call(accounts.transfer_ownership, owner, ada.user_id)
    assert roles(site)["Owner of neuro"] == "owner"


def test_operators_name_another_owner_where_the_owner_is_shut_out(site, owner):
    ada, stranger = site.member("Ada"), site.member("Stranger", "chem")
    site.call(accounts.disable_user, operator(site), owner.user_id)
    site.call(accounts.name_owner, operator(site), "neuro", ada.user_id)
    assert roles(site) == {"Ada": "owner", "Owner of neuro": "admin"}
    site.call(accounts.name_owner, operator(site), "neuro", stranger.user_id)
    assert roles(site) == {"Ada": "admin", "Owner of neuro": "admin", "Stranger": "owner"}
    assert site.actions("neuro")[-3:] == [
        "organization.owner_changed", "member.added", "organization.owner_changed",
    ]  # fmt: skip
    with pytest.raises(IllegalTransition, match="disabled; choose another owner"):
        site.call(accounts.name_owner, operator(site), "neuro", owner.user_id)


@pytest.mark.parametrize("action", ["change_role", "remove_member"])
def test_the_owner_is_neither_removed_nor_given_another_role(site, owner, action):
    arguments = ("member",) if action == "change_role" else ()
    with pytest.raises(IllegalTransition, match="transfer the ownership first"):
        site.call(getattr(accounts, action), owner, owner.user_id, *arguments)
    assert roles(site) == {"Owner of neuro": "owner"}


def test_nobody_is_made_a_second_owner(site, owner):
    ada = site.member("Ada")
    for act in (
        lambda: site.call(accounts.change_role, owner, ada.user_id, "owner"),
        lambda: invite(site, owner, "eve@example.org", "owner"),
        lambda: site.member("Bob", role="owner"),
        lambda: site.call(accounts.change_role, owner, ada.user_id, "king"),
    ):
        with pytest.raises(InvalidInput, match="is no role that can be given"):
            act()


def test_the_database_itself_takes_no_second_owner(site, owner):
    site.member("Ada")
    with pytest.raises(IntegrityError), site.database.session() as session:
        session.execute(text("UPDATE memberships SET role = 'owner' WHERE organization_id = 'neuro'"))


def test_ownership_handed_to_two_at_once_ends_with_one_owner(site, owner):
    people = [site.member(name) for name in ("Ada", "Bob", "Cem")]
    for _ in range(5):
        at_once(
            *[lambda who=who: site.call(accounts.transfer_ownership, owner, who.user_id) for who in people]
        )
        assert list(roles(site).values()).count("owner") == 1


def test_an_heir_who_leaves_at_once_leaves_an_owner_behind(site, owner):
    for number in range(5):
        heir = site.member(f"Heir{number}")
        program = site.call(accounts.local_principal, organization_id="neuro", entrance="program")
        at_once(
            partial(site.call, accounts.transfer_ownership, program, heir.user_id),
            partial(site.call, accounts.remove_member, heir, heir.user_id),
        )
        assert list(roles(site).values()).count("owner") == 1


# Members


def test_roles_change_and_are_noted(site, owner):
    ada = site.member("Ada")
    assert site.call(accounts.change_role, owner, ada.user_id, "dataset_manager").role == "dataset_manager"
    site.call(accounts.change_role, owner, ada.user_id, "dataset_manager")  # changes and notes nothing
    assert site.actions("neuro")[-2:] == ["member.added", "member.role_changed"]


def test_nobody_steers_members_of_another_organization(site, owner):
    stranger = site.member("Stranger", "chem")
    for act in (
        lambda: site.call(accounts.change_role, owner, stranger.user_id, "admin"),
        lambda: site.call(accounts.remove_member, owner, stranger.user_id),
    ):
        with pytest.raises(NotFound, match="no member"):
            act()
    assert roles(site, "chem")["Stranger"] == "member"


def test_who_is_removed_has_no_rights_any_more_and_keeps_those_elsewhere(site, owner):
    ada = site.member("Ada", role="admin")
    site.member("Ada", "chem")
    here, elsewhere = site.open(ada, organization_id="neuro"), site.open(ada, organization_id="chem")
    token, _ = site.call(accounts.create_api_token, ada, "script", ["admin"], None)
    invitation, _ = invite(site, ada, "adas-other-address@example.org", "admin")
    site.call(accounts.remove_member, owner, ada.user_id)
    assert site.who(here) is None
    assert site.by_token(token) is None
    assert site.read(accounts.find_invitation, invitation) is None
    assert site.who(elsewhere).organization_id == "chem"
    site.call(accounts.add_member, operator(site), ada.user_id, "member", organization_id="neuro")
    assert site.by_token(token) is None  # who comes back begins anew
    assert site.who(here) is None


def test_an_admin_who_becomes_a_member_leaves_no_letters_behind(site, owner):
    ada = site.member("Ada", role="admin")
    invitation, _ = invite(site, ada, "eve@example.org", "admin")
    kept, _ = invite(site, owner, "bob@example.org")
    site.call(accounts.change_role, owner, ada.user_id, "member")
    assert site.read(accounts.find_invitation, invitation) is None
    assert site.read(accounts.find_invitation, kept) is not None


def test_members_leave_by_themselves(site, owner):
    ada = site.member("Ada")
    site.call(accounts.remove_member, ada, ada.user_id)
    assert roles(site) == {"Owner of neuro": "owner"}
    with pytest.raises(NotFound):
        site.call(accounts.remove_member, ada, ada.user_id)


def test_mails_go_to_those_who_can_act(site, owner):
    ada, bob = site.member("Ada", role="admin"), site.member("Bob", role="admin")
    site.member("Cem")
    site.call(accounts.disable_user, operator(site), bob.user_id)
    found = site.read(accounts.members_with_role, "neuro", "owner", "admin")
    assert {user.id for user in found} == {owner.user_id, ada.user_id}


# Invitations


def test_an_invitation_makes_a_new_account_a_member(site, owner):
    token, view = invite(site, owner, "Eve@example.org", "dataset_manager")
    assert token.startswith("vxi_")
    assert (view.organization_name, view.email, view.role) == ("Neuro", "eve@example.org", "dataset_manager")
    assert (view.invited_by, view.is_expired, view.is_known) == ("Owner of neuro", False, False)
    assert site.read(accounts.find_invitation, token) == view
    eve = accept(site, token)
    assert (eve.name, eve.email, eve.is_operator) == ("Eve", "eve@example.org", False)
    assert roles(site)["Eve"] == "dataset_manager"
    assert site.who(site.log_in("eve@example.org", GOOD)).user_id == eve.id
    assert site.read(accounts.list_invitations, owner) == ()


def test_an_invitation_is_accepted_once(site, owner):
    token, _ = invite(site, owner, "eve@example.org")
    accept(site, token)
    with pytest.raises(NotFound, match="not valid any more"):
        accept(site, token, name="Mallory")


def test_of_two_who_accept_at_once_one_joins(site, owner):
    token, _ = invite(site, owner, "eve@example.org")
    outcomes = at_once(lambda: accept(site, token, "Eve"), lambda: accept(site, token, "Mallory"))
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NotFound", "UserView"]
    assert len(roles(site)) == 2


def test_two_invitations_of_one_person_accepted_at_once_make_one_account(site, owner):
    tokens = [invite(site, by, "eve@example.org")[0] for by in (owner, site.owner("chem"))]
    outcomes = at_once(*[lambda token=token: accept(site, token) for token in tokens])
    accounts_made = [user for user in site.read(accounts.list_users) if user.email == "eve@example.org"]
    assert len(accounts_made) == 1
    for token, outcome in zip(tokens, outcomes, strict=True):
        if isinstance(outcome, TargetExists):
            accept(site, token)  # as its sentence says: who has an account now joins with it
    assert len(site.read(accounts.list_memberships, accounts_made[0].id)) == 2


def test_who_has_an_account_joins_with_it_and_keeps_name_and_password(site, owner):
    ada = site.member("Ada", "chem")
    token, view = invite(site, owner, "ada@example.org")
    assert view.is_known
    accept(site, token, name="Not Ada", password="a password of mallory")
    assert roles(site)["Ada"] == "member"
    assert not site.read(accounts.find_user, ada.user_id).has_password


@pytest.mark.parametrize("missing", [{"name": None}, {"password": None}, {"password": "short"}, {"name": ""}])
def test_a_new_account_needs_name_and_password_and_the_invitation_stays(site, owner, missing):
    token, _ = invite(site, owner, "eve@example.org")
    with pytest.raises(InvalidInput):
        accept(site, token, **missing)
    accept(site, token)


def test_an_invitation_has_an_end(site, owner):
    token, _ = invite(site, owner, "eve@example.org")
    site.advance(site.settings.invitation_s - 5)
    assert site.read(accounts.find_invitation, token) is not None
    site.advance(5)
    assert site.read(accounts.find_invitation, token) is None
    with pytest.raises(NotFound):
        accept(site, token)


def test_a_new_invitation_takes_the_place_of_the_old_one(site, owner):
    old, _ = invite(site, owner, "eve@example.org", "admin")
    new, _ = invite(site, owner, "EVE@example.org", "member")
    assert site.read(accounts.find_invitation, old) is None
    accept(site, new)
    assert roles(site)["Eve"] == "member"


def test_an_invitation_is_revoked_by_its_organization_only(site, owner):
    token, view = invite(site, owner, "eve@example.org")
    with pytest.raises(NotFound):
        site.call(accounts.revoke_invitation, site.owner("chem"), view.id)
    assert site.read(accounts.find_invitation, token) == view
    site.call(accounts.revoke_invitation, owner, view.id)
    with pytest.raises(NotFound):
        accept(site, token)


def test_members_are_not_invited_again(site, owner):
    site.member("Ada")
    with pytest.raises(TargetExists, match=r"ada@example\.org is a member already"):
        invite(site, owner, "ada@example.org")


def test_a_disabled_user_joins_nothing(site, owner):
    ada = site.member("Ada", "chem")
    token, _ = invite(site, owner, "ada@example.org")
    site.call(accounts.disable_user, operator(site), ada.user_id)
    with pytest.raises(NotAllowed, match="disabled"):
        accept(site, token)


@pytest.mark.parametrize("token", ["", "vxi_", "vxi_" + "A" * 43, "\ud800"])
def test_other_texts_invite_nobody(site, token):
    assert site.read(accounts.find_invitation, token) is None
    with pytest.raises(NotFound):
        accept(site, token)
