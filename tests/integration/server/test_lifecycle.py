"""The server as a process: start, signals, restart, and what it never loads."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from voxelworks.client import Client, ServerInfo, find_server, server_file
from voxelworks.errors import InvalidInput, ServerUnreachable
from voxelworks.server import serve
from voxelworks.settings import Settings
from voxelworks.testing.server import running_server

SERVE = """
import sys
from pathlib import Path
from voxelworks.settings import Settings
from voxelworks.server import serve
serve(
    Settings(home=Path(sys.argv[1]), port=0),
    on_ready=lambda info: print(info.model_dump_json(), flush=True),
    on_stop=lambda: print("stopping", flush=True),
)
print("ended", flush=True)
"""

ARRAY_LIBRARIES = (
    "numpy",
    "tensorstore",
    "numba",
    "tifffile",
    "imagecodecs",
    "PIL",
    "torch",
    "onnxruntime",
    "dask",
)

LOOK = """
import json, sys
from pathlib import Path
from voxelworks.client import Client
from voxelworks.settings import Settings
from voxelworks.testing.server import running_server
from voxelworks.workflows import workflows
import httpx

home = Path(sys.argv[1])
(home / "in").mkdir()
settings = Settings(home=home / "home", port=0, import_roots={"in": home / "in"})
seen = {}
with running_server(settings) as info, Client(info.url, info.token) as client:
    job = client.submit("convert", {"layers": [{"source": "root:in"}], "target": "t"})
    paths = ["/jobs", f"/jobs/{job.id}", "/datasets", "/workflows", "/browse?target=x&place=root:in", "/nothing"]
    paths += [f"/workflows/{name}/new" for name in workflows()]
    paths += ["/api/v1/openapi.json", "/api/v1/jobs", "/api/v1/workflows", "/api/v1/datasets", "/api/v1/roots"]
    with httpx.Client(base_url=info.url, headers={"Authorization": f"Bearer {info.token}"}) as browser:
        for path in paths:
            seen[path] = browser.get(path).status_code
print(json.dumps({"seen": seen, "loaded": sorted(name.partition(".")[0] for name in sys.modules)}))
"""


def start(home: Path) -> tuple[subprocess.Popen[str], ServerInfo]:
    process = subprocess.Popen([sys.executable, "-c", SERVE, str(home)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    return process, ServerInfo.model_validate_json(line)


def test_a_fresh_server_serves_every_page_without_any_array_library(tmp_path):
    answer = subprocess.run(
        [sys.executable, "-c", LOOK, str(tmp_path)], capture_output=True, text=True, check=True
    )
    told = json.loads(answer.stdout.splitlines()[-1])
    assert {path: status for path, status in told["seen"].items() if status != 200} == {"/nothing": 404}
    assert set(told["loaded"]) & set(ARRAY_LIBRARIES) == set()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_open_streams_and_the_server_with_status_0(tmp_path, number):
    process, info = start(tmp_path)
    headers = {"Authorization": f"Bearer {info.token}"}
    with httpx.stream("GET", f"{info.url}/jobs/live", headers=headers, timeout=30) as answer:
        lines = answer.iter_lines()
        next(lines)
        process.send_signal(number)
        for _ in lines:
            pass
    output, _ = process.communicate(timeout=20)
    assert (output, process.returncode) == ("stopping\nended\n", 0)
    assert not server_file(tmp_path).exists()


def test_a_killed_server_goes_on_where_it_was_and_the_worker_key_stays(tmp_path):
    (tmp_path / "in").mkdir()
    process, info = start(tmp_path / "home")
    with Client(info.url, info.token) as client:
        version = client.list_jobs().counts
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert find_server(Settings(home=tmp_path / "home")) == info
    again, info_again = start(tmp_path / "home")
    assert info_again.token != info.token
    assert find_server(Settings(home=tmp_path / "home")) == info_again
    with Client(info_again.url, info_again.token) as client:
        assert client.list_jobs().counts == version
    again.terminate()
    again.communicate(timeout=20)


def test_while_it_stops_the_server_still_answers_the_worker_it_waits_for(tmp_path):
    stop, answers = threading.Event(), []
    told: list[ServerInfo] = []

    def on_ready(info: ServerInfo) -> None:
        told.append(info)
        stop.set()

    def on_stop() -> None:
        answers.append(httpx.get(f"{told[0].url}/healthz").status_code)

    serve(Settings(home=tmp_path, port=0), on_ready=on_ready, on_stop=on_stop, stop=stop)
    assert answers == [200]


def test_an_error_of_whoever_waits_for_the_server_ends_it(tmp_path):
    def on_ready(_: ServerInfo) -> None:
        raise RuntimeError("the demo failed")

    with pytest.raises(RuntimeError, match="the demo failed"):
        serve(Settings(home=tmp_path, port=0), on_ready=on_ready)
    assert not server_file(tmp_path).exists()


def test_a_used_port_is_refused_by_name(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InvalidInput, match=f"cannot listen on 127.0.0.1:{port}"):
            serve(Settings(home=tmp_path, port=port))


def test_the_reaper_runs_inside_the_server(tmp_path):
    """A worker that was never heard from again loses its job to the queue, without anybody asking."""
    from voxelworks.testing.server import PretendWorker

    (tmp_path / "in").mkdir()
    settings = Settings(
        home=tmp_path / "home", port=0, import_roots={"in": tmp_path / "in"},
        lease_s=0.3, renew_s=0.1, reap_every_s=0.1, backoff_base_s=60, lost_leases_max=1,
    )  # fmt: skip
    with running_server(settings) as info, Client(info.url, info.token) as client:
        job = client.submit("convert", {"layers": [{"source": "root:in"}], "target": "t"})
        worker = PretendWorker.join(info, settings)
        with worker.client:
            worker.claim()
            states = [view.state for view in client.watch(job.id)]
    assert states[-1] == "failed"


def test_no_server_is_said_plainly(tmp_path):
    with pytest.raises(ServerUnreachable, match="no server runs in"):
        find_server(Settings(home=tmp_path))


def test_a_server_does_not_remove_the_announcement_of_a_later_one(tmp_path):
    later = ServerInfo(url="http://127.0.0.1:1", token="later", pid=os.getpid())
    with running_server(Settings(home=tmp_path, port=0)):
        server_file(tmp_path).write_text(later.model_dump_json())
    assert ServerInfo.read(server_file(tmp_path)) == later
