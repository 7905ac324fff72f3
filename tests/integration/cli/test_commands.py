"""The command line, as a person uses it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType

import psutil
import pytest

from voxelworks.cli._server import only_server_of
from voxelworks.client import ServerInfo, server_file
from voxelworks.settings import Settings

SAMPLE = Path(str(files("voxelworks") / "sample"))
HEAVY = (
    "numpy",
    "tensorstore",
    "numba",
    "tifffile",
    "imagecodecs",
    "fastapi",
    "sqlalchemy",
    "pydantic",
    "httpx",
    "rich",
)

Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def call(tmp_path: Path) -> Call:
    """Run the command in a folder and with a home of its own."""

    def run(
        *arguments: str, environment: Mapping[str, str] = MappingProxyType({})
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "voxelworks", *arguments], cwd=tmp_path, capture_output=True, text=True,
            env=os.environ | {"VOXELWORKS_HOME": str(tmp_path / "home")} | dict(environment), timeout=250, check=False,
        )  # fmt: skip

    return run


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, voxelworks.cli\n"
        "try:\n    voxelworks.cli.main(['--help'])\n"
        f"except SystemExit:\n    print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1] == "[]"


def test_the_version_is_told(call: Call) -> None:
    outcome = call("--version")
    assert (outcome.returncode, outcome.stdout.split()[0]) == (0, "voxelworks")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["fly"], 2, "error: No such command 'fly'. See `voxelworks --help`.\n"),
        (
            ["run", "fly"],
            2,
            (
                "error: there is no workflow 'fly'; installed are agglomerate, apply_mapping, "
                "compute_segment_index_file, compute_segment_statistics, convert, describe, downsample, "
                "downsample_volume_annotation, evaluate_segmentation, export_ome_zarr, export_tiff, "
                "export_training_box, find_largest_segment_id, import_model, import_training_labels, "
                "infer_instances, infer_mitochondria, infer_neurons, infer_nuclei, infer_with_model, "
                "materialize_volume_annotation, train_instance_model, train_neuron_model\n"
            ),
        ),
        (
            ["run", "downsample", "--dataset", "ds"],
            2,
            "error: Missing option '--layer'. See `voxelworks run downsample --help`.\n",
        ),
        (
            ["run", "convert", "--source", "nothing", "--target", "ds", "--voxel-size", "1,2"],
            2,
            "error: voxel_size: '1,2' is not a voxel size; write x,y,z in nanometres, such as 4,4,40\n",
        ),
        (
            ["jobs", "list", "--server", "http://127.0.0.1:9"],
            2,
            "error: server http://127.0.0.1:9: its token is missing; give --token, or set VOXELWORKS_TOKEN\n",
        ),
        (
            ["serve", "--host", "0.0.0.0"],
            2,
            (
                "error: host '0.0.0.0' is reached from other machines: that needs VOXELWORKS_PUBLIC_URL=https://NAME, "
                "and either VOXELWORKS_TLS_CERTIFICATE and VOXELWORKS_TLS_KEY, or a proxy that ends TLS, named in "
                "VOXELWORKS_TRUSTED_PROXIES. For yourself alone use 127.0.0.1, and reach it from elsewhere through "
                "`ssh -L 8440:127.0.0.1:8440 HOST`\n"
            ),
        ),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_status(
    call, arguments: list[str], status: int, message: str
) -> None:
    outcome = call(*arguments)
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (status, "", message)


def test_no_server_is_said_so(call: Call, tmp_path: Path) -> None:
    outcome = call("jobs", "list")
    assert outcome.returncode == 4
    assert outcome.stderr.startswith(f"error: no server runs in {tmp_path / 'home'}; start one")


def test_json_is_the_only_thing_on_standard_output(call: Call) -> None:
    made = call(
        "run", "convert", "--source", str(SAMPLE / "labels"), "--target", "ds", "--voxel-size", "10,10,10",
        "--layer-name", "segmentation", "--category", "segmentation",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    found = call("run", "find_largest_segment_id", "--dataset", "ds", "--layer", "segmentation", "--json")
    assert json.loads(found.stdout) == {
        "dataset": "ds",
        "layer": "segmentation",
        "largest_segment_id": 135620,
    }


def test_the_doctor_finds_this_machine_well(call: Call) -> None:
    outcome = call("doctor", "--json")
    report = json.loads(outcome.stdout)
    assert (outcome.returncode, report["ok"]) == (0, True)
    assert [finding for finding in report["findings"] if finding["status"] == "problem"] == []


def test_the_doctor_says_if_the_home_cannot_be_written(call: Call, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    outcome = call("doctor", "--home", str(tmp_path / "file" / "home"))
    assert outcome.returncode == 1
    assert f"{tmp_path / 'file' / 'home'} cannot be written: Not a directory" in outcome.stdout


def test_the_doctor_names_a_database_that_does_not_answer(call: Call) -> None:
    environment = {"VOXELWORKS_DATABASE_URL": "postgresql+psycopg://nobody:secret@127.0.0.1:9/none"}
    outcome = call("doctor", "--json", environment=environment)
    report = json.loads(outcome.stdout)
    database = next(finding for finding in report["findings"] if finding["name"] == "database")
    assert (outcome.returncode, database["status"]) == (1, "problem")
    assert "secret" not in outcome.stdout


def test_a_second_server_is_kept_away_from_the_same_home(call: Call, tmp_path: Path) -> None:
    home = tmp_path / "home"
    first = subprocess.Popen(
        [sys.executable, "-m", "voxelworks", "serve", "--home", str(home), "--port", "0"], cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while ServerInfo.read(server_file(home)) is None and time.monotonic() < deadline:
            time.sleep(0.05)
        second = call("serve", "--port", "0")
        assert (second.returncode, second.stderr) == (
            2,
            f"error: a server runs in {home} already; stop it first, or choose another --home\n",
        )
        submitted = call("jobs", "submit", "convert", "--source", "root:scope/x", "--target", "ds")
        assert submitted.returncode == 2
        assert "there is no import root 'scope'" in submitted.stderr
        listed = call("jobs", "list")
        assert listed.stdout == "No jobs. Submit one with `voxelworks jobs submit`.\n"
        found = call("jobs", "list", "--text", "nothing")
        assert found.stdout == "No job is like that.\n"
    finally:
        first.send_signal(signal.SIGINT)
        printed, _ = first.communicate(timeout=60)
    assert first.returncode == 0, printed
    assert server_file(home).exists() is False
    assert "/?token=" in printed


def test_a_worker_that_dies_is_started_again_and_ends_with_its_server(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "voxelworks", "serve", "--home", str(tmp_path), "--port", "0"]
    with (
        (tmp_path / "output").open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=output) as server,
    ):
        try:
            first = worker_of(server.pid)
            first.kill()
            second = worker_of(server.pid, other_than=first.pid)
        finally:
            server.kill()
    second.wait(60)
    assert not second.is_running()


def worker_of(server: int, *, other_than: int = 0) -> psutil.Process:
    """Wait for the embedded worker of a server."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for child in psutil.Process(server).children():
            if (
                child.pid != other_than
                and child.status() != psutil.STATUS_ZOMBIE
                and "worker" in child.cmdline()
            ):
                return child
        time.sleep(0.05)
    raise AssertionError("no worker was started")


