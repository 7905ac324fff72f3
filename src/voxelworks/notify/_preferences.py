"""What each user wants to be told by mail."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from sqlalchemy.orm import Session

from voxelworks.db import SecretBox, insert_into
from voxelworks.errors import NotFound, StorageFailed
from voxelworks.notify._messages import JobEnd
from voxelworks.notify._tables import DigestEvery, MailPreferenceRow

DIGEST_MS: dict[DigestEvery, int] = {"hourly": 3_600_000, "daily": 86_400_000}
_PURPOSE = "unsubscribe:"


class Preferences(BaseModel):
    """Which mails about jobs a user wants. All of them, one by one, unless chosen otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    is_off: bool = False
    """No mail about jobs at all."""
    is_silent_on_success: bool = False
    """Mail about failures only."""
    silenced: frozenset[str] = frozenset()
    """Workflows whose successes are not told."""
    digest: DigestEvery = "none"
    """One mail about all jobs of an hour or a day."""

    def wants(self, end: JobEnd) -> bool:
        """Say whether this end of a job is told; failures always are, unless all mail is off."""
        if self.is_off:
            return False
        is_silent = self.is_silent_on_success or end.workflow in self.silenced
        return end.state != "succeeded" or not is_silent


def preferences(session: Session, user_id: str) -> Preferences:
    row = session.get(MailPreferenceRow, user_id, populate_existing=True)
    if row is None:
        return Preferences()
    return Preferences(
        is_off=row.is_off,
        is_silent_on_success=row.is_silent_on_success,
        silenced=frozenset(row.silenced),
        digest=row.digest,
    )


def set_preferences(session: Session, user_id: str, chosen: Preferences) -> None:
    values = {
        "is_off": chosen.is_off, "is_silent_on_success": chosen.is_silent_on_success,
        "silenced": sorted(chosen.silenced), "digest": chosen.digest,
    }  # fmt: skip
    session.execute(
        insert_into(session, MailPreferenceRow)
        .values(user_id=user_id, **values)
        .on_conflict_do_update(index_elements=["user_id"], set_=values)
    )


def unsubscribe_path(box: SecretBox, user_id: str) -> str:
    """Give the path at which one click ends all mails about a user's jobs, without logging in."""
    return f"/unsubscribe/{box.seal(_PURPOSE + user_id)}"


def user_of_unsubscribe_token(box: SecretBox, token: str) -> str:
    """Say whose mails the last part of such a path ends.

    Raises
    ------
    NotFound
        If no mail of this server carried it.
    """
    try:
        opened = box.open(token)
    except (StorageFailed, ValueError) as error:
        raise NotFound(
            "this link to end mails is not complete; choose your mails on the account page"
        ) from error
    if not opened.startswith(_PURPOSE):
        raise NotFound("this link does not end mails; choose your mails on the account page")
    return opened.removeprefix(_PURPOSE)


def unsubscribe(session: Session, box: SecretBox, token: str) -> str:
    """End all mails about the jobs of the user that the token names, and give that user.

    Raises
    ------
    NotFound
        If no mail of this server carried it.
    """
    user_id = user_of_unsubscribe_token(box, token)
    kept = preferences(session, user_id)
    set_preferences(session, user_id, kept.model_copy(update={"is_off": True}))
    return user_id
