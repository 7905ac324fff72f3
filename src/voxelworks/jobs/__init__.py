"""The queue: jobs, attempts under leases, results, logs.

Plain synchronous functions that take a session and never commit; the request at the edge does. The rules behind them:
one table of legal transitions (`_transitions`), one statement that says who is next (`_claiming`), one attempt at a
time with its own secret (`_leases`), one transaction for the end of a job with its ledger entries and mails
(`_ending`), publication after it (`_publication`), and one filter that keeps tenants apart (`_visibility`).
"""

from voxelworks.jobs._alike import failed_alike, failures
from voxelworks.jobs._artifacts import delete_artifact, find_artifact
from voxelworks.jobs._changes import restate_dataset
from voxelworks.jobs._claiming import cancel_grace_s, claim
from voxelworks.jobs._describe import describe_dataset
from voxelworks.jobs._finishing import cancel, finish, require_cancellable, seal
from voxelworks.jobs._foreign_polls import (
    CLAIMS_PER_POLL,
    ForeignOrder,
    foreign_orders,
    keep_foreign,
    take_foreign,
)
from voxelworks.jobs._foreign_remains import (
    MadeDataset,
    Remains,
    awaited_place,
    forgotten_at,
    look_at,
    remains_before,
)
from voxelworks.jobs._foreign_reports import attach_foreign_dataset, attach_foreign_workflow, report_foreign
from voxelworks.jobs._foreign_runs import ForeignRunView, ForeignWorker, foreign_runs
from voxelworks.jobs._groups import cancel_group, find_submitted, quote_group, submit_group
from voxelworks.jobs._leases import renew
from voxelworks.jobs._log_lines import Log
from voxelworks.jobs._logs import append_log, find_log, read_log
from voxelworks.jobs._metrics import metrics, uploads_in_use, work_keys_in_use
from voxelworks.jobs._publication import (
    cleaned,
    lease_dataset,
    published,
    release_dataset,
    take_cleanup_order,
    take_publish_order,
)
from voxelworks.jobs._reading import (
    find_picture,
    is_annotation_in_use,
    is_model_in_use,
    jobs_of_annotation,
    jobs_of_dataset,
    jobs_of_model,
    list_events,
    list_jobs,
    list_workers,
    revision,
    show,
)
from voxelworks.jobs._reaping import Reaper, reap_all
from voxelworks.jobs._references import can_work_on, secrets_of
from voxelworks.jobs._repeats import Root, chain_of, count_states, places_of, roots_of
from voxelworks.jobs._saved import change_params, delete_params, find_params, list_params, save_params
from voxelworks.jobs._submission import price, price_retry, quote, quote_retry, retry, submit
from voxelworks.jobs._waiting import Stranded, stranded
from voxelworks.jobs._workers import (
    drain_worker,
    leave,
    open_session,
    pause_queue,
    queue_pauses,
    resume_queue,
    resume_worker,
)

__all__ = [
    "CLAIMS_PER_POLL", "ForeignOrder", "ForeignRunView", "ForeignWorker", "Log", "MadeDataset", "Reaper", "Remains",
    "Root", "Stranded", "append_log", "attach_foreign_dataset", "attach_foreign_workflow", "awaited_place",
    "can_work_on", "cancel", "cancel_grace_s", "cancel_group", "chain_of", "change_params", "claim", "cleaned",
    "count_states", "delete_artifact", "delete_params", "describe_dataset", "drain_worker", "failed_alike", "failures",
    "find_artifact", "find_log", "find_params", "find_picture", "find_submitted", "finish", "foreign_orders",
    "foreign_runs", "forgotten_at", "is_annotation_in_use", "is_model_in_use", "jobs_of_annotation", "jobs_of_dataset",
    "jobs_of_model", "keep_foreign", "lease_dataset", "leave", "list_events", "list_jobs", "list_params",
    "list_workers", "look_at", "metrics", "open_session", "pause_queue", "places_of", "price", "price_retry",
    "published", "queue_pauses", "quote", "quote_group", "quote_retry", "read_log", "reap_all", "release_dataset",
    "remains_before", "renew", "report_foreign", "require_cancellable", "resume_queue", "resume_worker", "retry",
    "restate_dataset", "revision", "roots_of", "save_params", "seal", "secrets_of", "show", "stranded", "submit",
    "submit_group", "take_cleanup_order", "take_foreign", "take_publish_order", "uploads_in_use", "work_keys_in_use",
]  # fmt: skip