@pytest.mark.parametrize(("options", "status"), [(["--once"], 1), ([], 2)])
def test_a_demo_that_cannot_begin_fails_like_one_whose_jobs_fail_if_it_runs_once(
    call: Call, tmp_path: Path, options: list[str], status: int
) -> None:
    home = tmp_path / "voxelworks-demo"
    with only_server_of(Settings(home=home)):
        outcome = call("demo", *options)
    assert (outcome.returncode, outcome.stderr) == (
        status,
        f"error: a server runs in {home} already; stop it first, or choose another --home\n",
    )


def test_the_demo_runs_and_runs_again(call: Call, tmp_path: Path) -> None:
    first, second = call("demo", "--once"), call("demo", "--once", "--port", "0")
    assert (first.returncode, second.returncode) == (0, 0), (
        first.stdout + first.stderr + second.stdout + second.stderr
    )
    datasets = tmp_path / "voxelworks-demo" / "datasets" / "local"
    assert sorted(path.name for path in datasets.iterdir() if path.name[0] != ".") == [
        "fly-brain",
        "fly-brain-2",
    ]
    assert "largest id 135620" in first.stdout
    properties = json.loads((datasets / "fly-brain-2" / "datasource-properties.json").read_text())
    assert [layer["name"] for layer in properties["dataLayers"]] == ["color", "segmentation"]
