"""Predictions become the same segmentation however they are cut into blocks, and whatever is killed on the way."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import zarr

from voxelworks.errors import Cancelled, InvalidParams, UnsupportedFormat
from voxelworks.geometry import Box, Mag, VoxelSize
from voxelworks.ops import fragments, region_graph
from voxelworks.ops.agglomeration import JOIN, agglomerate, cut
from voxelworks.ops.evaluation import count_overlaps, score
from voxelworks.protocol.models import ModelFacts, PostProcessing
from voxelworks.settings import Settings
from voxelworks.volumes.arrays import MagArray, create_mag_array
from voxelworks.volumes.dataset import Dataset
from voxelworks.workflows import (
    FREE,
    Job,
    NewDataset,
    NewDatasetRef,
    Params,
    StopFlag,
    workflow,
)
from voxelworks.workflows import _fragments as work
from voxelworks.workflows._agglomerates import Agglomeration, read_agglomeration, write_agglomerates
from voxelworks.workflows._mappings import attached_mappings, open_agglomerates
from voxelworks.workflows._new_layers import LayerPlan
from voxelworks.workflows._run import run_locally

CHECKER = Path(__file__).parents[2] / "check_with_webknossos.py"
SMALL = Settings(slots=1, shard_bytes_max=2**18)
SIZE = VoxelSize(8, 8, 16)
MAG = Mag(2, 2, 1)
OFFSETS = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (-4, 0, 0), (0, 5, 0), (0, 0, 3))


def facts_of(task, **rules):
    """Make the facts of a model with the outputs of its task."""
    outputs = {
        "affinities": ("affinity",) * len(OFFSETS),
        "instances": ("distance", "foreground"),
        "semantic": ("foreground",),
    }[task]
    return ModelFacts(
        title="test", task=task, structure="blobs", voxel_size=SIZE, voxel_size_min=SIZE, voxel_size_max=SIZE,
        outputs=outputs, offsets=OFFSETS if task == "affinities" else (), patch=(32, 32, 32), border=(4, 4, 4),
        distance_scale_nm=100 if task == "instances" else None, post_processing=PostProcessing(**rules),
    )  # fmt: skip


def stored(folder, values, start=(0, 0, 0)):
    """Store predictions (c, z, y, x) that begin at `start` (x, y, z)."""
    box = Box.from_zyx(start[::-1], values.shape[1:])
    array = create_mag_array(
        folder, mag=MAG, layer_box=box.from_mag(MAG), dtype="uint8", channel_count=len(values),
        shard_zyx=(64, 64, 64), category="color",
    )  # fmt: skip
    array.write(box, values)
    return array


class Parameters(Params):
    """What is segmented."""

    target: NewDatasetRef
    """Where to put it."""
    predictions: str
    """Where they are."""
    box: Box
    """Which voxels of their mag they cover."""
    facts: str
    """Of the model."""
    block: tuple[int, int, int]
    """How they are cut."""
    fills_space: bool = True
    """Whether all voxels belong to neurons."""


@workflow(version=1, cost=FREE, example={"target": "made"}, group="Test")
def segment_predictions(params: Parameters, job: Job) -> NewDataset:
    """Segment predictions that are there."""
    facts = ModelFacts.model_validate_json(params.facts)
    array = MagArray(params.predictions, MAG, params.box, np.dtype("uint8"), len(facts.outputs))
    made = job.start_dataset(params.target, VoxelSize(4, 4, 16), inputs=[])
    job.expect(work.work_units(array, facts))
    found = work.segment(job, "made", array, facts, SIZE, fills_space=params.fills_space, block=params.block)
    layers = {"segments": found}
    if isinstance(found, work.Neurons):
        layers = {"segments": found.segments, "fragments": found.fragments}
    for name, partition in layers.items():
        volume = partition.volume()
        plan = LayerPlan(made, name, volume.fallback.box, volume, job)
        plan.write(job, None)
    if isinstance(found, work.Neurons):
        known = Agglomeration(found.joins, found.fragments.sizes(), found.fragments.positions())
        write_agglomerates(job.folder.result / "fragments" / "agglomerates" / "view", known, found.made)
        made.source = made.source.with_agglomerates("fragments", "view")
    made.write_metadata()
    return NewDataset(dataset=str(params.target), layers=tuple(layers))


class Log:
    def __init__(self, stop=None, at=None):
        self.lines, self.phases, self.stop, self.at = [], [], stop, at

    def progress(self, progress):
        self.phases.append(progress.phase)
        if self.at is not None and progress.phase.endswith(self.at) and progress.done:
            self.stop.set(Cancelled("enough"))

    def log(self, text):
        self.lines.append(text)


def segment(home, array, facts, block, *, name="made", reporter=None, stop=None, **more):
    params = Parameters(
        target=str(home / name),
        predictions=array.location,
        box=array.box,
        facts=facts.model_dump_json(),
        block=block,
        **more,
    )
    reporter = reporter or Log()
    run_locally(
        segment_predictions.__workflow__,
        params,
        settings=SMALL,
        cluster="serial",
        reporter=reporter,
        stop=stop,
    )
    dataset = Dataset.open(home / name)
    return {layer.name: layer.mag(MAG).read(array.box)[0] for layer in dataset.layers}, reporter


def blobs(shape, seed, count=12, radius=5.0):
    """Distances from the surface of balls, and their numbers."""
    random = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(*[np.arange(extent) for extent in shape], indexing="ij"), axis=-1)
    centres = random.uniform(0, shape, (count, 3))
    away = np.stack([np.linalg.norm(places - centre, axis=-1) for centre in centres])
    depth = radius - away.min(axis=0)
    return np.where(depth > 0, away.argmin(axis=0) + 1, 0), depth


def noisy(shape, seed, channels):
    random = np.random.default_rng(seed)
    labels, depth = blobs(shape, seed)
    noise = random.normal(0, 12, shape)
    if channels == "semantic":
        return np.where(depth > 0, 200, 20).astype(np.uint8)[np.newaxis]
    if channels == "instances":
        distance = np.clip(depth * 30 + noise, 0, 255)
        return np.stack([distance, np.where(depth > 0, 200, 20)]).astype(np.uint8)
    labels = labels + np.where(labels == 0, 100 + (np.arange(shape[2]) > shape[2] / 2), 0)
    values = []
    for x, y, z in OFFSETS:
        same = labels == np.roll(labels, (-z, -y, -x), (0, 1, 2))
        values.append(np.clip(np.where(same, 230, 40) + noise + random.normal(0, 20, shape), 0, 255))
    return np.stack(values).astype(np.uint8)


def files_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "datasource-properties.json" and "previews" not in str(path)
    }


@pytest.fixture(scope="module", params=["semantic", "instances", "affinities"])
def whole(request, tmp_path_factory):
    """A segmentation of one block."""
    home = tmp_path_factory.mktemp("whole")
    array = stored(home / "predictions", noisy((21, 30, 37), 5, request.param), start=(8, 11, 3))
    facts = facts_of(request.param, size_min_nm3=20 * 1024.0, min_depth_nm=8.0)
    found, _ = segment(home, array, facts, (64, 64, 64))
    return home, array, facts, found


def test_blocks_of_any_size_give_the_same_bytes(whole, tmp_path):
    home, array, facts, voxels = whole
    assert 3 < len(np.unique(voxels["segments"])) < 100
    for number, block in enumerate([(16, 16, 8), (8, 24, 40)]):
        cut_up, reporter = segment(tmp_path, array, facts, block, name=f"made{number}")
        for name, expected in voxels.items():
            assert np.array_equal(cut_up[name], expected)
        assert files_of(tmp_path / f"made{number}") == files_of(home / "made")
        assert any("blocks in" in line for line in reporter.lines)


@pytest.mark.parametrize(
    "phase", [": fragments", ": ways between fragments", ": affinities between fragments"]
)
def test_a_job_that_was_stopped_goes_on_and_gives_the_same_bytes(whole, tmp_path, phase):
    home, array, facts, _ = whole
    if "affinities" in phase and facts.task != "affinities":
        phase = ": merging fragments"
    stop = StopFlag()
    with pytest.raises(Cancelled):
        segment(tmp_path, array, facts, (16, 16, 16), reporter=Log(stop, phase), stop=stop)
    # What is written down of a block does not count if its files are gone.
    (lost, *_) = sorted(tmp_path.rglob("scratch/*/trees-*"))
    lost.unlink()
    segment(tmp_path, array, facts, (16, 16, 16))
    assert files_of(tmp_path / "made") == files_of(home / "made")


def connected_parts(mask):
    """Flood one part after the other."""
    left, parts = set(map(tuple, np.argwhere(mask).tolist())), np.zeros(mask.shape, np.int64)
    while left:
        number, front = parts.max() + 1, [left.pop()]
        while front:
            z, y, x = place = front.pop()
            parts[place] = number
            near = {
                (z - 1, y, x),
                (z + 1, y, x),
                (z, y - 1, x),
                (z, y + 1, x),
                (z, y, x - 1),
                (z, y, x + 1),
            } & left
            left -= near
            front.extend(near)
    return parts


def test_without_distances_segments_are_the_connected_parts_of_the_foreground(tmp_path):
    random = np.random.default_rng(4)
    values = random.integers(0, 256, (1, 17, 20, 23)).astype(np.uint8)
    array = stored(tmp_path / "predictions", values)
    found, _ = segment(tmp_path, array, facts_of("semantic", threshold=0.6, size_min_nm3=3 * 1024), (8, 8, 8))
    expected = connected_parts(values[0] >= 153)
    sizes = np.bincount(expected.ravel())
    expected = np.where(sizes[expected] >= 3, expected, 0)
    pairs = set(zip(found["segments"].ravel().tolist(), expected.ravel().tolist(), strict=True))
    assert len(pairs) == len(np.unique(expected)) == len(np.unique(found["segments"]))
    assert np.array_equal(found["segments"] == 0, expected == 0)


def test_touching_objects_are_parted_at_the_neck_and_filtered_by_size(tmp_path):
    z, y, x = np.indices((16, 16, 40))

    def ball(at, radius):
        return radius - np.sqrt((x - at) ** 2 + (y - 8) ** 2 + (z - 8) ** 2)

    depth = np.maximum(np.maximum(ball(8, 7.0), ball(18, 6.0)), ball(32, 3.0))
    values = np.stack([np.clip(depth * 25, 0, 255), np.where(depth > 0, 255, 0)]).astype(np.uint8)
    array = stored(tmp_path / "predictions", values)

    def count(name, **rules):
        found, _ = segment(tmp_path, array, facts_of("instances", **rules), (16, 16, 8), name=name)
        return [int((found["segments"] == number).sum()) for number in range(1, found["segments"].max() + 1)]

    three = count("three", min_depth_nm=3)
    assert len(three) == 3
    assert sum(three) == (depth > 0).sum()
    assert len(count("two", min_depth_nm=60)) == 2, "the neck is less thin than that"
    volume = 1024.0
    assert sorted(count("large", min_depth_nm=3, size_min_nm3=(min(three) + 1) * volume)) == sorted(three)[1:]
    assert sorted(count("small", min_depth_nm=3, size_max_nm3=min(three) * volume)) == [min(three)]
    assert len(count("thick", min_depth_nm=3, seed_distance_nm=45)) == 2, (
        "the smallest is nowhere as thick as that"
    )


def test_where_nothing_is_there_is_no_segment(tmp_path):
    array = stored(tmp_path / "predictions", np.zeros((2, 5, 9, 17), np.uint8))
    found, _ = segment(tmp_path, array, facts_of("instances"), (8, 8, 8))
    assert not found["segments"].any()
    array = stored(tmp_path / "affinities", np.zeros((len(OFFSETS), 5, 9, 1), np.uint8))
    found, _ = segment(tmp_path, array, facts_of("affinities"), (8, 8, 8), name="neurons")
    assert found["segments"].all()


def test_membranes_may_belong_to_no_neuron(tmp_path):
    affinities = np.full((len(OFFSETS), 8, 8, 24), 250, np.uint8)
    affinities[:, :, :, 10:13] = 5
    array = stored(tmp_path / "predictions", affinities)
    found, _ = segment(tmp_path, array, facts_of("affinities"), (8, 8, 8), name="all")
    assert [len(np.unique(found["segments"][:, :, x])) for x in (2, 11, 20)] == [1, 1, 1]
    assert found["segments"].all()
    found, _ = segment(tmp_path, array, facts_of("affinities"), (8, 8, 8), fills_space=False)
    assert np.unique(found["segments"][:, :, 11]).tolist() == [0]
    assert sorted({*found["segments"][:, :, 2].flat, *found["segments"][:, :, 20].flat}) == [1, 2]


def test_neighbours_and_offsets_up_to_45_nm_say_whether_fragments_belong_together():
    offsets = ((-1, 0, 0), (0, 0, -1), (-5, 0, 0), (0, 4, 0), (0, 1, 0), (0, 0, -2))

    def used(*size):
        facts = facts_of("affinities").model_copy(
            update={"offsets": offsets, "outputs": tuple("abcdef"), "voxel_size": VoxelSize(*size)}
        )
        channels = work.used_channels(facts)
        return channels, facts.with_outputs(channels)

    channels, facts = used(10, 10, 70)
    assert channels == (0, 1, 3, 4)
    assert facts.outputs == ("a", "b", "d", "e")
    assert facts.offsets == ((-1, 0, 0), (0, 0, -1), (0, 4, 0), (0, 1, 0))
    assert used(8, 8, 16)[0] == (0, 1, 2, 3, 4, 5)


def test_offsets_are_as_long_on_other_voxels_and_neighbours_stay_neighbours():
    facts = facts_of("affinities").model_copy(
        update={
            "offsets": ((-1, 0, 0), (0, 0, -3), (0, 3, -3), (-4, 0, 0)),
            "voxel_size": VoxelSize(10, 10, 20),
        }
    )
    assert work._offsets(facts, VoxelSize(10, 10, 20)) == ((0, 0, -1), (-3, 0, 0), (-3, 3, 0), (0, 0, -4))
    assert work._offsets(facts, VoxelSize(5, 4, 20)) == ((0, 0, -1), (-3, 0, 0), (-3, 8, 0), (0, 0, -8))
    assert work._offsets(facts, VoxelSize(40, 80, 80)) == ((0, 0, -1), (-1, 0, 0), (-1, 1, 0), (0, 0, -1))


def test_rules_that_cannot_be_followed_are_refused(tmp_path):
    array = stored(tmp_path / "predictions", np.zeros((2, 5, 9, 17), np.uint8))
    with pytest.raises(
        InvalidParams, match=r"seed distance is 120 nm, but the model tells distances up to 100 nm"
    ):
        segment(tmp_path, array, facts_of("instances", seed_distance_nm=120), (8, 8, 8))


def test_agglomerate_files_follow_the_rules_of_webknossos(tmp_path):
    array = stored(tmp_path / "predictions", noisy((21, 30, 37), 6, "affinities"), start=(8, 11, 3))
    found, _ = segment(tmp_path, array, facts_of("affinities"), (16, 16, 16))
    dataset = Dataset.open(tmp_path / "made")
    (file,) = attached_mappings(dataset.layer("fragments")).values()
    root = zarr.open_group(file.location, mode="r")
    assert dict(root.attrs)["voxelytics"]["artifact_class"] == "AgglomerateViewArtifact"
    assert dict(root.attrs)["voxelytics"]["artifact_schema_version"] == 4
    names = (
        "segment_to_agglomerate", "agglomerate_to_segments_offsets", "agglomerate_to_segments",
        "agglomerate_to_edges_offsets", "agglomerate_to_edges", "agglomerate_to_affinities",
        "agglomerate_to_positions",
    )  # fmt: skip
    arrays = {name: root[name][:] for name in names}
    assert [arrays[name].dtype.name for name in names] == [
        "uint64", "uint64", "uint32", "uint64", "uint32", "float32", "int32",
    ]  # fmt: skip
    owners, starts, members, edge_starts, edges, affinities, positions = (arrays[name] for name in names)
    count = int(found["fragments"].max())
    assert len(owners) == count + 1
    assert np.array_equal(np.sort(members), np.arange(1, count + 1))
    assert len(starts) == len(edge_starts) == owners.max() + 2
    assert starts[:2].tolist() == edge_starts[:2].tolist() == [0, 0]
    assert (starts[-1], edge_starts[-1]) == (count, len(edges))
    corner = np.array((8, 11, 3))
    for number in range(1, int(owners.max()) + 1):
        own = members[starts[number] : starts[number + 1]]
        assert own.tolist() == np.flatnonzero(owners == number).tolist()
        inside = edges[edge_starts[number] : edge_starts[number + 1]].tolist()
        assert inside == sorted(inside)
        assert all(a < b < len(own) for a, b in inside)
        assert len(inside) == len(own) - 1, "the joins of an object make a tree"
        for segment_id, position in zip(own, positions[starts[number] : starts[number + 1]], strict=True):
            x, y, z = position // np.array(MAG.xyz) - corner
            assert found["fragments"][z, y, x] == segment_id
            assert found["segments"][z, y, x] == number
    assert ((affinities >= 0) & (affinities <= 1)).all()
    voxels = found["fragments"].copy()
    open_agglomerates(file).apply(voxels)
    assert np.array_equal(voxels, found["segments"])

    known = read_agglomeration(file.location)
    assert known.sizes[1:].tolist() == np.bincount(found["fragments"].ravel())[1:].tolist()
    again = cut(known.joins, known.sizes, threshold=0.5)
    write_agglomerates(tmp_path / "again", known, again)
    assert files_of(tmp_path / "again") == files_of(tmp_path / "made" / "fragments" / "agglomerates" / "view")
    assert cut(known.joins, known.sizes, threshold=0.95).count > again.count > 1
    shutil.rmtree(tmp_path / "again" / "joins")
    with pytest.raises(UnsupportedFormat, match=r"has no array 'joins'"):
        read_agglomeration(str(tmp_path / "again"))


@pytest.mark.parametrize("whole", ["affinities"], indirect=True)
def test_the_official_library_writes_the_same_agglomerate_file(whole, tmp_path):
    python = os.environ.get("VOXELWORKS_TEST_WEBKNOSSOS_PYTHON")
    if not python:
        pytest.skip("VOXELWORKS_TEST_WEBKNOSSOS_PYTHON is not set")
    home, _, _, found = whole
    done = subprocess.run(
        [python, CHECKER, "--agglomerates", home / "made", "fragments", tmp_path],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert f"{found['fragments'].max()} nodes" in done.stdout


def test_the_agglomerate_file_of_nothing(tmp_path):
    known = Agglomeration(np.empty(0, JOIN), np.zeros(1, np.int64), np.zeros((1, 3), np.int64))
    write_agglomerates(tmp_path / "none", known, cut(known.joins, known.sizes, threshold=0.5))
    assert zarr.open_group(tmp_path / "none", mode="r")["segment_to_agglomerate"][:].tolist() == [0]
    assert len(read_agglomeration(str(tmp_path / "none")).joins) == 0


def test_a_gap_in_the_membranes_is_closed_by_long_offsets(test_data):
    """Real labels: noise in the affinities, and pieces of the membranes that are missing."""
    labels = np.load(test_data / "neuron_fib25" / "labels_neuron.npz")["data"][:40, :64, :64]
    random = np.random.default_rng(1)
    offsets = [(0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, 6), (0, 6, 0), (6, 0, 0)]
    affinities = np.stack([
        np.where(labels == np.roll(labels, [-step for step in offset], (0, 1, 2)), 220, 30) for offset in offsets
    ])  # fmt: skip
    affinities[:3, ::4] = 220
    affinities = np.clip(affinities + random.normal(0, 25, affinities.shape), 0, 255).astype(np.uint8)
    heights = fragments.smooth(
        np.pad(fragments.affinity_heights(affinities, np.array(offsets)), 1, mode="edge"), (1, 1, 1)
    )
    numbers, trees = fragments.climb(np.pad(heights, 1), (0, 0, 0), labels.shape)

    def score_of(channels):
        pairs = region_graph.add_affinities(numbers, affinities[:channels], offsets[:channels], (0, 0, 0))
        joins = agglomerate(pairs, len(trees))
        sizes = np.r_[0, trees["count"]]
        objects = cut(joins, sizes, threshold=0.5, size_min=50).objects
        return score([count_overlaps(objects[numbers], labels)]).voxelwise["voi"].value

    assert score_of(6) < 0.5 < score_of(3)
