"""Raw voxels are read by the layout that is given, which must fit the file."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxelworks.errors import UnsupportedFormat
from voxelworks.geometry import Box
from voxelworks.volumes.formats import RawLayout, open_volumes


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9)),
    dtype=st.sampled_from(["uint8", "uint16", "int32", "float32", "uint64", "float16"]),
    order=st.sampled_from(["little", "big"]), axes=st.permutations("xyz").map("".join),
    header_bytes=st.integers(0, 9), data=st.data(),
)  # fmt: skip
def test_a_box_of_raw_voxels_equals_the_slice(
    tmp_path_factory, shape, dtype, order, axes, header_bytes, data
):
    values = np.random.default_rng(1).integers(0, 100, shape).astype(dtype)
    stored = values.transpose(["zyx".index(axis) for axis in reversed(axes)])
    path = tmp_path_factory.mktemp("raw") / "v.raw"
    path.write_bytes(bytes(header_bytes) + stored.astype(stored.dtype.newbyteorder(order[0])).tobytes())
    layout = RawLayout(shape[::-1], dtype, header_bytes, order, axes)
    ((source,),) = ([v.source for v in open_volumes(path, raw=layout)],)
    start = [data.draw(st.integers(0, size)) for size in shape]
    box = Box.from_zyx(tuple(start), tuple(size - first for size, first in zip(shape, start, strict=True)))
    assert np.array_equal(source.read(box), values[None, *box.slices_zyx])
    assert open_volumes(path.parent, raw=layout)[0].source == source


def test_a_layout_that_does_not_fit_is_refused(tmp_path):
    (tmp_path / "v.raw").write_bytes(bytes(130))
    with pytest.raises(UnsupportedFormat) as error:
        open_volumes(tmp_path / "v.raw", raw=RawLayout((5, 4, 3), "uint16"))
    assert error.value.message == (
        "v.raw has 130 bytes, but 5 x 4 x 3 voxels of uint16 behind 0 bytes of header would be 120; "
        "correct the size, type or header"
    )
