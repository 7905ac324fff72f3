"""A segmentation is compared with the truth, over blocks, as one would compare whole arrays."""

import re

import numpy as np
import pytest

import voxelworks
from voxelworks.errors import InvalidGeometry, InvalidParams, MagNotFound, TargetExists
from voxelworks.geometry import MAG1, Box, Mag, VoxelSize
from voxelworks.settings import Settings
from voxelworks.volumes.dataset import Dataset

BOX = Box((40, 7, 3), (150, 90, 40))
SETTINGS = Settings(slots=2)


class BrokenOff(Exception):
    pass


def save(path, labels, *, box=BOX, voxel_size=(4, 4, 40), mag=MAG1, name="cells"):
    """Write a segmentation (z, y, x) that begins where the box does."""
    dataset = Dataset.create(path, VoxelSize(*voxel_size))
    layer = dataset.add_layer(name, "segmentation", labels.dtype.name, 1, box)
    array = layer.add_mag(mag, shard_zyx=(64, 64, 64))
    array.write(array.box, labels[None])
    dataset.write_metadata()
    return str(path)


@pytest.fixture
def pair(tmp_path):
    """Two segmentations of blocks and stripes, with background in both, and their datasets."""
    z, y, x = np.indices(BOX.shape_zyx)
    truth = (1 + x // 30 + 10 * (y // 30) + 2**40 * (z // 20)).astype(np.uint64)
    truth[:, :4] = 0
    segments = (1 + (x + 5) // 30 + 7 * (y // 45)).astype(np.uint16)
    segments[:, :, 60:70] = 0
    return segments, truth, save(tmp_path / "made", segments), save(tmp_path / "right", truth, name="truth")


def evaluate(made, right, tmp_path, **params):
    given = {
        "layer": f"{made}/cells",
        "truth": f"{right}/truth",
        "file": str(tmp_path / "report.html"),
    } | params
    return voxelworks.run("evaluate_segmentation", settings=SETTINGS, **given)


def slow_scores(segments, truth):
    """Compute scores by their definitions, from whole arrays."""
    segments, truth = segments.astype(np.uint64).reshape(-1), truth.reshape(-1)
    known = truth != 0

    def entropy(*labels):
        _, counts = np.unique(np.stack(labels), axis=1, return_counts=True)
        share = counts / counts.sum()
        return -(share * np.log2(share)).sum()

    def variation(mask):
        both = entropy(segments[mask], truth[mask])
        return both - entropy(truth[mask]), both - entropy(segments[mask])

    def rand(mask):
        """Count pairs of voxels that are together in both, in the segmentation and in the truth."""
        both, one, two = (
            sum(int(count) ** 2 for count in np.unique(labels, axis=1, return_counts=True)[1])
            for labels in (np.stack([segments[mask], truth[mask]]), segments[mask][None], truth[mask][None])
        )
        precision, recall = both / one, both / two
        return 1 - 2 * precision * recall / (precision + recall), precision, recall

    matched = []
    for segment in np.unique(segments[segments != 0]):
        for other in np.unique(truth[known]):
            one, two = segments == segment, truth == other
            matched.append((one & two).sum() / (one | two).sum())
    matched = [iou for iou in matched if iou > 0.5]
    hits = len(matched)
    wrong, missed = len(np.unique(segments[segments != 0])) - hits, len(np.unique(truth[known])) - hits
    error, precision, recall = rand(known)
    split, merge = variation(known)
    assigned_split, assigned_merge = variation(known & (segments != 0))
    one, two = segments != 0, known
    return {
        "voi_split": split, "voi_merge": merge, "assigned_voi_split": assigned_split,
        "assigned_voi_merge": assigned_merge, "iou": (one & two).sum() / (one | two).sum(),
        "dice": 2 * (one & two).sum() / (one.sum() + two.sum()), "true_positives": hits,
        "false_positives": wrong, "false_negatives": missed, "voxels": known.sum(),
        "precision": hits / (hits + wrong), "recall": hits / (hits + missed),
        "f1": 2 * hits / (2 * hits + wrong + missed),
        "panoptic_quality": sum(matched) / (hits + (wrong + missed) / 2), "adapted_rand_error": error,
        "rand_precision": precision, "rand_recall": recall, "voi": split + merge,
        "assigned_adapted_rand_error": rand(known & (segments != 0))[0],
        "assigned_voxels": (known & one).sum(),
    }  # fmt: skip


@pytest.mark.parametrize("box", [None, "60,20,10,80,50,20"])
def test_scores_are_those_of_whole_arrays(pair, tmp_path, box):
    segments, truth, made, right = pair
    answer = evaluate(made, right, tmp_path, box=box)
    if box is not None:
        inside = Box.parse(box).moved(tuple(-start for start in BOX.topleft)).slices_zyx
        segments, truth = segments[inside], truth[inside]
    expected = slow_scores(segments, truth)
    assert {name: answer[name] for name in expected} == pytest.approx(expected, abs=1e-5)
    assert answer["intervals"]["voi"][0] < answer["intervals"]["voi"][1]
    assert list(answer["f1_above"]) == [
        "0.5",
        "0.55",
        "0.6",
        "0.65",
        "0.7",
        "0.75",
        "0.8",
        "0.85",
        "0.9",
        "0.95",
    ]
    report = (tmp_path / "report.html").read_text()
    assert "made/cells compared with right/truth" in report
    assert f"{answer['voi']:.4f}" in report
    assert "<script" not in report


def test_equal_segmentations_with_other_ids_are_perfect(pair, tmp_path):
    _, truth, _, right = pair
    again = save(tmp_path / "again", (truth * 3).astype(np.uint64))
    answer = evaluate(again, right, tmp_path)
    assert (answer["voi"], answer["adapted_rand_error"], answer["f1"], answer["iou"]) == (0, 0, 1, 1)
    assert "<p>None.</p>" in (tmp_path / "report.html").read_text()


def test_only_what_both_layers_cover_is_compared(pair, tmp_path):
    _, truth, _, right = pair
    half = Box(BOX.topleft, (75, 90, 40))
    made = save(tmp_path / "half", truth[:, :, :75], box=half)
    answer = evaluate(made, right, tmp_path)
    assert (answer["voxels"], answer["voi"]) == (np.count_nonzero(truth[:, :, :75]), 0)


def test_an_empty_layer_has_no_scores(tmp_path):
    empty, right = save(tmp_path / "made", np.zeros(BOX.shape_zyx, np.uint32)), tmp_path / "right"
    save(right, np.zeros(BOX.shape_zyx, np.uint32), name="truth")
    answer = evaluate(empty, right, tmp_path)
    assert (answer["voxels"], answer["voi"], answer["f1"], answer["intervals"]) == (0, None, None, {})


def test_the_finest_common_mag_is_compared(pair, tmp_path):
    right = pair[3]
    mag, box = Mag(2, 2, 1), Box((0, 0, 0), (150, 90, 40))
    coarse = np.ones(box.in_mag(mag).shape_zyx, np.uint32)
    made = save(tmp_path / "coarse", coarse, box=box, mag=mag)
    with pytest.raises(
        MagNotFound, match="cells has mags 2-2-1, truth 1: none in common; make one with downsample"
    ):
        evaluate(made, right, tmp_path)
    voxelworks.run("downsample", layer=f"{right}/truth", coarsest_mag="2-2-1", settings=SETTINGS)
    assert evaluate(made, right, tmp_path)["mag"] == "2-2-1"


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"box": "0,0,0,9,9,9"}, InvalidGeometry, "leaves layer cells"),
        ({"mag": "4"}, MagNotFound, "layer 'cells' has no mag 4; it has: 1"),
        ({"file": "report.pdf"}, InvalidParams, "its name ends in .html, not like 'report.pdf'"),
        ({"truth": "{made}/cells"}, InvalidParams, "compared with itself"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(pair, tmp_path, params, error, message):
    _, _, made, right = pair
    given = {name: value.replace("{made}", made) for name, value in params.items()}
    with pytest.raises(error, match=re.escape(message)):
        evaluate(made, right, tmp_path, **given)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "right"]


