import pytest

from voxelworks import accounts
from voxelworks.accounts import Shared
from voxelworks.errors import InvalidInput, NotAllowed, NotFound
from voxelworks.protocol.people import Principal

DAY = 86_400
DATASET = "0123456789abcdef"


@pytest.fixture
def ada(site):
    return site.member("Ada")


def make(site, who, name="for Fiji", days=7, dataset=DATASET):
    return site.call(accounts.create_share, who, Shared(dataset), name, days)


def opened(site, token):
    return accounts.enter_by_share(site.database, token)


def test_a_share_reads_one_dataset_for_its_maker(site, ada):
    token, view = make(site, ada)
    assert token.startswith("vxd_")
    reader, dataset = opened(site, token)
    assert dataset == Shared(DATASET)
    assert reader == Principal(
        user_id=ada.user_id, organization_id="neuro", role="member", name="Ada", email=ada.email,
        scopes=frozenset({"read"}), entrance="share",
    )  # fmt: skip
    assert (view.name, view.made_by, view.hint) == ("for Fiji", "Ada", token[:8])
    assert site.read(accounts.list_shares, ada, Shared(DATASET)) == (view,)


def test_the_secret_of_a_share_is_nowhere_in_the_database(site, ada):
    token, _ = make(site, ada)
    assert not any(token in value for value in site.everything())


def test_a_share_is_no_api_token_and_no_session(site, ada):
    token, _ = make(site, ada)
    assert site.by_token(token) is None
    assert site.who(token) is None


def test_a_share_ends_with_its_term_and_is_forgotten_later(site, ada):
    token, view = make(site, ada, days=1)
    assert view.expires_ms - view.created_ms == DAY * 1000
    site.advance(DAY - 5)
    assert opened(site, token)
    site.advance(5)
    assert opened(site, token) is None
    site.call(accounts.forget_expired, site.settings)
    [listed] = site.read(accounts.list_shares, ada, Shared(DATASET))
    assert listed.is_expired
    site.advance(30 * DAY)
    site.call(accounts.forget_expired, site.settings)
    assert site.read(accounts.list_shares, ada, Shared(DATASET)) == ()


def test_a_revoked_share_opens_nothing(site, ada):
    token, view = make(site, ada)
    site.call(accounts.revoke_share, ada, view)
    assert opened(site, token) is None
    with pytest.raises(NotFound, match="no share"):
        site.read(accounts.find_share, ada, Shared(DATASET), view.id)
    assert site.actions("neuro")[-2:] == ["share.created", "share.revoked"]


def test_a_share_ends_when_its_maker_leaves_or_is_disabled(site, ada):
    ben = site.member("Ben")
    (of_ada, _), (of_ben, _) = make(site, ada), make(site, ben)
    admin = site.call(accounts.local_principal, organization_id="neuro", entrance="program")
    site.call(accounts.remove_member, admin, ada.user_id)
    assert opened(site, of_ada) is None
    assert opened(site, of_ben)
    site.call(accounts.disable_user, site.call(accounts.local_principal), ben.user_id)
    assert opened(site, of_ben) is None


def test_shares_of_another_organization_are_not_found(site, ada):
    _, view = make(site, ada)
    stranger = site.owner("chem")
    assert site.read(accounts.list_shares, stranger, Shared(DATASET)) == ()
    with pytest.raises(NotFound):
        site.read(accounts.find_share, stranger, Shared(DATASET), view.id)


@pytest.mark.parametrize("entrance", ["token", "job"])
def test_a_token_bears_no_share(site, ada, entrance):
    by = Principal(user_id=ada.user_id, organization_id="neuro", role="member", name="Ada", entrance=entrance)
    with pytest.raises(NotAllowed, match="cannot share"):
        make(site, by)


@pytest.mark.parametrize(
    ("name", "days", "message"),
    [
        ("", 7, "name of the share is empty"),
        ("x", 0, "cannot live for 0 days"),
        ("x", 366, "choose 1 to 365"),
    ],
)
def test_what_cannot_be_a_share_is_refused(site, ada, name, days, message):
    with pytest.raises(InvalidInput, match=message):
        make(site, ada, name=name, days=days)
    assert site.read(accounts.list_shares, ada, Shared(DATASET)) == ()


def test_a_dataset_has_a_limited_number_of_shares(site, ada, monkeypatch):
    monkeypatch.setattr("voxelworks.accounts._shares.SHARES_MAX", 2)
    make(site, ada)
    make(site, ada)
    make(site, ada, dataset="another")
    with pytest.raises(InvalidInput, match="has 2 shares"):
        make(site, ada)


@pytest.mark.parametrize("token", ["", "vxd_", "vxd_" + "a" * 43, "vxt_x", "\udcff", "x" * 10_000])
def test_what_is_no_share_opens_nothing(site, token):
    assert opened(site, token) is None
