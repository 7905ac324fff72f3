"""A segmentation is compared with the trees of an annotation, over blocks, as one would compare whole arrays."""

import json
import re

import numpy as np
import pytest
from click.testing import CliRunner

import voxelworks
from voxelworks.cli import commands
from voxelworks.errors import (
    InvalidAnnotation,
    InvalidGeometry,
    InvalidParams,
    MagNotFound,
    ResourcesExceeded,
)
from voxelworks.geometry import MAG1, Box, Mag, VoxelSize
from voxelworks.settings import Settings
from voxelworks.testing.independent_volumes import Tree, skeleton_text
from voxelworks.volumes.dataset import Dataset

BOX = Box((2**20, 7, 3), (300, 90, 40))
SETTINGS = Settings(slots=2)
LEFT = BOX.topleft[0]
FAR = 2**63 + 5


class BrokenOff(Exception):
    pass


@pytest.fixture
def made(tmp_path):
    """Make a dataset with segments of 50 x 45 x 40 voxels, the last column background, in two mags."""
    dataset = Dataset.create(tmp_path / "made", VoxelSize(4, 4, 40))
    layer = dataset.add_layer("cells", "segmentation", "uint64", 1, BOX)
    for mag in (MAG1, Mag(2, 2, 1)):
        array = layer.add_mag(mag, shard_zyx=(64, 64, 64))
        x, y, _ = (np.arange(size) for size in array.box.size)
        rows = np.minimum(1, (y * mag.y) // 45)
        labels = (
            np.uint64(FAR)
            + ((x * mag.x) // 50)[None, :].astype(np.uint64)
            + 10 * rows[:, None].astype(np.uint64)
        )
        labels[:, x * mag.x >= 250] = 0
        array.write(array.box, np.broadcast_to(labels, (1, *array.box.shape_zyx)).copy())
    dataset.write_metadata()
    return str(tmp_path / "made")


def along(y, *xs, z=10):
    """Give nodes along x, from the left of the layer."""
    return [(LEFT + x, 7 + y, 3 + z) for x in xs]


# Of steps of 25 voxels, 100 nm: 10 in segments of two steps, then two in the background.
STRAIGHT = Tree(along(10, *range(0, 300, 25)), name="straight &lt;&amp;")
UP = Tree([(LEFT + 10, 7 + y, 13) for y in range(0, 90, 15)], name="up", group=2)
APART = Tree(along(10, 60, 70, z=35), group=2)


def evaluate(made, tmp_path, trees, name="report.html", **params):
    file, text = tmp_path / "trees.nml", skeleton_text(trees, dataset="made", groups={2: "a pair"})
    if not file.exists() or file.read_text() != text:
        file.write_text(text)
    given = {
        "layer": f"{made}/cells",
        "truth_annotation": str(file),
        "file": str(tmp_path / name),
    }
    return voxelworks.run("evaluate_segmentation", **{"settings": SETTINGS} | given | params)


def test_run_lengths_cuts_and_mergers_are_those_that_one_counts_by_hand(made, tmp_path):
    # The first two steps, of 0, 25 and 50, end in segment 1: one is right in segment 0, one cut; and so on. The last
    # edge in a segment ends in the background, as does the one after it.
    answer = evaluate(made, tmp_path, [STRAIGHT])
    assert answer == {
        "file": str(tmp_path / "report.html"), "mag": "1", "trees": 1, "edges": 11, "splits": 4, "omitted": 2,
        "mergers": 0, "path_length_nm": 1100, "right_path_length_nm": 500, "merged_path_length_nm": 0,
        "cut_path_length_nm": 400, "omitted_path_length_nm": 200, "erl_nm": round(5 * 100**2 / 1100, 1),
        "erl_share": round(5 * 100**2 / 1100**2, 5), "voi": answer["voi"], "voi_split": answer["voi"],
        "voi_merge": 0, "adapted_rand_error": answer["adapted_rand_error"], "rand_precision": 1,
        "rand_recall": round((5 * 2**2 + 2**2) / 12**2, 5), "intervals": {},
    }  # fmt: skip
    report = (tmp_path / "report.html").read_text()
    assert "made/cells compared with skeletons" in report
    assert "straight &lt;&amp;" in report
    cuts = "; ".join(f"{LEFT + x},17,13" for x in (37, 87, 137, 187))
    assert f"cut: {cuts}<br>no segment: {LEFT + 237},17,13; {LEFT + 262},17,13" in report
    assert "<script" not in report


def test_trees_in_one_segment_are_merged_unless_they_are_of_one_group(made, tmp_path):
    trees = [STRAIGHT, UP, APART]
    apart = evaluate(made, tmp_path, trees, min_merger_path_length_nm=40)
    # UP shares segment 0 with STRAIGHT, and APART shares segment 1 with it.
    assert (apart["trees"], apart["mergers"], apart["merged_path_length_nm"]) == (
        3,
        2,
        100 + 2 * 60 + 100 + 40,
    )
    report = (tmp_path / "report.html").read_text()
    assert f"<td>{FAR}</td>" in report
    assert f"straight &lt;&amp; (0.10 µm) at {LEFT},17,13" in report
    assert evaluate(made, tmp_path, trees, name="800.html")["mergers"] == 0
    pair = evaluate(made, tmp_path, [UP, APART], name="g.html", neurons="groups", min_merger_path_length_nm=0)
    assert (pair["trees"], pair["mergers"], pair["splits"]) == (1, 0, 1)
    assert "a pair" in (tmp_path / "g.html").read_text()


def test_steps_see_what_lies_between_nodes(made, tmp_path):
    ends = Tree(along(10, 0, 40, 210, 290))
    assert evaluate(made, tmp_path, [ends])["splits"] == 1
    steps = evaluate(made, tmp_path, [ends], name="steps.html", max_edge_length_nm=40)
    assert (steps["splits"], steps["edges"], steps["omitted"]) == (4, 4 + 17 + 8, 5)
    assert steps["path_length_nm"] == 290 * 4


def test_coarser_mags_and_parts_can_be_compared(made, tmp_path):
    coarse = evaluate(made, tmp_path, [STRAIGHT], mag="2-2-1")
    assert (coarse["mag"], coarse["splits"], coarse["omitted"]) == ("2-2-1", 4, 2)
    box = f"{LEFT + 25},7,3,100,90,40"
    part = evaluate(made, tmp_path, [STRAIGHT, APART], name="part.html", box=box)
    assert (part["trees"], part["edges"], part["splits"]) == (2, 4, 2)
    assert 0 < part["intervals"]["erl_nm"][0] <= part["erl_nm"] <= part["intervals"]["erl_nm"][1]


@pytest.mark.parametrize(
    ("text", "params", "error", "message"),
    [
        (skeleton_text([]), {}, InvalidAnnotation, "the annotation has no trees; give one with skeletons"),
        (skeleton_text([Tree([])]), {}, InvalidAnnotation, "the trees have no nodes"),
        (skeleton_text([Tree([(5, 5, 5), (9, 9, 9)])], dataset="made"), {}, InvalidGeometry,
         f"no node of the annotation lies in box '{BOX}': they lie in 5,5,5,5,5,5"),
        (skeleton_text([STRAIGHT], dataset="cortex"), {}, InvalidAnnotation,
         "made in dataset 'cortex', not in 'made'; if both show the same volume, say so with other_dataset"),
        (skeleton_text([STRAIGHT], dataset="made", scale=(8, 8, 40)), {}, InvalidGeometry,
         "voxels of cells are 4,4,40 nm large, those of the annotation 8,8,40"),
        (skeleton_text([STRAIGHT], dataset=None).replace('target="11"', 'target="99"'), {}, InvalidAnnotation,
         "has an edge to a node 99"),
        ("<svg/>", {}, InvalidAnnotation, "this is no NML"),
        (None, {"mag": "4"}, MagNotFound, "no mag 4"),
        (None, {"box": "0,0,0,9,9,9"}, InvalidGeometry, "leaves layer cells"),
        (None, {"max_edge_length_nm": "0.5"}, InvalidParams, "max_edge_length_nm"),
        (None, {"min_merger_path_length_nm": "nan"}, InvalidParams, "min_merger_path_length_nm"),
        (None, {"truth": "other/cells"}, InvalidParams, "give either truth, a segmentation layer that is right, or"),
        (None, {"truth_annotation": None}, InvalidParams, "give either truth, a segmentation layer that is right, or"),
        (None, {"truth_annotation": None, "truth": "other/cells", "neurons": "groups"}, InvalidParams,
         "neurons is about the trees of an annotation, and truth is a layer; leave it out"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_anything_is_written(made, tmp_path, text, params, error, message):
    (tmp_path / "given.nml").write_text(text or skeleton_text([STRAIGHT], dataset="made"))
    with pytest.raises(error, match=re.escape(message)):
        evaluate(made, tmp_path, [], **{"truth_annotation": str(tmp_path / "given.nml")} | params)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["given.nml", "made", "trees.nml"]


def test_steps_that_no_memory_holds_are_refused(made, tmp_path):
    trees = [Tree(along(10, 0, 299)) for _ in range(50)]
    with pytest.raises(ResourcesExceeded, match=r"one skeleton needs .* raise max_edge_length_nm"):
        evaluate(
            made, tmp_path, trees, max_edge_length_nm=1, settings=Settings(slots=1, memory_bytes_max=2**20)
        )


def test_an_annotation_of_another_dataset_is_taken_where_somebody_says_so(made, tmp_path):
    (tmp_path / "a.nml").write_text(skeleton_text([STRAIGHT], dataset="cortex"))
    command = [
        "run", "evaluate_segmentation", "--dataset", made, "--layer", "cells", "--truth-annotation",
        str(tmp_path / "a.nml"), "--other-dataset", "--max-edge-length-nm", "50", "--file", str(tmp_path / "r.html"),
        "--json",
    ]  # fmt: skip
    answer = CliRunner().invoke(commands, command)
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout)["edges"] == 22


def test_an_interrupted_comparison_goes_on_and_gives_the_same_bytes(made, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("voxelworks.workflows._points._PIECES_PER_BLOCK", 1)
    evaluate(made, tmp_path, [STRAIGHT, UP])
    whole = (tmp_path / "report.html").read_bytes()
    (tmp_path / "report.html").unlink()

    def stop(progress):
        if progress.done > progress.total / 2:
            raise BrokenOff

    with pytest.raises(BrokenOff):
        evaluate(made, tmp_path, [STRAIGHT, UP], on_progress=stop)
    assert not (tmp_path / "report.html").exists()
    again = []
    evaluate(
        made,
        tmp_path,
        [STRAIGHT, UP],
        on_progress=lambda progress: again.append(progress.done / progress.total),
    )
    assert min(again) > 0.4  # what was looked up is not looked up again
    assert "going on where an earlier attempt stopped" in capsys.readouterr().err
    assert (tmp_path / "report.html").read_bytes() == whole
