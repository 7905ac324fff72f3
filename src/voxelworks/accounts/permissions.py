"""Who may do what: the one matrix.

Domain code does not look at roles; the edge asks `require` before it calls. What somebody else's organization has does
not exist for a request: there the answer is "not found", not "not allowed".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from voxelworks.errors import NotAllowed
from voxelworks.protocol.people import ROLES, SCOPES, Principal, Role, Scope


class Action(StrEnum):
    """What a request may ask for."""

    SEE_DATASET = "see_dataset"
    MAKE_DATASET = "make_dataset"
    ADD_TO_DATASET = "add_to_dataset"
    """Jobs that add a mag, an attachment or a property."""
    CHANGE_DATASET = "change_dataset"
    DELETE_DATASET = "delete_dataset"
    PUBLISH_DATASET = "publish_dataset"
    """Show it to everybody on the instance."""
    SHARE_DATASET = "share_dataset"
    """Make an address under which anybody can read it for a while, and end those that one made."""
    MAKE_ANNOTATION = "make_annotation"
    DELETE_ANNOTATION = "delete_annotation"
    """Of others; everybody may delete their own."""
    SEE_MODEL = "see_model"
    MAKE_MODEL = "make_model"
    """Also to rename and delete those that one made."""
    MANAGE_MODEL = "manage_model"
    """Rename and delete those of others, and share models with other organizations."""
    SUBMIT_JOB = "submit_job"
    SUBMIT_PAID_JOB = "submit_paid_job"
    SEE_OWN_JOBS = "see_own_jobs"
    STEER_OWN_JOBS = "steer_own_jobs"
    """Cancel and repeat."""
    SEE_ALL_JOBS = "see_all_jobs"
    STEER_ALL_JOBS = "steer_all_jobs"
    SEE_MEMBERS = "see_members"
    MANAGE_MEMBERS = "manage_members"
    """Invite, remove, change roles except the owner's."""
    MANAGE_OWNER = "manage_owner"
    """Give the ownership to somebody else."""
    MANAGE_ORGANIZATION = "manage_organization"
    """Its name and time zone."""
    SEE_BALANCE = "see_balance"
    SEE_CREDIT_ACTIVITY = "see_credit_activity"
    ORDER_CREDITS = "order_credits"
    MANAGE_WEBHOOKS = "manage_webhooks"
    SEE_AUDIT = "see_audit"
    MANAGE_TOKENS_OWN = "manage_tokens_own"
    MANAGE_ACCOUNT_OWN = "manage_account_own"
    """One's own name, password, log-ins and mails."""
    OPERATE = "operate"
    """The instance: organizations, worker keys, queue, credits, settings."""


@dataclass(frozen=True)
class Rule:
    """Who may do something."""

    roles: frozenset[Role]
    scope: Scope
    """What a token must allow for it."""
    has_operators: bool = False
    """Operators may, whatever their role."""


_EVERYBODY = frozenset(ROLES)
_MANAGERS: frozenset[Role] = frozenset({"owner", "admin", "dataset_manager"})
_ADMINS: frozenset[Role] = frozenset({"owner", "admin"})
_OWNER: frozenset[Role] = frozenset({"owner"})
_NOBODY: frozenset[Role] = frozenset()

