"""The queue: jobs, attempts under leases, results, logs.

Plain synchronous functions that take a session and never commit; the request at the edge does. The rules behind them:
one table of legal transitions (`_transitions`), one attempt at a time with its own secret (`_leases`), one transaction
for the end of a job (`_ending`), publication after it (`_publication`).
"""

from voxelworks.jobs._finishing import cancel, finish, seal
from voxelworks.jobs._leases import claim, open_session, reap_all, reap_next, renew
from voxelworks.jobs._logs import append_log, read_log
from voxelworks.jobs._publication import (
    cleaned,
    lease_dataset,
    published,
    release_dataset,
    take_cleanup_order,
    take_publish_order,
)
from voxelworks.jobs._reading import list_events, list_jobs, list_workers, revision, show
from voxelworks.jobs._submission import retry, submit

__all__ = [
    "append_log", "cancel", "claim", "cleaned", "finish", "lease_dataset", "list_events", "list_jobs", "list_workers",
    "open_session", "published", "read_log", "reap_all", "reap_next", "release_dataset", "renew", "retry", "revision",
    "seal", "show", "submit", "take_cleanup_order", "take_publish_order",
]  # fmt: skip
