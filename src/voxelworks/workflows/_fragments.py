"""From predictions on disk to a segmentation, block by block, and the same for any blocks.

Blocks are looked at one by one; what they find is put together in single steps, whose memory grows with the number of
fragments, not of voxels. No voxel is written twice: blocks leave numbers that mean something only inside of them, and
tables, in files, of what these become. A `Partition` reads both as one segmentation, and other tables over the same
numbers are other segmentations. See `ops.fragments` for why the cuts do not matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from voxelworks.errors import InvalidParams, ResourcesExceeded
from voxelworks.geometry import Box, Mag, Vec3, VoxelSize, Zyx
from voxelworks.ops import agglomeration, fragments, region_graph
from voxelworks.ops.agglomeration import JOIN, Cut, Joins
from voxelworks.ops.fragments import FACE, HEIGHT_OF_ONE, SADDLE, TREE
from voxelworks.ops.region_graph import PAIR
from voxelworks.protocol.models import TASK_OUTPUTS
from voxelworks.volumes.arrays import MagArray, create_mag_array
from voxelworks.volumes.shards import CHUNK
from voxelworks.workflows._heights import (
    AffinityHeights,
    HeightMap,
    InstanceHeights,
    Predicted,
    grown,
    smoothing,
    within,
    zyx,
)
from voxelworks.workflows._materialize import Fallback, MergedVolume
from voxelworks.workflows._runs import Run, is_intact, open_run, plan_ranges, read_range, starts_of, write_run

if TYPE_CHECKING:
    from voxelworks.protocol.models import ModelFacts, PostProcessing
    from voxelworks.workflows._job import Job

BLOCK: Vec3 = (256, 256, 256)
"""Voxels (x, y, z) that are looked at together."""
ID = np.dtype("<u4")
POSITION = np.dtype("<i8")
_IDS_MAX = 2**32 - 1
_ROWS_PER_RANGE = 2**20
_ROWS_AT_ONCE = 2**22
_FEWER = "choose a smaller box"

SMOOTHING = 1
"""How often heights are averaged along the axis with the shortest voxels; see `smoothing`. Neurons are thin: more joins
some over their membranes, and no affinity parts these again."""
NEURON_DEPTH = 0.003
"""Fragments of neurons are joined where the lower top is less than this above the way between them."""
NEURON_TOP_MIN = 0.5
"""Lower tops lie in membranes: their fragments are given to a neighbour, so that neurons fill space."""
REACH_NM = 45.0
"""Affinities at longer offsets teach a network to look around, but say little of whether fragments belong together."""


@dataclass(frozen=True)
class Tiling:
    """A box that is cut into blocks, along the grid that starts at voxel 0."""

    box: Box
    block: Vec3

    @property
    def blocks(self) -> list[Box]:
        """In order z, y, x: their numbers are their places in this list."""
        return list(self.box.tiles(self.block))

    @property
    def grid(self) -> Vec3:
        """Blocks along x, y, z."""
        x, y, z = (
            -(-stop // step) - start // step
            for start, stop, step in zip(self.box.topleft, self.box.bottomright, self.block, strict=True)
        )
        return x, y, z

    def number(self, box: Box) -> int:
        """Give the number of the block in which a box lies."""
        x, y, z = (
            at // step - start // step
            for at, start, step in zip(box.topleft, self.box.topleft, self.block, strict=True)
        )
        return (z * self.grid[1] + y) * self.grid[0] + x

    def beyond(self, number: int, face: int) -> int | None:
        """Give the number of the block beyond a face, numbered as in `ops.fragments`; None at the end of the box."""
        width, height, depth = self.grid
        axis, step = ((0, -1), (1, -1), (2, -1), (2, 1), (1, 1), (0, 1))[face]
        place = [number // (width * height), number // width % height, number % width]
        place[axis] += step
        if not 0 <= place[axis] < (depth, height, width)[axis]:
            return None
        return (place[0] * height + place[1]) * width + place[2]


@dataclass(frozen=True)
class Climbed:
    """What one block left."""

    trees: Run
    saddles: Run
    faces: Run
    files: dict[str, int]
    """Of the array of numbers, with their sizes."""


@dataclass(frozen=True)
class Climb:
    """Find the trees of a block. Runs in the processes of the executor, like all that follow."""

    heights: HeightMap
    numbers: MagArray
    folder: str

    def __call__(self, box: Box) -> Climbed:
        volume = self.heights.predictions.box
        heights = self.heights.read(grown(box, (1, 1, 1)))
        start = tuple(a - b for a, b in zip(box.start_zyx, volume.start_zyx, strict=True))
        numbers, trees = fragments.climb(heights, start, volume.shape_zyx)  # type: ignore[arg-type]
        own = np.ascontiguousarray(heights[1:-1, 1:-1, 1:-1])
        sides = zip(fragments.faces_of(numbers), fragments.faces_of(own), strict=True)
        faces = []
        for number, height in sides:
            face = np.empty(len(number), FACE)
            face["number"], face["height"] = number, height
            faces.append(face)
        place = Path(self.numbers.location)
        for name in self.numbers.shard_files(box):
            (place / name).unlink()  # left by an attempt that was killed
        self.numbers.write(box, numbers)
        folder = Path(self.folder)
        return Climbed(
            write_run(folder, f"trees-{box}", trees),
            write_run(folder, f"saddles-{box}", fragments.find_saddles(numbers, own)),
            write_run(folder, f"faces-{box}", np.concatenate(faces)),
            {name: (place / name).stat().st_size for name in self.numbers.shard_files(box)},
        )


def _is_climbed(folder: Path, numbers: Path, climbed: Climbed) -> bool:
    try:
        written = all((numbers / name).stat().st_size == size for name, size in climbed.files.items())
    except FileNotFoundError:
        return False
    runs = ((TREE, climbed.trees), (SADDLE, climbed.saddles), (FACE, climbed.faces))
    return written and all(is_intact(folder, dtype, run) for dtype, run in runs)


@dataclass(frozen=True)
class Table:
    """Objects, numbered from 1 on, in files with a row for each, and one for 0."""

    count: int
    ids: Run
    """ID: the object of each tree of all blocks."""
    tops: Run
    """POSITION: the flat position of a voxel inside each, in the box of the predictions."""
    heights: Run
    """uint16: of the top."""
    sizes: Run
    """POSITION: voxels."""


def _is_table(folder: Path, table: Table) -> bool:
    runs = (
        (ID, table.ids),
        (POSITION, table.tops),
        (np.dtype("<u2"), table.heights),
        (POSITION, table.sizes),
    )
    return all(is_intact(folder, dtype, run) for dtype, run in runs)


def _write_table(
    folder: Path, name: str, ids: Run, tops: NDArray[Any], heights: NDArray[Any], sizes: NDArray[Any]
) -> Table:
    return Table(
        len(tops) - 1,
        ids,
        write_run(folder, f"{name}-tops", tops),
        write_run(folder, f"{name}-heights", heights),
        write_run(folder, f"{name}-sizes", sizes),
    )


@dataclass(frozen=True)
class Resolve:
    """Follow the trees of all blocks through the faces, to the tops; number these in the order of their positions."""

    tiling: Tiling
    folder: str

    def __call__(self, blocks: Sequence[Climbed]) -> Table:
        folder = Path(self.folder)
        bases = _bases(blocks)
        np.save(folder / "bases.npy", np.array(bases, np.int64))
        parents = np.arange(bases[-1])
        rows, tops, heights = [], [], []
        shapes = [block.shape_zyx for block in self.tiling.blocks]
        for number, block in enumerate(blocks):
            trees = open_run(folder, TREE, block.trees)
            ends = np.asarray(trees["face"])
            is_top = np.flatnonzero(ends < 0)
            rows.append(is_top + bases[number] + 1)
            tops.append(trees["top"][is_top])
            heights.append(trees["height"][is_top])
            for face in range(fragments.FACES):
                leaving = np.flatnonzero(ends == face)
                if not len(leaving):
                    continue
                beyond = self.tiling.beyond(number, face)
                assert beyond is not None, "beyond the volume all is lower"
                side = _face(folder, blocks[beyond].faces, shapes[beyond], fragments.FACES - 1 - face)
                parents[leaving + bases[number] + 1] = side["number"][trees["place"][leaving]] + bases[beyond]
        fragments.resolve(parents)
        together = np.concatenate([np.empty(0, np.int64), *rows])
        positions = np.concatenate([np.empty(0, np.int64), *tops])
        if len(positions) > _IDS_MAX:
            raise ResourcesExceeded(
                f"there are {len(positions):,} fragments, and at most {_IDS_MAX:,} are told apart; {_FEWER}"
            )
        order = np.argsort(positions)
        numbers = np.zeros(len(parents), ID)
        numbers[together[order]] = np.arange(1, len(order) + 1)
        ids = numbers[parents]
        sizes = np.zeros(len(order) + 1, np.int64)
        for number, block in enumerate(blocks):
            counts = np.array(open_run(folder, TREE, block.trees)["count"])
            fragments.add_at(sizes, ids[bases[number] + 1 : bases[number + 1]], counts)
        found = np.concatenate([np.empty(0, np.uint16), *heights])[order]
        none = np.zeros(1, np.uint16)
        return _write_table(
            folder, "fragments", write_run(folder, "fragments-ids", ids), np.r_[-1, positions[order]],
            np.concatenate([none, found]), sizes,
        )  # fmt: skip


def _bases(blocks: Iterable[Climbed]) -> list[int]:
    """Give the row of 0 of each block in a table of all trees, and how many rows there are."""
    rows = [block.trees.rows + 1 for block in blocks]
    return [*starts_of(rows), sum(rows)]


def _face(folder: Path, faces: Run, shape: Zyx, face: int) -> NDArray[Any]:
    z, y, x = shape
    sizes = (y * x, z * x, z * y, z * y, z * x, y * x)
    start = sum(sizes[:face])
    return open_run(folder, FACE, faces)[start : start + sizes[face]]


@dataclass(frozen=True)
class Meeting:
    """A block and those that follow it along x, y and z."""

    box: Box
    climbed: Climbed
    base: int
    others: tuple[tuple[int, Box, Climbed, int], ...]
    """Face, box, what it left, and base of each."""


@dataclass(frozen=True)
class Meet:
    """Find the ways between the fragments in a block, and to those behind it."""

    ids: Run
    folder: str

    def __call__(self, meeting: Meeting) -> Run:
        folder = Path(self.folder)
        table = open_run(folder, ID, self.ids)

        def ids_of(climbed: Climbed, base: int) -> NDArray[np.uint32]:
            return np.asarray(table[base : base + climbed.trees.rows + 1])

        own = ids_of(meeting.climbed, meeting.base)
        found = [fragments.rename(open_run(folder, SADDLE, meeting.climbed.saddles), own)]
        for face, box, climbed, base in meeting.others:
            side = _face(folder, meeting.climbed.faces, meeting.box.shape_zyx, face)
            other = _face(folder, climbed.faces, box.shape_zyx, fragments.FACES - 1 - face)
            beyond = ids_of(climbed, base)[other["number"]]
            found.append(fragments.join_faces(own[side["number"]], side["height"], beyond, other["height"]))
        return write_run(folder, f"ways-{meeting.box}", fragments.highest_ways(np.concatenate(found)))


@dataclass(frozen=True)
class Rules:
    """Which fragments are objects."""

    depth: int = 1
    """See `ops.fragments.merge_by_depth`."""
    height_min: int = 0
    keeps_low: bool = False
    """Whether what is lower than `height_min`, and touches nothing higher, is an object nevertheless."""
    size_min: int = 0
    """Voxels; smaller objects are dropped."""
    size_max: int | None = None

    @classmethod
    def for_objects(cls, rules: PostProcessing, scale: float | None, voxel_size: VoxelSize) -> Rules:
        """Turn rules in nm into heights and voxels, by the distance that is told as 1; without one nothing is parted.

        Raises
        ------
        InvalidParams
            If a distance is longer than that.
        """
        size_max = (
            None if rules.size_max_nm3 is None else whole_voxels(rules.size_max_nm3, voxel_size, math.floor)
        )
        depth, height_min = (1, 0) if scale is None else _depths(scale, rules)
        size_min = whole_voxels(rules.size_min_nm3, voxel_size, math.ceil)
        return cls(depth=depth, height_min=height_min, size_min=size_min, size_max=size_max)

    def apply(
        self, saddles: NDArray[Any], heights: NDArray[np.uint16], sizes: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """Join fragments.

        Returns
        -------
        roots : (n + 1,) int64
            Of each fragment, by id, the one that stands for what it is joined with.
        sizes : (n + 1,) int64
            Voxels of all that are joined, by root.
        is_kept : (n + 1,) bool
            Which roots stand for objects.
        """
        roots = fragments.merge_by_depth(saddles, heights, self.depth, self.height_min)
        totals = np.zeros(len(roots), np.int64)
        fragments.add_at(totals, roots, sizes)
        is_kept = totals >= self.size_min
        if self.size_max is not None:
            is_kept &= totals <= self.size_max
        if not self.keeps_low:
            is_kept &= heights >= self.height_min
        return roots, totals, is_kept


@dataclass(frozen=True)
class Merge:
    """Join fragments by depth, and number what they make in the order of their first fragments."""

    table: Table
    ways: tuple[Run, ...]
    name: str
    """Of the new table."""
    folder: str

    def __call__(self, rules: Rules) -> Table:
        folder = Path(self.folder)
        ways = [np.empty(0, SADDLE), *(open_run(folder, SADDLE, run) for run in self.ways)]
        heights = np.fromfile(folder / self.table.heights.name, "<u2")
        sizes = np.fromfile(folder / self.table.sizes.name, POSITION)
        roots, sizes, is_kept = rules.apply(np.concatenate(ways), heights, sizes)
        objects, count = agglomeration.number_objects(roots, is_kept)
        # Of each object, the fragment with the highest top stands for it.
        standing = np.flatnonzero((roots == np.arange(len(roots))) & (objects > 0))
        chosen = np.zeros(count + 1, np.int64)
        chosen[objects[standing]] = standing
        tops = np.fromfile(folder / self.table.tops.name, POSITION)
        sizes[0] = 0
        ids = _looked_up(folder, self.table.ids, objects, f"{self.name}-ids")
        return _write_table(folder, self.name, ids, tops[chosen], heights[chosen], sizes[chosen])


def _looked_up(folder: Path, ids: Run, objects: NDArray[np.uint32], name: str) -> Run:
    """Write the table of trees anew, with other objects; a part at a time."""
    draft = folder / f"{name}.part"
    with draft.open("wb") as stream:
        for start in range(0, ids.rows, _ROWS_AT_ONCE):
            objects[open_run(folder, ID, ids)[start : start + _ROWS_AT_ONCE]].tofile(stream)
    draft.replace(folder / name)
    return Run(name, ids.rows)


@dataclass(frozen=True)
class Partition:
    """A segmentation, read from the numbers of blocks and a table of what they are. Cheap, picklable; as in `Below`."""

    numbers: MagArray
    tiling: Tiling
    table: Table
    folder: str

    @property
    def mag(self) -> Mag:
        return self.numbers.mag

    @property
    def box(self) -> Box:
        """What it covers, in voxels of its mag."""
        return self.tiling.box

    @property
    def dtype(self) -> np.dtype[Any]:
        return ID

    def read(self, box: Box) -> NDArray[np.uint32]:
        """Read a box, given in voxels of its mag, as (1, z, y, x); 0 beyond what it covers."""
        found = np.zeros((1, *box.shape_zyx), ID)
        folder = Path(self.folder)
        bases = np.load(folder / "bases.npy", mmap_mode="r")
        ids = open_run(folder, ID, self.table.ids)
        for piece in box.intersect(self.box).tiles(self.tiling.block):
            number = self.tiling.number(piece)
            own = np.asarray(ids[bases[number] : bases[number + 1]])
            found[0][within(piece, box)] = own[self.numbers.read(piece)[0]]
        return found

    def volume(self) -> MergedVolume:
        """Give what `LayerPlan` writes as a layer."""
        return MergedVolume(self.mag, self.dtype, Fallback(self, self.box.from_mag(self.mag)))

    def positions(self) -> NDArray[np.int64]:
        """Give a voxel inside each object (n + 1, 3): x, y, z in mag 1; that of object 0 means nothing."""
        flat = np.fromfile(Path(self.folder) / self.table.tops.name, POSITION)
        flat[0] = 0
        z, y, x = np.unravel_index(flat, self.box.shape_zyx)
        mag = np.array(self.mag.xyz)
        positions: NDArray[np.int64] = (np.stack([x, y, z], axis=1) + self.box.topleft) * mag + mag // 2
        return positions

    def sizes(self) -> NDArray[np.int64]:
        """Give the voxels of each object (n + 1,)."""
        return np.fromfile(Path(self.folder) / self.table.sizes.name, POSITION)


@dataclass(frozen=True)
class AddAffinities:
    """Add up the affinities between the fragments of a block and others."""

    predictions: Predicted
    offsets: tuple[Zyx, ...]
    """Of all channels."""
    fragments: Partition
    folder: str

    def __call__(self, box: Box) -> Run:
        before = [max(0, *(-offset[axis] for offset in self.offsets)) for axis in range(3)]
        after = [max(0, *(offset[axis] for offset in self.offsets)) for axis in range(3)]
        around = Box.from_zyx(
            zyx(start - more for start, more in zip(box.start_zyx, before, strict=True)),
            zyx(map(sum, zip(box.shape_zyx, before, after, strict=True))),
        ).intersect(self.predictions.box)
        start = zyx(a - b for a, b in zip(box.start_zyx, around.start_zyx, strict=True))
        pairs = region_graph.add_affinities(
            self.fragments.read(around)[0], self.predictions.read(box), self.offsets, start
        )
        return write_run(Path(self.folder), f"pairs-{box}", pairs)


@dataclass(frozen=True)
class MergePairs:
    """Add up the pairs of all blocks within a range of ids."""

    runs: tuple[Run, ...]
    folder: str

    def __call__(self, ids: tuple[int, int]) -> Run:
        pairs = region_graph.merge_pairs(read_range(Path(self.folder), self.runs, PAIR, *ids))
        return write_run(Path(self.folder), f"merged-pairs-{ids[0]}", pairs)


@dataclass(frozen=True)
class Agglomerate:
    """Join fragments, from the most to the least alike."""

    runs: tuple[Run, ...]
    """Together the region graph."""
    fragment_count: int
    folder: str

    def __call__(self, name: str) -> Run:
        folder = Path(self.folder)
        pairs = np.concatenate([np.empty(0, PAIR), *(open_run(folder, PAIR, run) for run in self.runs)])
        return write_run(folder, name, agglomeration.agglomerate(pairs, self.fragment_count))


@dataclass(frozen=True)
class Neurons:
    """A volume that is cut into fragments, and which of them are joined."""

    fragments: Partition
    segments: Partition
    """Fragments joined at the threshold; ids in the order of their first fragments."""
    joins: Joins
    """All down to an affinity of 0: `agglomerated` makes segments of them at another threshold."""
    made: Cut
    """What the threshold made of them."""
    size_min: int
    """Segments of fewer voxels went on to be joined."""


def used_channels(facts: ModelFacts) -> tuple[int, ...]:
    """Choose what of all that a model gives is needed for a segmentation."""
    if facts.task != "affinities":
        return tuple(map(facts.outputs.index, TASK_OUTPUTS[facts.task]))
    lengths = facts.voxel_size.xyz
    return tuple(
        channel
        for channel, offset in enumerate(facts.offsets)
        if region_graph.is_short(offset)
        or math.hypot(*(step * length for step, length in zip(offset, lengths, strict=True))) <= REACH_NM
    )


def check_rules(facts: ModelFacts, rules: PostProcessing) -> None:
    """Refuse rules that cannot be followed with a model; `InvalidParams` names them."""
    if facts.task == "instances":
        assert facts.distance_scale_nm is not None
        _depths(facts.distance_scale_nm, rules)


def work_units(predictions: Predicted, facts: ModelFacts) -> int:
    """Give how much work `segment` is, for `Job.expect`."""
    voxels = predictions.box.voxel_count
    return voxels + 3 * (voxels // 50) + (voxels + 2 * (voxels // 50) if facts.task == "affinities" else 0)


def segment(
    job: Job,
    name: str,
    predictions: Predicted,
    facts: ModelFacts,
    voxel_size: VoxelSize,
    rules: PostProcessing | None = None,
    *,
    fills_space: bool = True,
    block: Vec3 | None = None,
) -> Partition | Neurons:
    """Make a segmentation of predictions. It is the same for any blocks.

    What it depends on beside the params of the job (predictions, facts) belongs into the `inputs` with which the job
    was started: an attempt that goes on believes what an earlier one left.

    Parameters
    ----------
    job
    name
        Of the layer, for what users see.
    predictions
        Bytes (c, z, y, x): 255 is a probability, affinity or distance of 1. What it covers begins at 0 or later.
    facts
        Of the model that made them, with the `used_channels` alone.
    voxel_size
        Of the predictions.
    rules
        By default those of the model.
    fills_space
        Whether every voxel belongs to a neuron, also those of membranes; otherwise those whose mean affinity with their
        neighbours is below the threshold of the rules belong to none.
    block
        Voxels (x, y, z) that are looked at together; by default `BLOCK`.

    Raises
    ------
    InvalidParams
        If a rule cannot be followed.
    ResourcesExceeded
    """
    rules, block = rules or facts.post_processing, block or BLOCK
    if facts.task == "affinities":
        return _segment_neurons(job, name, predictions, facts, voxel_size, rules, fills_space, block)
    return _segment_instances(job, name, predictions, facts, voxel_size, rules, block)


def _segment_instances(
    job: Job, name: str, predictions: Predicted, facts: ModelFacts, voxel_size: VoxelSize, rules: PostProcessing,
    block: Vec3,
) -> Partition:  # fmt: skip
    """Instances are where the foreground is thick; without a predicted distance, its connected parts."""
    threshold = math.ceil(rules.threshold * 255 - 1e-9)
    foreground = facts.outputs.index("foreground")
    if facts.task == "semantic":
        heights, scale = InstanceHeights(predictions, foreground, None, threshold), None
    else:
        passes, scale = smoothing(voxel_size, SMOOTHING), facts.distance_scale_nm
        heights = InstanceHeights(predictions, foreground, facts.outputs.index("distance"), threshold, passes)
    return _find_objects(job, name, heights, Rules.for_objects(rules, scale, voxel_size), block)


def _segment_neurons(
    job: Job, name: str, predictions: Predicted, facts: ModelFacts, voxel_size: VoxelSize, rules: PostProcessing,
    fills_space: bool, block: Vec3,
) -> Neurons:  # fmt: skip
    offsets = _offsets(facts, voxel_size)
    lowest = 0 if fills_space else 1 + round(rules.threshold * HEIGHT_OF_ONE)
    heights = AffinityHeights(predictions, offsets, smoothing(voxel_size, SMOOTHING), lowest)
    chosen = Rules(
        depth=max(1, round(NEURON_DEPTH * HEIGHT_OF_ONE)),
        height_min=1 + round(NEURON_TOP_MIN * HEIGHT_OF_ONE),
        keeps_low=True,
    )
    found = _find_objects(job, name, heights, chosen, block)
    folder, voxels = Path(found.folder), predictions.box.voxel_count
    runs = job.process(
        f"{name}: affinities between fragments",
        [(str(box), box) for box in found.tiling.blocks],
        AddAffinities(predictions, offsets, found, found.folder),
        units=voxels,
        memory_bytes_per_item=_affinity_bytes(predictions, offsets, block),
        result_type=Run,
        is_intact=partial(is_intact, folder, PAIR),
    )
    ranges = plan_ranges(folder, runs, PAIR, _ROWS_PER_RANGE)
    merged = job.process(
        f"{name}: merging affinities",
        [(str(first), (first, last)) for first, last in ranges],
        MergePairs(tuple(runs), found.folder),
        units=voxels // 50,
        memory_bytes_per_item=_ROWS_PER_RANGE * PAIR.itemsize * 6 + 2**26,
        result_type=Run,
        is_intact=partial(is_intact, folder, PAIR),
        noun="ranges",
    )
    pair_count = sum(run.rows for run in merged)
    job.log(f"{found.table.count:,} fragments, of which {pair_count:,} pairs have affinities")
    count = found.table.count
    memory_bytes = (
        pair_count * (PAIR.itemsize + agglomeration.BYTES_PER_PAIR) + count * agglomeration.BYTES_PER_FRAGMENT
    )
    (run,) = _single(
        job, f"{name}: joining fragments", Agglomerate(tuple(merged), count, found.folder), "joins", voxels // 50,
        memory_bytes, Run, partial(is_intact, folder, JOIN),
    )  # fmt: skip
    joins = np.array(open_run(folder, JOIN, run))
    return agglomerated(
        found, joins, rules.agglomeration_threshold, whole_voxels(rules.size_min_nm3, voxel_size, math.ceil)
    )


def agglomerated(found: Partition, joins: Joins, threshold: float, size_min: int) -> Neurons:
    """Join fragments at a threshold; segments smaller than `size_min` voxels go on to be joined."""
    sizes = found.sizes()
    made = agglomeration.cut(joins, sizes, threshold=threshold, size_min=size_min)
    folder = Path(found.folder)
    totals = np.zeros(made.count + 1, np.int64)
    fragments.add_at(totals, made.objects, sizes)
    first = np.zeros(made.count + 1, np.int64)
    numbers, places = np.unique(made.objects, return_index=True)
    first[numbers] = places
    heights, tops = np.fromfile(folder / found.table.heights.name, "<u2"), found.table.tops
    positions = np.fromfile(folder / tops.name, POSITION)
    ids = _looked_up(folder, found.table.ids, made.objects, "segments-ids")
    table = _write_table(folder, "segments", ids, positions[first], heights[first], totals)
    return Neurons(found, replace(found, table=table), joins, made, size_min)


def _find_objects(job: Job, name: str, heights: HeightMap, rules: Rules, block: Vec3) -> Partition:
    """Find the fragments of heights, and what they are objects of."""
    box, mag = heights.predictions.box, heights.predictions.mag
    folder = job.folder.scratch / f"fragments-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    tiling = Tiling(box, block)
    blocks, voxels = tiling.blocks, box.voxel_count
    numbers = create_mag_array(
        folder / "numbers", mag=mag, layer_box=box.from_mag(mag), dtype=ID, channel_count=1,
        shard_zyx=zyx(block[::-1]), category="segmentation", chunk=math.gcd(CHUNK, *block),
    )  # fmt: skip
    climbed = job.process(
        f"{name}: fragments",
        [(str(part), part) for part in blocks],
        Climb(heights, numbers, str(folder)),
        units=voxels,
        memory_bytes_per_item=_climb_bytes(heights.predictions, block),
        result_type=Climbed,
        is_intact=partial(_is_climbed, folder, Path(numbers.location)),
    )
    bases = _bases(climbed)
    trees, saddles = bases[-1], sum(found.saddles.rows for found in climbed)
    (table,) = _single(
        job, f"{name}: joining blocks", Resolve(tiling, str(folder)), tuple(climbed), voxels // 50, 64 * trees,
        Table, lambda found: _is_table(folder, found) and (folder / "bases.npy").is_file(),
    )  # fmt: skip
    meetings = []
    for number, part in enumerate(blocks):
        others = [(face, tiling.beyond(number, face)) for face in range(3, fragments.FACES)]
        there = tuple((face, blocks[at], climbed[at], bases[at]) for face, at in others if at is not None)
        meetings.append((str(part), Meeting(part, climbed[number], bases[number], there)))
    ways = job.process(
        f"{name}: ways between fragments",
        meetings,
        Meet(table.ids, str(folder)),
        units=voxels // 50,
        memory_bytes_per_item=200
        * max((found.saddles.rows + found.faces.rows for found in climbed), default=0),
        result_type=Run,
        is_intact=partial(is_intact, folder, SADDLE),
    )
    job.log(f"{table.count:,} fragments of {trees - len(blocks):,} trees, {saddles:,} borders")
    memory_bytes = 64 * table.count + 48 * sum(run.rows for run in ways) + 16 * _ROWS_AT_ONCE
    (objects,) = _single(
        job, f"{name}: merging fragments", Merge(table, tuple(ways), "objects", str(folder)), rules, voxels // 50,
        memory_bytes, Table, partial(_is_table, folder),
    )  # fmt: skip
    return Partition(numbers, tiling, objects, str(folder))


def _single(
    job: Job, phase: str, function: Callable[[Any], Any], item: object, units: int, memory_bytes: int,
    result_type: type[Any], is_there: Callable[[Any], bool],
) -> list[Any]:  # fmt: skip
    """Do what needs to see everything at once, in a process of the executor: it can be stopped like blocks."""
    job.require_memory(memory_bytes, item="table of fragments", remedy=_FEWER)
    return job.process(
        phase, [("all", item)], function, units=units, memory_bytes_per_item=memory_bytes,
        result_type=result_type, is_intact=is_there, noun="steps",
    )  # fmt: skip


def _depths(scale: float, rules: PostProcessing) -> tuple[int, int]:
    """Turn the depth and the seed distance, in nm, into heights, by the distance that is told as 1.

    Raises
    ------
    InvalidParams
        If one is longer than that.
    """
    for length, what in ((rules.seed_distance_nm, "seed distance"), (rules.min_depth_nm, "depth")):
        if length is not None and length > scale:
            raise InvalidParams(
                f"the {what} is {length:g} nm, but the model tells distances up to {scale:g} nm; choose less"
            )
    depth = max(1, round(HEIGHT_OF_ONE * rules.min_depth_nm / scale))
    if rules.seed_distance_nm is None:
        return depth, 0
    return depth, 1 + round(HEIGHT_OF_ONE * rules.seed_distance_nm / scale)


def _offsets(facts: ModelFacts, voxel_size: VoxelSize) -> tuple[Zyx, ...]:
    """Give the offsets of all channels in voxels of the predictions.

    They are as long in nm as those of the network; but what leads to the next voxel there does so here, too.
    """
    scale = [there / here for there, here in zip(facts.voxel_size.zyx, voxel_size.zyx, strict=True)]

    def scaled(step: int, factor: float) -> int:
        return round(math.copysign(max(1, abs(step) * factor), step)) if step else 0

    found = []
    for xyz in facts.offsets:
        offset = zyx(xyz[::-1])
        if not region_graph.is_short(offset):
            offset = zyx(scaled(step, factor) for step, factor in zip(offset, scale, strict=True))
        found.append(offset)
    return tuple(found)


def whole_voxels(volume_nm3: float, voxel_size: VoxelSize, rounded: Callable[[float], int]) -> int:
    """Give a volume in voxels: of whole ones that many, also where the product of the lengths is a little off."""
    return rounded(round(volume_nm3 / math.prod(voxel_size.zyx), 6))


def _climb_bytes(predictions: Predicted, block: Vec3) -> int:
    """Give the memory for a block: predictions, heights and sums before and after smoothing, numbers, directions."""
    voxels = math.prod(edge + 2 * (SMOOTHING + 2) for edge in block)
    return voxels * (predictions.channel_count + 24) + 2**27


def _affinity_bytes(predictions: Predicted, offsets: Sequence[Zyx], block: Vec3) -> int:
    reach = [max(abs(offset[axis]) for offset in offsets) for axis in range(3)]
    voxels = math.prod(edge + 2 * more for edge, more in zip(block[::-1], reach, strict=True))
    return voxels * 8 + math.prod(block) * (predictions.channel_count + 8) + 2**28
