"""Datasets that h5py wrote are read box by box; what lies in other files is not."""

import itertools
import json
import pickle

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voxelworks.errors import UnsupportedFormat
from voxelworks.geometry import Box
from voxelworks.volumes.formats import open_source, open_volumes

FILE_NUMBERS = itertools.count()
VOLUME = np.random.default_rng(5).integers(0, 1000, (4, 5, 6), dtype=np.uint16)


def whole(source):
    return source.read(Box.from_zyx((0, 0, 0), source.shape_zyx))


def written(path, **datasets):
    with h5py.File(path, "w") as root:
        for name, data in datasets.items():
            root[name.replace("__", "/")] = data
    return path


def refusal(path):
    with pytest.raises(UnsupportedFormat) as error:
        open_volumes(path)
    return error.value.message


def tags(axes):
    return json.dumps({"axes": [{"key": axis, "typeFlags": 2} for axis in axes]})


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9)),
    dtype=st.sampled_from(["u1", "<u2", ">u2", "<i4", ">u8", "<f4", ">f4", "<f2", "?"]),
    packing=st.sampled_from([{}, {"chunks": True}, {"chunks": True, "compression": "gzip", "shuffle": True}]),
    data=st.data(),
)  # fmt: skip
def test_a_box_of_any_dataset_equals_the_slice(tmp_path, shape, dtype, packing, data):
    values = np.random.default_rng(1).integers(0, 100, shape).astype(dtype)
    path = tmp_path / f"v{next(FILE_NUMBERS)}.h5"
    with h5py.File(path, "w") as root:
        root.create_dataset("a/b", data=values, **packing)
    ((volume),) = open_volumes(path)
    assert (volume.name, volume.source.shape_zyx) == ("a/b", shape)
    start = [data.draw(st.integers(0, size)) for size in shape]
    box = Box.from_zyx(tuple(start), tuple(size - first for size, first in zip(shape, start, strict=True)))
    assert np.array_equal(pickle.loads(pickle.dumps(volume.source)).read(box), values[None, *box.slices_zyx])


def test_images_and_labels_are_found_with_voxel_sizes(tmp_path):
    path = written(tmp_path / "v.h5", raw=VOLUME, volumes__labels=VOLUME.astype("u8"), table=np.zeros((3, 3), "u1"),
                   probabilities=np.zeros((2, 2, 2)), words=np.zeros((2, 2, 2), "S3"))  # fmt: skip
    with h5py.File(path, "a") as root:
        root["raw"].attrs["element_size_um"] = [0.25, 0.1, 0.05]
        root["volumes/labels"].attrs["resolution"] = (40.0, 4.0, 4.0)
    volumes = open_volumes(path)
    facts = [(v.name, v.category, str(v.source.voxel_size), v.source.voxel_size_from) for v in volumes]
    assert facts == [
        ("raw", None, "50,100,250", "element_size_um"),
        ("volumes/labels", "segmentation", "4,4,40", "resolution"),
    ]
    (note,) = volumes[0].source.notes
    assert note == (
        "ignored in v.h5: probabilities of v.h5 holds float64 values, which no layer can have; save images as float32, "
        "labels as uint64"
    )


@pytest.mark.parametrize(
    ("stored", "attributes", "names"),
    [
        (np.stack([VOLUME, VOLUME + 1]), {}, ["a/channel-1", "a/channel-2"]),
        (np.stack([VOLUME, VOLUME + 1], -1)[None].repeat(1, 0), {}, ["a/channel-1", "a/channel-2"]),
        (VOLUME.T[..., None], {"axistags": tags("xyzc")}, ["a"]),
        (VOLUME.transpose(0, 2, 1), {"MATLAB_class": np.bytes_("uint16")}, ["a"]),
        (VOLUME[None, None], {}, ["a"]),
        (VOLUME[:1, 0:, :].reshape(5, 6), {}, ["a"]),
    ],
)  # fmt: skip
def test_axes_are_what_the_file_says_or_z_y_x(tmp_path, stored, attributes, names):
    path = tmp_path / "v.h5"
    with h5py.File(path, "w") as root:
        root["a"] = stored
        root["a"].attrs.update(attributes)
    volumes = open_volumes(path)
    assert [volume.name for volume in volumes] == names
    for index, volume in enumerate(volumes):
        assert np.array_equal(whole(volume.source)[0], VOLUME[: volume.source.shape_zyx[0]] + index)


