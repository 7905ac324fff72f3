"""Annotations, written by an independent writer, are read bucket for bucket; hostile ones are refused."""

import io
import json
import zipfile

import numpy as np
import pytest

from voxelworks.errors import InvalidAnnotation, InvalidArchive, SourceNotFound
from voxelworks.geometry import MAG1, Box, Mag, VoxelSize
from voxelworks.testing.independent_volumes import (
    Tree,
    VolumeLayer,
    nml_text,
    skeleton_text,
    wkw_cube,
    wkw_header,
    write_annotation,
)
from voxelworks.volumes.annotations import Annotation, Limits

LIMITS = Limits(2**20, 2**26)
TREES = [[(1, 2, 3), (4.5, 5.9, 6)], [], [(-1, 0, 7)]]


def bucket(value, dtype="uint32", edge=8):
    voxels = np.full((edge, edge, edge), value, dtype)
    voxels[0, 1, 2] = 0
    return voxels


def buckets_of(path, name=None, folder=None):
    annotation = Annotation.open(path, LIMITS)
    return annotation.unpack_volume(annotation.volume_layer(name), folder or path.parent / "unpacked")


def test_nodes_are_read_in_the_order_of_the_file(tmp_path):
    (tmp_path / "a.nml").write_text(nml_text(TREES))
    write_annotation(tmp_path / "a.zip", trees=TREES)
    for name in ("a.nml", "a.zip"):
        annotation = Annotation.open(tmp_path / name, LIMITS)
        assert annotation.skeleton.trees.tolist() == [0, 0, 2]
        assert annotation.skeleton.positions_xyz.tolist() == [[1, 2, 3], [4.5, 5.9, 6], [-1, 0, 7]]
        assert (annotation.summary.tree_count, annotation.volume_layer(None)) == (3, None)


def test_edges_are_read_each_once_with_names_groups_and_voxel_size(tmp_path):
    trees = [
        Tree([(0, 0, 0), (1, 0, 0), (2, 0, 0)], [(0, 1), (2, 0), (1, 0), (1, 1)], "axon", group=4),
        Tree([]),
        Tree([(5, 5, 5), (6, 6, 6)]),
    ]
    (tmp_path / "a.nml").write_text(skeleton_text(trees, groups={4: "left"}, scale=(11, 11, 25)))
    skeleton = Annotation.open(tmp_path / "a.nml", LIMITS).skeleton
    assert skeleton.edges().tolist() == [[0, 1], [0, 2], [3, 4]]
    assert (skeleton.names, skeleton.groups.tolist()) == (("axon", None, None), [4, -1, -1])
    assert (skeleton.group_names, skeleton.voxel_size) == ({4: "left"}, VoxelSize(11, 11, 25))
    (tmp_path / "b.nml").write_text(nml_text(TREES))
    assert Annotation.open(tmp_path / "b.nml", LIMITS).skeleton.edges().shape == (0, 2)


def test_ids_of_nodes_may_be_unique_in_each_tree_alone(tmp_path):
    node, tree = (
        "<node id='{}' x='0' y='0' z='0'/>",
        "<thing id='{}'><nodes>{}</nodes><edges>{}</edges></thing>",
    )
    nodes = "".join(map(node.format, (7, 2**53 - 1)))
    edge = f"<edge source='7' target='{2**53 - 1}'/>"
    file = tmp_path / "a.nml"
    file.write_text(f"<things>{tree.format(1, nodes, edge)}{tree.format(2, nodes, edge)}</things>")
    assert Annotation.open(file, LIMITS).skeleton.edges().tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("nodes", "edge", "message"),
    [
        ((1, 1), (1, 1), "tree 'axon' has two nodes of id 1; export it again"),
        ((1, 2), (1, 9), "tree 'axon' has an edge to a node 9, which it does not have; export it again"),
        ((1, 2), (0, 2), "tree 'axon' has an edge to a node 0"),
        ((1, 2), (2, 3), "tree 'axon' has an edge to a node 3"),  # of another tree
        ((), (1, 2), "tree 'axon' has an edge to a node 1"),
    ],
)
def test_edges_to_what_is_not_there_are_refused_when_they_are_asked_for(tmp_path, nodes, edge, message):
    written = "".join(f"<node id='{id_}' x='0' y='0' z='0'/>" for id_ in nodes)
    line = "<edge source='{}' target='{}'/>".format(*edge)
    (tmp_path / "a.nml").write_text(
        f"<things><thing id='1' name='axon'><nodes>{written}</nodes><edges>{line}</edges></thing>"
        "<thing id='2'><nodes><node id='3' x='0' y='0' z='0'/></nodes></thing></things>"
    )
    skeleton = Annotation.open(tmp_path / "a.nml", LIMITS).skeleton
    with pytest.raises(InvalidAnnotation) as refused:
        skeleton.edges()
    assert message in str(refused.value)


