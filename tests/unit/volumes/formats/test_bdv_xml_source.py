"""The XML of BigDataViewer opens its HDF5 or N5 store, with the names and voxel sizes of the setups."""

import h5py
import numpy as np
import pytest

from voxelworks.errors import UnsafeReference, UnsupportedFormat
from voxelworks.testing.independent_writers import write_n5
from voxelworks.volumes.formats import open_source, open_volumes

SETUP = (
    "<ViewSetup><id>{}</id><name>{}</name>"
    "<voxelSize><unit>µm</unit><size>0.2 0.2 {}</size></voxelSize></ViewSetup>"
)


def write_xml(path, loader, *, kind="bdv.hdf5"):
    setups = SETUP.format(0, "GFP", 1.0) + SETUP.format(1, "DAPI", 0.5)
    image_loader = f'<ImageLoader format="{kind}">{loader}</ImageLoader>'
    sequence = f"<SequenceDescription>{image_loader}<ViewSetups>{setups}</ViewSetups></SequenceDescription>"
    path.write_text(f'<?xml version="1.0"?>\n<SpimData version="0.2">{sequence}</SpimData>', encoding="utf-8")
    return path


def noise(seed):
    return np.random.default_rng(seed).integers(0, 2**15, (3, 4, 5)).astype(np.uint16)


def read(folder, path):
    volumes = open_volumes(path)
    assert [volume.name for volume in volumes] == ["GFP", "DAPI"]
    assert [str(volume.source.voxel_size) for volume in volumes] == ["200,200,1000", "200,200,500"]
    assert {volume.source.voxel_size_from for volume in volumes} == {"XML of BigDataViewer"}
    for seed, volume in enumerate(volumes):
        assert np.array_equal(volume.source.read(volume.source.box)[0], noise(seed))


def test_an_hdf5_of_another_name_is_opened_by_its_xml(tmp_path):
    with h5py.File(tmp_path / "store.h5", "w") as file:
        for seed in range(2):
            file[f"t00000/s{seed:02}/0/cells"] = noise(seed).astype(np.int16)
            file.create_group(f"s{seed:02}")
    read(tmp_path, write_xml(tmp_path / "data.xml", '<hdf5 type="relative">store.h5</hdf5>'))


def test_an_n5_is_opened_by_its_xml(tmp_path):
    for seed in range(2):
        write_n5(tmp_path / f"d.n5/setup{seed}/timepoint0/s0", noise(seed), (3, 4, 5))
    path = write_xml(tmp_path / "data.xml", '<n5 type="relative">d.n5</n5>', kind="bdv.n5")
    read(tmp_path, path)
    (tmp_path / "d.n5/setup0/timepoint1").mkdir()
    with pytest.raises(UnsupportedFormat, match="has 2 time points; save the one you need"):
        open_volumes(path)


@pytest.mark.parametrize("name", ["/etc/store.h5", "../store.h5", "", "C:\\store.h5"])
def test_an_xml_that_leads_elsewhere_is_refused(tmp_path, name):
    with pytest.raises(UnsafeReference, match="only a store beside it is read"):
        open_source(write_xml(tmp_path / "data.xml", f"<hdf5>{name}</hdf5>"))


def test_other_stores_are_named(tmp_path):
    with pytest.raises(UnsupportedFormat, match=r"names a store of kind bdv\.imaris, which is not read"):
        open_source(write_xml(tmp_path / "data.xml", "", kind="bdv.imaris"))
