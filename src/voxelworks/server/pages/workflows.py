"""The index of workflows, and the dialog in which jobs of one are filled in, priced and submitted."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from voxelworks import accounts, catalog, jobs
from voxelworks.accounts import Action
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
from voxelworks.protocol.messages import NewJob
from voxelworks.protocol.people import Principal
from voxelworks.protocol.views import AnnotationView, DatasetView, SavedParams
from voxelworks.server import browse, rendering
from voxelworks.server.api.jobs import show_job
from voxelworks.server.context import Context, Here, Who
from voxelworks.server.dialog import Dialog, Offer, Order
from voxelworks.server.forms import RUNS, Choice, Stock, Values, kind_values
from voxelworks.server.subjects import is_priced
from voxelworks.workflows import Workflow, get_workflow, workflows

router = APIRouter()

GROUPS = ("AI analysis", "Training", "Data", "Export", "Analysis")
"""In this order; others come after them."""


@dataclass(frozen=True)
class Told:
    """What the dialog says of the saved parameters."""

    note: str = ""
    problem: str = ""
    chosen: str = ""
    """Id of the set that is chosen."""
    name: str = ""
    """As it was typed, if nothing came of it."""


@router.get("/workflows", response_class=HTMLResponse)
def index_page(context: Here, request: Request, who: Who) -> Response:
    groups: dict[str, list[Workflow]] = {name: [] for name in GROUPS}
    for workflow in workflows().values():
        groups.setdefault(workflow.group, []).append(workflow)
    with context.database.read_session() as session:
        has_datasets = bool(catalog.list_datasets(session, by=who))
    return rendering.page(
        request, "workflows.html", groups={name: members for name, members in groups.items() if members},
        priced={name for name, workflow in workflows().items() if is_priced(context.settings, workflow)},
        has_datasets=has_datasets,
    )  # fmt: skip


@router.get("/workflows/{name}")
def begin(request: Request, _who: Who, name: str) -> Response:
    """Lead to the dialog, whatever its inputs are called: the address names values by kind, as `dataset` or `box`."""
    workflow = get_workflow(name)
    query = urlencode(kind_values(workflow, dict(request.query_params)))
    return RedirectResponse(
        f"/workflows/{workflow.name}/new" + (f"?{query}" if query else ""), status_code=303
    )


@router.get("/workflows/{name}/new", response_class=HTMLResponse)
def form_page(
    context: Here,
    request: Request,
    who: Who,
    name: str,
    copy_of: Annotated[str | None, Query(alias="from")] = None,
    saved: str | None = None,
) -> Response:
    """Show the dialog; the address may carry values, or name a job or saved parameters to start from."""
    workflow = get_workflow(name)
    values: Values = {key: request.query_params.getlist(key) for key in request.query_params}
    if copy_of is not None:
        values = _values_of_job(context, who, workflow, copy_of)
    dialog = Dialog.read(workflow, values, _stock(context, who, workflow, values))
    if saved is not None:
        with context.database.read_session() as session:
            dialog = _filled_in(dialog, _saved_of(session, who, workflow, saved))
    return _answer(request, context, who, dialog.settled(), copy_of=copy_of, told=Told(chosen=saved or ""))


@router.post("/workflows/{name}/new", response_class=HTMLResponse)
async def submit_form(context: Here, request: Request, who: Who, name: str) -> Response:
    """Submit the jobs; or change the dialog, if one of its other buttons was pressed."""
    return await run_in_threadpool(_act, context, request, who, get_workflow(name), await _posted(request))


@router.post("/workflows/{name}/quote", response_class=HTMLResponse)
async def quote_card(context: Here, request: Request, who: Who, name: str) -> Response:
    """Say what a dialog comes to, as far as it is filled in: price, sizes of boxes, and what is wrong with them."""
    return await run_in_threadpool(_quote, context, request, who, get_workflow(name), await _posted(request))


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


async def _posted(request: Request) -> dict[str, list[str]]:
    async with request.form(max_fields=5000) as posted:
        return {key: [str(value) for value in posted.getlist(key)] for key in posted}


def _act(
    context: Context, request: Request, who: Principal, workflow: Workflow, values: dict[str, list[str]]
) -> Response:
    dialog = Dialog.read(workflow, values, _stock(context, who, workflow, values))
    key = next(iter(values.get("key") or ()), None)
    action = (values.get("action") or ["submit"])[-1]
    name = "".join(values.get("saved_name", ())[-1:])
    if action == "enter":
        # Enter does what belongs to where somebody types.
        action = "saved:save" if name else "submit"
    if action.startswith("saved:"):
        dialog, told = _keep(context, who, dialog, action.partition(":")[2], name, values)
        return _answer(request, context, who, dialog.settled(), key=key, told=told)
    if action != "submit":
        return _answer(request, context, who, _changed(dialog, action, values), key=key)
    dialog, orders = dialog.orders()
    if not dialog.is_faulty and key is not None and (path := _made_before(context, who, orders, key)):
        return _lead_to(request, path)
    dialog, offer = _priced(context, who, dialog, orders)
    if dialog.is_faulty:
        return _answer(request, context, who, dialog, status=422)
    seen = "".join(values.get("amount", ())[-1:])
    try:
        return _lead_to(request, _submit(context, who, orders, offer, seen=seen, key=key))
    except StaleQuote:
        # The dialog or the prices changed since: the new price is shown, and nothing was submitted.
        return _answer(request, context, who, dialog, key=key, is_new_price=bool(seen))
    except (InvalidInput, NotAllowed, NotEnoughCredits, TooManyRequests) as error:
        # A new key: the old one may stand for jobs that were submitted from this page before.
        return _answer(request, context, who, dialog.with_group_error(error), status=422)


def _keep(
    context: Context, who: Principal, dialog: Dialog, what: str, name: str, values: Values
) -> tuple[Dialog, Told]:
    """Save the parameters that are filled in, or use, rename or delete the set that is chosen."""
    workflow, chosen = dialog.form.workflow, "".join(values.get("saved", ())[-1:])
    try:
        with context.database.session() as session:
            if what == "save":
                made = jobs.save_params(
                    session, by=who, workflow=workflow.name, name=name,
                    params=workflow.collect(dialog.form.collected()), is_shared="saved_shared" in values,
                    with_data="saved_data" in values,
                )  # fmt: skip
                return dialog, Told(f"Saved as {made.name}.", chosen=made.id)
            if not chosen:
                raise InvalidInput("choose saved parameters first")
            found = _saved_of(session, who, workflow, chosen)
            if what == "rename":
                changed = jobs.change_params(session, chosen, by=who, name=name)
                return dialog, Told(f"{found.name} is called {changed.name} now.", chosen=chosen)
            if what == "delete":
                jobs.delete_params(session, chosen, by=who)
                return dialog, Told(f"{found.name} is deleted.")
            return _filled_in(dialog, found), Told(f"Filled in with {found.name}.", chosen=chosen)
    except VoxelworksError as error:
        if error.http_status >= 500:
            raise
        return dialog, Told(problem=error.message, chosen=chosen, name=name)


def _filled_in(dialog: Dialog, found: SavedParams) -> Dialog:
    return dialog.with_form(dialog.form.with_params(dialog.form.workflow.flatten_raw(found.params)))


def _saved_of(session: Session, who: Principal, workflow: Workflow, set_id: str) -> SavedParams:
    found = jobs.find_params(session, set_id, by=who)
    if found.workflow != workflow.name:
        raise NotFound(f"the parameters {found.name!r} are of {found.workflow}, not of {workflow.name}")
    return found


def _made_before(context: Context, who: Principal, orders: Sequence[Order], key: str) -> str | None:
    """Find the page of what the same click has submitted already."""
    with context.database.read_session() as session:
        ids = jobs.find_submitted(session, by=who, jobs=[order.job for order in orders], idempotency_key=key)
        if len(ids) > 1:
            return f"/jobs?group={jobs.show(session, ids[0], by=who, settings=context.settings).job.group}"
    return f"/jobs/{ids[0]}" if ids else None


def _submit(
    context: Context,
    who: Principal,
    orders: Sequence[Order],
    offer: Offer | None,
    *,
    seen: str,
    key: str | None,
) -> str:
    """Submit all jobs or none, for exactly the price that was seen; give the page that shows them.

    Raises
    ------
    StaleQuote
        If it is another one.
    """
    if offer is not None and seen != str(offer.amount):
        raise StaleQuote("the price is another one than was shown", amount=offer.amount)
    context.limits.count_for("submission", who)
    new = [order.job for order in orders]
    with context.database.session() as session:
        if offer is not None:
            new = _quoted(context, session, who, new, seen)
        if len(new) > 1:
            made = jobs.submit_group(
                session,
                by=who,
                jobs=new,
                places=context.places,
                settings=context.settings,
                idempotency_key=key,
            )
            return f"/jobs?group={made[0].group}"
        [only] = new
        job = jobs.submit(
            session, by=who, workflow=only.workflow, params=only.params, places=context.places,
            settings=context.settings, idempotency_key=key, quote_id=only.quote_id, priority=only.priority,
        )  # fmt: skip
    return f"/jobs/{job.id}"


def _lead_to(request: Request, path: str) -> Response:
    # A script would put the other page into this one, without what that one loads.
    if "hx-request" in request.headers:
        return Response(status_code=204, headers={"HX-Redirect": path})
    return RedirectResponse(path, status_code=303)


def _quoted(
    context: Context, session: Session, who: Principal, new: Sequence[NewJob], seen: str
) -> list[NewJob]:
    """Bind jobs to their prices, in the transaction that submits them."""
    group = jobs.quote_group(session, by=who, jobs=new, places=context.places, settings=context.settings)
    if seen != str(group.amount):
        raise StaleQuote("the price has changed in this moment", amount=group.amount)
    return [
        job.model_copy(update={"quote_id": quote and quote.id})
        for job, quote in zip(new, group.quotes, strict=True)
    ]


def _quote(
    context: Context, request: Request, who: Principal, workflow: Workflow, values: dict[str, list[str]]
) -> Response:
    accounts.require(who, Action.SUBMIT_JOB)
    context.limits.count_for("estimate", who)
    dialog = Dialog.read(workflow, values, _stock(context, who, workflow, values))
    return rendering.page(
        request, "_quote.html", dialog=dialog, workflow=workflow, is_live=True,
        **_card(context, who, dialog),
    )  # fmt: skip


def _changed(dialog: Dialog, action: str, values: Values) -> Dialog:
    """Do what a button asks for that does not submit; an unknown one changes nothing."""
    what, _, rest = action.partition(":")
    name, _, more = rest.partition(":")
    form = dialog.form
    number = int(more) if more.isdecimal() else 0
    match what:
        case "add" if name == RUNS and form.takes_several:
            form = form.with_datasets_added(values.get("more", ()))
        case "add" if name in form.rows:
            form = form.with_row_added(name)
        case "remove" if name in form.rows and more.isdecimal():
            form = form.with_row_removed(name, number)
        case "box":
            row, _, box = more.partition(":")
            form = form.with_value(name, int(row), box) if name in form.values and row.isdecimal() else form
        case "follow":
            chosen = "".join(values.get("follow", ())[-1:])
            if chosen in {item.name for item in dialog.can_be_followed_by}:
                dialog = dialog.with_steps([*dialog.followers, chosen], values)
        case "unfollow" if name.isdecimal():
            dialog = dialog.without_step(int(name))
    return dialog.with_form(form).settled()


def _priced(
    context: Context, who: Principal, dialog: Dialog, orders: Sequence[Order]
) -> tuple[Dialog, Offer | None]:
    """Ask for the prices of all jobs. Reads only: nothing is promised."""
    with context.database.read_session() as session:
        return dialog.priced(
            orders,
            lambda job: jobs.price(
                session, by=who, workflow=job.workflow, params=job.params, places=context.places,
                settings=context.settings,
            ),
        )  # fmt: skip


def _card(context: Context, who: Principal, dialog: Dialog) -> dict[str, Any]:
    """Give what the end of a dialog shows: the price, as far as it can be told, and the button."""
    priced = any(is_priced(context.settings, form.workflow) for form in dialog.forms)
    offer, reason = None, None
    if priced and accounts.is_allowed(who, Action.SUBMIT_JOB):
        checked, orders = dialog.orders()
        if not checked.is_faulty:
            checked, offer = _priced(context, who, dialog, orders)
            if checked.is_faulty:
                offer, reason = None, _unplaced_problem(checked)
    if offer is None and reason is None:
        reason = "The price is shown when everything above is filled in and can be used."
    return {
        "offer": offer, "reason": reason, "is_priced": priced, "payers": accounts.who_may(Action.SUBMIT_PAID_JOB),
    }  # fmt: skip


def _unplaced_problem(dialog: Dialog) -> str | None:
    return next((form.problem for form in dialog.forms if form.problem), None)


def _answer(
    request: Request,
    context: Context,
    who: Principal,
    dialog: Dialog,
    *,
    key: str | None = None,
    copy_of: str | None = None,
    is_new_price: bool = False,
    told: Told = Told(),
    status: int = 200,
) -> Response:
    # A second click on the button, or a repeated request, makes no second job.
    key = key or secrets.token_urlsafe(16)
    saved: tuple[SavedParams, ...] = ()
    if accounts.is_allowed(who, Action.SEE_OWN_JOBS):
        with context.database.read_session() as session:
            saved = jobs.list_params(session, by=who, workflow=dialog.form.workflow.name)
    return rendering.page(
        request, "form.html", status=status, dialog=dialog, form=dialog.form, workflow=dialog.form.workflow, key=key,
        saved=saved, told=told, copy_of=copy_of, is_new_price=is_new_price, is_live=False,
        **_card(context, who, dialog),
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
    return _as_lists(flat)


def _as_lists(flat: Mapping[str, str | list[str]]) -> dict[str, list[str]]:
    return {key: value if isinstance(value, list) else [value] for key, value in flat.items()}


def _stock(context: Context, who: Principal, workflow: Workflow, values: Values) -> Stock:
    """Give the datasets that the workflow can work on: own ones, and those of others that the values name."""
    with context.database.read_session() as session:
        own = catalog.list_datasets(session, by=who)
        known = {ref for dataset in own for ref in (dataset.name, dataset.id)}
        refs = [
            ref for item in workflow.fields if item.kind == "dataset" for ref in values.get(item.name, ())
        ]
        foreign = [_named(session, who, ref) for ref in dict.fromkeys(refs) if ref and ref not in known]
        takes = {item.kind for item in workflow.fields}
        annotations = catalog.list_annotations(session, by=who) if takes & {"annotation", "box"} else ()
        models = catalog.list_models(session, by=who, places=context.places) if "model" in takes else ()
    usable, others = (
        tuple(item for item in items if item is not None and jobs.can_work_on(workflow, item, by=who))
        for items in (own, foreign)
    )
    # Those that are not fetched yet are no files that a job could read.
    here = tuple(item for item in annotations if item.kind != "webknossos" and not item.is_fetching)
    return Stock(usable, others, _drawn(annotations), here, models, who.organization_id)


def _named(session: Session, who: Principal, ref: str) -> DatasetView | None:
    try:
        return catalog.find(session, ref, by=who)
    except DatasetNotFound:
        return None


def _drawn(annotations: Sequence[AnnotationView]) -> dict[str, tuple[Choice, ...]]:
    """Give the boxes that people drew in annotations, by id of the dataset."""
    found: dict[str, list[Choice]] = {}
    for annotation in annotations:
        if annotation.dataset_id is None or annotation.summary is None:
            continue
        for number, box in enumerate(annotation.summary.bounding_boxes, start=1):
            found.setdefault(annotation.dataset_id, []).append(
                Choice(box, f"Box {number} of annotation {annotation.name}")
            )
    return {dataset_id: tuple(boxes) for dataset_id, boxes in found.items()}
