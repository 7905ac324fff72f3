"""The index of workflows, and the form of each, derived from its declaration."""

from __future__ import annotations

import secrets
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from voxelworks import catalog, jobs
from voxelworks.errors import InvalidInput, NotAllowed, NotFound, UnknownWorkflow, VoxelworksError
from voxelworks.protocol.views import DatasetView
from voxelworks.server import browse, rendering
from voxelworks.server.api.jobs import show_job
from voxelworks.server.context import OWNER, Context, Here
from voxelworks.server.forms import Form, Values
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
    context: Here, request: Request, name: str, copy_of: Annotated[str | None, Query(alias="from")] = None
) -> Response:
    """Show the form; the address may carry values, or name a job to start from."""
    workflow = get_workflow(name)
    values: Values = {key: request.query_params.getlist(key) for key in request.query_params}
    if copy_of is not None:
        values = _values_of_job(context, workflow, copy_of)
    form = Form.fill(workflow, values, _datasets(context))
    return _answer(request, context, form, copy_of=copy_of)


@router.post("/workflows/{name}/new", response_class=HTMLResponse)
async def submit_form(context: Here, request: Request, name: str) -> Response:
    """Submit the job; or grow and shrink the form, if one of its other buttons was pressed."""
    workflow = get_workflow(name)
    async with request.form(max_fields=2000) as posted:
        values = {key: [str(value) for value in posted.getlist(key)] for key in posted}
    rows = {
        field.path[0]: int(given[0])
        for field in workflow.fields
        if field.is_repeated and (given := values.get(f"rows:{field.path[0]}")) and given[0].isdecimal()
    }
    return await run_in_threadpool(_act, context, request, workflow, values, rows)


@router.get("/workflows/{name}/layer", response_class=HTMLResponse)
def layer_input(context: Here, request: Request, name: str, field: str, row: int = 0) -> Response:
    """Give the picker of a layer anew, after another dataset was chosen."""
    workflow = get_workflow(name)
    values = {key: request.query_params.getlist(key) for key in request.query_params}
    found = Form.fill(workflow, values, _datasets(context)).input_named(field, row)
    if found is None or found.field.kind != "layer":
        raise NotFound(f"{workflow.name} has no layer field {field!r}")
    return HTMLResponse(
        rendering.render("_input.html", input=found, datasets=(), roots=(), workflow=workflow)
    )


@router.get("/browse", response_class=HTMLResponse)
def browse_panel(context: Here, target: str, place: str = "") -> Response:
    """Show the folders below the import roots; what is picked goes into the input `target`."""
    roots = browse.list_roots(context.places)
    if not place and len(roots) == 1:
        place = roots[0].place
    problem = None
    folder = None
    if place:
        try:
            folder = browse.look_into(place, context.places)
        except InvalidInput as error:
            problem = error.message
    return HTMLResponse(
        rendering.render("_browse.html", target=target, roots=roots, folder=folder, problem=problem)
    )


def _act(
    context: Context, request: Request, workflow: Workflow, values: Values, rows: dict[str, int]
) -> Response:
    form = Form.fill(workflow, values, _datasets(context), rows=rows)
    key = next(iter(values.get("key") or ()), None)
    action, _, rest = (values.get("action") or ["submit"])[-1].partition(":")
    if action == "add" and rest in form.rows:
        return _answer(request, context, form.with_row_added(rest), key=key)
    group, _, row = rest.partition(":")
    if action == "remove" and group in form.rows and row.isdecimal():
        return _answer(request, context, form.with_row_removed(group, int(row)), key=key)
    try:
        workflow.parse(workflow.collect(form.collected()))
        with context.database.session() as session:
            job = jobs.submit(
                session, owner=OWNER, workflow=workflow.name, params=workflow.collect(form.collected()),
                places=context.places, idempotency_key=key,
            )  # fmt: skip
    except (InvalidInput, NotAllowed) as error:
        # A new key: the old one may stand for a job that was submitted from this page before.
        return _answer(request, context, form.with_error(error), status=422)
    return RedirectResponse(f"/jobs/{job.id}", status_code=303)


def _answer(
    request: Request,
    context: Context,
    form: Form,
    *,
    key: str | None = None,
    copy_of: str | None = None,
    status: int = 200,
) -> Response:
    # A second click on the button, or a repeated request, makes no second job.
    key = key or secrets.token_urlsafe(16)
    roots = browse.list_roots(context.places)
    return rendering.page(
        request, "form.html", status=status, form=form, workflow=form.workflow, key=key, copy_of=copy_of,
        datasets=form.datasets, roots=roots,
    )  # fmt: skip


def _values_of_job(context: Context, workflow: Workflow, job_id: str) -> Values:
    job = show_job(context, job_id).job
    if job.workflow != workflow.name:
        raise UnknownWorkflow(f"job {job_id} ran {job.workflow}, not {workflow.name}")
    try:
        flat = workflow.flatten(workflow.parse(job.params))
    except VoxelworksError:
        # Params of an earlier version may not fit any more; the form then begins empty.
        return {}
    return {key: value if isinstance(value, list) else [value] for key, value in flat.items()}


def _datasets(context: Context) -> tuple[DatasetView, ...]:
    with context.database.read_session() as session:
        return catalog.list_datasets(session)
