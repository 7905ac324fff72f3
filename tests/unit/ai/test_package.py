import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from safetensors.numpy import load_file

from small_networks import OLD_ZOO, PATCH, ZOO, small_facts, small_network, zoo_package
from voxelworks.ai.package import check_weights, read_foreign, read_package, write_package
from voxelworks.ai.trained import check_trained
from voxelworks.ai.trial import try_network
from voxelworks.errors import InvalidArchive, InvalidModel, ModelNotFound
from voxelworks.geometry import VoxelSize
from voxelworks.protocol.models import TRAINED_WEIGHTS, ModelFacts, ModelScore


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_written_is_read(tmp_path):
    made = write_package(tmp_path / "a", small_facts(), small_network())
    assert read_package(tmp_path / "a") == made
    assert made.facts == small_facts(
        weights_sha256=made.facts.weights_sha256, weights_bytes=made.weights.stat().st_size
    )
    assert made.weights.read_bytes() == small_network()


def test_equal_models_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        write_package(tmp_path / name, small_facts(), small_network(), extra={"test-input.npy": b"x"})
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    assert sorted(files_of(tmp_path / "a")) == [
        "README.md", "rdf.yaml", "test-input.npy", "voxelworks.json", "weights.onnx",
    ]  # fmt: skip


READ_BY_THE_ZOO = """
import json, sys
from bioimageio.spec import load_model_description
for name in sys.argv[1:]:
    found = load_model_description(name, perform_io_checks=True)
    summary = found.validation_summary.status
    print(json.dumps({"status": summary} | found.model_dump(mode="json")))
"""


def read_by_the_zoo(*folders):
    """Let the library of the zoo read descriptions, with the files that they name."""
    # In a process of its own: it leaves files open.
    call = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        READ_BY_THE_ZOO,
        *(str(folder / "rdf.yaml") for folder in folders),
    ]
    lines = subprocess.run(call, check=True, capture_output=True, text=True).stdout.splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def test_descriptions_are_valid_for_the_model_zoo(tmp_path):
    tensors = {
        name: np.full((1, channels, 4, 8, 8), 0.5, np.float32)
        for name, channels in (("input", 1), ("output", 2))
    }
    for name, tensor in tensors.items():
        np.save(tmp_path / f"test-{name}.npy", tensor)
    extra = {f"test-{name}.npy": tmp_path / f"test-{name}.npy" for name in tensors}
    facts = small_facts(
        title="Mitochondria / 2: à jour", citations=("Doe (2020), 10.1234/abc.def", "A talk"),
        scores=(ModelScore(data="there", measure="IoU", value=0.9, low=0.8, high=0.95, count=3),),
    )  # fmt: skip
    write_package(tmp_path / "a", facts, small_network(), extra=extra | {"notes.md": b"#"})
    offsets = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (9, 0, 0))
    affinities = small_facts(
        task="affinities", outputs=("affinity",) * 4, offsets=offsets, distance_scale_nm=None, title="N", licence="?",
    )  # fmt: skip
    write_package(tmp_path / "b", affinities, small_network(channels=4))
    first, second = read_by_the_zoo(tmp_path / "a", tmp_path / "b")
    axes = {axis["id"]: axis for axis in first["outputs"][0]["axes"]}
    assert (first["status"], first["name"], first["license"], first["cite"][0]["doi"]) == (
        "valid-format", "Mitochondria 2 jour", "CC-BY-4.0", "10.1234/abc.def",
    )  # fmt: skip
    assert [(axis, axes[axis]["halo"], axes[axis]["scale"]) for axis in "zyx"] == [
        ("z", 1, 30),
        ("y", 2, 8),
        ("x", 2, 8),
    ]
    assert first["inputs"][0]["test_tensor"]["source"] == "test-input.npy"
    read = read_package(tmp_path / "a").facts
    assert ModelFacts.parse(first["config"]["voxelworks"], what="it") == read
    assert (second["status"], second["license"]) == ("valid-format", None)
    assert second["outputs"][0]["axes"][1]["channel_names"] == [f"affinity_{number}" for number in range(4)]


def test_the_card_says_what_matters(tmp_path):
    scores = (
        ModelScore(data="A", measure="IoU", value=0.9123, low=0.88, high=0.94, count=1234, trained_on=True),
    )
    facts = small_facts(scores=scores, is_commercial_use_allowed=False, limits="Not for light microscopy.")
    write_package(tmp_path, facts, small_network())
    card = (tmp_path / "README.md").read_text()
    for part in (
        "CC-BY-4.0 Free to use with attribution. Not for commercial use.", "mito (CC-BY-4.0)", "8 x 8 x 30 nm",
        "| A | IoU | 0.912 | 0.88 to 0.94 | 1,234 | trained on other parts of it |", "Not for light microscopy.",
    ):  # fmt: skip
        assert part in card


