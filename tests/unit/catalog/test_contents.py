"""Trees and volume layers of a skeleton file, one by one."""

from __future__ import annotations

import tracemalloc
from xml.etree import ElementTree

import pytest

from voxelworks.errors import InvalidAnnotation
from voxelworks.protocol import nml
from voxelworks.protocol.nml import read_contents
from voxelworks.protocol.views import AnnotationContents, TreeSummary, VolumeLayerContents

BYTES_MAX = 2**28
WHOLE = """<things>
  <parameters><experiment name="cortex"/></parameters>
  <thing id="1" name="axon &amp; more" color.r="1.0" color.g="0.5" color.b="0" color.a="1">
    <nodes><node id="1" x="1" y="2" z="3"/><node id="2" x="4" y="5" z="6"/></nodes>
    <edges><edge source="1" target="2"/></edges>
  </thing>
  <thing id="2"/>
  <thing id="3" color.r="red" color.g="0" color.b="0"><nodes><node id="3" x="1" y="1" z="1"/></nodes></thing>
  <thing id="4" color.r="nan" color.g="0" color.b="0" name="thing"><thing id="5"/><nodes/></thing>
  <volume id="0" location="data_0_Volume.zip" fallbackLayer="segmentation" name="Volume" format="zarr3"/>
  <volume id="1"/>
</things>"""


def _read(text):
    return read_contents([text.encode()], BYTES_MAX)


def test_each_tree_has_its_name_colour_nodes_and_edges():
    assert _read(WHOLE) == AnnotationContents(
        trees=(
            TreeSummary(name="axon & more", color="#ff8000", node_count=2, edge_count=1),
            TreeSummary(name=None, color=None, node_count=0, edge_count=0),
            TreeSummary(name=None, color=None, node_count=1, edge_count=0),
            TreeSummary(name="thing", color=None, node_count=0, edge_count=0),
        ),
        edge_count=1,
        volume_layers=(
            VolumeLayerContents(
                name="Volume",
                fallback_layer="segmentation",
                location="data_0_Volume.zip",
                data_format="zarr3",
            ),
            VolumeLayerContents(name=None, fallback_layer=None, location=None, data_format=None),
        ),
    )


def test_real_files_hold_what_another_parser_finds(test_data):
    files = sorted((test_data / "formats" / "wk_annotations").glob("*.nml"))
    assert files
    for file in files:
        root = ElementTree.parse(file).getroot()
        expected = [
            (thing.get("name") or None, len(thing.findall("nodes/node")), len(thing.findall("edges/edge")))
            for thing in root.findall("thing")
        ]
        found = read_contents([file.read_bytes()], BYTES_MAX)
        assert [(tree.name, tree.node_count, tree.edge_count) for tree in found.trees] == expected
        assert found.edge_count == sum(edges for _, _, edges in expected)


def test_of_very_many_trees_the_first_are_described_in_bounded_memory():
    nodes, edges = "<node id='1' x='1' y='1' z='1'/>", "<edge source='1' target='1'/>"
    tree = f"<thing id='1' name='t'><nodes>{nodes}</nodes><edges>{edges}</edges></thing>"

    def pieces(count):
        yield b"<things>"
        for _ in range(count):
            yield tree.encode()
        yield b"</things>"

    tracemalloc.start()
    found = read_contents(pieces(5_000), BYTES_MAX)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (len(found.trees), found.edge_count) == (nml.TREES_MAX, 5_000)
    assert found.trees[-1] == TreeSummary(name="t", color=None, node_count=1, edge_count=1)
    assert peak < 2 * 2**20


def test_entities_are_refused_as_at_the_upload():
    with pytest.raises(InvalidAnnotation, match="declares a document type or entities"):
        _read('<!DOCTYPE things [<!ENTITY a "b">]><things><thing id="1" name="&a;"/></things>')
