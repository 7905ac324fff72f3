"""How often one user or address may ask for something that costs the server work.

Counted in the memory of this process: a restart forgets, and each of several servers counts for itself. Wrong passwords
are counted in the database instead (`accounts.log_in`), as guessing must not gain from a restart.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from voxelworks.errors import TooManyRequests
from voxelworks.protocol.people import Principal
from voxelworks.settings import Settings

Kind = Literal["submission", "estimate", "upload", "door"]
"""`door` is what somebody who is not let in may ask for: logging in, a new password, accepting an invitation."""
DEFAULTS: Mapping[Kind, int] = {"submission": 120, "estimate": 240, "upload": 60, "door": 30}
KEYS_MAX = 10_000
"""Beyond this the buckets that are full again are forgotten."""
FREE_ENTRANCES = frozenset({"start_up", "program"})
"""Programs on the server's own machine, which hold its keys anyway."""


@dataclass
class _Bucket:
    tokens: float
    at_s: float


@dataclass
class Limits:
    """Token buckets: each fills up evenly within a minute.

    Parameters
    ----------
    per_minute
        Calls of each kind within a minute.
    """

    per_minute: Mapping[Kind, int]
    clock: Callable[[], float] = time.monotonic
    _buckets: dict[tuple[Kind, str], _Bucket] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def count_for(self, kind: Kind, who: Principal) -> None:
        """Count a call of a user.

        Raises
        ------
        TooManyRequests
        """
        if who.entrance not in FREE_ENTRANCES:
            self.count(kind, who.who)

    def count(self, kind: Kind, key: str) -> None:
        """Count a call under any key, such as an address.

        Raises
        ------
        TooManyRequests
            Saying after how many seconds the next call is taken.
        """
        most = self.per_minute[kind]
        now_s = self.clock()
        with self._lock:
            self._forget_full_buckets(now_s)
            bucket = self._buckets.setdefault((kind, key), _Bucket(most, now_s))
            bucket.tokens = min(most, bucket.tokens + (now_s - bucket.at_s) * most / 60)
            bucket.at_s = now_s
            if bucket.tokens < 1:
                wait_s = (1 - bucket.tokens) * 60 / most
                raise TooManyRequests(
                    f"more than {most} requests of this kind ({kind}) within a minute; wait {wait_s:.0f} s",
                    retry_after_s=wait_s,
                )
            bucket.tokens -= 1

    def _forget_full_buckets(self, now_s: float) -> None:
        if len(self._buckets) < KEYS_MAX:
            return
        self._buckets = {key: bucket for key, bucket in self._buckets.items() if now_s - bucket.at_s < 60}


def limits_of(settings: Settings) -> Limits:
    return Limits({**DEFAULTS, **settings.rates_per_minute})
