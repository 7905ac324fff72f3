"""Real files of other programs read as the readers of their communities read them.

The checksums are those of mrcfile 1.5, nibabel 5.4, RosettaSciIO 0.15 and ncempy 1.16, pydicom 3.0 and h5py 3.16: they
read the same files, and were asked by hand, as (z, y, x) in C order.
"""

import zlib

import numpy as np
import pytest

from voxelworks.geometry import Box
from voxelworks.volumes.formats import open_volumes

KNOWN = {
    # file: {part: (x, y, z, dtype, checksum, voxel size)}
    "mrc/EMD-3001.map": {"": (43, 25, 73, "float32", 1494904231, "0.044825,0.03925,0.045875")},
    "mrc/emd_3001.map.gz": {"": (43, 25, 73, "float32", 1494904231, "0.044825,0.03925,0.045875")},
    "mrc/20241021_00405_movie.mrc": {"": (8, 4, 32, "uint16", 2635001027, "None")},
    "nifti/standard.nii": {"": (4, 5, 7, "uint8", 1175199352, "None")},
    "nifti/standard.nii.gz": {"": (4, 5, 7, "uint8", 1175199352, "None")},
    "dm/test-1.dm3": {"": (2, 2, 1, "int16", 2459505686, "None")},
    "dm/test-1.dm4": {"": (2, 2, 1, "int16", 2459505686, "None")},
    "dm/3D/test-1.dm3": {"": (2, 2, 2, "int16", 377434923, "None")},
    "dm/3D/test-10.dm3": {"": (2, 2, 2, "uint16", 377434923, "None")},
    "dm/3D/test-1.dm4": {"": (2, 2, 2, "int16", 377434923, "None")},
    "dm/3D/test-10.dm4": {"": (2, 2, 2, "uint16", 377434923, "None")},
    "dm/test_stackbuilder_imagestack.dm3": {"": (16, 2, 3, "uint32", 818928851, "None")},
    "hdf5/sample_ovule.h5": {
        "label": (128, 128, 32, "uint16", 3118803460, "150,150,235"),
        "raw": (128, 128, 32, "uint8", 3151659599, "150,150,235"),
    },
    "hdf5/example2_v3.1.hspy": {
        "Experiments/test_diffraction_pattern/data": (16, 16, 1, "int32", 3795211042, "None")
    },
    "dicom": {"": (274, 384, 4, "int16", 547829086, "699987.8,666666.7,666666.7")},
}


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_a_real_file_reads_as_others_read_it(name, test_data):
    found = {}
    for volume in open_volumes(test_data / "formats" / name):
        source = volume.source
        voxels = source.read(Box.from_zyx((0, 0, 0), source.shape_zyx))
        checksum = zlib.crc32(np.ascontiguousarray(voxels).tobytes())
        found[volume.name] = (*source.shape_zyx[::-1], source.dtype.name, checksum, str(source.voxel_size))
    assert found == KNOWN[name]