@pytest.mark.parametrize(
    ("licence", "is_allowed"),
    [
        ("CC-BY-NC-SA-3.0", False), ("CC BY-NC 4.0", False), ("cc_by_nc_4.0", False), ("NC", False),
        ("PolyForm-Noncommercial-1.0.0", False), ("CDeep3M licence (non-commercial)", False),
        ("For Non Commercial use", False), ("CC-BY-4.0", True), ("CC0-1.0", True), ("NCSA", True), ("INC", True),
        ("", True),
    ],
)  # fmt: skip
def test_a_licence_for_non_commercial_use_allows_no_other(licence, is_allowed):
    for told in ({}, {"is_commercial_use_allowed": True}):
        assert small_facts(licence=licence, **told).is_commercial_use_allowed == is_allowed
    assert not small_facts(licence=licence, is_commercial_use_allowed=False).is_commercial_use_allowed


def test_a_zip_is_unpacked_once(tmp_path):
    made = write_package(tmp_path / "a", small_facts(), small_network())
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for name, content in files_of(tmp_path / "a").items():
            packed.writestr(f"model/{name}", content)
    first = read_package(archive, unpacked=tmp_path / "cache")
    again = read_package(archive, unpacked=tmp_path / "cache")
    assert first == again
    assert (first.facts, first.weights.read_bytes()) == (made.facts, small_network())


def test_a_zip_that_grows_too_large_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("weights.onnx", bytes(9_000_000))
    with pytest.raises(InvalidArchive, match="unpacks to"):
        read_package(tmp_path / "a.zip", unpacked=tmp_path / "cache", bytes_max=2**20)


def test_weights_that_were_exchanged_are_refused(tmp_path):
    write_package(tmp_path, small_facts(), small_network())
    (tmp_path / "weights.onnx").write_bytes(small_network(weights=np.ones((2, 1, 3, 3, 3), np.float32)))
    with pytest.raises(InvalidModel, match="not the file whose checksum stands in the facts"):
        read_package(tmp_path)


def test_a_package_without_our_facts_is_sent_to_the_import(tmp_path):
    (tmp_path / "weights.onnx").write_bytes(small_network())
    with pytest.raises(InvalidModel, match="import_model"):
        read_package(tmp_path)
    with pytest.raises(ModelNotFound, match="there is no model at"):
        read_package(tmp_path / "nothing")


def test_wrong_facts_are_named(tmp_path):
    write_package(tmp_path, small_facts(), small_network())
    file = tmp_path / "voxelworks.json"
    for text, reason in (
        (file.read_text().replace('"instances"', '"dreams"'), "task"),
        (file.read_text().replace("100.0", "Infinity"), "distance_scale_nm Input should be a finite number"),
        ("{", "is no JSON"),
        ("[]", "holds no facts"),
        (" " * 2**21, "holds no facts"),
    ):
        file.write_text(text)
        with pytest.raises(InvalidModel, match=reason):
            read_package(tmp_path)


INFINITE = float("inf")
CONTRADICTIONS = {
    "a step of 0": ({"step": (0, 1, 1)}, r"a patch of \(8, 8, 4\) and a step of \(0, 1, 1\)"),
    "a step of -1": ({"step": (1, -1, 1)}, "each step is at least 1"),
    "a step that does not fit": ({"step": (1, 1, 3)}, "each side of the patch a multiple of it"),
    "an infinite distance": ({"distance_scale_nm": INFINITE}, "distance_scale_nm Input should be a finite number"),
    "a size that is no number": (
        {"post_processing": {"size_min_nm3": float("nan")}}, r"post_processing\.size_min_nm3 Input should be a finite",
    ),
    "a score that is no number": (
        {"scores": ({"data": "A", "measure": "IoU", "value": INFINITE},)}, r"scores\.0\.value Input should be a finite",
    ),
    "instances without distances": (
        {"outputs": ("foreground", "edge")}, "gives foreground and distance, and this one foreground, edge; say",
    ),
    "semantic without an inside": (
        {"task": "semantic", "outputs": ("inside",)}, "task semantic gives foreground, and this one inside;",
    ),
    "affinities on two axes": (
        {"task": "affinities", "outputs": ("a",) * 4, "offsets": ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, 0, 3))},
        "neurons need those to the next voxel along x, y and z",
    ),
    "no voxels between": (
        {"voxel_size_min": "16,16,60", "voxel_size_max": "4,4,20"}, "works on voxels of 8,8,30 nm, and is for 16,16,60",
    ),
    "voxels of others": ({"voxel_size": "8,8,80"}, "works on voxels of 8,8,80 nm, and is for 4,4,20 to 16,16,60 nm"),
}  # fmt: skip