def test_unknown_axes_are_refused(tmp_path):
    assert refusal(written(tmp_path / "v.h5", a=np.zeros((20, 20, 20, 20), "u1"))) == (
        "v.h5 holds no volume: a of v.h5 has axes that are not known (20 x 20 x 20 x 20); save it as z,y,x or c,z,y,x"
    )
    path = written(tmp_path / "t.h5", a=np.zeros((2, 3, 4, 5), "u1"))
    with h5py.File(path, "a") as root:
        root["a"].attrs["axistags"] = tags("tzyx")
    assert "axes that are not known (2 x 3 x 4 x 5)" in refusal(path)


def test_nothing_outside_of_the_file_is_read(tmp_path):
    written(tmp_path / "secret.h5", data=VOLUME)
    (tmp_path / "secret.bin").write_bytes(VOLUME.tobytes())
    path = tmp_path / "v.h5"
    with h5py.File(path, "w") as root:
        root["linked"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "data")
        root["group"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/")
        root["soft"] = h5py.SoftLink("/group/data")
        layout = h5py.VirtualLayout(VOLUME.shape, VOLUME.dtype)
        layout[...] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "data", VOLUME.shape)
        root.create_virtual_dataset("virtual", layout)
        root.create_dataset(
            "external",
            VOLUME.shape,
            VOLUME.dtype,
            external=[(str(tmp_path / "secret.bin"), 0, VOLUME.nbytes)],
        )
    assert refusal(path) == (
        "v.h5 holds no volume: external of v.h5 lies in other files; copy it into one file, "
        "group, a link to another file, linked, a link to another file and 1 more"
    )


def test_hard_links_in_a_circle_end_and_each_dataset_is_given_once(tmp_path):
    path = written(tmp_path / "v.h5", a__b=VOLUME)
    with h5py.File(path, "a") as root:
        root["a/again"] = root["a"]
        root["a/twin"] = root["a/b"]
    assert [volume.name for volume in open_volumes(path)] == ["a/b"]


def test_claims_without_data_are_refused(tmp_path):
    path = tmp_path / "v.h5"
    with h5py.File(path, "w") as root:
        root.create_dataset("a", (10**5, 10**5, 10**5), "u1", chunks=(64, 64, 64))
    assert refusal(path) == (
        "v.h5 holds no volume: a of v.h5 claims 1000000000000000 bytes, of which 0 are stored; it is no usable image"
    )


@pytest.mark.parametrize("keep", [0.2, 0.9])
def test_a_file_that_is_cut_short_is_named(tmp_path, keep):
    path = written(tmp_path / "v.h5", a=VOLUME)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    assert refusal(path) == "v.h5 is cut short; copy it again or save it anew"


def test_damaged_chunks_are_named_when_they_are_read(tmp_path):
    path = tmp_path / "v.h5"
    with h5py.File(path, "w") as root:
        dataset = root.create_dataset("a", data=VOLUME, chunks=VOLUME.shape, compression="gzip")
        place = dataset.id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[place.byte_offset : place.byte_offset + place.size] = bytes(place.size)
    path.write_bytes(data)
    with pytest.raises(
        UnsupportedFormat, match=r"v\.h5 cannot be decoded: .*filter.*; copy it again or save it anew"
    ):
        whole(open_source(path))


def test_wide_sections_are_decoded_whole(tmp_path):
    path = tmp_path / "v.h5"
    with h5py.File(path, "w") as root:
        root.create_dataset("deep", (4, 600, 600), "u1", chunks=(2, 600, 600))
        root.create_dataset("flat", (4, 600, 600), "u1", chunks=(1, 600, 600))
        root.create_dataset("small", (4, 600, 600), "u1", chunks=(1, 64, 64))
        root.create_dataset("plain", data=np.zeros((4, 600, 600), "u1"))
    assert {v.name: v.source.has_random_access for v in open_volumes(path)} == {
        "deep": True, "flat": False, "small": True, "plain": True,
    }  # fmt: skip


