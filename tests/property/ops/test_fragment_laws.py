"""Laws of fragments and of what is made of them, against references that look at one voxel or one pair at a time."""

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from voxelworks.ops import agglomeration, fragments, region_graph
from voxelworks.ops.fragments import SADDLE
from voxelworks.ops.region_graph import PAIR

STEPS = ((-1, 0, 0), (0, -1, 0), (0, 0, -1), (0, 0, 1), (0, 1, 0), (1, 0, 0))


def volumes(top=4, side=6):
    shapes = array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=side)
    return shapes.flatmap(lambda shape: arrays(np.uint16, shape, elements=st.integers(0, top)))


def climbed(heights):
    """Walk from each voxel to its top, one step after the other; tops are numbered in the order of their positions."""

    def key(place):
        return (int(heights[place]), place)

    def step(place):
        near = [tuple(np.add(place, move).tolist()) for move in STEPS]
        inside = [at for at in near if all(0 <= a < n for a, n in zip(at, heights.shape, strict=True))]
        return max([place, *(at for at in inside if heights[at])], key=key)

    tops = {}
    for place in np.ndindex(heights.shape):
        if heights[place]:
            at = place
            while (following := step(at)) != at:
                at = following
            tops[place] = at
    order = {top: number for number, top in enumerate(sorted(set(tops.values())), 1)}
    ids = np.zeros(heights.shape, np.uint32)
    for place, top in tops.items():
        ids[place] = order[top]
    return ids, sorted(order)


def saddles_of(ids, heights):
    found = {}
    for place in np.ndindex(ids.shape):
        for move in STEPS[3:]:
            other = tuple(np.add(place, move).tolist())
            if all(a < n for a, n in zip(other, ids.shape, strict=True)) and ids[place] and ids[other]:
                pair = tuple(sorted((int(ids[place]), int(ids[other]))))
                if pair[0] != pair[1]:
                    found[pair] = max(found.get(pair, 0), int(min(heights[place], heights[other])))
    return found


def whole(heights):
    return fragments.climb(np.pad(heights, 1), (0, 0, 0), heights.shape)


@settings(deadline=None, max_examples=60)
@given(volumes())
def test_fragments_are_what_each_voxel_climbs_to(heights):
    numbers, trees = whole(heights)
    ids, tops = climbed(heights)
    assert np.array_equal(numbers, ids)
    assert trees["top"].tolist() == [int(np.ravel_multi_index(top, heights.shape)) for top in tops]
    assert trees["height"].tolist() == [int(heights[top]) for top in tops]
    assert trees["count"].tolist() == np.bincount(ids.ravel(), minlength=len(tops) + 1)[1:].tolist()
    assert set(trees["face"].tolist()) <= {-1}
    rows = fragments.find_saddles(numbers, heights)
    assert {(int(a), int(b)): int(height) for a, b, height in rows} == saddles_of(ids, heights)


@settings(deadline=None, max_examples=60)
@given(volumes(), st.integers(1, 5))
def test_trees_that_leave_a_block_go_on_beyond_the_face(heights, cut):
    cut = min(cut, heights.shape[2] - 1)
    if cut == 0:
        return
    padded = np.pad(heights, 1)
    left, left_trees = fragments.climb(padded[:, :, : cut + 2].copy(), (0, 0, 0), heights.shape)
    right, right_trees = fragments.climb(padded[:, :, cut:].copy(), (0, 0, cut), heights.shape)
    ids, tops = climbed(heights)
    flat = [int(np.ravel_multi_index(top, heights.shape)) for top in tops]
    for numbers, trees, part, beyond in (
        (left, left_trees, ids[:, :, :cut], ids[:, :, cut]),
        (right, right_trees, ids[:, :, cut:], ids[:, :, cut - 1]),
    ):
        for number, tree in enumerate(trees, 1):
            (reached,) = {int(value) for value in part[numbers == number]}
            if tree["face"] < 0:
                assert flat[reached - 1] == tree["top"]
            else:
                assert tree["face"] == (3 if numbers is left else 2)
                assert beyond.reshape(-1)[tree["place"]] == reached


def merged_slowly(saddles, heights, depth, height_min):
    """Join one saddle after the other, with sets."""
    groups = {fragment: {fragment} for fragment in range(1, len(heights))}
    for a, b, saddle in sorted(saddles, key=lambda row: (-row[2], row[0], row[1])):
        one, other = groups[a], groups[b]
        if one is other:
            continue
        lower = min(max(heights[fragment] for fragment in group) for group in (one, other))
        if lower < height_min or lower - saddle < depth:
            union = one | other
            groups.update(dict.fromkeys(union, union))
    return {frozenset(group) for group in groups.values()}


