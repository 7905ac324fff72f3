"""Every route, asked by everybody: who may, and that nobody sees anything of another organization.

The table says what is expected, independently of the matrix in `accounts.permissions`. A route without an entry fails.
"""

from __future__ import annotations

import base64
import hashlib
import io
import secrets
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from small_networks import small_facts
from voxelworks import __version__, accounts, catalog, credits, jobs
from voxelworks import notify as notifications
from voxelworks.accounts import Shared
from voxelworks.db import Database, SecretBox, open_database
from voxelworks.jobs._tables import JobRow, WorkerSessionRow
from voxelworks.protocol.messages import ArtifactFile, SessionRequest
from voxelworks.protocol.people import Principal
from voxelworks.protocol.places import PREVIEW_FOLDER, Places, artifact_place, dataset_place, model_place
from voxelworks.protocol.uploads import NewFile, NewUpload, Piece, pack
from voxelworks.protocol.views import DatasetSummary, LayerPreview, LayerSummary, SliceView
from voxelworks.server.app import PAGE_ROUTERS
from voxelworks.server.pages.artifacts import shared_router as shared_file_router
from voxelworks.server.pages.viewer import shared_router
from voxelworks.settings import Settings
from voxelworks.testing.people import make_member, make_organization
from voxelworks.testing.server import running_server
from voxelworks.volumes.metadata import PROPERTIES_FILE

from .conftest import make_scope

SECRET = "hushhush"
"""Part of every name in the other organization: no answer to anybody from here may contain it."""
ROLES = ("anonymous", "member", "dataset_manager", "admin", "owner", "operator")
ALL = frozenset(ROLES[1:])
MANAGERS = ALL - {"member"}
ADMINS = frozenset({"admin", "owner", "operator"})
OWNER = frozenset({"owner", "operator"})
"""The operator of these tests owns an organization too."""
OPERATOR = frozenset({"operator"})
NOBODY: frozenset[str] = frozenset()
DONE = frozenset({200, 201, 204, 303})
NML = (
    b'<?xml version="1.0"?><things><parameters><experiment name="x"/><scale x="4" y="4" z="40"/></parameters>'
    b'<thing id="1" name="t"><nodes><node id="1" x="1" y="2" z="3" radius="1"/></nodes><edges/></thing></things>'
)


PIECES = pack([(Piece(number=0, offset=0, size_bytes=3, sha256=hashlib.sha256(b"one").hexdigest()), b"one")])
READY = (
    '{"id": {"name": "r", "team": ""}, "scale": {"factor": [4, 4, 40], "unit": "nanometer"}, "dataLayers": [{'
    '"name": "color", "category": "color", "elementClass": "uint8", "dataFormat": "zarr3", "numChannels": 1,'
    '"boundingBox": {"topLeft": [0, 0, 0], "width": 8, "height": 8, "depth": 8},'
    '"mags": [{"mag": [1, 1, 1], "path": "./color/1"}]}]}'
)


@dataclass(frozen=True)
class Case:
    """What is expected of a route."""

    may: frozenset[str]
    things: str = ""
    """What the placeholders of the path and the values in braces stand for: a kind of `Things`."""
    json: Any = None
    form: dict[str, Any] | None = None
    files: bool = False
    content: bytes | None = None
    query: str = ""
    ok: frozenset[int] = DONE
    """Answers to those who may."""
    is_open: bool = False
    foreign: int = 404
    """Answer about things of another organization."""
    colleague: frozenset[str] | None = None
    """For what belongs to one person: who may about that of another member of the organization."""
    operators_see_all: bool = False
    is_repeat: bool = False
    """It makes a job that stays with the owner of the one that it repeats."""


def case(may: frozenset[str], things: str = "", **more: Any) -> Case:
    return Case(
        may, things, **{key: frozenset(value) if key == "ok" else value for key, value in more.items()}
    )


def operate(things: str = "", **more: Any) -> Case:
    return case(OPERATOR, things, operators_see_all=True, **more)


def own_job(things: str = "job", **more: Any) -> Case:
    return case(ALL, things, colleague=ADMINS, operators_see_all=True, **more)


def artifact_of(things: str = "artifact", **more: Any) -> Case:
    """Say who may have the file of a job: whoever sees the job, but no operator of another organization."""
    return case(ALL, things, colleague=ADMINS, **more)


CONVERT = {"layers": [{"source": "root:scope/run1"}], "target": "{new}", "voxel_size": "4,4,40"}
JOB = {"workflow": "convert", "params": CONVERT}
CONVERT_FORM = {
    "source": "root:scope/run1", "layer_name": "color", "category": "color", "target": "{new}", "voxel_size": "4,4,40",
    "action": "submit",
}  # fmt: skip
LAYER = {"layer": {"dataset": "{ref}", "layer": "color"}}
JUDGED = {**LAYER, "truth": {"dataset": "{ref}", "layer": "truth"}}
MAPPED = {"layer": {"dataset": "{ref}", "layer": "color"}, "mapping": "m", "target": "{new}-mapped"}
LABELLED = {**LAYER, "box": "0,0,0,8,8,8"}
PAINTED = {"dataset": "{ref}", "source": "root:scope/run1"}
INFERRED = {**LAYER, "model": "nothing", "target": "{new}-made"}
TRAINED = {"boxes": [{"image": "{ref}/color", "truth": "{ref}/truth"}], "target": "{new}-model"}
SHRUNK = {"dataset": "{ref}", "annotation": "{annotation_id}"}
ANNOTATED = {"dataset": "{ref}", "annotation": "{annotation_id}", "target": "{new}-made"}

