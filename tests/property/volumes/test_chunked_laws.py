"""Laws of volumes in chunked stores: whatever the format, reading any box gives what was written."""

import pickle
import tempfile
from pathlib import Path

import numpy as np
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from voxelworks.geometry import Box
from voxelworks.testing.independent_writers import write_knossos, write_n5, write_precomputed
from voxelworks.testing.rounds import rounds
from voxelworks.volumes.formats import open_source

SHAPES = st.tuples(*[st.integers(1, 40)] * 3)
CHUNKS = st.tuples(*[st.integers(1, 17)] * 3)
DTYPES = st.sampled_from(["uint8", "uint16", "int16", "uint32", "float32", "uint64"])


def write_zarr(folder, voxels, chunk, *, version, order):
    transposed = voxels.transpose(["zyx".index(axis) for axis in order])
    sizes = tuple(chunk["zyx".index(axis)] for axis in order)
    # An extra axis of one position, as time often is.
    array = zarr.create_array(
        folder,
        shape=(1, *transposed.shape),
        chunks=(1, *sizes),
        dtype=voxels.dtype,
        zarr_format=version,
        dimension_names=["t", *order] if version == 3 else None,
        attributes={"_ARRAY_DIMENSIONS": ["t", *order]} if version == 2 else {},
    )
    array[:] = transposed[None]


WRITERS = {
    "Zarr v2": lambda folder, voxels, chunk: write_zarr(folder, voxels, chunk, version=2, order="zyx"),
    "Zarr v3, x first": lambda folder, voxels, chunk: write_zarr(
        folder, voxels, chunk, version=3, order="xyz"
    ),
    "N5": write_n5,
    "N5, packed": lambda folder, voxels, chunk: write_n5(folder, voxels, chunk, is_packed=True),
    "precomputed": lambda folder, voxels, chunk: write_precomputed(
        folder, voxels[None], chunk, first_voxel=(3, 1000, 70)
    ),
    "precomputed, packed": lambda folder, voxels, chunk: write_precomputed(
        folder, voxels[None], chunk, first_voxel=(3, 1000, 70), is_packed=True
    ),
}


@settings(deadline=None, max_examples=rounds(12, 600))
@given(
    format_name=st.sampled_from(sorted(WRITERS)), shape=SHAPES, chunk=CHUNKS, dtype=DTYPES, data=st.data(),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_reading_any_box_of_a_store_gives_what_was_written(format_name, shape, chunk, dtype, data, seed):
    # Some chunks are empty and therefore not written.
    random = np.random.default_rng(seed)
    voxels = random.integers(0, 200, shape).astype(dtype)
    voxels[: shape[0] // 2] = 0
    voxels[0, 0, 0] = 1  # a store of zeros alone would have no folder for its chunks
    with tempfile.TemporaryDirectory() as folder:
        WRITERS[format_name](Path(folder) / "store", voxels, chunk)
        source = pickle.loads(pickle.dumps(open_source(Path(folder) / "store")))
        assert (source.shape_zyx, source.dtype, source.channel_count) == (shape, dtype, 1)
        for _ in range(3):
            box = data.draw(boxes_in(shape))
            read = source.read(box)
            assert read.dtype == dtype
            assert np.array_equal(read[0], voxels[box.slices_zyx])
        assert np.array_equal(source.read_section(shape[0] - 1)[0], voxels[-1])


@settings(deadline=None, max_examples=rounds(5, 50))
@given(shape=st.tuples(*[st.integers(1, 200)] * 3), data=st.data(), seed=st.integers(0, 99))
def test_reading_any_box_of_knossos_cubes_gives_what_was_written(shape, data, seed):
    voxels = np.random.default_rng(seed).integers(0, 200, shape).astype(np.uint8)
    voxels[128:] = 0
    voxels[0, 0, 0] = 1
    with tempfile.TemporaryDirectory() as folder:
        source = open_source(write_knossos(Path(folder), voxels))
        assert source.shape_zyx == shape
        box = data.draw(boxes_in(shape))
        assert np.array_equal(source.read(box)[0], voxels[box.slices_zyx])


@st.composite
def boxes_in(draw, shape):
    starts = [draw(st.integers(0, extent)) for extent in shape]
    sizes = [draw(st.integers(0, extent - start)) for start, extent in zip(starts, shape, strict=True)]
    return Box.from_zyx(tuple(starts), tuple(sizes))
