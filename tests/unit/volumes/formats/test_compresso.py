"""Labels in compresso of an independent encoder are read, in files and in shards."""

import contextlib
import gzip
import json

import numpy as np
import pytest
import tensorstore as ts
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from voxelworks.errors import InvalidDataset, UnsupportedFormat
from voxelworks.geometry import Box
from voxelworks.testing.independent_codings import compresso_chunk
from voxelworks.volumes.formats import open_source, open_volumes
from voxelworks.volumes.formats.compresso import decode
from voxelworks.volumes.formats.precomputed import morton_code

CHUNK = (4, 8, 8)
ELEMENTS = st.one_of(st.integers(0, 3), st.sampled_from([250, 254, 255]))


@settings(max_examples=40, deadline=None)
@given(
    labels=array_shapes(min_dims=3, max_dims=3, max_side=7).flatmap(
        lambda shape: arrays(np.uint8, shape, elements=ELEMENTS)
    ),
    dtype=st.sampled_from(["uint8", "uint16", "uint64"]), steps=st.sampled_from([(4, 4, 1), (8, 8, 1), (4, 2, 1)]),
    connectivity=st.sampled_from([4, 6]), version=st.sampled_from([0, 1]),
)  # fmt: skip
def test_what_was_encoded_is_decoded(labels, dtype, steps, connectivity, version):
    labels = labels.astype(dtype)
    if dtype == "uint64":
        labels[labels > 200] += np.uint64(2**64 - 256)  # up to the largest there is
    data = compresso_chunk(labels, steps=steps, connectivity=connectivity, version=version)
    assert np.array_equal(decode(data, labels.shape, labels.dtype), labels)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_chunks_are_refused_or_read_as_something_else(data):
    labels = np.random.default_rng(1).integers(0, 4, (3, 6, 7), np.uint16)
    content = bytearray(compresso_chunk(labels))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    else:
        at = data.draw(st.integers(0, len(content) - 4))
        content[at : at + 4] = data.draw(st.binary(min_size=4, max_size=4))
    with contextlib.suppress(ValueError):
        assert decode(bytes(content), labels.shape, labels.dtype).shape == labels.shape


def write_volume(folder, labels, *, form, first_voxel=(0, 0, 0)):
    """Write labels in chunks, each a file, a packed file, or in shards that tensorstore writes."""
    scale = {
        "key": "4_4_40", "size": list(labels.shape[::-1]), "resolution": [4, 4, 40], "encoding": "compresso",
        "chunk_sizes": [list(CHUNK[::-1])], "voxel_offset": list(first_voxel),
    }  # fmt: skip
    (folder / "4_4_40").mkdir(parents=True)
    store = None
    if form == "sharded":
        scale["sharding"] = {
            "@type": "neuroglancer_uint64_sharded_v1", "preshift_bits": 1, "hash": "identity", "minishard_bits": 1,
            "shard_bits": 1, "data_encoding": "gzip", "minishard_index_encoding": "gzip",
        }  # fmt: skip
        base = {"driver": "file", "path": f"{folder}/4_4_40/"}
        spec = {"driver": "neuroglancer_uint64_sharded", "base": base, "metadata": scale["sharding"]}
        store = ts.KvStore.open(spec).result()
    info = {"type": "segmentation", "data_type": labels.dtype.name, "num_channels": 1, "scales": [scale]}
    (folder / "info").write_text(json.dumps(info))
    grid = [-(-extent // size) for extent, size in zip(labels.shape, CHUNK, strict=True)]
    for cell in np.ndindex(*grid):
        start = [number * size for number, size in zip(cell, CHUNK, strict=True)]
        part = labels[tuple(slice(at, at + size) for at, size in zip(start, CHUNK, strict=True))]
        if not part.any():
            continue
        data = compresso_chunk(np.ascontiguousarray(part))
        name = "_".join(
            f"{at + first}-{at + first + size}"
            for at, first, size in zip(start[::-1], first_voxel, part.shape[::-1], strict=True)
        )
        if store is not None:
            store.write(slow_morton_code(cell[::-1], grid[::-1]).to_bytes(8, "big"), data).result()
        elif form == "packed":
            (folder / "4_4_40" / f"{name}.gz").write_bytes(gzip.compress(data))
        else:
            (folder / "4_4_40" / name).write_bytes(data)
    return folder


def slow_morton_code(cell, grid):
    """Take bit after bit of x, y and z from the lowest on, as the specification puts it."""
    bits = []
    for bit in range(8):
        bits += [str(index >> bit & 1) for index, extent in zip(cell, grid, strict=True) if 2**bit < extent]
    return int("".join(reversed(bits)) or "0", 2)


@pytest.mark.parametrize("form", ["plain", "packed", "sharded"])
def test_a_volume_is_read_box_by_box(tmp_path, form):
    labels = np.random.default_rng(2).integers(0, 3, (9, 13, 17), np.uint64) * np.uint64(2**62)
    labels[:4, :8, :8] = 0  # of this chunk there is no file
    write_volume(tmp_path, labels, form=form, first_voxel=(100, -20, 3))
    (volume,) = open_volumes(tmp_path)
    source = volume.source
    assert (volume.category, source.dtype, str(source.voxel_size)) == ("segmentation", "uint64", "4,4,40")
    assert np.array_equal(source.read(source.box)[0], labels)
    box = Box((5, 6, 2), (9, 5, 4))
    assert np.array_equal(source.read(box)[0], labels[box.slices_zyx])


@given(grid=st.tuples(*[st.integers(1, 200)] * 3), data=st.data())
def test_chunks_are_numbered_by_interleaved_bits(grid, data):
    cell = [data.draw(st.integers(0, extent - 1)) for extent in grid]
    assert morton_code(cell, grid) == slow_morton_code(cell, grid)


def test_damage_and_images_are_refused(tmp_path):
    labels = np.ones((4, 8, 8), np.uint32)
    folder = write_volume(tmp_path / "v", labels, form="plain")
    source = open_source(folder)
    (chunk,) = (folder / "4_4_40").iterdir()
    chunk.write_bytes(compresso_chunk(labels[:2]))
    with pytest.raises(InvalidDataset, match="it holds 8 x 8 x 2 labels of 4 bytes instead of 8 x 8 x 4"):
        source.read(source.box)
    info = json.loads((folder / "info").read_text())
    (folder / "info").write_text(json.dumps(info | {"num_channels": 3}))
    with pytest.raises(
        UnsupportedFormat, match="holds 3 channels of uint32 in compresso, which is for labels"
    ):
        open_source(folder)
    (folder / "info").write_text(json.dumps({**info, "scales": [{**info["scales"][0], "size": [8, 8, "x"]}]}))
    with pytest.raises(InvalidDataset, match="is incomplete or wrong"):
        open_source(folder)