API = {
    "GET /workers": case(ALL),
    "GET /workflows": case(ALL),
    "GET /workflows/{name}": case(ALL, "workflow"),
    "POST /workflows/convert/jobs": case(ALL, "new", json=CONVERT),
    "POST /workflows/agglomerate/jobs": case(
        ALL, "dataset", json={**LAYER, "threshold": 0.5, "target": "{new}-made"}, ok={201, 422}
    ),
    "POST /workflows/apply_mapping/jobs": case(ALL, "dataset", json=MAPPED, ok={201, 422}),
    "POST /workflows/describe/jobs": case(ALL, "dataset", json={"dataset": "{ref}"}),
    "POST /workflows/compute_segment_index_file/jobs": case(ALL, "dataset", json=LAYER, ok={201, 422}),
    "POST /workflows/compute_segment_statistics/jobs": case(ALL, "dataset", json=LAYER, ok={201, 422}),
    "POST /workflows/downsample/jobs": case(ALL, "dataset", json=LAYER, ok={201, 422}),
    "POST /workflows/downsample_volume_annotation/jobs": case(ALL, "annotated_dataset", json=SHRUNK),
    "POST /workflows/evaluate_segmentation/jobs": case(ALL, "dataset", json=JUDGED, ok={201, 422}),
    "POST /workflows/export_ome_zarr/jobs": case(ALL, "dataset", json=LAYER),
    "POST /workflows/export_tiff/jobs": case(ALL, "dataset", json=LAYER),
    "POST /workflows/materialize_volume_annotation/jobs": case(ALL, "annotated_dataset", json=ANNOTATED),
    "POST /workflows/export_training_box/jobs": case(ALL, "dataset", json=LABELLED, ok={201, 422}),
    "POST /workflows/import_training_labels/jobs": case(ALL, "dataset", json=PAINTED, ok={201, 422}),
    "POST /workflows/import_model/jobs": case(ALL, "new", json={"source": "root:scope/run1", "target": "{new}"}),
    **{
        f"POST /workflows/{name}/jobs": case(ALL, "dataset", json=INFERRED, ok={404})
        for name in ("infer_instances", "infer_mitochondria", "infer_neurons", "infer_nuclei", "infer_with_model")
    },
    **{
        f"POST /workflows/{name}/jobs": case(ALL, "dataset", json=TRAINED, ok={201, 404, 422})
        for name in ("train_instance_model", "train_neuron_model")
    },
    "POST /workflows/find_largest_segment_id/jobs": case(ALL, "dataset", json=LAYER, ok={201, 422}),
    "POST /jobs": case(ALL, "new", json=JOB),
    "POST /jobs/quote": case(ALL, "new", json=JOB),
    "GET /jobs": case(ALL),
    "GET /jobs/{job_id}": own_job(),
    "POST /jobs/{job_id}/cancel": own_job(),
    "POST /jobs/{job_id}/retry": own_job("ended_job", json={}, is_repeat=True),
    "POST /jobs/{job_id}/retry/quote": own_job("ended_job"),
    "POST /jobs/{job_id}/help": own_job("failed_job", json={}),
    "GET /jobs/{job_id}/log": own_job("failed_job"),
    "GET /jobs/{job_id}/log/lines": own_job("failed_job"),
    "GET /jobs/{job_id}/log/search": own_job("failed_job", query="?text=line"),
    "GET /jobs/{job_id}/events": own_job(),
    "GET /jobs/{job_id}/file": artifact_of(),
    "DELETE /jobs/{job_id}/file": artifact_of(),
    "GET /jobs/{job_id}/shares": artifact_of(),
    "POST /jobs/{job_id}/shares": artifact_of(json={"name": "for Ada"}),
    "DELETE /jobs/{job_id}/shares/{share_id}": artifact_of("shared_artifact"),
    "POST /jobs/cancel": case(ALL, "job", json={"jobs": ["{job_id}"]}, foreign=200),
    "POST /jobs/retry": case(ALL, "ended_job", json={"jobs": ["{job_id}"]}, foreign=200),
    "POST /jobs/retry/quote": case(ALL, "ended_job", json={"jobs": ["{job_id}"]}, foreign=200),
    "POST /groups": case(ALL, "new", json={"jobs": [JOB]}),
    "POST /groups/quote": case(ALL, "new", json={"jobs": [JOB]}),
    "POST /groups/{group}/cancel": own_job("group"),
    "GET /datasets": case(ALL, query="?include_public=true&include_trashed=true"),
    "POST /datasets": case(ALL, "ready", json={"name": "{new}", "place": "root:scope/{new}"}),
    "GET /datasets/{ref}": case(ALL, "dataset"),
    "PATCH /datasets/{ref}": case(MANAGERS, "dataset", json={"is_public": False}),
    "DELETE /datasets/{ref}": case(MANAGERS, "dataset"),
    "POST /datasets/{dataset_id}/restore": case(MANAGERS, "trashed_dataset"),
    "POST /datasets/{dataset_id}/delete-now": case(MANAGERS, "trashed_dataset"),
    "GET /datasets/{dataset_id}/files/{path}": case(ALL, "stored_dataset"),
    "GET /datasets/{ref}/shares": case(ALL, "dataset"),
    "POST /datasets/{ref}/shares": case(ALL, "dataset", json={"name": "for Fiji"}),
    "DELETE /datasets/{ref}/shares/{share_id}": case(ALL, "share", colleague=MANAGERS),
    "GET /roots": case(ALL),
    "GET /folders": case(ALL, query="?place=root:scope"),
    "GET /storage": case(ALL),
    "GET /leftovers": case(ALL),
    "GET /annotations": case(ALL, query="?include_trashed=true"),
    "POST /annotations": case(ALL, form={"name": "mine"}, files=True),
    "POST /annotations/link": case(ALL, json={"name": "mine", "address": "http://127.0.0.1:9/annotations/5f0123456789abcdef012345"}),
    "GET /annotations/{annotation_id}": case(ALL, "annotation"),
    "GET /annotations/{annotation_id}/contents": case(ALL, "annotation"),
    "GET /annotations/{annotation_id}/file": case(ALL, "annotation"),
    "POST /annotations/{annotation_id}/fetch": case(ALL, "far_annotation", json={}, colleague=MANAGERS),
    "DELETE /annotations/{annotation_id}": case(ALL, "annotation", colleague=MANAGERS),
    "POST /annotations/{annotation_id}/restore": case(ALL, "trashed_annotation", colleague=MANAGERS),
    "POST /annotations/{annotation_id}/delete-now": case(ALL, "trashed_annotation", colleague=MANAGERS),
    "GET /models": case(ALL, query="?task=instances"),
    "GET /models/{ref}": case(ALL, "model"),
    "PATCH /models/{ref}": case(ALL, "model", json={"comment": "good"}, colleague=MANAGERS),
    "DELETE /models/{ref}": case(ALL, "model", colleague=MANAGERS),
    "DELETE /models/{ref}/versions/{number}": case(ALL, "model", colleague=MANAGERS),
    "GET /uploads": case(ALL),
    "POST /uploads": case(ALL, json={"files": [{"path": "s1.tif", "size_bytes": 1}]}),
    "GET /uploads/{upload_id}": case(ALL, "upload", colleague=NOBODY),
    "GET /uploads/{upload_id}/missing": case(ALL, "upload", colleague=NOBODY),
    "PUT /uploads/{upload_id}/pieces": case(ALL, "upload", colleague=NOBODY, content=PIECES),
    "POST /uploads/{upload_id}/finish": case(ALL, "upload", colleague=NOBODY, ok={409}),
    "DELETE /uploads/{upload_id}": case(ALL, "upload", colleague=NOBODY),
    "GET /params": case(ALL),
    "POST /params": case(ALL, "new", json={"workflow": "downsample", "name": "{new}", "params": {}}),
    "GET /params/{set_id}": case(ALL, "params", colleague=NOBODY),
    "PATCH /params/{set_id}": case(ALL, "params", colleague=NOBODY, json={"is_shared": True}),
    "DELETE /params/{set_id}": case(ALL, "params", colleague=NOBODY),
    "GET /account": case(ALL),
    "PATCH /account": case(ALL, json={"name": "Somebody"}),
    "POST /account/password": case(ALL, json={"old": "x", "new": "y"}, ok={401, 403, 422}),
    "GET /account/sessions": case(ALL),
    "DELETE /account/sessions/{session_id}": case(ALL, "session", colleague=NOBODY, operators_see_all=False),
    "DELETE /account/sessions": case(ALL),
    "POST /account/organization": case(ALL, "organization", json={"organization_id": "{organization_id}"}),
    "GET /account/tokens": case(ALL),
    "POST /account/tokens": case(ALL, json={"name": "t", "scopes": ["read"]}),
    "DELETE /account/tokens/{token_id}": case(ALL, "token", colleague=NOBODY),
    "GET /account/notifications": case(ALL),
    "PUT /account/notifications": case(ALL, json={"is_off": True}),
    "GET /organization": case(ALL),
    "PATCH /organization": case(ADMINS, json={"name": "Renamed"}),
    "GET /organization/members": case(ALL),
    "PATCH /organization/members/{user_id}": case(ADMINS, "member", json={"role": "dataset_manager"}),
    "DELETE /organization/members/{user_id}": case(ADMINS, "member"),
    "POST /organization/owner": case(OWNER, "member", json={"user_id": "{user_id}"}),
    "GET /organization/invitations": case(ADMINS),
    "POST /organization/invitations": case(ADMINS, json={"email": "new@example.org"}),
    "DELETE /organization/invitations/{invitation_id}": case(ADMINS, "invitation"),
    "GET /organization/credits": case(ALL),
    "GET /organization/credits/activity": case(ADMINS),
    "GET /organization/credits/activity.csv": case(ADMINS),
    "GET /organization/credits/orders": case(ADMINS),
    "POST /organization/credits/orders": case(OWNER, json={"credits": 5}),
    "GET /organization/webhooks": case(ADMINS),
    "POST /organization/webhooks": case(ADMINS, json={"url": "https://hooks.example.org/x"}),
    "PATCH /organization/webhooks/{webhook_id}": case(ADMINS, "webhook", json={"is_on": False}),
    "DELETE /organization/webhooks/{webhook_id}": case(ADMINS, "webhook"),
    "POST /organization/webhooks/{webhook_id}/test": case(ADMINS, "webhook"),
    "GET /organization/audit": case(ADMINS),
    "GET /operator/organizations": operate(),
    "POST /operator/organizations": operate("new", json={"id": "{new}", "name": "New"}),
    "PATCH /operator/organizations/{organization_id}": operate("organization", json={"storage_bytes_max": 5}),
    "POST /operator/organizations/{organization_id}/owner": operate("organization", json={"email": "x"}, ok={404, 422}),
    "GET /operator/users": operate(),
    "POST /operator/users": operate("new", json={"email": "{new}@example.org", "name": "New"}),
    "PATCH /operator/users/{user_id}": operate("member", json={"is_disabled": True}),
    "POST /operator/users/{user_id}/reset": operate("member"),
    "GET /operator/audit": operate(),
    "GET /operator/worker-keys": operate(),
    "POST /operator/worker-keys": operate(json={"name": "key"}),
    "DELETE /operator/worker-keys/{key_id}": operate("key"),
    "POST /operator/workers/{name}/drain": operate("worker"),
    "POST /operator/workers/{name}/resume": operate("worker", ok={200, 204, 409}),
    "GET /operator/queue": operate(),
    "GET /operator/queue/pauses": operate(),
    "POST /operator/queue/pause": operate(json={}),
    "POST /operator/queue/resume": operate(json={}),
    "GET /operator/failures": operate(),
    "POST /operator/failures/repeat": operate(json={"group": "none"}),
    "GET /operator/mails": operate(),
    "GET /operator/mails/{mail_id}": operate("mail"),
    "POST /operator/mails/{mail_id}/send": operate("mail", ok={200, 409}),
    "GET /operator/orders": operate(),
    "POST /operator/orders/{order_id}/grant": operate("order", json={}),
    "POST /operator/orders/{order_id}/decline": operate("order", json={"reason": "no"}),
    "GET /operator/organizations/{organization_id}/credits": operate("organization"),
    "POST /operator/organizations/{organization_id}/grants": operate("organization", json={"credits": 1}),
}  # fmt: skip
WORKERS = (
    "POST /worker/sessions", "POST /worker/sessions/{session_id}/claim",
    "POST /worker/sessions/{session_id}/publish-order", "POST /worker/sessions/{session_id}/leave",
    "POST /worker/sessions/{session_id}/cleanup-order", "POST /worker/attempts/{job_id}/{attempt}/renew",
    "POST /worker/attempts/{job_id}/{attempt}/log", "POST /worker/attempts/{job_id}/{attempt}/seal",
    "POST /worker/attempts/{job_id}/{attempt}/finish", "POST /worker/attempts/{job_id}/{attempt}/published",
    "POST /worker/attempts/{job_id}/{attempt}/cleaned", "POST /worker/attempts/{job_id}/{attempt}/dataset-lease",
    "POST /worker/attempts/{job_id}/{attempt}/dataset-release",
)  # fmt: skip
"""Nobody gets in without a worker key, whoever they are."""

