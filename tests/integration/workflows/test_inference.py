"""Segmentation with networks: found where it is, the same for all blocks, refused before anything is written."""

import math

import numpy as np
import pytest

import voxelworks
from ball_networks import ball_facts, balls, write_ball_model, write_image
from voxelworks.ai import inference
from voxelworks.ai.inference import Grid, Intensities, Predictions, Source
from voxelworks.ai.resampling import apply_matrices, covered, means_matrix
from voxelworks.blocks.executor import SerialExecutor
from voxelworks.errors import (
    InvalidInput,
    InvalidModel,
    InvalidParams,
    ModelNotFound,
    SourceNotFound,
    TargetExists,
)
from voxelworks.geometry import MAG1, Box, Mag, VoxelSize
from voxelworks.ops.evaluation import count_overlaps
from voxelworks.protocol.models import PostProcessing
from voxelworks.volumes.arrays import MagArray, create_zarr2_array
from voxelworks.volumes.dataset import Dataset
from voxelworks.workflows import _fragments, _inference

SHAPE = (40, 48, 56)
CENTRES = [(12, 12, 12), (12, 12, 25), (28, 34, 14), (20, 30, 44)]
"""The first two touch."""


class Here(SerialExecutor):
    """Runs blocks in this process; may be stopped after some of them."""

    def __init__(self, blocks_max=math.inf):
        super().__init__()
        self.left = blocks_max

    def collect(self, timeout_s):
        if self.left <= 0:
            raise KeyboardInterrupt
        ended = super().collect(timeout_s)
        self.left -= len(ended)
        return ended


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """Run blocks here; gives a function that stops the next job after some of them."""

    def stop_after(blocks_max):
        monkeypatch.setattr("voxelworks.blocks.executor.make_executor", lambda *_, **__: Here(blocks_max))

    stop_after(math.inf)
    return stop_after


def voxels(dataset, layer="segmentation", mag=MAG1):
    found = Dataset.open(dataset).layer(layer).mag(mag)
    return found.read(found.box)[0]


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".webp"
    }


def assert_same_objects(found, truth):
    """Each true object is one segment, nearly voxel by voxel."""
    assert set(np.unique(found)) == set(range(int(truth.max()) + 1))
    for number in range(1, int(truth.max()) + 1):
        ids, counts = np.unique(found[truth == number], return_counts=True)
        best = ids[counts.argmax()]
        union = np.count_nonzero((found == best) | (truth == number))
        assert best != 0
        assert counts.max() / union > 0.85


def test_touching_objects_are_found_and_told_apart(tmp_path):
    truth = balls(SHAPE, CENTRES)
    image = write_image(tmp_path / "image", truth, start=(100, 200, 300))
    model = write_ball_model(tmp_path / "model")
    answer = voxelworks.run(
        "infer_instances", layer=f"{image}/color", model=str(model), target=str(tmp_path / "made")
    )
    assert_same_objects(voxels(tmp_path / "made"), truth)
    assert (answer["largest_segment_id"], answer["model"], answer["model_warning"]) == (4, "Balls", None)
    made = Dataset.open(tmp_path / "made")
    assert [layer.name for layer in made.layers] == ["color", "segmentation"]
    layer = made.layer("segmentation")
    assert (layer.box, layer.largest_segment_id) == (Box((100, 200, 300), SHAPE[::-1]), 4)
    assert layer.properties.path_of("segmentIndex") is not None
    assert layer.properties.path_of("segmentStatistics") is not None
    assert np.array_equal(voxels(tmp_path / "made", "color"), voxels(image, "color"))


@pytest.mark.parametrize("task", ["instances", "semantic", "affinities"])
def test_the_result_is_the_same_for_any_blocks(tmp_path, monkeypatch, task):
    truth = balls(SHAPE, CENTRES)
    image = write_image(tmp_path / "image", truth, voxel_nm=(10, 10, 13))
    model = write_ball_model(tmp_path / "model", **TASKS[task])
    results = []
    for blocks, cores in (((256, 256, 256), 1), ((16, 24, 40), 3), ((33, 17, 20), 7)):
        monkeypatch.setattr(_fragments, "BLOCK", blocks)
        monkeypatch.setattr(_inference, "_CORES_PER_BLOCK", cores)
        target = tmp_path / str(cores) / "made"
        target.parent.mkdir()
        voxelworks.run("infer_with_model", layer=f"{image}/color", model=str(model), target=str(target))
        results.append(tree(target))
    assert results[0] == results[1] == results[2]


