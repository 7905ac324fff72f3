"""Additions to a dataset whose worker, job or server is killed at any moment; eight of them at once."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest

from voxelworks.testing.rounds import rounds

from .conftest import Stacks, layers_params
from .fault_moments import Strike, Target, strike
from .fault_site import Site, tree, wait_for

STRIKES = [Strike("moved", "worker"), Strike("sealing", "group")]
LONG_STRIKES = [
    *STRIKES,
    Strike("accepted", "worker"), Strike("published", "worker"),
    Strike("moved", "server"), Strike("accepted", "server"),
    *(Strike("sealed", victim) for victim in ("worker", "server") for _ in range(4)),
    *(Strike("any", victim) for victim in ("worker", "job", "pool", "group", "server") for _ in range(2)),
]  # fmt: skip


@pytest.mark.faults(
    "T20", "Additions, each killed once, at a random moment or while its result becomes visible"
)
def test_an_addition_survives_a_kill_at_any_moment(
    site: Site, stacks: Stacks, dice: random.Random, record_property: Callable[[str, object], None]
) -> None:
    """Also between the moves of its magnifications and the properties that list them."""
    site.start_worker("worker")
    hits: Counter[str] = Counter()
    plans = rounds(STRIKES, LONG_STRIKES)
    layer_count = rounds(2, 8)
    for start in range(0, len(plans), layer_count):
        name = f"cells{start}"
        convert = site.submit("convert", **layers_params("root:stacks/small", name, layer_count))
        site.wait_until_published(convert)
        with site.watched():
            for number, plan in enumerate(plans[start : start + layer_count]):
                job_id = site.submit("downsample", layer=f"{name}/layer{number}", coarsest_mag="4")
                target = Target(job_id, site.data / name / f"layer{number}" / "2")
                hits[strike(site, target, plan, dice)] += 1
                site.wait_until_published(job_id)
                site.wait_until_clean()
        assert tree(site.data / name) == stacks.layers[layer_count]
    record_property("kills", len(plans))
    record_property("hit", dict(hits))


@pytest.mark.faults("8 at once", "Eight jobs add to one dataset, two workers, one of them killed meanwhile")
def test_eight_jobs_add_to_one_dataset_at_once_and_nothing_is_lost(
    site: Site, stacks: Stacks, dice: random.Random, record_property: Callable[[str, object], None]
) -> None:
    """With two workers, of which one is killed while they publish."""
    for name in ("first", "second"):
        site.start_worker(name, job_slots=4, slots=1)
    round_count = rounds(1, 4)
    kills = 0
    for number in range(round_count):
        name = f"cells{number}"
        site.wait_until_published(site.submit("convert", **layers_params("root:stacks/small", name, 8)))
        with site.watched():
            jobs = [
                site.submit("downsample", layer=f"{name}/layer{number}", coarsest_mag="4")
                for number in range(8)
            ]
            count = dice.randrange(1, len(jobs))
            wait_for(lambda: _visible_count(site, name) >= count, "some to publish", every_s=0.002)  # noqa: B023
            kills += site.kill("worker", dice, worker=dice.choice(["first", "second"]))
            for job_id in jobs:
                site.wait_until_published(job_id)
            site.wait_until_clean()
        assert tree(site.data / name) == stacks.layers[8]
    record_property("jobs", 8 * round_count)
    record_property("kills", kills)


def _visible_count(site: Site, name: str) -> int:
    return sum((site.data / name / f"layer{number}" / "2").exists() for number in range(8))
