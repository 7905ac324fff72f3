"""A folder without sections is read as the files in it."""

import numpy as np
import pytest

from voxelworks.errors import UnsupportedFormat
from voxelworks.geometry import Box
from voxelworks.testing.independent_writers import NiftiStyle, write_mrc, write_nifti
from voxelworks.volumes.formats import RawLayout, open_volumes

VOLUME = np.random.default_rng(5).integers(0, 1000, (3, 4, 5), dtype=np.uint16)


def test_one_file_is_the_volume_and_what_is_none_is_noted(tmp_path):
    write_mrc(tmp_path / "v.mrc", VOLUME)
    (tmp_path / "readme.txt").write_text("hello")
    (tmp_path / "empty.mrc").touch()
    (tmp_path / ".hidden").write_text("hello")
    (volume,) = open_volumes(tmp_path)
    assert (volume.name, volume.source.files) == ("", (str(tmp_path / "v.mrc"),))
    assert volume.source.notes == (f"ignored in {tmp_path.name}: readme.txt",)


def test_several_files_are_volumes_by_their_names(tmp_path):
    write_mrc(tmp_path / "v10.mrc", VOLUME)
    write_mrc(tmp_path / "v9.mrc", VOLUME)
    write_nifti(tmp_path / "w.hdr", np.stack([VOLUME, VOLUME + 1]), NiftiStyle(is_pair=True))
    volumes = open_volumes(tmp_path)
    names = ["v9.mrc", "v10.mrc", "w.hdr/time-1", "w.hdr/time-2"]
    assert [volume.name for volume in volumes] == names
    assert np.array_equal(volumes[3].source.read(Box((0, 0, 0), (5, 4, 3)))[0], VOLUME + 1)


def test_raw_voxels_must_be_alone(tmp_path):
    for name in ("a.raw", "b.raw"):
        (tmp_path / name).write_bytes(VOLUME.tobytes())
    with pytest.raises(UnsupportedFormat) as error:
        open_volumes(tmp_path, raw=RawLayout((5, 4, 3), "uint16"))
    assert (
        error.value.message == f"{tmp_path} is a folder of several files; name the one that holds raw voxels"
    )
