"""Layers that a pretended WEBKNOSSOS streams, read as they are; what it does not show is never taken for zeros."""

import pickle

import numpy as np
import pytest

from voxelworks.errors import (
    ForbiddenAddress,
    InvalidAnnotation,
    InvalidDataset,
    StorageFailed,
    UnsafeReference,
)
from voxelworks.geometry import MAG1, Box
from voxelworks.settings import Settings
from voxelworks.testing.far_webknossos import TOKEN, far_webknossos
from voxelworks.volumes import streaming
from voxelworks.volumes.streaming import open_stream

NEAR = Settings(outgoing_networks={"127.0.0.0/8"})


@pytest.fixture
def far():
    with far_webknossos() as far:
        labels = np.random.default_rng(0).integers(1, 2**32, (40, 70, 100), np.uint32)
        labels[:, 32:64, 32:64] = 0
        far.voxels = labels
        yield far


def opened(far, token=TOKEN):
    return open_stream(far.streams_at, "Volume", token, NEAR)


@pytest.mark.parametrize("box", ["0,0,0,100,70,40", "-5,3,2,200,80,60", "31,31,31,2,2,2", "500,0,0,3,3,3"])
def test_any_box_is_read_as_it_is(far, box):
    array = pickle.loads(pickle.dumps(opened(far)))
    assert (array.mag, array.dtype, array.box) == (MAG1, np.uint32, Box((0, 0, 0), (100, 70, 40)))
    box = Box.parse(box)
    expected = np.zeros((1, *box.shape_zyx), np.uint32)
    inside = box.intersect(array.box)
    start = box.topleft
    place = inside.moved((-start[0], -start[1], -start[2])).slices_zyx
    expected[0][place] = far.voxels[inside.slices_zyx]
    np.testing.assert_array_equal(array.read(box), expected)
    assert not any(TOKEN in request.path for request in far.requests)


def test_connections_are_used_again(far):
    opened(far).read(Box((0, 0, 0), (100, 70, 40)))
    assert len(far.requests) > 20
    assert far.heard.connections <= streaming.AT_ONCE + 1


def test_a_token_is_in_no_text(far):
    array = opened(far)
    assert TOKEN not in repr(array) + str(array)
    far.token = "another"
    for attempt in (lambda: array.read(array.box), lambda: opened(far)):
        with pytest.raises(
            InvalidAnnotation, match=r"cannot be seen \(404\).*with a token that may"
        ) as refused:
            attempt()
        assert TOKEN not in str(refused.value)


def test_an_access_that_ends_while_chunks_are_read_leaves_no_holes(far):
    array = opened(far)
    far.statuses = {"/Volume/1/0.": [200] * 5 + [404] * 100, ".zarray": [403]}
    with pytest.raises(InvalidAnnotation, match=r"cannot be seen \(403\)"):
        array.read(array.box)


def test_a_server_in_trouble_is_asked_again(far, monkeypatch):
    monkeypatch.setattr(streaming, "PAUSES_S", (0.0, 0.0))
    array = opened(far)
    far.statuses = {"/Volume/1/0.": [503, 500, 429]}
    np.testing.assert_array_equal(array.read(array.box)[0], far.voxels)
    far.statuses = {"/Volume/1/0.": [503] * 100}
    with pytest.raises(StorageFailed, match="answers 503"):
        array.read(array.box)


def test_what_is_no_chunk_is_refused(far):
    array = opened(far)
    far.statuses = {"/Volume/1/0.": [418]}
    with pytest.raises(InvalidDataset, match="answers 418"):
        array.read(Box((0, 0, 0), (8, 8, 8)))


def test_only_what_may_be_reached_is_asked(far):
    with pytest.raises(ForbiddenAddress, match="not on the public internet"):
        open_stream(far.streams_at, "Volume", TOKEN, Settings())
    with pytest.raises(UnsafeReference, match="is not encrypted"):
        open_stream("http://data.example.org/data/annotations/zarr/0", "Volume", TOKEN, NEAR)
    assert far.heard.connections == 0
    with pytest.raises(InvalidAnnotation, match="streams no layer 'Other'; it has Volume"):
        open_stream(far.streams_at, "Other", TOKEN, NEAR)
