"""Laws of measuring segments, against references that look at one voxel or one pair at a time."""

import math
from collections import Counter, defaultdict
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from voxelworks.errors import InvalidDataset
from voxelworks.ops import segments

LIMITS = {
    "uint8": 2**8 - 1,
    "uint16": 2**16 - 1,
    "uint32": 2**32 - 1,
    "uint64": 2**64 - 1,
    "int64": 2**63 - 1,
}
VOXEL_SIZES = st.sampled_from([(1.0, 1.0, 1.0), (2.0, 1.0, 1.0), (40.0, 4.0, 4.0), (6.4, 4.0, 3.0)])


@st.composite
def volumes(draw, side=7):
    dtype = draw(st.sampled_from(sorted(LIMITS)))
    few = draw(st.lists(st.integers(1, LIMITS[dtype]), min_size=1, max_size=4))
    shape = draw(array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=side))
    return draw(arrays(dtype, shape, elements=st.sampled_from([0, *few])))


def measured(volume, voxel_size, *, cuts=(), origin=(0, 0, 0), values=()):
    """Measure a volume in blocks that end at `cuts` of the z axis."""
    lattice = segments.lattice_of(voxel_size)
    padded = np.pad(volume, [(reach, reach) for reach in lattice.reach])
    ends = [0, *sorted(cut for cut in set(cuts) if 0 < cut < len(volume)), len(volume)]
    records = []
    for start, stop in pairwise(ends):
        before = (lattice.reach[0] if start == 0 else 0, *lattice.reach[1:])
        first = start + lattice.reach[0] - before[0]
        block = padded[first : stop + 2 * lattice.reach[0]]
        records.append(
            segments.measure(
                block, lattice, before_zyx=before, origin_zyx=(origin[0] + start, *origin[1:]),
                values=[((0, 0, 0), channel[start:stop]) for channel in values],
            )
        )  # fmt: skip
    return segments.merge_records(np.concatenate(records)), lattice


def crossings_of(volume, lattice):
    """Look at every pair of voxels along every direction, one by one."""
    found = defaultdict(lambda: [0] * segments.DIRECTION_COUNT)
    voxels = {index: int(volume[index]) for index in np.ndindex(volume.shape)}
    for direction, (first, second) in enumerate(zip(lattice.first, lattice.second, strict=True)):
        step = np.subtract(second, first)
        pairs = {(tuple(np.subtract(index, step)), index) for index in voxels}
        pairs |= {(index, tuple(np.add(index, step))) for index in voxels}
        for a, b in pairs:
            ids = voxels.get(tuple(map(int, a)), 0), voxels.get(tuple(map(int, b)), 0)
            for segment in set(ids) - {0} if ids[0] != ids[1] else ():
                found[segment][direction] += 1
    return found


@settings(deadline=None, max_examples=25)
@given(volumes(side=5), VOXEL_SIZES, st.lists(st.integers(1, 5), max_size=2))
def test_records_are_what_one_voxel_after_the_other_says(volume, voxel_size, cuts):
    records, lattice = measured(volume, voxel_size, cuts=cuts, origin=(2**40, -5, 7))
    ids = sorted({int(value) for value in volume.flat} - {0})
    assert records["id"].tolist() == ids
    crossings = crossings_of(volume, lattice)
    for record in records:
        places = np.argwhere(volume == record["id"])
        shifted = places + np.array((2**40, -5, 7))
        assert record["count"] == len(places)
        assert record["low"].tolist() == shifted.min(axis=0).tolist()
        assert record["high"].tolist() == shifted.max(axis=0).tolist()
        assert tuple(record["inside"]) in {tuple(place) for place in shifted}
        assert record["crossings"].tolist() == crossings[int(record["id"])]
        np.testing.assert_allclose(record["mean"] - (2**40, -5, 7), places.mean(axis=0), atol=1e-3)
        away = places - places.mean(axis=0)
        expected = [
            (away[:, a] * away[:, b]).sum() for a, b in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
        ]
        np.testing.assert_allclose(record["moments"], expected, atol=2e-2)


@settings(deadline=None, max_examples=20)
@given(volumes(), VOXEL_SIZES, st.lists(st.integers(1, 6), min_size=1, max_size=3))
def test_blocks_give_what_the_whole_gives(volume, voxel_size, cuts):
    whole, _ = measured(volume, voxel_size)
    blocks, _ = measured(volume, voxel_size, cuts=cuts)
    for name in ("id", "count", "low", "high", "crossings"):
        assert blocks[name].tolist() == whole[name].tolist()
    for name in ("mean", "moments"):
        np.testing.assert_allclose(blocks[name], whole[name], rtol=1e-12, atol=1e-9)