@pytest.mark.parametrize("data_format", ["wkw", "zarr3"])
@pytest.mark.parametrize("dtype", ["uint8", "uint32", "uint64"])
def test_the_finest_mag_with_buckets_is_unpacked(tmp_path, data_format, dtype):
    big = 2 ** (8 * np.dtype(dtype).itemsize) - 1
    layer = VolumeLayer(
        {
            "4-4-1": {(0, 0, 0): bucket(1, dtype)},
            "2-2-1": {(5, 1, 0): bucket(7, dtype), (0, 3, 2): bucket(big, dtype)},
            "1": {},
        },
        data_format,
    )
    found = buckets_of(write_annotation(tmp_path / "a.zip", [layer]))
    assert (found.mag, found.edges, found.array.dtype) == (Mag(2, 2, 1), (8, 8, 8), np.dtype(dtype))
    assert found.array.box == Box((0, 8, 0), (48, 24, 24))
    assert list(found) == [Box((40, 8, 0), (8, 8, 8)), Box((0, 24, 16), (8, 8, 8))]
    assert np.array_equal(found.array.read(Box((40, 8, 0), (8, 8, 8)))[0], bucket(7, dtype))
    assert np.array_equal(found.array.read(Box((0, 24, 16), (8, 8, 8)))[0], bucket(big, dtype))
    assert not found.array.read(Box((8, 8, 0), (32, 8, 8))).any()


@pytest.mark.parametrize("data_format", ["wkw", "zarr3"])
def test_buckets_far_apart_and_noise_come_as_they_are(tmp_path, data_format):
    noise = np.random.default_rng(1).integers(0, 2**64, (5, 8, 8, 8), np.uint64)
    places = [(9, 0, 0), (7, 8, 0), (8, 7, 15), (0, 0, 0), (260_000, 3, 1)]
    layer = VolumeLayer(
        {"1": dict(zip(places, noise, strict=True))}, data_format, extents=(2**22, 4096, 1536)
    )
    found = buckets_of(write_annotation(tmp_path / "a.zip", [layer]))
    for (x, y, z), voxels in zip(places, noise, strict=True):
        assert np.array_equal(found.array.read(Box((8 * x, 8 * y, 8 * z), (8, 8, 8)))[0], voxels)
    assert not found.array.read(Box((80, 0, 0), (800, 8, 8))).any()


def test_blocks_that_are_not_packed_are_read(tmp_path):
    voxels = bucket(7)[np.newaxis]
    header, cube = wkw_header(voxels, 8, 1, "raw", 0), wkw_cube(voxels, 8, 1, "raw")
    files = {"1/header.wkw": header, "1/z0/y1/x2.wkw": cube}
    found = buckets_of(with_inner(tmp_path / "a.zip", files))
    assert np.array_equal(found.array.read(Box((16, 8, 0), (8, 8, 8))), voxels)
    for content in (cube[:-1], cube[:10], b"WKW" + cube[3:5] + bytes(9), wkw_header(voxels, 8, 1, "lz4", 16)):
        with pytest.raises(InvalidAnnotation):
            buckets_of(with_inner(tmp_path / "a.zip", {"1/header.wkw": header, "1/z0/y1/x2.wkw": content}))


def test_buckets_are_found_by_the_box_that_they_touch(tmp_path):
    layer = VolumeLayer({"1": {(x, 0, z): bucket(1) for x in (0, 2, 9) for z in (0, 1)}})
    found = buckets_of(write_annotation(tmp_path / "a.zip", [layer]))
    assert [str(box) for box in found.within(Box((7, 0, 0), (10, 1, 8)))] == ["0,0,0,8,8,8", "16,0,0,8,8,8"]
    assert found.within(Box((8, 0, 0), (8, 8, 16))) == []
    assert found.within(Box((-100, -100, -100), (100, 100, 100))) == []
    assert len(found.within(Box((-9, -9, -9), (1000, 1000, 1000)))) == len(list(found)) == 6