@settings(deadline=None, max_examples=80)
@given(volumes(top=6, side=5), st.integers(1, 4), st.integers(0, 6), st.integers(0, 2**31))
def test_depths_join_what_one_saddle_after_the_other_joins(heights, depth, height_min, seed):
    numbers, trees = whole(heights)
    rows = fragments.find_saddles(numbers, heights)
    rows = rows[np.random.default_rng(seed).permutation(len(rows))]
    tops = np.r_[np.uint16(0), trees["height"]]
    expected = merged_slowly([tuple(map(int, row)) for row in rows], tops.tolist(), depth, height_min)
    few = fragments.highest_ways(np.concatenate([rows, rows[::2]]))
    assert len(few) < max(1, len(tops))
    for given_rows in (rows, few):
        roots = fragments.merge_by_depth(given_rows, tops, depth, height_min)
        groups = {frozenset(np.flatnonzero(roots == root).tolist()) for root in set(roots[1:].tolist())}
        assert groups == expected
        for root in set(roots[1:].tolist()):
            assert tops[root] == max(tops[roots == root])


def affinities_of(ids, affinities, offsets):
    """Look at every pair of voxels, one by one."""
    found = {}
    for channel, offset in enumerate(offsets):
        for place in np.ndindex(ids.shape):
            other = tuple(np.add(place, offset).tolist())
            if not all(0 <= a < n for a, n in zip(other, ids.shape, strict=True)):
                continue
            a, b = sorted((int(ids[place]), int(ids[other])))
            if a and a != b:
                row = found.setdefault((a << 32) | b, [0, 0, 0, 0])
                column = 0 if sum(map(abs, offset)) == 1 else 2
                row[column] += int(affinities[(channel, *place)])
                row[column + 1] += 1
    return found


OFFSETS = ((1, 0, 0), (0, -1, 0), (0, 0, 1), (0, 3, -2), (-2, 0, 0), (0, 0, 9))


@settings(deadline=None, max_examples=40)
@given(volumes(top=3, side=5), st.integers(0, 2**31), st.lists(st.integers(1, 4), max_size=2))
def test_affinities_of_blocks_add_up_to_those_of_all_pairs(ids, seed, cuts):
    ids = ids.astype(np.uint32) * np.uint32(2**30)
    affinities = np.random.default_rng(seed).integers(0, 256, (len(OFFSETS), *ids.shape), np.uint8)
    ends = [0, *sorted({cut for cut in cuts if cut < len(ids)}), len(ids)]
    parts = []
    for start, stop in pairwise(ends):
        first, last = max(0, start - 2), min(len(ids), stop + 1)
        parts.append(
            region_graph.add_affinities(
                ids[first:last], affinities[:, start:stop], OFFSETS, (start - first, 0, 0)
            )
        )
    pairs = region_graph.merge_pairs(np.concatenate(parts))
    expected = affinities_of(ids, affinities, OFFSETS)
    assert {int(row["id"]): list(row.tolist()[1:]) for row in pairs} == expected
    assert pairs["id"].tolist() == sorted(expected)


@pytest.mark.parametrize("id_max", [40, 2**32 - 1], ids=["few fragments", "more than one table holds"])
def test_pairs_of_many_bricks_are_those_of_all_voxels(id_max):
    random = np.random.default_rng(0)
    shape = (40, 36, 140)
    ids = random.integers(0, id_max, shape, np.uint32, endpoint=True)
    heights = random.integers(1, 2**16, shape, np.uint16)
    offsets = [(-1, 0, 0), (0, -1, 0), (0, 0, -1), (3, 0, 0), (0, 2, -2), (0, 0, -90), (0, 0, -200)]
    affinities = random.integers(0, 256, (len(offsets), *shape), np.uint8)
    rows = region_graph.add_affinities(ids, affinities, offsets, (0, 0, 0))
    expected, ways = [], []
    for offset, values in zip(offsets, affinities, strict=True):
        if max(map(abs, offset)) >= shape[2]:
            continue
        here, there = fragments._pair_slices(np.array(offset), shape)
        a, b, own = ids[here].ravel(), ids[there].ravel(), values[here].ravel()
        differs = (a != b) & (a != 0) & (b != 0)
        keys = (np.minimum(a, b).astype(np.uint64) << np.uint64(32)) | np.maximum(a, b)
        pairs = np.zeros(np.count_nonzero(differs), PAIR)
        kind = "short" if region_graph.is_short(offset) else "long"
        pairs["id"], pairs[f"{kind}_sum"], pairs[f"{kind}_count"] = keys[differs], own[differs], 1
        expected.append(pairs)
        if kind == "short":
            saddles = np.minimum(heights[here], heights[there]).ravel()[differs]
            ways.append(np.stack([keys[differs], saddles.astype(np.uint64)]))
    np.testing.assert_array_equal(rows, region_graph.merge_pairs(np.concatenate(expected)))
    keys, saddles = np.concatenate(ways, axis=1)
    order = np.lexsort((saddles, keys))
    last = np.r_[keys[order][1:] != keys[order][:-1], True]
    found = np.sort(fragments.find_saddles(ids, heights), order=["a", "b"])
    assert found["a"].tolist() == (keys[order][last] >> np.uint64(32)).tolist()
    assert found["b"].tolist() == (keys[order][last] & np.uint64(2**32 - 1)).tolist()
    assert found["height"].tolist() == saddles[order][last].tolist()


