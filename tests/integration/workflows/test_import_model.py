"""Models come in from folders, zips, files and addresses, whole or not at all."""

import hashlib
import json
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from safetensors.numpy import save_file

import voxelworks
from reference import tree
from small_networks import PATCH, ZOO, small_facts, small_network, zoo_package
from voxelworks.ai.package import read_package, write_package
from voxelworks.errors import (
    InvalidInput,
    InvalidModel,
    InvalidParams,
    ModelNotFound,
    SourceNotFound,
    StorageFailed,
    TargetExists,
)
from voxelworks.geometry import VoxelSize
from voxelworks.protocol.models import TRAINED_WEIGHTS
from voxelworks.settings import Settings
from voxelworks.workflows import Job, LocalResolver, ModelRef

TOLD = {"task": "instances", "structure": "mitochondria", "distance_scale_nm": 100}


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path / "home", cache_dir=tmp_path / "cache", slots=1)


@pytest.fixture
def package(tmp_path):
    np.save(tmp_path / "in.npy", np.zeros((1, 1, 4, 8, 8), np.float32))
    np.save(tmp_path / "out.npy", np.array([{}], object))
    tensors = {"test-input.npy": tmp_path / "in.npy", "test-output.npy": tmp_path / "out.npy"}
    write_package(tmp_path / "package", small_facts(), small_network(), extra=tensors)
    return tmp_path / "package"


def bring_in(settings, source, target, **params):
    return voxelworks.run("import_model", settings=settings, source=str(source), target=str(target), **params)


def test_a_package_of_ours_comes_as_it_is_without_what_could_run(tmp_path, package, settings):
    said = bring_in(settings, package, tmp_path / "model")
    assert said == {
        "model": str(tmp_path / "model"), "title": "Small mitochondria", "task": "instances",
        "structure": "mitochondria", "licence": "CC-BY-4.0",
    }  # fmt: skip
    assert read_package(tmp_path / "model").facts == read_package(package).facts
    kept = {path.name for path in (tmp_path / "model").iterdir()}
    assert kept == {"rdf.yaml", "README.md", "voxelworks.json", "weights.onnx", "test-input.npy"}


def test_what_a_model_is_trained_further_from_comes_along(tmp_path, package, settings):
    trained = package / TRAINED_WEIGHTS
    save_file({"encoder.weight": np.arange(6, dtype=np.float16).reshape(2, 3)}, trained)
    archive = shutil.make_archive(str(tmp_path / "zipped"), "zip", package)
    for name, source in (("a", package), ("b", archive)):
        bring_in(settings, source, tmp_path / name)
        bring_in(settings, tmp_path / name, tmp_path / f"{name} again")
        assert (tmp_path / f"{name} again" / TRAINED_WEIGHTS).read_bytes() == trained.read_bytes()
    trained.write_bytes(trained.read_bytes()[:-1])
    before = tree(tmp_path)
    with pytest.raises(InvalidModel, match=r"trained\.safetensors is no whole file .*copy the model again"):
        bring_in(settings, package, tmp_path / "c")
    assert tree(tmp_path) == before
    trained.write_bytes(bytes(2000))
    small = settings.model_copy(update={"model_bytes_max": 1000})
    with pytest.raises(
        InvalidModel, match=r"trained\.safetensors has 1\.95 KiB, and weights of at most 1000 B"
    ):
        bring_in(small, package, tmp_path / "c")


def test_weights_that_are_not_those_of_the_package_are_refused(tmp_path, package, settings):
    right = hashlib.sha256((package / "weights.onnx").read_bytes()).hexdigest()
    other = small_network(weights=np.ones((2, 1, 3, 3, 3), np.float32))
    (package / "weights.onnx").write_bytes(other)
    found = hashlib.sha256(other).hexdigest()
    before = tree(tmp_path)
    reason = f"{right[:12]}, and its own with {found[:12]}; copy the model again, or correct the checksum"
    with pytest.raises(InvalidModel, match=f"whose checksum stands in the facts of the model: .* {reason}"):
        bring_in(settings, package, tmp_path / "model")
    (package / "voxelworks.json").unlink()
    (package / "rdf.yaml").write_text((package / "rdf.yaml").read_text().replace(right, "", 1))
    with pytest.raises(InvalidModel, match=f"whose checksum stands in the facts of the model: .* {reason}"):
        bring_in(settings, package, tmp_path / "model")
    zoo = ZOO.replace("opset_version: 17}", f"opset_version: 17, sha256: {right}}}")
    with pytest.raises(
        InvalidModel, match=f"whose checksum stands in rdf.yaml: that begins with {right[:12]}"
    ):
        bring_in(settings, zoo_package(tmp_path / "zoo", zoo), tmp_path / "model", **TOLD)
    assert {name for name in tree(tmp_path) if "zoo/" not in name} == set(before) - {
        "package/voxelworks.json"
    }


