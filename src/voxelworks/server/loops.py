"""What the server does by itself, again and again. Every loop is safe to run in several servers at once."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool

from voxelworks import accounts, catalog, credits, jobs
from voxelworks import notify as notifications
from voxelworks.errors import StorageFailed
from voxelworks.server import alerts
from voxelworks.server.context import Context
from voxelworks.server.wk import images

log = logging.getLogger(__name__)

MINUTE_S = 60.0
HOUR_S = 3600.0


@dataclass(frozen=True)
class Loop:
    """Work that is repeated."""

    name: str
    run: Callable[[Context], object]
    every_s: float | None = None
    """None: as often as the setting `reap_every_s` says."""

    async def for_ever(self, context: Context) -> None:
        """Run at once and then again and again; a failed round is logged, and the next one tries again."""
        every_s = self.every_s if self.every_s is not None else context.settings.reap_every_s
        while True:
            try:
                await run_in_threadpool(self.run, context)
            except StorageFailed as error:
                # Nobody's fault here: no trace of the program tells the operator more than the reason.
                log.warning("%s failed (%s); it is tried again in about %g s", self.name, error, every_s)
            except Exception:
                log.exception("%s failed; it is tried again in about %g s", self.name, every_s)
            # Jitter keeps several servers from working at the same moment.
            await asyncio.sleep(every_s * random.uniform(0.8, 1.2))  # noqa: S311


def reap(context: Context) -> None:
    """End what nobody holds any more (rule R16)."""
    context.reaper.run_round(context.database, settings=context.settings)


def send(context: Context) -> None:
    """Send the mails and webhooks that are due."""
    notifications.Sender(context.database, context.settings).run_round(context.live.closing.is_set)


def keep_credits(context: Context) -> None:
    """Give the free credits of the month, and book the grants that have expired."""
    if not context.settings.credits_enabled:
        return
    with context.database.read_session() as session:
        organizations = accounts.list_organizations(session)
    for organization in organizations:
        with context.database.session() as session:
            credits.ensure_monthly(session, organization.id, organization.zone, context.settings)
    with context.database.session() as session:
        credits.expire(session)


def check_ledger(context: Context) -> None:
    """Compare the balances with the entries that they are made of, and tell the operator of differences."""
    if not context.settings.credits_enabled:
        return
    with context.database.read_session() as session:
        differences = credits.check(session)
    if not differences:
        return
    text = "\n".join(str(difference) for difference in differences)
    log.error("the ledger does not add up:\n%s", text)
    with context.database.session() as session:
        notifications.alert(
            session, settings=context.settings, condition="ledger", title="The credit ledger does not add up",
            text=text,
        )  # fmt: skip


def forget(context: Context) -> None:
    """Forget login sessions, tokens and invitations that ended long ago."""
    with context.database.session() as session:
        accounts.forget_expired(session, context.settings)


def purge(context: Context) -> None:
    """Delete for good what has lain in the trash or for download long enough, and what jobs and uploads left behind."""
    catalog.purge_expired(context.database, places=context.places, settings=context.settings)
    with context.database.read_session() as session:
        in_use, uploads_in_use = jobs.work_keys_in_use(session), jobs.uploads_in_use(session)
    catalog.remove_expired_uploads(
        context.database, places=context.places, settings=context.settings, uploads_in_use=uploads_in_use
    )
    catalog.purge_models(context.database, places=context.places)
    catalog.remove_expired_artifacts(context.database, places=context.places, settings=context.settings)
    catalog.remove_leftovers(
        context.database, places=context.places, settings=context.settings, work_keys_in_use=in_use
    )


def put_away(context: Context) -> None:
    """Free the names of datasets that workers of WEBKNOSSOS began and will never finish."""
    images.put_away_forgotten(context.database, context.places)


def fetch_annotations(context: Context) -> None:
    """Fetch what people have named in a WEBKNOSSOS, one annotation after another."""
    is_closing = context.live.closing.is_set
    while not is_closing() and catalog.fetch_next(
        context.database, context.box, places=context.places, settings=context.settings, is_closing=is_closing
    ):
        pass


FETCHES_AT_ONCE = 3
"""Annotations that one server fetches at the same time: some of those that are asked are slow."""
LOOPS = (
    Loop("looking for expired leases", reap),
    Loop("sending mails and webhooks", send, every_s=5.0),
    Loop("keeping the credits", keep_credits, every_s=HOUR_S),
    Loop("checking the ledger", check_ledger, every_s=24 * HOUR_S),
    Loop("looking for trouble", alerts.look, every_s=MINUTE_S),
    Loop("putting away what workers of WEBKNOSSOS left", put_away, every_s=MINUTE_S),
    Loop("forgetting old log-ins", forget, every_s=HOUR_S),
    Loop("removing what is past its term", purge, every_s=HOUR_S),
    *[Loop("fetching annotations", fetch_annotations, every_s=1.5)] * FETCHES_AT_ONCE,
)
