"""The index of workflows, and the form of each, derived from its declaration."""

from __future__ import annotations

import secrets
from typing import Annotated

from fastapi import APIRouter, Query
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from voxelworks import catalog, jobs
from voxelworks.errors import (
    DatasetNotFound,
    InvalidInput,
    NotAllowed,
    NotEnoughCredits,
    NotFound,
    StaleQuote,
    TooManyRequests,
    UnknownWorkflow,
    VoxelworksError,
)
from voxelworks.protocol.credits import QuoteView
from voxelworks.protocol.messages import Json
from voxelworks.protocol.people import Principal
from voxelworks.protocol.views import DatasetView
from voxelworks.server import browse, rendering
from voxelworks.server.api.jobs import show_job
from voxelworks.server.context import Context, Here, Who
from voxelworks.server.forms import Form, Values
from voxelworks.server.subjects import is_priced
from voxelworks.workflows import Workflow, get_workflow, workflows

router = APIRouter()


@router.get("/workflows", response_class=HTMLResponse)
def index_page(request: Request) -> Response:
    groups: dict[str, list[Workflow]] = {}
    for workflow in workflows().values():
        groups.setdefault(workflow.group, []).append(workflow)
    return rendering.page(request, "workflows.html", groups=groups)


@router.get("/workflows/{name}/new", response_class=HTMLResponse)
def form_page(
    context: Here,
    request: Request,
    who: Who,
    name: str,
    copy_of: Annotated[str | None, Query(alias="from")] = None,
) -> Response:
    """Show the form; the address may carry values, or name a job to start from."""
    workflow = get_workflow(name)
    values: Values = {key: request.query_params.getlist(key) for key in request.query_params}
    if copy_of is not None:
        values = _values_of_job(context, who, workflow, copy_of)
    return _answer(request, context, who, _form(context, who, workflow, values), copy_of=copy_of)


@router.post("/workflows/{name}/new", response_class=HTMLResponse)
async def submit_form(context: Here, request: Request, who: Who, name: str) -> Response:
    """Submit the job; or grow and shrink the form, if one of its other buttons was pressed."""
    workflow = get_workflow(name)
    async with request.form(max_fields=2000) as posted:
        values = {key: [str(value) for value in posted.getlist(key)] for key in posted}
    rows = {
        field.path[0]: int(given[0])
        for field in workflow.fields
        if field.is_repeated and (given := values.get(f"rows:{field.path[0]}")) and given[0].isdecimal()
    }
    return await run_in_threadpool(_act, context, request, who, workflow, values, rows)


@router.get("/workflows/{name}/layer", response_class=HTMLResponse)
def layer_input(context: Here, request: Request, who: Who, name: str, field: str, row: int = 0) -> Response:
    """Give the picker of a layer anew, after another dataset was chosen."""
    workflow = get_workflow(name)
    values = {key: request.query_params.getlist(key) for key in request.query_params}
    found = _form(context, who, workflow, values).input_named(field, row)
    if found is None or found.field.kind != "layer":
        raise NotFound(f"{workflow.name} has no layer field {field!r}")
    return HTMLResponse(
        rendering.render("_input.html", input=found, datasets=(), foreign=(), roots=(), workflow=workflow)
    )


@router.get("/browse", response_class=HTMLResponse)
def browse_panel(context: Here, who: Who, target: str, place: str = "") -> Response:
    """Show the folders below the import roots; what is picked goes into the input `target`."""
    places = context.places.for_organization(who.organization_id)
    roots = browse.list_roots(places)
    if not place and len(roots) == 1:
        place = roots[0].place
    problem = None
    folder = None
    if place:
        try:
            folder = browse.look_into(place, places)
        except InvalidInput as error:
            problem = error.message
    return HTMLResponse(
        rendering.render("_browse.html", target=target, roots=roots, folder=folder, problem=problem)
    )