def test_weights_with_the_checksum_that_their_package_states_are_taken(tmp_path, settings):
    right = hashlib.sha256(small_network(patch=None)).hexdigest().upper()
    zoo = ZOO.replace("opset_version: 17}", f"opset_version: 17, sha256: {right}}}")
    bring_in(
        settings, zoo_package(tmp_path / "zoo", zoo), tmp_path / "model", **TOLD, outputs="foreground,distance"
    )  # fmt: skip
    assert read_package(tmp_path / "model").facts.weights_sha256 == right.lower()


def test_a_zip_gives_the_same_bytes(tmp_path, package, settings):
    (package / "test-output.npy").unlink()
    (tmp_path / "in").mkdir()
    shutil.copytree(package, tmp_path / "in" / "deep" / "package")
    archive = shutil.make_archive(str(tmp_path / "model"), "zip", tmp_path / "in")
    bring_in(settings, package, tmp_path / "a")
    bring_in(settings, archive, tmp_path / "b")
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_what_a_package_of_the_zoo_does_not_say_is_asked_for_and_taken_from_the_params(tmp_path, settings):
    zoo = zoo_package(tmp_path / "zoo")
    (zoo / "README.md").write_text("By others.")
    before = tree(tmp_path)
    with pytest.raises(InvalidModel, match=r"so must you: task \(what the network gives\); structure"):
        bring_in(settings, zoo, tmp_path / "model")
    with pytest.raises(InvalidModel, match=r"so must you: distance_scale_nm"):
        bring_in(settings, zoo, tmp_path / "model", task="instances", structure="mitochondria")
    with pytest.raises(
        InvalidModel, match="and this one inside, edge; say in outputs which channel is which"
    ):
        bring_in(settings, zoo, tmp_path / "model", **TOLD)
    assert tree(tmp_path) == before
    bring_in(
        settings, zoo, tmp_path / "model", **TOLD, outputs="foreground,distance", voxel_size_max="9,9,30",
        licence="CC0-1.0",
    )  # fmt: skip
    made = read_package(tmp_path / "model")
    assert made.facts == small_facts(
        title="Zoo network", description="Of the zoo.", modality="", licence="CC0-1.0", licence_text="",
        border=(3, 2, 1), voxel_size_min=VoxelSize(4, 4, 15),
        voxel_size_max=VoxelSize(9, 9, 30), training_data=(), citations=("Somebody 10.1/x",),
        weights_sha256=made.facts.weights_sha256, weights_bytes=made.facts.weights_bytes,
    )  # fmt: skip
    assert (made.folder / "original-README.md").read_text() == "By others."
    assert (made.folder / "original-rdf.yaml").read_text() == ZOO
    assert not list(made.folder.glob("*.pt"))


def test_a_model_for_non_commercial_use_alone_is_said_to_be_so(tmp_path, package, settings):
    zoo = zoo_package(tmp_path / "zoo", ZOO.replace("license: MIT", "license: CC-BY-NC-4.0"))
    told = {**TOLD, "outputs": "foreground,distance"}
    write_package(tmp_path / "ours", small_facts(is_commercial_use_allowed=False), small_network())
    for number, (source, params) in enumerate(
        [(zoo, told), (package, {"licence": "CC BY-NC-SA 3.0"}), (tmp_path / "ours", {"licence": "MIT"})]
    ):
        bring_in(settings, source, tmp_path / f"{number}", **params)
        made = read_package(tmp_path / f"{number}")
        assert not made.facts.is_commercial_use_allowed
        assert "Not for commercial use." in (made.folder / "README.md").read_text()


