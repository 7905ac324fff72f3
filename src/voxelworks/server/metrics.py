"""Metrics for Prometheus (rule R25): the queue from the database, requests from this process."""

from __future__ import annotations

import time
from collections.abc import Iterator

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import voxelworks
from voxelworks import accounts, jobs, notify
from voxelworks.accounts import Action
from voxelworks.db import Database
from voxelworks.errors import NotLetIn, StorageFailed
from voxelworks.server.context import LOST, Here, Visitor
from voxelworks.server.origin import is_from_here
from voxelworks.server.security import WORKER_PATHS
from voxelworks.settings import Settings

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the classes of durations."""
_CLAIM = f"{WORKER_PATHS}sessions/{{session_id}}/claim"
_GIVEN = {200: "job", 204: "nothing"}
"""Status of the answer to a claim -> label. Workers that find nothing ask every few seconds."""

router = APIRouter(tags=["service"])


@router.get("/metrics", response_class=Response)
def read_metrics(context: Here, request: Request, visitor: Visitor) -> Response:
    """Give the metrics in the text format of Prometheus; to operators, and to programs on this machine if so set."""
    if visitor is not None:
        accounts.require(visitor, Action.OPERATE)
    elif not (context.settings.metrics_for_loopback and is_from_here(request)):
        raise NotLetIn(
            "metrics are for operators: send an operator's API token as `Authorization: Bearer TOKEN`"
        )
    figures: Figures = request.app.state.figures
    return Response(generate_latest(figures.registry), media_type=CONTENT_TYPE_LATEST)


def install_metrics(app: FastAPI) -> None:
    """Count the requests of an application that has its context, and answer `/metrics`."""
    context = app.state.context
    app.state.figures = Figures(context.database, context.settings)
    app.add_middleware(_Counting, figures=app.state.figures)
    app.include_router(router)


class Figures:
    """What is measured, for one server."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "voxelworks_http_requests", "Answered requests.", ["method", "route", "status"], registry=self.registry
        )  # fmt: skip
        self.seconds = Histogram(
            "voxelworks_http_request_seconds", "Time until the answer began.", ["method", "route"], buckets=SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self.claim_seconds = Histogram(
            "voxelworks_claim_seconds", "Time that giving a job to a worker took, or finding none.", ["given"],
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.refused_writes = Counter(
            "voxelworks_refused_writes",
            "Messages of workers that no longer held the job.",
            registry=self.registry,
        )
        ProcessCollector(registry=self.registry)
        self.registry.register(_Queue(database, settings))

    def count(self, method: str, route: str, status: int, seconds: float, *, is_lost: bool) -> None:
        self.requests.labels(method, route, status).inc()
        self.seconds.labels(method, route).observe(seconds)
        if route == _CLAIM and status in _GIVEN:
            self.claim_seconds.labels(_GIVEN[status]).observe(seconds)
        if is_lost:
            self.refused_writes.inc()


class _Counting:
    """ASGI middleware around everything else: refused requests count too."""

    def __init__(self, app: ASGIApp, figures: Figures) -> None:
        self._app = app
        self._figures = figures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_at = time.perf_counter()

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = _template_of(scope)
                seconds = time.perf_counter() - began_at
                self._figures.count(
                    scope["method"], route, message["status"], seconds, is_lost=scope.get(LOST, False)
                )
            await send(message)

        await self._app(scope, receive, counted)


def _template_of(scope: Scope) -> str:
    """Give the template of the address of a request: ids in it would make a series of each job."""
    route = scope.get("route")
    if not isinstance(route, APIRoute):
        return getattr(route, "path", "other")
    # The route says what follows the prefix under which its router was included, or, by version of FastAPI, all of it.
    filled_in = route.path_format.format(**scope["path_params"])
    prefix = scope["path"].removesuffix(filled_in) if scope["path"].endswith(filled_in) else ""
    return f"{prefix}{route.path}"


class _Queue(Collector):
    """Asks the database when it is asked itself."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings

    def describe(self) -> Iterator[Metric]:
        # Otherwise the registry would ask the database at once, to learn the names.
        return iter(())

    def collect(self) -> Iterator[Metric]:
        yield _gauge("build", "Version of the server.", {(voxelworks.__version__,): 1}, labels=("version",))
        try:
            with self._database.read_session() as session:
                queue = jobs.metrics(session)
                workers = jobs.list_workers(session, settings=self._settings)
                outbox_age_s = notify.outbox_age_s(session)
        except StorageFailed:
            yield _gauge("database_answers", "Whether the database answers.", {(): 0})
            return
        yield _gauge("database_answers", "Whether the database answers.", {(): 1})
        kinds = ("workflow", "class")
        depths = {(depth.workflow, depth.priority_class): depth for depth in queue.depths}
        yield _gauge("jobs_queued", "Jobs that wait.", {k: d.queued for k, d in depths.items()}, labels=kinds)
        yield _gauge(
            "jobs_held", "Jobs that workers hold.", {k: d.running for k, d in depths.items()}, labels=kinds
        )
        yield _gauge(
            "oldest_job_seconds", "How long the oldest waiting job has waited.",
            {k: d.oldest_s for k, d in depths.items() if d.oldest_s is not None}, labels=kinds,
        )  # fmt: skip
        yield _gauge(
            "results_unpublished", "Accepted results that nobody can see yet.", {(): queue.unpublished}
        )
        yield _gauge(
            "workers", "Workers, by whether they were heard from lately.",
            {(state,): sum(worker.is_online == (state == "online") for worker in workers)
             for state in ("online", "silent")}, labels=("state",),
        )  # fmt: skip
        yield _gauge(
            "outbox_age_seconds", "How long the oldest due mail has waited.", {(): outbox_age_s or 0.0}
        )
        yield _counter("claims", "Jobs that were given to workers.", queue.claims)
        yield _counter(
            "late_renewals", "Renewals more than twice as late as they should be.", queue.late_renewals
        )
        yield _counter("lost_leases", "Leases that ran out.", queue.lost_leases)
        yield _counter("reaper_actions", "What the server ended by itself.", queue.reaper_actions)
        yield _counter("refunds", "Charges that were returned.", queue.refunds)
        yield _counter("refunded_millicredits", "What was returned.", queue.refunded_millicredits)


def _gauge(
    name: str, text: str, values: dict[tuple[str, ...], float], *, labels: tuple[str, ...] = ()
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"voxelworks_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"voxelworks_{name}", text, value=value)
