"""The words of WEBKNOSSOS' job protocol: ids, states, and what its workers report.

`wire_state` is the one place where a state of ours becomes a word of theirs (rule R2).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import AliasGenerator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from voxelworks.protocol.messages import JobState, Json
from voxelworks.protocol.views import Publication

WireState = Literal["PENDING", "STARTED", "SUCCESS", "FAILURE", "CANCELLED"]
WIRE_STATES: tuple[WireState, ...] = get_args(WireState)
TERMINAL_WIRE_STATES: frozenset[WireState] = frozenset({"SUCCESS", "FAILURE", "CANCELLED"})

ID_DIGITS = 24
_OUR_ID_DIGITS = 16
_PADDING = "0" * (ID_DIGITS - _OUR_ID_DIGITS)
_OUR_ID = re.compile(rf"[0-9a-f]{{{_OUR_ID_DIGITS}}}")
_TEXT_MAX = 10_000
"""Longest text that a worker may send for one field, in characters."""


@dataclass(frozen=True)
class WireStates:
    """A job's state as WEBKNOSSOS keeps it: what the worker said, and what was decided over its head."""

    state: WireState
    manual_state: WireState | None = None

    @property
    def effective(self) -> WireState:
        """The state that people and programs see."""
        return self.manual_state or self.state


def wire_state(state: JobState, publication: Publication, *, has_started: bool) -> WireStates:
    """Translate the state of a job (R2).

    Parameters
    ----------
    publication
        A success counts as such once its result can be opened, and as a failure if it never can.
    has_started
        Whether the work of the current attempt has begun.
    """
    if state in ("queued", "claimed"):
        return WireStates("PENDING")
    if state == "running":
        return WireStates("STARTED")
    if state == "cancelling":
        return WireStates("STARTED" if has_started else "PENDING", "CANCELLED")
    if state == "cancelled":
        return WireStates("CANCELLED", "CANCELLED")
    if state == "failed" or publication == "failed":
        return WireStates("FAILURE")
    return WireStates("STARTED" if publication == "pending" else "SUCCESS")


def foreign_id(native: str) -> str:
    """Give the 24 hex digits by which WEBKNOSSOS' protocol names a job, dataset, user or worker.

    Ids of 16 hex digits are padded and can be found again (`native_id`); other ones, such as that of the user `local`,
    become a digest.
    """
    if _OUR_ID.fullmatch(native):
        return _PADDING + native
    return hashlib.sha256(native.encode()).hexdigest()[:ID_DIGITS]


def native_id(given: str) -> str:
    """Give our id for one of the protocol; anything else stays as it is."""
    shortened = given.removeprefix(_PADDING)
    return shortened if len(given) == ID_DIGITS and _OUR_ID.fullmatch(shortened) else given


class ForeignReport(BaseModel):
    """What a worker says of a job. It replaces what the worker said before: what is absent is gone."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", populate_by_name=True, alias_generator=AliasGenerator(alias=to_camel)
    )

    state: WireState
    latest_run_id: Annotated[str, Field(max_length=500)] | None = None
    """Made by the worker, anew for each run of a job."""
    return_value: Annotated[str, Field(max_length=_TEXT_MAX)] | None = None
    started: int | float | str | None = None
    """Milliseconds or ISO 8601, by the worker's clock, as is `ended`. Only the database's clock counts: not stored."""
    ended: int | float | str | None = None
    error_details: Json | None = None
    """Free form."""


def failure_text(details: Json | None) -> str:
    """Find a sentence for people in the free-form details of a failure."""
    text = _first_text(details)
    return f"the worker reported a failure: {text[:_TEXT_MAX]}" if text else "the worker reported a failure"


def _first_text(value: Any, depth: int = 0) -> str | None:
    """Give the message that is named as one, or else the first text."""
    if isinstance(value, str):
        return value.strip() or None
    if depth > 5 or not isinstance(value, dict | list):
        return None
    if isinstance(value, list):
        items = value
    else:
        named = [value[key] for key in ("message", "errorMessage", "error", "msg", "detail") if key in value]
        items = [*named, *value.values()]
    return next((text for item in items if (text := _first_text(item, depth + 1))), None)
