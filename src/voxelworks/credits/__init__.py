"""The ledger of credits: what organizations were given, what their jobs hold and cost, and what expired.

Plain functions that take a session and never commit; amounts are integer millicredits. The rules behind them: one place
writes the books (`_book`), under a lock on the organization's balance; bookings and entries are only ever added; a
charge is held with the submission of its job, and settled or released once with its end, in the same transactions; and
what was settled comes back once, if the result is lost.
"""

from voxelworks.credits._activity import activity, activity_csv, balance, spent_by_month
from voxelworks.credits._charges import charge_of, charges_of, hold, is_charged, refund, release, settle
from voxelworks.credits._check import check
from voxelworks.credits._grants import ensure_monthly, expire, grant
from voxelworks.credits._orders import decline_order, find_order, grant_order, list_orders, order
from voxelworks.credits._prices import PriceList, amount, price_list
from voxelworks.credits._quotes import price, quote
from voxelworks.protocol.credits import (
    ActivityKind,
    ActivityPage,
    ActivityView,
    Balance,
    ChargeView,
    Difference,
    GrantView,
    MonthView,
    OrderView,
    PriceView,
    QuoteView,
    Returned,
    ReturnedPart,
    in_credits,
)

__all__ = [
    "ActivityKind", "ActivityPage", "ActivityView", "Balance", "ChargeView", "Difference", "GrantView", "MonthView",
    "OrderView", "PriceList", "PriceView", "QuoteView", "Returned", "ReturnedPart", "activity", "activity_csv",
    "amount", "balance", "charge_of", "charges_of", "check", "decline_order", "ensure_monthly", "expire",
    "find_order", "grant", "grant_order", "hold", "in_credits", "is_charged", "list_orders", "order", "price",
    "price_list", "quote", "refund", "release", "settle", "spent_by_month",
]  # fmt: skip
