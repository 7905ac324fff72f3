"""Conversions whose worker, job or server is killed at any moment (T20)."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import pytest

from voxelworks.testing.rounds import rounds

from .conftest import BLOCK_COUNT, FORMS, Stacks, convert_params
from .fault_moments import Strike, Target, strike
from .fault_site import SLOTS, Site, Victim, find, tree, wait_for

STRIKES = [Strike("sealing", "server"), Strike("accepted", "worker"), Strike("published", "worker")]
LONG_STRIKES = [
    *STRIKES,
    Strike("sealing", "job"), Strike("sealing", "worker"), Strike("moved", "worker"),
    *(Strike("sealed", victim) for victim in ("worker", "server") for _ in range(5)),
    *(Strike("any", victim) for victim in ("worker", "job", "pool", "group", "server") for _ in range(3)),
    Strike("accepted", "server"), Strike("moved", "server"), Strike("published", "server"),
]  # fmt: skip


@pytest.mark.faults("T20", "One conversion, killed again and again when so many blocks are done")
@pytest.mark.parametrize("form", rounds(FORMS[:1], FORMS))
def test_a_killed_conversion_goes_on_where_it_stopped(
    site: Site,
    stacks: Stacks,
    dice: random.Random,
    record_property: Callable[[str, object], None],
    form: str,
) -> None:
    """T20: each kill comes when so many blocks are done. What is done again is at most what ran at that moment."""
    site.start_worker("worker")
    kill_count = rounds(3, 20)
    moments = sorted(dice.sample(range(2, BLOCK_COUNT - 10), kill_count))
    kinds: list[Victim] = ["worker", "job", "pool", "group"]
    victims = dice.sample(kinds * 5, kill_count)
    redone = 0
    kept: dict[str, Version] = {}
    left: dict[str, Version] = {}
    with site.watched() as watch:
        job_id = site.submit("convert", **convert_params(f"root:stacks/large-{form}", "cells"))
        for moment, victim in zip(moments, victims, strict=True):
            # Blocks may be marked already when the next attempt has not begun yet: then there is nothing to kill.
            site.wait_while_running(
                job_id,
                until=lambda: site.marker_count() >= moment and len(site.group_of("worker")) > 1,  # noqa: B023
            )
            assert site.kill(victim, dice), "there was nothing to kill"
            blocks = Blocks.of(site)
            assert kept.items() <= blocks.marked.items(), "a block with a marker was done again"
            kept = blocks.marked
            # What an earlier kill left waits for its next try, maybe until after this one: it is no more work.
            redone += len(blocks.unmarked.items() - left.items())
            left = blocks.unmarked
        detail = site.wait_until_published(job_id)
        site.wait_until_clean()
    cells = site.data / "cells"
    assert tree(cells) == stacks.large
    assert kept.items() <= {name: _version(cells / name) for name in kept}.items()
    assert redone <= kill_count * SLOTS
    for name, value in [
        ("kills", kill_count), ("blocks", BLOCK_COUNT), ("blocks done again", redone), ("allowed", kill_count * SLOTS),
        ("attempts", len(detail.attempts)), ("looks of the watcher", watch["looks"]),
    ]:  # fmt: skip
        record_property(name, value)


Version = tuple[int, int]
"""Inode and time of change of a file."""


@dataclass(frozen=True)
class Blocks:
    """What the blocks of a job have left on the disk, by names of files below the result."""

    marked: dict[str, Version]
    """Files of blocks that are marked as done."""
    unmarked: dict[str, Version]
    """Files of blocks that were begun, or are even whole, but are not marked: they are done again."""

    @classmethod
    def of(cls, site: Site) -> Blocks:
        (folder,) = site.attempt_folders()
        result = folder / "result"
        # If a process goes on, files appear and are marked while we look.
        marked_before = _marked(folder)
        begun: dict[str, Version] = {}
        for path in find(result, "*/*/c/**/*"):
            with suppress(FileNotFoundError):
                if path.is_file():
                    name = path.relative_to(result).as_posix().removesuffix(".__lock")
                    begun[name] = max(_version(path), begun.get(name, (0, 0)), key=itemgetter(1))
        marked = _marked(folder)
        return cls(
            {name: _version(result / name) for name in marked_before},
            {name: version for name, version in begun.items() if name not in marked},
        )


def _marked(folder: Path) -> set[str]:
    markers = [json.loads(path.read_bytes()) for path in folder.glob("checkpoints/*/*.json")]
    return {name for marker in markers for name in marker["result"]["files"]}


def _version(path: Path) -> Version:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


@pytest.mark.faults(
    "T20", "Conversions, each killed once, at a random moment or while its result becomes visible"
)
def test_a_conversion_survives_a_kill_at_any_moment(
    site: Site, stacks: Stacks, dice: random.Random, record_property: Callable[[str, object], None]
) -> None:
    """Also while its result is sealed, reported, moved to its place, confirmed and cleared up after."""
    site.start_worker("worker")
    hits: Counter[str] = Counter()
    plans = rounds(STRIKES, LONG_STRIKES)
    with site.watched() as watch:
        for number, plan in enumerate(plans):
            name = f"cells{number}"
            job_id = site.submit("convert", **convert_params("root:stacks/small", name))
            hits[strike(site, Target(job_id, site.data / name), plan, dice)] += 1
            site.wait_until_published(job_id)
            site.wait_until_clean()
            assert tree(site.data / name) == stacks.small
    record_property("kills", len(plans))
    record_property("hit", dict(hits))
    record_property("looks of the watcher", watch["looks"])


@pytest.mark.faults("T20", "`voxelworks serve` is killed, and takes its own worker and the job along")
def test_a_server_that_is_killed_with_its_own_worker_goes_on_when_it_is_started_again(
    make_site: Callable[..., Site],
    stacks: Stacks,
    dice: random.Random,
    record_property: Callable[[str, object], None],
) -> None:
    site = make_site(has_own_worker=True)
    kill_count = rounds(1, 6)
    with site.watched():
        job_id = site.submit("convert", **convert_params("root:stacks/large-plain", "cells"))
        for moment in sorted(dice.sample(range(1, BLOCK_COUNT - 10), kill_count)):
            site.wait_while_running(job_id, until=lambda: site.marker_count() >= moment)  # noqa: B023
            site.kill_server()
            wait_for(
                lambda: not site.processes(), "its worker and the job to end", lambda: str(site.processes())
            )
            site.start_server()
        site.wait_until_published(job_id)
        site.wait_until_clean()
    assert tree(site.data / "cells") == stacks.large
    record_property("kills", kill_count)
