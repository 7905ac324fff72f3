import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxelworks.accounts import MATRIX, Action, is_allowed, require, who_may
from voxelworks.errors import NotAllowed
from voxelworks.protocol.people import ROLES, SCOPES, Principal

# Written down a second time, by hand: a change of the matrix has to be meant.
EVERYBODY = {
    "see_dataset", "make_dataset", "add_to_dataset", "make_annotation", "submit_job", "see_own_jobs", "steer_own_jobs",
    "see_members", "see_balance", "manage_tokens_own", "manage_account_own", "share_dataset", "see_model",
    "make_model",
}  # fmt: skip
MANAGERS = {
    "change_dataset", "delete_dataset", "publish_dataset", "delete_annotation", "submit_paid_job", "manage_model",
}  # fmt: skip
ADMINS = {
    "see_all_jobs", "steer_all_jobs", "manage_members", "manage_organization", "see_credit_activity", "manage_webhooks",
    "see_audit",
}  # fmt: skip
OWNER = {"manage_owner", "order_credits"}
OPERATORS = {"operate", "see_all_jobs", "steer_all_jobs"}
SCOPES_NEEDED = {
    "read": {
        "see_dataset", "see_model", "see_own_jobs", "see_all_jobs", "see_members", "see_balance", "see_credit_activity",
    },
    "submit": {
        "make_dataset", "add_to_dataset", "make_annotation", "submit_job", "submit_paid_job", "steer_own_jobs",
        "steer_all_jobs", "make_model",
    },
    "manage": {
        "manage_model", "change_dataset", "delete_dataset", "publish_dataset", "share_dataset", "delete_annotation",
    },
    "admin": {
        "manage_members", "manage_owner", "manage_organization", "order_credits", "manage_webhooks", "see_audit",
        "manage_tokens_own", "manage_account_own", "operate",
    },
}  # fmt: skip


def ada(role="member", **more):
    return Principal(user_id="ada", organization_id="neuro", role=role, name="Ada", **more)


def allowed(principal):
    return {str(action) for action in Action if is_allowed(principal, action)}


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        ("member", EVERYBODY),
        ("dataset_manager", EVERYBODY | MANAGERS),
        ("admin", EVERYBODY | MANAGERS | ADMINS),
        ("owner", EVERYBODY | MANAGERS | ADMINS | OWNER),
    ],
)
def test_each_role_may_do_what_is_written_down(role, expected):
    assert allowed(ada(role)) == expected
    assert allowed(ada(role, is_operator=True)) == expected | OPERATORS


@pytest.mark.parametrize("number", range(len(SCOPES)))
def test_a_scope_allows_its_own_actions_and_those_of_the_scopes_before_it(number):
    everything = ada("owner", is_operator=True, scopes=frozenset({SCOPES[number]}), entrance="token")
    expected = set().union(*(SCOPES_NEEDED[scope] for scope in SCOPES[: number + 1]))
    assert allowed(everything) == expected


def test_every_action_has_a_rule_and_a_scope():
    assert set(MATRIX) == set(Action)
    assert set().union(*SCOPES_NEEDED.values()) == {str(action) for action in Action}


@given(st.sampled_from(ROLES), st.booleans(), st.frozensets(st.sampled_from(SCOPES)))
def test_a_token_never_allows_more_than_its_user(role, is_operator, scopes):
    token = ada(role, is_operator=is_operator, scopes=scopes, entrance="token")
    assert allowed(token) <= allowed(ada(role, is_operator=is_operator))


@given(st.sampled_from(ROLES), st.booleans(), st.sampled_from(Action))
def test_require_refuses_exactly_what_is_not_allowed(role, is_operator, action):
    principal = ada(role, is_operator=is_operator)
    if is_allowed(principal, action):
        require(principal, action)
    else:
        with pytest.raises(NotAllowed):
            require(principal, action)


def test_a_refusal_says_who_may():
    with pytest.raises(NotAllowed) as refused:
        require(ada("dataset_manager"), Action.MANAGE_MEMBERS)
    assert str(refused.value) == (
        "manage members: your role in 'neuro' is dataset manager; this is for its owner and admins"
    )
    with pytest.raises(NotAllowed) as refused:
        require(ada("admin"), Action.OPERATE)
    assert str(refused.value) == (
        "operate: your role in 'neuro' is admin; this is for operators of this instance"
    )


def test_a_refusal_says_which_scope_the_token_lacks():
    with pytest.raises(NotAllowed) as refused:
        require(ada("owner", scopes=frozenset({"submit", "read"}), entrance="token"), Action.DELETE_DATASET)
    assert str(refused.value) == (
        "delete dataset: this token has the scopes read, submit and needs manage; use a token with that scope"
    )


def test_who_may_is_a_phrase():
    assert {who_may(action) for action in Action} == {
        "every member",
        "its owner, admins and dataset managers",
        "its owner and admins",
        "its owner and admins and operators of this instance",
        "its owner alone",
        "operators of this instance",
    }
