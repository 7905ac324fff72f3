"""Networks learn from labelled boxes, go on after a kill, and are refused what nothing can be learned from."""

import base64
import io
import json
import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import voxelworks
from ball_networks import balls, write_ball_model, write_image
from voxelworks.ai import inference, networks
from voxelworks.ai.augmentation import Augmentation
from voxelworks.ai.networks import Architecture, ResidualUNet, parameter_count
from voxelworks.ai.package import read_package, write_package
from voxelworks.ai.targets import affinities, distances, offsets_for
from voxelworks.ai.training import (
    Evaluation,
    Example,
    LabelledBox,
    Predictor,
    Training,
    TrainingPlan,
    _best,
)
from voxelworks.errors import (
    InvalidAnnotation,
    InvalidGeometry,
    InvalidInput,
    InvalidModel,
    InvalidParams,
    MagNotFound,
    TrainingFailed,
)
from voxelworks.geometry import Box, Mag, VoxelSize
from voxelworks.jobs import describe_dataset
from voxelworks.protocol.messages import PICTURE_BYTES_MAX
from voxelworks.protocol.models import TRAINED_WEIGHTS
from voxelworks.protocol.places import Places
from voxelworks.settings import ImportRoot
from voxelworks.testing.independent_volumes import VolumeLayer, write_annotation
from voxelworks.volumes.dataset import Dataset
from voxelworks.workflows import Job, _training, get_workflow
from voxelworks.workflows._training import _cut_end, _patch, curves_of, picture_of

SHAPE = (32, 34, 44)
CENTRES = [(8, 9, 9), (22, 24, 12), (9, 26, 24), (22, 10, 26), (16, 16, 38)]
ISOTROPIC = VoxelSize(10, 10, 10)


@pytest.fixture
def seen(monkeypatch):
    """Give the boxes that trainings learn from."""
    boxes = []
    init = Training.__init__

    def note(self, plan, learning, *others):
        boxes.extend(learning)
        init(self, plan, learning, *others)

    monkeypatch.setattr(Training, "__init__", note)
    return boxes


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """Give an image and a model that learned from it for some seconds."""
    folder = tmp_path_factory.mktemp("learned")
    truth = balls(SHAPE, CENTRES)
    write_image(folder / "image", truth)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(networks._FEATURES, "small", (6, 8))
        answer = voxelworks.run(
            "train_instance_model", boxes=[box_of(folder)], target=str(folder / "model"), structure="balls",
            steps=30, evaluate_every=15, licence="CC0-1.0",
        )  # fmt: skip
    return folder, truth, answer


def write_coarse_labels(folder, truth, *, voxel_nm=(10, 10, 10)):
    """Write labels of mag 1, of an even number of voxels on each axis, in mag 2 alone."""
    whole, mag = Box((0, 0, 0), truth.shape[::-1]), Mag(2, 2, 2)
    dataset = Dataset.create(folder, VoxelSize(*voxel_nm))
    layer = dataset.add_layer("truth", "segmentation", "uint32", 1, whole)
    coarse = np.ascontiguousarray(truth[::2, ::2, ::2])
    layer.add_mag(mag, shard_zyx=(64, 64, 64)).write(whole.in_mag(mag), coarse)
    dataset.write_metadata()


def box_of(folder, **changes):
    return {"image": f"{folder}/image/color", "truth": f"{folder}/image/truth", **changes}


def test_a_model_that_was_trained_here_segments(learned, tmp_path):
    folder, truth, answer = learned
    assert answer["steps"] == 30
    assert answer["score"] > 0.6
    assert answer["export_difference"] < 1e-4
    facts = read_package(folder / "model").facts
    assert (facts.structure, facts.licence, facts.voxel_size) == ("balls", "CC0-1.0", ISOTROPIC)
    assert facts.distance_scale_nm == pytest.approx(70, rel=0.1)  # the radius of the balls
    found = voxelworks.run(
        "infer_instances",
        layer=f"{folder}/image/color",
        model=str(folder / "model"),
        target=str(tmp_path / "made"),
    )
    layer = Dataset.open(tmp_path / "made").layer("segmentation").finest
    inside = layer.read(layer.box)[0] > 0
    assert np.count_nonzero(inside & (truth > 0)) / np.count_nonzero(inside | (truth > 0)) > 0.6
    assert found["largest_segment_id"] >= 1


def test_a_trained_network_looks_at_images_in_memory_as_at_layers(learned, tmp_path, monkeypatch):
    folder, _, _ = learned
    monkeypatch.setitem(networks._FEATURES, "small", (6, 8))
    package = read_package(folder / "model")
    facts = package.facts.model_copy(update={"patch": (24, 24, 24), "border": (4, 4, 4), "step": (2, 2, 2)})
    layer = Dataset.open(folder / "image").layer("color")
    source, size = inference.open_source(layer, layer.box, facts.voxel_size)
    grid = inference.Grid.plan(size, facts)
    assert len(grid.cores) > 4
    stored = inference.create_output(tmp_path / "probabilities", grid, 2)
    inference.PredictPatches(source, grid, str(package.weights), (0, 1), stored, (2, 2, 2))(grid.cores)
    plan = TrainingPlan("instances", Architecture.plan(1, 2, ISOTROPIC, "small"), ISOTROPIC, (8, 8, 8))
    seen = []
    predict = Predictor(plan, load_file(folder / "model" / TRAINED_WEIGHTS), facts, lambda: seen.append(1))
    found = predict(source.read((0, 0, 0), size))
    wanted = stored.read(stored.box)
    assert len(seen) == len(grid.cores)
    assert np.abs(found.astype(int) - wanted).max() <= 1
    assert np.ptp(wanted) > 100


