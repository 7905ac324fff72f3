"""The routes of workers that were written for WEBKNOSSOS. Their key comes in the query."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from voxelworks import accounts, jobs
from voxelworks.errors import InvalidInput, NotLetIn
from voxelworks.protocol.foreign import ForeignReport, native_id
from voxelworks.server.context import Context, Here
from voxelworks.server.wk import images
from voxelworks.server.wk.models import PollAnswer
from voxelworks.server.wk.translate import order_for_worker
from voxelworks.workflows import parse_model

router = APIRouter()

HASH_LENGTH_MAX = 1000
Key = Annotated[str, Query(max_length=500)]


def _worker(context: Here, key: Key = "") -> jobs.ForeignWorker:
    known = accounts.enter_by_worker_key(context.database, key) if key else None
    if known is None:
        raise NotLetIn(
            "there is no worker with this key; an operator makes keys with `voxelworks admin worker-keys`"
        )
    return jobs.ForeignWorker(known, key)


Attach = Callable[[Session, jobs.ForeignWorker, str, str], None]
ForeignWorker = Annotated[jobs.ForeignWorker, Depends(_worker)]


@router.get("/jobs/request")
def request_jobs(
    context: Here,
    worker: ForeignWorker,
    worker_version: Annotated[str, Query(alias="workerVersion", max_length=200)] = "",
) -> PollAnswer:
    """Keep the jobs that the worker has, and give it more."""
    with context.database.session() as session:
        jobs.keep_foreign(session, worker, version=worker_version, box=context.box, settings=context.settings)
    for _ in range(jobs.CLAIMS_PER_POLL):
        with context.database.session() as session:
            taken = jobs.take_foreign(session, worker, box=context.box, settings=context.settings)
            remains = jobs.remains_before(session, taken) if taken is not None else None
        if remains is not None:
            # Others need not wait for the files: the name is the job's, and the worker has no answer yet.
            images.put_away(remains, context.places)
        if taken is None:
            break
    with context.database.read_session() as session:
        orders = jobs.foreign_orders(session, worker, box=context.box)
        answer = PollAnswer(
            to_run=[order_for_worker(session, order, places=context.places) for order in orders.to_run],
            to_cancel=[order_for_worker(session, order, places=context.places) for order in orders.to_cancel],
        )
    for order in orders.to_run:
        images.lay_out(order, context.places)
    return answer


@router.post("/jobs/{job_id}/status", response_class=Response)
async def report(context: Here, worker: ForeignWorker, request: Request, job_id: str) -> Response:
    """Take in the state of a job. Ends are final: another one is refused, the same one is welcome again."""
    told = parse_model(ForeignReport, _read_object(await request.body()))
    await run_in_threadpool(_report, context, worker, native_id(job_id), told)
    return Response()


@router.post("/jobs/{job_id}/attachVoxelyticsWorkflow", response_class=Response)
async def attach_workflow(context: Here, worker: ForeignWorker, request: Request, job_id: str) -> Response:
    """Note the name of the worker's own report of a job. The body is a JSON string."""
    workflow_hash = _read_text(await request.body())
    await run_in_threadpool(_attach, context, jobs.attach_foreign_workflow, worker, job_id, workflow_hash)
    return Response()


@router.post("/jobs/{job_id}/attachDatasetToInference", response_class=Response)
async def attach_dataset(context: Here, worker: ForeignWorker, request: Request, job_id: str) -> Response:
    """Note which dataset an inference made. The body is the name of its folder, as a JSON string."""
    name = _read_text(await request.body())
    await run_in_threadpool(_attach, context, jobs.attach_foreign_dataset, worker, job_id, name)
    return Response()


def _report(context: Context, worker: jobs.ForeignWorker, root_id: str, told: ForeignReport) -> None:
    with context.database.read_session() as session:
        place = jobs.awaited_place(session, worker, root_id, told)
    # Before the transaction: large datasets take a while to look through.
    made = jobs.look_at(place, context.places) if place is not None else None
    with context.database.session() as session:
        remains = jobs.report_foreign(
            session, worker, root_id, told, made=made, box=context.box, places=context.places,
            settings=context.settings,
        )  # fmt: skip
        if remains is not None:
            # Before the commit: afterwards the name is free, and what lies there may be another job's.
            images.put_away(remains, context.places)


def _attach(context: Context, attach: Attach, worker: jobs.ForeignWorker, job_id: str, text: str) -> None:
    with context.database.session() as session:
        attach(session, worker, native_id(job_id), text)


def _read_object(body: bytes) -> dict[str, object]:
    read = _read_json(body)
    if not isinstance(read, dict):
        raise InvalidInput('the body is not a JSON object; send at least {"state": ...}')
    return read


def _read_text(body: bytes) -> str:
    read = _read_json(body)
    if not isinstance(read, str) or not 0 < len(read) <= HASH_LENGTH_MAX:
        raise InvalidInput(f"the body is not a JSON string of 1 to {HASH_LENGTH_MAX} characters")
    return read


def _read_json(body: bytes) -> object:
    try:
        read: object = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"the body is not JSON ({error})") from error
    return read
