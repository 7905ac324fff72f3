"""What a server shows of credits: the models of its JSON API and of its pages.

Amounts are integer millicredits. Dates are integer milliseconds since 1970 in UTC, by the clock of the database.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

from voxelworks.protocol.messages import Message

GrantKind = Literal["free", "paid", "compensation"]
"""Given every month, bought, or in place of credits that expired while a job failed that was not the user's fault."""
ChargeState = Literal["held", "settled", "released"]
OrderState = Literal["open", "granted", "declined"]
ActivityKind = Literal["free", "purchase", "compensation", "spending", "refund", "expiry"]

MILLICREDITS = 1000
"""Millicredits in a credit."""


def in_credits(millicredits: int) -> str:
    """Write an amount as people read it: `12`, `0.25`, `-1.5`."""
    sign = "-" if millicredits < 0 else ""
    whole, rest = divmod(abs(millicredits), MILLICREDITS)
    return f"{sign}{whole}.{rest:03}".rstrip("0").rstrip(".")


class PriceView(Message):
    """What a job would cost now. A quote promises it."""

    price_name: str
    quantity: int
    """Voxels."""
    unit: str
    """What is counted: `voxels` or `annotated voxels`."""
    price: int
    """Millicredits for a gigavoxel."""
    price_list_version: str
    amount: int
    available: int
    has_enough: bool


class QuoteView(PriceView):
    """What a job would cost. Until the quote runs out, a job that names it costs exactly this."""

    id: str
    expires_ms: int


class ChargeView(Message):
    """What a job costs, and what became of it."""

    job_id: str
    number: int
    """1 for the first charge of the job."""
    amount: int
    refunded: int
    """All of the amount once it was released; 0 before."""
    state: ChargeState
    price_name: str
    quantity: int
    price: int
    price_list_version: str


class ReturnedPart(Message):
    """What went back to one grant."""

    grant_id: int
    amount: int
    has_expired: bool
    """The grant had ended meanwhile, and the amount expired at once."""


class Returned(Message):
    """A charge that was given back."""

    charge_number: int
    amount: int
    parts: tuple[ReturnedPart, ...]
    """In the order in which they were taken."""
    compensated: int
    """Amount of a new grant in place of what had expired meanwhile; 0 if there is none."""

    @property
    def usable(self) -> int:
        """What can be spent again."""
        return self.compensated + sum(part.amount for part in self.parts if not part.has_expired)


class GrantView(Message):
    """Credits that an organization was given at one time."""

    id: int
    kind: GrantKind
    period: str | None
    """Month of a free grant, `YYYY-MM`."""
    amount: int
    available: int
    held: int
    spent: int
    expired: int
    created_ms: int
    starts_ms: int | None
    """Not usable before; None if it was usable at once."""
    expires_ms: int | None
    """Not usable from this instant on; None if it never expires."""
    paid: Decimal | None
    currency: str | None
    comment: str
    who: str


class Balance(Message):
    """What an organization can spend."""

    organization_id: str
    available: int
    held: int
    """Kept for jobs that have not ended."""
    grants: tuple[GrantView, ...]
    """Those with something to spend, in the order in which they are used up."""


class ActivityView(Message):
    """One change of what an organization can spend."""

    id: int
    at_ms: int
    kind: ActivityKind
    change: int
    """Positive: credits came."""
    available_after: int
    job_id: str | None
    state: ChargeState | None
    """Of a spending: whether it is final."""
    expires_ms: int | None
    """Of credits that came."""
    paid: Decimal | None
    currency: str | None
    comment: str
    who: str


class ActivityPage(Message):
    """A part of an organization's activity, newest first."""

    rows: tuple[ActivityView, ...]
    next_before: int | None
    """Give it as `before` for the next page; None on the last one."""


class MonthView(Message):
    """What the jobs of a month cost."""

    key: str
    """`YYYY-MM`."""
    spent: int
    """What was held or settled for jobs that were submitted in it, without what was returned."""


class OrderView(Message):
    """A request to buy credits."""

    id: str
    organization_id: str
    user_id: str
    credits: int
    """Whole credits."""
    comment: str
    state: OrderState
    created_ms: int
    decided_ms: int | None
    decided_by: str | None
    reason: str | None
    """Why it was declined."""
    grant_id: int | None


class Difference(Message):
    """Two places of the ledger that should say the same and do not."""

    organization_id: str
    about: str
    expected: int | str
    """What the entries say."""
    found: int | str