TASKS = {
    "instances": {},
    "semantic": {"task": "semantic", "outputs": ("foreground",)},
    "affinities": {
        "task": "affinities", "outputs": ("x", "y", "z", "x4"),
        "offsets": ((-1, 0, 0), (0, -1, 0), (0, 0, -1), (-4, 0, 0)),
    },
}  # fmt: skip


def test_neurons_come_with_fragments_that_can_be_joined_anew(tmp_path):
    walls = np.ones((40, 48, 56), np.uint32)
    walls[:, :, 28:] = 2
    walls[:, :, 27:29] = 0
    image = write_image(tmp_path / "image", walls)
    rules = PostProcessing(size_min_nm3=30 * 16.0**3)
    model = write_ball_model(tmp_path / "model", **TASKS["affinities"], post_processing=rules)
    answer = voxelworks.run(
        "infer_neurons", layer=f"{image}/color", model=str(model), target=str(tmp_path / "made")
    )
    found = voxels(tmp_path / "made")
    assert len(set(found[:, :, :26].ravel())) == len(set(found[:, :, 30:].ravel())) == 1
    assert found[0, 0, 0] != found[0, 0, 50]
    assert answer["layers"] == ["color", "segmentation", "segmentation_fragments"]
    joined = voxelworks.run(
        "apply_mapping", layer=f"{tmp_path}/made/segmentation_fragments", mapping=_inference.AGGLOMERATES,
        target=str(tmp_path / "joined"), copy_other_layers=False,
    )  # fmt: skip
    again = voxels(tmp_path / "joined", joined["layer"])
    pairs = count_overlaps(np.ascontiguousarray(found), np.ascontiguousarray(again))
    assert len(pairs) == answer["largest_segment_id"]  # the same partition, whatever its numbers
    run = {"layer": f"{tmp_path}/made/segmentation_fragments"}
    same = voxelworks.run("agglomerate", **run, threshold=0.5, target=str(tmp_path / "same"))
    assert np.array_equal(
        voxels(tmp_path / "same"), found
    )  # segments as small as before are joined to others
    apart = voxelworks.run("agglomerate", **run, threshold=1, size_min_nm3=0, target=str(tmp_path / "apart"))
    assert apart["largest_segment_id"] == apart["fragments"] == same["fragments"]
    assert apart["fragments"] > same["largest_segment_id"]
    with pytest.raises(
        SourceNotFound, match="layer 'segmentation' has no agglomerate file 'agglomerate_view'"
    ):
        voxelworks.run(
            "agglomerate", layer=f"{tmp_path}/made/segmentation", threshold=0.5, target=str(tmp_path / "none")
        )


def test_a_stopped_job_goes_on_and_gives_the_same_bytes(tmp_path, here):
    image = write_image(tmp_path / "image", balls(SHAPE, CENTRES))
    model = write_ball_model(tmp_path / "model")
    run = {"layer": f"{image}/color", "model": str(model)}
    (tmp_path / "a").mkdir()
    voxelworks.run("infer_instances", **run, target=str(tmp_path / "a" / "made"))
    (tmp_path / "b").mkdir()
    stops = 0
    for blocks in (2, 1, 3, 2, 5, 4, math.inf):
        here(blocks)
        try:
            voxelworks.run("infer_instances", **run, target=str(tmp_path / "b" / "made"))
            break
        except KeyboardInterrupt:
            stops += 1
            assert not (tmp_path / "b" / "made").exists()
    assert stops >= 3
    assert tree(tmp_path / "a" / "made") == tree(tmp_path / "b" / "made")


