"""Where the result of a job is looked at."""

from types import SimpleNamespace

import pytest

from voxelworks.protocol.views import DatasetSummary, LayerSummary
from voxelworks.server.results import view_of

COLOR = LayerSummary(
    name="color", category="color", dtype="uint8", channel_count=1, box="0,0,0,8,8,8", mags=("1",)
)


def dataset(*layers, trashed_ms=None):
    summary = DatasetSummary(voxel_size="4,4,40", layers=layers)
    return SimpleNamespace(id="d1", summary=summary, trashed_ms=trashed_ms)


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, "/datasets/d1/view"),
        ({"box": None}, "/datasets/d1/view"),
        ({"box": "1,2,3,4,5,6"}, "/datasets/d1/view?box=1%2C2%2C3%2C4%2C5%2C6"),
    ],
)
def test_a_result_is_looked_at_in_the_box_of_its_job(params, expected):
    assert view_of(SimpleNamespace(params=params, result=None), dataset(COLOR)) == expected


@pytest.mark.parametrize("made", [None, dataset(), dataset(COLOR, trashed_ms=1)])
def test_what_cannot_be_looked_at_is_not_offered(made):
    assert view_of(SimpleNamespace(params={}, result=None), made) is None