PAGES = {
    "GET /": case(ALL),
    "GET /login": case(ALL, is_open=True),
    "POST /login": case(ALL, is_open=True, form={"email": "nobody@example.org", "password": "x"}, ok={401}),
    "POST /logout": case(ALL, is_open=False),
    "GET /login/oidc": case(ALL, is_open=True, ok={404}),
    "GET /login/oidc/callback": case(ALL, is_open=True, ok={404}),
    "GET /setup": case(NOBODY),
    "POST /setup": case(NOBODY, form={"name": "x"}),
    "GET /invitations/{token}": case(ALL, "invitation_token", is_open=True, operators_see_all=True, foreign=200),
    "POST /invitations/{token}": case(
        ALL, "invitation_token", is_open=True, foreign=303,
        form={"name": "New", "password": "a sentence of some length"},
    ),
    "GET /forgotten": case(ALL, is_open=True),
    "POST /forgotten": case(ALL, is_open=True, form={"email": "nobody@example.org"}, ok={200, 429}),
    "GET /reset/{token}": case(ALL, "nothing", is_open=True),
    "POST /reset/{token}": case(ALL, "nothing", is_open=True, form={"password": "x"}, ok={401, 403, 404, 422}),
    "GET /unsubscribe/{token}": case(ALL, "nothing", is_open=True, ok={404}),
    "POST /unsubscribe/{token}": case(ALL, "nothing", is_open=True, ok={404}),
    "GET /favicon.ico": case(ALL, is_open=True),
    "GET /jobs": case(ALL),
    "GET /help": case(ALL),
    "GET /jobs.csv": case(ALL),
    "GET /jobs/live": case(ALL),
    "GET /jobs/selected": case(ALL, "job", query="?deed=retry&job={job_id}&owner={job_id}", foreign=200),
    "POST /jobs/selected": case(ALL, "job", form={"deed": "cancel", "job": "{job_id}"}, foreign=200),
    "GET /jobs/{job_id}": own_job(),
    "GET /jobs/{job_id}/compare": own_job(query="?other={job_id}"),
    "GET /jobs/{job_id}/live": own_job(),
    "GET /jobs/{job_id}/picture.png": artifact_of("failed_job"),
    "GET /jobs/{job_id}/log": own_job("failed_job", query="?attempt=1&find=line"),
    "GET /jobs/{job_id}/log.txt": own_job("failed_job", query="?attempt=1"),
    "POST /jobs/{job_id}/cancel": own_job(),
    "POST /jobs/{job_id}/retry": own_job("ended_job", is_repeat=True),
    "POST /jobs/{job_id}/help": own_job("failed_job"),
    "GET /jobs/{job_id}/file": artifact_of(),
    "POST /jobs/{job_id}/file/delete": artifact_of(),
    "POST /jobs/{job_id}/shares": artifact_of(form={"name": "for Ada", "lifetime_days": "7"}),
    "POST /jobs/{job_id}/shares/{share_id}/revoke": artifact_of("shared_artifact"),
    "GET /shared/{token}/file": case(ALL, "shared_artifact", is_open=True, foreign=200),
    "HEAD /shared/{token}/file": case(ALL, "shared_artifact", is_open=True, foreign=200),
    "GET /workflows": case(ALL),
    "GET /workflows/{name}": case(ALL, "workflow"),
    "GET /workflows/{name}/new": case(ALL, "workflow"),
    "POST /workflows/{name}/new": case(ALL, "workflow", form=CONVERT_FORM),
    "POST /workflows/{name}/quote": case(ALL, "workflow", form=CONVERT_FORM),
    "GET /browse": case(ALL, query="?target=x&place=root:scope"),
    "GET /datasets": case(ALL, query="?public=true"),
    "POST /datasets/link": case(ALL, "ready", form={"name": "{new}", "place": "root:scope/{new}"}),
    "GET /trash": case(ALL),
    "GET /datasets/{ref}": case(ALL, "dataset"),
    "GET /datasets/{ref}/view": case(ALL, "stored_dataset"),
    "GET /datasets/{ref}/segments/{layer}": case(ALL, "labelled_dataset"),
    "POST /datasets/{dataset_id}/shares": case(ALL, "dataset", form={"name": "for Ada", "lifetime_days": "7"}),
    "POST /datasets/{dataset_id}/shares/{share_id}/revoke": case(ALL, "share", colleague=MANAGERS),
    "GET /shared/{token}/view": case(ALL, "share", is_open=True, foreign=200),
    "GET /shared/{token}/files/{path:path}": case(ALL, "share", is_open=True, foreign=200),
    "HEAD /shared/{token}/files/{path:path}": case(ALL, "share", is_open=True, foreign=200),
    "GET /datasets/{dataset_id}/preview/{layer}/{plane}.webp": case(ALL, "drawn_dataset"),
    "POST /datasets/{dataset_id}/preview": case(ALL, "dataset"),
    "POST /datasets/{dataset_id}/name": case(MANAGERS, "dataset", form={"name": "{new}"}),
    "POST /datasets/{dataset_id}/voxel-size": case(MANAGERS, "stored_dataset", form={"voxel_size": "4,4,30"}),
    "POST /datasets/{dataset_id}/modality": case(MANAGERS, "stored_dataset", form={"modality": "FIB-SEM"}),
    "POST /datasets/{dataset_id}/public": case(MANAGERS, "dataset", form={"is_public": "false"}),
    "POST /datasets/{dataset_id}/trash": case(MANAGERS, "dataset"),
    "POST /datasets/{dataset_id}/restore": case(MANAGERS, "trashed_dataset"),
    "POST /datasets/{dataset_id}/delete-now": case(MANAGERS, "trashed_dataset"),
    "GET /annotations": case(ALL),
    "GET /annotations/{annotation_id}": case(ALL, "annotation"),
    "GET /annotations/{annotation_id}/fetching": case(ALL, "annotation"),
    "POST /annotations/{annotation_id}/fetch": case(ALL, "far_annotation", form={"token": ""}, colleague=MANAGERS),
    "POST /annotations": case(ALL, form={"name": "mine"}, files=True),
    "POST /annotations/link": case(ALL, form={"name": "mine", "address": "http://127.0.0.1:9/annotations/5f0123456789abcdef012345"}),
    "POST /annotations/{annotation_id}/trash": case(ALL, "annotation", colleague=MANAGERS),
    "POST /annotations/{annotation_id}/restore": case(ALL, "trashed_annotation", colleague=MANAGERS),
    "POST /annotations/{annotation_id}/delete-now": case(ALL, "trashed_annotation", colleague=MANAGERS),
    "GET /models": case(ALL),
    "POST /models/upload": case(ALL, files=True),
    "GET /models/{ref}": case(ALL, "model"),
    "POST /models/{model_id}": case(ALL, "model", form={"comment": "good"}, colleague=MANAGERS),
    "POST /models/{model_id}/share": case(MANAGERS, "model", form={"organizations": ""}),
    "POST /models/{model_id}/delete": case(ALL, "model", colleague=MANAGERS),
    "POST /models/{model_id}/versions/{number}/delete": case(ALL, "model", colleague=MANAGERS),
    "GET /uploads/new": case(ALL),
    "POST /uploads/{upload_id}/remove": case(ALL, "upload", colleague=NOBODY),
    "GET /account": case(ALL),
    "POST /account/name": case(ALL, form={"name": "Somebody"}),
    "POST /account/password": case(ALL, form={"old": "x", "new": "y"}, ok={401, 403, 422}),
    "POST /account/sessions/{session_id}/end": case(ALL, "session", colleague=NOBODY),
    "POST /account/sessions/end": case(ALL),
    "POST /account/tokens": case(ALL, form={"name": "t", "scope": "read"}),
    "POST /account/tokens/{token_id}/revoke": case(ALL, "token", colleague=NOBODY),
    "POST /account/notifications": case(ALL, form={"mails": "failures"}),
    "POST /account/organization": case(ALL, "organization", form={"organization_id": "{organization_id}"}),
    "GET /organization": case(ALL),
    "POST /organization": case(ADMINS, form={"name": "Renamed", "zone": "UTC"}),
    "POST /organization/invitations": case(ADMINS, form={"email": "new@example.org"}),
    "POST /organization/invitations/{invitation_id}/revoke": case(ADMINS, "invitation"),
    "POST /organization/members/{user_id}/role": case(ADMINS, "member", form={"role": "dataset_manager"}),
    "POST /organization/members/{user_id}/remove": case(ADMINS, "member"),
    "POST /organization/owner": case(OWNER, "member", form={"user_id": "{user_id}"}),
    "GET /organization/credits": case(ALL),
    "GET /organization/credits.csv": case(ADMINS),
    "POST /organization/credits/order": case(OWNER, form={"credits": "5"}),
    "GET /organization/webhooks": case(ADMINS),
    "POST /organization/webhooks": case(ADMINS, form={"url": "https://hooks.example.org/x", "events": ["job.failed"]}),
    "POST /organization/webhooks/{webhook_id}/switch": case(ADMINS, "webhook", form={"is_on": "false"}),
    "POST /organization/webhooks/{webhook_id}/test": case(ADMINS, "webhook"),
    "POST /organization/webhooks/{webhook_id}/delete": case(ADMINS, "webhook"),
    "GET /organization/audit": case(ADMINS),
    "GET /operator": operate(),
    "POST /operator/queue/pause": operate(),
    "POST /operator/queue/resume": operate(),
    "GET /operator/failures": operate(),
    "POST /operator/failures/repeat": operate("failed_job", form={"group": "{job_id}"}),
    "GET /operator/workers": operate(),
    "POST /operator/workers/{name}/drain": operate("worker"),
    "POST /operator/workers/{name}/resume": operate("worker", ok={303, 409}),
    "POST /operator/worker-keys": operate(form={"name": "key"}),
    "POST /operator/worker-keys/{key_id}/revoke": operate("key"),
    "GET /operator/organizations": operate(),
    "POST /operator/organizations": operate("new", form={"short_name": "{new}", "name": "New"}),
    "POST /operator/organizations/{organization_id}/storage": operate("organization", form={"gibibytes": "1.5"}),
    "POST /operator/organizations/{organization_id}/owner": operate("organization", form={"email": "x"}, ok={422}),
    "POST /operator/users": operate("new", form={"email": "{new}@example.org", "name": "New"}),
    "POST /operator/users/{user_id}/reset": operate("member"),
    "POST /operator/users/{user_id}": operate("member", form={"is_disabled": "true"}),
    "GET /operator/mails": operate(),
    "GET /operator/mails/{mail_id}": operate("mail"),
    "POST /operator/mails/{mail_id}/send": operate("mail", ok={303, 409}),
    "GET /operator/orders": operate(),
    "POST /operator/orders/{order_id}/grant": operate("order", form={"comment": "thanks"}),
    "POST /operator/orders/{order_id}/decline": operate("order", form={"reason": "no"}),
    "POST /operator/grants": operate("organization", form={"organization_id": "{organization_id}", "credits": "1"}),
    "GET /operator/audit": operate(),
}  # fmt: skip