MATRIX: Mapping[Action, Rule] = MappingProxyType(
    {
        Action.SEE_DATASET: Rule(_EVERYBODY, "read"),
        Action.MAKE_DATASET: Rule(_EVERYBODY, "submit"),
        Action.ADD_TO_DATASET: Rule(_EVERYBODY, "submit"),
        Action.CHANGE_DATASET: Rule(_MANAGERS, "manage"),
        Action.DELETE_DATASET: Rule(_MANAGERS, "manage"),
        Action.PUBLISH_DATASET: Rule(_MANAGERS, "manage"),
        Action.SHARE_DATASET: Rule(_EVERYBODY, "manage"),
        Action.MAKE_ANNOTATION: Rule(_EVERYBODY, "submit"),
        Action.DELETE_ANNOTATION: Rule(_MANAGERS, "manage"),
        Action.SEE_MODEL: Rule(_EVERYBODY, "read"),
        Action.MAKE_MODEL: Rule(_EVERYBODY, "submit"),
        Action.MANAGE_MODEL: Rule(_MANAGERS, "manage"),
        Action.SUBMIT_JOB: Rule(_EVERYBODY, "submit"),
        Action.SUBMIT_PAID_JOB: Rule(_MANAGERS, "submit"),
        Action.SEE_OWN_JOBS: Rule(_EVERYBODY, "read"),
        Action.STEER_OWN_JOBS: Rule(_EVERYBODY, "submit"),
        Action.SEE_ALL_JOBS: Rule(_ADMINS, "read", has_operators=True),
        Action.STEER_ALL_JOBS: Rule(_ADMINS, "submit", has_operators=True),
        Action.SEE_MEMBERS: Rule(_EVERYBODY, "read"),
        Action.MANAGE_MEMBERS: Rule(_ADMINS, "admin"),
        Action.MANAGE_OWNER: Rule(_OWNER, "admin"),
        Action.MANAGE_ORGANIZATION: Rule(_ADMINS, "admin"),
        Action.SEE_BALANCE: Rule(_EVERYBODY, "read"),
        Action.SEE_CREDIT_ACTIVITY: Rule(_ADMINS, "read"),
        Action.ORDER_CREDITS: Rule(_OWNER, "admin"),
        Action.MANAGE_WEBHOOKS: Rule(_ADMINS, "admin"),
        Action.SEE_AUDIT: Rule(_ADMINS, "admin"),
        Action.MANAGE_TOKENS_OWN: Rule(_EVERYBODY, "admin"),
        Action.MANAGE_ACCOUNT_OWN: Rule(_EVERYBODY, "admin"),
        Action.OPERATE: Rule(_NOBODY, "admin", has_operators=True),
    }
)


def is_allowed(principal: Principal, action: Action) -> bool:
    rule = MATRIX[action]
    return _has_role(principal, rule) and _has_scope(principal, rule)


def require(principal: Principal, action: Action) -> None:
    """Refuse what somebody may not do.

    Raises
    ------
    NotAllowed
        Saying who may, or which scope the token lacks.
    """
    rule = MATRIX[action]
    what = _in_words(action)
    if not _has_role(principal, rule):
        role = _in_words(principal.role)
        raise NotAllowed(
            f"{what}: your role in {principal.organization_id!r} is {role}; this is for {who_may(action)}"
        )
    if not _has_scope(principal, rule):
        had = ", ".join(scope for scope in SCOPES if scope in (principal.scopes or ())) or "none"
        raise NotAllowed(
            f"{what}: this token has the scopes {had} and needs {rule.scope}; use a token with that scope"
        )


def who_may(action: Action) -> str:
    """Say who may do something: `its owner and admins`."""
    rule = MATRIX[action]
    if rule.roles == _EVERYBODY:
        return "every member"
    groups = {
        _MANAGERS: "its owner, admins and dataset managers", _ADMINS: "its owner and admins",
        _OWNER: "its owner alone",
    }  # fmt: skip
    words = [groups[rule.roles]] if rule.roles else []
    if rule.has_operators:
        words.append("operators of this instance")
    return " and ".join(words)


def _has_role(principal: Principal, rule: Rule) -> bool:
    return principal.role in rule.roles or (rule.has_operators and principal.is_operator)


def _has_scope(principal: Principal, rule: Rule) -> bool:
    if principal.scopes is None:
        return True
    # Each scope includes those before it.
    return any(SCOPES.index(scope) >= SCOPES.index(rule.scope) for scope in principal.scopes)


def _in_words(name: str) -> str:
    return name.replace("_", " ")
