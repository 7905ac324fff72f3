import math

import pytest

from voxelworks.blocks.checkpoints import Checkpoints


@pytest.mark.parametrize("key", ["0,0,0,512,512,512", "color/1", "..", ".", "", "ä b", "x" * 400])
def test_a_marker_gives_back_its_result(tmp_path, key):
    checkpoints = Checkpoints(tmp_path / "done", "print")
    checkpoints.mark("phase/1", key, {"largest": 2**63, "box": "0,0,0,1,1,1"})
    assert checkpoints.load("phase/1") == {key: {"largest": 2**63, "box": "0,0,0,1,1,1"}}
    assert [path for path in tmp_path.rglob("*") if "done" not in path.parts] == []


def test_results_that_are_not_numbers_survive(tmp_path):
    checkpoints = Checkpoints(tmp_path, "print")
    checkpoints.mark("phase", "a", [math.inf, -math.inf, None])
    assert checkpoints.load("phase") == {"a": [math.inf, -math.inf, None]}


def test_markers_of_other_params_and_phases_are_not_believed(tmp_path):
    Checkpoints(tmp_path, "old").mark("phase", "a", 1)
    Checkpoints(tmp_path, "new").mark("other", "b", 2)
    assert Checkpoints(tmp_path, "new").load("phase") == {}


def test_a_new_marker_replaces_an_old_one(tmp_path):
    Checkpoints(tmp_path, "old").mark("phase", "a", 1)
    Checkpoints(tmp_path, "new").mark("phase", "a", 2)
    assert Checkpoints(tmp_path, "new").load("phase") == {"a": 2}


def test_broken_markers_are_passed_over_at_every_length(tmp_path):
    checkpoints = Checkpoints(tmp_path, "print")
    checkpoints.mark("phase", "a", [1, 2, 3])
    (path,) = (tmp_path / "phase").iterdir()
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert checkpoints.load("phase") == {}
    path.write_bytes(whole)
    assert checkpoints.load("phase") == {"a": [1, 2, 3]}


def test_drafts_of_markers_are_passed_over(tmp_path):
    checkpoints = Checkpoints(tmp_path, "print")
    checkpoints.mark("phase", "a", 1)
    (path,) = (tmp_path / "phase").iterdir()
    path.rename(path.with_suffix(".123.tmp"))
    assert checkpoints.load("phase") == {}
