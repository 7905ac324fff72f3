"""The organization: its credits, and the workers that take its jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter

from voxelworks.client._transport import Transport
from voxelworks.protocol.credits import ActivityKind, ActivityPage, Balance
from voxelworks.protocol.views import WorkerView


class OrganizationCalls(Transport):
    """What can be asked about the organization."""

    def balance(self) -> Balance:
        """Ask what the organization can spend."""
        return Balance.model_validate(self._get("organization/credits"))

    def activity(
        self, *, kinds: Sequence[ActivityKind] = (), before: int | None = None, limit: int = 50
    ) -> ActivityPage:
        """List what came to and went from the credits of the organization, newest first; for its owner and admins.

        Parameters
        ----------
        kinds
            Only these; by default all.
        before
            `next_before` of the page before.
        limit
            At most 500.
        """
        query: dict[str, Any] = {"kind": list(kinds), "limit": limit}
        return ActivityPage.model_validate(
            self._get("organization/credits/activity", query | ({} if before is None else {"before": before}))
        )

    def list_workers(self) -> tuple[WorkerView, ...]:
        return TypeAdapter(tuple[WorkerView, ...]).validate_python(self._get("workers"))