def test_layers_of_another_voxel_size_are_resampled_and_results_lie_where_the_objects_are(tmp_path):
    truth = balls((24, 60, 72), [(8, 16, 18), (15, 40, 50)], radius=11, lengths_zyx=(1.8, 0.8, 0.8))
    image = write_image(tmp_path / "image", truth, voxel_nm=(8, 8, 18), start=(3, 5, 7))
    model = write_ball_model(tmp_path / "model")
    voxelworks.run("infer_instances", layer=f"{image}/color", model=str(model), target=str(tmp_path / "made"))
    assert_same_objects(voxels(tmp_path / "made"), truth)


def test_a_box_is_segmented_with_what_lies_around_it_in_view(tmp_path):
    truth = balls(SHAPE, CENTRES)
    image = write_image(tmp_path / "image", truth)
    model = write_ball_model(tmp_path / "model")
    box = Box((4, 3, 2), (40, 40, 36))
    voxelworks.run(
        "infer_instances",
        layer=f"{image}/color",
        model=str(model),
        target=str(tmp_path / "made"),
        box=str(box),
    )
    made = Dataset.open(tmp_path / "made")
    assert {layer.box for layer in made.layers} == {box}
    found = made.layer("segmentation").finest.read(box)[0]
    assert ((found > 0) == (truth[box.slices_zyx] > 0)).mean() > 0.97


def test_dark_objects_are_found_in_inverted_images(tmp_path):
    truth = balls(SHAPE, CENTRES)
    image = write_image(tmp_path / "image", truth, change=lambda bright: 255 - bright)
    model = write_ball_model(tmp_path / "model")
    voxelworks.run(
        "infer_instances", layer=f"{image}/color", model=str(model), target=str(tmp_path / "made"),
        invert_color_layer=True,
    )  # fmt: skip
    assert_same_objects(voxels(tmp_path / "made"), truth)


def test_an_empty_image_has_no_objects(tmp_path):
    image = write_image(tmp_path / "image", np.zeros(SHAPE, np.uint32), change=lambda image: 0 * image)
    model = write_ball_model(tmp_path / "model")
    answer = voxelworks.run(
        "infer_instances", layer=f"{image}/color", model=str(model), target=str(tmp_path / "made")
    )
    assert answer["largest_segment_id"] == 0
    assert not voxels(tmp_path / "made").any()


def test_larger_seeds_give_fewer_objects(tmp_path):
    truth = balls(SHAPE, [*CENTRES[2:], (34, 8, 8)], radius=7)
    truth[balls(SHAPE, [(8, 40, 40)], radius=3.2) > 0] = 4
    image = write_image(tmp_path / "image", truth)
    model = write_ball_model(tmp_path / "model")
    run = {"layer": f"{image}/color", "model": str(model)}
    few = voxelworks.run(
        "infer_instances", **run, target=str(tmp_path / "few"), seed_generator_distance_threshold_nm=60
    )
    many = voxelworks.run(
        "infer_instances", **run, target=str(tmp_path / "many"), seed_generator_distance_threshold_nm=5
    )
    assert few["largest_segment_id"] < many["largest_segment_id"] == 4


def test_a_layer_outside_of_what_the_model_is_for_is_told_with_numbers(tmp_path, capsys):
    image = write_image(tmp_path / "image", balls(SHAPE, CENTRES), voxel_nm=(30, 30, 30))
    model = write_ball_model(tmp_path / "model")
    answer = voxelworks.run(
        "infer_instances", layer=f"{image}/color", model=str(model), target=str(tmp_path / "made")
    )
    warning = (
        "the layer has voxels of 30,30,30 nm, and the model is for 5,5,5 to 20,20,20 nm: expect worse results"
    )
    assert answer["model_warning"] == warning
    assert f"warning: {warning}" in capsys.readouterr().err


def test_an_image_from_another_kind_of_microscopy_is_told_and_stays_so_in_the_result(tmp_path, capsys):
    image = write_image(tmp_path / "image", balls(SHAPE, CENTRES), modality="confocal")
    model = write_ball_model(tmp_path / "model", modality="FIB-SEM")
    answer = voxelworks.run(
        "infer_instances", layer=f"{image}/color", model=str(model), target=str(tmp_path / "made")
    )
    warning = "the layer is from confocal, and the model is for FIB-SEM: expect worse results"
    assert answer["model_warning"] == warning
    assert f"warning: {warning}" in capsys.readouterr().err
    assert Dataset.open(tmp_path / "made").layer("color").properties.modality == "confocal"


