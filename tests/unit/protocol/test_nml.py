import time

import pytest

from voxelworks.errors import InvalidAnnotation
from voxelworks.geometry import VoxelSize
from voxelworks.protocol.nml import SkeletonTaker, read_nml
from voxelworks.protocol.views import AnnotationSummary, VolumeLayerSummary

BYTES_MAX = 2**24
WHOLE = """<?xml version="1.0" encoding="utf-8"?>
<!-- made by hand -->
<things>
  <meta name="writer" content="test"/>
  <parameters>
    <experiment name="cortex ü" organization="neuro"/>
    <scale x="4" y="4" z="40" unit="nanometer"/>
    <userBoundingBox id="1" name="box" topLeftX="1" topLeftY="2" topLeftZ="-3" width="4" height="5" depth="6"/>
    <taskBoundingBox topLeftX="0" topLeftY="0" topLeftZ="0" width="1" height="1" depth="1"/>
  </parameters>
  <thing id="1" name="tree &amp; more">
    <nodes><node id="1" x="1.5" y="2" z="3"/><node id="2" x="4" y="5" z="6"/></nodes>
    <edges><edge source="1" target="2"/></edges>
  </thing>
  <thing id="2" groupId="7"><nodes><node id="3" x="1" y="1" z="1"/></nodes></thing>
  <comments><comment node="1" content="node"/></comments>
  <groups><group id="3" name="left"><group id="7" name="axons"/></group></groups>
  <volume id="0" location="data_0_Volume.zip" fallbackLayer="segmentation" name="Volume" format="zarr3"/>
  <volume id="1"/>
</things>
"""


NODE = "<things><thing id='1'><nodes><node id='1' x='1' y='Y' z='1'/></nodes></thing></things>"


def refusal(text):
    with pytest.raises(InvalidAnnotation) as refused:
        read_nml([text.encode() if isinstance(text, str) else text], BYTES_MAX)
    return str(refused.value)


def test_an_nml_is_summed_up():
    assert read_nml([WHOLE.encode()], BYTES_MAX) == AnnotationSummary(
        dataset_name="cortex ü",
        tree_count=2,
        node_count=3,
        volume_layers=(
            VolumeLayerSummary(name="Volume", fallback_layer="segmentation", location="data_0_Volume.zip"),
            VolumeLayerSummary(name=None, fallback_layer=None, location=None),
        ),
        bounding_boxes=("1,2,-3,4,5,6", "0,0,0,1,1,1"),
    )


@pytest.mark.parametrize("encoding", ["uNaNtf-8", "hex", "big5"])
def test_an_encoding_that_cannot_be_read_is_named(encoding):
    assert refusal(WHOLE.replace('"utf-8"', f'"{encoding}"')).startswith(
        "the NML states an encoding that is not read ("
    )


class Told(SkeletonTaker):
    """Notes what it is told."""

    def __init__(self):
        self.found = []

    def __getattribute__(self, name):
        if not name.startswith("take_"):
            return super().__getattribute__(name)
        return lambda *told: self.found.append((name.removeprefix("take_"), *told))


