"""BioIO itself is not installed for the tests: what stands here for it has the parts of its interface that we use."""

import pickle
import sys
from types import ModuleType, SimpleNamespace

import dask.array
import numpy as np
import pytest

from voxelworks.cli import main
from voxelworks.errors import UnsupportedDtype, UnsupportedFormat
from voxelworks.geometry import Box, VoxelSize
from voxelworks.testing.independent_writers import write_tiff
from voxelworks.volumes.formats import bioio_adapter, format_name, open_source, open_volumes

STORED = np.random.default_rng(0).integers(0, 2**16, (2, 2, 3, 40, 50), np.uint16)
"""t, c, z, y, x."""


class Image:
    """A BioIO image of `.xyz` files, whose chunks are sections if it is asked for them."""

    opened = 0
    stored = STORED
    order = "TCZYX"
    names = ("DAPI", "GFP")
    scenes = ("left", "right")
    takes_chunk_dims = True
    unit = "micrometer"
    sizes = SimpleNamespace(X=0.2, Y=0.2, Z=1.0)

    def __init__(self, path, use_plugin_cache=False, **kwargs):
        if kwargs and not self.takes_chunk_dims:
            raise TypeError("unexpected keyword argument")
        Image.opened += 1
        self.chunk = (1, 1, 1, -1, -1) if kwargs == {"chunk_dims": ["Y", "X"]} else (1, 1, -1, -1, -1)
        self.scene, self.chunks_read = 0, []

    @staticmethod
    def determine_plugin(path, use_plugin_cache):
        if not path.endswith((".xyz", ".nd2")):
            raise ValueError("not supported")
        return SimpleNamespace(entrypoint=SimpleNamespace(name="bioio-xyz"))

    @property
    def dims(self):
        return SimpleNamespace(order=self.order)

    shape = property(lambda self: self.stored.shape)
    dtype = property(lambda self: self.stored.dtype)
    channel_names = property(lambda self: list(self.names))
    physical_pixel_sizes = property(lambda self: self.sizes)

    @property
    def dimension_properties(self):
        return SimpleNamespace(**{axis: SimpleNamespace(unit=self.unit) for axis in "XYZ"})

    def set_scene(self, scene):
        self.scene = scene

    def get_image_dask_data(self, axes, *, T, C):  # noqa: N803
        if axes == "SZYX":
            colours = dask.array.from_array(self.stored, chunks=(1, 1, 1, -1, -1, -1))
            return colours[T, C].transpose(3, 0, 1, 2)
        assert axes == "ZYX"
        values = self.stored + self.stored.dtype.type(self.scene)
        return dask.array.from_array(values, chunks=self.chunk)[T, C].map_blocks(
            self._seen, meta=values[0, 0, :0]
        )

    def _seen(self, block):
        self.chunks_read.append(block.shape)
        return block


@pytest.fixture
def bioio(monkeypatch):
    """Give the class of its images; every test has one of its own."""
    module = ModuleType("bioio")
    module.BioImage = type("BioImage", (Image,), {})
    monkeypatch.setitem(sys.modules, "bioio", module)
    monkeypatch.setattr(bioio_adapter, "is_installed", lambda: True)
    for cached in (bioio_adapter.plugin_for, bioio_adapter._scene):
        cached.cache_clear()
    yield module.BioImage
    for cached in (bioio_adapter.plugin_for, bioio_adapter._scene):
        cached.cache_clear()


@pytest.fixture
def path(tmp_path):
    (tmp_path / "s.xyz").write_bytes(b"something")
    return tmp_path / "s.xyz"