@pytest.mark.parametrize("what", CONTRADICTIONS)
def test_facts_that_nothing_can_be_done_with_are_refused(what):
    changes, reason = CONTRADICTIONS[what]
    with pytest.raises(InvalidModel, match=f"the facts of it are wrong: .*{reason}"):
        ModelFacts.parse({**small_facts().model_dump(), **changes}, what="it")


def test_voxel_sizes_that_were_rounded_are_the_same():
    facts = small_facts(voxel_size=VoxelSize(8, 8, 30.01), voxel_size_max=VoxelSize(8, 8, 30))
    assert facts.unfit(VoxelSize(8, 8, 30.01)) is None


@pytest.mark.parametrize("name", ["rdf.yaml", "../x", "a/b", ".hidden", "weights.onnx"])
def test_a_further_file_takes_no_other_place(tmp_path, name):
    with pytest.raises(InvalidModel, match="cannot be the name"):
        write_package(tmp_path / "m", small_facts(), small_network(), extra={name: b""})
    assert not (tmp_path / "m").exists()


# Weights as they were trained


def safetensors(tensors, values=b"", *, length=None):
    """Give the bytes of a file: `tensors` are what its header says, as a dict or as bytes."""
    header = tensors if isinstance(tensors, bytes) else json.dumps(tensors).encode()
    return (len(header) if length is None else length).to_bytes(8, "little") + header + values


HALF = {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}
SINGLE = {"dtype": "F32", "shape": [], "data_offsets": [12, 16]}


def test_trained_weights_that_are_whole_pass(tmp_path):
    (tmp_path / TRAINED_WEIGHTS).write_bytes(
        safetensors({"__metadata__": {"format": "pt"}, "b": SINGLE, "a": HALF}, bytes(16))
    )
    check_trained(tmp_path / TRAINED_WEIGHTS)
    assert {name: value.shape for name, value in load_file(tmp_path / TRAINED_WEIGHTS).items()} == {
        "a": (2, 3), "b": (),
    }  # fmt: skip


DAMAGED = {
    "nothing": b"",
    "a pickle": b"\x80\x04\x95" + bytes(30),
    "cut off in its header": safetensors({"a": HALF}, length=10**6),
    "a length without end": safetensors({"a": HALF}, bytes(12), length=2**63),
    "cut off in its values": safetensors({"a": HALF}, bytes(11)),
    "something behind": safetensors({"a": HALF}, bytes(13)),
    "a hole": safetensors({"b": SINGLE}, bytes(16)),
    "values that overlap": safetensors({"a": HALF, "b": {**SINGLE, "data_offsets": [8, 12]}}, bytes(12)),
    "another size": safetensors({"a": {**HALF, "shape": [2, 2]}}, bytes(12)),
    "a negative size": safetensors({"a": {**HALF, "shape": [-2, -3]}}, bytes(12)),
    "a size that is no number": safetensors({"a": {**HALF, "shape": ["2", 3]}}, bytes(12)),
    "an unknown type": safetensors({"a": {**HALF, "dtype": "X7"}}, bytes(12)),
    "no offsets": safetensors({"a": {"dtype": "F16", "shape": [2, 3]}}, bytes(12)),
    "a list": safetensors([]),
    "no JSON": safetensors(b"{,}"),
    "deep JSON": safetensors(b"[" * 10**5),
    "no text": safetensors(b"\xff\xfe"),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGED)
def test_trained_weights_that_are_damaged_are_refused(tmp_path, what):
    (tmp_path / TRAINED_WEIGHTS).write_bytes(DAMAGED[what])
    with pytest.raises(InvalidModel, match=r"trained\.safetensors is no whole file of safetensors"):
        check_trained(tmp_path / TRAINED_WEIGHTS)


def test_large_trained_weights_are_refused(tmp_path):
    (tmp_path / TRAINED_WEIGHTS).write_bytes(safetensors({"a": HALF}, bytes(12)))
    with pytest.raises(
        InvalidModel, match=r"trained\.safetensors has .*, and weights of at most 50 B are taken"
    ):
        check_trained(tmp_path / TRAINED_WEIGHTS, bytes_max=50)


# Weights


def external(model):
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def hidden_external(model):
    """Hide it in a constant inside of a branch."""
    tensor = helper.make_tensor("t", TensorProto.FLOAT, [1], [0.0])
    tensor.external_data.add(key="location", value="x")
    inner = helper.make_graph([helper.make_node("Constant", [], ["v"], value=tensor)], "inner", [], [])
    model.graph.node[1].attribute.append(helper.make_attribute("extra", inner))