def letters(text):
    return np.array([letter.encode() for letter in text], "S1")


def test_channels_of_imaris_are_volumes_without_their_padding(tmp_path):
    path = tmp_path / "v.ims"
    with h5py.File(path, "w") as root:
        image = root.create_group("DataSetInfo/Image")
        for name, text in {"Unit": "um", "X": "6", "ExtMin0": "1", "ExtMin1": "0", "ExtMin2": "-2", "ExtMax0": "4",
                           "ExtMax1": "2.5", "ExtMax2": "2"}.items():  # fmt: skip
            image.attrs[name] = letters(text)
        for number, name in enumerate(["DAPI", "GFP"]):
            root.create_group(f"DataSetInfo/Channel {number}").attrs["Name"] = letters(name)
            for level in range(2):
                channel = root.create_group(f"DataSet/ResolutionLevel {level}/TimePoint 0/Channel {number}")
                padded = np.pad(VOLUME + number, [(0, 4), (0, 3), (0, 2)])
                channel.create_dataset("Data", data=padded, chunks=(4, 4, 4), compression="gzip")
                for axis, size in zip("ZYX", VOLUME.shape, strict=True):
                    channel.attrs[f"ImageSize{axis}"] = letters(str(size))
    volumes = open_volumes(path)
    assert [volume.name for volume in volumes] == ["DAPI", "GFP"]
    assert all(np.array_equal(whole(v.source)[0], VOLUME + i) for i, v in enumerate(volumes))
    assert (str(volumes[0].source.voxel_size), volumes[0].source.voxel_size_from) == (
        "500,500,1000",
        "Imaris extents",
    )
    with h5py.File(path, "a") as root:
        root.create_group("DataSet/ResolutionLevel 0/TimePoint 1")
    assert refusal(path) == "v.ims has 2 time points; export the one you need"


SETUPS = """<SpimData><SequenceDescription><ViewSetups>
<ViewSetup><id>0</id><name>left</name><voxelSize><unit>µm</unit><size>0.2 0.3 1.0</size></voxelSize></ViewSetup>
<ViewSetup><id>1</id><name>right</name></ViewSetup>
</ViewSetups></SequenceDescription></SpimData>"""


def test_setups_of_bigdataviewer_are_volumes_with_the_voxel_size_of_the_xml(tmp_path):
    stored = VOLUME.astype(np.int16)
    stored[0, 0, 0] = -1
    path = written(tmp_path / "v.h5", t00000__s00__0__cells=stored, t00000__s00__1__cells=stored[::2],
                   t00000__s01__0__cells=stored + 1, s00__resolutions=np.ones((2, 3)))  # fmt: skip
    assert open_volumes(path)[0].source.notes == (
        "there is no v.xml beside it, which would state the voxel size",
    )
    (tmp_path / "v.xml").write_text(SETUPS)
    volumes = open_volumes(path)
    facts = [(v.name, str(v.source.voxel_size), v.source.dtype.name, len(v.source.files)) for v in volumes]
    assert facts == [("left", "200,300,1000", "uint16", 2), ("right", "None", "uint16", 2)]
    assert np.array_equal(whole(volumes[0].source)[0], stored.view(np.uint16))
    (tmp_path / "v.xml").write_text("<!DOCTYPE a>" + SETUPS)
    assert refusal(path) == "v.xml has XML with a document type; save it anew"
    # Where no search for letters finds it.
    (tmp_path / "v.xml").write_text('<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a>' + SETUPS, "utf-16")
    assert refusal(path) == "v.xml has XML with a document type; save it anew"
    (tmp_path / "v.xml").write_text('<?xml version="1.0" encoding="none"?>' + SETUPS)
    assert refusal(path) == "v.xml has damaged XML (unknown encoding: none); save it anew"
