"""Metrics, health, readiness and alerts of a real application."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text
from starlette.types import Receive, Scope, Send

from voxelworks import accounts, jobs, notify
from voxelworks.db import Database, SecretBox
from voxelworks.errors import StorageFailed
from voxelworks.protocol.messages import Json, SessionRequest
from voxelworks.protocol.people import Principal, WorkerKeyView
from voxelworks.protocol.places import Places
from voxelworks.server import alerts, problems
from voxelworks.server.api import service, worker
from voxelworks.server.context import PRINCIPAL, WORKER, Context
from voxelworks.server.keys import Keys
from voxelworks.server.limits import limits_of
from voxelworks.server.live import Live
from voxelworks.server.metrics import install_metrics
from voxelworks.server.wk import jobs as foreign_jobs
from voxelworks.settings import Settings
from voxelworks.testing.queues import Queue


@pytest.fixture
def context(database: Database, tmp_path: Path) -> Context:
    settings = Settings(home=tmp_path, operator_email="operator@example.org", free_bytes_min=0)
    with database.session() as session:
        accounts.prepare(session)
    return Context(
        settings, database, Places.of(settings), Keys.prepare(tmp_path, database), Live(database),
        SecretBox(settings.secret_key_file), limits_of(settings),
    )  # fmt: skip


@pytest.fixture
def queue(database: Database, tmp_path: Path, context: Context) -> Queue:
    """Jobs in the database of the application."""
    return Queue.over(database, tmp_path / "queue")


@pytest.fixture
def app(context: Context) -> FastAPI:
    """The routes under test, without the guard: who asks is set by the test."""
    app = FastAPI()
    app.state.context = context
    problems.install(app)
    app.include_router(service.probe_router)

    app.include_router(worker.router, prefix="/api/v1")
    app.include_router(foreign_jobs.router, prefix="/api")
    install_metrics(app)
    return app


def ask(
    app: FastAPI,
    path: str,
    *,
    method: str = "GET",
    who: Principal | None = None,
    address: str = "127.0.0.1",
    headers: Mapping[str, str] = MappingProxyType({}),
    key: WorkerKeyView | None = None,
    body: Json | None = None,
) -> httpx.Response:
    async def known(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, PRINCIPAL: who, WORKER: key}, receive, send)

    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(known, client=(address, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8440") as client:
            return await client.request(method, path, headers=headers, json=body)

    return asyncio.run(asked())


def figures(answer: httpx.Response) -> dict[tuple[str, ...], float]:
    assert answer.status_code == 200, answer.text
    return {
        (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_metrics_tell_of_queue_workers_and_requests(app: FastAPI, context: Context) -> None:
    with context.database.session() as session:
        request = SessionRequest(name="one", version="1", protocol=2, workflows={"convert": 1})
        jobs.open_session(session, request, settings=context.settings)
    ask(app, "/healthz")
    ask(app, "/nothing/at/all")
    found = figures(ask(app, "/metrics"))
    assert found["voxelworks_http_requests_total", "method=GET", "route=/healthz", "status=200"] == 1
    assert found["voxelworks_http_requests_total", "method=GET", "route=other", "status=404"] == 1
    assert found["voxelworks_workers", "state=online"] == 1
    assert found["voxelworks_workers", "state=silent"] == 0
    assert found["voxelworks_database_answers",] == 1
    assert found["voxelworks_lost_leases_total",] == 0
    assert found["voxelworks_outbox_age_seconds",] == 0


def test_metrics_name_a_route_alike_however_many_parts_its_placeholder_takes(app: FastAPI) -> None:
    for path in ("zz1", "zz1/b/c", "aiModels/zz1", "zz1/"):
        ask(app, f"/api/aiModels/{path}", method="POST")
    routes = {
        sample[2] for sample in figures(ask(app, "/metrics")) if sample[0] == "voxelworks_http_requests_total"
    }
    assert routes == {"route=/api/aiModels/{route:path}"}


def test_metrics_tell_claims_from_polls_and_count_whoever_lost_a_job(
    app: FastAPI, context: Context, queue: Queue
) -> None:
    with context.database.session() as session:
        _, key = accounts.create_worker_key(session, queue.operator, "key", high_slots=5)
    session_id = queue.open_worker_with("one", key=key)

    def tell(path: str, body: Json | None = None) -> tuple[int, object]:
        answer = ask(app, f"/api/v1/worker/{path}", method="POST", key=key, body=body)
        return answer.status_code, answer.json() if answer.content else None

    assert tell(f"sessions/{session_id}/claim") == (204, None)
    job = queue.submit()
    status, claim = tell(f"sessions/{session_id}/claim")
    assert status == 200
    assert isinstance(claim, dict)
    for _ in range(2):
        assert tell(f"sessions/{session_id}/claim") == (204, None)
    attempt = f"attempts/{job.id}/1"
    assert tell(f"{attempt}/renew", {"token": claim["token"]})[0] == 200
    queue.advance(2 * queue.settings.renew_s + 1)
    assert tell(f"{attempt}/renew", {"token": claim["token"]})[0] == 200
    queue.advance(queue.settings.lease_s + 1)
    assert queue.reap() == 1
    queue.submit()
    queue.advance(30)
    queue.claim(queue.open_worker("two"))
    status, answer = tell(f"{attempt}/renew", {"token": claim["token"]})
    assert (status, isinstance(answer, dict) and answer["order"]) == (200, "lost")
    report = {"token": "made up", "outcome": "cancelled"}
    assert tell(f"{attempt}/finish", report)[0] == 409
    queue.call(jobs.drain_worker, "one", by=queue.operator)
    assert tell(f"sessions/{session_id}/claim")[0] == 409  # drained: it lost nothing
    found = figures(ask(app, "/metrics"))
    route = "/api/v1/worker/sessions/{session_id}/claim"
    kinds = ("class=short", "workflow=find_largest_segment_id")
    names = {
        ("voxelworks_claim_seconds_count", "given=job"): 1, ("voxelworks_claim_seconds_count", "given=nothing"): 3,
        ("voxelworks_http_requests_total", "method=POST", f"route={route}", "status=409"): 1,
        ("voxelworks_refused_writes_total",): 2, ("voxelworks_claims_total",): 2,
        ("voxelworks_late_renewals_total",): 2, ("voxelworks_lost_leases_total",): 1,
        ("voxelworks_reaper_actions_total",): 1, ("voxelworks_refunds_total",): 0,
        ("voxelworks_jobs_queued", *kinds): 1, ("voxelworks_jobs_held", *kinds): 1,
    }  # fmt: skip
    assert {name: found[name] for name in names} == names
    assert found["voxelworks_oldest_job_seconds", *kinds] == pytest.approx(30, abs=10)
    assert not any(job.id in part or session_id in part for key in found for part in key)


def test_metrics_are_for_operators_and_this_machine(app: FastAPI, context: Context) -> None:
    with context.database.read_session() as session:
        operator = accounts.local_principal(session)
    assert ask(app, "/metrics").status_code == 200
    assert ask(app, "/metrics", address="10.1.2.3").status_code == 401
    assert ask(app, "/metrics", headers={"X-Forwarded-For": "10.1.2.3"}).status_code == 401
    assert ask(app, "/metrics", who=operator, address="10.1.2.3").status_code == 200
    assert (
        ask(app, "/metrics", who=replace(operator, is_operator=False), address="10.1.2.3").status_code == 403
    )


def test_health_answers_without_the_database_and_readiness_does_not(
    context: Context, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = ask(app, "/readyz")
    assert ready.status_code == 200
    assert {check["name"]: check["state"] for check in ready.json()["checks"]} == {
        "database": "ok", "tables": "ok", "workers": "warning", "disk": "ok",
    }  # fmt: skip
    monkeypatch.setattr(type(context.database), "read_session", _broken)
    assert ask(app, "/healthz").status_code == 200
    down = ask(app, "/readyz")
    assert (down.status_code, down.json()["is_ready"]) == (503, False)
    found = figures(ask(app, "/metrics"))
    assert found["voxelworks_database_answers",] == 0


def test_a_server_with_old_tables_or_a_full_disk_is_not_ready(context: Context, app: FastAPI) -> None:
    app.state.context = _with(context, free_bytes_min=2**62)
    assert [
        check["text"] for check in ask(app, "/readyz").json()["checks"] if check["state"] == "failed"
    ] == ["too little space left for the home and the datasets"]
    app.state.context = context
    with context.database.session() as session:
        before = session.scalar(text("SELECT version_num FROM alembic_version"))
        session.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    try:
        answer = ask(app, "/readyz")
        assert (answer.status_code, answer.json()["checks"][1]["state"]) == (503, "failed")
    finally:
        with context.database.session() as session:
            session.execute(text("UPDATE alembic_version SET version_num = :before"), {"before": before})


def test_trouble_is_told_once_per_kind_and_cool_down(context: Context) -> None:
    full = _with(context, free_bytes_min=2**62)
    assert alerts.look(context) == 0
    assert alerts.look(full) == 2
    assert alerts.look(full) == 0
    with context.database.read_session() as session:
        subjects = [mail.subject for mail in notify.list_mails(session).mails]
    assert len([subject for subject in subjects if "almost full" in subject]) == 2


def _with(context: Context, **changes: object) -> Context:
    return replace(context, settings=context.settings.model_copy(update=changes))


def _broken(_: Database) -> Iterator[None]:
    raise StorageFailed("the database does not answer")