@pytest.mark.parametrize("task", ["instances", "affinities"])
def test_sections_are_shown_as_they_are_however_thick_they_are_said_to_be(tmp_path, task):
    truth = balls(SHAPE, CENTRES, lengths_zyx=(3, 1, 1))
    sizes = {"voxel_size": VoxelSize(10, 10, 30), "voxel_size_max": VoxelSize(20, 20, 99)}
    changes = {**TASKS[task], **sizes}
    if task == "affinities":
        changes["post_processing"] = PostProcessing(size_min_nm3=0)
    model = write_ball_model(tmp_path / "model", **changes)
    results = []
    for thickness in (30, 25, 50):
        image = write_image(tmp_path / f"image-{thickness}", truth, voxel_nm=(10, 10, thickness))
        voxelworks.run(
            "infer_with_model",
            layer=f"{image}/color",
            model=str(model),
            target=str(tmp_path / f"{thickness}"),
        )
        results.append(voxels(tmp_path / f"{thickness}"))
    assert results[0].any()
    assert all(np.array_equal(result, results[0]) for result in results[1:])


def not_finite(image):
    image[3, 4, 5] = np.nan
    return image


REFUSED = [
    ({"channels": 3}, {}, {}, InvalidModel, "layer 'color' has 3 channels and the model 'Balls' is for 1"),
    ({}, {}, {"model": "no_such_model"}, ModelNotFound, "no_such_model"),
    ({}, {}, {"model": None}, InvalidParams, "model is missing"),
    ({}, TASKS["affinities"], {}, InvalidModel, "gives affinities, and this needs instances or semantic"),
    (
        {"dtype": "float32", "change": not_finite},
        {},
        {},
        InvalidInput,
        "the layer holds nan at 5,4,3 in mag 1",
    ),
    ({}, {}, {"output_layer": "color"}, TargetExists, "choose another name with output_layer"),
    ({}, {}, {"box": "0,0,0,100,10,10"}, InvalidInput, "leaves layer color"),
    (
        {},
        {},
        {"seed_generator_distance_threshold_nm": 120},
        InvalidParams,
        "the seed distance is 120 nm, but the model tells distances up to 100 nm",
    ),
]


def test_fragments_cannot_be_called_like_the_image(tmp_path):
    image = write_image(tmp_path / "image", balls(SHAPE, CENTRES))
    dataset = Dataset.open(image)
    (image / "color").rename(image / "seg_fragments")
    text = (image / "datasource-properties.json").read_text().replace("color/", "seg_fragments/")
    (image / "datasource-properties.json").write_text(
        text.replace('"name": "color"', '"name": "seg_fragments"')
    )
    assert [layer.name for layer in Dataset.open(dataset.location).layers] == ["seg_fragments", "truth"]
    model = write_ball_model(tmp_path / "model", **TASKS["affinities"])
    with pytest.raises(TargetExists, match="the image layer is called 'seg_fragments'; choose another name"):
        voxelworks.run(
            "infer_neurons", layer=f"{image}/seg_fragments", model=str(model), target=str(tmp_path / "made"),
            output_layer="seg",
        )  # fmt: skip
    assert not (tmp_path / "made").exists()


def test_much_finer_images_are_read_in_pieces(tmp_path, monkeypatch):
    image = write_image(tmp_path / "image", balls((30, 41, 52), [(14, 20, 26)], radius=9))
    array = Dataset.open(image).layer("color").finest
    source = Source(array, array.box, (0, 0, 0), (2.5, 3.0, 1.0), Intensities(80.0, 9.0))
    whole = source.read((-1, 2, 3), (11, 10, 30))
    pieces = []
    read = MagArray.read

    def note(self, box):
        pieces.append(box.voxel_count)
        return read(self, box)

    monkeypatch.setattr(MagArray, "read", note)
    monkeypatch.setattr(inference, "READ_VOXELS_MAX", 2000)
    np.testing.assert_allclose(source.read((-1, 2, 3), (11, 10, 30)), whole, atol=1e-5)
    assert max(pieces) <= 2000
    assert len(pieces) > 10
    assert source.read_bytes((11, 10, 30)) == 2000 * (1 + 12)