@settings(deadline=None, max_examples=20)
@given(volumes(), st.lists(st.integers(1, 6), max_size=2), st.integers(0, 2**32 - 1), st.booleans())
def test_values_are_averaged_where_they_are_known(volume, cuts, seed, is_far):
    values = np.random.default_rng(seed).normal(1e6 if is_far else 0, 1, volume.shape).astype("float32")
    values[::2, ::3] = np.nan
    records, _ = measured(volume, (1.0, 1.0, 1.0), cuts=cuts, values=[values])
    for record in records:
        known = values[(volume == record["id"]) & ~np.isnan(values)].astype("float64")
        assert record["values"][0] == len(known)
        if len(known):
            assert record["value_mean"][0] == pytest.approx(known.mean(), rel=1e-12, abs=1e-9)
            assert record["value_moment"][0] == pytest.approx(
                ((known - known.mean()) ** 2).sum(), rel=1e-6, abs=1e-6
            )


@settings(deadline=None, max_examples=40)
@given(volumes(), st.tuples(*[st.integers(0, 70)] * 3), st.sampled_from([1, 2, 3, 32]))
def test_buckets_are_those_of_each_voxel(volume, start, edge):
    ids, buckets = segments.find_in_buckets(volume, start, edge)
    expected = {
        (int(value), *((np.array(index) + start) // edge).tolist())
        for index, value in np.ndenumerate(volume)
        if value
    }
    found = Counter((int(one), *bucket) for one, bucket in zip(ids, buckets.tolist(), strict=True))
    assert set(found) == expected
    assert set(found.values()) <= {1}


def test_more_ids_than_the_first_table_holds_are_told_apart():
    volume = (
        np.random.default_rng(1)
        .permutation(np.arange(40 * 50 * 60, dtype="uint64") * 2**40)
        .reshape(40, 50, 60)
    )
    numbers, ids = segments.number_labels(volume)
    assert (ids[numbers] == volume).all()
    assert len(set(ids.tolist())) == volume.size


def test_a_negative_id_is_refused():
    with pytest.raises(InvalidDataset, match="segment id -3; ids must not be negative"):
        segments.number_labels(np.full((2, 2, 2), -3, "int32"))


# Bodies whose surface is known


def ball(radius, voxel_size):
    axes = [
        np.arange(-math.ceil(radius / size) - 1, math.ceil(radius / size) + 2) + 0.3 for size in voxel_size
    ]
    z, y, x = np.meshgrid(*(axis * size for axis, size in zip(axes, voxel_size, strict=True)), indexing="ij")
    return (z**2 + y**2 + x**2 <= radius**2).astype("uint32")


@pytest.mark.parametrize(
    "voxel_size", [(1, 1, 1), (2, 1, 1), (10, 1, 1), (1.5, 1, 1), (6.4, 4, 3), (1, 3, 3)]
)
def test_the_surface_of_a_ball_is_right_within_two_percent(voxel_size):
    radius = 12 * max(voxel_size)
    records, lattice = measured(ball(radius, voxel_size), tuple(map(float, voxel_size)))
    surface, volume = lattice.surface(records["crossings"]), records["count"] * math.prod(voxel_size)
    assert surface[0] == pytest.approx(4 * math.pi * radius**2, rel=0.02)
    assert segments.sphericity(volume, surface)[0] == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("voxel_size", [(1, 1, 1), (4, 1, 1)])
@pytest.mark.parametrize("is_cut", [False, True])
def test_the_surface_of_a_box_is_right_within_ten_percent_even_where_the_volume_ends(voxel_size, is_cut):
    box = np.ones((80, 100, 120), "uint8")
    records, lattice = measured(box if is_cut else np.pad(box, 3), tuple(map(float, voxel_size)))
    z, y, x = (size * step for size, step in zip(box.shape, voxel_size, strict=True))
    # Seven percent are those of faces along the axes; see `Lattice`.
    assert lattice.surface(records["crossings"])[0] == pytest.approx(
        0.927 * 2 * (z * y + z * x + y * x), rel=0.03
    )


def test_a_turned_slab_has_the_surface_of_its_faces():
    z, y, x = np.indices((60, 60, 60))
    for normal in product((0, 1, 3), repeat=3):
        if normal < (1, 0, 0):
            continue
        distance = (
            normal[0] * (z - 29.6) + normal[1] * (y - 29.5) + normal[2] * (x - 29.7)
        ) / np.linalg.norm(normal)
        within = (z - 29.6) ** 2 + (y - 29.5) ** 2 + (x - 29.7) ** 2 <= 28**2
        volume = np.where(within, 1 + (distance > 0), 0)
        records, lattice = measured(volume.astype("uint32"), (1.0, 1.0, 1.0))
        halves = lattice.surface(records["crossings"]).sum()
        # Both halves of a ball: its surface, and twice the disc between them.
        assert halves == pytest.approx(4 * math.pi * 28**2 + 2 * math.pi * 28**2, rel=0.04), normal
