"""Users, organizations, tokens, permissions.

Plain functions that take a session and never commit; a few take the database and say why. They do not look at roles,
except that an organization keeps its one owner: the edge asks `require(principal, action)` before it calls.

Everything that lets somebody in (session, token, key, invitation, link to a new password) is random, is shown once, and
is stored as a digest. Whoever uses it is looked up anew each time, with the role that they have now: rights end with
the membership, at once.
"""

from voxelworks.accounts._api_tokens import (
    count_api_tokens,
    create_api_token,
    end_job_tokens,
    list_api_tokens,
    mint_job_token,
    principal_of_token,
    revoke_api_token,
    revoke_api_tokens,
    touch_token,
)
from voxelworks.accounts._audit import audit, list_audit
from voxelworks.accounts._entering import (
    enter_by_session,
    enter_by_share,
    enter_by_token,
    enter_by_worker_key,
)
from voxelworks.accounts._forgetting import forget_expired
from voxelworks.accounts._identities import log_in_with
from voxelworks.accounts._invitations import (
    accept_invitation,
    find_invitation,
    invite,
    list_invitations,
    revoke_invitation,
)
from voxelworks.accounts._login import (
    change_password,
    find_reset,
    log_in,
    make_reset,
    request_reset,
    reset_password,
)
from voxelworks.accounts._members import (
    add_member,
    change_role,
    list_members,
    members_with_role,
    name_owner,
    owner_of,
    owners_of,
    remove_member,
    transfer_ownership,
)
from voxelworks.accounts._organizations import (
    create_organization,
    find_organization,
    list_memberships,
    list_organizations,
    rename_organization,
    set_storage_max,
    set_zone,
)
from voxelworks.accounts._people import (
    create_user,
    disable_user,
    enable_user,
    find_principal,
    find_user,
    find_user_by_email,
    find_user_ids,
    find_users,
    is_set_up,
    list_users,
    local_principal,
    prepare,
    rename_user,
    set_operator,
    set_up,
)
from voxelworks.accounts._sessions import (
    end_other_sessions,
    end_session,
    list_sessions,
    log_out,
    open_login_session,
    principal_of_session,
    switch_organization,
    touch_session,
)
from voxelworks.accounts._shares import (
    SHARE_DAYS_MAX,
    Shared,
    create_share,
    find_share,
    list_shares,
    principal_of_share,
    revoke_share,
)
from voxelworks.accounts._texts import check_zone
from voxelworks.accounts._throttle import throttle
from voxelworks.accounts._worker_keys import (
    SLOTS_MAX,
    create_worker_key,
    ensure_worker_key,
    find_worker_key,
    list_worker_keys,
    revoke_worker_key,
    touch_worker_key,
)
from voxelworks.accounts.permissions import MATRIX, Action, is_allowed, require, who_may

__all__ = [
    "Action", "MATRIX", "SHARE_DAYS_MAX", "SLOTS_MAX", "Shared", "accept_invitation", "add_member", "audit",
    "change_password", "change_role", "check_zone", "count_api_tokens", "create_api_token", "create_organization",
    "create_share", "create_user", "create_worker_key", "disable_user", "enable_user", "end_job_tokens",
    "end_other_sessions", "end_session", "ensure_worker_key", "enter_by_session", "enter_by_share",
    "enter_by_token", "enter_by_worker_key", "find_invitation", "find_organization", "find_principal", "find_reset",
    "find_share", "find_user", "find_user_by_email", "find_user_ids", "find_users", "find_worker_key",
    "forget_expired", "invite", "is_allowed", "is_set_up", "list_api_tokens", "list_audit", "list_invitations",
    "list_members", "list_memberships", "list_organizations", "list_sessions", "list_shares", "list_users",
    "list_worker_keys", "local_principal", "log_in", "log_in_with", "log_out", "make_reset", "members_with_role",
    "mint_job_token", "name_owner", "open_login_session", "owner_of", "owners_of", "prepare",
    "principal_of_session", "principal_of_share", "principal_of_token", "remove_member", "rename_organization",
    "rename_user", "request_reset", "require", "reset_password", "revoke_api_token", "revoke_api_tokens",
    "revoke_invitation", "revoke_share", "revoke_worker_key", "set_operator", "set_storage_max", "set_up",
    "set_zone", "switch_organization", "throttle", "touch_session", "touch_token", "touch_worker_key",
    "transfer_ownership", "who_may",
]  # fmt: skip
