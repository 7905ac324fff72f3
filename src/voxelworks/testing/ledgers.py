"""A ledger for tests: every call is one transaction, as a request to the server is, and costs are round numbers."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from voxelworks import credits
from voxelworks.db import Database
from voxelworks.protocol.credits import Balance, ChargeView, GrantView, Returned
from voxelworks.settings import Settings

T = TypeVar("T")

PRICES = {
    "version": "test",
    "millicredits_per_gigavoxel": {"voxel": 10**9, "free": 0, "cheap": 1},
    "millicredits_per_annotated_gigavoxel": {"annotated": 10**9},
}
"""A voxel costs a millicredit."""


@dataclass(frozen=True)
class Ledger:
    """Credits over a database of their own."""

    database: Database
    settings: Settings

    @classmethod
    def over(cls, database: Database, folder: Path, **settings: Any) -> Ledger:
        prices = folder / "prices.json"
        prices.write_text(json.dumps(PRICES))
        chosen = {"home": folder, "credits_enabled": True, "price_list": prices, **settings}
        return cls(database, Settings(**chosen))

    def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call a function of `credits` in its own transaction, with the settings if it takes them."""
        if "settings" in inspect.signature(function).parameters:
            kwargs.setdefault("settings", self.settings)
        with self.database.session() as session:
            return function(session, *args, **kwargs)

    def read(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call a function that only reads."""
        with self.database.read_session() as session:
            return function(session, *args, **kwargs)

    def grant(self, amount: int, organization_id: str = "lab", **options: Any) -> GrantView:
        return self.call(credits.grant, organization_id, amount, **{"who": "user:operator", **options})

    def ensure_monthly(self, organization_id: str = "lab", zone: str = "UTC") -> GrantView | None:
        return self.call(credits.ensure_monthly, organization_id, zone)

    def hold(self, job_id: str, amount: int, organization_id: str = "lab", **options: Any) -> int:
        """Hold an amount for a job, at a price of one for a voxel."""
        chosen = {"price_name": "voxel", "quote_id": None, "who": "user:ada", **options}
        return self.call(
            credits.hold, organization_id=organization_id, job_id=job_id, quantity=amount, **chosen
        )

    def settle(self, job_id: str) -> None:
        self.call(credits.settle, job_id, who="server")

    def release(self, job_id: str, *, is_our_fault: bool = False) -> Returned | None:
        return self.call(credits.release, job_id, is_our_fault=is_our_fault, who="server")

    def refund(self, job_id: str) -> Returned | None:
        return self.call(credits.refund, job_id, who="server")

    def balance(self, organization_id: str = "lab") -> Balance:
        return self.read(credits.balance, organization_id)

    def available(self, organization_id: str = "lab") -> int:
        return self.balance(organization_id).available

    def charge(self, job_id: str) -> ChargeView | None:
        return self.read(credits.charge_of, job_id)

    def history(self, organization_id: str = "lab") -> list[tuple[str, int, int]]:
        """Give kind, change and what could be spent after it, oldest first."""
        rows = self.read(credits.activity, organization_id, limit=1000).rows
        return [(row.kind, row.change, row.available_after) for row in reversed(rows)]

    def must_be_right(self) -> None:
        """Fail if any two places of the ledger disagree."""
        assert self.read(credits.check) == ()
