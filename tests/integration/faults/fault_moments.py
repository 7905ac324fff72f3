"""Moments at which something is killed, seen on the disk and in the database: the product has no hooks for this."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .fault_site import Site, Victim

MomentName = Literal["any", "sealing", "sealed", "accepted", "moved", "published"]
LIFE_S = 3.5
"""Random moments lie in this time after the job was submitted; it has usually ended by then."""
SEAL_TO_END_S = 0.12


@dataclass(frozen=True)
class Strike:
    """Kill something at some moment."""

    moment: MomentName
    victim: Victim


@dataclass(frozen=True)
class Target:
    """A job, and what it will make visible."""

    job_id: str
    visible: Path
    """Folder that appears when the result is moved to its place."""


def strike(site: Site, target: Target, plan: Strike, dice: random.Random, *, worker: str = "worker") -> str:
    """Wait for the moment, kill, and say what it hit."""
    submitted_at = time.monotonic()
    due_at = submitted_at + dice.uniform(0.0, LIFE_S)
    moments: dict[MomentName, Callable[[], bool]] = {
        "any": lambda: time.monotonic() >= due_at,
        "sealing": lambda: _has_manifest(site, ".manifest.json.tmp") or _has_manifest(site, "manifest.json"),
        "sealed": lambda: _has_manifest(site, "manifest.json"),
        "accepted": lambda: site.status(target.job_id).state == "succeeded",
        "moved": target.visible.exists,
        "published": lambda: site.status(target.job_id).publication == "published",
    }
    reached = moments[plan.moment]
    site.watch_closely(target.job_id, until=reached)
    if plan.moment == "sealed":
        # From here to the end there are several steps of some milliseconds each.
        time.sleep(dice.uniform(0.0, SEAL_TO_END_S))
    hit = _describe(site, target)
    if not site.kill(plan.victim, dice, worker=worker):
        site.kill("worker", dice, worker=worker)
    return hit


def _describe(site: Site, target: Target) -> str:
    """Say where a job stands."""
    status = site.status(target.job_id)
    if status.state != "succeeded":
        return "sealed but not accepted" if _has_manifest(site, "manifest.json") else status.state
    if status.publication == "published":
        return "published but not cleared up" if site.attempt_folders() else "ended"
    return "moved but not confirmed" if target.visible.exists() else "accepted but not moved"


def _has_manifest(site: Site, name: str) -> bool:
    return any((folder / name).exists() for folder in site.attempt_folders())