def test_voxels_of_another_size_are_refused(pair, tmp_path):
    segments, _, _, right = pair
    other = save(tmp_path / "other", segments, voxel_size=(8, 8, 40))
    with pytest.raises(InvalidGeometry, match="voxels of cells are 8,8,40 nm large, those of truth 4,4,40"):
        evaluate(other, right, tmp_path)
    apart = save(tmp_path / "apart", segments, box=Box((400, 7, 3), BOX.size))
    with pytest.raises(InvalidGeometry, match="nothing in common"):
        evaluate(apart, right, tmp_path)


def test_an_interrupted_comparison_goes_on_and_gives_the_same_bytes(pair, tmp_path, capsys):
    _, _, made, right = pair
    evaluate(made, right, tmp_path)
    with pytest.raises(TargetExists, match=r"report\.html exists already"):
        evaluate(made, right, tmp_path)
    whole = (tmp_path / "report.html").read_bytes()
    (tmp_path / "report.html").unlink()

    def stop(progress):
        if progress.done > progress.total / 2:
            raise BrokenOff

    params = {"layer": f"{made}/cells", "truth": f"{right}/truth", "file": str(tmp_path / "report.html")}
    with pytest.raises(BrokenOff):
        voxelworks.run("evaluate_segmentation", settings=SETTINGS, on_progress=stop, **params)
    assert not (tmp_path / "report.html").exists()
    again = []
    params["on_progress"] = lambda progress: again.append(progress.done / progress.total)
    voxelworks.run("evaluate_segmentation", settings=SETTINGS, **params)
    assert min(again) > 0.4  # blocks that were done are not done again
    assert "going on where an earlier attempt stopped" in capsys.readouterr().err
    assert (tmp_path / "report.html").read_bytes() == whole
