"""Addresses of stores, and what killed writers leave behind."""

import numpy as np
import pytest

from voxelworks.errors import UnsafeReference
from voxelworks.geometry import MAG1, Box
from voxelworks.volumes import files, storage
from voxelworks.volumes.arrays import create_mag_array


@pytest.mark.parametrize(
    ("location", "spec"),
    [
        ("/data/d", {"driver": "file", "path": "/data/d/"}),
        ("https://host/a/b/", {"driver": "http", "base_url": "https://host", "path": "/a/b/"}),
        ("http://host:81", {"driver": "http", "base_url": "http://host:81", "path": "/"}),
        ("gs://bucket/a", {"driver": "gcs", "bucket": "bucket", "path": "a/"}),
        ("s3://bucket/a/b", {"driver": "s3", "bucket": "bucket", "path": "a/b/"}),
        (
            "s3://store.example.org/bucket/a",
            {"driver": "s3", "endpoint": "https://store.example.org", "bucket": "bucket", "path": "a/"},
        ),
        (
            "s3://localhost:9000/bucket/a",
            {"driver": "s3", "endpoint": "http://localhost:9000", "bucket": "bucket", "path": "a/"},
        ),
    ],
)
def test_places_become_stores(location, spec):
    assert storage.kvstore_spec(location) == spec


def test_an_address_with_a_password_is_refused_without_repeating_it():
    with pytest.raises(UnsafeReference, match="must not carry a user name") as caught:
        storage.kvstore_spec("https://me:secret@host/d")
    assert "secret" not in str(caught.value)


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path):
    box = Box((0, 0, 0), (64, 64, 64))
    array = create_mag_array(
        tmp_path / "1",
        mag=MAG1,
        layer_box=box,
        dtype="uint8",
        channel_count=1,
        shard_zyx=(64, 64, 64),
        category="color",
    )
    array.write(box, np.ones((64, 64, 64), "uint8"))
    leftover = tmp_path / "1" / "c" / "0" / "0" / "0" / "0_85ede25217ddb7c9.__lock"
    leftover.write_bytes(b"half")
    assert files.remove_leftovers(tmp_path) == [leftover]
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()) == [
        "1/c/0/0/0/0",
        "1/zarr.json",
    ]


def test_the_number_of_threads_changes_no_byte(tmp_path):
    box = Box((0, 0, 0), (200, 200, 200))
    data = np.random.default_rng(0).integers(0, 255, box.shape_zyx, "uint8")
    shards = []
    try:
        for thread_count in (1, 2):
            storage.limit_threads(thread_count)
            array = create_mag_array(
                tmp_path / str(thread_count),
                mag=MAG1, layer_box=box, dtype="uint8", channel_count=1, shard_zyx=(256, 256, 256), category="color",
            )  # fmt: skip
            array.write(box, data)
            shards.append((tmp_path / str(thread_count) / "c/0/0/0/0").read_bytes())
    finally:
        storage.limit_threads(None)
    assert shards[0] == shards[1]
