"""Pyramids that need several groups of levels, odd sizes and every kind of source, against the slow reference."""

import math
from itertools import pairwise

import numpy as np
import pytest
import tifffile
from PIL import Image

import voxelworks
from reference import properties, read_mag, shrink, tree
from voxelworks.blocks.executor import SerialExecutor
from voxelworks.settings import Settings
from voxelworks.testing.independent_writers import write_png, write_tiff
from voxelworks.volumes import shards

SMALL_SHARDS = Settings(shard_bytes_max=2**18, slots=2)
"""Blocks of 64^3 bytes, so that small volumes have many blocks and a group for nearly every level."""


def images(shape, seed=1):
    z, y, x = np.indices(shape)
    wave = 100 + 60 * np.sin(x / 9) + 40 * np.cos(y / 7 + z / 5)
    return (wave + np.random.default_rng(seed).integers(0, 20, shape)).astype(np.uint8)


def labels(shape):
    z, y, x = np.indices(shape)
    return ((x // 11) * 1000 + (y // 7) * 10 + z // 5 + (2**31) * ((x + y + z) % 29 == 0)).astype(np.uint32)


def write_sections(volume, folder):
    folder.mkdir()
    for z, section in enumerate(volume):
        write_tiff(folder / f"{z}.tif", section[None])
    return str(folder)


def steps(mags):
    numbers = [[int(n) for n in mag.split("-")] * (1 if "-" in mag else 3) for mag in mags]
    return [
        tuple(b // a for a, b in zip(fine, coarse, strict=True))[::-1] for fine, coarse in pairwise(numbers)
    ]


@pytest.mark.parametrize(
    ("category", "voxel_size", "coarsest"), [("color", "4,4,40", "32-32-4"), ("segmentation", "8,8,8", "16")]
)
def test_every_level_of_a_conversion_equals_the_reference(tmp_path, category, voxel_size, coarsest):
    shape = (70, 150, 201)
    volume = images(shape) if category == "color" else labels(shape)
    target = tmp_path / "out"
    answer = voxelworks.run(
        "convert", source=write_sections(volume, tmp_path / "stack"), target=str(target), category=category,
        voxel_size=voxel_size, coarsest_mag=coarsest, settings=SMALL_SHARDS,
    )  # fmt: skip
    assert answer["mags"][-1] == coarsest
    expected = volume
    assert (read_mag(target, category, "1")[0] == expected).all()
    for mag, factor in zip(answer["mags"][1:], steps(answer["mags"]), strict=True):
        expected = shrink(expected, factor, "mode" if category == "segmentation" else "mean")
        assert (read_mag(target, category, mag)[0] == expected).all(), mag
    if category == "segmentation":
        assert properties(target)["dataLayers"][0]["largestSegmentId"] == int(volume.max())


def test_a_pyramid_made_later_is_the_one_made_at_once(tmp_path):
    stack = write_sections(images((40, 100, 130)), tmp_path / "stack")
    common = {"source": stack, "voxel_size": "4,4,8", "settings": SMALL_SHARDS}
    voxelworks.run("convert", target=str(tmp_path / "at-once"), coarsest_mag="8-8-4", **common)
    voxelworks.run("convert", target=str(tmp_path / "later"), pyramid=False, **common)
    later = {"dataset": str(tmp_path / "later"), "layer": "color", "settings": SMALL_SHARDS}
    assert voxelworks.run("downsample", coarsest_mag="2-2-1", **later)["mags"] == ["2-2-1"]
    assert voxelworks.run("downsample", coarsest_mag="8-8-4", **later)["mags"] == ["4-4-2", "8-8-4"]
    for mag in ("2-2-1", "4-4-2", "8-8-4"):
        assert (
            read_mag(tmp_path / "later", "color", mag) == read_mag(tmp_path / "at-once", "color", mag)
        ).all()


@pytest.mark.parametrize("method", ["mean", "median", "mode"])
def test_each_method_can_be_asked_for(tmp_path, method):
    volume = images((9, 21, 30))
    stack = write_sections(volume, tmp_path / "stack")
    target = tmp_path / "out"
    voxelworks.run("convert", source=stack, target=str(target), voxel_size="4,4,4", pyramid=False)
    voxelworks.run("downsample", layer=f"{target}/color", coarsest_mag="2", method=method)
    assert (read_mag(target, "color", "2")[0] == shrink(volume, (2, 2, 2), method)).all()


def test_equal_inputs_give_identical_files(tmp_path):
    stack = write_sections(labels((30, 90, 140)), tmp_path / "stack")
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        voxelworks.run(
            "convert", source=stack, target=str(tmp_path / name / "out"), voxel_size="4,4,8",
            category="segmentation", coarsest_mag="4-4-2", settings=SMALL_SHARDS,
        )  # fmt: skip
    assert tree(tmp_path / "first") == tree(tmp_path / "second")


def test_wide_sections_that_must_be_decoded_whole_are_decoded_once_for_all_blocks(tmp_path):
    volume = images((70, 140, 150))
    (tmp_path / "png").mkdir()
    for z, section in enumerate(volume):
        write_png(tmp_path / "png" / f"{z}.png", section)
    log = []
    voxelworks.run(
        "convert", source=str(tmp_path / "png"), target=str(tmp_path / "out"), voxel_size="4,4,4", coarsest_mag="2",
        settings=SMALL_SHARDS, on_progress=lambda progress: log.append((progress.phase, progress.done, progress.total)),
    )  # fmt: skip
    assert (read_mag(tmp_path / "out", "color", "1")[0] == volume).all()
    assert {phase for phase, _, _ in log if "decoding" in phase} == {
        "color: decoding sections 0 to 63",
        "color: decoding sections 64 to 69",
    }
    assert [done for _, done, _ in log] == sorted(done for _, done, _ in log)
    assert len({total for _, _, total in log}) == 1
    assert not list(tmp_path.rglob("*.raw"))


def test_colour_photographs_become_three_channels(tmp_path):
    colours = np.random.default_rng(2).integers(0, 255, (5, 20, 30, 3)).astype(np.uint8)
    (tmp_path / "jpg").mkdir()
    decoded = []
    for z, section in enumerate(colours):
        Image.fromarray(section).save(tmp_path / "jpg" / f"{z}.jpg")
        decoded.append(np.asarray(Image.open(tmp_path / "jpg" / f"{z}.jpg")))
    target = tmp_path / "out"
    voxelworks.run(
        "convert", source=str(tmp_path / "jpg"), target=str(target), voxel_size="4,4,4", coarsest_mag="2"
    )
    stored = read_mag(target, "color", "1")
    assert (stored == np.stack(decoded).transpose(3, 0, 1, 2)).all()
    for channel in range(3):
        assert (read_mag(target, "color", "2")[channel] == shrink(stored[channel], (2, 2, 2), "mean")).all()
    assert properties(target)["dataLayers"][0]["elementClass"] == "uint24"


def test_an_ome_tiff_brings_its_voxel_size(tmp_path):
    volume = images((4, 20, 30))
    metadata = {"axes": "ZYX", "PhysicalSizeX": 0.004, "PhysicalSizeY": 0.004, "PhysicalSizeZ": 0.04}
    units = {f"PhysicalSize{axis}Unit": "µm" for axis in "XYZ"}
    tifffile.imwrite(tmp_path / "stack.ome.tif", volume, metadata=metadata | units)
    target = tmp_path / "out"
    answer = voxelworks.run("convert", source=str(tmp_path / "stack.ome.tif"), target=str(target))
    assert answer["voxel_size"] == "4,4,40"
    assert (read_mag(target, "color", "1")[0] == volume).all()


def test_floats_keep_every_bit(tmp_path):
    volume = np.random.default_rng(3).normal(size=(3, 10, 12)).astype(np.float32)
    target = tmp_path / "out"
    voxelworks.run(
        "convert", source=write_sections(volume, tmp_path / "stack"), target=str(target), voxel_size="1,1,1"
    )
    assert read_mag(target, "color", "1")[0].tobytes() == volume.tobytes()


def test_the_largest_id_of_an_empty_layer_is_zero(tmp_path):
    stack = write_sections(np.zeros((3, 10, 12), np.uint16), tmp_path / "stack")
    target = tmp_path / "out"
    voxelworks.run("convert", source=stack, target=str(target), category="segmentation", voxel_size="1,1,1")
    assert (
        voxelworks.run("find_largest_segment_id", layer=f"{target}/segmentation")["largest_segment_id"] == 0
    )


def test_a_lost_block_of_a_decoded_stack_is_made_again(tmp_path):
    """All blocks of the slab are marked as done, and one of them is gone: the slab is decoded again."""
    volume = images((70, 140, 150))
    (tmp_path / "png").mkdir()
    for z, section in enumerate(volume):
        write_png(tmp_path / "png" / f"{z}.png", section)
    target = tmp_path / "out"

    def stop_at_the_seal(progress):
        if progress.phase == "sealing":
            raise KeyboardInterrupt

    params = {"source": str(tmp_path / "png"), "target": str(target), "voxel_size": "4,4,4", "pyramid": False}
    with pytest.raises(KeyboardInterrupt):
        voxelworks.run("convert", **params, settings=SMALL_SHARDS, on_progress=stop_at_the_seal)
    (lost,) = tmp_path.glob(".voxelworks/*/*/result/color/1/c/0/0/1/1")
    lost.unlink()
    phases = []
    voxelworks.run(
        "convert", **params, settings=SMALL_SHARDS, on_progress=lambda progress: phases.append(progress.phase)
    )
    assert (read_mag(target, "color", "1")[0] == volume).all()
    assert {phase for phase in phases if "decoding" in phase} == {"color: decoding sections 0 to 63"}


class ElasticCluster(SerialExecutor):
    """Has another size each time that somebody asks, as workers come and go; may be stopped after some blocks."""

    def __init__(self, sizes, blocks_max=math.inf):
        super().__init__()
        self.done = []
        self._sizes = iter(sizes)
        self._blocks_max = blocks_max

    @property
    def slots(self):
        return next(self._sizes)

    def collect(self, timeout_s):
        if len(self.done) >= self._blocks_max:
            raise KeyboardInterrupt
        ended = super().collect(timeout_s)
        self.done += [key for key, _ in ended]
        return ended


def test_blocks_of_a_stopped_attempt_count_however_many_workers_a_cluster_has(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SPLIT_EDGE_MIN", 64)
    volume = images((20, 300, 300))
    stack = write_sections(volume, tmp_path / "stack")
    voxelworks.run("convert", source=stack, target=str(tmp_path / "ds"), voxel_size="4,4,8", pyramid=False)
    stopped = ElasticCluster([1, 9, 1, 9], blocks_max=2)
    resumed = ElasticCluster([9, 1, 9, 1])
    common = {"dataset": str(tmp_path / "ds"), "layer": "color", "coarsest_mag": "2-2-1"}
    monkeypatch.setattr("voxelworks.blocks.executor.make_executor", lambda *_, **__: stopped)
    with pytest.raises(KeyboardInterrupt):
        voxelworks.run("downsample", **common)
    monkeypatch.setattr("voxelworks.blocks.executor.make_executor", lambda *_, **__: resumed)
    voxelworks.run("downsample", **common)
    assert (len(stopped.done), len(resumed.done), len({*stopped.done, *resumed.done})) == (2, 2, 4)
    assert (read_mag(tmp_path / "ds", "color", "2-2-1")[0] == shrink(volume, (1, 2, 2), "mean")).all()