def test_a_skeleton_is_handed_over_in_the_order_of_the_file():
    told = Told()
    read_nml([WHOLE.encode()], BYTES_MAX, taker=told)
    assert told.found == [
        ("voxel_size", VoxelSize(4, 4, 40)),
        ("tree", "tree & more", None), ("node", 1, (1.5, 2, 3)), ("node", 2, (4, 5, 6)), ("edge", 1, 2),
        ("tree", None, 7), ("node", 3, (1, 1, 1)),
        ("group", 3, "left"), ("group", 7, "axons"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "scale", ["x='4' y='4'", "x='4' y='4' z='0'", "x='4' y='4' z='4' unit='mile'", "x='a'"]
)
def test_a_voxel_size_that_cannot_be_used_is_none(scale):
    told = Told()
    text = f"<things><parameters><scale {scale}/></parameters></things>"
    read_nml([text.encode()], BYTES_MAX, taker=told)
    assert told.found == []


def test_proofread_volume_layers_are_known_by_their_mapping():
    text = "<things><volume id='0' editableMappingLocation='m.zip'/><volume id='1'/></things>"
    layers = read_nml([text.encode()], BYTES_MAX).volume_layers
    assert [layer.has_editable_mapping for layer in layers] == [True, False]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1"])
def test_the_encoding_that_the_file_states_is_read(encoding):
    text = WHOLE.replace('encoding="utf-8"', f'encoding="{encoding}"')
    assert read_nml([text.encode(encoding)], BYTES_MAX).dataset_name == "cortex ü"


@pytest.mark.parametrize(
    "declaration",
    [
        '<!DOCTYPE things [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;">]>',
        '<!DOCTYPE things [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE things SYSTEM "http://169.254.169.254/x.dtd">',
        "<!DOCTYPE things>",
    ],
)
def test_declarations_of_types_and_entities_are_refused(declaration):
    text = f"<?xml version='1.0'?>{declaration}<things><parameters/>&c;&x;</things>"
    assert refusal(text).startswith("the NML cannot be taken: it declares a document type or entities")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the NML is no proper XML (no element found, line 1); export it again"),
        ("<things>", "no element found"),
        ("<things></thing>", "mismatched tag, line 1"),
        ("<things>&x;</things>", "undefined entity"),
        (b"<things>\xff</things>", "not well-formed"),
        (b"\x89PNG\r\n", "not well-formed"),
        ("<svg/>", "the first element is <svg> instead of <things>: this is no NML (line 1)"),
        ("<things><thing id='x'/></things>", "id of a <thing> = 'x' is no usable number"),
        ("<things><thing/></things>", "id of a <thing> is missing"),
        ("<things><thing id='1' groupId='x'/></things>", "groupId of a <thing> = 'x' is no usable number"),
        ("<things><thing id='1'><edges><edge source='1'/></edges></thing></things>", "target of a <edge> is missing"),
        (NODE.replace("Y", "nan"), "y of a <node> = 'nan' is no usable number"),
        (NODE.replace("Y", "1e300"), "y of a <node> = '1e300' is no usable number"),
        ("<things><parameters><userBoundingBox topLeftX='1'/>", "topLeftY of a <userBoundingBox> is missing"),
        ("<things>" + "<group>" * 101, "lie more than 100 deep"),
        ("<things>" + "<volume/>" * 10_001 + "</things>", "more than 10,000 volume layers"),
    ],
)  # fmt: skip
def test_what_is_no_nml_is_refused_with_the_reason(text, message):
    assert message in refusal(text)


def test_a_file_that_is_too_large_is_refused_while_it_is_read():
    read = []

    def pieces():
        yield b"<things>"
        while True:
            read.append(1)
            yield b"<thing id='1'/>" * 1000

    with pytest.raises(InvalidAnnotation, match="is larger than 1 MiB, the most taken"):
        read_nml(pieces(), 2**20)
    assert len(read) < 80


@pytest.mark.parametrize(
    "opening", [b"<things><thing name='", b"<things><!--", b"<things><a", b"<things><?x "]
)
def test_a_tag_that_never_ends_is_refused_soon(opening):
    def pieces():
        yield opening
        for _ in range(1000):
            yield b"a" * 2**16

    began_s = time.monotonic()
    with pytest.raises(InvalidAnnotation, match="is far too long"):
        read_nml(pieces(), 2**27)
    assert time.monotonic() - began_s < 5


def test_long_texts_between_tags_are_passed_over():
    pieces = [b"<things>", *[b"a" * 2**16] * 100, b"</things>"]
    assert read_nml(pieces, BYTES_MAX).tree_count == 0


def test_a_large_skeleton_is_read_in_seconds():
    node = b"<node id='1' radius='120.0' x='1000' y='2000' z='3000' rotX='0' rotY='0' rotZ='0' inVp='0' time='1'/>\n"
    pieces = [b"<things><thing id='1'><nodes>", *[node * 500] * 400, b"</nodes></thing></things>"]
    began_s = time.process_time()
    assert read_nml(pieces, 2**28).node_count == 200_000
    assert time.process_time() - began_s < 5
