import gzip
import json

import numpy as np
import pytest
import tensorstore as ts

from voxelworks.errors import InvalidDataset, UnsafeReference, UnsupportedFormat
from voxelworks.geometry import Box, VoxelSize
from voxelworks.testing.independent_writers import write_precomputed
from voxelworks.volumes.formats import open_source, open_volumes

CHUNK = (2, 4, 4)


def noise(shape, dtype=np.uint8):
    return np.random.default_rng(8).integers(1, 200, shape).astype(dtype)


def whole(source):
    return source.read(source.box)


def change_info(folder, **changes):
    info = json.loads((folder / "info").read_text())
    scale = {key: changes.pop(key) for key in list(changes) if key in info["scales"][0]}
    info["scales"][0] |= scale
    (folder / "info").write_text(json.dumps(info | changes))


@pytest.mark.parametrize("is_packed", [False, True])
def test_a_segmentation_is_read_and_its_first_voxel_noted(tmp_path, is_packed):
    voxels = noise((1, 5, 6, 7), np.uint64) + 2**60
    write_precomputed(
        tmp_path, voxels, CHUNK, kind="segmentation", first_voxel=(100, -20, 3), is_packed=is_packed
    )
    (volume,) = open_volumes(tmp_path)
    source = volume.source
    assert (volume.category, source.dtype, source.voxel_size) == (
        "segmentation",
        "uint64",
        VoxelSize(4, 4, 40),
    )
    assert source.notes == (f"the first voxel of {tmp_path}/4_4_40 lies at 100,-20,3; it becomes 0,0,0",)
    assert np.array_equal(whole(source), voxels)
    box = Box((1, 2, 3), (4, 3, 2))
    assert np.array_equal(source.read(box), voxels[:, *box.slices_zyx])


@pytest.mark.parametrize("is_packed", [False, True])
def test_channels_are_volumes_and_three_of_8_bits_are_colours(tmp_path, is_packed):
    two, three = noise((2, 5, 6, 7), np.uint16), noise((3, 5, 6, 7))
    write_precomputed(tmp_path / "two", two, CHUNK, is_packed=is_packed)
    write_precomputed(tmp_path / "three", three, CHUNK, is_packed=is_packed)
    assert np.array_equal(whole(open_source(tmp_path / "two", part="channel 1"))[0], two[1])
    assert np.array_equal(whole(open_source(tmp_path / "three")), three)


def write_with_tensorstore(folder, voxels, **scale):
    """Write labels as compressed segmentation with the writer that others use too."""
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": {"driver": "file", "path": f"{folder}/"},
        "create": True,
        "multiscale_metadata": {"type": "segmentation", "data_type": "uint32", "num_channels": 1},
        "scale_metadata": {
            "size": voxels.shape[::-1], "chunk_size": [32, 32, 32], "encoding": "compressed_segmentation", "key": "0",
            "resolution": [8, 8, 40], "compressed_segmentation_block_size": [8, 8, 8], **scale,
        },
    }  # fmt: skip
    ts.open(spec).result()[..., 0].write(voxels.T).result()


@pytest.mark.parametrize("is_sharded", [False, True])
def test_compressed_segmentation_is_read_also_in_shards(tmp_path, is_sharded):
    voxels = noise((40, 50, 70), np.uint32)
    sharding = {
        "@type": "neuroglancer_uint64_sharded_v1", "preshift_bits": 0, "hash": "identity", "minishard_bits": 1,
        "shard_bits": 1, "data_encoding": "gzip", "minishard_index_encoding": "gzip",
    }  # fmt: skip
    write_with_tensorstore(tmp_path, voxels, **({"sharding": sharding} if is_sharded else {}))
    assert np.array_equal(whole(open_source(tmp_path))[0], voxels)


def test_packed_chunks_of_an_encoding_are_unpacked_before_they_are_decoded(tmp_path):
    voxels = noise((40, 50, 70), np.uint32)
    write_with_tensorstore(tmp_path, voxels)
    for chunk in list((tmp_path / "0").iterdir()):
        chunk.with_name(f"{chunk.name}.gz").write_bytes(gzip.compress(chunk.read_bytes()))
        chunk.unlink()
    source = open_source(tmp_path)
    box = Box((20, 20, 20), (30, 30, 20))
    assert np.array_equal(source.read(box)[0], voxels[box.slices_zyx])


def test_packed_chunks_that_are_bombs_cut_short_or_packed_otherwise_are_refused(tmp_path):
    source = open_source(write_precomputed(tmp_path, noise((1, 2, 4, 4)), CHUNK, is_packed=True))
    chunk = tmp_path / "4_4_40" / "0-4_0-4_0-2.gz"
    whole_chunk = chunk.read_bytes()
    for content in (gzip.compress(bytes(2**24)), whole_chunk[:-9]):
        chunk.write_bytes(content)
        with pytest.raises(InvalidDataset, match="is cut short or no chunk"):
            whole(source)
    chunk.write_bytes(b"nothing")
    with pytest.raises(InvalidDataset, match="cannot be unpacked"):
        whole(source)
    chunk.write_bytes(gzip.compress(b"short"))
    with pytest.raises(InvalidDataset, match="cannot be decoded"):
        whole(source)
    chunk.rename(chunk.with_suffix(".br"))
    with pytest.raises(UnsupportedFormat, match=r"are packed as \.br; copy it with gzip or none"):
        open_source(tmp_path)


def test_what_is_no_image_or_leads_elsewhere_is_refused(tmp_path):
    write_precomputed(tmp_path / "a", noise((1, 2, 4, 4)), CHUNK)
    for key in ("../a/4_4_40", "/etc", "s3://bucket/x"):
        change_info(tmp_path / "a", key=key)
        with pytest.raises(UnsafeReference, match="only folders below it are read"):
            open_source(tmp_path / "a")
    change_info(tmp_path / "a", key="4_4_40", encoding="crackle")
    with pytest.raises(UnsupportedFormat, match="is encoded as 'crackle', which is not read"):
        open_source(tmp_path / "a")
    change_info(tmp_path / "a", **{"@type": "neuroglancer_skeletons"})
    with pytest.raises(UnsupportedFormat, match="holds no volume, but neuroglancer_skeletons"):
        open_source(tmp_path / "a")
    change_info(tmp_path / "a", **{"@type": "neuroglancer_multiscale_volume", "scales": [{}]})
    with pytest.raises(InvalidDataset, match="info is incomplete or wrong"):
        open_source(tmp_path / "a")