COLOR = LayerSummary(
    name="color", category="color", dtype="uint8", channel_count=1, box="0,0,0,8,8,8", mags=("1",)
)
PICTURE = SliceView(file=f"{'0' * 32}.webp", width=8, height=8, plane="xy", box="0,0,4,8,8,1")
GET_COST = "?command=convert_to_wkw&boundingBoxInMag=0,0,0,8,8,8"
FACE = {
    "GET /buildinfo": case(ALL, is_open=True),
    "GET /features": case(ALL, is_open=True),
    "GET /health": case(ALL, is_open=True),
    "POST /auth/login": case(ALL, is_open=True, json={"email": "x@example.org", "password": "x"}, ok={401}),
    "GET /jobs": case(ALL),
    "GET /jobs/status": case(ALL),
    "GET /jobs/getCreditCost": case(ALL, query=GET_COST),
    "GET /jobs/{job_id}": own_job(),
    "PATCH /jobs/{job_id}/cancel": own_job(),
    "PATCH /jobs/{job_id}/retry": own_job("ended_job", is_repeat=True),
    "GET /jobs/{job_id}/export": artifact_of(),
    "GET /auth/token": case(ALL),
    "DELETE /auth/token": case(ALL),
    "POST /userToken/generate": case(ALL),
    "GET /user": case(ALL),
    "GET /organizations": case(ALL),
    "GET /organizations/{organization_id}": case(ALL, "organization"),
    "GET /datasets": case(ALL),
    "GET /datasets/{dataset_id}": case(ALL, "dataset"),
    "GET /datasets/disambiguate/{organization_id}/{directory_name}/toId": case(ALL, "dataset"),
    "GET /aiModels": case(ALL),
    "GET /aiModels/inferences": case(ALL),
    "GET /aiModels/{model_id}": case(ALL, "model"),
    "GET /aiModels/{model_id}/voxelSize": case(ALL, "model"),
    "PUT /aiModels/{model_id}": case(ALL, "model", json={"name": "{new}-x"}, colleague=MANAGERS),
    "DELETE /aiModels/{model_id}": case(ALL, "model", colleague=MANAGERS),
    "GET /creditTransactions": case(ADMINS),
    "GET /maintenance/revokeExpiredCredits": operate(),
}  # fmt: skip
FACE_ELSEWHERE = (
    "POST /pricing/requestCredits", "POST /creditTransactions/addCredits", "PATCH /creditTransactions/{transaction_id}",
    "POST /jobs/run/{route}/{dataset_id}", "POST /aiModels/{route}", "GET /aiModels/inferences/{inference_id}",
    "POST /aiModels/runNeuronModelTraining", "POST /aiModels/runInstanceModelTraining",
)  # fmt: skip
"""Routes of the WEBKNOSSOS face whose rights are tested with what they do, in the tests of the face."""
FACE_WORKERS = (
    "GET /jobs/request", "POST /jobs/{job_id}/status", "POST /jobs/{job_id}/attachVoxelyticsWorkflow",
    "POST /jobs/{job_id}/attachDatasetToInference",
)  # fmt: skip
PROBES = {
    "GET /healthz": case(ALL, is_open=True), "GET /readyz": case(ALL, is_open=True, ok={200, 503}),
    "GET /metrics": case(ALL, is_open=True, ok={200, 401, 403, 404}),
}  # fmt: skip