def joined_slowly(pairs, count):
    """Join the two groups with the highest mean that touch, with sums over all pairs between them anew each time."""
    groups = {fragment: frozenset([fragment]) for fragment in range(1, count + 1)}
    joins = []
    while True:
        between = {}
        for row in pairs:
            a, b = int(row["id"]) >> 32, int(row["id"]) & (2**32 - 1)
            one, other = groups[a], groups[b]
            if one != other:
                sums = between.setdefault(frozenset([one, other]), [0, 0, 0])
                sums[0] += int(row["short_sum"] + row["long_sum"])
                sums[1] += int(row["short_count"] + row["long_count"])
                sums[2] += int(row["short_count"])
        touching = {key: sums[0] / sums[1] for key, sums in between.items() if sums[2]}
        if not touching:
            return joins
        best = max(touching, key=touching.get)
        union = frozenset().union(*best)
        joins.append((min(touching[best], joins[-1][0] if joins else 255), union))
        groups.update(dict.fromkeys(union, union))


@st.composite
def graphs(draw):
    count = draw(st.integers(1, 9))
    chosen = [
        pair for pair in product(range(1, count + 1), repeat=2) if pair[0] < pair[1] and draw(st.booleans())
    ]
    random = np.random.default_rng(draw(st.integers(0, 2**31)))
    pairs = np.zeros(len(chosen), PAIR)
    pairs["id"] = [(a << 32) | b for a, b in chosen]
    # Prime numbers of voxels, so that no two means are equal.
    primes = np.array([101, 103, 107, 109, 113, 127, 131, 137, 139, 149])
    for name in ("short", "long"):
        pairs[f"{name}_count"] = random.choice(primes, len(pairs)) * random.integers(0, 2, len(pairs))
        pairs[f"{name}_sum"] = random.integers(1, 255, len(pairs)) * pairs[f"{name}_count"] // 7 * 6
    return count, pairs


@settings(deadline=None, max_examples=120)
@given(graphs())
def test_the_two_that_belong_together_most_are_joined_first(graph):
    count, pairs = graph
    joins = agglomeration.agglomerate(pairs, count)
    expected = joined_slowly(pairs, count)
    np.testing.assert_allclose(joins["affinity"] * 255, [value for value, _ in expected], rtol=1e-6)
    groups = {fragment: frozenset([fragment]) for fragment in range(1, count + 1)}
    touching = {int(row["id"]) for row in pairs if row["short_count"]}
    for join, (_, union) in zip(joins, expected, strict=True):
        a, b = int(join["a"]), int(join["b"])
        assert (a << 32) | b in touching
        assert groups[a] | groups[b] == union
        between = [
            (int(row["short_sum"] + row["long_sum"]) / int(row["short_count"] + row["long_count"]), int(row["id"]))
            for row in pairs
            if row["short_count"] and len({groups[int(row["id"]) >> 32], groups[int(row["id"]) & (2**32 - 1)]}) == 2
            and {int(row["id"]) >> 32, int(row["id"]) & (2**32 - 1)} <= union
        ]  # fmt: skip
        assert (max(between)[0], (a << 32) | b) in between, "the strongest pair stands for the join"
        groups.update(dict.fromkeys(union, union))