def test_what_nothing_of_ours_reads_is_read_by_bioio(bioio, path, capsys):
    found = open_volumes(path)
    assert [volume.name for volume in found] == [
        f"{scene} t{t} {name}" for scene in bioio.scenes for t in (0, 1) for name in bioio.names
    ]
    for volume, (scene, t, c) in zip(found, np.ndindex(2, 2, 2), strict=True):
        assert (volume.source.read(volume.source.box)[0] == STORED[t, c] + np.uint16(scene)).all()
    source = found[3].source
    assert (source.voxel_size, source.voxel_size_from) == (VoxelSize(200, 200, 1000), "BioIO (bioio-xyz)")
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["inspect", str(path)])
    assert "s.xyz: BioIO (bioio-xyz), 8 volumes" in capsys.readouterr().out


def test_a_box_reads_the_chunks_that_hold_it_in_an_image_that_stays_open(bioio, path):
    source = pickle.loads(pickle.dumps(open_volumes(path)[1].source))
    image = bioio_adapter._scene(source.file, 0)
    image.chunks_read.clear()
    opened = Image.opened
    assert (source.read(Box((5, 6, 1), (10, 20, 1)))[0] == STORED[0, 1, 1:2, 6:26, 5:15]).all()
    assert image.chunks_read == [(1, 40, 50)]
    assert (source.read_section(2)[0] == STORED[0, 1, 2]).all()
    assert Image.opened == opened


def test_a_plugin_that_reads_whole_stacks_is_used_within_limits(bioio, path, monkeypatch):
    bioio.takes_chunk_dims = False
    source = open_volumes(path)[0].source
    assert (source.chunk_zyx, source.has_random_access) == ((3, 40, 50), True)
    bioio_adapter._scene.cache_clear()
    monkeypatch.setattr(bioio_adapter, "_CHUNK_BYTES_MAX", 11_999)
    with pytest.raises(UnsupportedFormat, match="in pieces of 12000 bytes; convert it to OME-TIFF first"):
        open_volumes(path)


def test_colours_are_one_volume(bioio, path):
    bioio.stored, bioio.order = STORED[:1, :1, ..., None].repeat(3, -1).astype(np.uint8), "TCZYXS"
    bioio.stored[..., 1] //= 2
    bioio.scenes, bioio.names = ("only",), ("RGB",)
    source = open_source(path)
    assert source.channel_count == 3
    assert (source.read(source.box) == bioio.stored[0, 0].transpose(3, 0, 1, 2)).all()


def test_numbers_without_a_unit_are_no_voxel_size(bioio, path):
    bioio.unit = None
    source = open_volumes(path)[0].source
    assert (source.voxel_size, source.voxel_size_from) == (None, "")
    assert source.notes == (
        "BioIO states x: 0.2, y: 0.2, z: 1.0, which is no voxel size: a number or unit is missing",
    )


def test_bioio_is_asked_last_and_its_errors_are_told_plainly(bioio, tmp_path, path):
    write_tiff(tmp_path / "t.tif", STORED[0, 0])
    assert format_name(tmp_path / "t.tif") == "TIFF"
    (tmp_path / "s.nd2").write_bytes(b"\xda\xce\xbe\x0a" + bytes(1000))
    assert format_name(tmp_path / "s.nd2") == "BioIO (bioio-xyz)"
    (tmp_path / "s.unknown").write_bytes(b"something")
    with pytest.raises(UnsupportedFormat, match=r"s\.unknown is none of TIFF, "):
        open_volumes(tmp_path / "s.unknown")
    source = open_volumes(path)[0].source
    bioio.get_image_dask_data = lambda *_, **__: 1 / 0
    with pytest.raises(UnsupportedFormat, match=r"s\.xyz cannot be decoded: division by zero"):
        source.read(source.box)
    bioio.stored = STORED.astype(np.float64)
    bioio_adapter._scene.cache_clear()
    with pytest.raises(UnsupportedDtype, match="holds float64 values"):
        open_volumes(path)


def test_without_bioio_nothing_is_imported(tmp_path):
    (tmp_path / "s.xyz").write_bytes(b"something")
    with pytest.raises(UnsupportedFormat, match=r"s\.xyz is none of"):
        open_volumes(tmp_path / "s.xyz")
    assert not bioio_adapter.is_installed()