@dataclass
class World:
    """A server with its database, seen from both sides."""

    url: str
    settings: Settings
    database: Database
    places: Places
    box: SecretBox
    client: httpx.Client
    count: int = 0
    kept: tuple[dict[str, Principal], dict[str, str]] | None = None

    def fresh(self, prefix: str = "n") -> str:
        self.count += 1
        return f"{prefix}{self.count}"

    def cookie(self, session: Session, who: Principal) -> str:
        return accounts.open_login_session(
            session,
            user_id=who.user_id,
            address="127.0.0.1",
            agent="browser",
            organization_id=who.organization_id,
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("tenants")
    scope = make_scope(folder)
    often = dict.fromkeys(("submission", "estimate", "upload", "door"), 100_000)
    settings = Settings(
        home=folder / "home", port=0, import_roots={"scope": scope}, credits_enabled=True, rates_per_minute=often,
        support_email="help@example.org", operator_email="op@example.org", remote_hosts=frozenset({"http://127.0.0.1:9"}),
    )  # fmt: skip
    with (
        running_server(settings) as info,
        closing(open_database(settings)) as database,
        httpx.Client(base_url=info.url, trust_env=False, timeout=30) as client,
    ):
        box = SecretBox(settings.secret_key_file)
        yield World(info.url, settings, database, Places.of(settings), box, client)


def make(world: World, session: Session, kind: str, by: Principal, *, prefix: str = "") -> dict[str, str]:
    """Make something in the organization of `by`; give the values of the placeholders that name it."""
    new = world.fresh(prefix or "n")
    makers: dict[str, Callable[[], dict[str, str]]] = {
        "": dict,
        "nothing": lambda: {"token": "nothing"},
        "new": dict,
        "ready": lambda: _ready(world, new),
        "workflow": lambda: {"name": "convert"},
        "organization": lambda: {"organization_id": by.organization_id},
        "job": lambda: {"job_id": _job(world, session, by, new)},
        "ended_job": lambda: {"job_id": _ended(world, session, by, new)},
        "failed_job": lambda: {"job_id": _failed(world, session, by, new)},
        "group": lambda: {"group": _group(world, session, by, new)},
        "dataset": lambda: _dataset(world, session, by, new),
        "stored_dataset": lambda: _stored_dataset(world, session, by, new),
        "share": lambda: _share(world, session, by, new),
        "labelled_dataset": lambda: _labelled_dataset(world, session, by, new),
        "artifact": lambda: _artifact(world, session, by, new),
        "shared_artifact": lambda: _shared_artifact(world, session, by, new),
        "drawn_dataset": lambda: _drawn_dataset(world, session, by, new),
        "trashed_dataset": lambda: _dataset(world, session, by, new, is_trashed=True),
        "annotation": lambda: {"annotation_id": _annotation(world, session, by, new)},
        "annotated_dataset": lambda: (
            _dataset(world, session, by, new) | {"annotation_id": _annotation(world, session, by, new)}
        ),
        "far_annotation": lambda: {"annotation_id": _far_annotation(world, session, by, new)},
        "trashed_annotation": lambda: {
            "annotation_id": _annotation(world, session, by, new, is_trashed=True)
        },
        "model": lambda: _model(session, by, new),
        "upload": lambda: {"upload_id": _upload(world, session, by, new)},
        "member": lambda: {"user_id": make_member(session, new, by.organization_id).user_id},
        "invitation": lambda: {"invitation_id": _invite(world, session, by, new)[1]},
        "invitation_token": lambda: {"token": _invite(world, session, by, new)[0]},
        "webhook": lambda: {"webhook_id": _webhook(world, session, by, new)},
        "session": lambda: {"session_id": _session(world, session, by)},
        "params": lambda: {"set_id": _params(session, by, new)},
        "token": lambda: {"token_id": accounts.create_api_token(session, by, new, ["read"], 1)[1].id},
        "key": lambda: {"key_id": accounts.create_worker_key(session, by, new)[1].id},
        "worker": lambda: {"name": _worker(world, session)},
        "order": lambda: {"order_id": credits.order(session, by.organization_id, by.user_id, 3, new).id},
        "mail": lambda: {"mail_id": _mail(world, session, new)},
    }
    return {"new": new, **makers[kind]()}


def _ready(world: World, new: str) -> dict[str, str]:
    """Lay a dataset below an import root."""
    folder = world.settings.import_roots["scope"].path / new
    folder.mkdir()
    (folder / "datasource-properties.json").write_text(READY)
    return {}


def _job(world: World, session: Session, by: Principal, new: str) -> str:
    params = {"layers": [{"source": "root:scope/run1"}], "target": new, "voxel_size": "4,4,40"}
    job = jobs.submit(
        session, by=by, workflow="convert", params=params, places=world.places, settings=world.settings
    )
    return job.id


def _ended(world: World, session: Session, by: Principal, new: str) -> str:
    job_id = _job(world, session, by, new)
    jobs.cancel(session, job_id, by=by)
    return job_id


def _failed(world: World, session: Session, by: Principal, new: str) -> str:
    """Have a worker fail a job, with a log and a picture."""
    from voxelworks.protocol.messages import FinishRequest, Picture, Progress, RenewRequest

    job_id = _job(world, session, by, new)
    png = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
    progress = Progress(
        phase="x", done=0, total=1, picture=Picture(name="x", step=1, width=1, height=1, png=png)
    )
    request = SessionRequest(name=world.fresh("worker"), version="test", workflows={"convert": 1})
    opened = jobs.open_session(session, request, settings=world.settings)
    while True:
        claim = jobs.claim(session, opened.session_id, settings=world.settings)
        assert claim is not None, "the job is in the queue"
        report = FinishRequest(
            token=claim.token, outcome="failed", failure_class="user_input", code="no", message="no"
        )
        renewal = RenewRequest(token=claim.token, progress=progress)
        jobs.renew(session, claim.job_id, claim.attempt, renewal, settings=world.settings)
        jobs.append_log(
            session,
            claim.job_id,
            claim.attempt,
            claim.token,
            0,
            b"a line of a log\n",
            settings=world.settings,
        )
        jobs.finish(session, claim.job_id, claim.attempt, report, settings=world.settings)
        if claim.job_id == job_id:
            return job_id


def _group(world: World, session: Session, by: Principal, new: str) -> str:
    from voxelworks.protocol.messages import NewJob

    params = {"layers": [{"source": "root:scope/run1"}], "target": new, "voxel_size": "4,4,40"}
    [job] = jobs.submit_group(
        session, by=by, jobs=[NewJob(workflow="convert", params=params)], places=world.places, settings=world.settings
    )  # fmt: skip
    assert job.group is not None
    return job.group


def _dataset(
    world: World, session: Session, by: Principal, new: str, *, is_trashed: bool = False
) -> dict[str, str]:
    view = catalog.register(
        session, organization_id=by.organization_id, user_id=by.user_id, name=new,
        place=dataset_place(by.organization_id, new), summary=DatasetSummary(voxel_size="4,4,40", layers=(COLOR,)),
    )  # fmt: skip
    if is_trashed:
        catalog.trash(session, view.id, by=by, settings=world.settings)
    return {
        "dataset_id": view.id, "ref": view.id, "organization_id": by.organization_id, "directory_name": new,
    }  # fmt: skip


def _stored_dataset(world: World, session: Session, by: Principal, new: str) -> dict[str, str]:
    """Make a dataset whose metadata lie in its folder, and name that file."""
    folder = world.settings.datasets_dir / by.organization_id / new
    folder.mkdir(parents=True)
    (folder / PROPERTIES_FILE).write_text(READY)
    return _dataset(world, session, by, new) | {"path": PROPERTIES_FILE, "path:path": PROPERTIES_FILE}


def _share(world: World, session: Session, by: Principal, new: str) -> dict[str, str]:
    values = _stored_dataset(world, session, by, new)
    token, view = accounts.create_share(session, by, Shared(values["dataset_id"]), new, 7)
    return values | {"token": token, "share_id": view.id}


def _artifact(world: World, session: Session, by: Principal, new: str) -> dict[str, str]:
    """Have a job leave a file, whose content says whose it is."""
    job_id = _job(world, session, by, new)
    path = Path(world.places.locate(artifact_place(by.organization_id, job_id)))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(new)
    file = ArtifactFile(name=f"{new}.zip", media_type="application/zip", size_bytes=len(new), sha256="0" * 64)
    catalog.register_artifact(session, job_id, file, organization_id=by.organization_id)
    session.get_one(JobRow, job_id).result = {"kind": "artifact", "value": {}, "file": file.model_dump()}
    return {"job_id": job_id}


def _shared_artifact(world: World, session: Session, by: Principal, new: str) -> dict[str, str]:
    values = _artifact(world, session, by, new)
    token, view = accounts.create_share(session, by, Shared(job_id=values["job_id"]), new, 7)
    return values | {"token": token, "share_id": view.id}


def _labelled_dataset(world: World, session: Session, by: Principal, new: str) -> dict[str, str]:
    """Make a dataset whose metadata name a segmentation."""
    values = _stored_dataset(world, session, by, new)
    file = world.settings.datasets_dir / by.organization_id / new / PROPERTIES_FILE
    file.write_text(READY.replace('"category": "color"', '"category": "segmentation"'))
    return values | {"layer": "color"}


def _drawn_dataset(world: World, session: Session, by: Principal, new: str) -> dict[str, str]:
    """Register a dataset with a picture, whose content says whose it is."""
    made = _dataset(world, session, by, new)
    folder = world.settings.datasets_dir / by.organization_id / new / PREVIEW_FOLDER
    folder.mkdir(parents=True)
    (folder / PICTURE.file).write_text(new)
    catalog.set_previews(
        session, made["dataset_id"], {"color": LayerPreview(slices=(PICTURE,), thumbnail=PICTURE)}
    )
    return {**made, "layer": "color", "plane": "xy"}


def _annotation(world: World, session: Session, by: Principal, new: str, *, is_trashed: bool = False) -> str:
    stored = catalog.store_annotation(
        io.BytesIO(NML), organization_id=by.organization_id, settings=world.settings
    )
    view = catalog.add_annotation_file(session, stored, by=by, name=new, settings=world.settings)
    if is_trashed:
        catalog.trash_annotation(session, view.id, by=by, settings=world.settings)
    return view.id


def _far_annotation(world: World, session: Session, by: Principal, new: str) -> str:
    """Name one on a host that is on the list, and not reached: it lies in a private network."""
    address = f"http://127.0.0.1:9/annotations/{secrets.token_hex(12)}"
    return catalog.add_far_annotation(
        session, world.box, by=by, address=address, name=new, places=world.places
    ).id


def _model(session: Session, by: Principal, new: str) -> dict[str, str]:
    view = catalog.register_model(
        session, model_place(by.organization_id, new, 1), small_facts(title=new), user_id=by.user_id, size_bytes=5,
        made_by_job=None,
    )  # fmt: skip
    return {"ref": view.id, "model_id": view.id, "number": "1"}


def _upload(world: World, session: Session, by: Principal, new: str) -> str:
    files = NewUpload(files=(NewFile(path=f"{new}.tif", size_bytes=3),))
    return catalog.begin_upload(session, files, by=by, places=world.places, settings=world.settings).id


def _invite(world: World, session: Session, by: Principal, new: str) -> tuple[str, str]:
    token, view = accounts.invite(session, by, f"{new}@example.org", "member", settings=world.settings)
    return token, view.id


def _webhook(world: World, session: Session, by: Principal, new: str) -> str:
    _, view = notifications.create_webhook(
        session, world.box, organization_id=by.organization_id, user_id=by.user_id,
        url=f"https://{new}.example.org/x", kind="json", events=["job.failed"], settings=world.settings,
    )  # fmt: skip
    return view.id


def _session(world: World, session: Session, by: Principal) -> str:
    before = {view.id for view in accounts.list_sessions(session, by, settings=world.settings)}
    world.cookie(session, by)
    [made] = {view.id for view in accounts.list_sessions(session, by, settings=world.settings)} - before
    return made


def _params(session: Session, by: Principal, new: str) -> str:
    return jobs.save_params(session, by=by, workflow="downsample", name=new, params={}).id


def _worker(world: World, session: Session) -> str:
    """Introduce a worker; workers belong to the instance, and everybody may know their names."""
    new = world.fresh("worker")
    jobs.open_session(
        session, SessionRequest(name=new, version="test", workflows={}), settings=world.settings
    )
    return new


def _mail(world: World, session: Session, new: str) -> str:
    context = {"organization_name": new, "amount": 5}
    notifications.post_mail(session, key=new, to="x@example.org", template="credits_granted", context=context)
    return str(notifications.list_mails(session, limit=1).mails[0].id)


# The matrix


def rows() -> list[tuple[str, str, Case]]:
    return [
        *((name, "/api/v1", found) for name, found in API.items()),
        *((name, "", found) for name, found in PAGES.items()),
        *((name, "/api", found) for name, found in FACE.items()),
        *((name, "", found) for name, found in PROBES.items()),
    ]


@pytest.mark.parametrize(
    ("name", "prefix", "expected"),
    rows(),
    ids=[f"{name} of {prefix or 'pages'}" for name, prefix, _ in rows()],
)
def test_who_may(world, name, prefix, expected):
    """Ask a route as everybody, about what is theirs, a colleague's and another organization's."""
    method, _, path = name.partition(" ")
    wrong = []
    with world.database.session() as session:
        people, cookies = _cast(world, session, is_kept=method == "GET")
        asked = [
            (role, relation, _things(world, session, expected, people, role, relation))
            for role in ROLES
            for relation in (_relations(expected) if role != "anonymous" else ("mine",))
        ]
    for role, relation, values in asked:
        answer = _ask(world, method, prefix + path, expected, values, cookies.get(role))
        if answer.status_code not in _allowed(expected, role, relation):
            wrong.append((role, relation, answer.status_code, answer.text[-300:]))
        if expected.is_repeat and answer.status_code in DONE:
            wrong += _strayed(world, values["job_id"], role, relation)
        # What was asked for may stand in the answer; nothing else of the others may.
        told = answer.text
        for value in values.values():
            told = told.replace(value, "")
        # Who holds an invitation may see who invites, and who holds an address may see what it opens.
        is_key = expected.is_open and expected.things in ("invitation_token", "share", "shared_artifact")
        if SECRET in told and role != "operator" and not is_key:
            wrong.append((role, relation, "leaks", told[max(0, told.index(SECRET) - 200) :][:300]))
    _calm(world)
    assert wrong == []


def _things(
    world: World, session: Session, expected: Case, people: dict[str, Principal], role: str, relation: str
) -> dict[str, str]:
    """Make what one request is about."""
    who = people.get(role, people["member"])
    if relation == "foreign":
        return make(world, session, expected.things, people["stranger"], prefix=SECRET)
    if relation == "colleague":
        who = make_member(session, world.fresh("c"), who.organization_id, "admin")
    return make(world, session, expected.things, who)


def _strayed(world: World, job_id: str, role: str, relation: str) -> list[tuple[str, ...]]:
    """Find repeats of a job that do not belong to whom it belongs to."""
    with world.database.read_session() as session:
        operator = accounts.local_principal(session)
        first, *repeats = (
            jobs.show(session, one, by=operator, settings=world.settings).job
            for one in reversed(jobs.chain_of(session, job_id).job_ids)
        )
    assert repeats, "nothing was repeated"
    whose = {(job.user_id, job.organization_id) for job in repeats}
    return (
        [] if whose == {(first.user_id, first.organization_id)} else [(role, relation, "strayed", str(whose))]
    )


def _relations(expected: Case) -> tuple[str, ...]:
    """Say whose things are asked about; one's own come last, as a success may change what one is."""
    if expected.things in ("", "new", "ready", "workflow", "nothing"):
        return ("mine",)
    return ("foreign", "mine") if expected.colleague is None else ("foreign", "colleague", "mine")


def _cast(world: World, session: Session, *, is_kept: bool) -> tuple[dict[str, Principal], dict[str, str]]:
    """Give people with their cookies, beside another organization that has something of everything.

    Reading changes nothing about them, so that those who only read may be the same each time.
    """
    if is_kept and world.kept is not None:
        return world.kept
    people = _people(world, session)
    cookies = {role: world.cookie(session, who) for role, who in people.items()}
    for kind in ("dataset", "job", "annotation", "model", "upload", "member", "webhook", "order", "token"):
        make(world, session, kind, people["stranger"], prefix=SECRET)
    if is_kept:
        world.kept = people, cookies
    return people, cookies


def _people(world: World, session: Session) -> dict[str, Principal]:
    """Make an organization with somebody in each role, an operator with another one, and a stranger."""
    own, other, instance = world.fresh("own"), world.fresh(SECRET), world.fresh("ops")
    people = {"owner": make_organization(session, own), "stranger": make_organization(session, other)}
    for role in ("member", "dataset_manager", "admin"):
        people[role] = make_member(session, world.fresh(role.replace("_", "")), own, role)
    operator = make_organization(session, instance)
    accounts.set_operator(session, accounts.local_principal(session), operator.user_id, True)
    found = accounts.find_principal(session, operator.user_id, instance)
    assert found is not None
    return people | {"operator": found}


def _allowed(expected: Case, role: str, relation: str) -> frozenset[int]:
    """Say which answers are right."""
    if role == "anonymous" and not expected.is_open:
        return frozenset({401})
    if expected.is_open and (role == "anonymous" or relation == "foreign"):
        return expected.ok | {expected.foreign}
    is_person_bound = expected.colleague is not None
    may = expected.colleague if relation == "colleague" and is_person_bound else expected.may
    assert may is not None
    if role not in expected.may:
        return frozenset({403, 404}) if relation == "foreign" else frozenset({403})
    if relation == "foreign":
        if role in OPERATOR and expected.operators_see_all:
            return expected.ok
        return frozenset({expected.foreign})
    if role not in may:
        # Jobs, sessions and tokens of others do not exist for whoever may not see them; others do.
        is_seen = "annotation" in expected.things or expected.things in ("share", "model")
        return frozenset({403 if is_seen else 404})
    return expected.ok


def _ask(
    world: World,
    method: str,
    path: str,
    expected: Case,
    values: dict[str, str],
    cookie: str | None = None,
    token: str | None = None,
) -> httpx.Response:
    port = httpx.URL(world.url).port
    headers = {"Origin": world.url} | ({"Cookie": f"voxelworks-{port}={cookie}"} if cookie else {})
    headers |= {"Authorization": f"Bearer {token}"} if token else {}
    address = _filled(path + expected.query, values)
    world.client.cookies.clear()
    if path.endswith(("/events", "/live")):
        with world.client.stream(method, address, headers=headers) as answer:
            return httpx.Response(answer.status_code, content=b"")
    return world.client.request(
        method, address, headers=headers, json=_filled(expected.json, values), data=_filled(expected.form, values),
        files={"file": ("a.nml", NML)} if expected.files else None, content=expected.content,
    )  # fmt: skip


def _filled(given: Any, values: dict[str, str]) -> Any:
    if isinstance(given, dict):
        return {key: _filled(value, values) for key, value in given.items()}
    if isinstance(given, list):
        return [_filled(value, values) for value in given]
    if isinstance(given, str):
        for key, value in values.items():
            given = given.replace(f"{{{key}}}", value)
    return given


def _calm(world: World) -> None:
    """End what waits in the queue: the next row begins with an empty one."""
    with world.database.session() as session:
        operator = accounts.local_principal(session)
        jobs.resume_queue(session, by=operator)
        waiting = jobs.list_jobs(session, by=operator, settings=world.settings, states=("queued",), limit=500)
        for job in waiting.jobs:
            jobs.cancel(session, job.id, by=operator)


UNCHANGED = {
    # The layer is looked at first, and has no ids.
    "POST /workflows/agglomerate/jobs of /api/v1": 422,
    **{
        f"POST /workflows/infer_{name}/jobs of /api/v1": 404  # so is the model
        for name in ("instances", "mitochondria", "neurons", "nuclei", "with_model")
    },
    **{f"POST /workflows/train_{name}_model/jobs of /api/v1": 404 for name in ("instance", "neuron")},
    "POST /workflows/apply_mapping/jobs of /api/v1": 422,
    "POST /workflows/find_largest_segment_id/jobs of /api/v1": 422,
    "POST /workflows/compute_segment_index_file/jobs of /api/v1": 422,
    "POST /workflows/compute_segment_statistics/jobs of /api/v1": 422,
    "POST /workflows/evaluate_segmentation/jobs of /api/v1": 422,
    "POST /workflows/{name}/new of ": 422,  # shows the form again, as fields are missing
    "POST /account/organization of /api/v1": 422, "POST /account/organization of ": 422, "POST /logout of ": 303,
    "POST /userToken/generate of /api": 200,
}  # fmt: skip
"""What a token that may only read hears of routes that do nothing for tokens: the last gives it itself."""
CHANGES = [
    (name, prefix, expected)
    for name, prefix, expected in rows()
    if not name.startswith("GET ") and not expected.is_open
]


@pytest.mark.parametrize(
    ("name", "prefix", "expected"), CHANGES, ids=[f"{name} of {prefix or 'pages'}" for name, prefix, _ in CHANGES]
)  # fmt: skip
def test_a_token_that_may_only_read_changes_nothing(world, name, prefix, expected):
    method, _, path = name.partition(" ")
    with world.database.session() as session:
        people = _people(world, session)
        values = _things(world, session, expected, people, "operator", "mine")
        token, _ = accounts.create_api_token(session, people["operator"], world.fresh("t"), ["read"], 1)
    answer = _ask(world, method, prefix + path, expected, values, token=token)
    _calm(world)
    assert answer.status_code == UNCHANGED.get(f"{name} of {prefix}", 403), answer.text[-300:]


@pytest.mark.parametrize("name", WORKERS)
def test_workers_routes_are_closed_to_people(world, name):
    method, _, path = name.partition(" ")
    with world.database.session() as session:
        people = _people(world, session)
        cookies = [None, *(world.cookie(session, people[role]) for role in ROLES[1:])]
    values = {"session_id": "x", "job_id": "x", "attempt": "1"}
    asked = [_ask(world, method, f"/api/v1{path}", Case(ALL, json={}), values, cookie) for cookie in cookies]
    assert {answer.status_code for answer in asked} == {401}


def test_who_asks_for_help_sends_the_job_its_log_and_the_versions(world):
    with world.database.session() as session:
        owner = _people(world, session)["owner"]
        job_id = _failed(world, session, owner, world.fresh())
        cookie = world.cookie(session, owner)
    asking = Case(ALL, json={"question": "What does it mean?"})
    answer = _ask(world, "POST", f"/api/v1/jobs/{job_id}/help", asking, {}, cookie)
    assert answer.status_code == 204
    with world.database.read_session() as session:
        [mail] = notifications.list_mails(session, limit=1).mails
        text = notifications.read_mail(session, mail.id, settings=world.settings).text
    assert (mail.recipient, mail.subject, mail.job_id) == (
        "help@example.org", f"Help wanted: Convert, job {job_id}", job_id,
    )  # fmt: skip
    for part in (
        "What does it mean?",
        "user_input: no",
        "a line of a log",
        f"Voxelworks {__version__}, convert version 1",
    ):
        assert part in text


def test_how_jobs_of_others_failed_on_a_worker_is_not_told(world):
    with world.database.session() as session:
        people = _people(world, session)
        cookies = {role: world.cookie(session, people[role]) for role in ("owner", "operator")}
        name = _worker(world, session)
        worker = session.scalars(select(WorkerSessionRow).where(WorkerSessionRow.name == name)).one()
        worker.paused_ms, worker.paused_why = worker.opened_ms, f"2 jobs failed on it; the last one: {SECRET}"
    told = {
        role: _ask(world, "GET", "/api/v1/workers", Case(ALL), {}, cookie).text
        for role, cookie in cookies.items()
    }
    assert (SECRET in told["operator"], SECRET in told["owner"]) == (True, False)
    assert "different jobs in a row failed on it" in told["owner"]


def test_every_route_has_an_entry(world):
    openapi = world.client.get("/api/v1/openapi.json", headers=_local(world)).json()
    served = {f"{method.upper()} {path}" for path, methods in openapi["paths"].items() for method in methods}
    pages = {
        f"{method} {route.path}"  # type: ignore[attr-defined]
        for router in (*PAGE_ROUTERS, shared_router, shared_file_router)
        for route in router.routes
        for method in route.methods  # type: ignore[attr-defined]
    }
    known = {f"{name.partition(' ')[0]} {prefix}{name.partition(' ')[2]}" for name, prefix, _ in rows()}
    known |= {name.replace(" ", " /api/v1", 1) for name in WORKERS}
    known |= {name.replace(" ", " /api", 1) for name in (*FACE_ELSEWHERE, *FACE_WORKERS)}
    assert (served | pages) - known == set()
    gone = {route for route in known if route not in served | pages}
    assert gone <= {"GET /metrics", "GET /readyz"}


def _local(world: World) -> dict[str, str]:
    with world.database.session() as session:
        prepared = accounts.local_principal(session)
        token, _ = accounts.create_api_token(session, prepared, secrets.token_hex(4), ["admin"], 1)
    return {"Authorization": f"Bearer {token}"}