@settings(deadline=None, max_examples=60)
@given(graphs(), st.integers(0, 2**31))
def test_how_fragments_are_numbered_does_not_matter(graph, seed):
    count, pairs = graph
    numbers = np.r_[0, 1 + np.random.default_rng(seed).permutation(count)]
    renamed = pairs.copy()
    first, second = region_graph.ends_of(pairs)
    low = np.minimum(numbers[first], numbers[second]).astype(np.uint64)
    renamed["id"] = (low << np.uint64(32)) | np.maximum(numbers[first], numbers[second]).astype(np.uint64)
    renamed = np.sort(renamed, order="id")
    sizes = np.r_[0, np.arange(1, count + 1)]
    back = np.zeros_like(sizes)
    back[numbers] = sizes
    for threshold, size_min in ((0.5, 0), (0.6, 4)):
        one = agglomeration.cut(
            agglomeration.agglomerate(pairs, count), sizes, threshold=threshold, size_min=size_min
        )
        other = agglomeration.cut(
            agglomeration.agglomerate(renamed, count), back, threshold=threshold, size_min=size_min
        )
        moved = other.objects[numbers]
        assert one.count == other.count
        assert len(set(zip(one.objects.tolist(), moved.tolist(), strict=True))) == one.count + 1


@settings(deadline=None, max_examples=40)
@given(graphs(), st.floats(0, 1), st.integers(0, 3))
def test_a_threshold_chosen_later_is_the_same_as_one_chosen_at_first(graph, threshold, size_min):
    count, pairs = graph
    sizes = np.r_[0, np.ones(count, np.int64)]
    joins = agglomeration.agglomerate(pairs, count)
    early = agglomeration.agglomerate(pairs, count, floor=threshold)
    late = agglomeration.cut(joins, sizes, threshold=threshold)
    assert np.array_equal(late.objects, agglomeration.cut(early, sizes, threshold=0).objects)
    made = agglomeration.cut(joins, sizes, threshold=threshold, size_min=size_min)
    first_seen = [made.objects.tolist().index(number) for number in range(made.count + 1)]
    assert first_seen == sorted(first_seen)
    voxels = np.bincount(made.objects, sizes)
    for number in range(1, made.count + 1):
        members = np.flatnonzero(made.objects == number).tolist()
        assert voxels[number] >= size_min or set(members) == connected_to(members[0], joins)


def connected_to(fragment, joins):
    reached = {fragment}
    while True:
        more = {
            int(x)
            for join in joins
            for x in (join["a"], join["b"])
            if {int(join["a"]), int(join["b"])} & reached
        }
        if more <= reached:
            return reached
        reached |= more


@settings(deadline=None, max_examples=30)
@given(volumes(top=2**16 - 255, side=5), st.tuples(*[st.integers(0, 2)] * 3))
def test_smoothing_is_the_weighted_mean_to_the_nearest_whole_number(heights, passes):
    padded = np.pad(heights, [(count, count) for count in passes], mode="edge")
    found = fragments.smooth(padded, passes)
    expected = padded.astype(np.int64)
    for axis, count in enumerate(passes):
        for _ in range(count):
            moved = np.moveaxis(expected, axis, 0)
            expected = np.moveaxis((moved[:-2] + 2 * moved[1:-1] + moved[2:] + 2) // 4, 0, axis)
    assert np.array_equal(found, expected)


@settings(deadline=None, max_examples=30)
@given(volumes(side=4), st.integers(0, 2**31))
def test_heights_are_the_mean_of_the_affinities_in_all_directions(shape_of, seed):
    offsets = np.array([(1, 0, 0), (0, -1, 0), (0, 0, 1), (0, 0, 3)])
    affinities = np.random.default_rng(seed).integers(0, 256, (4, *shape_of.shape), np.uint8)
    found = fragments.affinity_heights(affinities, offsets)
    for place in np.ndindex(shape_of.shape):
        values = []
        for channel, offset in enumerate(offsets[:3]):
            for at, other in ((place, np.add(place, offset)), (np.subtract(place, offset), place)):
                ends = [tuple(map(int, end)) for end in (at, other)]
                if all(0 <= a < n for end in ends for a, n in zip(end, shape_of.shape, strict=True)):
                    values.append(int(affinities[(channel, *ends[0])]))
        mean = 256 * sum(values) / max(1, len(values))
        assert abs(found[place] - 1 - mean) <= 0.5


def test_no_saddle_is_no_way():
    assert len(fragments.highest_ways(np.empty(0, SADDLE))) == 0
    assert fragments.merge_by_depth(np.empty(0, SADDLE), np.array([0, 7], np.uint16), 1, 9).tolist() == [0, 1]
    assert len(agglomeration.agglomerate(np.empty(0, PAIR), 3)) == 0
    assert len(region_graph.merge_pairs(np.empty(0, PAIR))) == 0