def _act(
    context: Context,
    request: Request,
    who: Principal,
    workflow: Workflow,
    values: Values,
    rows: dict[str, int],
) -> Response:
    form = _form(context, who, workflow, values, rows)
    key = next(iter(values.get("key") or ()), None)
    action, _, rest = (values.get("action") or ["submit"])[-1].partition(":")
    if action == "add" and rest in form.rows:
        return _answer(request, context, who, form.with_row_added(rest), key=key)
    group, _, row = rest.partition(":")
    if action == "remove" and group in form.rows and row.isdecimal():
        return _answer(request, context, who, form.with_row_removed(group, int(row)), key=key)
    quote_id = next(iter(values.get("quote") or ()), None)
    try:
        params = workflow.collect(form.collected())
        workflow.parse(params)
        priority = form.read_priority()
        if is_priced(context.settings, workflow) and not (quote_id and action == "submit"):
            return _offer(request, context, who, form, params, key=key)
        context.limits.count_for("submission", who)
        with context.database.session() as session:
            job = jobs.submit(
                session, by=who, workflow=workflow.name, params=params, places=context.places,
                settings=context.settings, idempotency_key=key, quote_id=quote_id or None, priority=priority,
            )  # fmt: skip
    except StaleQuote:
        # The form or the prices changed since: the new price is shown, and nothing was submitted.
        return _offer(request, context, who, form, params, key=key, is_new_price=True)
    except (InvalidInput, NotAllowed, NotEnoughCredits, TooManyRequests) as error:
        # A new key: the old one may stand for a job that was submitted from this page before.
        return _answer(request, context, who, form.with_error(error), status=422)
    return RedirectResponse(f"/jobs/{job.id}", status_code=303)


def _offer(
    request: Request,
    context: Context,
    who: Principal,
    form: Form,
    params: Json,
    *,
    key: str | None,
    is_new_price: bool = False,
) -> Response:
    """Show the form with its price, and a button that agrees to it."""
    context.limits.count_for("estimate", who)
    with context.database.session() as session:
        quote = jobs.quote(
            session, by=who, workflow=form.workflow.name, params=params, places=context.places,
            settings=context.settings,
        )  # fmt: skip
    return _answer(request, context, who, form, key=key, quote=quote, is_new_price=is_new_price)


def _answer(
    request: Request,
    context: Context,
    who: Principal,
    form: Form,
    *,
    key: str | None = None,
    copy_of: str | None = None,
    quote: QuoteView | None = None,
    is_new_price: bool = False,
    status: int = 200,
) -> Response:
    # A second click on the button, or a repeated request, makes no second job.
    key = key or secrets.token_urlsafe(16)
    roots = browse.list_roots(context.places.for_organization(who.organization_id))
    return rendering.page(
        request, "form.html", status=status, form=form, workflow=form.workflow, key=key, copy_of=copy_of,
        datasets=form.datasets, foreign=form.foreign, roots=roots, quote=quote, is_new_price=is_new_price,
        is_priced=is_priced(context.settings, form.workflow),
    )  # fmt: skip


def _values_of_job(context: Context, who: Principal, workflow: Workflow, job_id: str) -> Values:
    job = show_job(context, who, job_id).job
    if job.workflow != workflow.name:
        raise UnknownWorkflow(f"job {job_id} ran {job.workflow}, not {workflow.name}")
    try:
        flat = workflow.flatten(workflow.parse(job.params))
    except VoxelworksError:
        # Params of an earlier version may not fit any more; the form then begins empty.
        return {}
    return {key: value if isinstance(value, list) else [value] for key, value in flat.items()}


def _form(
    context: Context,
    who: Principal,
    workflow: Workflow,
    values: Values,
    rows: dict[str, int] | None = None,
) -> Form:
    """Fill in the form, with the datasets that the workflow can work on: own ones, and those of others it names."""
    with context.database.read_session() as session:
        own = catalog.list_datasets(session, by=who)
        known = {ref for dataset in own for ref in (dataset.name, dataset.id)}
        refs = [
            ref for item in workflow.fields if item.kind == "dataset" for ref in values.get(item.name, ())
        ]
        foreign = [_named(session, who, ref) for ref in dict.fromkeys(refs) if ref and ref not in known]
    usable, others = (
        tuple(item for item in items if item is not None and jobs.can_work_on(workflow, item, by=who))
        for items in (own, foreign)
    )
    return Form.fill(workflow, values, usable, foreign=others, rows=rows)


def _named(session: Session, who: Principal, ref: str) -> DatasetView | None:
    try:
        return catalog.find(session, ref, by=who)
    except DatasetNotFound:
        return None