@pytest.mark.parametrize(("image", "model", "params", "error", "words"), REFUSED)
def test_what_cannot_be_segmented_is_refused_before_anything_is_written(
    tmp_path, image, model, params, error, words
):
    folder = write_image(tmp_path / "image", balls(SHAPE, CENTRES), **image)
    package = write_ball_model(tmp_path / "model", input_channels=1, **model)
    given = {"layer": f"{folder}/color", "model": str(package), "target": str(tmp_path / "made"), **params}
    with pytest.raises(error, match=words.replace("(", r"\(")):
        voxelworks.run(
            "infer_instances", **{name: value for name, value in given.items() if value is not None}
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image", "model"]


@pytest.mark.parametrize("scale", [1.0, 1.25, 2.0, 3.7, 0.8, 0.3])
def test_resampled_images_keep_their_mean_and_place(scale):
    count = 11
    first, last = covered(0, scale, count)
    ramp = np.arange(first, last, dtype=np.float32) + 0.5  # the place of each voxel's middle
    matrix = means_matrix(0, scale, count, first, last - first)
    assert matrix.sum(axis=1) == pytest.approx(np.ones(count))
    found = apply_matrices(ramp[np.newaxis, :, np.newaxis, np.newaxis], [matrix, None, None])[0, :, 0, 0]
    assert found == pytest.approx((np.arange(count) + 0.5) * scale, abs=0.1)


def test_patches_overlap_and_cover_the_box_once():
    facts = ball_facts(patch=(20, 16, 12), border=(3, 2, 1), step=(4, 4, 2))
    grid = Grid.plan((25, 31, 100), facts)
    assert grid.patch_zyx == (12, 16, 20)
    assert sum(core.voxel_count for core in grid.cores) == 25 * 31 * 100
    small = Grid.plan((3, 31, 5), facts)
    assert small.patch_zyx == (6, 16, 12)  # no larger than the box with its borders needs


def test_beyond_the_layer_the_image_is_mirrored(tmp_path):
    image = write_image(tmp_path / "image", np.arange(6 * 8 * 10, dtype=np.uint32).reshape(6, 8, 10))
    array = Dataset.open(image).layer("color").finest
    stored = array.read(array.box)[0].astype(np.float32)
    source = Source(array, array.box, (0, 0, 0), (1.0, 1.0, 1.0), Intensities(0.0, 1.0))
    found = source.read((-2, -3, 5), (10, 14, 8))[0]
    wanted = np.pad(stored, [(2, 2), (3, 3), (0, 3)], mode="symmetric")[:, :, 5:]
    assert np.array_equal(found, wanted)


def test_predictions_are_read_on_the_voxels_of_the_layer(tmp_path):
    box = Box((0, 0, 0), (10, 8, 6))
    array = create_zarr2_array(
        tmp_path / "p",
        mag=MAG1,
        box=box,
        dtype=np.uint8,
        channel_count=2,
        category="color",
        chunk_zyx=(4, 4, 4),
    )
    ramp = np.broadcast_to(np.arange(0, 100, 10, dtype=np.uint8), (2, 6, 8, 10))
    array.write(box, np.ascontiguousarray(ramp))
    fine = Predictions(
        array, Mag(1, 1, 1), Box((40, 0, 0), (20, 8, 6)), (0, 0, -0.25), (1, 1, 0.5), channel_index=1
    )
    whole = fine.read(fine.box)
    assert whole.shape == (1, 6, 8, 20)
    assert whole[0, 0, 0].tolist() == [round(min(90, max(0, 10 * (i / 2 - 0.25)))) for i in range(20)]
    part = fine.read(Box((47, 2, 1), (5, 3, 2)))
    assert np.array_equal(part, whole[:, 1:3, 2:5, 7:12])
