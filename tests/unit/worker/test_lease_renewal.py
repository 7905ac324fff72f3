"""Renewing a lease."""

from __future__ import annotations

import threading
from typing import cast

import pytest

from voxelworks.client import Client
from voxelworks.errors import LeaseLost, ServerUnreachable
from voxelworks.protocol.messages import Claim, Order, Progress, RenewAnswer, RenewRequest
from voxelworks.worker import lease as leases
from voxelworks.worker.lease import Lease, until_answered


class Server:
    """Answers renewals with a list of orders, the last one again and again; None is no answer at all."""

    def __init__(self, *orders: Order | None, lease_s: float = 60.0) -> None:
        self.orders = list(orders)
        self.lease_s = lease_s
        self.heard: list[Progress | None] = []

    def renew(self, job_id: str, attempt: int, request: RenewRequest) -> RenewAnswer:
        order = self.orders.pop(0) if len(self.orders) > 1 else self.orders[0]
        if order is None:
            raise ServerUnreachable("no answer")
        self.heard.append(request.progress)
        return RenewAnswer(order=order, lease_s=self.lease_s, renew_s=0.01)


def make_lease(server: Server, *, lease_s: float = 60.0) -> tuple[Lease, list[Order], threading.Event]:
    claim = Claim(
        job_id="job", attempt=1, token="token", workflow="probe", version=1, params={}, places={}, work_key="job",
        lease_s=lease_s, renew_s=0.01, cancel_grace_s=1,
    )  # fmt: skip
    orders: list[Order] = []
    was_ordered = threading.Event()

    def on_order(order: Order) -> None:
        orders.append(order)
        was_ordered.set()

    return Lease(cast(Client, server), claim, progress_every_s=0.01, on_order=on_order), orders, was_ordered


@pytest.fixture(autouse=True)
def _without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RETRY_S", 0.01)
    monkeypatch.setattr(leases, "CALL_RETRY_S", (0.001, 0.001))


def test_a_cancel_is_handed_on() -> None:
    lease, orders, was_ordered = make_lease(Server("continue", "continue", "cancel"))
    assert lease.begin() == "continue"
    assert was_ordered.wait(10)
    lease.stop()
    lease.join(10)
    assert set(orders) == {"cancel"}


def test_a_lost_lease_ends_the_renewals() -> None:
    lease, orders, _ = make_lease(Server("continue", "lost"))
    lease.begin()
    lease.join(10)
    assert not lease.is_alive()
    assert orders == ["lost"]


def test_a_job_that_is_cancelled_before_it_starts_is_not_started() -> None:
    lease, _, _ = make_lease(Server("cancel"))
    assert lease.begin() == "cancel"
    assert not lease.is_alive()


def test_nothing_starts_without_a_first_renewal() -> None:
    lease, _, _ = make_lease(Server(None), lease_s=0.05)
    with pytest.raises(LeaseLost, match="job job was given back before it started"):
        lease.begin()


def test_silence_makes_the_lease_unsafe_but_an_answer_revives_it() -> None:
    server = Server("continue", None, lease_s=0.05)
    lease, orders, _ = make_lease(server)
    lease.begin()
    assert lease.is_safe
    assert wait_until(lambda: not lease.is_safe)
    server.lease_s = 60.0
    server.orders = ["continue"]
    assert wait_until(lambda: lease.is_safe)
    lease.stop()
    lease.join(10)
    assert orders == []


def test_progress_is_told_with_the_next_renewal() -> None:
    server = Server("continue")
    lease, _, _ = make_lease(server)
    lease.begin()
    lease.tell(Progress(phase="reading", done=3, total=4))
    assert wait_until(lambda: Progress(phase="reading", done=3, total=4, number=1) in server.heard)
    lease.tell(Progress(phase="writing", done=0, total=4))
    assert wait_until(lambda: Progress(phase="writing", done=0, total=4, number=2) in server.heard)
    lease.stop()


def test_a_refusal_is_not_repeated() -> None:
    calls = []

    def refuse() -> None:
        calls.append(1)
        raise LeaseLost("not yours")

    with pytest.raises(LeaseLost):
        until_answered(refuse, give_up=lambda: False)
    assert len(calls) == 1


def wait_until(condition: object) -> bool:
    waiting = threading.Event()
    for _ in range(1000):
        if condition():  # type: ignore[operator]
            return True
        waiting.wait(0.01)
    return False
