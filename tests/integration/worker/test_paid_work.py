"""The whole way of a paid job: quote, hold, real work by a real worker, and what the ledger says in the end."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from voxelworks import credits
from voxelworks.client import ServerInfo, server_file
from voxelworks.db import open_database
from voxelworks.geometry import Box, Mag, VoxelSize
from voxelworks.settings import Settings
from voxelworks.volumes.dataset import Dataset

from .conftest import Site

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

BOX = Box((0, 0, 0), (8, 8, 8))
PRICE = 512
"""Millicredits: one for a voxel."""
PRICES = {
    "version": "one for a voxel",
    "millicredits_per_gigavoxel": {"infer_neurons": 10**9},
    "millicredits_per_annotated_gigavoxel": {},
}


@pytest.fixture
def paying(tmp_path: Path, make_site: Callable[..., Site]) -> Iterator[tuple[Site, httpx.Client]]:
    """A server with credits, where the organization has one and a dataset `demo`, and a client of its owner."""
    prices = tmp_path / "prices.json"
    prices.write_text(json.dumps(PRICES))
    scope = tmp_path / "scope"
    _write_demo(scope / "demo")
    site = make_site(
        CREDITS_ENABLED="true", MONTHLY_FREE_CREDITS="0", PRICE_LIST=str(prices),
        IMPORT_ROOTS=json.dumps({"scope": str(scope)}),
    )  # fmt: skip
    info = ServerInfo.read(server_file(site.home))
    assert info is not None
    headers = {"Authorization": f"Bearer {info.token}"}
    with httpx.Client(base_url=f"{info.url}/api/v1/", headers=headers, trust_env=False) as client:
        _post(client, "datasets", {"name": "demo", "place": "root:scope/demo"})
        _post(client, "operator/organizations/local/grants", {"credits": 1})
        yield site, client


def test_a_paid_job_is_quoted_held_done_and_settled(paying: tuple[Site, httpx.Client]) -> None:
    site, client = paying
    job = _submit(client, label=3)
    assert _balance(client) == (1000 - PRICE, PRICE)
    site.worker()
    detail = site.wait_until_ended(job["id"])
    assert (detail.job.state, detail.job.result and detail.job.result.value) == (
        "succeeded",
        {"voxel_count": 64},
    )
    assert (detail.job.charge_millicredits, detail.job.refunded_millicredits) == (PRICE, 0)
    assert _balance(client) == (1000 - PRICE, 0)
    assert _ledger(site, client) == [("purchase", 1000, None), ("spending", -PRICE, "settled")]


def test_a_paid_job_that_fails_returns_everything(paying: tuple[Site, httpx.Client]) -> None:
    site, client = paying
    job = _submit(client, label=99)
    site.worker()
    detail = site.wait_until_ended(job["id"])
    assert (detail.job.state, detail.job.message) == (
        "failed",
        "no voxel of demo/labels has the label 99",
    )
    assert (detail.job.charge_millicredits, detail.job.refunded_millicredits) == (PRICE, PRICE)
    assert _balance(client) == (1000, 0)
    assert _ledger(site, client) == [
        ("purchase", 1000, None),
        ("spending", -PRICE, "released"),
        ("refund", PRICE, None),
    ]


def _write_demo(folder: Path) -> None:
    """Write labels 0 to 7, one in each plane."""
    dataset = Dataset.create(str(folder), VoxelSize(4, 4, 40))
    layer = dataset.add_layer("labels", "segmentation", "uint32", 1, BOX, 7)
    labels = np.broadcast_to(np.arange(8, dtype=np.uint32)[:, None, None], (8, 8, 8))
    layer.add_mag(Mag.parse("1"), shard_zyx=(64, 64, 64)).write(BOX, labels[None])
    dataset.write_metadata()


def _submit(client: httpx.Client, label: int) -> dict[str, Any]:
    """Ask for the price, and agree to it."""
    order = {"workflow": "probe_count", "params": {"layer": "demo/labels", "label": label}}
    quote = _post(client, "jobs/quote", order)["quote"]
    assert (quote["quantity"], quote["amount"], quote["available"]) == (512, PRICE, 1000)
    return _post(client, "jobs", {**order, "quote_id": quote["id"]})


def _post(client: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = client.post(path, json=body)
    assert answer.is_success, answer.text
    said: dict[str, Any] = answer.json()
    return said


def _balance(client: httpx.Client) -> tuple[int, int]:
    """Give what can be spent, and what is held."""
    balance = client.get("organization/credits").json()
    return balance["available"], balance["held"]


def _ledger(site: Site, client: httpx.Client) -> list[tuple[str, int, str | None]]:
    """Give kind, change and state of the rows of the activity, oldest first; the books must add up."""
    with closing(open_database(Settings(home=site.home))) as database, database.read_session() as session:
        assert credits.check(session) == ()
    rows = client.get("organization/credits/activity").json()["rows"]
    return [(row["kind"], row["change"], row["state"]) for row in reversed(rows)]