def test_weights_alone_are_described_by_the_params(tmp_path, settings):
    (tmp_path / "net.onnx").write_bytes(small_network(channels=3))
    bring_in(
        settings, tmp_path / "net.onnx", tmp_path / "neurons", task="affinities", structure="neurons",
        voxel_size="8,8,8", offsets="1,0,0; 0,1,0;0,0,-1", border="1,1,0", normalization="none",
    )  # fmt: skip
    facts = read_package(tmp_path / "neurons").facts
    assert (facts.title, facts.offsets, facts.outputs) == (
        "neurons",
        ((1, 0, 0), (0, 1, 0), (0, 0, -1)),
        ("affinity",) * 3,
    )
    assert (facts.patch, facts.border, facts.normalization.method) == (PATCH, (1, 1, 0), "none")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            ZOO.replace("zero_mean_unit_variance", "scale_range"),
            "prepared by scale_range, which is not done here",
        ),
        (ZOO.replace("id: probability", "postprocessing: [{id: sigmoid}]\n  id: p"), "changed by sigmoid"),
    ],
)
def test_steps_that_are_not_done_are_not_passed_over(tmp_path, settings, text, reason):
    with pytest.raises(InvalidModel, match=reason):
        bring_in(settings, zoo_package(tmp_path / "zoo", text), tmp_path / "model", **TOLD)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("params", "error", "reason"),
    [
        ({"patch": "8,8"}, InvalidParams, "'8,8' is not x,y,z in whole voxels"),
        ({"offsets": "1,0,0;;"}, InvalidParams, "not x,y,z"),
        ({"outputs": "a,,b"}, InvalidParams, "names no channels"),
        ({"patch": "16,8,4"}, InvalidModel, "the patch of the model has 16"),
        (
            {"task": "semantic", "outputs": "foreground"},
            InvalidModel,
            "gives 2 channels, and the facts of the model name 1",
        ),
        ({"border": "4,1,1"}, InvalidModel, "leaves no voxels"),
        ({"task": "affinities"}, InvalidModel, "2 outputs but 0 offsets|offsets"),
    ],
)
def test_wrong_params_are_refused_before_anything_is_written(
    tmp_path, package, settings, params, error, reason
):
    before = tree(tmp_path)
    with pytest.raises(error, match=reason):
        bring_in(settings, package, tmp_path / "model", **params)
    assert tree(tmp_path) == before


def test_refusals_leave_nothing_behind(tmp_path, package, settings):
    (tmp_path / "empty").mkdir()
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "weights.onnx").write_bytes(b"\x80\x04\x95" + bytes(30))
    weights = np.full((2, 1, 3, 3, 3), np.nan, np.float32)
    write_package(tmp_path / "nan", small_facts(), small_network(weights=weights))
    before = tree(tmp_path)
    for source, error, reason in (
        ("none", SourceNotFound, "there is nothing at"),
        ("empty", InvalidModel, "neither rdf.yaml nor an ONNX file, but nothing"),
        ("pickled", InvalidModel, "a pickle, which could run any program"),
        ("nan", InvalidModel, "no numbers"),
    ):
        with pytest.raises(error, match=reason):
            bring_in(settings, tmp_path / source, tmp_path / "model", **TOLD, voxel_size="8,8,30")
        assert tree(tmp_path) == before
    with pytest.raises(TargetExists):
        bring_in(settings, package, tmp_path / "empty")


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.path == "/moved.zip":
            self.send_response(302)
            self.send_header("Location", "/model.zip")
            self.end_headers()
        elif self.path == "/busy.zip":
            self.send_error(503)
        else:
            super().do_GET()


@pytest.fixture
def address(tmp_path):
    (tmp_path / "web").mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path / "web"))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_zip_is_fetched_from_an_address(tmp_path, package, settings, address):
    shutil.make_archive(str(tmp_path / "web" / "model"), "zip", package)
    before = tree(tmp_path)
    for name, error, reason in (
        ("moved.zip", InvalidInput, "only leads to '/model.zip'; give that address"),
        ("none.zip", InvalidInput, "there is no file at"),
        ("busy.zip", StorageFailed, "answers 503"),
    ):
        with pytest.raises(error, match=reason):
            bring_in(settings, f"{address}/{name}", tmp_path / "model")
    small = Settings(home=tmp_path / "home", model_bytes_max=100)
    with pytest.raises(InvalidInput, match="is larger than 400 B"):
        bring_in(small, f"{address}/model.zip", tmp_path / "model")
    work = {name for name in tree(tmp_path) if ".voxelworks" not in name}
    assert work == set(before)
    bring_in(settings, f"{address}/model.zip", tmp_path / "model")
    assert read_package(tmp_path / "model").facts == read_package(package).facts


def test_a_job_opens_models_by_folder_zip_and_name(tmp_path, package, settings):
    archive = shutil.make_archive(str(tmp_path / "zipped"), "zip", package)
    shutil.copytree(package, settings.models_dir / "mito")
    job = Job.__new__(Job)
    job.settings, job._resolver = settings, LocalResolver(settings.model_roots)
    opened = [job.open_model(ModelRef(text)) for text in (str(package), archive, "mito")]
    assert {model.facts for model in opened} == {read_package(package).facts}
    assert [model.folder.parent for model in opened[::2]] == [tmp_path, settings.models_dir]
    with pytest.raises(ModelNotFound, match=r"no model 'axons' on this machine; installed are .*mito"):
        job.open_model(ModelRef("axons"))
    (settings.models_dir / "mito" / "voxelworks.json").write_text(json.dumps({}))
    with pytest.raises(InvalidModel, match="title"):
        job.open_model(ModelRef("mito"))
