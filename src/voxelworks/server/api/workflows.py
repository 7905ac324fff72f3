"""The workflows of this server, and a submission route for each, with the schema of its params."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from fastapi import APIRouter, Body, Header, Query

from voxelworks import jobs
from voxelworks.protocol.messages import PRIORITY_MAX, Json, Message
from voxelworks.protocol.views import JobView
from voxelworks.server.context import Here, Who
from voxelworks.workflows import Params, Workflow, get_workflow, workflows

router = APIRouter(tags=["workflows"])

IdempotencyKey = Annotated[
    str | None, Header(max_length=200, description="The same key within 24 hours gives the same job.")
]


class FieldView(Message):
    """One thing that a person fills in."""

    name: str
    kind: str
    help: str
    is_required: bool
    default: str | None
    choices: tuple[str, ...]
    is_repeated: bool


class WorkflowView(Message):
    """A kind of work."""

    name: str
    version: int
    title: str
    summary: str
    description: str
    group: str
    cost: Literal["free", "metered"]
    example: Json
    params_schema: Json
    """JSON schema of the params."""
    outcome_schema: Json
    """JSON schema of the answer."""
    fields: tuple[FieldView, ...]
    """The params, flat, as forms and command lines show them."""

    @classmethod
    def of(cls, workflow: Workflow) -> WorkflowView:
        return cls(
            name=workflow.name, version=workflow.version, title=workflow.title, summary=workflow.summary,
            description=workflow.description, group=workflow.group, cost="free" if workflow.cost.is_free else "metered",
            example=workflow.example, params_schema=workflow.params_type.model_json_schema(),
            outcome_schema=workflow.outcome_type.model_json_schema(mode="serialization"),
            fields=tuple(
                FieldView(
                    name=field.name, kind=field.kind, help=field.help, is_required=field.is_required,
                    default=field.default, choices=field.choices, is_repeated=field.is_repeated,
                )
                for field in workflow.fields
            ),
        )  # fmt: skip


@router.get("/workflows")
def list_workflows() -> tuple[WorkflowView, ...]:
    """List what this server can run."""
    return tuple(WorkflowView.of(workflow) for workflow in workflows().values())


@router.get("/workflows/{name}")
def show_workflow(name: str) -> WorkflowView:
    return WorkflowView.of(get_workflow(name))


def submission_router() -> APIRouter:
    """Make ``POST /workflows/NAME/jobs`` for every installed workflow, so that the OpenAPI text knows its params."""
    made = APIRouter(tags=["workflows"])
    for workflow in workflows().values():
        made.add_api_route(
            f"/workflows/{workflow.name}/jobs",
            _submission_of(workflow),
            methods=["POST"],
            status_code=201,
            response_model=JobView,
            name=f"submit_{workflow.name}",
            summary=workflow.summary,
        )
    return made


def _submission_of(workflow: Workflow) -> Callable[..., JobView]:
    body = Body(examples=[workflow.example])

    def submit(
        context: Here,
        who: Who,
        params: Params = body,
        quote_id: str | None = None,
        priority: Annotated[int, Query(ge=-PRIORITY_MAX, le=PRIORITY_MAX)] = 0,
        idempotency_key: IdempotencyKey = None,
    ) -> JobView:
        context.limits.count_for("submission", who)
        given = params.model_dump(mode="json", exclude_unset=True)
        with context.database.session() as session:
            return jobs.submit(
                session, by=who, workflow=workflow.name, params=given, places=context.places, settings=context.settings,
                idempotency_key=idempotency_key, quote_id=quote_id, priority=priority,
            )  # fmt: skip

    # Each route takes the params of its own workflow.
    submit.__annotations__["params"] = workflow.params_type
    return submit