def test_training_starts_from_another_model(learned, tmp_path, monkeypatch, capsys):
    folder, _, answer = learned
    monkeypatch.setitem(networks._FEATURES, "small", (6, 8))
    again = voxelworks.run(
        "train_instance_model", boxes=[box_of(folder)], target=str(tmp_path / "tuned"), steps=1, evaluate_every=1,
        start_from=str(folder / "model"), learning_rate=1e-4,
    )  # fmt: skip
    assert again["score"] > answer["score"] - 0.1
    assert read_package(tmp_path / "tuned").facts.started_from == str(folder / "model")
    count = parameter_count(ResidualUNet(Architecture.plan(1, 2, ISOTROPIC, "small")))
    told = capsys.readouterr().err
    assert f"{count:,} parameters of {folder}/model are the start" in told
    assert f"{count:,} parameters, patches of" in told


def test_the_model_is_for_the_kind_of_microscopy_of_its_images_and_other_starts_are_told(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(networks._FEATURES, "small", (6, 8))
    write_image(tmp_path / "image", balls(SHAPE, CENTRES), modality="confocal")
    run = {"boxes": [box_of(tmp_path)], "steps": 1, "evaluate_every": 1}
    voxelworks.run("train_instance_model", **run, target=str(tmp_path / "model"))
    assert read_package(tmp_path / "model").facts.modality == "confocal"
    voxelworks.run(
        "train_instance_model", **run, target=str(tmp_path / "sliced"), start_from=str(tmp_path / "model"),
        modality="ssTEM",
    )  # fmt: skip
    assert read_package(tmp_path / "sliced").facts.modality == "ssTEM"
    assert "warning" not in capsys.readouterr().err
    voxelworks.run(
        "train_instance_model", **run, target=str(tmp_path / "again"), start_from=str(tmp_path / "sliced")
    )
    assert (
        f"warning: the image is from confocal, and {tmp_path}/sliced is for ssTEM: it may be of little use as a start"
        in capsys.readouterr().err
    )


def test_the_weight_of_a_box_says_how_often_it_is_looked_at(tmp_path):
    image = np.zeros((1, 16, 16, 16), np.float32)
    labels = np.zeros((16, 16, 16), np.int32)
    boxes = [
        LabelledBox(image, labels, "rare"),
        LabelledBox(image + 1, labels, "often", weight=9.0),
    ]
    plan = TrainingPlan(
        task="semantic",
        architecture=Architecture(1, 1, (2, 2), ((3, 3, 3),) * 2, ((2, 2, 2),)),
        voxel_size=ISOTROPIC,
        patch_zyx=(8, 8, 8),
        augmentation=Augmentation(
            ISOTROPIC,
            deform_share=0,
            contrast_max=1,
            brightness_max=0,
            noise_max=0,
            blur_share=0,
            defect_share=0,
        ),
    )
    training = Training(plan, boxes, boxes, tmp_path / "training")
    seen = [training._patch(np.random.default_rng(number)).image.mean() > 0.5 for number in range(400)]
    assert 0.85 < np.mean(seen) < 0.95


def test_training_starts_from_the_shipped_model_unless_it_begins_at_zero():
    declared = get_workflow("train_instance_model")
    given = {"boxes": [{"image": "a/color", "truth": "a/truth"}], "target": "made"}
    assert declared.parse(given).start_from is None
    given["structure"] = "nuclei"
    assert declared.parse(given).start_from == "nuclei"
    for flag in (True, "true", "yes", "1"):
        assert declared.parse({**given, "from_zero": flag}).start_from is None
    assert declared.parse({**given, "from_zero": "false"}).start_from == "nuclei"
    assert declared.parse({**given, "start_from": "mine"}).start_from == "mine"
    with pytest.raises(InvalidParams, match="start_from is mine and from_zero is set; give one of them"):
        declared.parse({**given, "start_from": "mine", "from_zero": True})
    neurons = get_workflow("train_neuron_model")
    given = {"boxes": given["boxes"], "target": "made"}
    assert neurons.parse(given).start_from == "neurons"
    assert neurons.parse({**given, "from_zero": True}).start_from is None
    given["structure"] = "nuclei"
    # What begins with the shipped mitochondria may not be used commercially: that is to be chosen.
    assert declared.parse({**given, "structure": "mitochondria"}).start_from is None


def test_a_model_allows_no_more_than_the_one_that_it_began_with(learned, tmp_path, monkeypatch):
    folder, _, _ = learned
    monkeypatch.setitem(networks._FEATURES, "small", (6, 8))
    package = read_package(folder / "model")
    facts = package.facts.model_copy(
        update={
            "licence": "CC-BY-NC-4.0",
            "licence_text": "Not for sale.",
            "is_commercial_use_allowed": False,
        }
    )
    trained = {"trained.safetensors": folder / "model" / "trained.safetensors"}
    write_package(tmp_path / "parent", facts, package.weights, extra=trained)
    train = {
        "boxes": [box_of(folder)], "target": str(tmp_path / "tuned"), "steps": 1, "evaluate_every": 1,
        "start_from": str(tmp_path / "parent"),
    }  # fmt: skip
    with pytest.raises(
        InvalidParams, match=r"licence CC0-1\.0 .*parent.* does not \(licence CC-BY-NC-4\.0\)"
    ):
        voxelworks.run("train_instance_model", **train, licence="CC0-1.0")
    assert [path.name for path in tmp_path.iterdir()] == ["parent"]
    voxelworks.run("train_instance_model", **train)
    made = read_package(tmp_path / "tuned").facts
    assert (made.licence, made.is_commercial_use_allowed) == ("CC-BY-NC-4.0", False)
    assert made.licence_text == "It began as model, whose licence is CC-BY-NC-4.0. Not for sale."


def test_a_model_may_be_used_for_what_the_licence_of_its_data_allows(learned, tmp_path, monkeypatch):
    folder, _, _ = learned
    monkeypatch.setitem(networks._FEATURES, "small", (6, 8))
    assert read_package(folder / "model").facts.is_commercial_use_allowed
    for name, start in (("fresh", {"from_zero": True}), ("tuned", {"start_from": str(folder / "model")})):
        voxelworks.run(
            "train_instance_model", boxes=[box_of(folder)], target=str(tmp_path / name), steps=1, evaluate_every=1,
            licence="CC-BY-NC-4.0", **start,
        )  # fmt: skip
        made = read_package(tmp_path / name).facts
        assert (made.licence, made.is_commercial_use_allowed) == ("CC-BY-NC-4.0", False)


def test_a_model_that_nothing_can_start_from_is_refused_before_boxes_are_read(tmp_path):
    write_image(tmp_path / "image", balls(SHAPE, [(9, 9, 4)], radius=4))
    parent = write_ball_model(tmp_path / "parent")
    unlabelled = box_of(tmp_path, box="12,2,0,32,32,32")

    def refused(error, words):
        with pytest.raises(error, match=words):
            voxelworks.run(
                "train_instance_model", boxes=[unlabelled], target=str(tmp_path / "tuned"), start_from=str(parent),
            )  # fmt: skip
        assert sorted(path.name for path in tmp_path.iterdir()) == ["image", "parent"]

    refused(InvalidInput, f"{parent} was not trained by Voxelworks: it holds no trained.safetensors")
    (parent / "trained.safetensors").write_bytes(b"half of it")
    refused(InvalidModel, f"trained.safetensors of model {parent} is damaged .*; copy the model again")


def test_a_start_for_other_voxels_leaves_the_voxels_of_the_labels(learned, tmp_path, monkeypatch, capsys):
    folder, truth, _ = learned
    monkeypatch.setitem(networks._FEATURES, "small", (6, 8))
    write_image(tmp_path / "image", truth, voxel_nm=(100, 100, 100))
    voxelworks.run(
        "train_instance_model", boxes=[box_of(tmp_path)], target=str(tmp_path / "tuned"), steps=1, evaluate_every=1,
        start_from=str(folder / "model"),
    )  # fmt: skip
    assert read_package(tmp_path / "tuned").facts.voxel_size == VoxelSize(100, 100, 100)
    assert "the network works on the voxels of the labels" in capsys.readouterr().err


def test_boxes_that_are_too_small_for_the_voxels_of_the_start_leave_those_of_the_labels(
    learned, tmp_path, monkeypatch, capsys
):
    folder, truth, _ = learned
    monkeypatch.setitem(networks._FEATURES, "small", (6, 8))
    write_image(tmp_path / "image", truth, voxel_nm=(8, 8, 8))
    made = {"start_from": str(folder / "model"), "steps": 1}

    def train(target, **more):
        box = {"purpose": "validate", "box": "0,0,0,20,20,20"}
        boxes = [box_of(tmp_path), box_of(tmp_path, **box)]
        voxelworks.run("train_instance_model", boxes=boxes, target=str(tmp_path / target), **made, **more)

    train("tuned")
    assert read_package(tmp_path / "tuned").facts.voxel_size == VoxelSize(8, 8, 8)
    told = capsys.readouterr().err
    assert (
        "models of objects need larger boxes in voxels of 10,10,10 nm; the network works on those of" in told
    )
    small = "box 0,0,0,44,34,32 of .*/truth has 35x27x25 voxels of 10,10,10 nm, .* at least 32x32x32"
    with pytest.raises(InvalidGeometry, match=small):
        train("none", voxel_size="10,10,10")
    small = "box 0,0,0,31,34,32 of .*/truth has 24x27x25 voxels of 10,10,10 nm, .* at least 32x32x32"
    with pytest.raises(InvalidGeometry, match=small):
        voxelworks.run(
            "train_instance_model", boxes=[box_of(tmp_path, box="0,0,0,31,34,32")], target=str(tmp_path / "none"),
            **made,
        )  # fmt: skip


def test_what_is_held_back_for_measuring_has_objects():
    def held_back(*centres_zyx):
        labels = balls((40, 50, 60), list(centres_zyx), radius=4).astype(np.int32)
        pair = _cut_end(LabelledBox(np.zeros((1, 40, 50, 60), np.float32), labels))
        if pair is None:
            return None
        assert all(part.image.shape[1:] == part.labels.shape for part in pair)
        return tuple(part.labels.shape for part in pair)

    middle = (20, 25, 30)
    assert held_back(middle, (20, 25, 54)) == ((40, 50, 45), (40, 50, 12))
    assert held_back(middle, (20, 25, 5)) == ((40, 50, 45), (40, 50, 12))
    assert held_back(middle, (20, 5, 30)) == ((40, 38, 60), (40, 10, 60))
    assert held_back(middle) is None


def test_a_box_with_one_object_is_measured_with_as_a_whole(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(networks._FEATURES, "small", (2, 2))
    write_image(tmp_path / "image", balls(SHAPE, [(16, 17, 22)], radius=4))
    voxelworks.run("train_instance_model", boxes=[box_of(tmp_path)], target=str(tmp_path / "model"), steps=1)
    assert "has too few objects to hold some back" in capsys.readouterr().err


def test_a_picture_of_a_training_shows_image_labels_and_prediction():
    ramp = np.linspace(-2, 2, 200 * 30, dtype=np.float32).reshape(30, 200)
    example = Example(ramp, np.ones((30, 200), np.float32), np.zeros((30, 200), np.float32))
    picture = picture_of(example, 1500)
    assert picture.name == "Image, labels and prediction in validation at step 1,500"
    with Image.open(io.BytesIO(base64.b64decode(picture.png))) as opened:
        assert opened.size == (picture.width, picture.height) == (3 * 128 + 4, 30)
        pixels = np.asarray(opened)
    assert pixels[0, 0] < 10
    assert (pixels[:, 130:258] == 255).all()
    assert (pixels[:, 260:] == 0).all()
    noise = np.random.default_rng(0).standard_normal((300, 300)).astype(np.float32)
    assert len(picture_of(Example(noise, noise, noise), 1).png) < PICTURE_BYTES_MAX


def mark_as_labelled(dataset, *boxes):
    """Note boxes of the layer `truth` as `import_training_labels` does."""
    properties = dataset / "datasource-properties.json"
    known = json.loads(properties.read_text())
    (layer,) = (layer for layer in known["dataLayers"] if layer["name"] == "truth")
    layer["labelledBoxes"] = [
        {"topLeft": list(box.topleft), **dict(zip(("width", "height", "depth"), box.size, strict=True))}
        for box in boxes
    ]
    properties.write_text(json.dumps(known))


def test_training_takes_the_boxes_that_were_labelled_for_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(networks._FEATURES, "small", (2, 2))
    write_image(tmp_path / "image", balls(SHAPE, CENTRES))
    boxes = [Box((0, 0, 0), (32, 32, 32)), Box((12, 2, 0), (32, 32, 32))]
    mark_as_labelled(tmp_path / "image", *boxes)
    voxelworks.run("train_instance_model", boxes=[box_of(tmp_path)], target=str(tmp_path / "model"), steps=1)
    told = capsys.readouterr().err
    assert all(f"truth {box}: " in told for box in boxes)


def test_a_training_is_priced_by_what_it_learns_from_and_is_measured_with(tmp_path, monkeypatch, seen):
    monkeypatch.setitem(networks._FEATURES, "small", (2, 2))
    write_image(tmp_path / "image", balls(SHAPE, CENTRES))
    known = describe_dataset("root:here/image", Places(tmp_path, {"here": ImportRoot(path=tmp_path)}))

    class Known:
        def layer(self, ref):
            return next(layer for layer in known.layers if layer.name == ref.layer)

    declared = get_workflow("train_instance_model")
    given = {"boxes": [box_of(tmp_path)], "target": str(tmp_path / "model"), "steps": 1}
    assert declared.cost.measure(declared.parse(given), Known()) == 32 * 34 * 44
    # The second one reaches beyond the image.
    mark_as_labelled(tmp_path / "image", Box((0, 0, 0), (32, 32, 32)), Box((12, 2, 0), (40, 32, 32)))
    known = describe_dataset("root:here/image", Places(tmp_path, {"here": ImportRoot(path=tmp_path)}))
    given["boxes"].append(box_of(tmp_path, box="0,0,0,32,32,20", purpose="validate"))
    price = declared.cost.measure(declared.parse(given), Known())
    voxelworks.run("train_instance_model", **given)
    assert price == sum(box.labels.size for box in seen) + 32 * 32 * 20 == 2 * 32**3 + 32 * 32 * 20


def test_the_image_may_end_inside_of_a_voxel_that_was_labelled(tmp_path, monkeypatch, seen):
    monkeypatch.setitem(networks._FEATURES, "small", (2, 2))
    truth = balls((64, 64, 66), [(16, 16, 18), (48, 48, 50)], radius=12)
    write_image(tmp_path / "image", truth[:63, :63, :65], voxel_nm=(5, 5, 5))
    write_coarse_labels(tmp_path / "labels", truth, voxel_nm=(5, 5, 5))
    labelled = Box((2, 0, 0), (64, 64, 64))
    mark_as_labelled(tmp_path / "labels", labelled)
    box = {"image": f"{tmp_path}/image/color", "truth": f"{tmp_path}/labels/truth"}
    inside = {"box": "2,0,0,63,63,63"}

    def train(target, *boxes):
        voxelworks.run("train_instance_model", boxes=boxes, target=str(tmp_path / target), steps=1)

    train("model", box, box | inside, box | {"purpose": "validate"})
    assert len(seen) == 2
    for found in seen:
        np.testing.assert_array_equal(found.labels, truth[::2, ::2, 2::2])
    with pytest.raises(
        InvalidGeometry, match=r"leaves layer color, .*; the part inside it is 2,0,0,63,63,63"
    ):
        train("none", box | {"box": str(labelled)})
    with pytest.raises(InvalidGeometry, match=r"inside of voxels of mag 2, .*; choose 2,0,0,63,63,63"):
        train("none", box | {"box": "3,0,0,62,63,63"})
    mark_as_labelled(tmp_path / "labels", labelled, Box((66, 0, 0), (64, 64, 64)))
    with pytest.raises(InvalidGeometry, match=r"'66,0,0,64,64,64' leaves layer color, .*; choose one inside"):
        train("none", box)


def annotate(tmp_path, labels, name="annotation.zip", boxes=(), **more):
    """Paint labels (z, y, x), in mag 1 of a dataset that begins at 0, in buckets of 16^3."""
    whole = np.zeros([-(-side // 16) * 16 for side in labels.shape], labels.dtype)
    whole[tuple(map(slice, labels.shape))] = labels
    z, y, x = (side // 16 for side in whole.shape)
    buckets = {
        (i, j, k): whole[16 * k : 16 * k + 16, 16 * j : 16 * j + 16, 16 * i : 16 * i + 16]
        for i, j, k in np.ndindex(x, y, z)
    }
    layer = VolumeLayer({"1": buckets}, **{"name": "Cells", "fallback": None, **more})
    return str(write_annotation(tmp_path / name, [layer], boxes=boxes, dataset="image"))


def test_what_was_painted_in_the_boxes_of_an_annotation_teaches_as_a_layer_does(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(networks._FEATURES, "small", (2, 2))
    truth = balls(SHAPE, CENTRES)
    write_image(tmp_path / "image", truth)
    boxes = [(0, 0, 0, 32, 32, 32), (12, 2, 0, 32, 32, 32)]
    train = {"structure": "balls", "steps": 2, "evaluate_every": 1}
    layers = [box_of(tmp_path, box=",".join(map(str, box))) for box in boxes]
    expected = voxelworks.run("train_instance_model", boxes=layers, target=str(tmp_path / "a"), **train)
    annotation = annotate(tmp_path, truth, boxes=boxes)
    capsys.readouterr()
    painted = {"image": f"{tmp_path}/image/color", "annotation": annotation}
    found = voxelworks.run("train_instance_model", boxes=[painted], target=str(tmp_path / "b"), **train)
    told = capsys.readouterr().err
    assert "annotation annotation.zip 12,2,0,32,32,32: 5 objects" in told
    alike = ("score", "best_step", "training_loss", "validation_loss")
    assert [found[name] for name in alike] == [expected[name] for name in alike]
    data = read_package(tmp_path / "b").facts.training_data
    assert data == (f"{tmp_path}/image/color with annotation annotation.zip",)
    # Over a layer what was painted takes the place of what is below, and the rest shows through.
    covered = np.where(np.arange(SHAPE[2]) < 16, truth, 0).astype(np.uint32)
    half = VolumeLayer(
        {
            "1": {
                (0, j, k): np.pad(covered, ((0, 0), (0, 14), (0, 4)))[
                    16 * k : 16 * k + 16, 16 * j : 16 * j + 16, :16
                ]
                for j, k in np.ndindex(3, 2)
            }
        },
        name="Cells",
        fallback="truth",
    )
    over = write_annotation(tmp_path / "over.zip", [half], boxes=boxes, dataset="image")
    painted["annotation"] = str(over)
    found = voxelworks.run("train_instance_model", boxes=[painted], target=str(tmp_path / "c"), **train)
    assert [found[name] for name in alike] == [expected[name] for name in alike]


def test_an_annotation_to_learn_from_needs_boxes_and_voxels(tmp_path):
    truth = balls(SHAPE, CENTRES)
    write_image(tmp_path / "image", truth)
    image, made = f"{tmp_path}/image/color", str(tmp_path / "model")
    boxes = [(0, 0, 0, 32, 32, 32)]
    kept = sorted(tmp_path.iterdir())

    def refused(error, words, **box):
        with pytest.raises(error, match=words):
            voxelworks.run(
                "train_instance_model",
                boxes=[{"image": image, **box}],
                target=made,
                structure="balls",
                steps=1,
            )
        for path in set(tmp_path.iterdir()) - set(kept):
            path.unlink()

    refused(InvalidParams, "give either truth, a segmentation layer .* or annotation")
    refused(InvalidParams, "give either truth", truth=f"{tmp_path}/image/truth", annotation="a.zip")
    refused(InvalidParams, "is one of an annotation", truth=f"{tmp_path}/image/truth", volume_layer="Cells")
    refused(
        InvalidAnnotation,
        "no box is drawn in annotation annotation.zip",
        annotation=annotate(tmp_path, truth),
    )
    outside = annotate(tmp_path, truth, boxes=[(20, 0, 0, 32, 32, 32)])
    refused(InvalidGeometry, "the part inside it is 20,0,0,24,32,32", annotation=outside)
    erased = annotate(tmp_path, np.zeros_like(truth), boxes=boxes)
    refused(InvalidInput, "nothing is labelled in box 0,0,0,32,32,32 of annotation", annotation=erased)
    other = annotate(tmp_path, truth, boxes=boxes)
    refused(
        InvalidAnnotation,
        "has no volume layer 'Axons'; it has 'Cells'",
        annotation=other,
        volume_layer="Axons",
    )
    below = annotate(tmp_path, truth, boxes=boxes, fallback="truth")
    refused(MagNotFound, "mag '?2", annotation=below, mag="2-2-2")


def test_labels_are_taken_from_the_mag_that_is_chosen(tmp_path, monkeypatch):
    monkeypatch.setitem(networks._FEATURES, "small", (2, 2))
    truth = balls((66, 68, 88), [tuple(2 * at for at in centre) for centre in CENTRES], radius=14)
    write_image(tmp_path / "image", truth, voxel_nm=(5, 5, 5))
    dataset = Dataset.open(tmp_path / "image")
    coarse = Box((0, 0, 0), (44, 34, 33))
    dataset.layer("truth").add_mag(Mag(2, 2, 2), shard_zyx=(64, 64, 64)).write(
        coarse, np.ascontiguousarray(truth[::2, ::2, ::2])
    )
    dataset.write_metadata()
    voxelworks.run(
        "train_instance_model", boxes=[box_of(tmp_path, mag="2-2-2")], target=str(tmp_path / "model"), steps=1,
        structure="balls",
    )  # fmt: skip
    assert read_package(tmp_path / "model").facts.voxel_size == ISOTROPIC
    with pytest.raises(MagNotFound, match="truth"):
        voxelworks.run(
            "train_instance_model", boxes=[box_of(tmp_path, mag="4-4-4")], target=str(tmp_path / "none"), steps=1,
            structure="balls",
        )  # fmt: skip


def test_labels_on_coarser_voxels_stay_where_they_were(tmp_path, monkeypatch, seen):
    monkeypatch.setitem(networks._FEATURES, "small", (2, 2))
    ball = balls((65, 65, 65), [(32, 32, 32)], radius=21)[:64, :64, :64]
    truth = np.maximum(ball, ball[::-1, ::-1, ::-1])  # even sides, and the same from either end
    write_image(tmp_path / "image", truth, voxel_nm=(5, 5, 5))
    both = [box_of(tmp_path), box_of(tmp_path, purpose="validate")]
    voxelworks.run(
        "train_instance_model", boxes=both, target=str(tmp_path / "model"), steps=1, structure="balls",
        voxel_size="10,10,10",
    )  # fmt: skip
    labels = seen[0].labels
    assert labels.shape == (32, 32, 32)
    np.testing.assert_array_equal(labels, labels[::-1, ::-1, ::-1])
    assert 8 * np.count_nonzero(labels) == pytest.approx(np.count_nonzero(truth), rel=0.1)


def test_sections_are_learned_from_as_they_are(tmp_path, monkeypatch, seen):
    monkeypatch.setitem(networks._FEATURES, "small", (2, 2))
    truth = balls((20, 64, 64), [(10, 30, 30)], radius=20, lengths_zyx=(4, 1, 1))
    write_image(tmp_path / "image", truth, voxel_nm=(10, 10, 50))
    both = [box_of(tmp_path), box_of(tmp_path, purpose="validate")]
    voxelworks.run(
        "train_instance_model", boxes=both, target=str(tmp_path / "model"), steps=1, structure="balls",
        voxel_size="10,10,35",
    )  # fmt: skip
    assert np.array_equal(seen[0].labels, truth)
    image = Dataset.open(tmp_path / "image").layer("color").finest
    stored = image.read(image.box).astype(np.float32)
    assert np.corrcoef(seen[0].image.ravel(), stored.ravel())[0, 1] > 0.9999


@pytest.mark.parametrize("length_nm", [7, 10, 13, 40])
def test_boxes_are_loaded_in_the_memory_that_was_asked_for(tmp_path, monkeypatch, length_nm):
    monkeypatch.setattr(_training, "_READ_EDGE", 64)
    monkeypatch.setattr(_training, "_OBJECTS_MAX", 1000)
    write_image(tmp_path / "image", balls((128, 128, 128), [(40, 40, 40), (80, 80, 100)], radius=30))
    asked, taken = [], []

    def ask(self, memory_bytes, **_):
        asked.append(memory_bytes)
        tracemalloc.start()

    def stop(*_):
        taken.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        raise KeyboardInterrupt

    monkeypatch.setattr(Job, "require_memory", ask)
    monkeypatch.setattr(Training, "__init__", stop)
    for target in ("first", "second"):  # the first one loads modules, too
        with pytest.raises(KeyboardInterrupt):
            voxelworks.run(
                "train_instance_model", boxes=[box_of(tmp_path)], target=str(tmp_path / target),
                voxel_size=f"{length_nm},{length_nm},{length_nm}",
            )  # fmt: skip
    assert taken[1] < asked[1]


@pytest.mark.parametrize("length_nm", [4, 7, 10])
def test_boxes_are_the_same_whatever_is_read_at_once(tmp_path, monkeypatch, length_nm):
    truth = balls((64, 66, 70), [tuple(2 * at for at in centre) for centre in CENTRES], radius=14)
    write_image(tmp_path / "image", truth, voxel_nm=(5, 5, 5))
    found = []

    def stop(self, plan, learning, *_):
        found.extend(learning)
        raise KeyboardInterrupt

    monkeypatch.setattr(Training, "__init__", stop)
    for edge in (128, 20):
        monkeypatch.setattr(_training, "_READ_EDGE", edge)
        with pytest.raises(KeyboardInterrupt):
            voxelworks.run(
                "train_instance_model", boxes=[box_of(tmp_path)], target=f"{tmp_path}/model{edge}",
                voxel_size=f"{length_nm},{length_nm},{length_nm}",
            )  # fmt: skip
    whole, pieces = found
    np.testing.assert_allclose(pieces.image, whole.image, atol=1e-5)
    # Numbers follow the order in which objects come, so they may be others for the same objects.
    pairs = set(zip(whole.labels.ravel().tolist(), pieces.labels.ravel().tolist(), strict=True))
    assert (0, 0) in pairs
    assert [len(set(numbers)) for numbers in zip(*pairs, strict=True)] == [len(pairs)] * 2
    assert len(pairs) == 5  # background and four objects; the fifth is held back


def test_a_patch_is_held_by_boxes_with_most_of_what_is_learned_from():
    def box(sections, weight=1.0):
        shape = (sections, 200, 200)
        return LabelledBox(np.zeros((1, *shape), np.float32), np.zeros(shape, np.int32), weight=weight)

    def patch(*boxes):
        return _patch(VoxelSize(10, 10, 35), (2, 8, 8), 48**3, boxes)

    assert patch(box(30)) == (20, 72, 80)
    assert patch(box(30), box(6)) == (20, 72, 80)
    assert patch(box(6), box(30), box(6)) == (20, 72, 80)  # 30 of 42 sections
    assert patch(box(6), box(30), box(6), box(6)) == (6, 136, 136)  # 30 of 48
    assert patch(box(6), box(30, 0.5), box(6), box(6)) == (6, 136, 136)
    assert patch(box(1)) == (2, 200, 200)  # never less than one step


@pytest.mark.parametrize("diameter", [0, "inf", "nan"])
def test_objects_of_no_size_are_not_trained_for(diameter):
    given = {"boxes": [{"image": "a/color", "truth": "a/truth"}], "target": "made"}
    with pytest.raises(InvalidParams, match="instance_diameter_nm"):
        get_workflow("train_instance_model").parse({**given, "instance_diameter_nm": diameter})


def test_training_needs_labels_of_some_size(tmp_path, monkeypatch):
    write_image(tmp_path / "image", balls(SHAPE, [(9, 9, 4)], radius=4))
    train = {"target": str(tmp_path / "model"), "steps": 1}

    def refused(error, words, workflow="train_instance_model", **changes):
        boxes = [box_of(tmp_path, **changes)]
        with pytest.raises(error, match=words):
            voxelworks.run(workflow, boxes=boxes, **train)
        assert [path.name for path in tmp_path.iterdir()] == ["image"]

    small = "has 20x34x32 voxels of 10,10,10 nm, and models of objects need boxes of at least 32x32x32"
    refused(InvalidGeometry, small, box="0,0,0,20,34,32")
    train["from_zero"] = True
    small = "has 44x34x32 voxels of 10,10,10 nm, and models of neurons need boxes of at least 85x85x30"
    refused(InvalidGeometry, small, workflow="train_neuron_model")
    refused(InvalidInput, "nothing is labelled in box 12,2,0,32,32,32", box="12,2,0,32,32,32")
    refused(InvalidGeometry, "leaves layer color", box="0,0,0,100,34,32")
    refused(InvalidParams, "all boxes are for validation", purpose="validate")
    flat = box_of(tmp_path, box="0,0,0,44,34,1", purpose="validate")
    with pytest.raises(InvalidGeometry, match="has 44x34x0 voxels of 10,10,30 nm, and to be measured with"):
        voxelworks.run("train_instance_model", boxes=[box_of(tmp_path), flat], voxel_size="10,10,30", **train)
    monkeypatch.setattr(_training, "_OBJECTS_MAX", 0)
    refused(InvalidInput, "box 0,0,0,44,34,32 of .*/truth has more objects than the 0 that are told apart")


def test_ids_below_0_are_refused(tmp_path):
    truth = balls(SHAPE, CENTRES).astype(np.int32)
    write_image(tmp_path / "image", truth.astype(np.uint32))
    truth[truth == 2] = -1
    dataset = Dataset.open(tmp_path / "image")
    layer = dataset.add_layer("signed", "segmentation", "int32", 1, Box((0, 0, 0), SHAPE[::-1]))
    layer.add_mag(Mag(1, 1, 1), shard_zyx=(64, 64, 64)).write(layer.box, truth)
    dataset.write_metadata()
    signed = {"image": f"{tmp_path}/image/color", "truth": f"{tmp_path}/image/signed"}
    told = "box 0,0,0,44,34,32 of .*/image/signed has the id -1, .*; give these objects other ids"
    with pytest.raises(InvalidInput, match=told):
        voxelworks.run("train_instance_model", boxes=[signed], target=str(tmp_path / "model"), steps=1)


def test_images_with_other_channels_are_refused(tmp_path):
    for name, channels in (("image", 1), ("rgb", 3)):
        write_image(tmp_path / name, balls(SHAPE, CENTRES), channels=channels)
    rgb = {"image": f"{tmp_path}/rgb/color", "truth": f"{tmp_path}/rgb/truth"}
    with pytest.raises(InvalidInput, match="the images have 1 and 3 channels"):
        voxelworks.run(
            "train_instance_model", boxes=[box_of(tmp_path), rgb], target=str(tmp_path / "model"), steps=1
        )


def test_a_label_layer_without_the_mag_of_the_box_is_refused(tmp_path):
    truth = balls(SHAPE, CENTRES)
    write_image(tmp_path / "image", truth)
    write_coarse_labels(tmp_path / "coarse", truth)
    box = {"image": f"{tmp_path}/image/color", "truth": f"{tmp_path}/coarse/truth", "box": "1,0,0,40,34,32"}
    with pytest.raises(InvalidGeometry, match="begins or ends inside of voxels of mag 2"):
        voxelworks.run("train_instance_model", boxes=[box], target=str(tmp_path / "model"), steps=1)


def small_box(seed=0):
    truth = balls((16, 24, 24), [(8, 8, 8), (8, 14, 18)], radius=6).astype(np.int32)
    noise = np.random.default_rng(seed).normal(0, 0.3, truth.shape)
    return LabelledBox(((truth > 0) * 2 - 1 + noise).astype(np.float32)[np.newaxis], truth)


def plan(**changes):
    architecture = Architecture(1, 2, (4, 6), ((3, 3, 3), (3, 3, 3)), ((2, 2, 2),))
    given = {
        "task": "instances", "architecture": architecture, "voxel_size": ISOTROPIC, "patch_zyx": (8, 16, 16),
        "batch": 2, "distance_scale_nm": 60.0, "steps": 8, "evaluate_every": 4, "seed": 3,
    }  # fmt: skip
    return TrainingPlan(**{**given, **changes})


def run(training, stop_at=math.inf, **more):
    def check():
        if training.progress.step >= stop_at:
            raise KeyboardInterrupt

    return training.run(check=check, report=lambda _: None, evaluated=lambda _, __: None, **more)


def weights_of(training):
    return {name: value.numpy().tobytes() for name, value in training.network.state_dict().items()}


def test_a_training_that_was_stopped_gives_the_same_network(tmp_path):
    whole = Training(plan(), [small_box()], [small_box(1)], tmp_path / "whole")
    progress = run(whole)
    for step in (3, 5):
        with pytest.raises(KeyboardInterrupt):
            run(Training(plan(), [small_box()], [small_box(1)], tmp_path / "stopped"), stop_at=step)
    resumed = Training(plan(), [small_box()], [small_box(1)], tmp_path / "stopped")
    assert run(resumed) == progress
    assert weights_of(resumed) == weights_of(whole)
    other = Training(plan(seed=4), [small_box()], [small_box(1)], tmp_path / "other")
    run(other)
    assert weights_of(other) != weights_of(whole)


@pytest.mark.parametrize("number", [1, 2])
def test_a_training_of_which_an_evaluation_failed_gives_the_same_network(tmp_path, monkeypatch, number):
    whole = Training(plan(), [small_box()], [small_box(1)], tmp_path / "whole")
    progress = run(whole)
    seen = []

    def fail_once(*counts):
        seen.append(counts)
        if len(seen) == number:
            raise MemoryError
        return _best(*counts)

    monkeypatch.setattr("voxelworks.ai.training._best", fail_once)
    with pytest.raises(MemoryError):
        run(Training(plan(), [small_box()], [small_box(1)], tmp_path / "failed"), save_every_s=0)
    resumed = Training(plan(), [small_box()], [small_box(1)], tmp_path / "failed")
    assert resumed.progress.step == 4 * number - 1
    assert run(resumed) == progress
    assert weights_of(resumed) == weights_of(whole)
    assert resumed.best.read_bytes() == whole.best.read_bytes()


def test_training_ends_when_nothing_gets_better(tmp_path, monkeypatch):
    training = Training(plan(patience=2, steps=100, evaluate_every=1), [small_box()], [small_box()], tmp_path)
    monkeypatch.setattr("voxelworks.ai.training._best", lambda *_: (0.5, 0.5))
    assert run(training).step == 3  # the first is the best; two more are no better


def test_a_loss_that_is_no_number_ends_the_training(tmp_path):
    training = Training(plan(learning_rate=1e30), [small_box()], [small_box()], tmp_path)
    with pytest.raises(TrainingFailed, match="train with a smaller learning_rate"):
        run(training)


@pytest.mark.parametrize(
    ("voxel_size", "kernels", "factors"),
    [
        ((10, 10, 10), [(3, 3, 3)] * 4, [(2, 2, 2)] * 3),
        ((10, 10, 35), [(1, 3, 3)] * 2 + [(3, 3, 3)] * 2, [(1, 2, 2)] * 2 + [(2, 2, 2)]),
    ],
)
def test_networks_look_as_far_on_each_axis(voxel_size, kernels, factors):
    architecture = Architecture.plan(1, 2, VoxelSize(*voxel_size), "small")
    assert (list(architecture.kernels), list(architecture.factors)) == (kernels, factors)
    patch = architecture.step_zyx
    torch.manual_seed(0)
    network = ResidualUNet(replace(architecture, features=(4, 4, 4, 4))).eval()
    assert network(torch.zeros(1, 1, *patch)).shape == (1, 2, *patch)
    reach = np.array(architecture.reach_zyx)
    size = tuple(int(side) for side in (2 * reach + 1 + np.array(patch)) // patch * patch)
    image = torch.zeros(1, 1, *size, requires_grad=True)
    middle = tuple(side // 2 for side in size)
    network(image)[(0, slice(None), *middle)].sum().backward()
    seen = np.abs(np.argwhere(image.grad[0, 0].numpy() != 0) - np.array(middle)).max(axis=0)
    # Pooling may look one window further.
    assert (seen <= reach + np.array(patch)).all()


def test_affinities_tell_which_voxels_belong_together():
    labels = np.array([[[1, 1, 2, 0, 0]]])
    found, is_known = affinities(labels, [(-1, 0, 0), (2, 0, 0)])
    assert found[:, 0, 0].tolist() == [[0, 1, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert is_known[:, 0, 0].tolist() == [[False, True, True, True, True], [True, True, True, False, False]]


def test_distances_are_measured_in_nm_and_from_each_object():
    labels = np.array([[[0, 1, 1, 1, 1, 2, 2, 2, 0]]])
    found = distances(labels, VoxelSize(10, 10, 30), 40)
    assert found[0, 0, 0].tolist() == pytest.approx([0, 0.25, 0.5, 0.25, 0, 0, 0.25, 0.25, 0])


def test_offsets_are_as_long_on_all_axes():
    assert offsets_for(VoxelSize(10, 10, 50), (0, 30, 100)) == (
        (0, 0, -1), (0, -1, 0), (-1, 0, 0), (0, -3, 0), (-3, 0, 0), (0, 0, -2), (0, -10, 0), (-10, 0, 0),
    )  # fmt: skip


@pytest.mark.parametrize("voxel_size", [(10, 10, 10), (8, 8, 40)])
def test_augmentations_change_image_and_labels_alike(voxel_size):
    augmentation = Augmentation(VoxelSize(*voxel_size), noise_max=0, defect_share=0.3, brightness_max=0)
    patch = (8, 16, 16)
    for seed in range(40):
        dice = np.random.default_rng(seed)
        deforms = augmentation.deforms(dice)
        shape = augmentation.cut_size(patch, deforms=deforms)
        labels = (np.indices(shape).sum(axis=0) // 8 % 2).astype(np.int32)
        image = (labels * 4 - 2).astype(np.float32)[np.newaxis]
        found, wanted = augmentation.apply(image, labels, patch, dice, deforms=deforms)
        assert found.shape == (1, *wanted.shape)
        assert sorted(wanted.shape) == sorted(patch)
        assert found.dtype == np.float32
        assert set(np.unique(wanted)) <= {0, 1}
        bright, dark = found[0][wanted == 1], found[0][wanted == 0]
        assert bright.mean() > dark.mean() + 1


def test_curves_of_a_long_training_are_thinned_out_and_end_with_the_last_step():
    found = [Evaluation(step, 2 / step, 3 / step, step / 1000, 0.5) for step in range(1, 1000)]
    loss, validation, score = curves_of(found, "IoU")
    assert (loss.name, validation.name, score.name) == ("Loss in training", "Loss in validation", "IoU")
    assert len(score.points) <= 200
    assert score.points[-1] == (999, 0.999)
    assert [step for step, _ in loss.points] == sorted({step for step, _ in score.points})
    assert curves_of(found[:3], "IoU")[0].points == ((1, 2.0), (2, 1.0), (3, 0.66667))


def test_the_model_card_says_what_it_learned_from(learned):
    folder, _, _ = learned
    facts = json.loads((folder / "model" / "voxelworks.json").read_text())
    assert facts["training_data"] == [f"{folder}/image/color with {folder}/image/truth"]
    assert "balls" in (folder / "model" / "README.md").read_text()