def own_function(model):
    model.functions.append(
        helper.make_function("own", "F", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])],
                             [helper.make_opsetid("", 17)])
    )  # fmt: skip


def second_input(model):
    model.graph.input.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, [1]))


REFUSED = {
    "text": (b"hello", "is no ONNX file|holds no network"),
    "nothing": (b"", "holds no network"),
    "pickle": (b"\x80\x04\x95" + bytes(20), "a pickle, which could run any program"),
    "PyTorch": (b"PK\x03\x04" + bytes(20), "a zip archive, as PyTorch writes it"),
    "Keras": (b"\x89HDF\r\n", "HDF5, as Keras"),
    "safetensors": ((64).to_bytes(8, "little") + b'{"a":', "safetensors"),
    "cut off": (small_network()[:200], "is no ONNX file|no whole network"),
    "external data": (small_network(change=external), "keeps weights in another file"),
    "hidden external data": (small_network(change=hidden_external), "keeps weights in another file"),
    "functions": (small_network(change=own_function), "functions of its own, such as 'F'"),
    "foreign operator": (
        small_network(nodes=[helper.make_node("FusedConv", ["c"], ["e"], domain="com.microsoft")]),
        r"uses com\.microsoft\.FusedConv, which is not of the ONNX standard",
    ),
    "loop": (small_network(nodes=[helper.make_node("Loop", ["c"], ["e"])]), "uses the operator Loop"),
    "strange operator": (small_network(nodes=[helper.make_node("StringConcat", ["c"], ["e"])]), "StringConcat"),
    "broken graph": (small_network(nodes=[helper.make_node("Relu", ["nowhere"], ["e"])]), "no whole network"),
    "old": (small_network(opset=6), "is of opset 6"),
    "two inputs": (small_network(change=second_input), "has 2 inputs"),
    "images": (small_network(takes=[1, 1, 8, 8]), "has 4 axes.*single images"),
    "several at once": (small_network(takes=[4, 1, 4, 8, 8]), "holds 4 images at once"),
    "channels in": (small_network(inputs=3), "takes images of 3 channels"),
    "channels out": (small_network(channels=3), "gives 3 channels, and the facts of the model name 2"),
    "patch": (small_network(patch=(16, 8, 4)), "takes 16 voxels along x, and the patch of the model has 8"),
    "valid convolutions": (small_network(gives=[1, 2, 2, 6, 6]), "gives 2 voxels along z for 4"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_weights_that_are_not_a_harmless_network_for_volumes_are_refused(tmp_path, what):
    content, reason = REFUSED[what]
    (tmp_path / "w.onnx").write_bytes(content)
    with pytest.raises(InvalidModel, match=reason):
        check_weights(tmp_path / "w.onnx", small_facts())


def test_integers_are_refused(tmp_path):
    def change(model):
        model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64

    (tmp_path / "w.onnx").write_bytes(small_network(change=change))
    with pytest.raises(InvalidModel, match="32-bit floating-point"):
        check_weights(tmp_path / "w.onnx", small_facts())


def test_large_weights_are_refused_before_they_are_read(tmp_path):
    (tmp_path / "w.onnx").write_bytes(small_network())
    with pytest.raises(InvalidModel, match="at most 100 B are taken"):
        check_weights(tmp_path / "w.onnx", small_facts(), bytes_max=100)


def test_a_network_for_any_size_passes_and_is_tried_on_the_patch(tmp_path):
    made = write_package(tmp_path, small_facts(), small_network(patch=None))
    try_network(made, threads=1)
    assert check_weights(made.weights, made.facts).patch is None


def test_a_network_that_gives_no_numbers_fails_its_trial(tmp_path):
    weights = np.full((2, 1, 3, 3, 3), np.nan, np.float32)
    made = write_package(tmp_path, small_facts(), small_network(weights=weights))
    with pytest.raises(InvalidModel, match="NaN"):
        try_network(made, threads=1)


def test_a_network_that_gives_another_shape_fails_its_trial(tmp_path):
    nodes = [helper.make_node("MaxPool", ["d"], ["e"], kernel_shape=[2, 2, 2], strides=[2, 2, 2])]

    def change(model):
        model.graph.node[-1].input[0] = "e"
        model.graph.output[0].type.tensor_type.ClearField("shape")
        for dimension in ("n", "c", "z", "y", "x"):
            model.graph.output[0].type.tensor_type.shape.dim.add(dim_param=dimension)

    made = write_package(tmp_path, small_facts(), small_network(patch=None, nodes=nodes, change=change))
    with pytest.raises(
        InvalidModel,
        match="gives an array of 1 x 2 x 2 x 4 x 4 for a patch, and should give 1 x 2 x 4 x 8 x 8",
    ):
        try_network(made, threads=1)


# Descriptions of others


def test_a_description_of_the_zoo_tells_what_it_can(tmp_path):
    found = read_foreign(zoo_package(tmp_path, ZOO))
    told = found.description
    assert (told.title, told.licence, told.citations) == ("Zoo network", "MIT", ("Somebody 10.1/x",))
    assert (told.patch, told.border, told.input_channels, told.outputs) == (
        (8, 8, 4),
        (3, 2, 1),
        1,
        ("inside", "edge"),
    )
    assert [round(size, 9) for size in told.voxel_size.xyz] == [8, 8, 30]
    assert (told.before, told.after, found.left_out) == (("zero_mean_unit_variance",), (), ("torchscript",))
    assert found.weights == tmp_path / "net" / "weights.onnx"


def test_a_description_of_the_older_format_is_read(tmp_path):
    told = read_foreign(zoo_package(tmp_path, OLD_ZOO)).description
    assert (told.patch, told.border, told.input_channels, told.voxel_size) == (PATCH, (3, 2, 1), 1, None)


BAD_ZOO = {
    "other formats": (ZOO.replace("  onnx:", "  keras_hdf5:"), "as torchscript, keras_hdf5 only, and ONNX is needed"),
    "an address": (ZOO.replace("net/weights.onnx", "https://example.org/w.onnx"), "download the whole package"),
    "outside": (ZOO.replace("net/weights.onnx", "../../etc/passwd"), "outside of the package"),
    "not there": (ZOO.replace("net/weights.onnx", "no.onnx"), "which is not there"),
    "an image network": (OLD_ZOO.replace("bczyx", "bcyx"), "the inputs the axes batch, channel, y, x"),
    "other axes": (OLD_ZOO.replace("bczyx", "bcxyz"), "batch, channel, x, y, z"),
    "a dataset": (ZOO.replace("type: model", "type: dataset", 1), "describes a dataset"),
    "no YAML": ("a: [", "no YAML"),
    "aliases": ("a: &a [1]\nb: *a", "aliases"),
    "objects": ("a: !!python/object/apply:os.system [ls]", "no YAML"),
    "a list": ("- a", "names no values"),
    "nonsense": ("type: model\ninputs: 5\nweights: {onnx: {source: net/weights.onnx}}", "no description of a model"),
    "two inputs": (ZOO.replace("outputs:\n", "- {id: more}\noutputs:\n"), "describes 2 inputs"),
    "external data": (OLD_ZOO.replace("opset_version: 17}", "external_data: {source: x.data}}"), "save it as one file"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_ZOO)
def test_a_description_that_cannot_be_used_is_refused(tmp_path, what):
    text, reason = BAD_ZOO[what]
    with pytest.raises(InvalidModel, match=reason):
        read_foreign(zoo_package(tmp_path, text))


def test_weights_are_not_read_through_a_link(tmp_path):
    (tmp_path / "far.onnx").write_bytes(small_network())
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.onnx").symlink_to(tmp_path / "far.onnx")
    with pytest.raises(InvalidModel, match="link that leads out"):
        read_foreign(tmp_path / "model")


def test_a_folder_with_other_files_is_no_model(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"x")
    with pytest.raises(InvalidModel, match=r"neither rdf\.yaml nor an ONNX file, but a\.pth"):
        read_foreign(tmp_path)
    for name in ("a.onnx", "b.onnx"):
        Path(tmp_path / name).write_bytes(b"x")
    with pytest.raises(InvalidModel, match="2 ONNX files"):
        read_foreign(tmp_path)


def test_a_voxel_size_outside_of_the_models_is_said_with_numbers():
    facts = small_facts()
    assert facts.unfit(VoxelSize(8, 8, 30)) is None
    assert "voxels of 2,2,30 nm" in (facts.unfit(VoxelSize(2, 2, 30)) or "")


def test_the_runtime_tells_nobody_and_leaves_nothing_behind(tmp_path):
    write_package(tmp_path / "m", small_facts(), small_network())
    program = (
        "from pathlib import Path; from voxelworks.ai.package import read_package;"
        "from voxelworks.ai.trial import try_network;"
        f"try_network(read_package({str(tmp_path / 'm')!r}), threads=1)"
    )
    (tmp_path / "home").mkdir()
    environment = {"HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr, list((tmp_path / "home").iterdir())) == ("", "", [])
