"""The own account: API tokens, and browsers that are logged in."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import TypeAdapter

from voxelworks.client._transport import Transport, path_part
from voxelworks.protocol.people import ApiTokenView, LoginSessionView, NewToken, Scope


class AccountCalls(Transport):
    """What can be asked about the own account."""

    def list_tokens(self) -> tuple[ApiTokenView, ...]:
        """List your API tokens of this organization, newest first."""
        return TypeAdapter(tuple[ApiTokenView, ...]).validate_python(self._get("account/tokens"))

    def create_token(self, name: str, scopes: Sequence[Scope], *, lifetime_days: int | None = 90) -> NewToken:
        """Make an API token; what was let in with one cannot make another.

        Parameters
        ----------
        name
            What it is for.
        scopes
        lifetime_days
            None: it does not end by itself.
        """
        body = {"name": name, "scopes": list(scopes), "lifetime_days": lifetime_days}
        return NewToken.model_validate(self._post("account/tokens", body))

    def revoke_token(self, token_id: str) -> None:
        """End one of your API tokens at once."""
        self._send("DELETE", f"account/tokens/{path_part(token_id)}")

    def list_sessions(self) -> tuple[LoginSessionView, ...]:
        """List the browsers that you are logged in with, the one used last first."""
        return TypeAdapter(tuple[LoginSessionView, ...]).validate_python(self._get("account/sessions"))

    def end_session(self, session_id: str) -> None:
        """Log one of your browsers out."""
        self._send("DELETE", f"account/sessions/{path_part(session_id)}")

    def end_sessions(self) -> None:
        """Log all your browsers out."""
        self._send("DELETE", "account/sessions")
