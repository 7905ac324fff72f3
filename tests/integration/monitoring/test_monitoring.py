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
from voxelworks.protocol.messages import SessionRequest
from voxelworks.protocol.people import Principal
from voxelworks.protocol.places import Places
from voxelworks.server import alerts, problems
from voxelworks.server.api import service
from voxelworks.server.context import PRINCIPAL, Context
from voxelworks.server.keys import Keys
from voxelworks.server.limits import limits_of
from voxelworks.server.live import Live
from voxelworks.server.metrics import install_metrics
from voxelworks.settings import Settings


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
def app(context: Context) -> FastAPI:
    """The routes under test, without the guard: who asks is set by the test."""
    app = FastAPI()
    app.state.context = context
    problems.install(app)
    app.include_router(service.probe_router)

    @app.post("/api/v1/worker/sessions/{session_id}/claim")
    def claim(session_id: str) -> None: ...

    @app.post("/api/v1/worker/jobs/{job_id}/finish", status_code=409)
    def finish(job_id: str) -> None: ...

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
) -> httpx.Response:
    async def known(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, PRINCIPAL: who}, receive, send)

    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(known, client=(address, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8440") as client:
            return await client.request(method, path, headers=headers)

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
    ask(app, "/api/v1/worker/sessions/abc/claim", method="POST")
    ask(app, "/api/v1/worker/jobs/7/finish", method="POST")
    ask(app, "/healthz")
    ask(app, "/nothing/at/all")
    found = figures(ask(app, "/metrics"))
    route = "route=/api/v1/worker/sessions/{session_id}/claim"
    assert found["voxelworks_http_requests_total", "method=POST", route, "status=200"] == 1
    assert found["voxelworks_http_requests_total", "method=GET", "route=other", "status=404"] == 1
    assert found["voxelworks_claim_seconds_count",] == 1
    assert found["voxelworks_refused_writes_total",] == 1
    assert found["voxelworks_workers", "state=online"] == 1
    assert found["voxelworks_workers", "state=silent"] == 0
    assert found["voxelworks_database_answers",] == 1
    assert found["voxelworks_lost_leases_total",] == 0
    assert found["voxelworks_outbox_age_seconds",] == 0
    assert not any("abc" in part for key in found for part in key)


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
