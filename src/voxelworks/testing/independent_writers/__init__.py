"""Writers of small files in foreign formats that share no code with any reader.

They follow the specifications with `struct`, `zlib` and `json` alone, so that a test which reads their files does not
merely ask a library whether it agrees with itself. Each format, or family of them, is one module, which names what it
follows.
"""

from voxelworks.testing.independent_writers._chunked import write_knossos, write_n5, write_precomputed
from voxelworks.testing.independent_writers._czi import CziTile, write_czi
from voxelworks.testing.independent_writers._dicom import DicomStyle, write_dicom
from voxelworks.testing.independent_writers._dm import DmStyle, write_dm
from voxelworks.testing.independent_writers._mrc import MrcStyle, write_mrc
from voxelworks.testing.independent_writers._nifti import NiftiStyle, write_nifti
from voxelworks.testing.independent_writers._png import write_png
from voxelworks.testing.independent_writers._tiff import TiffStyle, write_tiff

__all__ = [
    "CziTile", "DicomStyle", "DmStyle", "MrcStyle", "NiftiStyle", "TiffStyle", "write_czi", "write_dicom", "write_dm",
    "write_knossos", "write_mrc", "write_n5", "write_nifti", "write_png", "write_precomputed", "write_tiff",
]  # fmt: skip