def test_a_volume_layer_is_chosen_by_its_name(tmp_path):
    layers = [VolumeLayer({"1": {(0, 0, 0): bucket(n)}}, name=f"V{n}") for n in (1, 2)]
    path = write_annotation(tmp_path / "a.zip", layers)
    assert buckets_of(path, "V2").array.read(Box((0, 0, 0), (1, 1, 1))).item() == 2
    with pytest.raises(InvalidAnnotation, match=r"has 2 volume layers \('V1', 'V2'\); name one of them"):
        buckets_of(path)
    with pytest.raises(InvalidAnnotation, match="no volume layer 'V3'; it has 'V1', 'V2'"):
        buckets_of(path, "V3")


def test_volume_data_may_be_empty(tmp_path):
    for layer in (VolumeLayer(), VolumeLayer({"1": {}}), VolumeLayer({"1": {}}, "zarr3")):
        assert buckets_of(write_annotation(tmp_path / "a.zip", [layer])) is None


def with_inner(path, files):
    """Write an annotation with these files in the zip of its volume layer."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.nml", nml_text([], "<volume id='0' name='V' location='v.zip'/>"))
        archive.writestr("v.zip", stream.getvalue())
    return path


def files_of(data_format, **changes):
    """Give the files of a volume layer of one bucket; Zarr metadata with changes."""
    layer = VolumeLayer({"1": {(1, 0, 0): bucket(1)}}, data_format)
    with zipfile.ZipFile(io.BytesIO(layer.zipped())) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    if changes:
        name = "volumeAnnotationData/1/zarr.json"
        files[name] = json.dumps(json.loads(files[name]) | changes).encode()
    return files


def renamed(files, old, new):
    return {new if name == old else name: content for name, content in files.items()}


NOISE = np.random.default_rng(0).bytes(2**20 + 1)
CUBE, CHUNK = "1/z0/y0/x1.wkw", "volumeAnnotationData/1/c.0.1.0.0"
SHARDS = [{"name": "sharding_indexed", "configuration": {}}]


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        (files_of("wkw") | {"1/notes.txt": b""}, InvalidAnnotation, "'1/notes.txt' is no part of volume data"),
        (renamed(files_of("wkw"), CUBE, "1/z0/y0/x99999999.wkw"), InvalidAnnotation, "is no part of volume data"),
        (renamed(files_of("wkw"), CUBE, "1/z0/y0/x9999999.wkw"), InvalidAnnotation, "lies outside of its array"),
        (renamed(files_of("wkw"), CUBE, "3/z0/y0/x1.wkw"), InvalidAnnotation, "lies in no magnification"),
        (renamed(files_of("wkw"), "1/header.wkw", "2/header.wkw"), InvalidAnnotation, "'1/header.wkw' is missing"),
        (files_of("wkw") | {"1/header.wkw": b"WKW"}, InvalidAnnotation, "is no WKW file"),
        (files_of("wkw") | {"1/header.wkw": b"WKW\1\x1f\2\3\4" + bytes(8)}, InvalidAnnotation, "claims blocks of"),
        (files_of("wkw") | {"1/header.wkw": b"WKW\1\x13\2\3\4" + bytes(8)}, InvalidAnnotation, "cubes of 2"),
        (files_of("wkw") | {"1/header.wkw": b"WKW\1\3\2\5\4" + bytes(8)}, InvalidAnnotation, "1 x float32"),
        (files_of("wkw") | {"1/z0/y0/x01.wkw": b""}, InvalidAnnotation, "is no part of volume data"),
        (renamed(files_of("zarr3"), CHUNK, CHUNK[:-1] + "999"), InvalidAnnotation, "lies outside of its array"),
        (renamed(files_of("zarr3"), CHUNK, CHUNK.replace("c.0", "c.1")), InvalidAnnotation, "lies outside"),
        (files_of("zarr3") | {CHUNK.replace(".", "/"): b""}, InvalidAnnotation, "is there twice"),
        (files_of("zarr3", codecs=SHARDS), InvalidAnnotation, "a file for each chunk"),
        (files_of("zarr3", shape=[2, 64, 64, 64]), InvalidAnnotation, "one channel"),
        (files_of("zarr3", shape=[1, 64, 64]), InvalidAnnotation, "describes no Zarr v3 array"),
        (files_of("zarr3", shape=[1, 64, 64, 2**40]), InvalidAnnotation, "one channel"),
        (files_of("zarr3", data_type="float32"), InvalidAnnotation, "describes float32"),
        (files_of("zarr3", data_type="r8"), InvalidAnnotation, "describes no Zarr v3 array"),
        (files_of("zarr3", dimension_names=["t", "x", "y", "z"]), InvalidAnnotation, "one channel"),
        (files_of("zarr3") | {"volumeAnnotationData/1/zarr.json": b"[" * 10**5}, InvalidAnnotation, "describes no"),
        (files_of("zarr3") | {"volumeAnnotationData/1/zarr.json": NOISE}, InvalidAnnotation, "far too large"),
        ({"../1/header.wkw": b""}, InvalidArchive, r"v\.zip.*relative paths"),
        ({"1/z0/y0/x0.wkw": bytes(2**25)}, InvalidArchive, "over 200 times"),
    ],
)  # fmt: skip
def test_volume_data_that_cannot_be_is_refused(tmp_path, files, error, message):
    path = with_inner(tmp_path / "a.zip", files)
    with pytest.raises(error, match=message):
        buckets_of(path)
    kept = {item.relative_to(tmp_path).parts[0] for item in tmp_path.rglob("*")}
    assert kept == {"a.zip", "unpacked"}, "nothing may be written elsewhere"


def test_files_that_are_no_annotations_are_refused(tmp_path):
    with pytest.raises(SourceNotFound, match="there is no file"):
        Annotation.open(tmp_path / "none.nml", LIMITS)
    with pytest.raises(SourceNotFound, match="there is no file"):
        Annotation.open(tmp_path, LIMITS)
    (tmp_path / "a.nml").write_text("<!DOCTYPE a [<!ENTITY b 'c'>]><things>&b;</things>")
    with pytest.raises(InvalidAnnotation, match="entities"):
        Annotation.open(tmp_path / "a.nml", LIMITS)
    path = write_annotation(tmp_path / "a.zip", [VolumeLayer()])
    with pytest.raises(InvalidAnnotation, match="larger than"):
        Annotation.open(path, Limits(10, 2**26))
    with pytest.raises(InvalidArchive, match="unpacks to more than"):
        Annotation.open(path, Limits(2**20, 10))


def test_a_plain_skeleton_has_no_voxels(tmp_path):
    path = tmp_path / "a.nml"
    path.write_text(nml_text([], VolumeLayer().tag(0, "v.zip")))
    with pytest.raises(InvalidAnnotation, match=r"'v\.zip', which is missing; give the whole zip"):
        buckets_of(path)
    path.write_text(nml_text([], "<volume id='0' name='V'/>"))
    assert buckets_of(path) is None


def test_a_check_may_stop_it(tmp_path):
    path = write_annotation(tmp_path / "a.zip", [VolumeLayer({"1": {(0, 0, 0): bucket(1)}})])
    annotation = Annotation.open(path, LIMITS)

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        annotation.unpack_volume(annotation.volume_layer(None), tmp_path / "unpacked", stop)


def test_real_annotations_of_webknossos_are_read(test_data, tmp_path):
    """WKW of 2022 with two layers, Zarr v3 of 2023, and annotations without voxels."""
    folder = test_data / "formats" / "wk_annotations"
    counts = {}
    for name, layer in (
        ("multi_volume_example_CREMI.zip", "Volume"),
        ("multi_volume_example_CREMI.zip", "Volume_2"),
        ("l4_sample__explorational__suser__94b271.zip", None),
    ):
        found = buckets_of(folder / name, layer, tmp_path / "unpacked")
        boxes = list(found)
        total = sum(int(found.array.read(box).sum(dtype=np.uint64)) for box in boxes)
        counts[name[:5], layer] = (
            found.mag,
            len(boxes),
            str(found.array.box),
            total,
        )
    # The first two sums were taken with the package `wkw`.
    assert counts == {
        ("multi", "Volume"): (MAG1, 16, "544,416,0,96,192,32", 280_822_009),
        ("multi", "Volume_2"): (MAG1, 18, "544,416,0,96,192,32", 16_616),
        ("l4_sa", None): (MAG1, 111, "3296,3392,1024,704,416,32", 64_576),
    }
    for name in ("bounding-boxes-example.zip", "empty_volume_annotation.zip", "nml_with_volumes.zip"):
        assert buckets_of(folder / name, None, tmp_path / "unpacked") is None
